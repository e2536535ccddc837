"""Merges the same checkpoints with cart, mergekit and reminis, and compares results, times and memory.

    python scripts/rivals/merge.py install DIR           an environment of its own with mergekit and reminis
    python scripts/rivals/merge.py models DIR GGUF       three float checkpoints: the model, and two with seeded changes
    python scripts/rivals/merge.py compare DIR CART [METHOD…]   how far results are apart (needs about 6 GB in DIR)
    python scripts/rivals/merge.py time DIR CART [N]     linear, slerp, ties, della: best of N in turns, and peak memory

Give DIR on a file system in memory to measure work and not the disk. CART is the binary. mergekit runs through its command, in
float32; results are compared in units in the last place of the output type at the largest magnitude that went into an element (of a, b, c
and the result), with mergekit's code in float64 beside it, as mergekit's own sums in float32 depend on its threads. Which of equal elements
its sorts put first is not defined; where they decide what is kept, results are compared with its code over stable sorts too.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

PACKAGES = ["mergekit==0.1.5", "reminis==0.34.0", "torch", "transformers>=5,<6", "gguf", "safetensors"]
NAMES = ("a", "b", "c")


def python(folder):
    return folder / "venv/bin/python"


def install(folder):
    venv.create(folder / "venv", with_pip=True)
    subprocess.run([python(folder), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)


def models(folder, gguf):
    import torch
    import transformers

    path, name = os.path.split(os.path.abspath(gguf))
    model = transformers.AutoModelForCausalLM.from_pretrained(path, gguf_file=name, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, gguf_file=name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for seed, name in enumerate(NAMES):
        other = transformers.AutoModelForCausalLM.from_config(model.config).float()
        other.load_state_dict(model.state_dict())
        chance = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in other.parameters() if seed else ():
                noise = torch.randn(parameter.shape, generator=chance)
                parameter += noise * (parameter.std() * 0.1 if parameter.dim() > 1 else 1e-2)
        other.generation_config = model.generation_config
        other.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


# Method, models but the base, whether a is the base, parameters of models, parameters of all.
CASES = {
    "linear": (["a", "b"], False, {"weight": 0.6}, {}),
    "slerp": (["a", "b"], True, {}, {"t": 0.4}),
    "nuslerp": (["b", "c"], False, {"weight": 0.6}, {}),
    "multislerp": (["a", "b", "c"], False, {"weight": 0.6}, {}),
    "karcher": (["a", "b", "c"], False, {}, {}),
    "task_arithmetic": (["b", "c"], True, {"weight": 0.6}, {}),
    "ties": (["b", "c"], True, {"weight": 0.6, "density": 0.3}, {}),
    "breadcrumbs": (["b", "c"], True, {"weight": 0.6, "density": 0.6, "gamma": 0.02}, {}),
    "breadcrumbs_ties": (["b", "c"], True, {"weight": 0.6, "density": 0.6, "gamma": 0.02}, {}),
    "sce": (["b", "c"], True, {}, {"select_topk": 0.5}),
    "ram": (["b", "c"], True, {}, {"epsilon": 0.003}),
    "model_stock": (["b", "c"], True, {}, {}),
    "nearswap": (["b"], True, {}, {"t": 0.002}),
    "arcee_fusion": (["b"], True, {}, {}),
    "passthrough": (["b"], False, {"scale": 0.5}, {}),
    "dare_linear": (["b", "c"], True, {"weight": 0.6, "density": 0.5}, {}),
    "dare_ties": (["b", "c"], True, {"weight": 0.6, "density": 0.5}, {}),
    "della": (["b", "c"], True, {"weight": 0.6, "density": 0.5, "epsilon": 0.2}, {}),
    "della_linear": (["b", "c"], True, {"weight": 0.6, "density": 0.5, "epsilon": 0.2}, {}),
}
RANKED = ("ties", "breadcrumbs", "breadcrumbs_ties", "sce")
RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")


def config(method, place):
    """The YAML (JSON is YAML) of a case; the second model counts half as much as the first."""
    others, based, own, shared = CASES[method]
    of = lambda index: {k: v / (1 + index) if k == "weight" else v for k, v in own.items()}
    listed = [{"model": place(name), "parameters": of(index)} for index, name in enumerate(others)]
    text = {"merge_method": method, "models": listed, "parameters": shared, "dtype": "float32"}
    if based:
        text["base_model"] = place("a")
    return json.dumps(text)


def run(command, **more):
    """Seconds and peak megabytes of a command."""
    began = time.perf_counter()
    child = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **more)
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{command}: {said.decode()[-2000:]}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


class Rivals:
    def __init__(self, folder, cart):
        self.folder, self.cart = folder, [cart, "--store", folder / "store", "--quiet"]
        for name in NAMES:
            if subprocess.run([*map(str, self.cart), "inspect", name], capture_output=True).returncode:
                run([*self.cart, "pack", folder / name, "-t", name])

    def with_cart(self, method):
        file = self.folder / "config.yaml"
        file.write_text(config(method, str))
        return run([*self.cart, "merge", "--config", file, "-t", "merged", "--seed", 7])

    def with_mergekit(self, method, out="mergekit"):
        shutil.rmtree(self.folder / out, ignore_errors=True)
        file = self.folder / "mergekit.yaml"
        file.write_text(config(method, lambda name: str(self.folder / name)))
        main = "import sys; from mergekit.scripts.run_yaml import main; sys.argv[0] = 'mergekit-yaml'; main()"
        command = [python(self.folder), "-c", main, file, self.folder / out, "--no-copy-tokenizer", "--random-seed", 7]
        return run(command, env={**os.environ, "HF_HUB_OFFLINE": "1"})

    def with_reminis(self, method):
        program, out = self.folder / "venv/bin/reminis", self.folder / "reminis.db"
        for name in NAMES:
            if not (self.folder / f"{name}.db").exists():
                run([program, "convert", self.folder / name, "-o", self.folder / f"{name}.db", "-q"])
        out.unlink(missing_ok=True)
        files = {name: self.folder / f"{name}.db" for name in NAMES}
        arguments = {
            "linear": [files["a"], files["b"]],
            "slerp": [files["a"], files["b"], "-t", "0.4"],
            "ties": [files["b"], files["c"], "--base", files["a"], "--density", "0.3"],
        }[method]
        return run([program, "merge", "--method", method, *arguments, "-o", out, "-q"])

    def drop(self):
        subprocess.run([*map(str, self.cart), "rm", "merged"], capture_output=True)
        subprocess.run([*map(str, self.cart), "gc", "--grace", "0"], capture_output=True)


@contextlib.contextmanager
def stable_sorts():
    """PyTorch's sorts such that of equal elements the first comes first."""
    import torch

    kept = torch.sort, torch.argsort, torch.topk
    torch.sort = lambda values, **more: kept[0](values, **more, stable=True)
    torch.argsort = lambda values, **more: kept[1](values, **more, stable=True)

    def topk(values, k, largest):
        order = kept[1](values, descending=largest, stable=True)[:k]
        return values[order], order

    torch.topk = topk
    try:
        yield
    finally:
        torch.sort, torch.argsort, torch.topk = kept


