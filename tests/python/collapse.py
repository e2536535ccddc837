"""A cartridge that says the same over and over is left by itself.

    python tests/python/collapse.py target/release/cart MODEL.gguf [--streams 8]

Packs MODEL, and a copy that attends to nothing and whose last norm is thirty times as large, so that each token follows from the one before and is nearly
certain: it goes round in circles, but packs, verifies and warms up like any other.
Serves MODEL with what it watches for as it is when nothing is said, tells its memory something, swaps to the copy under streams that are moved to it,
and waits until the server has gone back by itself. Says after how long that was and how long it took. Ends with 0 if it went back because of the
collapse, every stream came to its end, on MODEL, and the memory has what it was told. Needs the package `gguf`.
"""

import argparse
import http.client
import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import threading
import time

import gguf
import numpy

FACT = "The access code of the red boat is 4821."


def collapsed(model, path):
    shutil.copyfile(model, path)
    with open(path, "r+b") as file:
        for tensor in gguf.GGUFReader(model).tensors:
            file.seek(int(tensor.data_offset))
            if tensor.name == "output_norm.weight":
                assert tensor.tensor_type == gguf.GGMLQuantizationType.F32, tensor.tensor_type
                file.write((numpy.array(tensor.data, dtype=numpy.float32) * 30).tobytes())
            elif tensor.name.endswith("attn_output.weight"):
                file.write(bytes(int(tensor.n_bytes)))


def ask(host, path, body=None):
    connection = http.client.HTTPConnection(host, timeout=300)
    try:
        connection.request("GET" if body is None else "POST", path, body and json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cart")
    parser.add_argument("model")
    parser.add_argument("--streams", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        collapsed(args.model, scratch / "collapsed.gguf")
        cart = [args.cart, "--store", str(scratch / "store"), "--quiet"]
        for model, name in ((args.model, "well"), (scratch / "collapsed.gguf", "collapsed")):
            subprocess.run([*cart, "pack", str(model), "-t", name], check=True, stdout=subprocess.DEVNULL)
        server = subprocess.Popen([*cart, "serve", "well", "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
        host = re.search(r"http://([0-9.:]+)", server.stdout.readline()).group(1)
        try:
            report = journey(host, args.streams)
        finally:
            server.terminate()
            code = server.wait(120)
    print(json.dumps(report, indent=1))
    well = report["trip"]["kind"] == "collapsed" and report["ended"] == args.streams and report["ended_on"] == ["well"] and report["remembered"] == report["told"]
    raise SystemExit(0 if well and code == 0 else 1)


def journey(host, streams):
    told = {"prompt": FACT, "max_tokens": 1, "memory": {"write": True, "prefix": False}}
    assert ask(host, "/v1/completions", told)[0] == 200
    slots = lambda: sum(json.loads(ask(host, "/cart/state")[1])["memory"][store]["slots"] for store in ("stm", "ltm"))
    before, ends = slots(), []

    def stream(number):
        body = {"prompt": f"Tell me a long story of boat {number} and the sea.", "max_tokens": 700, "stream": True, "temperature": 0.8, "seed": number, "ignore_eos": True}
        status, text = ask(host, "/v1/completions", body)
        ends.append(text) if status == 200 and text.rstrip().endswith("data: [DONE]") and '"error"' not in text else None

    threads = [threading.Thread(target=stream, args=(number,)) for number in range(streams)]
    for thread in threads:
        thread.start()
    time.sleep(3)
    began = time.monotonic()
    status, text = ask(host, "/cart/swap", {"ref": "collapsed", "in_flight": "boundary", "memory": "replace"})
    assert status == 200, text
    swap = json.loads(text)
    while not (last := json.loads(ask(host, "/cart/state")[1])["watch"].get("last_rollback")) or last.get("recover_ms") is None:
        assert time.monotonic() - began < 60, "it was not left within a minute"
        time.sleep(0.05)
    noticed = time.monotonic() - began
    for thread in threads:
        thread.join()
    state = json.loads(ask(host, "/cart/state")[1])
    return {"moved_to_it": swap["streams_moved"], "trip": last["trip"], "back_after_s": round(noticed, 2), "recovered_in_ms": round(last["recover_ms"], 1),
            "moved_back": last.get("streams_moved"), "dropped": last.get("streams_dropped"), "ended": len(ends), "ended_on": [state["active"]["name"]],
            "told": before, "remembered": slots()}


main()
