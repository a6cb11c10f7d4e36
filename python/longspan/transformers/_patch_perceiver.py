# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# The Perceiver's attention: of latents to an input, of latents to themselves, of output queries to latents.
from transformers.models.perceiver.modeling_perceiver import PerceiverSelfAttention

from ..torch import attention
from ._patch_shared import dropout_of, refuse_weights, replacement


@replacement
class LongspanPerceiverSelfAttention(PerceiverSelfAttention):
    def forward(self, hidden_states, attention_mask=None, inputs=None, inputs_mask=None, output_attentions=False):
        refuse_weights(self, output_attentions)
        queries_from = self.layernorm1(hidden_states)
        keys_from = self.layernorm2(inputs)
        mask = attention_mask if inputs is None else inputs_mask
        if inputs is None:
            keys_from = queries_from
        query, key, value = (made.unflatten(-1, (self.num_heads, -1)) for made in (
            self.query(queries_from), self.key(keys_from), self.value(keys_from)))
        output = attention(query, key, value, bias=mask, **dropout_of(self.dropout.p, self.training))
        return (output.flatten(-2),)


def refusal(module):
    return None


REPLACEMENTS = (LongspanPerceiverSelfAttention,)
HOOKS = {}
