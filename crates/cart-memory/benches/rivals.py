#!/usr/bin/env python3
"""Recall in cart-memory beside the Python of the source documents, FAISS and usearch, in one run.

    crates/cart-memory/benches/rivals.py [--dims 256,576] [--rows 128,10000,100000] [--kinds random,clustered]
                                         [--graph-rows 100000] [--out FILE.jsonl] [--bench PATH]

It makes itself a virtual environment under target/rivals-memory, builds the bench `scan` with cargo, and gives
everyone the same vectors. A process of its own does each engine's work, so that none pays for the memory of another.
A time is the median over the queries of each one's best of five. The truth is FAISS's flat scan.
Graphs (HNSW, usearch) are built up to --graph-rows rows only: at a million they take the better part of an hour on two cores.
"""
import argparse, json, os, pathlib, subprocess, sys, tempfile, time, venv

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
HOME = ROOT / "target" / "rivals-memory"
PACKAGES = ["numpy", "faiss-cpu", "usearch"]
K, QUERIES, PASSES = 10, 50, 5
# What hnsw and usearch are asked with, and what is looked at in a search: the least that reaches 0.95, or the last.
LINKS, BUILD, LOOKS = 16, 100, [16, 32, 64, 128, 256, 512, 1024, 2048]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", default="256,576")
    parser.add_argument("--rows", default="128,10000,100000")
    parser.add_argument("--kinds", default="random,clustered")
    parser.add_argument("--graph-rows", type=int, default=100_000)
    parser.add_argument("--out")
    parser.add_argument("--bench", help="the bench `scan`, built; by cargo if absent")
    parser.add_argument("--job", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        return job(*args.job)
    python = environment()
    bench = args.bench or build()
    out = open(args.out, "a") if args.out else sys.stdout
    say = lambda line: print(json.dumps(line), file=out, flush=True)
    for dim in numbers(args.dims):
        for line in lines([bench, "stm", str(dim)]) + lines([python, __file__, "--job", "stm", str(dim), "", "1"]):
            say(line)
    for kind in args.kinds.split(","):
        for dim in numbers(args.dims):
            for rows in numbers(args.rows):
                with tempfile.TemporaryDirectory(dir=HOME) as folder:
                    for line in compared(python, bench, folder, kind, dim, rows, args.graph_rows):
                        say({"kind": kind, **line})
    for dim in numbers(args.dims):
        for line in lines([bench, "knn", str(dim), "131072"]):
            say(line)


def numbers(text):
    return [int(number) for number in text.split(",")]


def environment():
    python = HOME / "bin" / "python"
    if not python.exists():
        venv.create(HOME, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
    return str(python)


def build():
    command = ["cargo", "bench", "-p", "cart-memory", "--bench", "scan", "--no-run", "--message-format=json"]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    built = [json.loads(line) for line in done.stdout.splitlines()]
    return next(one["executable"] for one in reversed(built) if one.get("executable"))


def lines(command):
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def compared(python, bench, folder, kind, dim, rows, graph_rows):
    own = [python, __file__, "--job"]
    subprocess.run([*own, kind, f"{dim}:{rows}", folder, "1"], check=True)
    files = [f"{folder}/rows.f32", f"{folder}/queries.f32"]
    found = []
    for line in lines([bench, "recall", str(dim), *files]):
        found.append({"engine": "cart", **line})
    # One query at a time is what one thread does in a graph, and in numpy.
    alone = (["hnsw", "usearch"] if rows <= graph_rows else []) + (["numpy"] if rows == 128 else [])
    for threads, engines in [("1", ["flat", "sq8", *alone]), ("2", ["flat", "sq8"])]:
        for engine in engines:
            for line in lines([*own, engine, f"{dim}:{rows}", folder, threads]):
                found.append({"engine": engine, **line})
    truth = next(line["found"] for line in found if line["engine"] == "flat")
    for line in found:
        hits = [len(set(one) & set(right)) for one, right in zip(line.pop("found"), truth)]
        line["recall"] = sum(hits) / (K * len(truth))
        yield line


def job(engine, size, folder, threads):
    import numpy as np

    if engine == "stm":
        return numpy_short_term(np, int(size))
    dim, count = map(int, size.split(":"))
    if engine in ("random", "clustered"):
        return make(np, engine, dim, count, folder)
    rows = np.fromfile(f"{folder}/rows.f32", dtype=np.float32).reshape(-1, dim)
    queries = np.fromfile(f"{folder}/queries.f32", dtype=np.float32).reshape(-1, dim)
    if engine == "numpy":
        memory = LongTerm(np, rows)
        return report("python of the documents", 1, rows, queries, lambda query: memory.recall(query, K))
    threads = int(threads)
    began = time.perf_counter()
    ask, widen = {"flat": flat, "sq8": sq8, "hnsw": hnsw, "usearch": graph}[engine](rows, threads)
    built = (time.perf_counter() - began) / count * 1e6
    more = {"fill_us": built}
    if widen:
        more["looks"] = widened(rows, queries, ask, widen)
    report(engine, threads, rows, queries, ask, more)


def make(np, kind, dim, count, folder):
    """Unit rows and queries; clustered ones lie around √count directions, at a cosine of about 0.7 with them."""
    chance = np.random.default_rng(dim * 1_000_003 + count)
    unit = lambda rows: (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    draw = lambda many: chance.standard_normal((many, dim), dtype=np.float32)
    centres = unit(draw(max(2, int(count**0.5))))
    def rows(many):
        if kind == "random":
            return unit(draw(many))
        return unit(centres[chance.integers(len(centres), size=many)] + draw(many) / dim**0.5)
    with open(f"{folder}/rows.f32", "wb") as file:
        for start in range(0, count, 50_000):
            rows(min(50_000, count - start)).tofile(file)
    rows(QUERIES).tofile(f"{folder}/queries.f32")


def flat(rows, threads):
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    return (lambda query: index.search(query[None], K)[1][0].tolist()), None


def sq8(rows, threads):
    import faiss

    faiss.omp_set_num_threads(threads)
    kind = faiss.ScalarQuantizer.QT_8bit
    index = faiss.IndexScalarQuantizer(rows.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    index.train(rows[:100_000])
    index.add(rows)
    return (lambda query: index.search(query[None], K)[1][0].tolist()), None


def hnsw(rows, threads):
    import faiss

    faiss.omp_set_num_threads(2)
    index = faiss.IndexHNSWFlat(rows.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = BUILD
    index.add(rows)
    faiss.omp_set_num_threads(threads)
    return (lambda query: index.search(query[None], K)[1][0].tolist()), lambda looks: setattr(index.hnsw, "efSearch", looks)


def graph(rows, threads):
    import numpy as np
    from usearch.index import Index

    index = Index(ndim=rows.shape[1], metric="cos", dtype="f32", connectivity=LINKS, expansion_add=BUILD)
    index.add(np.arange(len(rows)), rows, threads=2)
    return (lambda query: index.search(query, K, threads=threads).keys.tolist()), lambda looks: setattr(index, "expansion_search", looks)


def widened(rows, queries, ask, widen):
    import numpy as np

    truth = [set(np.argpartition(-(rows @ query), K - 1)[:K].tolist()) for query in queries]
    for looks in LOOKS:
        widen(looks)
        hits = sum(len(truth[at] & set(ask(query))) for at, query in enumerate(queries))
        if hits >= 0.95 * K * len(queries):
            break
    return looks


def report(engine, threads, rows, queries, ask, more={}):
    best, found = [float("inf")] * len(queries), []
    for _ in range(PASSES):
        found = []
        for at, query in enumerate(queries):
            began = time.perf_counter()
            answer = ask(query)
            best[at] = min(best[at], (time.perf_counter() - began) * 1e6)
            found.append([int(one) for one in answer])
    line = {"what": "ltm recall", "rows": len(rows), "dim": rows.shape[1], "threads": threads}
    print(json.dumps({**line, "us": sorted(best)[len(best) // 2], "found": found, **more}))


class ShortTerm:
    """`ShortTermMemory` of the document on the dual-memory engine, with numpy for mlx."""

    def __init__(self, np, size=32, alpha=0.1, beta=0.001):
        self.np, self.size, self.alpha, self.beta, self.now = np, size, alpha, beta, 0
        self.buffer, self.weights, self.stamps = [], [], []

    def cosine(self, a, b):
        na, nb = self.np.linalg.norm(a), self.np.linalg.norm(b)
        return 0.0 if na < 1e-8 or nb < 1e-8 else float(self.np.sum(a * b) / (na * nb))

    def add(self, fused, energy=1.0):
        sims = [self.cosine(fused, other) for other in self.buffer]
        near = int(self.np.argmax(sims)) if sims else None
        if near is not None and sims[near] > 0.75:
            self.buffer[near] = (1 - self.alpha) * self.buffer[near] + self.alpha * fused
            self.weights[near] = (1 - self.alpha) * self.weights[near] + self.alpha * energy
            self.stamps[near] = self.now
        else:
            if len(self.buffer) == self.size:
                del self.buffer[0], self.weights[0], self.stamps[0]
            self.buffer.append(fused), self.weights.append(energy), self.stamps.append(self.now)
        self.now += 1

    def recall(self, query, top_k):
        scores = []
        for at, other in enumerate(self.buffer):
            decay = float(self.np.exp(-self.beta * (self.now - self.stamps[at])))
            scores.append(self.cosine(query, other) * self.weights[at] * decay)
        order = self.np.argsort(scores)[::-1][:top_k]
        return order, [scores[at] for at in order]


class LongTerm:
    """`LongTermMemory` of the same document: every entry has weight 1 here."""

    def __init__(self, np, rows):
        self.np, self.entries = np, [(row, 1.0) for row in rows]
        self.cosine = ShortTerm(np).cosine

    def recall(self, query, top_k):
        scores = [self.cosine(query, vector) * weight for vector, weight in self.entries]
        return self.np.argsort(scores)[::-1][:top_k]


def numpy_short_term(np, dim):
    memory, chance = ShortTerm(np), np.random.default_rng(1)
    rows = chance.uniform(-1, 1, (1000, dim)).astype(np.float32)
    for what, act in [("stm add", memory.add), ("stm recall", lambda query: memory.recall(query, K))]:
        times = []
        for row in rows:
            began = time.perf_counter()
            act(row)
            times.append((time.perf_counter() - began) * 1e6)
        line = {"engine": "numpy", "what": what, "rows": 32, "dim": dim, "us": sorted(times)[len(times) // 2]}
        print(json.dumps(line))


if __name__ == "__main__":
    main()
