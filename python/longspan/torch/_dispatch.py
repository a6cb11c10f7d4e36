# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Operators, and the shortest way to them: the dispatcher flattens all arguments of a call, a multiple of what a short
# call takes otherwise. Where nobody listens to it the same functions are called without.
import torch
from torch.autograd import forward_ad

_library = torch.library.Library("longspan", "DEF")

_PLAIN = (torch.Tensor, torch.nn.Parameter)  # no tensors that trace, hold no numbers, or live on several machines


def define(name, schema, compute, fake, setup_context=None, backward=None):
    """The operator longspan::name, as a function; without `backward` its gradient is an error in words."""
    setup_context, backward = setup_context or _save_nothing, backward or _refuse
    _library.define(f"{name}{schema}")
    _library.impl(name, compute, "CPU")
    qualified = f"longspan::{name}"
    torch.library.register_fake(qualified, fake, lib=_library)
    torch.library.register_autograd(qualified, backward, setup_context=setup_context, lib=_library)
    operator = getattr(torch.ops.longspan, name).default
    direct, transformed = _functions(name, compute, setup_context, backward)
    end = schema[:schema.index(" sinks,")].count(",") + 1  # of the arguments that have gradients

    def call(*inputs):
        if in_transform():
            return transformed(*inputs)
        if _through_dispatcher(inputs[0]):
            return operator(*inputs)
        learning = inputs[:end]
        return direct(*learning, inputs[end:]) if _needs_autograd(learning) else compute(*inputs)

    call.operator = operator
    return call


def in_transform():
    """Whether torch.func transforms what is called now, or forward-mode differentiation follows it."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def _save_nothing(ctx, inputs, output):
    pass


def _refuse(ctx, *gradients):
    raise RuntimeError("longspan has no gradient of gradients (double backward)")


def _through_dispatcher(tensor):
    """Whether something takes part that knows operators: a compiler, a mode that records them, tensors of other kinds."""
    return (type(tensor) not in _PLAIN or not tensor.is_cpu or torch.compiler.is_compiling()
            or torch._C._len_torch_dispatch_stack() > 0 or torch.jit.is_tracing())


def _needs_autograd(inputs):
    """Whether one requires grad, or is what is left of a transform of torch.func, which autograd unwraps."""
    grad = torch.is_grad_enabled()
    for x in inputs:
        if x is not None and type(x) is not list and (grad and x.requires_grad or not torch._C._has_storage(x)):
            return True
    return False


def _functions(name, compute, setup_context, backward):
    """The functions for autograd and for the transforms of torch.func, which ask for another form that is slower."""

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            inputs = (*inputs[:-1], *inputs[-1])  # the last is what autograd need not look at, together
            output = compute(*inputs)
            setup_context(ctx, inputs, output)
            return output

    Direct.backward = staticmethod(backward)

    def vmap(info, in_dims, *inputs):
        raise RuntimeError(f"longspan::{name} has no rule for vmap; give it the batch as the first axis of its tensors")

    forms = {"forward": compute, "setup_context": setup_context, "backward": backward, "vmap": vmap}
    transformed = type(name, (torch.autograd.Function,), {form: staticmethod(f) for form, f in forms.items()})
    return Direct.apply, transformed.apply
