# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# The cache of hashed keys: steps through it equal hashed attention over everything.
import ml_dtypes
import numpy as np
import pytest
from reference import check

import longspan

LSH = dict(num_hashes=3, num_buckets=(4, 2), chunk_len=8, seed=5)


def make(rng, dtype, seqlen=60, batch=2):
    return [rng.standard_normal((batch, seqlen, heads, 16)).astype(dtype) for heads in (4, 2, 2)]


def cache_of(dtype, batch=2, **options):
    return longspan.LshCache(2, 16, 16, dtype, batch=batch, **{**LSH, **options})


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 5e-6), (np.float64, 1e-12), (ml_dtypes.bfloat16, 1e-2)])
def test_steps_equal_prefill(shared, dtype, tolerance, rng):
    query, key, value = make(rng, dtype)
    if shared:
        query = key
    cache = cache_of(dtype, shared=shared)
    cuts = [0, 5, 27, 28, 29, 60]
    for begin, end in zip(cuts, cuts[1:]):
        cache.append(key[:, begin:end], value[:, begin:end])
        assert cache.length == len(cache) == end
        expected, expected_lse = longspan.lsh_attention(query[:, :end], None if shared else key[:, :end], value[:, :end],
                                                        mask=longspan.causal(), return_lse=True, **LSH)
        output, lse = cache.attend(query[:, end - 3:end], mask=longspan.causal(), return_lse=True)
        assert output.dtype == dtype and np.any(np.asarray(output, float))
        check(output, np.asarray(expected[:, -3:], float), tolerance)
        check(lse, expected_lse[:, :, -3:], 1e-6)
    assert cache.num_buckets == (4, 2)
    assert cache.capacity >= 60 and cache.nbytes > 2 * 2 * 60 * 2 * 16 * np.dtype(dtype).itemsize
    assert repr(cache) == (f"LshCache(num_heads_kv=2, head_dim=16, head_dim_v=16, dtype='{np.dtype(dtype).name}', batch=2, "
                           f"capacity={cache.capacity}, shared={shared}, num_buckets=(4, 2)) of 60 tokens")


def test_truncate_and_reorder(rng):
    query, key, value = make(rng, np.float32)
    cache = cache_of("float32")
    cache.append(np.swapaxes(key, 1, 2), np.swapaxes(value, 1, 2), layout="bhsd")
    cache.truncate(45)
    cache.reorder(np.array([1, 1, 0]))
    picked = [1, 1, 0]
    step = query[picked, :1]
    out = np.empty_like(step)
    assert cache.attend(step, out=out) is out
    check(out, longspan.lsh_attention(step, key[picked, :45], value[picked, :45], query_offset="end", **LSH), 5e-6)


def test_options_are_those_of_lsh_attention(rng):
    query, key, value = make(rng, np.float32)
    slopes, sinks = rng.standard_normal((2, 4)).astype(np.float32)
    for lsh in [dict(dedup="none", chunks_after=1), dict(whole_buckets=True), dict(local_window=(9, 0), chunks_before=0)]:
        cache = cache_of("float32", **lsh)
        cache.append(key, value)
        terms = dict(softcap=2.0, alibi_slopes=slopes, sinks=sinks, scale=0.4, mask=longspan.window(40, 0))
        found = cache.attend(query[:, -2:], **terms)
        check(found, longspan.lsh_attention(query, key, value, **LSH, **lsh, **terms)[:, -2:], 5e-6)


def test_buckets_are_chosen_for_the_capacity():
    assert longspan.LshCache(2, 16, 16, "float32", capacity=65536).num_buckets == (8, 16, 16)


@pytest.mark.parametrize("call, error, words", [
    (lambda c, k: c.append(k[:, :, :1], k), ValueError, r"\[2, 9, 1, 16\]"),
    (lambda c, k: c.append(k.astype(np.float64), k.astype(np.float64)), TypeError, "float64"),
    (lambda c, k: c.append(k, k.astype(np.float64)), TypeError, "float64"),
    (lambda c, k: c.attend(k.astype(np.float64)), TypeError, "query has float64, key has float32"),
    (lambda c, k: c.attend(k, out=np.empty(k.shape)), ValueError, "float64"),
    (lambda c, k: cache_of(None), TypeError, "found None"),
    (lambda c, k: c.truncate(10), ValueError, "10"),
    (lambda c, k: c.reorder([2]), ValueError, "2"),
    (lambda c, k: c.attend(k, mask=longspan.key_lengths(np.array([1, 2]))), ValueError, "padding"),
    (lambda c, k: cache_of("int8"), TypeError, "int8"),
    (lambda c, k: cache_of("float32", num_buckets=3), ValueError, "3"),
    (lambda c, k: cache_of("float32", num_buckets=None), ValueError, "capacity"),
    (lambda c, k: cache_of("float32", dedup="twice"), ValueError, "twice"),
])
def test_errors_leave_the_cache_as_it_was(call, error, words, rng):
    query, key, value = make(rng, np.float32, 9)
    cache = cache_of("float32")
    cache.append(key, value)
    before = cache.attend(query)
    with pytest.raises(error, match=words):
        call(cache, key)
    assert cache.length == 9 and np.array_equal(cache.attend(query), before)
