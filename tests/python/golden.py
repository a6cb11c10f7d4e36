# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Golden files: tensors by name, and their option strings as arguments of Python.
import json
from pathlib import Path

import ml_dtypes
import numpy as np

import longspan

FOLDER = Path(__file__).resolve().parents[1] / "golden"
DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
          "I32": np.int32, "BOOL": np.bool_, "U8": np.uint8}


def load(path):
    """(tensors by name, metadata) of a safetensors file. The arrays are read-only views of its bytes."""
    data = Path(path).read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + size + n for n in entry["data_offsets"])
        # A copy where the file is not aligned for the type.
        array = np.frombuffer(bytearray(data[begin:end]), DTYPES[entry["dtype"]]).reshape(entry["shape"])
        array.flags.writeable = False
        tensors[name] = array
    return tensors, metadata


def names(folder):
    return sorted(path.stem for path in (FOLDER / folder).glob("*.safetensors"))


def integers(text):
    return [int(number) for number in text.split(",")]


# word -> (argument of Python, its value from the text); those without a text are flags.
ARGUMENTS = {
    "--scale": ("scale", float), "--softcap": ("softcap", float), "--layout": ("layout", str),
    "--dropout": ("dropout_p", float), "--seed": ("seed", int), "--query-chunk": ("query_chunk", int),
    "--key-chunk": ("key_chunk", int), "--preset": ("preset", str), "--num-hashes": ("num_hashes", int),
    "--num-buckets": ("num_buckets", integers), "--chunk-len": ("chunk_len", int),
    "--chunks-before": ("chunks_before", int), "--chunks-after": ("chunks_after", int), "--dedup": ("dedup", str),
    "--wrap": ("wrap", str), "--key-norm": ("key_norm", str),
    "--query-offset": ("query_offset", lambda text: text if text == "end" else int(text)),
}


def arguments(tensors, metadata):
    """The keyword arguments that a file's option string and its tensors stand for."""
    words = iter(metadata["options"].replace("=", " ").split())
    options, masks = {}, []
    for word in words:
        if word == "--causal":
            masks.append(longspan.causal())
        elif word == "--window":
            masks.append(longspan.window(*integers(next(words))))
        elif word == "--prefix":
            masks.append(longspan.prefix(int(next(words))))
        elif word == "--method":
            next(words)
        elif word in ARGUMENTS:
            name, parse = ARGUMENTS[word]
            options[name] = parse(next(words))
        elif word != "--backward":
            raise ValueError(word)
    if "query_offset" in tensors:
        options["query_offset"] = tensors["query_offset"]
    if "key_lengths" in tensors:
        masks.append(longspan.key_lengths(tensors["key_lengths"]))
    if "cu_seqlens_q" in tensors:
        masks.append(longspan.documents(tensors["cu_seqlens_q"], tensors.get("cu_seqlens_k")))
    if "mask" in tensors:
        masks.append(longspan.dense(tensors["mask"].astype(bool)))
    mask = None
    for term in masks:
        mask = term if mask is None else mask & term
    options["mask"] = mask
    for name in ("bias", "alibi_slopes", "sinks", "rotations", "buckets"):
        if name in tensors:
            options[name] = tensors[name]
    return options
