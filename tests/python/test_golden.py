# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# The golden files through the Python package: exact attention, hashed attention with given buckets, gradients.
import numpy as np
import pytest
from golden import FOLDER, arguments, load, names
from reference import check, check_lse

import longspan

# Files where scores are in the hundreds, with the error that float32, or the file's own type, leaves there.
HARD = {"peaked_f32": 2e-5, "peaked_bf16": 8e-3, "huge_logits_f32": 2e-5, "f16_large": 5e-3}
TOLERANCE = {"float64": 1e-12, "float32": 3e-6, "float16": 2e-3, "bfloat16": 8e-3}
# Zero in truth in these files: what is left is rounding.
ZERO = {("constant_scores", "dkey"), ("bias_query_column", "dbias")} | {
    (name, gradient) for gradient in ("dquery", "dkey")
    for name in ("f16_large", "huge_negative_logits", "seqlen_1", "value_ones", "window_zero")}


def check_gradients(name, tensors, gradients, tolerance):
    fields = {"dquery": "query", "dquery_key": "query", "dkey": "key", "dvalue": "value", "dbias": "bias",
              "dsinks": "sinks"}
    seen = 0
    for stored, field in fields.items():
        if stored not in tensors:
            continue
        seen += 1
        if (name, stored) in ZERO:
            # exact zeros times the largest operand, in the type of the file
            assert np.max(np.abs(np.asarray(getattr(gradients, field), float) - tensors[stored])) <= 1e-2
        else:
            check(getattr(gradients, field), tensors[stored], tolerance, stored)
    assert seen >= 2


@pytest.mark.parametrize("name", names("exact"))
def test_exact(name):
    tensors, metadata = load(FOLDER / "exact" / f"{name}.safetensors")
    query, key, value = (tensors[n] for n in ("query", "key", "value"))
    options = arguments(tensors, metadata)
    output, lse = longspan.attention(query, key, value, return_lse=True, **options)
    assert output.dtype == query.dtype and lse.dtype == (np.float64 if query.dtype == np.float64 else np.float32)
    tolerance = HARD.get(name, TOLERANCE[query.dtype.name])
    check(output, tensors["output"], tolerance)
    hard = name in HARD
    check_lse(lse, tensors["lse"], 5e-3 if hard else 4e-6, 2e-6 if query.dtype != np.float64 else 1e-13)
    if "dquery" not in tensors:
        return
    doutput = tensors["doutput"].astype(query.dtype)
    gradients = longspan.attention_backward(doutput, query, key, value, output, lse, dlse=tensors.get("dlse"), **options)
    check_gradients(name, tensors, gradients, max(4 * tolerance, 2e-5) if query.dtype != np.float64 else 1e-11)


def lsh_names():
    """Without the steps of the lab, what attends inside buckets only, and what is not to be matched (a warning)."""
    return [name for name in names("lsh")
            if (not name.startswith("lab_") or name == "lab_3_5_lsh_self_attention") and "same_bucket" not in name
            and "warning" not in load(FOLDER / "lsh" / f"{name}.safetensors")[1]]


@pytest.mark.parametrize("name", lsh_names())
def test_lsh(name):
    tensors, metadata = load(FOLDER / "lsh" / f"{name}.safetensors")
    # The files are float64 in their answers; float64 inputs test the calls alone.
    query, value = (tensors[n].astype(np.float64) for n in ("query_key", "value"))
    options = arguments(tensors, metadata)
    if name.startswith("lucidrains"):  # its self score is the preset's; the file says the rest
        options["preset"] = "lucidrains"
    rotations = options.pop("rotations", None)
    expected = tensors.get("expected_buckets")
    # A sequence of one chunk is not hashed.
    hashes = rotations is not None and expected is not None and query.shape[1] > options["chunk_len"]
    if hashes:
        hashed, buckets = longspan.lsh_attention(query, None, value, rotations=rotations, return_buckets=True, **options)
        assert np.array_equal(buckets, expected)
        options["buckets"] = expected
    output, lse = longspan.lsh_attention(query, None, value, return_lse=True, **options)
    tolerance = 1e-8 if "discounted" in name else 1e-11
    check(output, tensors["output"], tolerance)
    if hashes:
        assert np.array_equal(hashed, output, equal_nan=True)  # hashing here or buckets from there: the same bits
    if "lse" in tensors:
        check_lse(lse, tensors["lse"], 1e-9, 1e-9)
    if "dquery_key" in tensors:
        gradients = longspan.lsh_attention_backward(tensors["doutput"].astype(np.float64), query, None, value, output, lse,
                                                    dlse=tensors.get("dlse"), **options)
        assert gradients.key is None
        check_gradients(name, tensors, gradients, 1e-7 if "discounted" in name else 1e-9)
