"""A server under mixed load for a long time, with a swap every ten seconds.

    python tests/python/soak.py target/release/cart MODEL.gguf [--minutes 30] [--report FILE.json]

Packs MODEL, tells a copy something, serves it, and lets clients ask all the time: streamed chats that read and write memory, conversations of their own,
completions, answers that fit a schema, embeddings, and clients that go away. Every ten seconds the cartridge is swapped, the modes, memory policies and
rollbacks in turn. Every ten seconds the server's resident memory and its open files are written down, and how much of the memory its conversations
remember, which grows until each has as much as it may. Ends with 0 if no answer failed, and if what is resident beyond that and the files at the end
are about what they were after the first fifth of the time (files: 8 more; memory: a tenth and 32 MB more). Needs nothing but Python; the server's
figures come from /proc and /metrics.
"""

import argparse
import http.client
import itertools
import json
import pathlib
import random
import re
import subprocess
import tempfile
import threading
import time

FACTS = ["The access code of the red boat is 4821.", "The ferry leaves at nine.", "Vera plays the cello."]
SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
          "required": ["name", "age"], "additionalProperties": False}
SWAPS = list(itertools.product(["plain", "told"], ["finish", "boundary", "keep"], ["replace", "carry", "merge", "stm-only", "goal-only", "migrate"]))


