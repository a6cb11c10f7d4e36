# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Hashed attention as an operator of PyTorch, and its gradient. The buckets that the forward pass found serve the
# backward pass.
import torch

from .. import _core
from .._lsh import Dedup, KeyNorm, Preset, Wrap, hashing, pair_of_buckets
from .._types import Layout, MaskLike, QueryOffset
from ._dispatch import define
from ._operators import (SCORES, as_bshd, core_options, empty_lse, empty_output, fake_backward, input_gradients, keep,
                         needed, score_arguments, seed_bits, split, under_autocast, wanted)

# What follows hash_seed is Hashing.
_HASHING = ("Tensor? query_buckets, Tensor? key_buckets, Tensor? rotations, SymInt hash_seed, SymInt num_hashes, "
            "SymInt[] num_buckets, SymInt chunk_len, SymInt chunks_before, SymInt chunks_after, str? dedup, str? wrap, "
            "str? key_norm, str? preset, bool whole_buckets, SymInt[]? local_window")


def _core_hashing(query_buckets, key_buckets, rotations, hash_seed, *how):
    return _core.LshOptions(*how, hash_seed % 2**64, rotations, query_buckets, key_buckets)


def _empty_buckets(vectors, num_hashes):
    """[batch, num_heads, num_hashes, seqlen], without what the vectors lack."""
    shape = [*vectors.shape[:-3], vectors.shape[-2], num_hashes, vectors.shape[-3]]
    return vectors.new_empty(shape if vectors.dim() >= 3 else [num_hashes, vectors.shape[0]], dtype=torch.int32)


def _outputs(query, key, value, hashing):
    query_buckets, _, _, _, num_hashes = hashing[:5]
    nothing = query.new_empty(0, dtype=torch.int32)
    made = query_buckets is None
    return (empty_output(query, value), empty_lse(query), _empty_buckets(query, num_hashes) if made else nothing,
            _empty_buckets(key, num_hashes) if made and key is not None else nothing)


def _compute(query, key, value, *arguments):
    _, scores, hashing = split((query, key, value, *arguments), 3)
    output, lse, *buckets = _outputs(query, key, value, hashing)
    into = None if hashing[0] is not None else buckets[0] if key is None else tuple(buckets)
    _core.lsh_attention(query, key, value, _core_hashing(*hashing), core_options(*scores), lse, into is not None, output,
                        into)
    return output, lse, *buckets


def _fake(query, key, value, *arguments):
    _, _, hashing = split((query, key, value, *arguments), 3)
    return _outputs(query, key, value, hashing)


def _setup_context(ctx, inputs, output):
    (query, key, value), scores, hashing = split(inputs, 3)
    _, alibi_slopes, sinks, arrays, *ctx.numbers, drawn_seed = scores
    query_buckets, key_buckets, _, *ctx.hashing = hashing
    output, lse, *found = output
    if query_buckets is None:
        query_buckets, key_buckets = found[0], None if key is None else found[1]
    ctx.mark_non_differentiable(*found)
    keep(ctx, scores)
    ctx.save_for_backward(query, key, value, output, lse, query_buckets, key_buckets, alibi_slopes, sinks, drawn_seed,
                          *arrays)
    ctx.set_materialize_grads(False)


def _backward(ctx, doutput, dlse, *_):
    (query, key, value, output, lse, query_buckets, key_buckets, alibi_slopes, sinks, drawn_seed,
     *arrays) = ctx.saved_tensors
    if doutput is None:
        doutput = torch.zeros_like(output)
    needs = needed(ctx)
    needs[1] = needs[1] and key is not None
    rotations = None  # the buckets are there
    gradients = _operator_backward(doutput, query, key, value, output, lse, dlse, needs, None, alibi_slopes, sinks, arrays,
                                   *ctx.numbers, drawn_seed, query_buckets, key_buckets, rotations, *ctx.hashing)
    return input_gradients(ctx, gradients, needs, None, sinks)


def _compute_backward(doutput, query, key, value, output, lse, dlse, needs, *arguments):
    gradients = fake_backward(doutput, query, key, value, output, lse, dlse, needs, *arguments)
    _, scores, hashing = split(arguments, 0)
    _core.lsh_attention_backward(doutput, query, key, value, output, lse, dlse, _core_hashing(*hashing),
                                 core_options(*scores), wanted(gradients, needs))
    return gradients


_operator = define("lsh_attention",
                   f"(Tensor query, Tensor? key, Tensor value, {SCORES}, {_HASHING}) -> (Tensor, Tensor, Tensor, Tensor)",
                   _compute, _fake, _setup_context, _backward)
_operator_backward = define(
    "lsh_attention_backward",
    "(Tensor doutput, Tensor query, Tensor? key, Tensor value, Tensor output, Tensor lse, Tensor? dlse, "
    f"bool[] needs, {SCORES}, {_HASHING}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)", _compute_backward, fake_backward)


def lsh_attention(query: torch.Tensor, key: torch.Tensor | None, value: torch.Tensor, *, num_hashes: int = 4,
                  num_buckets: int | tuple[int, ...] | None = None, chunk_len: int = 64, chunks_before: int = 1,
                  chunks_after: int = 0, dedup: Dedup = None, wrap: Wrap = None, key_norm: KeyNorm = None,
                  mask: MaskLike = None, seed: int = 0, rotations: torch.Tensor | None = None, buckets=None,
                  preset: Preset = None, softcap: float = 0.0, alibi_slopes: torch.Tensor | None = None,
                  sinks: torch.Tensor | None = None, scale: float | None = None, query_offset: QueryOffset = None,
                  whole_buckets: bool = False, local_window: tuple[int, int] | None = None, layout: Layout = "bshd",
                  return_lse: bool = False, return_buckets: bool = False) -> torch.Tensor | tuple:
    """longspan.lsh_attention() of tensors, with gradients of query, key, value, sinks and of lse.

    Buckets are constants: no gradient goes through the hashing, nor to rotations.
    """
    query, key, value = as_bshd(layout, *under_autocast(query, key, value))
    scores, _alive = score_arguments(mask, None, alibi_slopes, sinks, query_offset, scale, softcap)
    query_buckets, key_buckets = pair_of_buckets(buckets)
    how = hashing(num_hashes, num_buckets, chunk_len, chunks_before, chunks_after, dedup, wrap, key_norm, preset,
                  whole_buckets, local_window, rotations)  # the backward pass has the buckets in place of rotations
    if rotations is not None:
        rotations = rotations.detach()
    output, lse, *found = _operator(query, key, value, *scores, query_buckets, key_buckets, rotations, seed_bits(seed),
                                    *how)
    output, = as_bshd(layout, output)
    if buckets is None:
        buckets = found[0] if key is None else tuple(found)
    results = (output, *([lse] if return_lse else []), *([buckets] if return_buckets else []))
    return results if len(results) > 1 else output
