"""Packs models and what turns one into another with cart and others, in one run: sizes and times.

    python scripts/rivals/delta.py install DIR            lmzip, zipnn, reminis and numpy, into an environment of their own
    python scripts/rivals/delta.py models DIR TYPE        a and b, TYPE bf16 or f32: SmolLM2-135M's shapes, drawn weights, a fine-tuned copy
    python scripts/rivals/delta.py plain DIR CART [N]     one model alone: cart, lmzip, zipnn; best of N in turns
    python scripts/rivals/delta.py delta DIR CART [N]     from a to b: cart, reminis, xdelta3, a copy; and applying it
    python scripts/rivals/delta.py zstd DIR CART          zstd -19 of b

Weights are normal, with a scale for each row (log-normal, 0.3) and for each kind of tensor; the copy has a normal change of a five-hundredth of
a tensor's deviation in all matrices but the embedding, of which a fifth of the rows changed, and in norms. Give DIR on a file system in memory, to
measure work and not the disk. xdelta3 and zstd are the system's. cart reads from its store and verifies what it reads, reminis reads its databases
(both made before, not timed); of zipnn, seconds are without the time that Python takes to import it. zstd -19, xdelta3 and copies run once.
Processor seconds are of all threads together, and say more than seconds where a machine has other work to do.
"""

import json
import os
import subprocess
import sys
import time
import venv
from pathlib import Path

PACKAGES = ["lmzip==1.3.0", "zipnn==0.5.4", "reminis==0.34.0", "safetensors", "numpy", "torch"]
THREADS = os.cpu_count()


def python(folder):
    return folder / "venv/bin/python"


