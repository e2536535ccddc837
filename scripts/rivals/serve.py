"""Serves the same model with cart and with llama.cpp's servers, and measures many streams at once and the change of a model.

    python scripts/rivals/serve.py CART MODEL.gguf --rivals DIR [--streams 16,64] [--tokens 64] [--rounds 3] [--changes 5]
                                   [--threads N] [--report FILE.json]

DIR is where `scripts/install-rivals DIR llama-server llama-cpp-python` put them; what is not there is left out and named. CART is a
release build. Needs the package `gguf`, which makes the second model: MODEL with one number of every block another one, so that no tensor
of it is there already.

In each round every server in turn is started, warmed up with one request, and asked for N completions at once over HTTP, streamed, greedy, each of a
text of its own of about 100 tokens. Tokens a second are all tokens of all answers by the time from the first request to the
last end; the time to the first token is that of each stream. cart is measured a second time with memory: each stream has a conversation
of its own that reads and writes.

Then the model is changed, back and forth: in cart by a swap, idle and under 8 streams, and between two memories of one model; in llama-server as a
router (one model at a time, chosen by the request), in llama-cpp-python's server by its settings' file, and by ending llama-server and starting it
anew. Measured is the time from asking for the other model to the first token that it gives.
"""

import argparse
import asyncio
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

TEXTS = pathlib.Path(__file__).parents[2] / "fixtures/text/gpl-3.txt"
NOW = time.perf_counter


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


async def pieces(reader, head):
    """The body of an answer, as it comes in."""
    if b"transfer-encoding: chunked" not in head.lower():
        while piece := await reader.read(1 << 16):
            yield piece
        return
    while size := int(await reader.readline() or b"0", 16):
        yield await reader.readexactly(size)
        await reader.readline()
    await reader.readline()


