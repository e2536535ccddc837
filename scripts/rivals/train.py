#!/usr/bin/env python3
"""Steps per second of training a small Llama, by PyTorch and by cart, on the same threads, in turns.

    cargo build --release -p cart-train --example steps
    train.py target/release/examples/steps [--threads 2] [--rounds 3] [--seconds 10]

Both make the same step: embedding (tied head), layers of RMS norm, rotated causal attention and a SiLU-gated
MLP, cross-entropy over all positions, gradients of everything, clipping to a norm of 1, AdamW. PyTorch uses
its fused attention (scaled_dot_product_attention) and its fused AdamW, which were the quicker ones. The
median of the rounds is told, for each side.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

LAYERS, HIDDEN, HEADS, INNER, CONTEXT, BATCH, VOCAB = 2, 128, 4, 352, 128, 16, 257
SPEC = f"layers={LAYERS},hidden={HIDDEN},heads={HEADS},intermediate={INNER},context={CONTEXT}"


def torch_side(threads, seconds):
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    head = HIDDEN // HEADS
    angles = torch.arange(CONTEXT)[:, None] * 10_000.0 ** (-torch.arange(0, head, 2) / head)
    cos, sin = angles.cos(), angles.sin()

    def rotate(x):
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            linear = lambda i, o: nn.Linear(i, o, bias=False)
            self.norm1, self.norm2 = nn.RMSNorm(HIDDEN, 1e-5), nn.RMSNorm(HIDDEN, 1e-5)
            self.qkv, self.out = linear(HIDDEN, 3 * HIDDEN), linear(HIDDEN, HIDDEN)
            self.gate, self.up, self.down = linear(HIDDEN, INNER), linear(HIDDEN, INNER), linear(INNER, HIDDEN)

        def forward(self, x):
            qkv = self.qkv(self.norm1(x)).view(BATCH, CONTEXT, 3, HEADS, head).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(rotate(qkv[0]), rotate(qkv[1]), qkv[2], is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(BATCH, CONTEXT, HIDDEN))
            h = self.norm2(x)
            return x + self.down(F.silu(self.gate(h)) * self.up(h))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(VOCAB, HIDDEN)
            self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
            self.norm = nn.RMSNorm(HIDDEN, 1e-5)

        def forward(self, tokens):
            x = self.embedding(tokens)
            for block in self.blocks:
                x = block(x)
            return self.norm(x) @ self.embedding.weight.T

    model = Model()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.02)
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    tokens = torch.randint(0, 256, (64, BATCH, CONTEXT + 1))

    def step(index):
        batch = tokens[index % 64]
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        adamw.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        return loss

    for index in range(3):
        step(index)
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        loss = step(steps)
        steps += 1
    took = time.perf_counter() - began
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({"steps_per_second": steps / took, "parameters": parameters, "loss": loss.item(),
                      "version": torch.__version__}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cart", nargs="?", help="the example `steps` of cart-train")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--torch-side", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.torch_side:
        return torch_side(args.threads, args.seconds)
    if not args.cart:
        parser.error("which cart? give the path of the example `steps`")
    threads = str(args.threads)
    environment = dict(os.environ, OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads, RAYON_NUM_THREADS=threads)
    sides = {
        "torch": [sys.executable, __file__, "--torch-side", "--threads", threads, "--seconds", str(args.seconds)],
        "cart": [args.cart, SPEC, str(BATCH), str(args.seconds)],
    }
    seen = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, command in sides.items():
            said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            seen[name].append(json.loads(said))
    speeds = {name: [one["steps_per_second"] for one in runs] for name, runs in seen.items()}
    medians = {name: statistics.median(of) for name, of in speeds.items()}
    print(json.dumps({
        "spec": SPEC, "batch": BATCH, "threads": args.threads, "rounds": speeds, "median": medians,
        "ratio": medians["cart"] / medians["torch"],
        "parameters": {name: runs[0]["parameters"] for name, runs in seen.items()},
        "torch": seen["torch"][0]["version"],
    }, indent=2))


if __name__ == "__main__":
    main()
