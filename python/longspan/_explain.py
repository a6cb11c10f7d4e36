# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Every step of a method, with its names, shapes and numbers.
from collections.abc import Sequence
from typing import Literal

import numpy as np

from . import _core
from ._arguments import INT32, whole_number, whole_pair
from ._lsh import _lsh_options
from ._options import call_options
from ._types import Array


class Explanation:
    """What explain() recorded: the steps of a method in the order in which they happen. A notebook shows it as a page."""

    def __init__(self, record):
        self._record = record

    @property
    def method(self) -> str:
        """"exact" or "lsh"."""
        return self._record.method

    @property
    def title(self) -> str:
        """One line: the method and the sizes."""
        return self._record.title

    @property
    def steps(self) -> dict[str, np.ndarray]:
        """The numbers of each step by its name, such as "chunk_1/weights"; float64, or int64 for positions and buckets."""
        return {name: np.array(values, np.int64 if whole else np.float64).reshape(shape)
                for name, shape, whole, values in self._record.steps()}

    def text(self, columns: int = 80) -> str:
        """The record for a terminal of so many columns, at least 40; long axes are cut in the middle."""
        return self._record.text(whole_number("columns", columns, INT32))

    def json(self) -> str:
        """The record as JSON, schema 1, with every number."""
        return self._record.json()

    def html(self, whole_page: bool = True) -> str:
        """The record as a page with pictures that needs nothing else; or what stands in its body."""
        return self._record.html(bool(whole_page))

    def _repr_html_(self) -> str:
        return self.html(whole_page=False)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<longspan.Explanation: {self.title}>"


def _exact(*, mask=None, bias=None, scale=None, softcap=0.0, alibi_slopes=None, sinks=None, query_offset=None,
           query_chunk=None, key_chunk=None, layout="bshd"):
    return call_options(mask, bias, scale, softcap, alibi_slopes, sinks, query_offset=query_offset, query_chunk=query_chunk,
                        key_chunk=key_chunk, layout=layout), None


def _hashed(*, num_hashes=4, num_buckets=None, chunk_len=64, chunks_before=1, chunks_after=0, dedup=None, wrap=None,
            key_norm=None, mask=None, seed=0, rotations=None, buckets=None, preset=None, softcap=0.0, alibi_slopes=None,
            sinks=None, scale=None, query_offset=None, whole_buckets=False, local_window=None, layout="bshd"):
    return (call_options(mask, None, scale, softcap, alibi_slopes, sinks, query_offset=query_offset, layout=layout),
            _lsh_options(num_hashes, num_buckets, chunk_len, chunks_before, chunks_after, dedup, wrap, key_norm, seed,
                         rotations, buckets, preset, whole_buckets, local_window))


_exact.__qualname__ = _hashed.__qualname__ = "explain"  # what the TypeError for an unknown option says


def _range(name, chosen):
    if chosen is None:
        return None
    if isinstance(chosen, slice | range):
        if chosen.step not in (None, 1):
            raise ValueError(f"explain: {name} must have no step but 1; found {chosen.step}")
        if chosen.stop is None:
            raise ValueError(f"explain: {name} needs an end; found {chosen.start or 0}:")
        chosen = (chosen.start or 0, chosen.stop)
    return whole_pair(name, chosen)


def explain(query: Array, key: Array | None, value: Array, *, method: Literal["exact", "lsh"] = "exact",
            rows: Sequence[int] | slice | None = None, heads: Sequence[int] | slice | None = None,
            chunks: Sequence[int] | slice | None = None, batch: int = 0, passthrough: bool = False,
            **options) -> Explanation:
    """Every step of a method on these inputs, with the numbers that the engine computed.

    query, key, value
        As in attention() for "exact", as in lsh_attention() for "lsh" (key=None: one tensor is query and key).
    method
        "exact": attention in chunks of keys; "lsh": the Reformer's.
    rows, heads, chunks
        What is shown: (first, end) or a slice without a step, of queries, heads and chunks; None: all. Chunks are those of
        keys, or with "lsh" of all rounds, one round after the other. More than 40000 numbers are refused with a ValueError.
    batch
        The entry that is shown.
    passthrough
        "lsh": weights are the scores themselves, as in the lab's variant without the softmax.
    options
        Those of attention() or lsh_attention(), but for dropout_p, return_lse, return_buckets and out.

    Returns an Explanation. The call runs on one thread. What each step is: docs/exact-step-by-step.md,
    docs/lsh-step-by-step.md.
    """
    if method not in ("exact", "lsh"):
        raise ValueError(f"explain: method must be 'exact' or 'lsh'; found {method!r}")
    call, hashing = _exact(**options) if method == "exact" else _hashed(**options)
    choice = _core.ExplainChoice(whole_number("batch", batch), _range("rows", rows), _range("heads", heads),
                                 _range("chunks", chunks), bool(passthrough))
    return Explanation(_core.explain(query, key, value, call, hashing, choice))
