# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# What exact and hashed attention have in common: a call with its gradient, and calls of XLA's foreign function interface
# by names. Operands are a dict of arrays by name; "arrays" is a tuple, those of the mask. All is of rank 4.
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from .. import _core
from ._batching import batched

if not hasattr(_core, "jax_handlers"):
    raise ImportError("longspan was built without JAX: it found no jaxlib. Install jax, then longspan from its sources "
                      "(pip install --no-cache-dir --force-reinstall --no-deps .)")

for _name, _handler in _core.jax_handlers().items():
    jax.ffi.register_ffi_target(f"longspan_{_name}", _handler, platform="cpu")

_DIFFERENTIABLE = ("query", "key", "value", "bias", "sinks")


@dataclasses.dataclass(frozen=True)
class Call:
    """What is static about a call: a key of caches."""

    name: str
    attributes: tuple  # of (name, value); value: int, float, str or a tuple of int
    heads_first: bool
    entries_differ: bool  # what an entry of a batch gets depends on its place in it

    @staticmethod
    def make(name, attributes, layout, entries_differ):
        heads_first = layout == "bhsd"
        given = {**attributes, "heads_first": int(heads_first)}
        given = ((key, value) for key, value in given.items() if value is not None and value != ())
        return Call(name, tuple(given), heads_first, entries_differ)


@jax.tree_util.register_static
class _Wanted(tuple):
    """Names of the operands whose gradients are asked for."""


def _wide(dtype):
    """The type of lse and of sums."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def _forward_results(call, operands):
    query, key, value = operands["query"], operands.get("key"), operands["value"]
    batch, heads, seqlen = (query.shape[axis] for axis in ((0, 1, 2) if call.heads_first else (0, 2, 1)))
    results = {"output": jax.ShapeDtypeStruct(query.shape[:-1] + value.shape[-1:], query.dtype),
               "lse": jax.ShapeDtypeStruct((batch, heads, seqlen), _wide(query.dtype))}
    if call.name == "lsh_attention" and "query_buckets" not in operands:
        rounds = dict(call.attributes)["num_hashes"]
        results["query_buckets"] = jax.ShapeDtypeStruct((batch, heads, rounds, seqlen), jnp.int32)
        if key is not None:
            heads, seqlen = (key.shape[axis] for axis in ((1, 2) if call.heads_first else (2, 1)))
            results["key_buckets"] = jax.ShapeDtypeStruct((batch, heads, rounds, seqlen), jnp.int32)
    return results


def _backward_results(wanted, operands):
    dtype = operands["query"].dtype
    return {name: jax.ShapeDtypeStruct(operands[name].shape, dtype if name in _DIFFERENTIABLE[:3] else _wide(dtype))
            for name in wanted}


def _attribute(value):
    """Of 64 bits, whatever jax_enable_x64 says."""
    return value if isinstance(value, str) else np.array(value, np.float64 if isinstance(value, float) else np.int64)[()]


def _named(operands):
    """(name, array), those of a tuple one by one."""
    return [(name, x) for name, given in operands.items() for x in (given if isinstance(given, tuple) else (given,))]


def _call_target(target, call, operands, results):
    """The results of a handler, by their names."""
    named = _named(operands)
    attributes = {name: _attribute(value) for name, value in call.attributes}
    found = jax.ffi.ffi_call(f"longspan_{target}", list(results.values()))(
        *(x for _, x in named), operands=" ".join(name for name, _ in named), results=" ".join(results), **attributes)
    return dict(zip(results, found))


@functools.lru_cache(maxsize=1024)
def _forward_of(call):
    return batched(call, (), lambda operands: _call_target(call.name, call, operands, _forward_results(call, operands)))


@functools.lru_cache(maxsize=1024)
def _backward_of(call, wanted):
    return batched(call, wanted, lambda operands: _call_target(f"{call.name}_backward", call, operands,
                                                               _backward_results(wanted, operands)))


@functools.lru_cache(maxsize=1024)
def _check(call, operands):
    _core.jax_check(call.name, list(operands), dict(call.attributes))


def checked(call, operands):
    """The operands, when their shapes and types fit."""
    _check(call, tuple((name, x.dtype.name, tuple(x.shape)) for name, x in _named(operands) if name != "seed"))
    return operands


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(call, operands):
    """output, lse and, from hashed attention that was given none, buckets: a dict."""
    return _forward_of(call)(operands)


def _attend_forward(call, operands):
    slopes = operands.get("alibi_slopes")
    if slopes is not None and slopes.perturbed:
        raise TypeError("alibi_slopes is differentiated; longspan has no gradient of it (jax.lax.stop_gradient() it, or "
                        "give a bias)")
    wanted = _Wanted(name for name in _DIFFERENTIABLE if name in operands and operands[name].perturbed)
    operands = jax.tree.map(lambda x: x.value, operands)
    results = attend(call, operands)
    return results, (wanted, operands, results)


def _attend_backward(call, residuals, cotangents):
    wanted, operands, results = residuals
    given = {name: x for name, x in operands.items() if name != "rotations" and (name != "seed" or "lsh" not in call.name)}
    given.update(results)  # with the buckets: they say all about hashing
    doutput, dlse = cotangents["output"], cotangents["lse"]
    is_zero = [isinstance(x, jax.custom_derivatives.SymbolicZero) for x in (doutput, dlse)]
    given["doutput"] = jnp.zeros(doutput.shape, doutput.dtype) if is_zero[0] else doutput
    if not is_zero[1]:
        given["dlse"] = dlse
    gradients = _gradients(call, tuple(wanted), given)
    return {name: gradients[name].astype(operands[name].dtype) if name in gradients else None for name in operands},


attend.defvjp(_attend_forward, _attend_backward, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gradients(call, wanted, operands):
    return _backward_of(call, wanted)(operands)


def _refuse(*_):
    raise TypeError("longspan has no gradient of gradients (second order)")


_gradients.defvjp(_refuse, _refuse)
