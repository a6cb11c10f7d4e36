# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Masks: which keys a query may see. Small objects that hold what they were made of; combined by &.
from collections.abc import Callable, Sequence

import numpy as np

from . import _core
from ._core import Mask
from ._types import Array, QueryOffset


def _whole_numbers(numbers):
    """Lists become int64 arrays; arrays stay what they are."""
    return np.array(numbers, np.int64) if isinstance(numbers, (list, tuple)) else numbers


def causal(query_offset: QueryOffset = None) -> Mask:
    """Key j is seen by query i when j <= i + query_offset.

    query_offset: as in attention(), whose own is overridden by this one; so for window() and prefix().
    """
    return _core.causal(_whole_numbers(query_offset))


def window(left: int, right: int, query_offset: QueryOffset = None) -> Mask:
    """Keys i + query_offset - left ... i + query_offset + right are seen; -1 leaves a side open.

    A Hugging Face `sliding_window=N` is window(N - 1, 0).
    """
    return _core.window(left, right, _whole_numbers(query_offset))


def key_lengths(lengths: Array | Sequence[int]) -> Mask:
    """Keys at and past lengths[batch] are padding. lengths: whole numbers [batch], 0 ... seqlen_k."""
    return _core.key_lengths(_whole_numbers(lengths))


def documents(cu_seqlens_q: Array | Sequence[int], cu_seqlens_k: Array | Sequence[int] | None = None) -> Mask:
    """Packed documents in batch 1: query and key must be of the same one.

    cu_seqlens_q: whole numbers [documents + 1] where each begins, starting at 0; cu_seqlens_k likewise, None: the same.
    With causal() and the like, positions count from the start of each document.
    """
    return _core.documents(_whole_numbers(cu_seqlens_q), _whole_numbers(cu_seqlens_k))


def prefix(length: int, query_offset: QueryOffset = None) -> Mask:
    """Key j is seen when j < length, or as causal otherwise."""
    return _core.prefix(length, _whole_numbers(query_offset))


def dense(visible: Array) -> Mask:
    """A boolean array, True = may be seen, broadcastable to [batch, num_heads, seqlen_q, seqlen_k] in either layout."""
    return _core.dense(visible)


def predicate(may_see: Callable[[Array, Array, Array, Array], Array]) -> Mask:
    """A function of index arrays: may_see(batch, head, query, key) -> boolean array.

    It is called with int64 arrays that broadcast against each other, a tile of pairs at a time and from several threads;
    what it returns is broadcast to the tile. No speed is promised. An exception in it ends the call.
    """
    if not callable(may_see):
        raise TypeError(f"predicate: expected a function (batch, head, query, key); found {type(may_see).__name__}")
    return _core.predicate(may_see)


def evaluate(predicates, batch, head, query_begin, query_end, key_begin, key_end):
    """Called by _core: [queries, keys], True where all predicates are."""
    indices = (np.array([[batch]]), np.array([[head]]), np.arange(query_begin, query_end)[:, None],
               np.arange(key_begin, key_end)[None, :])
    visible = np.ones((query_end - query_begin, key_end - key_begin), bool)
    for may_see in predicates:
        answer = np.asarray(may_see(*indices))
        if answer.dtype != bool:
            raise TypeError(f"predicate: expected booleans; found {answer.dtype}")
        visible &= answer
    return visible
