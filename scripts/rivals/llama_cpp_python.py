"""Drives llama.cpp, as llama-cpp-python builds it here, through one job of `cart bench engine`.

Arguments: MODEL THREADS JOB PROMPT; the protocol is in README.md beside this file.
It calls the C functions directly, so that no Python sampler is timed.
"""

import ctypes
import json
import sys
import time

import llama_cpp as llama

MODEL, THREADS, JOB, PLAN = sys.argv[1], int(sys.argv[2]), sys.argv[3], json.load(open(sys.argv[4]))
BATCH = 512


def say(**line):
    print(json.dumps(line), flush=True)


@llama.llama_log_callback
def silent(_level, _text, _data):
    pass


llama.llama_log_set(silent, ctypes.c_void_p(0))
llama.llama_backend_init()
model = llama.llama_model_load_from_file(MODEL.encode(), llama.llama_model_default_params())
lanes = PLAN["sessions"] if JOB == "many" else 1
room = PLAN["long_prefill"] + PLAN["long_decode"] if JOB == "long" else PLAN["prefill"] + PLAN["decode"]
params = llama.llama_context_default_params()
params.n_ctx = (room + 64) * lanes
params.n_batch = params.n_ubatch = BATCH
params.n_seq_max = lanes
params.n_threads = params.n_threads_batch = THREADS
context = llama.llama_init_from_model(model, params)
memory = llama.llama_get_memory(context)
vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
batch = llama.llama_batch_init(BATCH, 0, 1)
greedy = llama.llama_sampler_init_greedy()

say(event="engine", engine="llama.cpp (llama-cpp-python)", version=llama.__version__)


def run(rows):
    """Takes rows of (token, position, lane, wants logits) in one pass."""
    batch.n_tokens = len(rows)
    for i, (token, position, lane, wanted) in enumerate(rows):
        batch.token[i] = token
        batch.pos[i] = position
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = lane
        batch.logits[i] = wanted
    if llama.llama_decode(context, batch) != 0:
        raise SystemExit("llama_decode failed")


def take(tokens, at, lane=0):
    last = len(tokens) - 1
    for start in range(0, len(tokens), BATCH):
        piece = range(start, min(start + BATCH, len(tokens)))
        run([(tokens[i], at + i, lane, i == last) for i in piece])
    return llama.llama_sampler_sample(greedy, context, -1)


def timed(what, tokens, action):
    begun = time.perf_counter()
    result = action()
    say(event="measure", what=what, tokens=tokens, seconds=time.perf_counter() - begun)
    return result


def decode(token, at, count):
    for step in range(count):
        token = take([token], at + step)


def many(tokens):
    for step in range(PLAN["many_decode"]):
        run([(token, PLAN["prompt"] + step, lane, True) for lane, token in enumerate(tokens)])
        tokens = [llama.llama_sampler_sample(greedy, context, lane) for lane in range(lanes)]


ids = PLAN["ids"]
if JOB == "first":
    take(ids[: PLAN["prompt"]], 0)
    say(event="first")
elif JOB == "short":
    decode(take(ids[:64], 0), 64, 4)
    llama.llama_memory_clear(memory, True)
    timed("prefill", PLAN["prefill"], lambda: take(ids[: PLAN["prefill"]], 0))
    llama.llama_memory_clear(memory, True)
    token = take(ids[: PLAN["prompt"]], 0)
    timed("decode", PLAN["decode"], lambda: decode(token, PLAN["prompt"], PLAN["decode"]))
elif JOB == "long":
    size, count = PLAN["long_prefill"], PLAN["long_decode"]
    token = timed("long_prefill", size, lambda: take(ids[:size], 0))
    timed("long_decode", count, lambda: decode(token, size, count))
elif JOB == "many":
    starts = [take(ids[lane * 8 : lane * 8 + PLAN["prompt"]], 0, lane) for lane in range(lanes)]
    timed("many_decode", lanes * PLAN["many_decode"], lambda: many(starts))
say(event="done")
sys.stdin.read()
