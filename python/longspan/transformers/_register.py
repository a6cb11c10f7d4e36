# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# The attention functions that transformers calls by name.
import torch
from transformers import AttentionInterface, AttentionMaskInterface

from .. import _masks as ours
from ..torch import attention, lsh_attention
from . import _probe
from ._masks import LongspanMask, make_mask

# Keywords that reach an attention function and change nothing in it.
_NO_EFFECT = frozenset((
    "position_ids", "cache_position", "use_cache", "output_hidden_states", "return_dict", "output_router_logits",
    "num_items_in_batch", "logits_to_keep", "deterministic", "max_length_q", "max_length_k", "token_type_ids",
    "mm_token_type_ids", "seq_idx", "past_key_values", "inputs_embeds", "labels", "interpolate_pos_encoding"))


def _refuse_unknown(name, keywords):
    if keywords.pop("output_attentions", False):
        raise ValueError(f'attn_implementation="{name}" does not write out seqlen_q x seqlen_k weights '
                         "(output_attentions=True); look at them with longspan.transformers.probe(top_k=...)")
    unknown = [key for key, value in keywords.items()
               if key not in _NO_EFFECT and value is not None and value is not False]
    if unknown:
        raise ValueError(f'attn_implementation="{name}" does not know {", ".join(sorted(unknown))}, which could change the '
                         "result; use another implementation for this model")


class _Call:
    """What the keywords of a call mean: mask, bias and sinks."""

    def __init__(self, name, module, query, key, attention_mask, keywords):
        is_causal, sliding_window, position_bias, s_aux, sinks, cu_seq_lens_q, cu_seq_lens_k = (
            keywords.pop(word, None) for word in ("is_causal", "sliding_window", "position_bias", "s_aux", "sinks",
                                                  "cu_seq_lens_q", "cu_seq_lens_k"))
        _refuse_unknown(name, keywords)
        self.bias = position_bias
        self.sinks = s_aux if s_aux is not None else sinks
        if isinstance(attention_mask, LongspanMask):
            self.mask = attention_mask.longspan_mask
        elif attention_mask is None:
            self.mask = self._without_mask(module, query, is_causal, sliding_window)
        elif attention_mask.dim() != 4:
            raise ValueError(f"attention_mask must have 4 axes; found {list(attention_mask.shape)}")
        elif attention_mask.dtype == torch.bool:
            self.mask = ours.dense(attention_mask[..., :key.shape[2]])
        else:
            added = attention_mask[..., :key.shape[2]]
            self.bias = added if position_bias is None else position_bias + added
            self.mask = ours.Mask(())
        if cu_seq_lens_q is not None and not self.mask.has("documents"):
            if query.shape[0] != 1:
                raise ValueError(f'attn_implementation="{name}" takes cu_seq_lens_q with a batch of 1; found {query.shape[0]}')
            self.mask = self.mask & ours.documents(cu_seq_lens_q, cu_seq_lens_k)

    @staticmethod
    def _without_mask(module, query, is_causal, sliding_window):
        """As PyTorch's sdpa is called: causal where the module is, and not for a single query."""
        causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
        if not causal or query.shape[2] == 1:
            return ours.Mask(())
        return ours.causal("end") if sliding_window is None else ours.window(sliding_window - 1, 0, "end")


def _drawn_seed(dropout):
    return torch.randint(2**62, ()) if dropout > 0 else 0


def register(name: str = "longspan") -> None:
    """Makes `attn_implementation=name` exact attention by longspan, masks included.

    Everything that the models of transformers ask of an attention function is done: grouped heads, scaling, dropout
    (seeded by torch's generator), softcap (Gemma 2), sinks (GPT-OSS), position_bias with its gradient (T5), sliding
    windows, padding at either side, packed sequences, static caches, user's own masks of 4 axes. A keyword that could
    change the result and is not known is a ValueError; output_attentions=True, too (see probe()).

    name
        What attn_implementation= says then.
    """
    def forward(module, query, key, value, attention_mask, dropout=0.0, scaling=None, softcap=None, **keywords):
        call = _Call(name, module, query, key, attention_mask, keywords)
        options = {"mask": call.mask, "bias": call.bias, "sinks": call.sinks, "scale": scaling, "softcap": softcap or 0.0}
        output, lse = attention(query, key, value, dropout_p=dropout, seed=_drawn_seed(dropout), layout="bhsd",
                                return_lse=True, **options)
        if _probe.is_on():
            with torch.no_grad():
                _probe.look(getattr(module, "layer_idx", None), query, key, lse, **options)
        return output.transpose(1, 2), None

    AttentionInterface.register(name, forward)
    AttentionMaskInterface.register(name, make_mask)


def register_lsh(name: str = "longspan-lsh", **options) -> None:
    """Makes `attn_implementation=name` hashed attention with these options of longspan.lsh_attention().

    For causal models whose query and key are separate. A call of one query, a step of generate(), attends to all keys:
    hashing them would cost more. Dropout and position_bias are a ValueError.

    name
        What attn_implementation= says then.
    options
        num_hashes, chunk_len and whatever else of longspan.lsh_attention() says how to hash.
    """
    def forward(module, query, key, value, attention_mask, dropout=0.0, scaling=None, softcap=None, **keywords):
        call = _Call(name, module, query, key, attention_mask, keywords)
        for what, given in (("dropout", dropout > 0), ("position_bias or a mask of numbers", call.bias is not None)):
            if given:
                raise ValueError(f'attn_implementation="{name}": hashed attention has no {what}')
        shared = {"mask": call.mask, "sinks": call.sinks, "scale": scaling, "softcap": softcap or 0.0, "layout": "bhsd"}
        output = (attention(query, key, value, **shared) if query.shape[2] == 1
                  else lsh_attention(query, key, value, **shared, **options))
        return output.transpose(1, 2), None

    AttentionInterface.register(name, forward)
    AttentionMaskInterface.register(name, make_mask)
