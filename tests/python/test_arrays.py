# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Kinds of arrays that come in: strides, read-only, DLPack, the array interface. No input is copied.
import gc
import sys
import tracemalloc
import weakref

import ml_dtypes
import numpy as np
import pytest
from reference import Attention, check

import longspan
from longspan import _core


class OnlyDLPack:
    """What another package's tensor shows of itself."""

    def __init__(self, array, device=None):
        self.array, self.device = array, device

    def __dlpack__(self, **options):
        return _core.as_dlpack(self.array).__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device or (1, 0)


class OnlyArrayInterface:
    def __init__(self, array):
        self.array = array
        self.__array_interface__ = array.__array_interface__


def make(rng, dtype=np.float32, seqlen=33):
    return [rng.standard_normal((2, seqlen, 4, 16)).astype(dtype) for _ in range(3)]


def reordered(x):
    """The same numbers, axes in another order in memory."""
    return np.ascontiguousarray(x.transpose(3, 0, 2, 1)).transpose(1, 3, 2, 0)


def backwards(x):
    return np.ascontiguousarray(x[:, ::-1, :, ::-1])[:, ::-1, :, ::-1]


def every_third(x):
    wide = np.full((*x.shape[:-1], 3 * x.shape[-1]), np.nan, x.dtype)
    wide[..., ::3] = x
    return wide[..., ::3]


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


KINDS = [reordered, backwards, every_third, read_only, np.asfortranarray, memoryview, OnlyDLPack, OnlyArrayInterface]


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_give_the_same_bits(kind, rng):
    query, key, value = make(rng)
    expected = longspan.attention(query, key, value)
    check(expected, Attention(query, key, value).output, 2e-6)
    output = longspan.attention(*(kind(x) for x in (query, key, value)))
    assert isinstance(output, np.ndarray) and np.array_equal(output, expected)


@pytest.mark.parametrize("kind", [reordered, backwards, every_third, read_only, OnlyDLPack])
def test_kinds_of_bfloat16(kind, rng):
    query, key, value = make(rng, ml_dtypes.bfloat16)
    expected = longspan.attention(query, key, value)
    output = longspan.attention(*(kind(x) for x in (query, key, value)))
    assert output.dtype == ml_dtypes.bfloat16 and np.array_equal(output, expected)


def test_zero_strides(rng):
    query, key, value = make(rng)
    one_head = np.broadcast_to(key[:, :, :1], key.shape)
    assert np.array_equal(longspan.attention(query, one_head, value),
                          longspan.attention(query, one_head.copy(), value))


@pytest.mark.parametrize("kind", [lambda x: x, reordered, OnlyDLPack])
def test_inputs_are_not_copied(kind):
    # NumPy reports its memory to tracemalloc. 3 inputs of 8 MiB; the output of 128 KiB is all that may come.
    query = np.zeros((1, 32, 1, 1024), np.float32)
    key, value = (np.zeros((1, 2048, 1, 1024), np.float32) for _ in range(2))
    arrays = [kind(x) for x in (query, key, value)]
    longspan.attention(*arrays)
    tracemalloc.start()
    longspan.attention(*arrays)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 100_000 < peak < 300_000


def test_outputs_are_those_that_were_given(rng):
    query, key, value = make(rng)
    expected = longspan.attention(query, key, value)
    out = np.full_like(query, np.nan)
    assert longspan.attention(query, key, value, out=out) is out
    assert np.array_equal(out, expected)
    wide = reordered(np.full_like(query, np.nan))
    longspan.attention(query, key, value, out=wide)
    assert np.array_equal(wide, expected)
    by_dlpack = np.full_like(query, np.nan)
    longspan.attention(query, key, value, out=OnlyDLPack(by_dlpack))
    assert np.array_equal(by_dlpack, expected)
    narrow = [x.astype(np.float16) for x in (query, key, value)]
    out, lse = longspan.attention(*narrow, out=np.full_like(query, np.nan), return_lse=True)
    assert out.dtype == np.float32 and lse.dtype == np.float32
    check(out, Attention(*narrow).output, 2e-6)


def test_tensors_of_a_package_come_back_as_such(rng):
    class Package:
        @staticmethod
        def from_dlpack(x):
            return Tensor(x)

    class Tensor(OnlyDLPack):
        def __init__(self, x):
            super().__init__(np.from_dlpack(x))

        def __array_namespace__(self):
            return Package

    query, key, value = make(rng)
    output, lse = longspan.attention(*(Tensor(x) for x in (query, key, value)), return_lse=True)
    assert isinstance(output, Tensor) and isinstance(lse, Tensor)
    assert np.array_equal(output.array, longspan.attention(query, key, value))
    gradients = longspan.attention_backward(output, *(Tensor(x) for x in (query, key, value)), output, lse)
    assert isinstance(gradients.query, Tensor) and gradients.bias is None


def test_nothing_is_kept_of_a_call(rng):
    query, key, value = make(rng)
    mask = longspan.causal() & longspan.dense(np.ones((33, 33), bool))
    counts = []
    for _ in range(3):
        for _ in range(50):
            output, lse = longspan.attention(query, key, OnlyDLPack(value), mask=mask, return_lse=True)
            longspan.attention_backward(output, query, key, value, output, lse, mask=mask)
        gc.collect()
        tracemalloc.start() if not counts else None
        counts.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert counts[2] - counts[1] < 50_000  # 50 outputs would be 800 KB


def unaligned(x):
    return np.frombuffer(bytearray(x.nbytes + 1), np.uint8)[1:].view(x.dtype).reshape(x.shape)


REFUSED = {
    "integers": lambda x: (x.astype(np.int64), {}),
    "complex": lambda x: (x.astype(complex), {}),
    "big-endian": lambda x: (x.astype(">f4"), {}),
    "rank 5": lambda x: (x[None].copy(), {}),
    "unaligned": lambda x: (unaligned(x), {}),
    "DLPack": lambda x: (OnlyDLPack(x.astype(np.int64)), {}),
    "a float mask": lambda x: (x, {"mask": np.zeros((33, 33))}),
    "a boolean bias": lambda x: (x, {"bias": np.zeros((33, 33), bool)}),
    "an out of another shape": lambda x: (x, {"out": np.empty((1, 2), np.float32)}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_is_kept_of_what_is_refused(name, rng):
    x, _, _ = make(rng)
    query, options = REFUSED[name](x)
    given = [query, getattr(query, "array", query), *options.values()]
    before = [sys.getrefcount(y) for y in given]
    for _ in range(3):
        with pytest.raises((TypeError, ValueError)):
            longspan.attention(query, x, x, **options)
    gc.collect()
    assert [sys.getrefcount(y) for y in given] == before


def test_memory_that_was_refused_is_not_locked():
    memory = bytearray(64)
    with pytest.raises(TypeError, match="query has dtype"):
        longspan.attention(memory, memory, memory)
    memory.extend(b"more")
    assert len(memory) == 68


def test_a_predicate_and_its_mask_go_together():
    def cycle():
        def may_see(batch, head, query, key):
            return mask is not None

        mask = longspan.causal() & longspan.predicate(may_see)
        return weakref.ref(may_see)

    function = cycle()
    gc.collect()
    assert function() is None
