# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Hashed attention beside the golden files: arguments, and cases where it is exact attention.
import numpy as np
import pytest
from reference import Attention, check

import longspan


def make(rng, dtype=np.float64, seqlen=96, heads_kv=2):
    return [rng.standard_normal((2, seqlen, heads, 8)).astype(dtype) for heads in (4, heads_kv, heads_kv, 4)]


def test_windows_that_hold_everything_are_exact_attention(rng):
    query, key, value, doutput = make(rng)
    everything = dict(num_hashes=2, chunk_len=16, chunks_before=5, chunks_after=5)
    queries, keys = np.arange(96)[:, None], np.arange(96)
    exact = Attention(query, key, value, visible=keys <= queries, sinks=np.ones(4))
    options = dict(mask=longspan.causal(), sinks=np.ones(4), **everything)
    output, lse = longspan.lsh_attention(query, key, value, return_lse=True, **options)
    check(output, exact.output, 1e-12)
    check(lse, exact.lse, 1e-12)
    gradients = longspan.lsh_attention_backward(doutput, query, key, value, output, lse, **options)
    for got, expected in zip((gradients.query, gradients.key, gradients.value, gradients.sinks),
                             [g for g in exact.gradients(doutput) if g is not None]):
        check(got, expected, 1e-11)


def test_buckets_go_out_and_in(rng):
    query, key, value, doutput = make(rng, np.float32)
    options = dict(num_hashes=3, chunk_len=16, num_buckets=(2, 4), seed=9, mask=longspan.key_lengths([96, 50]))
    output, lse, buckets = longspan.lsh_attention(query, key, value, return_lse=True, return_buckets=True, **options)
    of_query, of_key = buckets
    assert of_query.shape == (2, 4, 3, 96) and of_key.shape == (2, 2, 3, 96) and of_key.dtype == np.int32
    assert of_query.max() == 7 and np.all(of_key[1, :, :, 50:] == 8)  # padding lies behind the last bucket
    assert np.array_equal(longspan.lsh_attention(query, key, value, **options), output)
    del options["seed"]
    assert np.array_equal(longspan.lsh_attention(query, key, value, buckets=buckets, **options), output)
    again = longspan.lsh_attention_backward(doutput.astype(np.float32), query, key, value, output, lse, buckets=buckets,
                                            **options)
    other = longspan.lsh_attention_backward(doutput.astype(np.float32), query, key, value, output, lse, seed=9, **options)
    for a, b in zip(again[:3], other[:3]):
        assert np.array_equal(a, b) and a.any()


def test_what_is_true_is_yes(rng):
    query, _, value, _ = make(rng, heads_kv=4)
    output, lse, buckets = longspan.lsh_attention(query, None, value, whole_buckets=True, return_lse=True, return_buckets=True)
    for yes in (1, np.True_):
        found = longspan.lsh_attention(query, None, value, whole_buckets=yes, return_lse=yes, return_buckets=yes)
        assert all(np.array_equal(a, b) for a, b in zip(found, (output, lse, buckets), strict=True))
    plain = longspan.lsh_attention(query, None, value)
    for no in (0, np.False_, None):
        found = longspan.lsh_attention(query, None, value, whole_buckets=no, return_lse=no, return_buckets=no)
        assert np.array_equal(found, plain)


def test_gradients_are_derivatives(rng):
    query, _, value, doutput = make(rng, heads_kv=4)
    options = dict(num_hashes=2, chunk_len=16, seed=4, mask=longspan.causal())
    output, lse = longspan.lsh_attention(query, None, value, return_lse=True, **options)
    buckets = longspan.lsh_attention(query, None, value, return_buckets=True, **options)[1]
    gradients = longspan.lsh_attention_backward(doutput, query, None, value, output, lse, **options)
    step, direction = 1e-5, rng.standard_normal(query.shape)
    ends = [np.sum(doutput * longspan.lsh_attention(query + s * direction, None, value, buckets=buckets, **options))
            for s in (step, -step)]
    check(np.sum(gradients.query * direction), (ends[0] - ends[1]) / (2 * step), 1e-6)


