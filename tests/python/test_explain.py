# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""longspan.explain: its steps are what the other functions give, and its three renderings hold them."""
import json

import numpy as np
import pytest

import longspan


def inputs(seed=0, dtype=np.float32, shape=(1, 12, 2, 4), value_dim=3):
    random = np.random.default_rng(seed)
    return [random.standard_normal(s).astype(dtype) for s in (shape, shape, (*shape[:-1], value_dim))]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["bshd", "bhsd"])
def test_exact_steps_are_those_of_attention(dtype, layout):
    query, key, value = inputs(dtype=dtype)
    if layout == "bhsd":
        query, key, value = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
    mask = longspan.causal()
    record = longspan.explain(query, key, value, mask=mask, key_chunk=5, layout=layout)
    output, lse = longspan.attention(query, key, value, mask=mask, layout=layout, return_lse=True)
    steps = record.steps
    expected = output[0] if layout == "bshd" else output[0].transpose(1, 0, 2)
    np.testing.assert_allclose(steps["output"], expected, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(steps["lse"], lse[0], rtol=2e-6, atol=1e-6)
    for c in range(3):
        scores, weights = steps[f"chunk_{c}/scores"], steps[f"chunk_{c}/weights"]
        finite = np.isfinite(scores)
        largest = np.where(finite, scores, np.finfo(dtype).min).max(-1, keepdims=True)
        np.testing.assert_allclose(weights[finite], np.exp(np.where(finite, scores - largest, 0))[finite], rtol=1e-5)
        np.testing.assert_allclose(weights.sum(-1), steps[f"chunk_{c}/sum"], rtol=1e-5)
    np.testing.assert_allclose(steps["plain/weights"].sum(-1), 1, rtol=1e-12)


def test_lsh_steps_are_those_of_lsh_attention():
    query, _, value = inputs(1, np.float64, (40, 2, 4))
    options = dict(num_hashes=3, num_buckets=4, chunk_len=8, mask=longspan.causal())
    record = longspan.explain(query, None, value, method="lsh", **options)
    output, buckets = longspan.lsh_attention(query, None, value, return_buckets=True, **options)
    assert record.method == "lsh"
    np.testing.assert_allclose(record.steps["output"], output, rtol=1e-12, atol=1e-12)
    assert record.steps["buckets"].dtype == np.int64
    np.testing.assert_array_equal(record.steps["buckets"], buckets)


def test_renderings_hold_the_same_numbers():
    record = longspan.explain(*inputs(2), rows=(2, 4), heads=slice(1, 2), chunks=range(0, 1))
    parsed = json.loads(record.json())
    assert parsed["schema"] == 1 and parsed["method"] == "exact"
    by_name = {step["name"]: step for step in parsed["steps"]}
    steps = record.steps
    assert by_name.keys() == steps.keys()
    for name, step in by_name.items():
        assert step["shape"] == list(steps[name].shape)
        found = np.array(step["values"], object)
        numbers = np.array([float(x) for x in found.reshape(-1)]).reshape(step["shape"])
        np.testing.assert_array_equal(numbers, steps[name])
    assert steps["chunk_0/scores"].shape == (2, 1, 3)
    assert "chunk_0/weights" in record.text() and max(map(len, record.text(60).splitlines())) <= 60
    page = record.html()
    assert page.startswith("<!DOCTYPE html>") and "<svg" in page and "<script" not in page
    assert record.html(1) == page and record.html(np.True_) == page
    assert "<body" not in record._repr_html_() and "<svg" in record._repr_html_()
    assert record.title in repr(record) and str(record) == record.text()


def test_bad_input_is_refused_in_words():
    query, key, value = inputs(3)
    with pytest.raises(ValueError, match="method must be 'exact' or 'lsh'; found 'flash'"):
        longspan.explain(query, key, value, method="flash")
    with pytest.raises(TypeError, match=r"explain\(\) got an unexpected keyword argument 'dropout_p'"):
        longspan.explain(query, key, value, dropout_p=0.5)
    with pytest.raises(TypeError, match="key_chunk"):
        longspan.explain(query, None, value, method="lsh", key_chunk=4)
    with pytest.raises(ValueError, match="rows must choose some of 0 to 11; found 12:20"):
        longspan.explain(query, key, value, rows=(12, 20))
    with pytest.raises(ValueError, match="rows needs an end"):
        longspan.explain(query, key, value, rows=slice(3, None))
    for stepped in (slice(0, 10, 2), range(0, 10, 3), slice(9, 0, -1)):
        with pytest.raises(ValueError, match=f"rows must have no step but 1; found {stepped.step}"):
            longspan.explain(query, key, value, rows=stepped)
    for empty in (query[:, :0], query[:, :, :0]):  # no positions, no heads
        with pytest.raises(ValueError, match="expected some queries, keys and heads"):
            longspan.explain(empty, empty, empty)
    large = np.zeros((2000, 2, 64), np.float32)
    with pytest.raises(ValueError, match="more than 40000 numbers"):
        longspan.explain(large, large, large)