def compare(folder, cart, only):
    import torch
    from mergekit.merge_methods.api import merge_tensors
    from safetensors import safe_open

    rivals = Rivals(folder, cart)
    opened = {name: safe_open(folder / name / "model.safetensors", "pt") for name in NAMES}
    names = sorted(opened["a"].keys())

    def in_units(found, expected, inputs):
        largest = torch.stack([found.abs(), expected.abs(), *[one.abs() for one in inputs]]).amax(0)
        unit = torch.exp2(torch.floor(torch.log2(largest.double().clamp(min=2.0**-126))) - 23)
        return (found.double() - expected.double()).abs() / unit

    print("| method | mergekit, f32: max units | over 1 unit | stable sorts: over 1 unit | mergekit, f64: max units | over 1 unit | max abs |")
    print("|---|---|---|---|---|---|---|")
    for method in only or CASES:
        rivals.drop()
        rivals.with_cart(method)
        file = folder / "cart.safetensors"
        file.unlink(missing_ok=True)
        run([*rivals.cart, "export", "merged", "--as", "safetensors", "-o", file])
        rivals.with_mergekit(method)
        ours, theirs = safe_open(file, "pt"), safe_open(folder / "mergekit/model.safetensors", "pt")
        others, based, own, shared = CASES[method]
        if method in RANDOM:
            random_row(method, names, ours, theirs, opened, others)
            continue
        used = (["a"] if based and "a" not in others else []) + others
        parameters = {k: [v / (1 + i) if k == "weight" else v for i in range(len(others))] for k, v in own.items()}
        worst, over, count, largest, stable = [0.0, 0.0], [0, 0], 0, 0.0, 0
        for name in names:
            inputs = [opened[one].get_tensor(name) for one in used]
            found = ours.get_tensor(name)
            again = lambda dtype: merge_tensors([one.clone() for one in inputs], method, parameters={**parameters, **shared},
                                                base_index=0 if based else None, dtype=dtype)
            wide = again(torch.float64)
            if method in RANKED:
                with stable_sorts():
                    stable += (in_units(found, again(torch.float32), inputs) > 1).sum().item()
            for index, expected in enumerate((theirs.get_tensor(name), wide)):
                apart = in_units(found, expected, inputs)
                worst[index] = max(worst[index], apart.max().item())
                over[index] += (apart > 1).sum().item()
            largest = max(largest, (found - theirs.get_tensor(name)).abs().max().item())
            count += found.numel()
        share = lambda count_over: "0" if not count_over else f"{count_over} of {count:,}"
        print(f"| {method} | {worst[0]:.2f} | {share(over[0])} | {share(stable) if method in RANKED else '–'} | {worst[1]:.2f} | {share(over[1])} | {largest:.1e} |", flush=True)