async def ask(port, path, body):
    """Status and parsed lines of an answer (events without `data: `), each with the time when it came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    text = json.dumps(body).encode()
    writer.write(f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\nconnection: close\r\n\r\n".encode() + text)
    head = await reader.readuntil(b"\r\n\r\n")
    lines, rest = [], b""
    async for piece in pieces(reader, head):
        *whole, rest = (rest + piece).split(b"\n")
        lines += [(NOW(), line.removeprefix(b"data: ").strip()) for line in whole]
    writer.close()
    lines.append((NOW(), rest.removeprefix(b"data: ").strip()))
    return int(head.split()[1]), [(at, json.loads(line)) for at, line in lines if line.startswith(b"{")]


async def stream(port, prompt, tokens, **more):
    """Seconds to the first token, tokens, and when it began and ended."""
    body = {"model": "a", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}, **more}
    begun = NOW()
    status, events = await ask(port, "/v1/completions", body)
    said = [at for at, event in events if event.get("choices") and event["choices"][0].get("text")]
    if status != 200 or not said:
        raise SystemExit(f"a stream failed: {status} {events[-1:]}")
    usage = [event["usage"]["completion_tokens"] for _, event in events if event.get("usage")]
    return {"first": said[0] - begun, "tokens": usage[-1] if usage else len(said), "begun": begun, "ended": events[-1][0]}


class Server:
    """A process that listens; `healthy` is the path that says so."""

    def __init__(self, command, port, healthy="/health", **more):
        self.port, self.log = port, tempfile.TemporaryFile()
        self.child = subprocess.Popen([str(word) for word in command], stdout=self.log, stderr=self.log, start_new_session=True, **more)
        while True:
            if self.child.poll() is not None:
                self.log.seek(0)
                raise SystemExit(f"{command} ended: {self.log.read().decode()[-2000:]}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
                connection.sendall(f"GET {healthy} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n".encode())
                if b" 200 " in connection.recv(64):
                    return
            time.sleep(0.005)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.killpg(self.child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def peak(self):
        """Most resident memory so far, in MiB."""
        status = pathlib.Path(f"/proc/{self.child.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024


class Bench:
    def __init__(self, options, folder):
        self.options, self.folder, self.threads = options, folder, options.threads or os.cpu_count()
        self.models = folder / "models"
        self.models.mkdir()
        self.a, self.b = self.models / "a.gguf", self.models / "b.gguf"
        shutil.copy(options.model, self.a)
        another(self.a, self.b)
        self.cart = [options.cart, "--store", folder / "store", "--quiet"]
        for name in "ab":
            self.run("pack", self.models / f"{name}.gguf", "-t", name)
        facts = folder / "facts.txt"
        facts.write_text("The ferry leaves at nine. Vera plays the cello. The access code of the red boat is 4821.")
        self.run("memory", "import", "a", facts, "--save", "a:told")
        self.text = TEXTS.read_text()

    def run(self, *words):
        done = subprocess.run([str(word) for word in [*self.cart, *words]], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"cart {words}: {done.stderr}")

    def prompts(self, count, seed):
        chance = random.Random(seed)
        return [self.text[at : at + 400] for at in (chance.randrange(len(self.text) - 400) for _ in range(count))]

    # Servers, each for so many streams at once.

    def cart_server(self, streams=64):
        port = free_port()
        command = [*self.cart, "serve", "a", "--listen", f"127.0.0.1:{port}", "--max-streams", streams, "--threads", self.threads]
        return Server(command, port, "/healthz")

    def llama_server(self, streams=1, model=None):
        port = free_port()
        program = self.options.rivals / "llama-server/llama-server"
        common = ["--port", port, "--threads", self.threads, "--parallel", streams, "--ctx-size", 512 * streams]
        what = ["--model", model or self.a] if model != "router" else ["--models-dir", self.models, "--models-max", 1]
        return Server([program, *what, *common], port)

    def llama_cpp_python(self, _streams=1, both=False):
        port, folder = free_port(), self.options.rivals / "llama-cpp-python"
        # Without this a new request ends the one that runs.
        common = {"n_ctx": 512, "n_threads": self.threads, "n_threads_batch": self.threads, "verbose": False}
        models = [{"model": str(self.a), "model_alias": "a", **common}, {"model": str(self.b), "model_alias": "b", **common}]
        settings = self.folder / "settings.json"
        settings.write_text(json.dumps({"host": "127.0.0.1", "port": port, "interrupt_requests": False, "models": models if both else models[:1]}))
        return Server([folder / "venv/bin/python", "-m", "llama_cpp.server", "--config_file", settings], port, "/v1/models")

    def servers(self):
        there = {"cart": self.cart_server, "cart, with memory": self.cart_server}
        for name, start in (("llama-server", self.llama_server), ("llama-cpp-python", self.llama_cpp_python)):
            if (self.options.rivals / name / "installed").exists():
                there[name] = start
            else:
                print(f"{name} is not installed in {self.options.rivals}; left out", file=sys.stderr)
        return there

    # Many streams at once.

    def at_once(self, name, start, streams, seed):
        with start(streams) as server:
            more = lambda number: {"memory": {"session": f"s{number}", "write": True}} if "memory" in name else {}

            async def all_of_them():
                await stream(server.port, "Warm up:", 8, **more("warm"))
                prompts = self.prompts(streams, seed)
                return await asyncio.gather(*(stream(server.port, prompt, self.options.tokens, **more(i)) for i, prompt in enumerate(prompts)))

            done = asyncio.run(all_of_them())
            took = max(one["ended"] for one in done) - min(one["begun"] for one in done)
            tokens, firsts = sum(one["tokens"] for one in done), sorted(one["first"] for one in done)
            return {"server": name, "streams": streams, "tokens": tokens, "seconds": took, "tokens_per_second": tokens / took,
                    "first_p50": statistics.median(firsts), "first_p99": firsts[min(len(firsts) - 1, int(len(firsts) * 0.99))], "peak_mib": server.peak()}

    # Another model.

    async def first_of(self, port, model, seed):
        return (await stream(port, self.prompts(1, seed)[0], 1, model=model))["first"]

    def change_cart(self, refs, streams):
        async def change(server, ref, seed):
            begun = NOW()
            status, events = await ask(server.port, "/cart/swap", {"ref": ref})
            if status != 200:
                raise SystemExit(f"a swap failed: {events}")
            swapped = NOW() - begun
            first = await self.first_of(server.port, "", seed)
            report = events[-1][1]
            staged = sum(report[part] for part in ("verify_ms", "load_ms", "warm_ms", "pause_ms"))
            return {"asked_to_first": swapped + first, "swap": swapped, "staged_to_active_ms": staged, "pause_ms": report["pause_ms"]}

        async def load(server, number, ended):
            seed = 10_000 * number
            while not ended.is_set():
                seed += 1
                await stream(server.port, self.prompts(1, seed)[0], 64)

        async def changes(server):
            ended = asyncio.Event()
            loads = [asyncio.create_task(load(server, number + 1, ended)) for number in range(streams)]
            await asyncio.sleep(1 if streams else 0)
            # The first goes over a cold cache of its own and does not count.
            done = [await change(server, refs[(i + 1) % 2], i) for i in range(self.options.changes + 1)][1:]
            ended.set()
            await asyncio.gather(*loads)
            return done

        with self.cart_server() as server:
            return asyncio.run(changes(server))

    def change_by_request(self, start):
        async def changes(port):
            await self.first_of(port, "a", 0)
            return [{"asked_to_first": await self.first_of(port, "ba"[i % 2], i)} for i in range(self.options.changes + 1)][1:]

        with start() as server:
            return asyncio.run(changes(server.port))

    def change_by_restart(self):
        done = []
        for i in range(self.options.changes):
            with self.llama_server(1, self.a) as server:
                asyncio.run(self.first_of(server.port, "", i))
                begun = NOW()
            with self.llama_server(1, self.b) as server:
                asyncio.run(self.first_of(server.port, "", i))
                done.append({"asked_to_first": NOW() - begun})
        return done

    def changes(self, there):
        done = {
            "cart, idle": self.change_cart(["a", "b"], 0),
            "cart, under 8 streams": self.change_cart(["a", "b"], 8),
            "cart, memory alone, idle": self.change_cart(["a", "a:told"], 0),
        }
        if "llama-server" in there:
            done["llama-server, router"] = self.change_by_request(lambda: self.llama_server(1, "router"))
            done["llama-server, started anew"] = self.change_by_restart()
        if "llama-cpp-python" in there:
            done["llama-cpp-python"] = self.change_by_request(lambda: self.llama_cpp_python(both=True))
        return done


def another(path, copy):
    """A copy of a GGUF in which every tensor is another one: a number of each block, or of each row, is changed a little."""
    import gguf

    shutil.copy(path, copy)
    for tensor in gguf.GGUFReader(copy, "r+").tensors:
        data = tensor.data
        if data.dtype == "uint8":
            size = gguf.GGML_QUANT_SIZES[tensor.tensor_type][1]
            data.reshape(-1, size)[:, size // 2] ^= 1
        else:
            data.reshape(-1)[::64] *= 1.001
        data.flush()


def median(rounds, key):
    return statistics.median(one[key] for one in rounds if key in one)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cart")
    parser.add_argument("model")
    parser.add_argument("--rivals", type=pathlib.Path, required=True)
    parser.add_argument("--streams", default="16,64", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--changes", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--report", type=pathlib.Path)
    options = parser.parse_args()
    options.rivals = options.rivals.resolve()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, pathlib.Path(folder))
        there, rounds = bench.servers(), []
        for streams in options.streams:
            for number in range(options.rounds):
                # In turns, the order another one each time.
                names = list(there)
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    rounds.append(bench.at_once(name, there[name], streams, 100 * streams + number))
                    print(json.dumps(rounds[-1]), file=sys.stderr)
        changes = bench.changes(there) if options.changes else {}
    print("| streams | server | tokens/s | first token, p50 | p99 | peak |\n|---|---|---|---|---|---|")
    for streams in options.streams:
        for name in there:
            of = [one for one in rounds if (one["server"], one["streams"]) == (name, streams)]
            each = ", ".join(f"{one['tokens_per_second']:.0f}" for one in of)
            print(f"| {streams} | {name} | {median(of, 'tokens_per_second'):.0f} ({each}) | {median(of, 'first_p50'):.2f} s | {median(of, 'first_p99'):.2f} s | {median(of, 'peak_mib'):.0f} MiB |")
    print("\n| another model | asked to first token | swap | staged to active | pause |\n|---|---|---|---|---|")
    for name, done in changes.items():
        cells = [f"{median(done, 'asked_to_first') * 1000:.0f} ms"]
        if "swap" in done[0]:
            cells += [f"{median(done, 'swap') * 1000:.1f} ms", f"{median(done, 'staged_to_active_ms'):.1f} ms", f"{median(done, 'pause_ms'):.3f} ms"]
        print(f"| {name} | {' | '.join(cells + ['–'] * (4 - len(cells)))} |")
    if options.report:
        options.report.write_text(json.dumps({"rounds": rounds, "changes": changes}, indent=1))


if __name__ == "__main__":
    main()
