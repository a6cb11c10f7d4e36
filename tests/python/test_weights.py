# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# attention_weights() against float64 NumPy, and what it refuses.
import numpy as np
import pytest
from reference import Attention, check

import longspan


def make(rng, dtype=np.float32, seqlen_q=40, seqlen_k=150):
    shapes = [(2, seqlen_q, 4, 16), (2, seqlen_k, 2, 16), (2, seqlen_k, 2, 16)]
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_three_probes(rng, dtype):
    query, key, value = make(rng, dtype)
    visible = np.arange(150) <= np.arange(40)[:, None] + 110
    bias, slopes, sinks = rng.standard_normal((40, 150)), np.full(4, 0.1), np.ones(4)
    truth = Attention(query, key, value, visible=visible, bias=bias, softcap=20.0, alibi_slopes=slopes, query_offset=110,
                      sinks=sinks).weights
    options = dict(mask=longspan.causal(), bias=bias, softcap=20.0, alibi_slopes=slopes, sinks=sinks, query_offset="end")
    _, lse = longspan.attention(query, key, value, return_lse=True, **options)
    tolerance = 1e-5 if dtype == np.float32 else 1e-13

    rows = [39, 0, 7, 8, 9, 7]
    weights = longspan.attention_weights(query, key, lse, rows=rows, **options)
    assert weights.shape == (2, 4, 6, 150) and weights.dtype == dtype
    check(weights, truth[:, :, rows], tolerance)
    assert not weights[:, :, ~visible[rows]].any()

    keys, largest = longspan.attention_weights(query, key, lse, top_k=5, **options)
    assert keys.shape == largest.shape == (2, 4, 40, 5) and keys.dtype == np.int64
    check(largest, -np.sort(-truth, axis=3)[..., :5], tolerance)
    check(np.take_along_axis(truth, keys, 3), largest, tolerance)
    some, _ = longspan.attention_weights(query, key, lse, rows=np.array(rows, np.int32), top_k=5, **options)
    assert np.array_equal(some, keys[:, :, rows])

    sums = longspan.attention_weights(query, key, lse, column_sums=True, **options)
    check(sums, truth.sum(2), tolerance)
    check(longspan.attention_weights(query, key, lse, rows=rows, column_sums=True, **options),
          truth[:, :, rows].sum(2), tolerance)


def test_rows_that_see_fewer_keys(rng):
    query, key, value = make(rng)
    mask = longspan.causal(0)
    _, lse = longspan.attention(query, key, value, mask=mask, return_lse=True)
    keys, weights = longspan.attention_weights(query, key, lse, rows=range(4), top_k=3, mask=mask)
    assert np.array_equal((keys >= 0).sum(3), np.broadcast_to([1, 2, 3, 3], (2, 4, 4)))
    assert np.all(weights[keys < 0] == 0) and np.all(weights[keys >= 0] > 0)


def test_layout_ranks_and_kinds(rng):
    query, key, value = make(rng)
    _, lse = longspan.attention(query, key, value, return_lse=True)
    expected = longspan.attention_weights(query, key, lse, rows=[3, 4])
    heads_first = [x.swapaxes(1, 2) for x in (query, key)]
    assert np.array_equal(longspan.attention_weights(*heads_first, lse, rows=[3, 4], layout="bhsd"), expected)
    assert np.array_equal(longspan.attention_weights(query[1], key[1], lse[1], rows=[3, 4]), expected[1])
    assert np.array_equal(longspan.attention_weights(query[1, :, 3], key[1, :, 1], lse[1, 3], rows=[3, 4]), expected[1, 3])
    odd = longspan.predicate(lambda batch, head, query, key: (query + key) % 3 > 0)
    weights = longspan.attention_weights(query, key, lse, rows=[3, 4], mask=odd)
    assert np.array_equal(weights[..., 1::3][:, :, 0], expected[..., 1::3][:, :, 0])
    assert not weights[:, :, 0, ::3].any() and longspan.attention_weights(query, key, lse, rows=[]).shape == (2, 4, 0, 150)


def test_the_options_of_a_call_are_taken(rng):
    query, key, value = make(rng)
    options = dict(mask=longspan.causal("end"), query_chunk=16, key_chunk=32, dropout_p=0.0, seed=3)
    _, lse = longspan.attention(query, key, value, return_lse=True, **options)
    weights = longspan.attention_weights(query, key, lse, rows=[3, 39], **options)
    check(weights, longspan.attention_weights(query, key, lse, rows=[3, 39], mask=longspan.causal("end")), 1e-5)


def test_what_is_refused(rng):
    query, key, value = make(rng)
    _, lse = longspan.attention(query, key, value, return_lse=True)

    def refuses(error, words, **options):
        with pytest.raises(error, match=words):
            longspan.attention_weights(query, key, options.pop("lse", lse), **options)

    refuses(ValueError, "expected rows=.*top_k=.*column_sums=True")
    refuses(ValueError, "expected one of them", top_k=3, column_sums=True)
    refuses(ValueError, "top_k must not be negative; found -1", top_k=-1)
    refuses(ValueError, r"rows\[1\] must be at least 0 and less than seqlen_q, which is 40; found -1", rows=[3, -1])
    refuses(ValueError, "found 40", rows=[40])
    refuses(TypeError, "float", rows=[1.5])
    refuses(TypeError, "rows must be int32 or int64; found float64", rows=np.ones(3))
    refuses(TypeError, "float", top_k=1.5)
    refuses(ValueError, r"lse must have shape \[2, 4, 40\]; found \[2, 4, 39\]", rows=[1], lse=lse[..., :39])
    refuses(ValueError, "both|query_offset", rows=[1], mask=longspan.causal())
    refuses(ValueError, "dropout_p must be 0.*found 0.5", rows=[1], dropout_p=0.5)
    refuses(TypeError, "is_causal", rows=[1], is_causal=True)
