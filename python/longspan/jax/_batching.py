# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# vmap: where query, key and value are all mapped, the new axis and the batch become one; else entries run in turn.
import jax
import jax.numpy as jnp

_VECTORS = ("query", "key", "value")
_WITHOUT_BATCH = ("sinks", "rotations", "seed")


def batched(call, wanted, run):
    """run(operands) -> results, which vmap can map. `wanted`: the operands whose gradients are the results, if they are."""
    mappable = jax.custom_batching.custom_vmap(run)

    @mappable.def_vmap
    def _rule(axis_size, are_mapped, operands):
        is_mapped, = are_mapped
        apart = call.entries_differ or "sinks" in wanted or any(is_mapped.get(name) for name in _WITHOUT_BATCH)
        if apart or not all(is_mapped[name] for name in _VECTORS if name in operands):
            results = _in_turn(mappable, axis_size, is_mapped, operands)
        else:
            results = _as_one(mappable, axis_size, is_mapped, operands, wanted)
        return results, jax.tree.map(lambda _: True, results)

    return jax.jit(mappable, inline=True)  # traced once for all calls of such shapes


def _in_turn(run, axis_size, is_mapped, operands):
    leaves, tree = jax.tree.flatten(operands)
    flags = jax.tree.leaves(is_mapped)

    def entry(mapped):
        mapped = iter(mapped)
        return run(jax.tree.unflatten(tree, [next(mapped) if flag else x for flag, x in zip(flags, leaves)]))

    return jax.lax.map(entry, [x for flag, x in zip(flags, leaves) if flag])


def _as_one(run, axis_size, is_mapped, operands, wanted):
    batch = operands["query"].shape[1]

    def fold(name, x, mapped):
        """[axis_size * batch, ...]; as it is where all entries may share it."""
        rank = x.ndim - mapped
        if name in _WITHOUT_BATCH or (name == "alibi_slopes" and rank == 1 and not mapped):
            return x
        if not mapped and rank == 4 and x.shape[0] == 1 and name not in wanted and name in ("bias", "arrays"):
            return x
        if name == "alibi_slopes" and rank == 1:
            x = x[:, None]
        elif not mapped:
            x = x[None]
        x = jnp.broadcast_to(x, (axis_size, batch, *x.shape[2:]))
        return x.reshape(axis_size * batch, *x.shape[2:])

    results = run({name: tuple(fold(name, y, flag) for y, flag in zip(x, is_mapped[name])) if isinstance(x, tuple)
                   else fold(name, x, is_mapped[name]) for name, x in operands.items()})
    results = {name: x.reshape(axis_size, batch, *x.shape[1:]) for name, x in results.items()}
    if "bias" in wanted and operands["bias"].shape[int(is_mapped["bias"])] != batch:
        results["bias"] = results["bias"].sum(1, keepdims=True)
    return results
