# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Masks: which keys a query may see. Small objects that hold what they were made of; combined by &.
from collections.abc import Callable, Sequence

import numpy as np

from . import _core
from ._arguments import whole_number, whole_numbers
from ._types import Array, MaskLike, QueryOffset

_KINDS = dict(_core.mask_kinds)
_OFFSETS = dict(_core.offset_kinds)


def encode_offset(offset):
    """(kind, number, arrays) of what query_offset= takes."""
    if offset is None:
        return _OFFSETS["unset"], 0, ()
    if isinstance(offset, str):
        if offset != "end":
            raise ValueError(f'query_offset must be a number, "end" or an array [batch]; found "{offset}"')
        return _OFFSETS["end"], 0, ()
    if isinstance(offset, (int, float)) or (hasattr(offset, "__index__") and not hasattr(offset, "__dlpack__")):
        return _OFFSETS["number"], whole_number("query_offset", offset), ()
    return _OFFSETS["per_batch"], 0, (whole_numbers("query_offset", offset),)


# How many numbers and arrays a term of a mask holds beside its query_offset.
_HOLDS = {"causal": (0, 0), "window": (2, 0), "key_lengths": (0, 1), "documents": (0, 2), "prefix": (1, 0), "dense": (0, 1)}


def _brief(array):
    return f"<{type(array).__name__} {list(getattr(array, 'shape', ['?']))}>"


class Mask:
    """Which keys a query may see; masks are combined by &. Holds its arrays."""

    # What the library reads (python/options.h), and nothing but Python, so that torch.compile can trace it: five numbers
    # a term, the arrays of the terms in their order, and functions.
    __slots__ = ("numbers", "arrays", "predicates")

    def __init__(self, numbers, arrays=(), predicates=()):
        self.numbers = numbers
        self.arrays = arrays
        self.predicates = predicates

    def __and__(self, other):
        if not isinstance(other, Mask):
            return NotImplemented
        return Mask(self.numbers + other.numbers, self.arrays + other.arrays, self.predicates + other.predicates)

    def has(self, kind):
        """Whether a term is of this kind: "causal", "documents", ..."""
        return _KINDS[kind] in self.numbers[::5]

    def __repr__(self):
        names = {number: name for name, number in _KINDS.items()}
        terms, arrays = [], iter(self.arrays)
        for at in range(0, len(self.numbers), 5):
            kind, a, b, offset_kind, offset = self.numbers[at:at + 5]
            num_numbers, num_arrays = _HOLDS[names[kind]]
            held = [str(number) for number in (a, b)[:num_numbers]] + [_brief(next(arrays)) for _ in range(num_arrays)]
            if offset_kind == _OFFSETS["per_batch"]:
                held.append(f"query_offset={_brief(next(arrays))}")
            elif offset_kind != _OFFSETS["unset"]:
                held.append(f"query_offset={offset if offset_kind == _OFFSETS['number'] else repr('end')}")
            terms.append(f"{names[kind]}({', '.join(held)})")
        terms += [f"predicate({getattr(may_see, '__name__', may_see)})" for may_see in self.predicates]
        return f"Mask({' & '.join(terms)})"


_EVERYTHING = Mask(())


def _term(kind, a=0, b=0, offset=None, arrays=()):
    offset_kind, offset_number, offset_arrays = encode_offset(offset)
    return Mask((_KINDS[kind], a, b, offset_kind, offset_number), arrays + offset_arrays)


def as_mask(mask: MaskLike) -> Mask:
    """The argument `mask` of a call: a mask, a boolean array, or None."""
    if mask is None:
        return _EVERYTHING
    return mask if isinstance(mask, Mask) else dense(mask)


def as_parts(mask: MaskLike):
    """The same as _core takes it: None, or (numbers, arrays, predicates)."""
    if mask is None:
        return None
    mask = as_mask(mask)
    return mask.numbers, list(mask.arrays), list(mask.predicates)


def causal(query_offset: QueryOffset = None) -> Mask:
    """Key j is seen by query i when j <= i + query_offset.

    query_offset
        As in attention(), whose own is overridden by this one; so for window() and prefix().
    """
    return _term("causal", offset=query_offset)


def window(left: int, right: int, query_offset: QueryOffset = None) -> Mask:
    """Keys i + query_offset - left ... i + query_offset + right are seen; -1 leaves a side open.

    A Hugging Face `sliding_window=N` is window(N - 1, 0).
    """
    return _term("window", whole_number("left", left), whole_number("right", right), query_offset)


def key_lengths(lengths: Array | Sequence[int]) -> Mask:
    """Keys at and past lengths[batch] are padding.

    lengths
        [batch], whole numbers in 0 ... seqlen_k.
    """
    return _term("key_lengths", arrays=(whole_numbers("lengths", lengths),))


def documents(cu_seqlens_q: Array | Sequence[int], cu_seqlens_k: Array | Sequence[int] | None = None) -> Mask:
    """Packed documents in batch 1: query and key must be of the same one.

    With causal() and the like, positions count from the start of each document.

    cu_seqlens_q, cu_seqlens_k
        [documents + 1], whole numbers: where each begins, starting at 0, and the end of the last. cu_seqlens_k=None: the same.
    """
    starts = whole_numbers("cu_seqlens_q", cu_seqlens_q)
    starts_k = starts if cu_seqlens_k is None else whole_numbers("cu_seqlens_k", cu_seqlens_k)
    return _term("documents", arrays=(starts, starts_k))


def prefix(length: int, query_offset: QueryOffset = None) -> Mask:
    """Key j is seen when j < length, or as causal otherwise."""
    return _term("prefix", whole_number("length", length), offset=query_offset)


def dense(visible: Array) -> Mask:
    """A boolean array, True = may be seen, broadcastable to [batch, num_heads, seqlen_q, seqlen_k] in either layout."""
    return _term("dense", arrays=(visible,))


def predicate(may_see: Callable[[Array, Array, Array, Array], Array]) -> Mask:
    """A function of index arrays: may_see(batch, head, query, key) -> boolean array.

    It is called with int64 arrays that broadcast against each other, a tile of pairs at a time and from several threads;
    what it returns is broadcast to the tile. No speed is promised. An exception in it ends the call.
    """
    if not callable(may_see):
        raise TypeError(f"predicate: expected a function (batch, head, query, key); found {type(may_see).__name__}")
    return Mask((), predicates=(may_see,))


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
