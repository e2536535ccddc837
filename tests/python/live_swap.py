#!/usr/bin/env python3
"""Everything that the live swap check needs, in one command: cartridges, a server, streams, swaps, figures.

    python tests/python/live_swap.py target/release/cart MODEL.gguf

Makes a store in a temporary folder with

* `one`: the model as it is,
* `two`: the same with three norms scaled, so that it answers otherwise,
* `broken`: another such variant, one blob of which has a wrong byte,

serves `one` on a free port of the loopback, and runs `openai_swap.py` (beside this file) against it: concurrent
streams through the `openai` client while the server is swapped to and fro. Prints that script's report, and ends
with its exit code: 0 only if no stream was dropped or garbled and the broken cartridge was refused.

Needs `gguf`, `numpy` and `openai` from PyPI. The model must have the norms named in VARIANTS as f32 tensors
(SmolLM2-135M has).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf

FACTOR = 1.6
VARIANTS = {
    "two": ["blk.29.ffn_norm.weight", "blk.20.attn_norm.weight", "blk.12.ffn_norm.weight"],
    "broken": ["blk.28.ffn_norm.weight", "blk.19.attn_norm.weight", "blk.11.ffn_norm.weight"],
}


def main() -> int:
    args = parse_args()
    with tempfile.TemporaryDirectory(prefix="cart-live-swap-") as name:
        folder = Path(name)
        cart = Cart(args.cart, folder / "store")
        print(f"packing {args.model.name} and two variants", file=sys.stderr)
        cart.run("pack", args.model, "-t", "one")
        for variant, tensors in VARIANTS.items():
            path = make_variant(args.model, folder / f"{variant}.gguf", tensors)
            cart.run("pack", path, "-t", variant)
            path.unlink()
        damage(cart, "broken", VARIANTS["broken"][0])
        with Server(cart, "one") as server:
            return check(server, args)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cart", type=Path, help="the binary, such as target/release/cart")
    parser.add_argument("model", type=Path, help="a GGUF file, such as SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--in-flight", choices=["finish", "boundary"], default="finish")
    return parser.parse_args()


class Cart:
    """The binary with a store of its own."""

    def __init__(self, binary: Path, store: Path) -> None:
        self.binary = str(binary.resolve())
        self.store = store

    def command(self, *arguments: object) -> list[str]:
        return [self.binary, "--store", str(self.store), *map(str, arguments)]

    def run(self, *arguments: object) -> str:
        done = subprocess.run(self.command(*arguments), text=True, stdout=subprocess.PIPE)
        if done.returncode != 0:
            raise SystemExit(f"cart {' '.join(map(str, arguments))} failed with {done.returncode}")
        return done.stdout


class Server:
    """`cart serve` on a free port; asked to end when left."""

    def __init__(self, cart: Cart, ref: str) -> None:
        command = cart.command("serve", ref, "--listen", "127.0.0.1:0")
        self.process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE)

    def __enter__(self) -> str:
        line = self.process.stdout.readline()
        words = [word for word in line.split() if word.startswith("http://")]
        if not words:
            raise SystemExit(f"the server did not say where it listens: {line!r}")
        return words[0]

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)


def make_variant(model: Path, path: Path, tensors: list[str]) -> Path:
    """A copy of the model with some tensors scaled in place."""
    shutil.copyfile(model, path)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path, "r+").tensors}
    for name in tensors:
        if name not in found or found[name].tensor_type != gguf.GGMLQuantizationType.F32:
            raise SystemExit(f"{model.name} has no f32 tensor {name}, so no variant can be made of it")
        values = found[name].data
        values *= FACTOR
        values.flush()
    return path


def damage(cart: Cart, ref: str, tensor: str) -> None:
    """Changes a byte of the tensor's blob on the disk. The name must be that in the manifest."""
    manifest = json.loads(cart.run("--json", "inspect", ref))["manifest"]
    entries = json.loads((cart.store / "blobs/sha256" / manifest).read_bytes())["model"]["tensors"]
    path = cart.store / "blobs/sha256" / entries[tensor]["blob"]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    # In a file of its own: the blob may be shared with what it was packed from.
    path.unlink()
    path.write_bytes(content)


def check(url: str, args: argparse.Namespace) -> int:
    script = Path(__file__).with_name("openai_swap.py")
    options = ["--streams", args.streams, "--swaps", args.swaps, "--tokens", args.tokens]
    options += ["--in-flight", args.in_flight, "--damaged", "broken"]
    command = [sys.executable, script, url, "one", "two", *options]
    return subprocess.run([str(part) for part in command]).returncode


if __name__ == "__main__":
    sys.exit(main())
