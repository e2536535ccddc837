"""Times `cart diff` beside reading both files once, and beside reminis and weightscope, in one run.

    python scripts/rivals/diff.py install DIR         the rivals, into the environment that merge.py makes in DIR
    python scripts/rivals/diff.py time DIR CART [N]   best of N in turns, on one core and on two, and peak memory

DIR has the checkpoints a and b of `merge.py models`; give it on a file system in memory to measure work and not the disk. Reading is `cat`: on one core both files
one after the other, on two one each. Everyone is held to the cores with `taskset`; cart reads the same bytes from its store, reminis from its databases (made once, not
timed), weightscope from the folders.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

PACKAGES = ["reminis==0.34.0", "weightscope==0.4.3", "safetensors"]


def run(cores, *commands):
    """Seconds until all commands are done, and the largest peak in megabytes."""
    began = time.perf_counter()
    children = []
    for command in commands:
        words = ["taskset", "-c", "0" if cores == 1 else "0,1", *map(str, command)]
        children.append((words, subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)))
    peak = 0
    for words, child in children:
        said = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            sys.exit(f"{words}: {said.decode()[-2000:]}")
        peak = max(peak, usage.ru_maxrss / 1024)
    return time.perf_counter() - began, peak


def timed(folder, cart, rounds):
    files = [folder / name / "model.safetensors" for name in "ab"]
    store = [cart, "--store", folder / "store", "--quiet"]
    programs = folder / "venv/bin"
    for name in "ab":
        if subprocess.run([*map(str, store), "inspect", name], capture_output=True).returncode:
            run(2, [*store, "pack", folder / name, "-t", name])
        if not (folder / f"{name}.db").exists():
            run(2, [programs / "reminis", "convert", folder / name, "-o", folder / f"{name}.db", "-q"])
    print("| | 1 core | peak MB | times reading | 2 cores | peak MB | times reading |")
    print("|---|---|---|---|---|---|---|")
    best = {}
    for _ in range(rounds):
        for cores in (1, 2):
            threads = ["--threads", cores]
            reading = [["cat", *files]] if cores == 1 else [["cat", file] for file in files]
            for who, commands in {
                "reading (`cat`)": reading,
                "cart diff": [[*store, *threads, "diff", "a", "b"]],
                "cart diff --rank": [[*store, *threads, "diff", "a", "b", "--rank"]],
                "reminis diff": [[programs / "reminis", "diff", folder / "a.db", folder / "b.db", "-q"]],
                "weightscope diff": [[programs / "weightscope", "diff", folder / "a", folder / "b"]],
            }.items():
                seconds, peak = run(cores, *commands)
                before = best.get((who, cores), (1e9, 0))
                best[who, cores] = (min(before[0], seconds), max(before[1], peak))
    for who in dict.fromkeys(who for who, _ in best):
        cells = []
        for cores in (1, 2):
            seconds, peak = best[who, cores]
            times = seconds / best["reading (`cat`)", cores][0]
            cells.append(f"{seconds:.3f} s | {peak:.0f} | {times:.2f}")
        print(f"| {who} | {' | '.join(cells)} |")


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    what, folder = sys.argv[1], Path(sys.argv[2]).resolve()
    if what == "install":
        return subprocess.run([folder / "venv/bin/python", "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    if what == "time":
        return timed(folder, Path(sys.argv[3]).resolve(), int(sys.argv[4]) if len(sys.argv) > 4 else 5)
    sys.exit(__doc__)


main()