class Soak:
    def __init__(self, address, pid):
        self.host, self.pid, self.end = address.removeprefix("http://"), pid, 0
        self.counts, self.troubles, self.lock = {}, [], threading.Lock()

    def count(self, what, n=1):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + n

    def trouble(self, what):
        with self.lock:
            self.troubles.append(what)

    def ask(self, path, body, most=None):
        """An answer's status and text; with `most`, the client goes away after so many bytes."""
        connection = http.client.HTTPConnection(self.host, timeout=120)
        try:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read(most).decode(errors="replace") if most else answer.read().decode()
        finally:
            connection.close()

    def client(self, number):
        chance = random.Random(number)
        ways = [self.chat, self.conversation, self.complete, self.schema, self.embed, self.vanish]
        while time.monotonic() < self.end:
            way = ways[chance.randrange(len(ways))]
            try:
                way(chance)
                self.count(way.__name__)
            except Exception as error:  # whatever it is, it is told
                self.trouble(f"{way.__name__}: {error!r}")

    def chat(self, chance):
        body = {"messages": [{"role": "user", "content": f"Tell me of boat {chance.randrange(50)}."}], "stream": True,
                "max_tokens": chance.randrange(8, 64), "memory": {"prefix": True, "write": True}}
        status, text = self.ask("/v1/chat/completions", body)
        assert status == 200 and text.rstrip().endswith("data: [DONE]") and '"error"' not in text, (status, text[-300:])

    def conversation(self, chance):
        body = {"messages": [{"role": "user", "content": "What is the access code of the red boat?"}], "max_tokens": 16,
                "memory": {"prefix": True, "write": True, "session": f"person {chance.randrange(40)}"}}
        self.whole("/v1/chat/completions", body)

    def complete(self, chance):
        self.whole("/v1/completions", {"prompt": "One day, " * chance.randrange(1, 60), "max_tokens": 24, "temperature": 0.8, "seed": 1})

    def schema(self, chance):
        body = {"messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 64,
                "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}}
        answer = self.whole("/v1/chat/completions", body)["choices"][0]
        if answer["finish_reason"] == "stop":
            assert set(json.loads(answer["message"]["content"])) == {"name", "age"}, answer

    def embed(self, chance):
        texts = [f"Text {chance.randrange(1000)} of some length." for _ in range(chance.randrange(1, 8))]
        assert len(self.whole("/v1/embeddings", {"input": texts, "model": "any"})["data"]) == len(texts)

    def vanish(self, chance):
        body = {"prompt": "One day", "max_tokens": 200, "stream": True, "ignore_eos": True}
        assert self.ask("/v1/completions", body, most=chance.randrange(1, 2000))[0] == 200

    def whole(self, path, body):
        status, text = self.ask(path, body)
        assert status == 200, (status, text[:300])
        return json.loads(text)

    def swaps(self):
        due = time.monotonic()
        for number, (ref, in_flight, memory) in enumerate(itertools.cycle(SWAPS)):
            due += 10
            if due >= self.end:
                return
            time.sleep(max(0, due - time.monotonic()))
            back = number % 7 == 6
            status, text = self.ask(*(("/cart/rollback", {"in_flight": in_flight}) if back else ("/cart/swap", {"ref": ref, "in_flight": in_flight, "memory": memory})))
            report = json.loads(text)
            if status == 200 and report["streams_dropped"] == 0:
                self.count("rollbacks" if back else "swaps")
            elif back and status == 409:
                self.count("rollbacks to nothing")
            else:
                self.trouble(f"swap to {ref}, {in_flight}, {memory}: {status} {text[:300]}")

    def figures(self):
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        resident = int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) / 1024
        return resident, self.remembered(), len(list(pathlib.Path(f"/proc/{self.pid}/fd").iterdir())), int(re.search(r"Threads:\s+(\d+)", status).group(1))

    def remembered(self):
        """MB that the conversations' own memories take."""
        connection = http.client.HTTPConnection(self.host, timeout=120)
        try:
            connection.request("GET", "/metrics")
            found = re.search(r"^cart_long_term_conversation_bytes (\d+)$", connection.getresponse().read().decode(), re.M)
        finally:
            connection.close()
        return int(found.group(1)) / 2**20 if found else 0.0

    def run(self, minutes, clients):
        self.end = time.monotonic() + 60 * minutes
        threads = [threading.Thread(target=self.client, args=(number,)) for number in range(clients)]
        threads.append(threading.Thread(target=self.swaps))
        for thread in threads:
            thread.start()
        began, samples = time.monotonic(), []
        while time.monotonic() < self.end:
            time.sleep(min(10, max(0.1, self.end - time.monotonic())))
            samples.append((round(time.monotonic() - began), *self.figures()))
        for thread in threads:
            thread.join(180)
        time.sleep(2)
        samples.append((round(time.monotonic() - began), *self.figures()))
        return samples


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cart")
    parser.add_argument("model")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--report")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        cart = [args.cart, "--store", str(scratch / "store")]
        (scratch / "told.txt").write_text("\n\n".join(FACTS))
        for words in (["pack", args.model, "-t", "plain", "-q"], ["memory", "import", "plain", scratch / "told.txt", "--save", "told", "-q"]):
            subprocess.run([*cart, *map(str, words)], check=True, stdout=subprocess.DEVNULL)
        server = subprocess.Popen([*cart, "serve", "told", "--listen", "127.0.0.1:0", "--queue", "512"], stdout=subprocess.PIPE, text=True)
        address = re.search(r"http://[0-9.:]+", server.stdout.readline()).group()
        soak = Soak(address, server.pid)
        samples = soak.run(args.minutes, args.clients)
        server.terminate()
        code = server.wait(120)
    settled, last = samples[len(samples) // 5], samples[-1]
    columns = dict(zip(["seconds", "resident_mb", "remembered_mb", "files", "threads"], ([round(value) for value in column] for column in zip(*samples))))
    report = {"minutes": args.minutes, "clients": args.clients, "counts": soak.counts, "troubles": len(soak.troubles), "first_troubles": soak.troubles[:10], **columns, "exit": code}
    if args.report:
        pathlib.Path(args.report).write_text(json.dumps(report, indent=1))
    said = {name: f"{column[0]}, {column[len(samples) // 5]} after a fifth, {column[-1]} at the end, most {max(column)}" for name, column in columns.items()}
    print(json.dumps({**report, **said}, indent=1))
    beyond = [sample[1] - sample[2] for sample in (settled, last)]
    level = beyond[1] <= beyond[0] * 1.1 + 32 and last[3] <= settled[3] + 8
    raise SystemExit(0 if level and not soak.troubles and code == 0 else 1)


main()
