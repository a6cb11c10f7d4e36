# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Bloom: a decoder whose ALiBi is a row of numbers for all queries, [batch * num_heads, 1, seqlen_k].
from torch.nn import functional
from transformers.models.bloom.modeling_bloom import BloomAttention, BloomModel

from .._masks import causal, dense
from ..torch import attention
from ._patch_shared import View, dropout_of, model_replacement, refuse_weights, replacement


@replacement
class LongspanBloomAttention(BloomAttention):
    def forward(self, hidden_states, residual, alibi, attention_mask, layer_past=None, use_cache=False,
                output_attentions=False, **kwargs):
        refuse_weights(self, output_attentions)
        if getattr(layer_past, "is_compileable", False):
            raise ValueError("BloomAttention: a static cache, whose length says nothing of where a query is; use a "
                             "dynamic cache")
        query, key, value = self._reshape(self.query_key_value(hidden_states))
        if layer_past is not None:
            key, value = layer_past.update(key, value, self.layer_idx)
        bias, mask = alibi.unflatten(0, (-1, self.num_heads)), causal("end")
        if attention_mask is not None and attention_mask.dim() == 2:
            mask = mask & dense(attention_mask.bool()[:, None, None, :])
        elif attention_mask is not None:
            bias = bias + attention_mask
        output = attention(query, key, value, layout="bhsd", mask=mask, bias=bias, scale=self.inv_norm_factor,
                           **dropout_of(self.attention_dropout.p, self.training))
        output = self.dense(output.transpose(1, 2).flatten(-2))
        return residual + functional.dropout(output, self.hidden_dropout, self.training), None


def _small_mask_forward(self, *args, **kwargs):
    """The model's own forward pass with the mask that it makes for flash attention: the padding, or none."""
    config = View(self.config, _attn_implementation="flash_attention_2")
    return BloomModel.forward(View(self, config=config), *args, **kwargs)


LongspanBloomModel = model_replacement(BloomModel, _small_mask_forward, __name__)


def refusal(module):
    if isinstance(module, BloomAttention) and module.pretraining_tp > 1 and module.slow_but_exact:
        return f"slow_but_exact = True with pretraining_tp = {module.pretraining_tp}: sums in slices"
    return None


REPLACEMENTS = (LongspanBloomAttention, LongspanBloomModel)
HOOKS = {}
