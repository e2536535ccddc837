"""Drives mistral.rs, from its Python wheel, through one job of `cart bench engine`.

Arguments: MODEL THREADS JOB PROMPT; the protocol is in README.md beside this file.
It takes text, not token ids, and reports its own times: the text of the plan stands for the same tokens.
"""

import json
import os
import sys
import time

MODEL, JOB, PLAN = sys.argv[1], sys.argv[3], json.load(open(sys.argv[4]))
os.environ.update(RAYON_NUM_THREADS=sys.argv[2], HF_HUB_OFFLINE="1", RUST_LOG="off", MKL_NUM_THREADS=sys.argv[2])
import importlib.metadata  # noqa: E402  (the thread count is read when the module is loaded)

import mistralrs  # noqa: E402


def say(**line):
    print(json.dumps(line), flush=True)


folder, name = os.path.split(os.path.abspath(MODEL))
runner = mistralrs.Runner(
    which=mistralrs.Which.GGUF(quantized_model_id=folder, quantized_filename=name),
    max_seqs=PLAN["sessions"],
    prefix_cache_n=0,
)
say(event="engine", engine="mistral.rs", version=importlib.metadata.version("mistralrs"))


def usage(text, count):
    request = mistralrs.CompletionRequest(
        prompt=text, model="default", max_tokens=count, temperature=0.0, top_k=1, ignore_eos=True
    )
    return runner.send_completion_request(request).usage


if JOB == "first":
    usage(PLAN["text"]["prompt"], 1)
    say(event="first")
elif JOB == "short":
    usage(PLAN["text"]["prompt"], 4)
    seen = usage(PLAN["text"]["prefill"], 1)
    say(event="measure", what="prefill", tokens=seen.prompt_tokens, seconds=seen.total_prompt_time_sec)
    seen = usage(PLAN["text"]["prompt"], PLAN["decode"])
    say(event="measure", what="decode", tokens=seen.completion_tokens, seconds=seen.total_completion_time_sec)
else:
    say(event="absent", job=JOB)
say(event="done")
sys.stdin.read()