def random_row(method, names, ours, theirs, opened, others):
    """Of the result less the base: the share that is not zero, mean, deviation, and the quartiles' and tails' greatest distance."""
    import torch

    def figures(source):
        zero, total, sums = 0, 0, torch.zeros(2, dtype=torch.float64)
        samples = []
        for name in names:
            base = opened["a"].get_tensor(name)
            delta = (source.get_tensor(name) - base).double().flatten()
            zero, total = zero + (delta == 0).sum().item(), total + delta.numel()
            sums += torch.stack([delta.sum(), (delta * delta).sum()])
            samples.append(delta[:: max(1, delta.numel() // 4000)] / base.double().std().clamp(min=1e-9))
        points = torch.tensor([0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99], dtype=torch.float64)
        mean = sums[0].item() / total
        return 1 - zero / total, mean, (sums[1].item() / total - mean**2) ** 0.5, torch.quantile(torch.cat(samples), points)

    (share_a, mean_a, deviation_a, a), (share_b, mean_b, deviation_b, b) = figures(ours), figures(theirs)
    print(f"| {method} | by chance | changed {share_a:.5f} and {share_b:.5f} | mean {mean_a:.2e} and {mean_b:.2e} "
          f"| deviation {deviation_a:.6f} and {deviation_b:.6f} | quantiles apart at most {(a - b).abs().max().item():.4f} σ |", flush=True)


def timed(folder, cart, rounds):
    rivals = Rivals(folder, cart)
    print("| method | cart | peak MB | reminis | peak MB | mergekit | peak MB |")
    print("|---|---|---|---|---|---|---|")
    for method in ("linear", "slerp", "ties", "della"):
        best = {}
        for _ in range(rounds):
            for who in ("cart", "reminis", "mergekit"):
                if who == "reminis" and method == "della":
                    continue
                rivals.drop()
                seconds, peak = getattr(rivals, f"with_{who}")(method)
                before = best.get(who, (1e9, 0))
                best[who] = (min(before[0], seconds), max(before[1], peak))
        cell = lambda who: f"{best[who][0]:.2f} s | {best[who][1]:.0f}" if who in best else "– | –"
        print(f"| {method} | {cell('cart')} | {cell('reminis')} | {cell('mergekit')} |", flush=True)


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
    if what == "compare":
        return compare(folder, Path(sys.argv[3]).resolve(), sys.argv[4:])
    if what == "time":
        return timed(folder, Path(sys.argv[3]).resolve(), int(sys.argv[4]) if len(sys.argv) > 4 else 3)
    sys.exit(__doc__)


main()
