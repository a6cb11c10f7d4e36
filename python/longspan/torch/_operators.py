# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# What the operators of exact and of hashed attention have in common. Tensors are [..., seqlen, num_heads, dim];
# operators take tensors, numbers and words only, so masks come as their parts (longspan/_masks.py).
import itertools
import weakref

import torch

from .. import _core
from .._arguments import UINT64, is_heads_first, optional, real_number, whole_number
from .._masks import as_mask, encode_offset

# The arguments after the tensors that all operators share.
SCORES = ("Tensor? bias, Tensor? alibi_slopes, Tensor? sinks, Tensor[] arrays, SymInt[] mask, int[] predicates, "
          "SymInt[] query_offset, float? scale, float softcap, float dropout_p, SymInt seed, Tensor? drawn_seed")
_NUM_SCORES = SCORES.count(",") + 1

_predicates = weakref.WeakValueDictionary()  # by the number that an operator is told
_numbers = itertools.count()


class _Predicate:
    """A function of a mask, for as long as a call or its gradient needs it."""

    def __init__(self, may_see):
        self.may_see = may_see
        self.number = next(_numbers)
        _predicates[self.number] = self


def _as_tensor(array):
    return array if isinstance(array, torch.Tensor) else torch.as_tensor(array)


def seed_bits(seed):
    """The bits of a seed as a number of int64, which operators take."""
    seed = whole_number("seed", seed, UINT64)
    return seed - 2**64 if seed >= 2**63 else seed


def score_arguments(mask, bias, alibi_slopes, sinks, query_offset, scale, softcap, dropout_p=0.0, seed=0):
    """The arguments SCORES, and what must stay alive until the operator has been called."""
    mask = as_mask(mask)
    offset_kind, offset, offset_arrays = encode_offset(query_offset)
    if alibi_slopes is not None and alibi_slopes.requires_grad:
        raise TypeError("alibi_slopes requires grad; longspan has no gradient of it (detach() it, or give a bias)")
    if mask.predicates and torch.compiler.is_compiling():
        raise TypeError("predicate() is a function that torch.compile cannot keep; inside it, give a boolean tensor")
    alive = [_Predicate(may_see) for may_see in mask.predicates]
    drawn_seed = seed if isinstance(seed, torch.Tensor) else None
    number = 0 if drawn_seed is not None else seed_bits(seed)
    arguments = (bias, alibi_slopes, sinks, [_as_tensor(array) for array in mask.arrays + offset_arrays],
                 list(mask.numbers), [predicate.number for predicate in alive], [offset_kind, offset],
                 optional(real_number, "scale", scale), real_number("softcap", softcap),
                 real_number("dropout_p", dropout_p), number, drawn_seed)
    return arguments, alive


def core_options(bias, alibi_slopes, sinks, arrays, mask, predicates, query_offset, scale, softcap, dropout_p, seed,
                 drawn_seed, query_chunk=None, key_chunk=None, heads_first=False):
    """The options of _core of the arguments SCORES, and of what operators do not take."""
    functions = [_predicates[number].may_see for number in predicates] if predicates else []
    if drawn_seed is not None:
        seed = int(drawn_seed)
    return _core.Options((mask, arrays, functions), bias, scale, softcap, alibi_slopes, sinks, dropout_p,
                         seed % 2**64, (*query_offset, arrays[-1:]), query_chunk, key_chunk, heads_first,
                         torch.get_num_threads())


def keep(ctx, scores):
    """Makes the functions of the mask live as long as ctx."""
    if numbers := scores[5]:
        ctx.predicates = [_predicates[number] for number in numbers]


def split(inputs, num_tensors):
    """(tensors, SCORES, the rest) of the arguments of an operator."""
    end = num_tensors + _NUM_SCORES
    return inputs[:num_tensors], inputs[num_tensors:end], inputs[end:]


def as_bshd(layout, *tensors):
    """Tensors of the layout as [..., seqlen, num_heads, dim]; and back, since it is its own inverse."""
    if not is_heads_first(layout):
        return tensors
    return tuple(x if x is None or x.dim() < 3 else x.transpose(-3, -2) for x in tensors)


def under_autocast(*tensors):
    """Tensors in the type of autocast on the CPU, where it is on; float64 stays."""
    if not torch._C._is_any_autocast_enabled() or not torch.is_autocast_enabled("cpu"):  # the second parses its word
        return tensors
    dtype = torch.get_autocast_dtype("cpu")
    return tuple(x.to(dtype) if x is not None and x.is_floating_point() and x.dtype != torch.float64 else x
                 for x in tensors)


def empty_lse(query):
    """[..., num_heads, seqlen] for a query [..., seqlen, num_heads, dim]."""
    *shape, _ = query.shape
    shape[-2:] = shape[:-3:-1]
    return query.new_empty(shape, dtype=torch.float64 if query.dtype == torch.float64 else torch.float32)


def empty_output(query, value):
    if query.shape[-1] == value.shape[-1]:
        return torch.empty_like(query, memory_format=torch.contiguous_format)  # half of what new_empty() takes
    return query.new_empty([*query.shape[:-1], value.shape[-1]])


def empty_gradients(query, key, value, bias, sinks, needs):
    """Of what needs one, as the library gives them; a tensor without elements elsewhere."""
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    tensors = ((query, query.dtype), (key, query.dtype), (value, query.dtype), (bias, wide), (sinks, wide))
    return tuple(x.new_empty(x.shape, dtype=dtype) if need else query.new_empty(0)
                 for (x, dtype), need in zip(tensors, needs))


def wanted(gradients, needs):
    """What _core takes of empty_gradients(): None where nothing is to be computed."""
    return tuple(gradient if need else None for gradient, need in zip(gradients, needs))


def fake_backward(doutput, query, key, value, output, lse, dlse, needs, bias, alibi_slopes, sinks, *_):
    """What a backward operator returns, not computed."""
    return empty_gradients(query, key, value, bias, sinks, needs)


_PLACES = (0, 1, 2, 3, 5)  # of query, key, value, bias and sinks among the inputs of a forward operator


def needed(ctx):
    """Which gradients of query, key, value, bias and sinks are asked for."""
    return [ctx.needs_input_grad[place] for place in _PLACES]


def input_gradients(ctx, gradients, needs, bias, sinks):
    """The gradients at the places of the inputs of the forward operator, None elsewhere."""
    # In what torch.library keeps, a list of inputs has a list of gradients.
    by_input = [[None] * len(x) if isinstance(x, (list, tuple)) else None for x in ctx.needs_input_grad]
    for place, gradient, need, x in zip(_PLACES, gradients, needs, (None, None, None, bias, sinks)):
        if need:
            by_input[place] = gradient if x is None else gradient.to(x.dtype)
    return tuple(by_input)
