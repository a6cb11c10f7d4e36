# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# What the replaced modules have in common.
import torch


def refuse_weights(module, asked):
    """Nothing here makes a matrix of attention weights."""
    if asked:
        raise ValueError(f"{replaced_class(type(module)).__name__}: output_attentions=True asks for all attention "
                         "weights, which longspan never holds; longspan.attention_weights() gives chosen rows, or the top "
                         "keys of each, and .undo() on what patch() returned brings the module's own attention back")


def dropout_of(p, training):
    """dropout_p and seed of a call: drawn from torch's generator, so that torch.manual_seed() repeats it."""
    if not training or p == 0:
        return {}
    return {"dropout_p": p, "seed": torch.randint(2**62, ())}


def replaced_class(kind):
    """The class that a replacement stands for; a class of others stands for itself."""
    return kind.__mro__[1] if "longspan_replacement" in vars(kind) else kind


def replacement(kind):
    """Marks a direct subclass that patch() puts in the place of its base class."""
    kind.longspan_replacement = True
    return kind


def model_replacement(base, forward, module):
    """replacement() of a model: named as it is, for what is written of the class when the model is saved."""
    return replacement(type(base.__name__, (base,), {"forward": forward, "__module__": module,
                                                     "__qualname__": f"Longspan{base.__name__}"}))


class View:
    """An object with some attributes replaced."""

    def __init__(self, of, **attributes):
        self.__dict__.update(attributes)
        self.of = of

    def __getattr__(self, name):
        return getattr(self.of, name)
