# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Hashed attention of arrays of JAX. The buckets that the forward pass found serve the backward pass.
import jax

from .._lsh import Dedup, KeyNorm, Preset, Wrap, hashing, pair_of_buckets
from .._types import Layout, MaskLike, QueryOffset
from ._calls import Call, attend, checked
from ._operands import as_array, as_given, as_rank_4, scores, seed_words, vectors


def lsh_attention(query: jax.Array, key: jax.Array | None, value: jax.Array, *, num_hashes: int = 4,
                  num_buckets: int | tuple[int, ...] | None = None, chunk_len: int = 64, chunks_before: int = 1,
                  chunks_after: int = 0, dedup: Dedup = None, wrap: Wrap = None, key_norm: KeyNorm = None,
                  mask: MaskLike = None, seed: int | jax.Array = 0, rotations: jax.Array | None = None, buckets=None,
                  preset: Preset = None, softcap: float = 0.0, alibi_slopes: jax.Array | None = None,
                  sinks: jax.Array | None = None, scale: float | None = None, query_offset: QueryOffset = None,
                  whole_buckets: bool = False, local_window: tuple[int, int] | None = None, layout: Layout = "bshd",
                  return_lse: bool = False, return_buckets: bool = False) -> jax.Array | tuple:
    """longspan.lsh_attention() of arrays of JAX, with gradients of query, key, value, sinks and of lse.

    Buckets are constants: no gradient goes through the hashing, nor to rotations. seed may be traced, as in attention();
    options that are numbers or words are static.
    """
    operands, added = vectors(layout, query, key, value)
    terms, attributes, has_documents = scores(mask, None, alibi_slopes, sinks, query_offset, scale, softcap)
    operands.update(terms)
    if buckets is not None:
        of_query, of_key = pair_of_buckets(buckets)
        operands["query_buckets"] = as_rank_4(as_array(of_query))
        if of_key is not None:
            operands["key_buckets"] = as_rank_4(as_array(of_key))
    elif rotations is not None:
        operands["rotations"] = as_array(rotations)
    else:
        operands["seed"] = seed_words(seed)
    how = hashing(num_hashes, num_buckets, chunk_len, chunks_before, chunks_after, dedup, wrap, key_norm, preset,
                  whole_buckets, local_window, rotations)
    attributes.update(how._asdict())
    call = Call.make("lsh_attention", attributes, layout, has_documents)
    results = as_given(attend(call, checked(call, operands)), added)
    if buckets is None:
        buckets = results["query_buckets"] if key is None else (results["query_buckets"], results["key_buckets"])
    given = (results["output"], *([results["lse"]] if return_lse else []), *([buckets] if return_buckets else []))
    return given if len(given) > 1 else given[0]
