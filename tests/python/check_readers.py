"""What we write, read by others: Python's safetensors and gguf.

Usage: check_readers.py CART MODEL.gguf

Packs the model into a store and a .cart file, opens the file with safetensors, exports the GGUF and opens it with gguf,
then does the same for a small Hugging Face folder in two shards. Needs: safetensors, gguf, numpy.
"""

import filecmp
import hashlib
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

import gguf
from safetensors import safe_open

CART, MODEL = sys.argv[1:3]
ROOT = pathlib.Path(__file__).resolve().parents[2]


def cart(*arguments, store):
    done = subprocess.run([CART, "--store", store, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, (arguments, done.returncode, done.stderr)
    return done.stdout


def check_cart_file(path, manifest_id):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    metadata = header.pop("__metadata__")
    assert (8 + length) % 4096 == 0, f"data starts at {8 + length}"
    spans = sorted((entry["data_offsets"], name) for name, entry in header.items())
    end = 0
    for (start, stop), name in spans:
        assert start == end, f"hole before {name}"
        if not name.startswith("cart.pad."):
            assert (8 + length + start) % 64 == 0, f"{name} starts at {8 + length + start}"
        end = stop
    assert spans[0][1] == "cart.manifest", spans[0]
    assert end + 8 + length == pathlib.Path(path).stat().st_size
    read = 0
    with safe_open(path, framework="numpy") as opened:
        for name in opened.keys():
            tensor = opened.get_tensor(name)
            read += tensor.nbytes
            if name == "cart.manifest":
                assert hashlib.sha256(tensor.tobytes()).hexdigest() == manifest_id
    print(f"safetensors read {len(header)} tensors, {read} bytes; metadata {metadata}")


def check_gguf(scratch):
    store = scratch / "store"
    report = json.loads(cart("--json", "pack", MODEL, "-t", "smol", "-o", scratch / "smol.cart", store=store))
    check_cart_file(scratch / "smol.cart", report["manifest"])
    cart("export", "smol", "--as", "gguf", "-o", scratch / "back.gguf", store=store)
    assert filecmp.cmp(MODEL, scratch / "back.gguf", shallow=False), "the exported GGUF differs"
    tensors = gguf.GGUFReader(scratch / "back.gguf").tensors
    print(f"gguf read {len(tensors)} tensors of the exported file, which is identical")


def check_folder(scratch):
    store = scratch / "store"
    folder = ROOT / "fixtures" / "logits" / "llama-f32-sharded"
    report = json.loads(cart("--json", "pack", folder, "-t", "sharded", "-o", scratch / "sharded.cart", store=store))
    check_cart_file(scratch / "sharded.cart", report["manifest"])
    back = scratch / "back"
    cart("export", "sharded", "--as", "hf", "-o", back, store=store)
    names = sorted(path.name for path in back.iterdir())
    for name in names:
        assert filecmp.cmp(folder / name, back / name, shallow=False), f"{name} differs"
    assert sum(name.endswith(".safetensors") for name in names) == 2, names
    print(f"a folder in two shards came back identical: {', '.join(names)}")


with tempfile.TemporaryDirectory() as directory:
    check_gguf(pathlib.Path(directory))
    check_folder(pathlib.Path(directory))
print("check_readers: 2 passed, 0 failed")
