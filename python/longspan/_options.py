# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# The options that all calls share.
from . import _core
from ._arguments import UINT64, is_heads_first, optional, real_number, whole_number
from ._masks import as_parts, encode_offset


def call_options(mask=None, bias=None, scale=None, softcap=0.0, alibi_slopes=None, sinks=None, dropout_p=0.0, seed=0,
                 query_offset=None, query_chunk=None, key_chunk=None, layout="bshd"):
    """The arguments of a call as _core takes them."""
    parts, heads_first = as_parts(mask), is_heads_first(layout)
    offset = None if query_offset is None else encode_offset(query_offset)
    try:
        return _core.Options(parts, bias, scale, softcap, alibi_slopes, sinks, dropout_p, seed, offset, query_chunk, key_chunk,
                             heads_first)
    except TypeError:
        pass  # converted by name only now: in every call, that would take 0.5 us of 3
    return _core.Options(parts, bias, optional(real_number, "scale", scale), real_number("softcap", softcap), alibi_slopes,
                         sinks, real_number("dropout_p", dropout_p), whole_number("seed", seed, UINT64), offset,
                         optional(whole_number, "query_chunk", query_chunk), optional(whole_number, "key_chunk", key_chunk),
                         heads_first)