def install(folder):
    venv.create(folder / "venv", with_pip=True)
    subprocess.run([python(folder), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)


def shapes():
    yield "model.embed_tokens.weight", (49152, 576), 0.1
    for layer in range(30):
        at = f"model.layers.{layer}."
        yield at + "self_attn.q_proj.weight", (576, 576), 0.08
        yield at + "self_attn.k_proj.weight", (192, 576), 0.08
        yield at + "self_attn.v_proj.weight", (192, 576), 0.04
        yield at + "self_attn.o_proj.weight", (576, 576), 0.04
        yield at + "mlp.gate_proj.weight", (1536, 576), 0.06
        yield at + "mlp.up_proj.weight", (1536, 576), 0.05
        yield at + "mlp.down_proj.weight", (576, 1536), 0.05
        yield at + "input_layernorm.weight", (576,), 0.2
        yield at + "post_attention_layernorm.weight", (576,), 0.2
    yield "model.norm.weight", (576,), 0.5


def stored(values, kind):
    """Values as bytes of a type, rounded to nearest, ties to even."""
    import numpy as np

    if kind == "f32":
        return values.tobytes()
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()


def models(folder, kind):
    import numpy as np

    chance = np.random.default_rng(1)
    entries, end, parts = {}, 0, {"a": [], "b": []}
    for name, shape, size in shapes():
        draw = lambda *axes: chance.standard_normal(axes, dtype=np.float32)
        values = draw(*shape) * np.float32(size)
        change = draw(*shape) * np.float32(size / 500)
        if len(shape) == 2:
            values *= np.exp(0.3 * draw(shape[0], 1), dtype=np.float32)
        else:
            values += 1
        if "embed" in name:
            change *= chance.random((shape[0], 1)) < 0.2
        parts["a"].append(stored(values, kind))
        parts["b"].append(stored((values + change).astype(np.float32), kind))
        start, end = end, end + len(parts["a"][-1])
        entries[name] = {"dtype": kind.upper(), "shape": list(shape), "data_offsets": [start, end]}
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    header += b" " * (-len(header) % 8)
    for name, bytes_of in parts.items():
        with open(folder / f"{name}.safetensors", "wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.writelines(bytes_of)


def run(*command):
    """Seconds, peak megabytes, what was said, and seconds of the processor."""
    began = time.perf_counter()
    child = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = child.stdout.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{command}: {said[-2000:]}")
    processor = usage.ru_utime + usage.ru_stime
    return time.perf_counter() - began, usage.ru_maxrss / 1024, said, processor


ZIPNN = """
import sys, time
from zipnn import ZipNN
kind, source, out, threads = sys.argv[1:]
data = open(source, "rb").read()
began, processor = time.perf_counter(), time.process_time()
packed = ZipNN(bytearray_dtype=kind, threads=int(threads)).compress(bytearray(data))
open(out, "wb").write(packed)
print(time.perf_counter() - began, time.process_time() - processor)
"""


def kind_of(file):
    head = open(file, "rb").read(4096)
    return "bfloat16" if b'"BF16"' in head else "float32"


class Rivals:
    def __init__(self, folder, cart):
        self.folder, self.cart, self.programs = folder, [cart, "--store", folder / "store", "--quiet"], folder / "venv/bin"
        self.best = {}
        for name in "ab":
            if subprocess.run([*map(str, self.cart), "inspect", name], capture_output=True).returncode:
                run(*self.cart, "pack", folder / f"{name}.safetensors", "-t", name)

    def file(self, name):
        return self.folder / name

    def note(self, who, seconds, peak, processor, size):
        before = self.best.get(who, (1e9, 0, 1e9, size))
        self.best[who] = (min(before[0], seconds), max(before[1], peak), min(before[2], processor), size)

    def timed(self, who, out, *command):
        out.unlink(missing_ok=True)
        seconds, peak, _, processor = run(*command)
        self.note(who, seconds, peak, processor, out.stat().st_size)

    def table(self, title, whole):
        own = self.best.get("cart")
        print(f"\n{title}\n\n| | bytes | share | seconds | times cart's | processor seconds | times cart's | peak MB |\n|---|---|---|---|---|---|---|---|")
        for who, (seconds, peak, processor, size) in self.best.items():
            share = f"{size:,} | {size / whole:.2%}" if size else "– | –"
            times = [f"{value / of:.2f}" if own else "–" for value, of in zip((seconds, processor), (own or self.best[who])[::2])]
            print(f"| {who} | {share} | {seconds:.2f} | {times[0]} | {processor:.2f} | {times[1]} | {peak:.0f} |", flush=True)
        self.best = {}


def plain(folder, cart, rounds):
    rivals, source = Rivals(folder, cart), folder / "b.safetensors"
    whole = source.stat().st_size
    for _ in range(rounds):
        out = rivals.file("b.cart")
        rivals.timed("cart", out, *rivals.cart, "export", "b", "-o", out, "--compress", "--force")
        out = rivals.file("b.lmz")
        rivals.timed("lmzip", out, rivals.programs / "lmz", "compress", "-q", "-f", source, out)
        out = rivals.file("b.znn")
        _, peak, said, _ = run(python(folder), "-c", ZIPNN, kind_of(source), source, out, THREADS)
        seconds, processor = map(float, said.split()[-2:])
        rivals.note("zipnn", seconds, peak, processor, out.stat().st_size)
    rivals.table(f"{kind_of(source)}, {whole:,} bytes, packed alone", whole)


def zstd(folder, cart, _rounds):
    rivals, source, out = Rivals(folder, cart), folder / "b.safetensors", folder / "b.zst"
    rivals.timed("zstd -19", out, "zstd", "-19", f"-T{THREADS}", "-q", "-f", source, "-o", out)
    rivals.table(f"{kind_of(source)}, {source.stat().st_size:,} bytes, packed alone", source.stat().st_size)


def delta(folder, cart, rounds):
    rivals = Rivals(folder, cart)
    a, b = folder / "a.safetensors", folder / "b.safetensors"
    whole = b.stat().st_size
    for name in "ab":
        if not rivals.file(f"{name}.db").exists():
            run(rivals.programs / "reminis", "convert", rivals.file(f"{name}.safetensors"), "-o", rivals.file(f"{name}.db"), "-q")
    out, pack, patch = rivals.file("d.cart"), rivals.file("d.pack"), rivals.file("d.xd3")
    for _ in range(rounds):
        rivals.timed("cart", out, *rivals.cart, "delta", "a", "b", "-o", out, "--force")
        rivals.timed("reminis", pack, rivals.programs / "reminis", "diff", rivals.file("a.db"), rivals.file("b.db"), "-o", pack, "-q")
    rivals.timed("xdelta3", patch, "xdelta3", "-e", "-f", "-B", 1 << 30, "-s", a, b, patch)
    rivals.timed("a copy", rivals.file("copy"), "cp", b, rivals.file("copy"))
    rivals.table(f"{kind_of(b)}, {whole:,} bytes: what turns a into b", whole)
    expected = json.loads(run(*rivals.cart, "--json", "inspect", "b")[2])["manifest"]
    fresh = [cart, "--store", folder / "fresh", "--quiet"]
    for _ in range(rounds):
        subprocess.run(["rm", "-rf", folder / "fresh"], check=True)
        run(*fresh, "pack", a, "-t", "a")
        seconds, peak, said, processor = run(*fresh, "--json", "apply", "a", out)
        if json.loads(said)["manifest"] != expected:
            sys.exit("cart apply gave another id")
        rivals.note("cart", seconds, peak, processor, 0)
        made = rivals.file("made.db")
        made.unlink(missing_ok=True)
        seconds, peak, _, processor = run(rivals.programs / "reminis", "apply", rivals.file("a.db"), pack, "-o", made, "-q")
        rivals.note("reminis", seconds, peak, processor, 0)
    seconds, peak, _, processor = run("xdelta3", "-d", "-f", "-B", 1 << 30, "-s", a, patch, rivals.file("copy"))
    rivals.note("xdelta3", seconds, peak, processor, 0)
    rivals.table(f"{kind_of(b)}: applying it (cart's result has the exact id: {expected[:12]})", whole)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    what, folder = sys.argv[1], Path(sys.argv[2]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if what == "install":
        return install(folder)
    if Path(sys.prefix).resolve() != (folder / "venv").resolve():
        os.execv(python(folder), [str(python(folder)), __file__, *sys.argv[1:]])
    if what == "models":
        return models(folder, sys.argv[3])
    rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 3
    if what in ("plain", "delta", "zstd"):
        return {"plain": plain, "delta": delta, "zstd": zstd}[what](folder, Path(sys.argv[3]).resolve(), rounds)
    sys.exit(__doc__)


main()
