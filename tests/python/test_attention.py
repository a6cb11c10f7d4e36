# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Exact attention, forward and backward, and the merge, against the float64 reference.
import ml_dtypes
import numpy as np
import pytest
from reference import Attention, check, check_lse

import longspan

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]
TOLERANCE = {"float64": 1e-13, "float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}
SEQLEN_Q, SEQLEN_K, HEADS, HEADS_KV = 37, 41, 4, 2


def make(rng, dtype=np.float32, batch=2, seqlen_q=SEQLEN_Q, seqlen_k=SEQLEN_K, dim=24, dim_v=10):
    """query, key, value, doutput"""
    shapes = ((seqlen_q, HEADS, dim), (seqlen_k, HEADS_KV, dim), (seqlen_k, HEADS_KV, dim_v), (seqlen_q, HEADS, dim_v))
    return [rng.standard_normal((batch, *shape)).astype(dtype) for shape in shapes]


queries, keys = np.arange(SEQLEN_Q)[:, None], np.arange(SEQLEN_K)[None, :]
LENGTHS = np.array([0, 29])
CU_Q, CU_K = [0, 5, 5, 30], np.array([0, 7, 11, 41], np.int32)
HOLES = np.random.default_rng(3).random((2, 1, SEQLEN_Q, SEQLEN_K)) < 0.6


def same_document(i, j):
    of_query, of_key = np.searchsorted(CU_Q, i, "right"), np.searchsorted(CU_K, j, "right")
    return (of_query == of_key) & (i < CU_Q[-1])


# name -> (mask, batch of the tensors, what may be seen)
MASKS = {
    "none": (lambda: None, 2, np.True_),
    "causal": (lambda: longspan.causal(4), 2, keys <= queries + 4),
    "causal end": (lambda: longspan.causal("end"), 2, keys <= queries + SEQLEN_K - SEQLEN_Q),
    "causal by batch": (lambda: longspan.causal([-3, 9]), 2, keys <= queries + np.array([-3, 9])[:, None, None, None]),
    "causal by batch, an array": (lambda: longspan.causal(np.array([2, 0], np.int32)), 2,
                                  keys <= queries + np.array([2, 0])[:, None, None, None]),
    "window": (lambda: longspan.window(5, 2, 0), 2, (keys >= queries - 5) & (keys <= queries + 2)),
    "window open": (lambda: longspan.window(-1, 0, np.int64(1)), 2, keys <= queries + 1),
    "key lengths": (lambda: longspan.key_lengths(LENGTHS), 2, keys < LENGTHS[:, None, None, None]),
    "key lengths, a list": (lambda: longspan.key_lengths([0, 29]), 2, keys < LENGTHS[:, None, None, None]),
    "documents": (lambda: longspan.documents(CU_Q, CU_K), 1, same_document(queries, keys)),
    "prefix": (lambda: longspan.prefix(6, 0), 2, (keys < 6) | (keys <= queries)),
    "dense": (lambda: longspan.dense(HOLES), 2, HOLES),
    "a boolean array": (lambda: HOLES[0, 0], 2, HOLES[0, 0]),
    "predicate": (lambda: longspan.predicate(lambda b, h, i, j: (i + 2 * j + h + b) % 3 > 0), 2,
                  (queries + 2 * keys + np.arange(4)[:, None, None] + np.arange(2)[:, None, None, None]) % 3 > 0),
    "all at once": (lambda: longspan.causal(4) & longspan.window(20, -1, 4) & longspan.key_lengths(LENGTHS)
                    & longspan.dense(HOLES) & longspan.predicate(lambda b, h, i, j: j != 11)
                    & longspan.predicate(lambda b, h, i, j: h < 3), 2,
                    (keys <= queries + 4) & (keys >= queries - 16) & (keys < LENGTHS[:, None, None, None]) & HOLES
                    & (keys != 11) & (np.arange(4)[:, None, None] < 3)),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks(name, rng):
    make_mask, batch, visible = MASKS[name]
    query, key, value, doutput = make(rng, np.float64, batch)
    mask = make_mask()
    exact = Attention(query, key, value, visible=visible)
    output, lse = longspan.attention(query, key, value, mask=mask, return_lse=True)
    check(output, exact.output, 1e-13)
    check_lse(lse, exact.lse, 1e-12, 1e-12)
    gradients = longspan.attention_backward(doutput, query, key, value, output, lse, mask=mask)
    for got, expected in zip(gradients[:3], exact.gradients(doutput)):
        check(got, expected, 1e-12)
    assert gradients.bias is None and gradients.sinks is None


def test_a_predicate_of_many_tiles(rng):
    query, key, value, _ = make(rng, seqlen_q=500, seqlen_k=500)
    asked = []

    def may_see(batch, head, i, j):
        asked.append(i.size * j.size)
        return (j <= i) & (j > i - 300)

    output = longspan.attention(query, key, value, mask=longspan.predicate(may_see))
    check(output, longspan.attention(query, key, value, mask=longspan.window(299, 0)), 1e-6)
    pairs = 2 * HEADS * 500 * 500
    assert pairs <= sum(asked) <= 64 * pairs  # by tiles, each a few times; not a tile for every pair


def test_masks_say_what_they_hold():
    mask = (longspan.window(2, 3, "end") & longspan.causal() & longspan.prefix(6, 4) & longspan.causal([1, 2])
            & longspan.documents([0, 5, 9]) & longspan.dense(HOLES) & longspan.predicate(same_document))
    assert repr(mask) == ("Mask(window(2, 3, query_offset='end') & causal() & prefix(6, query_offset=4) & "
                          "causal(query_offset=<ndarray [2]>) & documents(<ndarray [3]>, <ndarray [3]>) & "
                          f"dense(<ndarray {list(HOLES.shape)}>) & predicate(same_document))")


def test_masks_hold_their_arrays(rng):
    query, key, value, _ = make(rng)
    mask = longspan.key_lengths(np.array([9, 9])) & longspan.key_lengths(np.array([3, 7]))
    junk = [np.full(2, -1) for _ in range(100)]  # what a freed array would be overwritten with
    exact = Attention(query, key, value, visible=keys < np.array([3, 7])[:, None, None, None])
    check(longspan.attention(query, key, value, mask=mask), exact.output, 2e-6)
    assert len(junk) == 100


# What else goes into scores, alone and together.
TERMS = {
    "scale": dict(scale=0.3),
    "softcap": dict(softcap=2.5),
    "bias": dict(bias=(HEADS, SEQLEN_Q, SEQLEN_K)),
    "a bias of keys": dict(bias=(2, 1, 1, SEQLEN_K)),
    "a scalar bias": dict(bias=()),
    "alibi": dict(alibi_slopes=(HEADS,), query_offset=3),
    "alibi by batch": dict(alibi_slopes=(2, HEADS), query_offset=-2),
    "sinks": dict(sinks=(HEADS,)),
    "together": dict(scale=0.4, softcap=3.0, bias=(2, HEADS, 1, SEQLEN_K), alibi_slopes=(HEADS,), sinks=(HEADS,),
                     query_offset=0),
}


def with_arrays(rng, terms, dtype):
    return {name: rng.standard_normal(value).astype(dtype) if isinstance(value, tuple) else value
            for name, value in terms.items()}


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_score_terms(name, dtype, rng):
    query, key, value, doutput = make(rng, dtype)
    terms = with_arrays(rng, TERMS[name], dtype)
    exact = Attention(query, key, value, visible=keys <= queries + 5, **terms)
    mask = longspan.causal(5)
    output, lse = longspan.attention(query, key, value, mask=mask, return_lse=True, **terms)
    tolerance = TOLERANCE[np.dtype(dtype).name]
    check(output, exact.output, tolerance)
    check_lse(lse, exact.lse)
    dlse = rng.standard_normal(lse.shape).astype(lse.dtype)
    gradients = longspan.attention_backward(doutput, query, key, value, output, lse, dlse=dlse, mask=mask, **terms)
    for field, expected in zip(gradients._fields, exact.gradients(doutput, dlse)):
        got = getattr(gradients, field)
        if expected is None:
            assert got is None
        elif np.linalg.norm(expected) < 1e-9 * np.linalg.norm(doutput):  # a bias that all keys share
            assert np.max(np.abs(got - expected)) <= 1e-3
        else:
            assert got.dtype == dtype
            check(got, expected, 10 * tolerance, field)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["bshd", "bhsd"])
@pytest.mark.parametrize("rank", [4, 3, 2])
def test_types_layouts_ranks(dtype, layout, rank, rng):
    tensors = make(rng, dtype)
    if rank < 4:
        tensors = [x[1:2] for x in tensors]
    if rank < 3:
        tensors = [x[:, :, :1] for x in tensors]
    exact = Attention(*tensors[:3])
    gradients = exact.gradients(tensors[3])
    lse = exact.lse if rank == 4 else exact.lse[0] if rank == 3 else exact.lse[0, 0]

    def shaped(x):
        if layout == "bhsd":
            x = np.ascontiguousarray(np.swapaxes(x, 1, 2))
        return x if rank == 4 else x[0] if rank == 3 else x.reshape(-1, x.shape[-1])

    query, key, value, doutput = (shaped(x) for x in tensors)
    output, got_lse = longspan.attention(query, key, value, layout=layout, return_lse=True)
    tolerance = TOLERANCE[np.dtype(dtype).name]
    assert output.dtype == dtype and output.flags.c_contiguous
    check(output, shaped(exact.output), tolerance)
    check_lse(got_lse, lse, *((1e-12, 1e-12) if dtype == np.float64 else (4e-6, 1e-6)))
    got = longspan.attention_backward(doutput, query, key, value, output, got_lse, layout=layout)
    for x, expected in zip(got[:3], gradients):
        assert x.dtype == dtype
        check(x, shaped(expected), 4 * tolerance)


def test_chunks_and_threads_change_nothing_that_counts(rng):
    query, key, value, _ = make(rng, seqlen_q=300, seqlen_k=700)
    exact = Attention(query, key, value).output
    check(longspan.attention(query, key, value, query_chunk=64, key_chunk=128), exact, 2e-6)
    before = longspan.get_num_threads()
    try:
        outputs = []
        for threads in (1, 2, 3):
            longspan.set_num_threads(threads)
            assert longspan.get_num_threads() == threads
            outputs.append(longspan.attention(query, key, value))
        assert np.array_equal(outputs[0], outputs[1]) and np.array_equal(outputs[0], outputs[2])
    finally:
        longspan.set_num_threads(0)
    assert longspan.get_num_threads() == before


def test_dropout(rng):
    query, key, value, doutput = make(rng)
    plain, lse = longspan.attention(query, key, value, return_lse=True)
    assert np.array_equal(longspan.attention(query, key, value, dropout_p=0.0, seed=5), plain)
    dropped, dropped_lse = longspan.attention(query, key, value, dropout_p=1.0, return_lse=True)
    assert not dropped.any() and np.array_equal(dropped_lse, lse)
    # Values of 1: the output is the share that was kept, times 1 / (1 - p); 3108 weights an entry, 2 entries, 4 heads.
    ones = np.ones_like(value)
    half = longspan.attention(np.zeros_like(query), key, ones, dropout_p=0.5, seed=2**64 - 1)
    assert abs(half.mean() - 1) < 0.05 and half.std() > 0.05
    assert not np.array_equal(half, longspan.attention(np.zeros_like(query), key, ones, dropout_p=0.5, seed=1))
    output, lse = longspan.attention(query, key, value, dropout_p=0.5, seed=3, return_lse=True)
    gradients = longspan.attention_backward(doutput, query, key, value, output, lse, dropout_p=0.5, seed=3)
    # The output is linear in the values: <doutput, output> = <dvalue, value>, with the same pattern only.
    check(np.sum(gradients.value * value.astype(float)), np.sum(doutput * output.astype(float)), 1e-4)


@pytest.mark.parametrize("seqlen_q, seqlen_k, batch", [(0, 5, 2), (5, 0, 2), (0, 0, 1), (3, 3, 0)])
def test_empty(seqlen_q, seqlen_k, batch, rng):
    query, key, value, doutput = make(rng, np.float32, batch, seqlen_q, seqlen_k)
    output, lse = longspan.attention(query, key, value, return_lse=True)
    assert output.shape == doutput.shape and lse.shape == (batch, HEADS, seqlen_q)
    assert not output.any() and np.all(lse == -np.inf) or seqlen_k
    gradients = longspan.attention_backward(doutput, query, key, value, output, lse)
    assert gradients.query.shape == query.shape and not gradients.query.any() or seqlen_k
    assert gradients.key.shape == key.shape and not gradients.key.any() or seqlen_q


def test_merge(rng):
    query, key, value, _ = make(rng)
    whole, whole_lse = longspan.attention(query, key, value, return_lse=True)
    cuts = [(0, 10), (10, 10), (10, 40), (40, 41)]
    parts = [longspan.attention(query, key[:, a:b], value[:, a:b], return_lse=True) for a, b in cuts]
    output, lse = longspan.merge(parts)
    check(output, whole, 2e-6)
    check_lse(lse, whole_lse)
    alone, alone_lse = longspan.merge(parts[:2])  # the second is empty: not a bit may change
    assert np.array_equal(alone, parts[0][0]) and np.array_equal(alone_lse, parts[0][1])
    heads_first = longspan.merge(([np.swapaxes(o, 1, 2), lse] for o, lse in parts), layout="bhsd")
    assert np.array_equal(np.swapaxes(heads_first[0], 1, 2), output)


def test_numbers_of_numpy_are_numbers(rng):
    query, key, value, _ = make(rng)
    options = dict(scale=0.25, softcap=2.0, seed=3, dropout_p=0.5, query_offset=4, query_chunk=64)
    numpy_options = dict(scale=np.float32(0.25), softcap=np.float64(2), seed=np.uint64(3), dropout_p=np.float16(0.5),
                         query_offset=np.int32(4), query_chunk=np.int64(64))
    expected = longspan.attention(query, key, value, mask=longspan.causal(), **options)
    got = longspan.attention(query, key, value, mask=longspan.causal(), **numpy_options)
    assert np.array_equal(got, expected)
    at_array = longspan.attention(query, key, value, mask=longspan.causal(np.array([4, 4])), **options)
    assert np.array_equal(at_array, expected)
    options["query_offset"] = [4, 4]
    assert np.array_equal(longspan.attention(query, key, value, mask=longspan.causal(), **options), expected)
