# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Exact attention of arrays of JAX.
import jax

from .._arguments import optional, real_number, whole_number
from .._types import Layout, MaskLike, QueryOffset
from ._calls import Call, attend, checked
from ._operands import as_given, scores, seed_words, vectors


def attention(query: jax.Array, key: jax.Array, value: jax.Array, *, mask: MaskLike = None, bias: jax.Array | None = None,
              scale: float | None = None, softcap: float = 0.0, alibi_slopes: jax.Array | None = None,
              sinks: jax.Array | None = None, dropout_p: float = 0.0, seed: int | jax.Array = 0,
              query_offset: QueryOffset = None, query_chunk: int | None = None, key_chunk: int | None = None,
              layout: Layout = "bshd", return_lse: bool = False, out: None = None) -> jax.Array | tuple:
    """longspan.attention() of arrays of JAX, with gradients of query, key, value, bias, sinks and of lse.

    seed
        A number, or an array of one, whole, that may be traced: jax.random.bits(key).
    scale, softcap, dropout_p, query_chunk, key_chunk, and the numbers of masks
        Static: numbers of Python.
    out
        Not for arrays of JAX, which are never written to.
    """
    if out is not None:
        raise TypeError("out= is not for JAX, whose arrays cannot be written to; use what is returned")
    operands, added = vectors(layout, query, key, value)
    terms, attributes, has_documents = scores(mask, bias, alibi_slopes, sinks, query_offset, scale, softcap)
    operands.update(terms)
    attributes.update(query_chunk=optional(whole_number, "query_chunk", query_chunk),
                      key_chunk=optional(whole_number, "key_chunk", key_chunk))
    dropout_p = real_number("dropout_p", dropout_p)
    if dropout_p:
        operands["seed"] = seed_words(seed)
        attributes["dropout_p"] = dropout_p
    call = Call.make("attention", attributes, layout, has_documents or bool(dropout_p))
    results = as_given(attend(call, checked(call, operands)), added)
    return (results["output"], results["lse"]) if return_lse else results["output"]
