# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Exact attention, its gradients, and the merge of partial results.
from collections.abc import Iterable
from typing import NamedTuple

from . import _core
from ._options import call_options
from ._types import Array, Layout, MaskLike, QueryOffset


class Gradients(NamedTuple):
    """Gradients with respect to the inputs of a call; None where something was not an input."""

    query: Array
    key: Array | None
    value: Array
    bias: Array | None
    sinks: Array | None


def attention(query: Array, key: Array, value: Array, *, mask: MaskLike = None, bias: Array | None = None,
              scale: float | None = None, softcap: float = 0.0, alibi_slopes: Array | None = None,
              sinks: Array | None = None, dropout_p: float = 0.0, seed: int = 0, query_offset: QueryOffset = None,
              query_chunk: int | None = None, key_chunk: int | None = None, layout: Layout = "bshd",
              return_lse: bool = False, out: Array | None = None) -> Array | tuple[Array, Array]:
    """Exact attention in chunks: memory does not grow with seqlen_q x seqlen_k.

    score = scale * (query . key); softcap * tanh(score / softcap) when softcap > 0; + bias; - alibi_slopes * distance;
    then the mask. A row that sees no key gives output 0 and lse -inf. Hidden keys and values never leak, not even NaN.
    Results are bitwise equal for any number of threads.

    query, key, value
        [batch, seqlen_q, num_heads, head_dim], [batch, seqlen_k, num_heads_kv, head_dim],
        [batch, seqlen_k, num_heads_kv, head_dim_v], of one dtype: float32, float64, float16 or bfloat16 (ml_dtypes).
        num_heads is a multiple of num_heads_kv. Any length may be 0.
    mask
        causal(), window() and the like, combined by &; or a boolean array, as in dense().
    bias
        Floating, broadcastable to [batch, num_heads, seqlen_q, seqlen_k] in either layout; -inf excludes.
    scale
        The factor of query . key; None: 1 / sqrt(head_dim).
    softcap
        The bound of scores before bias and slopes; 0: none.
    alibi_slopes
        [num_heads] or [batch, num_heads]: what a score loses for each position between query and key.
    sinks
        [num_heads]: the logit of a key of value 0 that every row sees. It is part of lse.
    dropout_p, seed
        The probability of dropping a weight, and what decides which (Philox of seed, batch, head, query, key).
    query_offset
        The key position of query 0, for what compares positions: a number, "end" (the last query sits at the last key)
        or an array [batch]. None: 0 where the lengths are equal; where they are not, it is needed.
    query_chunk, key_chunk
        How many queries and keys are handled together; chosen when None. They change the result by rounding only.
    layout
        "bshd", or "bhsd" for [batch, num_heads, seqlen, dim], of all tensors.
    return_lse
        Return (output, lse) with lse = ln(sum of exp(score)), [batch, num_heads, seqlen_q] in either layout: float32,
        float64 for float64.
    out
        Where the output goes, of the query's dtype or float32; it is what is returned. It must not overlap an input.

    Returns output, [batch, seqlen_q, num_heads, head_dim_v], of the query's dtype and kind; or (output, lse).
    """
    options = call_options(mask, bias, scale, softcap, alibi_slopes, sinks, dropout_p, seed, query_offset, query_chunk,
                           key_chunk, layout)
    return _core.attention(query, key, value, options, bool(return_lse), out)


def attention_backward(doutput: Array, query: Array, key: Array, value: Array, output: Array, lse: Array, *,
                       dlse: Array | None = None, mask: MaskLike = None, bias: Array | None = None,
                       scale: float | None = None, softcap: float = 0.0, alibi_slopes: Array | None = None,
                       sinks: Array | None = None, dropout_p: float = 0.0, seed: int = 0,
                       query_offset: QueryOffset = None, query_chunk: int | None = None, key_chunk: int | None = None,
                       layout: Layout = "bshd") -> Gradients:
    """The gradients of sum(output * doutput) + sum(lse * dlse).

    Weights are computed again from lse: memory stays linear in the lengths.

    doutput
        [batch, seqlen_q, num_heads, head_dim_v], of the output's dtype.
    query, key, value
        As attention() had them; so are all options that are not named here.
    output, lse
        What attention() gave for them.
    dlse
        [batch, num_heads, seqlen_q], of the dtype of lse; None: 0.

    Returns Gradients: query, key and value of the shapes and dtype of the inputs; bias and sinks, where they were given,
    of their shapes in float32 (float64 for float64 inputs). Excluded pairs add nothing.
    """
    options = call_options(mask, bias, scale, softcap, alibi_slopes, sinks, dropout_p, seed, query_offset, query_chunk,
                           key_chunk, layout)
    return Gradients(*_core.attention_backward(doutput, query, key, value, output, lse, dlse, options))


def merge(parts: Iterable[tuple[Array, Array]], *, layout: Layout = "bshd") -> tuple[Array, Array]:
    """Merges partial results (output, lse) over disjoint keys into that of all of them.

    parts
        At least one pair; all are of one shape, [batch, seqlen_q, num_heads, head_dim_v] and [batch, num_heads, seqlen_q],
        as attention(..., return_lse=True) gives them. A part whose lse is -inf changes no bit and its output is not read.
        Order does not matter beyond rounding; sums are taken in float64.
    layout
        As in attention(), of the outputs.

    Returns (output, lse), new arrays of the dtypes of the first part.
    """
    return _core.merge([(output, lse) for output, lse in parts], call_options(layout=layout))
