"""Our server, spoken to by others: the `openai` client.

Usage: check_server.py CART MODEL.gguf

Packs the model, serves it on a free port and goes through models, completions, chat, streaming, stops, log-probabilities and
errors. Then serves the small model of the fixtures and runs openai_swap.py, which streams while cartridges of different
weights are swapped, one of them damaged. Needs: openai, safetensors, numpy.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import openai
from safetensors.numpy import load_file, save_file

CART, MODEL = sys.argv[1:3]
HERE = pathlib.Path(__file__).resolve().parent
TINY = HERE.parents[1] / "fixtures" / "tiny"


class Server:
    """`cart serve` on a free port, ended when left."""

    def __init__(self, store, reference):
        self.command = [CART, "--store", str(store), "serve", reference, "--listen", "127.0.0.1:0"]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if found := re.search(r"http://[0-9.]+:\d+", line):
                self.url = found.group()
                return self
        raise SystemExit(f"the server said no address and ended with {self.process.wait()}")

    def __exit__(self, *_):
        self.process.terminate()
        code = self.process.wait(timeout=60)
        assert code == 0, f"the server ended with {code}"


def cart(*arguments, store):
    done = subprocess.run([CART, "--store", store, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, (arguments, done.returncode, done.stderr)
    return done.stdout


def check_models(client):
    listed = client.models.list().data
    assert [model.id for model in listed] == ["smol"], listed
    assert client.models.retrieve("smol").owned_by == "cart"
    try:
        client.models.retrieve("gpt-4")
        raise AssertionError("a model that is not served was found")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found", error


def check_completions(client, store):
    prompt = "The capital of France is"
    ran = json.loads(cart("--json", "run", "smol", "-p", prompt, "-n", "12", store=store))
    plain = client.completions.create(model="smol", prompt=prompt, max_tokens=12, temperature=0)
    assert plain.choices[0].text == ran["text"], (plain.choices[0].text, ran["text"])
    assert "Paris" in plain.choices[0].text, plain
    assert plain.usage.completion_tokens == len(ran["token_ids"]), plain.usage
    assert plain.usage.prompt_tokens == len(ran["prompt_ids"]), plain.usage
    stream = client.completions.create(model="smol", prompt=prompt, max_tokens=12, temperature=0, stream=True)
    chunks = [choice.text for chunk in stream for choice in chunk.choices]
    assert "".join(chunks) == ran["text"] and len(chunks) > 5, chunks
    stop = ran["text"][len(ran["text"]) // 2 :][:3]
    stopped = client.completions.create(model="smol", prompt=prompt, max_tokens=12, temperature=0, stop=[stop])
    assert stopped.choices[0].finish_reason == "stop", stopped
    assert stopped.choices[0].text == ran["text"].split(stop)[0], (stopped.choices[0].text, stop)
    first, second = (
        client.completions.create(model="smol", prompt=prompt, max_tokens=12, temperature=1.2, seed=7).choices[0].text
        for _ in range(2)
    )
    assert first == second, (first, second)
    best = client.completions.create(model="smol", prompt=prompt, max_tokens=2, temperature=0, logprobs=3)
    logprobs = best.choices[0].logprobs
    assert len(logprobs.tokens) == 2 and len(logprobs.top_logprobs[0]) == 3, logprobs
    assert abs(logprobs.token_logprobs[0] - ran["logprobs"][0]) < 1e-3, (logprobs, ran["logprobs"])


def check_chat(client):
    messages = [{"role": "user", "content": "Name one colour."}]
    answer = client.chat.completions.create(model="smol", messages=messages, max_tokens=24, temperature=0)
    text = answer.choices[0].message.content
    assert answer.choices[0].message.role == "assistant" and text, answer
    stream = client.chat.completions.create(
        model="smol", messages=messages, max_tokens=24, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    pieces, usage, finish = [], None, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces.append(choice.delta.content or "")
            finish = choice.finish_reason or finish
    assert "".join(pieces) == text, ("".join(pieces), text)
    assert finish == answer.choices[0].finish_reason and usage.completion_tokens > 0, (finish, usage)
    with client.chat.completions.create(model="smol", messages=messages, max_tokens=400, stream=True) as left:
        next(iter(left))  # A client that goes away is no trouble to the others.


def check_responses(client):
    options = {"model": "smol", "temperature": 0, "max_output_tokens": 24}
    first = client.responses.create(input="The capital of France is", instructions="Answer in one word.", **options)
    assert first.output_text and first.status in ("completed", "incomplete"), first
    assert first.usage.total_tokens == first.usage.input_tokens + first.usage.output_tokens
    assert client.responses.retrieve(first.id).output_text == first.output_text
    turn = [{"role": "user", "content": [{"type": "input_text", "text": "And of Italy?"}]}]
    second = client.responses.create(input=turn, previous_response_id=first.id, **options)
    assert second.previous_response_id == first.id and second.usage.input_tokens > 20, second
    with client.responses.stream(input=turn, previous_response_id=first.id, **options) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response() if kinds[-1] == "response.completed" else None
    assert kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete"), kinds
    assert final is None or final.output_text == second.output_text
    client.responses.delete(first.id)
    try:
        client.responses.create(input="again", previous_response_id=first.id, **options)
        raise AssertionError("a deleted response was gone on from")
    except openai.BadRequestError as error:
        assert error.code == "previous_response_not_found", error


def check_errors(client):
    for arguments in [
        {"prompt": "x", "temperature": -1},
        {"prompt": "x", "top_p": 3},
        {"prompt": "x", "max_tokens": -1},
        {"prompt": "x", "stop": [""]},
        {"prompt": "word " * 100_000},
    ]:
        try:
            client.completions.create(model="smol", **{"max_tokens": 2, **arguments})
            raise AssertionError(f"{str(arguments)[:80]} was accepted")
        except openai.BadRequestError as error:
            assert error.type == "invalid_request_error" and len(error.message) > 20, error
    try:
        client.chat.completions.create(model="smol", messages=[])
        raise AssertionError("a conversation without messages was accepted")
    except openai.BadRequestError:
        pass


def pack_variant(directory, name, factor, store):
    """The small model with its last norm scaled, so that it says other things."""
    folder = directory / name
    shutil.copytree(TINY, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * tensors["model.norm.weight"].dtype.type(factor)
    rows = tensors["model.embed_tokens.weight"]
    rows[: len(rows) // 2] *= rows.dtype.type(1 + factor / 10)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    cart("pack", folder, "-t", name, store=store)


def damage(store, name):
    manifest = json.loads(cart("inspect", name, "--manifest", store=store))
    blob = store / "blobs" / "sha256" / manifest["model"]["tensors"]["model.embed_tokens.weight"]["blob"]
    blob.chmod(0o644)
    with open(blob, "r+b") as file:
        file.seek(1000)
        byte = file.read(1)
        file.seek(1000)
        file.write(bytes([byte[0] ^ 4]))


def check_swaps(directory):
    store = directory / "tiny-store"
    cart("pack", TINY, "-t", "one", store=store)
    pack_variant(directory, "two", 0.5, store)
    pack_variant(directory, "broken", 2, store)
    damage(store, "broken")
    for mode in ["finish", "boundary"]:
        with Server(store, "one") as server:
            options = ["--damaged", "broken", "--streams", "16", "--swaps", "8", "--tokens", "30", "--in-flight", mode]
            command = [sys.executable, HERE / "openai_swap.py", server.url, "one", "two", *options]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, (done.stdout, done.stderr)
            report = json.loads(done.stdout)
            assert report["prompts_whose_texts_differ"] > 4, report
            print(
                f"{mode}: {report['streams']} streams over {report['swaps']} swaps, {report['dropped']} dropped, "
                f"{report['garbled']} garbled, pause {report['pause_ms']} ms, the damaged one refused"
            )


with tempfile.TemporaryDirectory() as name:
    directory = pathlib.Path(name)
    store = directory / "store"
    cart("pack", MODEL, "-t", "smol", store=store)
    with Server(store, "smol") as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        check_models(client)
        check_completions(client, store)
        check_chat(client)
        check_responses(client)
        check_errors(client)
        print(f"openai {openai.__version__}: models, completions, chat, responses, streams, stops, seeds, log-probabilities, errors")
    check_swaps(directory)
print("check_server: 2 passed, 0 failed")
