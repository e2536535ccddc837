#!/usr/bin/env python3
"""Packs, verifies and exports one 540 MB f32 model with cart and with its rivals, in turn, and prints ratios.

    cargo build --release -p cart-cli
    python3 -m venv target/bench-venv
    target/bench-venv/bin/pip install numpy==2.4.6 tensorfs==0.17.2 reminis==0.34.0
    apt-get install restic                      # or without: it is left out
    target/bench-venv/bin/python crates/cart-store/benches/rivals.py target/release/cart [--rounds 5] [--json FILE]

Each round runs every tool once, on an empty store, after `sync`; the source is in the page cache. The figure is the
median of the rounds; the ratio is the median of the rounds' own ratios to cart. Peak memory is the largest resident set
of the process (wait4).
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

HIDDEN, LAYERS, INTERMEDIATE, KV, VOCAB = 576, 30, 1536, 192, 49152


def make_model(path):
    """A safetensors file with SmolLM2-135M's shapes and normal random f32 weights."""
    import numpy

    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        base = f"model.layers.{layer}."
        shapes |= {
            base + "input_layernorm.weight": (HIDDEN,),
            base + "post_attention_layernorm.weight": (HIDDEN,),
            base + "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            base + "self_attn.k_proj.weight": (KV, HIDDEN),
            base + "self_attn.v_proj.weight": (KV, HIDDEN),
            base + "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
            base + "mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
            base + "mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
            base + "mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
        }
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(numpy.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    chance = numpy.random.default_rng(7)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            file.write(chance.standard_normal(shape, dtype=numpy.float32).tobytes())
    return end


def measure(command, environment=None):
    """Wall seconds and peak resident bytes of a command that must succeed."""
    os.sync()
    start = time.perf_counter()
    process = subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )
    stderr = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"{command}: {stderr.decode(errors='replace')}")
    return seconds, usage.ru_maxrss * 1024


def cart(binary, model, scratch):
    store = ["--store", scratch / "cart"]
    yield "pack", measure([binary, *store, "pack", model, "-t", "m"])
    yield "verify", measure([binary, *store, "verify", "m"])
    yield "export", measure([binary, *store, "export", "m", "--as", "safetensors", "-o", scratch / "m.safetensors"])


def tensorfs(_, model, scratch):
    tool = pathlib.Path(sys.executable).with_name("tfs")
    store = ["--store", scratch / "tensorfs"]
    yield "pack", measure([tool, *store, "import", model, "--name", "local/m"])
    yield "verify", measure([tool, *store, "verify", "local/m"])
    yield "export", measure([tool, *store, "export", "local/m", scratch / "tensorfs-out", "--safetensors"])


def reminis(_, model, scratch):
    tool = pathlib.Path(sys.executable).with_name("reminis")
    yield "pack", measure([tool, "convert", model, "-q", "-o", scratch / "m.db"])
    yield "export", measure([tool, "export", scratch / "m.db", "-o", scratch / "reminis.safetensors"])


def restic(_, model, scratch):
    if shutil.which("restic") is None:
        return
    secret = {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(scratch / "restic-cache")}
    repository = ["-r", scratch / "restic"]
    measure(["restic", *repository, "init"], secret)
    yield "pack", measure(["restic", *repository, "backup", model], secret)
    yield "verify", measure(["restic", *repository, "check", "--read-data"], secret)


TOOLS = {"cart": cart, "tensorfs": tensorfs, "reminis": reminis, "restic": restic}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    if len(sys.argv) == 3 and sys.argv[1] == "--make":
        print(make_model(sys.argv[2]))
        return
    arguments.add_argument("cart")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--json")
    arguments = arguments.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory(dir=".") as directory:
        model = pathlib.Path(directory).resolve() / "model.safetensors"
        # In a process of its own: a child's peak memory starts from its parent's.
        size = int(subprocess.check_output([sys.executable, __file__, "--make", model]))
        for number in range(arguments.rounds):
            seen = {}
            for name, tool in TOOLS.items():
                scratch = model.parent / f"{number}-{name}"
                scratch.mkdir()
                for step, figures in tool(pathlib.Path(arguments.cart).resolve(), model, scratch):
                    seen[name, step] = figures
                shutil.rmtree(scratch)
            rounds.append(seen)
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
    rows = []
    for key in dict.fromkeys(key for seen in rounds for key in seen):
        name, step = key
        rows.append(
            {
                "tool": name,
                "step": step,
                "seconds": statistics.median(seen[key][0] for seen in rounds),
                "times_cart": statistics.median(seen[key][0] / seen["cart", step][0] for seen in rounds),
                "peak_mb": max(seen[key][1] for seen in rounds) / 1e6,
            }
        )
    print(f"\nmodel: {size / 1e6:.0f} MB f32, {arguments.rounds} rounds\n")
    print("| step | tool | median s | × cart | peak MB |\n|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (["pack", "verify", "export"].index(row["step"]), row["times_cart"])):
        print(f"| {row['step']} | {row['tool']} | {row['seconds']:.2f} | {row['times_cart']:.2f} | {row['peak_mb']:.0f} |")
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n")


main()
