# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Exact attention as an operator of PyTorch, and its gradient.
import torch

from .. import _core
from .._arguments import is_heads_first, optional, whole_number
from .._types import Layout, MaskLike, QueryOffset
from ._dispatch import define
from ._operators import (SCORES, as_bshd, core_options, empty_lse, empty_output, fake_backward, input_gradients, keep,
                         needed, score_arguments, split, under_autocast, wanted)


def _compute(query, key, value, *arguments):
    options = core_options(*arguments)
    output, lse = empty_output(query, value), empty_lse(query)
    _core.attention(query, key, value, options, lse, output)
    return output, lse


def _fake(query, key, value, *arguments):
    return empty_output(query, value), empty_lse(query)


def _setup_context(ctx, inputs, output):
    (query, key, value), scores, _ = split(inputs, 3)
    bias, alibi_slopes, sinks, arrays, *ctx.numbers, drawn_seed = scores
    keep(ctx, scores)
    ctx.save_for_backward(query, key, value, *output, bias, alibi_slopes, sinks, drawn_seed, *arrays)
    ctx.set_materialize_grads(False)


def _backward(ctx, doutput, dlse):
    query, key, value, output, lse, bias, alibi_slopes, sinks, drawn_seed, *arrays = ctx.saved_tensors
    if doutput is None:
        doutput = torch.zeros_like(output)
    needs = needed(ctx)
    gradients = _operator_backward(doutput, query, key, value, output, lse, dlse, needs, bias, alibi_slopes, sinks, arrays,
                                   *ctx.numbers, drawn_seed)
    return input_gradients(ctx, gradients, needs, bias, sinks)


def _compute_backward(doutput, query, key, value, output, lse, dlse, needs, *arguments):
    gradients = fake_backward(doutput, query, key, value, output, lse, dlse, needs, *arguments)
    _core.attention_backward(doutput, query, key, value, output, lse, dlse, core_options(*arguments),
                             wanted(gradients, needs))
    return gradients


_operator = define("attention", f"(Tensor query, Tensor key, Tensor value, {SCORES}) -> (Tensor, Tensor)", _compute,
                   _fake, _setup_context, _backward)
_operator_backward = define(
    "attention_backward",
    "(Tensor doutput, Tensor query, Tensor key, Tensor value, Tensor output, Tensor lse, Tensor? dlse, "
    f"bool[] needs, {SCORES}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)", _compute_backward, fake_backward)


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, mask: MaskLike = None,
              bias: torch.Tensor | None = None, scale: float | None = None, softcap: float = 0.0,
              alibi_slopes: torch.Tensor | None = None, sinks: torch.Tensor | None = None, dropout_p: float = 0.0,
              seed: int | torch.Tensor = 0, query_offset: QueryOffset = None, query_chunk: int | None = None,
              key_chunk: int | None = None, layout: Layout = "bshd", return_lse: bool = False,
              out: torch.Tensor | None = None) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """longspan.attention() of tensors, with gradients of query, key, value, bias, sinks and of lse.

    seed
        A number, or a tensor of one, int64: torch.randint(2**62, ()) follows torch.manual_seed().
    query_chunk, key_chunk, out
        Without gradients only, and not under torch.compile.
    """
    query, key, value = under_autocast(query, key, value)
    arguments, _alive = score_arguments(mask, bias, alibi_slopes, sinks, query_offset, scale, softcap, dropout_p, seed)
    if query_chunk is not None or key_chunk is not None or out is not None:
        # The function for arrays, which complains about tensors that require grad.
        options = core_options(*arguments, optional(whole_number, "query_chunk", query_chunk),
                               optional(whole_number, "key_chunk", key_chunk), is_heads_first(layout))
        return _core.attention(query, key, value, options, bool(return_lse), out)
    query, key, value = as_bshd(layout, query, key, value)
    output, lse = _operator(query, key, value, *arguments)
    output, = as_bshd(layout, output)
    return (output, lse) if return_lse else output
