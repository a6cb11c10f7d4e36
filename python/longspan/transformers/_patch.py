# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Models whose attention is code of their own, not a function that transformers looks up.
import importlib
import sys
from typing import NamedTuple

import torch

from ._patch_shared import replaced_class

# The file here that knows the modules of a file of transformers.
_FILES = {
    "transformers.models.bloom.modeling_bloom": "_patch_bloom",
    "transformers.models.gptj.modeling_gptj": "_patch_causal",
    "transformers.models.gpt_neo.modeling_gpt_neo": "_patch_causal",
    "transformers.models.perceiver.modeling_perceiver": "_patch_perceiver",
    "transformers.models.reformer.modeling_reformer": "_patch_reformer",
}

# Why not, where there is more to say than that a class is not known.
_REASONS = {
    "DisentangledSelfAttention": "its scores add terms of content and relative position for each pair, which needs a "
                                 "matrix of seqlen x seqlen",
    "GPTNeoFlashAttention2": 'it is the flash_attention_2 of GPT-Neo; load the model with attn_implementation="eager"',
    "FalconAttention": "its model makes a matrix of seqlen x seqlen for the mask before it gets there",
}


class Replacement(NamedTuple):
    """One module: what was there and what is there now."""

    name: str
    was: str
    now: str

    def __str__(self):
        return f"{self.name or '(the module itself)'}: {self.was} -> {self.now}"


class Replaced(tuple):
    """What patch() replaced, one Replacement a module; prints as lines. undo() puts back what was there."""

    def __new__(cls, replacements=(), undo=()):
        self = super().__new__(cls, replacements)
        self._undo = list(undo)
        return self

    def __str__(self):
        return "\n".join(map(str, self)) or "nothing replaced"

    __repr__ = __str__

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()


def _tables_of(kind):
    """The file here for a class of transformers; None where it is not known."""
    name = _FILES.get(kind.__module__)
    return name and importlib.import_module(f".{name}", __package__)


def _is_attention(module):
    return "Attention" in type(module).__name__


def _on_the_interface(kind):
    return hasattr(sys.modules.get(kind.__module__), "ALL_ATTENTION_FUNCTIONS")


def _plan_module(module):
    """(its replacement, its hook), each None where there is none; a ValueError for what cannot be replaced."""
    kind = type(module)
    tables = _tables_of(kind)
    if tables is None:
        return None, None
    new = next((new for new in tables.REPLACEMENTS if replaced_class(new) is kind), None)
    hook = tables.HOOKS.get(kind)
    if hook in module._forward_pre_hooks.values():
        hook = None
    if new is not None:
        words = tables.refusal(module)
        if words:
            raise ValueError(f"{kind.__name__}: {words}")
        for name, parameter in module.named_parameters():
            if parameter.device.type not in ("cpu", "meta"):
                raise ValueError(f"{kind.__name__}: {name} is on {parameter.device}; longspan computes on the CPU")
    return new, hook


def _check_the_rest(model, replaced):
    """A ValueError if there is attention that is neither replaced nor on the interface."""
    for name, module in model.named_modules():
        kind = type(module)
        if not _is_attention(module) or _on_the_interface(kind):
            continue
        if any(id(inner) in replaced or (inner is not module and _is_attention(inner)) for inner in module.modules()):
            continue  # it is around what computes
        reason = _REASONS.get(kind.__name__, "patch() does not know this class")
        raise ValueError(f"{kind.__name__} ({name or 'the module itself'}): {reason}; nothing was replaced")


def patch(model: torch.nn.Module) -> Replaced:
    """Puts longspan in the place of attention that transformers has no switch for: Bloom, GPT-J, GPT-Neo,
    Perceiver, Reformer.

    model
        A model, or any module of one: what is inside is replaced. Weights, inputs and outputs stay as they are; so do
        the answers, to rounding, at positions that are not padding. Models on transformers' attention interface take
        longspan.transformers.register() instead.

    Returns what was replaced: a tuple of (name, was, now) that prints as lines. Its undo() puts everything back. A
    second patch() of the same model finds nothing to do. A module that is not known is a ValueError, and nothing is
    replaced.

    output_attentions=True is a ValueError: see longspan.attention_weights(). Dropout of attention weights draws its seed
    from torch's generator; LSHSelfAttention refuses it in training. A Reformer takes any length, in training, too, and
    is no longer padded to a multiple of its chunks. A cached step of its generate() runs the module's own code.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"patch: expected a model or a module of one; found {type(model).__name__}")
    found = [(name, module, *_plan_module(module)) for name, module in model.named_modules()]
    done = {id(module) for _, module, new, _ in found
            if new is not None or replaced_class(type(module)) is not type(module)}
    _check_the_rest(model, done)
    if not done:
        raise ValueError(_nothing_found(model))
    replacements, undo = [], []
    for name, module, new, hook in found:
        was = type(module)
        if new is not None:
            module.__class__ = new
            undo.append(lambda module=module, was=was: setattr(module, "__class__", was))
            replacements.append(Replacement(name, was.__name__, f"longspan {new.__qualname__}"))
        if hook is not None:
            undo.append(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            replacements.append(Replacement(name, "a mask of seqlen_q x seqlen_k", "a mask of seqlen_k"))
    return Replaced(replacements, undo)


def _nothing_found(model):
    name = type(model).__name__
    if any(map(_is_attention, model.modules())):
        return (f"{name}: its attention is on transformers' attention interface; call longspan.transformers.register() "
                'and model.set_attn_implementation("longspan")')
    return f"{name}: no attention module in it"


def is_known(model) -> bool:
    """Whether patch() would find something to replace, or has."""
    return any(type(module).__module__ in _FILES or replaced_class(type(module)) is not type(module)
               for module in model.modules())
