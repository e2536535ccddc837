#!/usr/bin/env python3
"""Swap cartridges under the `openai` client: many concurrent streams, each compared with its own generation.

A server must be running (`cart serve ONE`), and its store must hold two cartridges with different weights, and, for the
refusal, a damaged one:

    python tests/python/openai_swap.py http://127.0.0.1:8080 one two --damaged broken

First each cartridge answers every prompt alone, greedily. Then the streams run, again and again, while the server is
swapped to and fro. A part of a stream says in `system_fingerprint` which cartridge made it. With `finish` a stream must
be, character for character, what its cartridge gave alone; with `boundary`, what came before the first change of
fingerprint must begin the first cartridge's text, and the stream must end regularly.

Prints a JSON report, and exits with 1 where a stream was dropped or garbled, or the damaged cartridge was accepted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from dataclasses import dataclass, field

import openai

NAMES = ["Anna", "Ben", "Tom", "Mia", "Leo", "Eva", "Sam", "Ida"]
PLACES = ["the barn", "the river", "the school", "the market", "the old house"]


@dataclass
class Streamed:
    """What one stream gave."""

    prompt: str
    parts: list[tuple[str, str]] = field(default_factory=list)
    finish: str | None = None
    error: str | None = None
    first_token_s: float | None = None

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.parts)

    @property
    def fingerprints(self) -> list[str]:
        seen: list[str] = []
        for fingerprint, _ in self.parts:
            if not seen or seen[-1] != fingerprint:
                seen.append(fingerprint)
        return seen

    def text_of_first(self) -> str:
        first = self.parts[0][0]
        texts = []
        for fingerprint, text in self.parts:
            if fingerprint != first:
                break
            texts.append(text)
        return "".join(texts)


def main() -> None:
    args = parse_args()
    report = asyncio.run(run(args))
    print(json.dumps(report, indent=2))
    good = report["dropped"] == 0 and report["garbled"] == 0 and report["damaged_refused"] is not False
    sys.exit(0 if good and report["swaps"] == args.swaps else 1)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="the server, such as http://127.0.0.1:8080")
    parser.add_argument("one", help="the first cartridge, by the name that the server knows")
    parser.add_argument("two", help="the second cartridge")
    parser.add_argument("--damaged", help="a cartridge that must be refused")
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--in-flight", choices=["finish", "boundary"], default="finish")
    return parser.parse_args()


def prompt_of(index: int) -> str:
    return f"One day, {NAMES[index % len(NAMES)]} went to {PLACES[index % len(PLACES)]} {index} times."


async def run(args: argparse.Namespace) -> dict:
    client = openai.AsyncOpenAI(base_url=f"{args.url}/v1", api_key="none", max_retries=0, timeout=600)
    prompts = [prompt_of(index) for index in range(args.streams)]
    alone: dict[tuple[str, str], str] = {}
    for ref in (args.two, args.one):
        await swap(client, ref, "finish")
        for prompt in prompts:
            streamed = await stream(client, prompt, args.tokens)
            if streamed.error or len(streamed.fingerprints) != 1:
                raise SystemExit(f"{ref} alone can't answer {prompt!r}: {streamed.error}")
            alone[streamed.fingerprints[0], prompt] = streamed.text

    stop = asyncio.Event()
    began = time.monotonic()
    workers = [asyncio.create_task(keep_asking(client, prompt, args.tokens, stop)) for prompt in prompts]
    await asyncio.sleep(0.05)
    reports, damaged_refused = [], None
    for round_ in range(args.swaps):
        if args.damaged and round_ == args.swaps // 2:
            damaged_refused = await is_refused(client, args.damaged)
        reports.append(await swap(client, (args.two, args.one)[round_ % 2], args.in_flight))
    stop.set()
    streams = [streamed for worker in await asyncio.gather(*workers) for streamed in worker]
    return summary(args, streams, alone, reports, damaged_refused, time.monotonic() - began)


async def keep_asking(
    client: openai.AsyncOpenAI, prompt: str, tokens: int, stop: asyncio.Event
) -> list[Streamed]:
    streams = []
    while not streams or not stop.is_set():
        streams.append(await stream(client, prompt, tokens))
    return streams


async def stream(client: openai.AsyncOpenAI, prompt: str, tokens: int) -> Streamed:
    streamed = Streamed(prompt)
    began = time.monotonic()
    try:
        parts = await client.completions.create(
            model="any", prompt=prompt, max_tokens=tokens, temperature=0, stream=True
        )
        async for part in parts:
            choice = part.choices[0]
            if streamed.first_token_s is None:
                streamed.first_token_s = time.monotonic() - began
            streamed.parts.append((part.system_fingerprint, choice.text))
            streamed.finish = choice.finish_reason or streamed.finish
    except openai.OpenAIError as error:
        streamed.error = repr(error)
    return streamed


async def swap(client: openai.AsyncOpenAI, ref: str, in_flight: str) -> dict:
    body = {"ref": ref, "in_flight": in_flight}
    return await client.post("/../cart/swap", body=body, cast_to=dict[str, object])


async def is_refused(client: openai.AsyncOpenAI, ref: str) -> bool:
    try:
        await swap(client, ref, "finish")
    except openai.APIStatusError as error:
        return error.status_code == 422
    return False


def is_garbled(streamed: Streamed, alone: dict[tuple[str, str], str], in_flight: str) -> bool:
    expected = alone.get((streamed.fingerprints[0], streamed.prompt))
    if expected is None:
        return True
    if len(streamed.fingerprints) == 1:
        return streamed.text != expected
    return in_flight == "finish" or not expected.startswith(streamed.text_of_first())


def summary(
    args: argparse.Namespace,
    streams: list[Streamed],
    alone: dict[tuple[str, str], str],
    reports: list[dict],
    damaged_refused: bool | None,
    seconds: float,
) -> dict:
    whole = [one for one in streams if one.error is None and one.finish is not None and one.parts]
    garbled = [one for one in whole if is_garbled(one, alone, args.in_flight)]
    by_cartridge: dict[str, int] = {}
    for one in whole:
        key = "+".join(one.fingerprints)
        by_cartridge[key] = by_cartridge.get(key, 0) + 1
    first = sorted(one.first_token_s for one in whole if one.first_token_s is not None)
    pauses = [report["pause_ms"] for report in reports]
    texts_differ = sum(
        len({text for (_, prompt), text in alone.items() if prompt == one}) > 1
        for one in {prompt for _, prompt in alone}
    )
    return {
        "in_flight": args.in_flight,
        "concurrent": args.streams,
        "streams": len(streams),
        "dropped": len(streams) - len(whole),
        "garbled": len(garbled),
        "errors": sorted({one.error for one in streams if one.error})[:5],
        "examples_of_garbled": [
            {"prompt": one.prompt, "by": one.fingerprints, "text": one.text} for one in garbled[:3]
        ],
        "streams_by_cartridge": by_cartridge,
        "prompts_whose_texts_differ": texts_differ,
        "swaps": len(reports),
        "damaged_refused": damaged_refused,
        "streams_on_old": sum(report["streams_on_old"] for report in reports),
        "streams_moved": sum(report["streams_moved"] for report in reports),
        "pause_ms": {"median": statistics.median(pauses), "max": max(pauses)},
        "verify_ms_median": statistics.median(report["verify_ms"] for report in reports),
        "load_ms_median": statistics.median(report["load_ms"] for report in reports),
        "warm_ms_median": statistics.median(report["warm_ms"] for report in reports),
        "first_token_s": {"median": statistics.median(first), "max": first[-1]} if first else None,
        "seconds": round(seconds, 2),
    }


if __name__ == "__main__":
    main()
