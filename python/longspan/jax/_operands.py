# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Arguments of the public functions as operands, all of rank 4, and attributes.
import jax
import jax.numpy as jnp
import numpy as np

from .. import _core
from .._arguments import UINT64, is_heads_first, optional, real_number, whole_number
from .._masks import as_mask, encode_offset


def as_array(x):
    """A list of whole numbers, an array of NumPy or of JAX."""
    return jnp.asarray(x)


def vectors(layout, query, key, value):
    """query, key, value by name, of rank 4, and the axes that this added; key=None is not there."""
    given = {name: as_array(x) for name, x in (("query", query), ("key", key), ("value", value)) if x is not None}
    ranks = {x.ndim for x in given.values()}
    if len(ranks) > 1 or not ranks <= {2, 3, 4}:
        shapes = ", ".join(f"{name} {list(x.shape)}" for name, x in given.items())
        raise ValueError(f"query, key and value must be of one rank of 2, 3, 4; found {shapes}")
    heads = 1 if is_heads_first(layout) else 2  # the axis
    added = {4: (), 3: (0,), 2: (0, heads)}[ranks.pop()]
    return {name: jnp.expand_dims(x, added) for name, x in given.items()}, added


def as_rank_4(x):
    """An array that broadcasts to [batch, num_heads, seqlen_q, seqlen_k]; or what lacks batch and heads."""
    return x if x.ndim >= 4 else x.reshape((1,) * (4 - x.ndim) + x.shape)


def as_given(results, added):
    """The results without axes that vectors() added: dim is the last axis of output, heads are the second of the others."""
    return {name: jnp.squeeze(x, added if name == "output" else tuple(range(len(added)))) for name, x in results.items()}


def scores(mask, bias, alibi_slopes, sinks, query_offset, scale, softcap):
    """(operands, attributes, has_documents) of what exact and hashed attention share."""
    mask = as_mask(mask)
    if mask.predicates:
        raise TypeError("predicate() is a function of NumPy that XLA cannot call; give a boolean array")
    kind, number, offset_arrays = encode_offset(query_offset)
    operands = {"arrays": tuple(_mask_array(x) for x in mask.arrays + offset_arrays)}
    if bias is not None:
        operands["bias"] = as_rank_4(as_array(bias))
    if alibi_slopes is not None:
        operands["alibi_slopes"] = as_array(alibi_slopes)
    if sinks is not None:
        operands["sinks"] = as_array(sinks)
    attributes = {"mask": mask.numbers, "offset_kind": kind, "offset_number": number,
                  "scale": optional(real_number, "scale", scale), "softcap": real_number("softcap", softcap)}
    return operands, attributes, _core.mask_kinds["documents"] in mask.numbers[::5]


def _mask_array(x):
    x = as_array(x)
    return as_rank_4(x) if x.dtype == jnp.bool_ or jnp.issubdtype(x.dtype, jnp.floating) else x


def seed_words(seed):
    """int32 [2], the bits of a number of 64 bits, the lower ones first; an operand, so that no seed compiles anew."""
    if not hasattr(seed, "dtype"):
        return np.array([whole_number("seed", seed, UINT64)], np.uint64).view(np.int32)
    if not jnp.issubdtype(seed.dtype, jnp.integer) or seed.ndim:
        raise TypeError(f"seed must be a whole number or an array of one, such as jax.random.bits(key); found {seed.dtype} "
                        f"{list(seed.shape)}")
    bits = jnp.iinfo(seed.dtype).bits
    upper = seed >> 32 if bits == 64 else seed >> (bits - 1) if jnp.issubdtype(seed.dtype, jnp.signedinteger) else seed * 0
    words = jnp.stack([seed.astype(jnp.uint32), upper.astype(jnp.uint32)])
    return jax.lax.bitcast_convert_type(words, jnp.int32)
