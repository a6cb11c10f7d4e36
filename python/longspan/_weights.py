# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Where attention went: its weights, computed again from lse.
from collections.abc import Sequence

from . import _core
from ._arguments import whole_number, whole_numbers
from ._options import call_options
from ._types import Array, Layout, MaskLike, QueryOffset


def attention_weights(query: Array, key: Array, lse: Array, *, rows: Array | Sequence[int] | None = None,
                      top_k: int | None = None, column_sums: bool = False, mask: MaskLike = None,
                      bias: Array | None = None, scale: float | None = None, softcap: float = 0.0,
                      alibi_slopes: Array | None = None, sinks: Array | None = None, dropout_p: float = 0.0,
                      seed: int = 0, query_offset: QueryOffset = None, query_chunk: int | None = None,
                      key_chunk: int | None = None, layout: Layout = "bshd") -> Array | tuple[Array, Array]:
    """Weights exp(score - lse) of chosen rows, or the largest of each row, or their sums by key.

    One of the three has to be asked for; all weights at once would be as large as seqlen_q x seqlen_k.

    query, key, lse
        As attention() had and gave them, with return_lse=True.
    rows
        Numbers of queries, in any order; a row may be named again. None: every row, for top_k and column_sums.
    top_k
        So many keys of each row, by falling weight, equal ones by rising key.
    column_sums
        The sum of the weights that each key receives.
    mask, bias, scale, softcap, alibi_slopes, query_offset, query_chunk, key_chunk, layout
        As in the call of attention(); so is sinks, which is part of lse and changes nothing.
    dropout_p, seed
        dropout_p must be 0: weights are those before dropout.

    Returns, with leading [batch, num_heads] in either layout and in float32 (float64 for float64 inputs):
    with rows alone the weights [len(rows), seqlen_k], 0 where a key is hidden;
    with top_k a pair (keys, weights) of [rows, top_k], int64 keys; -1 and 0 where a row sees fewer keys;
    with column_sums=True the sums [seqlen_k].
    """
    options = call_options(mask, bias, scale, softcap, alibi_slopes, sinks, dropout_p, seed, query_offset, query_chunk,
                           key_chunk, layout)
    if dropout_p > 0:
        raise ValueError(f"attention_weights: dropout_p must be 0, since weights are those before dropout; found {dropout_p}")
    rows = whole_numbers("rows", rows)
    if top_k is not None:
        if column_sums:
            raise ValueError("attention_weights: top_k and column_sums are two calls; expected one of them")
        top_k = whole_number("top_k", top_k)
        if top_k < 0:
            raise ValueError(f"attention_weights: top_k must not be negative; found {top_k}")
        return _core.top_weights(query, key, lse, rows, top_k, options)
    if column_sums:
        return _core.column_sums(query, key, lse, rows, options)
    if rows is None:
        raise ValueError("attention_weights: expected rows=[...], top_k=k or column_sums=True; found none of them "
                         "(all weights together are seqlen_q x seqlen_k)")
    return _core.weights_of_rows(query, key, lse, rows, options)
