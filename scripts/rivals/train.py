#!/usr/bin/env python3
"""Steps per second of training, by PyTorch and by cart, on the same threads, in turns.

    cargo build --release -p cart-train --example steps
    train.py target/release/examples/steps [--jobs agent,memory,kept,distill] [--precisions f32,bf16] [--threads 2]
        [--rounds 3] [--seconds 10]

Both make the same steps on drawn weights and random tokens, in f32 and in bf16 (cart: products with weights, and their
gradients; PyTorch: what its autocast takes, which is attention too): gradients of everything that is trained,
clipping to a norm of 1, AdamW. PyTorch uses its fused attention (scaled_dot_product_attention) and its fused
AdamW, which were the quicker ones, and keeps no gradient where nothing is trained.

* agent: a small Llama (2 layers, width 128, vocabulary 257, 16 sequences of 128): embedding (tied head),
  layers of RMS norm, rotated causal attention and a SiLU-gated MLP, cross-entropy over all positions.
* memory: three layers of cross-attention to 32 stored states each (with a sink) beside layers 10, 18 and 26 of a
  frozen model of SmolLM2-135M's shape, 4 sequences of 32, all positions count. kept: the same, where what goes
  into the first of them was computed before, on both sides.
* distill: 12 of those 30 layers learn from the 64 best tokens and the rest of what all 30 predict (forward KL),
  2 sequences of 256.

The median of the rounds is told, for each side in each precision; all of them take turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

SMALL = dict(layers=2, width=128, heads=4, kv_heads=4, inner=352, vocabulary=257)
SMOL = dict(layers=30, width=576, heads=9, kv_heads=3, inner=1536, vocabulary=49_152)
SPEC = "layers=2,hidden=128,heads=4,intermediate=352,context=128"
BESIDE = (10, 18, 26)


def torch_side(job, precision, threads, seconds):
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    linear = lambda i, o: nn.Linear(i, o, bias=False)

    class Block(nn.Module):
        def __init__(self, width, heads, kv_heads, inner, **_):
            super().__init__()
            self.shape = (heads, kv_heads, width // heads)
            self.norm1, self.norm2 = nn.RMSNorm(width, 1e-5), nn.RMSNorm(width, 1e-5)
            self.qkv, self.out = linear(width, (heads + 2 * kv_heads) * self.shape[2]), linear(width, width)
            self.gate, self.up, self.down = linear(width, inner), linear(width, inner), linear(inner, width)

        def forward(self, x, cos, sin):
            rows, length, width = x.shape
            heads, kv_heads, head = self.shape
            qkv = self.qkv(self.norm1(x)).view(rows, length, heads + 2 * kv_heads, head).transpose(1, 2)
            q, k, v = qkv.split([heads, kv_heads, kv_heads], dim=1)

            def rotate(x):
                a, b = x.chunk(2, dim=-1)
                return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

            y = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True, enable_gqa=heads != kv_heads)
            x = x + self.out(y.transpose(1, 2).reshape(rows, length, width))
            h = self.norm2(x)
            return x + self.down(F.silu(self.gate(h)) * self.up(h))

    class Model(nn.Module):
        def __init__(self, layers, width, vocabulary, heads, **rest):
            super().__init__()
            self.embedding = nn.Embedding(vocabulary, width)
            self.blocks = nn.ModuleList(Block(width, heads, **rest) for _ in range(layers))
            self.norm = nn.RMSNorm(width, 1e-5)
            head = width // heads
            angles = torch.arange(512)[:, None] * 10_000.0 ** (-torch.arange(0, head, 2) / head)
            self.cos, self.sin = angles.cos(), angles.sin()

        def through(self, x, layers):
            length = x.shape[1]
            for layer in layers:
                x = self.blocks[layer](x, self.cos[:length], self.sin[:length])
            return x

        def logits(self, x):
            return self.norm(x) @ self.embedding.weight.T

        def forward(self, tokens):
            return self.logits(self.through(self.embedding(tokens), range(len(self.blocks))))

    class Beside(nn.Module):
        """Cross-attention to stored states: q · kᵀ and a sink that weighs as much as all rows with a score of it."""

        def __init__(self, width, heads, kv_heads, **_):
            super().__init__()
            self.shape = (heads, kv_heads, width // heads)
            self.norm = nn.RMSNorm(width, 1e-5)
            self.query, self.out = linear(width, width), linear(width, width)
            self.key, self.value = (linear(width, kv_heads * self.shape[2]) for _ in range(2))
            self.gate, self.sink = nn.Parameter(torch.full((1,), 0.3)), nn.Parameter(torch.full((heads,), -2.0))

        def forward(self, x, states):
            rows, length, width = x.shape
            heads, kv_heads, head = self.shape
            split = lambda x: x.view(rows, x.shape[1], -1, head).transpose(1, 2)
            none = torch.zeros(rows, kv_heads, 1, head)
            normed = self.norm(states)
            k = torch.cat([none, split(self.key(normed))], dim=2)
            v = torch.cat([none, split(self.value(normed))], dim=2)
            q = split(self.query(self.norm(x)))
            sink = (self.sink + torch.tensor(float(states.shape[1])).log()).view(1, heads, 1, 1)
            bias = torch.cat([sink, torch.zeros(1, heads, 1, states.shape[1])], dim=3).expand(rows, -1, length, -1)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=True)
            return x + self.out(y.transpose(1, 2).reshape(rows, length, width)) * self.gate.tanh()

    def drawn(shape):
        model = Model(**shape)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
        return model

    def agent():
        model = drawn(SMALL)
        tokens = torch.randint(0, 256, (64, 16, 129))
        loss = lambda batch: F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        return list(model.parameters()), lambda index: loss(tokens[index % 64])

    def memory(kept=False):
        model, layers = drawn(SMOL).requires_grad_(False), nn.ModuleList(Beside(**SMOL) for _ in BESIDE)
        tokens = torch.randint(0, SMOL["vocabulary"], (4 if kept else 64, 4, 33))
        states = torch.randn(len(tokens), 3, 4, 32, SMOL["width"])
        below = lambda batch: model.through(model.embedding(batch[:, :-1]), range(BESIDE[0]))
        known = [below(batch) for batch in tokens] if kept else None

        def loss(index):
            index %= len(tokens)
            x = known[index] if kept else below(tokens[index])
            for place, (layer, end) in enumerate(zip(BESIDE, (*BESIDE[1:], SMOL["layers"]))):
                x = model.through(layers[place](x, states[index][place]), range(layer, end))
            return F.cross_entropy(model.logits(x).flatten(0, 1), tokens[index][:, 1:].flatten())

        return list(layers.parameters()), loss

    def distill():
        teacher, student = drawn(SMOL).requires_grad_(False), drawn(dict(SMOL, layers=12))
        tokens = torch.randint(0, SMOL["vocabulary"], (64, 2, 257))

        def with_rest(logs, best):
            known = logs.gather(-1, best)
            return torch.cat([known, torch.log1p(-known.exp().sum(-1, keepdim=True).clamp(max=1 - 1e-6))], dim=-1)

        def loss(index):
            batch = tokens[index % 64][:, :-1]
            with torch.no_grad():
                logs = F.log_softmax(teacher(batch), dim=-1)
                best = logs.topk(64, dim=-1).indices
                said = with_rest(logs, best)
            own = with_rest(F.log_softmax(student(batch), dim=-1), best)
            return F.kl_div(own, said, reduction="sum", log_target=True) / batch.numel()

        return list(student.parameters()), loss

    made = {"agent": agent, "memory": memory, "kept": lambda: memory(kept=True), "distill": distill}
    parameters, loss = made[job]()
    adamw = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step(index):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            value = loss(index)
        adamw.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        adamw.step()
        return value

    for index in range(1 if job == "distill" else 3):
        step(index)
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        value = step(steps)
        steps += 1
    took = time.perf_counter() - began
    print(json.dumps({"steps_per_second": steps / took, "loss": value.item(), "version": torch.__version__}))


def cart_side(cart, job, precision, seconds):
    words = {
        "agent": ["agent", SPEC, "16", seconds],
        "memory": ["memory", seconds],
        "kept": ["memory", seconds, "16"],
        "distill": ["distill", seconds],
    }
    return [cart, precision, *words[job]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cart", nargs="?", help="the example `steps` of cart-train")
    parser.add_argument("--jobs", default="agent,memory,kept,distill")
    parser.add_argument("--precisions", default="f32,bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--torch-side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.torch_side:
        return torch_side(args.torch_side, args.precisions, args.threads, args.seconds)
    if not args.cart:
        parser.error("which cart? give the path of the example `steps`")
    threads, seconds = str(args.threads), str(args.seconds)
    environment = dict(os.environ, OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads, RAYON_NUM_THREADS=threads)
    for job in args.jobs.split(","):
        sides = {}
        for precision in args.precisions.split(","):
            own = ["--torch-side", job, "--precisions", precision, "--threads", threads, "--seconds", seconds]
            sides[f"torch {precision}"] = [sys.executable, __file__, *own]
            sides[f"cart {precision}"] = cart_side(args.cart, job, precision, seconds)
        seen = {name: [] for name in sides}
        for _ in range(args.rounds):
            for name, command in sides.items():
                said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
                seen[name].append(json.loads(said))
        speeds = {name: [one["steps_per_second"] for one in runs] for name, runs in seen.items()}
        medians = {name: statistics.median(of) for name, of in speeds.items()}
        print(json.dumps({
            "job": job, "threads": args.threads, "rounds": speeds, "median": medians,
            "losses": {name: runs[-1]["loss"] for name, runs in seen.items()},
            "torch": next(iter(seen.values()))[0]["version"],
        }), flush=True)


if __name__ == "__main__":
    main()