def test_layout_and_ranks(rng):
    query, _, value, _ = make(rng, heads_kv=4)
    output, buckets = longspan.lsh_attention(query, None, value, return_buckets=True)
    swapped = longspan.lsh_attention(np.swapaxes(query, 1, 2), None, np.swapaxes(value, 1, 2), layout="bhsd",
                                     return_buckets=True)
    assert np.array_equal(np.swapaxes(swapped[0], 1, 2), output) and np.array_equal(swapped[1], buckets)
    alone = longspan.lsh_attention(query[1], None, value[1], return_buckets=True)
    assert np.array_equal(alone[0], output[1]) and np.array_equal(alone[1], buckets[1])
    one_head, of_one_head = longspan.lsh_attention(query[1, :, 0], None, value[1, :, 0], return_buckets=True)
    assert np.array_equal(one_head, output[1, :, 0]) and np.array_equal(of_one_head, buckets[1, 0])


def test_what_is_said_goes_before_the_preset(rng):
    query, _, value, _ = make(rng, heads_kv=4)
    lab = longspan.lsh_attention(query, None, value, preset="lab")
    assert not np.array_equal(lab, longspan.lsh_attention(query, None, value))
    spelled = longspan.lsh_attention(query, None, value, dedup="none", wrap="all", key_norm="rms")
    assert np.array_equal(lab, spelled)
    assert np.array_equal(longspan.lsh_attention(query, None, value, preset="lab", dedup="exact", wrap="none"),
                          longspan.lsh_attention(query, None, value))


def test_a_predicate_acts_in_windows(rng):
    query, key, value, _ = make(rng)
    predicate = longspan.predicate(lambda b, h, i, j: j <= i)
    check(longspan.lsh_attention(query, key, value, mask=predicate, seed=3),
          longspan.lsh_attention(query, key, value, mask=longspan.causal(), seed=3), 1e-12)


@pytest.mark.parametrize("option, words", [
    (dict(dedup="twice"), "dedup must be one of exact, log-count, none; found \"twice\""),
    (dict(preset="trax"), "preset must be one of"),
    (dict(num_hashes=0), "num_hashes must be in"),
    (dict(num_buckets=7), "num_buckets must be even"),
    (dict(buckets=np.zeros((2, 4, 4, 95), np.int64)), r"\[2, 4, 4, 96\]; found \[2, 4, 4, 95\]"),
    (dict(buckets=[np.zeros((2, 4, 4, 96), np.int64)]), "not enough values"),
    (dict(buckets=2 * (np.zeros((2, 4, 4, 96), np.int64),)), "shared query and key take buckets; found query_buckets"),
    (dict(scale=2.0), "scale"),
    (dict(seed=-1), r"seed must be in 0..2\^64 - 1; found -1"),
])
def test_errors(option, words, rng):
    query, _, value, _ = make(rng, heads_kv=4)
    with pytest.raises(ValueError, match=words):
        longspan.lsh_attention(query, None, value, **option)


@pytest.mark.parametrize("option", [dict(bias=np.zeros(1)), dict(buckets=np.zeros((2, 4, 4, 96)))])
def test_type_errors(option, rng):
    query, _, value, _ = make(rng, heads_kv=4)
    with pytest.raises(TypeError, match=next(iter(option))):
        longspan.lsh_attention(query, None, value, **option)


def test_diagnosis(rng):
    query, key, value, _ = make(rng, np.float32, heads_kv=4)
    found = longspan.diagnose_lsh(query, key, value, samples=100, num_hashes=2, num_buckets=8, chunk_len=16, seed=3,
                                  mask=longspan.causal())
    assert list(found) == ["rows", "recalled_mass", "recalled_pairs", "output_error", "cut_pairs", "finds_per_pair",
                           "bucket_sizes"]
    assert found["rows"] == 100 and list(found["recalled_mass"]) == ["value", "low", "high"]
    assert 0 < found["recalled_mass"]["low"] < found["recalled_mass"]["value"] < found["recalled_mass"]["high"] < 1
    assert [list(sizes) for sizes in found["bucket_sizes"]] == [["smallest", "mean", "largest", "empty", "over_chunk"]] * 2
    everything = longspan.diagnose_lsh(query, None, value, num_hashes=2, chunk_len=16, chunks_before=5, chunks_after=5)
    assert everything["rows"] == 256 and everything["recalled_mass"]["value"] == 1
    assert everything["output_error"]["value"] < 1e-6 and everything["finds_per_pair"]["value"] == 2
    with pytest.raises(ValueError, match="samples must be at least 1; found 0"):
        longspan.diagnose_lsh(query, key, value, samples=0)
    with pytest.raises(TypeError, match="rounds"):
        longspan.diagnose_lsh(query, key, value, rounds=3)
