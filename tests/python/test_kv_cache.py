# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# The cache: steps through it equal one call over everything.
import threading

import ml_dtypes
import numpy as np
import pytest
from reference import check

import longspan


def make(rng, dtype, seqlen=40, batch=2):
    return [rng.standard_normal((batch, seqlen, heads, 16)).astype(dtype) for heads in (4, 2, 2)]


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 2e-6), (np.float64, 1e-13), (ml_dtypes.bfloat16, 8e-3)])
def test_steps_equal_prefill(dtype, tolerance, rng):
    query, key, value = make(rng, dtype)
    expected, expected_lse = longspan.attention(query, key, value, mask=longspan.causal(), return_lse=True)
    cache = longspan.KVCache(2, 16, 16, dtype, batch=2, capacity=8)
    cuts = [0, 17, 18, 19, 30, 40]
    for begin, end in zip(cuts, cuts[1:]):
        cache.append(key[:, begin:end], value[:, begin:end])
        assert cache.length == len(cache) == end
        output, lse = cache.attend(query[:, begin:end], mask=longspan.causal(), return_lse=True)
        assert output.dtype == dtype
        check(output, np.asarray(expected[:, begin:end], float), tolerance)
        check(lse, expected_lse[:, :, begin:end], 1e-6)
    assert cache.capacity >= 40 and cache.nbytes >= 2 * 2 * 40 * 2 * 16 * np.dtype(dtype).itemsize
    assert cache.dtype == np.dtype(dtype).name
    assert repr(cache) == (f"KVCache(num_heads_kv=2, head_dim=16, head_dim_v=16, dtype='{np.dtype(dtype).name}', batch=2, "
                           f"capacity={cache.capacity}) of 40 tokens")


def test_truncate_and_reorder(rng):
    query, key, value = make(rng, np.float32)
    cache = longspan.KVCache(2, 16, 16, "float32", batch=2)
    cache.append(np.swapaxes(key, 1, 2), np.swapaxes(value, 1, 2), layout="bhsd")
    cache.truncate(25)
    cache.reorder(np.array([1, 1, 0]))
    picked = [1, 1, 0]
    step = query[picked, :1]
    out = np.empty_like(step)
    assert cache.attend(step, out=out) is out
    assert np.array_equal(out, longspan.attention(step, key[picked, :25], value[picked, :25], query_offset="end"))


@pytest.mark.parametrize("make_cache, options", [
    (longspan.KVCache, {}),
    (longspan.LshCache, dict(num_hashes=3, num_buckets=(4, 2), chunk_len=8, seed=5)),
])
def test_what_is_true_returns_lse(make_cache, options, rng):
    query, key, value = make(rng, np.float32)
    cache = make_cache(2, 16, 16, "float32", batch=2, **options)
    cache.append(key, value)
    output, lse = cache.attend(query, return_lse=True)
    for yes in (1, np.True_, "yes"):
        found = cache.attend(query, return_lse=yes)
        assert np.array_equal(found[0], output) and np.array_equal(found[1], lse)
    for no in (0, np.False_, None):
        assert np.array_equal(cache.attend(query, return_lse=no), output)


@pytest.mark.parametrize("call, error, words", [
    (lambda c, k: c.append(k[:, :, :1], k), ValueError, r"\[2, 5, 1, 16\]"),
    (lambda c, k: c.append(k.astype(np.float64), k.astype(np.float64)), TypeError, "float64"),
    (lambda c, k: c.append(k, k.astype(np.float64)), TypeError, "float64"),
    (lambda c, k: c.attend(k.astype(np.float64)), TypeError, "query has float64, key has float32"),
    (lambda c, k: c.attend(k, out=np.empty(k.shape)), ValueError, "float64"),
    (lambda c, k: longspan.KVCache(2, 16, 16, None), TypeError, "dtype must be float32.*found None"),
    (lambda c, k: longspan.KVCache(2, 16, 16, np.dtype(">f4")), TypeError, "dtype must be float32.*found >f4"),
    (lambda c, k: c.truncate(6), ValueError, "6"),
    (lambda c, k: c.reorder([2]), ValueError, "2"),
    (lambda c, k: c.reorder([0.5]), TypeError, "float"),
    (lambda c, k: longspan.KVCache(2, 16, 16, "int8"), TypeError, "int8"),
    (lambda c, k: longspan.KVCache(-2, 16, 16, "float32"), ValueError, "-2"),
    (lambda c, k: longspan.KVCache(2, 2**38, 16, "float32", capacity=2**20), MemoryError, "[0-9]"),
])
def test_errors_leave_the_cache_as_it_was(call, error, words, rng):
    query, key, value = make(rng, np.float32, 5)
    cache = longspan.KVCache(2, 16, 16, "float32", batch=2)
    cache.append(key, value)
    before = cache.attend(query)
    with pytest.raises(error, match=words):
        call(cache, key)
    assert cache.length == 5 and np.array_equal(cache.attend(query), before)


def test_threads_may_share_a_cache(rng):
    query, key, value = make(rng, np.float32, 1)
    cache = longspan.KVCache(2, 16, 16, "float32", batch=2)
    cache.append(key, value)
    expected = cache.attend(query)
    faults = []

    def attend():
        for _ in range(200):
            # Equal keys and values at every position: the answer does not change while the cache grows and moves.
            if not np.allclose(cache.attend(query), expected, atol=1e-5):
                faults.append(cache.length)

    threads = [threading.Thread(target=attend) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(300):
        cache.append(key, value)
    for thread in threads:
        thread.join()
    assert not faults and cache.length == 301
