"""Drives PyTorch and transformers, in bf16, through one job of `cart bench engine`.

Arguments: MODEL THREADS JOB PROMPT; the protocol is in README.md beside this file.
transformers expands the quantized tensors of the GGUF when it loads them.
"""

import json
import os
import sys
import time

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", OMP_NUM_THREADS=sys.argv[2])
import torch  # noqa: E402  (the thread count is read when it is imported)
import transformers  # noqa: E402

MODEL, THREADS, JOB, PLAN = sys.argv[1], int(sys.argv[2]), sys.argv[3], json.load(open(sys.argv[4]))
torch.set_num_threads(THREADS)
transformers.utils.logging.disable_progress_bar()


def say(**line):
    print(json.dumps(line), flush=True)


folder, name = os.path.split(os.path.abspath(MODEL))
model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.bfloat16).eval()
say(event="engine", engine="PyTorch + transformers, bf16", version=f"{torch.__version__}, {transformers.__version__}")


def forward(tokens, past):
    out = model(input_ids=tokens, past_key_values=past, use_cache=True, logits_to_keep=1)
    return out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values


def take(tokens):
    return forward(torch.tensor([tokens]), None)


def decode(state, count):
    token, past = state
    for _ in range(count):
        token, past = forward(token, past)


def timed(what, tokens, action):
    begun = time.perf_counter()
    result = action()
    say(event="measure", what=what, tokens=tokens, seconds=time.perf_counter() - begun)
    return result


ids = PLAN["ids"]
with torch.inference_mode():
    if JOB == "first":
        take(ids[: PLAN["prompt"]])
        say(event="first")
    elif JOB == "short":
        decode(take(ids[:64]), 4)
        timed("prefill", PLAN["prefill"], lambda: take(ids[: PLAN["prefill"]]))
        state = take(ids[: PLAN["prompt"]])
        timed("decode", PLAN["decode"], lambda: decode(state, PLAN["decode"]))
    elif JOB == "long":
        size, count = PLAN["long_prefill"], PLAN["long_decode"]
        state = timed("long_prefill", size, lambda: take(ids[:size]))
        timed("long_decode", count, lambda: decode(state, count))
    elif JOB == "many":
        lanes = PLAN["sessions"]
        prompts = [ids[lane * 8 : lane * 8 + PLAN["prompt"]] for lane in range(lanes)]
        state = forward(torch.tensor(prompts), None)
        timed("many_decode", lanes * PLAN["many_decode"], lambda: decode(state, PLAN["many_decode"]))
say(event="done")
sys.stdin.read()
