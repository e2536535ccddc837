"""What a server answers to what it should not be sent, and what is left of it afterwards.

Usage: check_abuse.py CART MODEL [AT_ONCE]

Packs MODEL, serves it and sends: AT_ONCE (1,000) requests in one moment, clients that go away or read or write a byte at a time, a body of 1 GB, with its length and without,
invalid UTF-8, JSON 10,000 levels deep, schemas that nothing fits, keys that are none, stop strings across tokens, swaps during a swap, swaps to nothing, to what is
damaged and to what does not fit, a disk that is full where a rollback writes its journal, and kill -9. Prints each with its answer; after each the server must answer an
ordinary request as before, and in the end its memory and files must be what they were. Needs nothing but Python and /proc.
"""

import asyncio
import collections
import json
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time

CART, MODEL = (str(pathlib.Path(path).resolve()) for path in sys.argv[1:3])
MORE = sys.argv[3:]
AT_ONCE = int(MORE[0]) if MORE else 1000
KEY = "a-key-of-some-length"
SERVERS = []
ORDINARY = {"prompt": "One day, Anna went to the", "max_tokens": 8, "temperature": 0}


class Server:
    def __init__(self, store, ref, *more, within=()):
        words = [*within, CART, "--store", str(store), "serve", ref, "--listen", "127.0.0.1:0", *more]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        SERVERS.append(self.process)
        self.port = int(re.search(r":(\d+)", self.process.stdout.readline().split("http://")[1]).group(1))

    def figures(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) / 1024, len(list(pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def stop(self):
        self.process.terminate()
        assert self.process.wait(60) == 0

    async def connect(self):
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, path, body, headers="", method="POST"):
        """Status, headers and body of an answer; status 0 where the connection ends without one."""
        try:
            reader, writer = await self.connect()
        except OSError:
            return 0, "", b"no connection"
        try:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            writer.write(f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {len(data)}\r\n{headers}\r\n".encode() + data)
            await writer.drain()
            return split(await reader.read())
        except OSError as error:
            return 0, "", repr(error).encode()
        finally:
            writer.close()


def split(raw):
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode(errors="replace").split("\r\n")
    words = lines[0].split()
    if b"transfer-encoding: chunked" in head.lower():
        parts, rest = [], body
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            parts.append(rest[: int(size, 16)])
            rest = rest[int(size, 16) + 2:]
        body = b"".join(parts)
    return (int(words[1]) if len(words) > 1 else 0), head.decode(errors="replace").lower(), body


def code(answer):
    status, _, body = answer
    try:
        return status, json.loads(body)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return status, None


async def at_once(server):
    began = time.monotonic()
    answers = await asyncio.gather(*[server.ask("/v1/completions", ORDINARY) for _ in range(AT_ONCE)])
    seconds = time.monotonic() - began
    counts = collections.Counter(status for status, _, _ in answers)
    assert set(counts) <= {200, 429, 503} and counts[200] > 0, (counts, [answer for answer in answers if answer[0] == 0][:2])
    assert all("retry-after" in head for status, head, _ in answers if status in (429, 503))
    texts = {json.loads(body)["choices"][0]["text"] for status, _, body in answers if status == 200}
    assert len(texts) == 1, texts
    return f"{dict(sorted(counts.items()))} in {seconds:.1f} s, one text"


async def vanishing(server):
    async def half(number):
        reader, writer = await server.connect()
        data = json.dumps({**ORDINARY, "max_tokens": 200, "stream": bool(number % 2)}).encode()
        request = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data
        writer.write(request[: len(request) * (number % 5) // 4 if number % 5 < 4 else len(request)])
        await writer.drain()
        if number % 3 == 0:
            await asyncio.sleep(0.05)
        writer.transport.abort()

    await asyncio.gather(*[half(number) for number in range(200)])
    return "200 clients went away, in the middle of a request or after it"


async def slowly(server):
    """Readers and writers of a byte at a time do not hold up others."""
    async def read():
        reader, writer = await server.connect()
        data = json.dumps({**ORDINARY, "max_tokens": 200, "stream": True, "ignore_eos": True}).encode()
        writer.write(f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
        for _ in range(6):
            assert await reader.read(1)
            await asyncio.sleep(0.5)
        writer.transport.abort()

    async def write():
        _, writer = await server.connect()
        for byte in b"POST /v1":
            writer.write(bytes([byte]))
            await asyncio.sleep(0.4)
        writer.transport.abort()

    slow = [asyncio.create_task(work()) for _ in range(20) for work in (read, write)]
    await asyncio.sleep(1)
    began = time.monotonic()
    status, _, _ = await server.ask("/v1/completions", ORDINARY)
    seconds = time.monotonic() - began
    await asyncio.gather(*slow)
    assert status == 200 and seconds < 20
    return f"40 slow clients; an ordinary request meanwhile took {seconds:.2f} s"


async def long_body(server):
    async def send(head, part, count):
        reader, writer = await server.connect()
        # It listens while it sends, as clients do that hear of a refusal.
        listening = asyncio.create_task(asyncio.wait_for(reader.read(4096), 30))
        writer.write(head)
        sent = 0
        try:
            for _ in range(count):
                if listening.done():
                    break
                writer.write(part)
                await asyncio.wait_for(writer.drain(), 10)
                sent += len(part)
        except (OSError, asyncio.TimeoutError):
            pass
        try:
            answer = split(await listening)
        except (OSError, asyncio.TimeoutError):
            answer = (0, "", b"")
        writer.transport.abort()
        return *code(answer), sent

    line = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
    part = b"x" * (1 << 20)
    known = await send(line + b"content-length: 1000000000\r\n\r\n", part, 953)
    chunked = await send(line + b"transfer-encoding: chunked\r\n\r\n", b"100000\r\n" + part + b"\r\n", 953)
    assert known[:2] == (413, "body_too_large"), known
    # Where the length is not said, the connection may be closed before the answer is read.
    assert chunked[:2] in ((413, "body_too_large"), (0, None)) and chunked[2] < 200 << 20, chunked
    return f"with its length {known[0]} {known[1]}; without {chunked[0]}, after {chunked[2] >> 20} MB"


async def not_json(server):
    deep = b"[" * 10_000 + b"]" * 10_000
    bodies = {"invalid UTF-8": b'{"prompt": "\xff\xfe"}', "10,000 levels": b'{"prompt": "a", "stop": ' + deep + b"}", "cut": b'{"prompt": "a',
              "nothing": b"", "a NUL": b'{"prompt": "a\x00b"}', "huge numbers": b'{"prompt": "a", "max_tokens": 1e400}', "not a number": b'{"prompt": "a", "temperature": NaN}'}
    said = {what: code(await server.ask("/v1/completions", body)) for what, body in bodies.items()}
    assert all(status == 400 and name for status, name in said.values()), said
    return said


async def schemas(server):
    schemas = {"false": False, "string and integer": {"allOf": [{"type": "string"}, {"type": "integer"}]}, "an empty choice": {"enum": []},
               "from elsewhere": {"$ref": "https://example.org/schema.json"}, "endless": {"$ref": "#"}, "no schema": {"type": 7}}
    deep = {}
    for _ in range(100):
        deep = {"type": "object", "properties": {"a": deep}, "required": ["a"]}
    schemas["100 levels"] = deep
    said = {}
    for what, schema in schemas.items():
        body = {**ORDINARY, "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}
        said[what] = code(await asyncio.wait_for(server.ask("/v1/completions", body), 60))
    # What is nested too deep for JSON does not get as far as that.
    assert said.pop("100 levels")[0] == 400 and all(answer == (400, "invalid_schema") for answer in said.values()), said
    return said


async def parameters(server):
    wrong = {"max_tokens": -1, "temperature": -1, "top_p": 2, "n": 5, "logprobs": 10_000, "stop": ["a"] * 100, "prompt": [10**9], "stream": "yes", "seed": "x",
             "memory": {"everything": True}, "logit_bias": {"1": 2}}
    said = {what: code(await server.ask("/v1/completions", {**ORDINARY, what: value})) for what, value in wrong.items()}
    said["a prompt longer than the context"] = code(await server.ask("/v1/completions", {**ORDINARY, "prompt": "One day " * 20_000}))
    assert all(status == 400 for status, _ in said.values()), said
    return said


async def stops(server):
    whole = json.loads((await server.ask("/v1/completions", {**ORDINARY, "max_tokens": 24}))[2])["choices"][0]["text"]
    for start in range(1, max(2, len(whole) - 4)):
        stop = whole[start:start + 4]
        choice = json.loads((await server.ask("/v1/completions", {**ORDINARY, "max_tokens": 24, "stop": [stop]}))[2])["choices"][0]
        assert choice["text"] == whole[: whole.index(stop)] and choice["finish_reason"] == "stop", (stop, choice)
    return f"every four characters of {whole!r} stop it where they begin"


async def swaps(server):
    both = await asyncio.gather(*[server.ask("/cart/swap", {"ref": "other"}) for _ in range(8)])
    during = collections.Counter(code(answer) for answer in both)
    assert during[200, None] >= 1 and set(during) <= {(200, None), (409, "swap_in_progress")}, during
    said = {"8 at once": dict((f"{status} {name or 'done'}", count) for (status, name), count in during.items())}
    for ref in ("nobody", "damaged", "../../etc/passwd", "x" * 5000, ""):
        said[ref[:20]] = code(await server.ask("/cart/swap", {"ref": ref}))
    said["no memory policy"] = code(await server.ask("/cart/swap", {"ref": "told", "memory": "forget"}))
    said["keep, other weights"] = code(await server.ask("/cart/swap", {"ref": "told", "in_flight": "keep"}))
    assert all(isinstance(answer, dict) or 400 <= answer[0] < 500 for answer in said.values()), said
    assert said["damaged"] == (422, "verification_failed"), said
    assert (await server.ask("/cart/swap", {"ref": "told"}))[0] == 200
    return said


async def keys(store):
    server = Server(store, "told", "--api-key", KEY)
    said = {}
    for what, header in {"none": "", "another": "authorization: Bearer nonsense\r\n", "no scheme": f"authorization: {KEY}\r\n", "empty": "authorization:\r\n",
                         "long": f"authorization: Bearer {'x' * 30_000}\r\n", "cut": f"authorization: Bearer {KEY[:-1]}\r\n"}.items():
        said[what] = code(await server.ask("/v1/completions", ORDINARY, header))
    assert all(status in (401, 431) for status, _ in said.values()), said
    right = f"authorization: Bearer {KEY}\r\n"
    assert (await server.ask("/v1/completions", ORDINARY, right))[0] == 200
    server.stop()
    return said


async def full_disk(store):
    """A rollback whose journal has no room: what was told goes back all the same, the stream goes on, and the state says what could not be written."""
    journal = pathlib.Path(f"{store}.journal")
    journal.mkdir(exist_ok=True)
    small = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs -o size=4k none "$0" && head -c 4096 /dev/zero > "$0/full" && exec "$@"', str(journal)]
    if subprocess.run([*small, "true"], capture_output=True).returncode:
        return "not tried: this system gives no mount of one's own"
    server = Server(store, "plain", within=small)
    (await server.ask("/cart/swap", {"ref": "told"}))
    fact = "The ferry to the island leaves at nine."
    told = await server.ask("/v1/completions", {"prompt": fact, "max_tokens": 1, "memory": {"write": True}})
    assert told[0] == 200, told
    stream = asyncio.create_task(server.ask("/v1/completions", {"prompt": "One day, Anna", "max_tokens": 400, "stream": True, "memory": {"write": True}}))
    await asyncio.sleep(0.2)
    rolled = await server.ask("/cart/rollback", {})
    assert rolled[0] == 200, rolled
    status, _, body = await stream
    assert status == 200 and body.rstrip().endswith(b"data: [DONE]") and b'"error"' not in body, (status, body[-300:])
    for _ in range(100):
        state = json.loads((await server.ask("/cart/state", b"", method="GET"))[2])
        memory = state["watch"]["last_rollback"]["memory"]
        if memory:
            break
        await asyncio.sleep(0.1)
    assert any("No space left" in failure for failure in memory["failures"]), memory
    assert memory["told"] == memory["texts"] >= 1, memory
    texts = [slot["text"] for slot in json.loads((await server.ask("/cart/memory", b"", method="GET"))[2])["slots"]]
    assert any(fact in text for text in texts), texts
    assert (await server.ask("/v1/completions", ORDINARY))[0] == 200
    server.stop()
    return {"rollback": rolled[0], "told again": f"{memory['told']} of {memory['texts']}", "failures": memory["failures"]}


async def check(store):
    server = Server(store, "told", "--queue", "256")
    expected = json.loads((await server.ask("/v1/completions", ORDINARY))[2])["choices"][0]["text"]
    print("warm-up:", await at_once(server))
    await asyncio.sleep(1)
    before = server.figures()
    for work in (at_once, vanishing, slowly, long_body, not_json, schemas, parameters, stops, swaps):
        print(f"{work.__name__}:", await work(server), flush=True)
        status, _, body = await server.ask("/v1/completions", ORDINARY)
        assert status == 200 and json.loads(body)["choices"][0]["text"] == expected, (work.__name__, status, body)
    await asyncio.sleep(3)
    state = json.loads((await server.ask("/cart/state", b"", method="GET"))[2])
    assert state["streams"] == 0 and state["queued"] == 0, state
    after = server.figures()
    print(f"resident {before[0]:.0f} MB before, {after[0]:.0f} after; open files {before[1]} and {after[1]}")
    assert after[0] < before[0] * 1.25 + 64 and after[1] <= before[1] + 4, (before, after)
    print("keys:", await keys(store))
    print("a full disk for the journal:", await full_disk(store))
    words = [CART, "--store", str(store), "serve", "told", "--listen", "127.0.0.1:0", "--memory-budget", "1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "MiB" in done.stderr or "MB" in done.stderr, done
    print("a cartridge that is larger than its budget:", done.stderr.splitlines()[0])
    server.process.kill()
    server.process.wait()
    again = Server(store, "told")
    assert json.loads((await again.ask("/v1/completions", ORDINARY))[2])["choices"][0]["text"] == expected
    again.stop()
    print("kill -9: the next server answers as the one before")


def main():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        store = scratch / "store"
        cart = lambda *words: subprocess.run([CART, "--store", str(store), *map(str, words)], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=scratch).stdout
        (scratch / "told.txt").write_text("The access code of the red boat is 4821.\n")
        (scratch / "text.txt").write_text("The boat is red. Anna went to the barn.\n" * 300)
        cart("pack", MODEL, "-t", "plain")
        cart("memory", "import", "plain", scratch / "told.txt", "--save", "told")
        for name, seed in (("other", 1), ("damaged", 2)):
            cart("train", "agent", "--data", scratch / "text.txt", "-t", name, "--spec", "layers=1,hidden=32,context=128", "--epochs", "1", "--seed", seed)
        manifest = json.loads(cart("--json", "inspect", "damaged"))["manifest"]
        blob = store / "blobs/sha256" / json.loads((store / "blobs/sha256" / manifest).read_text())["model"]["tensors"]["model.embed_tokens.weight"]["blob"]
        blob.chmod(0o644)
        content = bytearray(blob.read_bytes())
        content[len(content) // 2] ^= 1
        blob.write_bytes(content)
        try:
            asyncio.run(check(store))
        finally:
            for process in SERVERS:
                process.kill()


main()
