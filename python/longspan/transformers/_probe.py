# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# A look at the attention of a model that does not write out seqlen_q x seqlen_k weights.
import contextlib

from .._weights import attention_weights

_probes = []


class _Probe(list):
    """One entry a call of attention, in their order: (layer index or None, what attention_weights() gave)."""

    def __init__(self, wanted):
        super().__init__()
        self.wanted = wanted


@contextlib.contextmanager
def probe(**wanted):
    """Collects longspan.attention_weights(..., **wanted) of every attention call of a model inside the `with` block.

        with longspan.transformers.probe(top_k=8) as seen:
            model(**inputs)
        layer, (keys, weights) = seen[0]       # [batch, num_heads, seqlen_q, 8]

    This is instead of output_attentions=True, whose weights take seqlen_q x seqlen_k numbers a head.

    wanted
        rows=[...], top_k=... or column_sums=True.
    """
    mine = _Probe(wanted)
    _probes.append(mine)
    try:
        yield mine
    finally:
        _probes.remove(mine)


def is_on():
    return bool(_probes)


def look(layer, query, key, lse, **options):
    """Tells every open probe of one call; tensors are [batch, num_heads, seqlen, dim]."""
    for each in _probes:
        each.append((layer, attention_weights(query.detach(), key.detach(), lse.detach(), layout="bhsd", **options,
                                              **each.wanted)))
