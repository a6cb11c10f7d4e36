# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Decoders with a KV cache: GPT-J and GPT-Neo. Their models make a mask [batch, 1, seqlen_q, seqlen_k] for all layers
# (GPT-Neo always, GPT-J with eager attention or padding); a hook before the model has them pass on one row for all
# queries instead.
import inspect

import torch
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoModel, GPTNeoSelfAttention
from transformers.models.gptj.modeling_gptj import GPTJAttention, GPTJModel, apply_rotary_pos_emb

from .._masks import as_mask, causal, dense, window
from ..torch import attention
from ._patch_shared import dropout_of, refuse_weights, replacement


def mask_and_bias(attention_mask, seqlen_q):
    """mask= and bias= of a model's attention_mask: none, one row of padding for all queries, or all that may be seen."""
    if attention_mask is not None and attention_mask.shape[-2] == seqlen_q > 1:
        return {"mask": attention_mask} if attention_mask.dtype == torch.bool else {"bias": attention_mask}
    mask = causal("end")
    if attention_mask is None:
        return {"mask": mask}
    if attention_mask.dtype == torch.bool:
        return {"mask": mask & dense(attention_mask)}
    return {"mask": mask, "bias": attention_mask}


@replacement
class LongspanGPTJAttention(GPTJAttention):
    def forward(self, hidden_states, position_embeddings, attention_mask=None, cache=None, **kwargs):
        refuse_weights(self, kwargs.get("output_attentions"))
        query, key, value = (project(hidden_states).unflatten(-1, (self.num_attention_heads, -1))
                             for project in (self.q_proj, self.k_proj, self.v_proj))
        query, key = (torch.cat([apply_rotary_pos_emb(x[..., :self.rotary_dim], *position_embeddings),
                                 x[..., self.rotary_dim:]], -1) for x in (query, key))
        key, value = key.transpose(1, 2), value.transpose(1, 2)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx, kwargs=kwargs)
        output = attention(query.transpose(1, 2), key, value, layout="bhsd", scale=self.scaling,
                           **mask_and_bias(attention_mask, query.shape[1]),
                           **dropout_of(self.attention_dropout, self.training))
        return self.resid_dropout(self.out_proj(output.transpose(1, 2).flatten(-2))), None


@replacement
class LongspanGPTNeoSelfAttention(GPTNeoSelfAttention):
    def forward(self, hidden_states, attention_mask=None, layer_past=None, use_cache=False, output_attentions=False,
                **kwargs):
        refuse_weights(self, output_attentions)
        if self.attention_type == "local" and getattr(layer_past, "is_compileable", False):
            raise ValueError("GPTNeoSelfAttention: attention_type local with a static cache; its window counts from the "
                             "end of the cache, not from the query (in transformers, too); use a dynamic cache")
        return super().forward(hidden_states, attention_mask, layer_past, use_cache, **kwargs)

    def _attn(self, query, key, value, attention_mask=None):
        options = mask_and_bias(attention_mask, query.shape[2])
        if self.attention_type == "local":
            options["mask"] = window(self.config.window_size - 1, 0, "end") & as_mask(options.get("mask"))
        return attention(query, key, value, layout="bhsd", scale=1.0, **options,
                         **dropout_of(self.attn_dropout.p, self.training)), None


def keep_mask_small(model, args, kwargs):
    """Before the model: a mask [batch, seqlen_k] becomes [batch, 1, 1, seqlen_k], which is passed on as it is."""
    names = list(inspect.signature(type(model).forward).parameters)[1:]
    given = {**dict(zip(names, args)), **kwargs}
    refuse_weights(model, given.get("output_attentions") or getattr(model.config, "output_attentions", False))
    mask, cache = given.get("attention_mask"), given.get("cache", given.get("past_key_values"))
    if getattr(cache, "is_compileable", False) or (mask is not None and mask.dim() != 2):
        return None
    if mask is None:
        inputs = given.get("input_ids")
        inputs = given["inputs_embeds"] if inputs is None else inputs
        cached = 0 if cache is None else cache.get_seq_length()
        mask = inputs.new_ones((1, cached + inputs.shape[1]), dtype=torch.bool)
    given["attention_mask"] = mask.bool()[:, None, None, :]
    return (), given


def refusal(module):
    return None


REPLACEMENTS = (LongspanGPTJAttention, LongspanGPTNeoSelfAttention)
HOOKS = {GPTJModel: keep_mask_small, GPTNeoModel: keep_mask_small}
