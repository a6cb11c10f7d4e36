# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# The Reformer's attention: the hashing of its LSH layers with the rotations that it would draw, its windows and weights
# (preset "hf-reformer"); the chunks of its local layers. A step of generate() with a cache is a single query that meets
# a few chunks: there the module's own code stays.
import math

import torch
from transformers.models.reformer.modeling_reformer import (LocalSelfAttention, LocalSelfAttentionOutput,
                                                            LSHSelfAttention, LSHSelfAttentionOutput, ReformerModel)

from .._masks import causal, dense
from ..torch import attention, lsh_attention
from ._patch_shared import View, dropout_of, model_replacement, refuse_weights, replacement


def _is_step(module, past_buckets_states):
    return past_buckets_states is not None and len(past_buckets_states) > module.layer_idx


def _visible(attention_mask):
    """[batch, 1, 1, seqlen], True for what is no padding; None without padding."""
    if attention_mask is None:
        return None
    visible = attention_mask.bool()
    return None if visible.all() else visible[:, None, None, :]


def _mask(module, visible, offset=None):
    """causal() for a decoder, and padding."""
    terms = [causal(offset)] if module.is_decoder else []
    terms += [dense(visible)] if visible is not None else []
    return terms[0] & terms[1] if len(terms) == 2 else terms[0] if terms else None


@replacement
class LongspanLSHSelfAttention(LSHSelfAttention):
    def forward(self, hidden_states, attention_mask=None, num_hashes=None, buckets=None, past_buckets_states=None,
                use_cache=False, output_attentions=False, **kwargs):
        refuse_weights(self, output_attentions)
        if self.training and self.dropout > 0:
            raise ValueError(f"LSHSelfAttention: lsh_attention_probs_dropout_prob = {self.dropout} in training; longspan "
                             "has no dropout in hashed attention (set it to 0 in the config, or module.dropout = 0)")
        if _is_step(self, past_buckets_states):
            return super().forward(hidden_states, attention_mask, num_hashes, buckets, past_buckets_states, use_cache,
                                   output_attentions, **kwargs)
        query_key, value = (project(hidden_states).unflatten(-1, (self.num_attention_heads, -1))
                            for project in (self.query_key, self.value))
        visible = _visible(attention_mask)
        options = {"preset": "hf-reformer", "mask": _mask(self, visible), "chunk_len": self.chunk_length}
        if hidden_states.shape[1] <= self.chunk_length:
            output, found = lsh_attention(query_key, None, value, num_hashes=1, **options), None
        else:
            output, found = self._hashed(query_key, value, num_hashes or self.num_hashes, buckets, visible is not None,
                                         options)
        return LSHSelfAttentionOutput(hidden_states=output.flatten(-2), attention_probs=(), buckets=found)

    def _hashed(self, query_key, value, num_hashes, buckets, padded, options):
        """Output and buckets, which the module numbers through all rounds, int64."""
        batch, seqlen = query_key.shape[:2]
        if self.num_buckets is None:
            self._set_num_buckets(-(-seqlen // self.chunk_length) * self.chunk_length)
        factors = [self.num_buckets] if isinstance(self.num_buckets, int) else list(self.num_buckets)
        buckets_a_round = math.prod(factors) + padded  # padding has a bucket of its own
        first = torch.arange(num_hashes).view(-1, 1) * buckets_a_round
        options |= {"num_hashes": num_hashes, "num_buckets": factors, "chunks_before": self.num_chunks_before,
                    "chunks_after": self.num_chunks_after}
        if buckets is not None:
            buckets = buckets.view(batch, self.num_attention_heads, num_hashes, seqlen)
            return lsh_attention(query_key, None, value, buckets=buckets - first, **options), buckets
        output, found = lsh_attention(query_key, None, value, return_buckets=True,
                                      rotations=self._rotations(query_key, num_hashes, sum(factors) // 2), **options)
        return output, found + first

    def _rotations(self, query_key, num_hashes, columns):
        """The numbers that the module's own hashing would draw."""
        if self.hash_seed is not None:
            torch.manual_seed(self.hash_seed)
        shape = (self.num_attention_heads, query_key.shape[-1], num_hashes, columns)
        drawn = torch.randn(shape, dtype=query_key.dtype)
        return drawn if drawn.dtype == torch.float64 else drawn.float()


@replacement
class LongspanLocalSelfAttention(LocalSelfAttention):
    def forward(self, hidden_states, attention_mask=None, past_buckets_states=None, use_cache=False,
                output_attentions=False, **kwargs):
        refuse_weights(self, output_attentions)
        if _is_step(self, past_buckets_states):
            return super().forward(hidden_states, attention_mask, past_buckets_states, use_cache, output_attentions,
                                   **kwargs)
        query, key, value = (project(hidden_states).unflatten(-1, (self.num_attention_heads, -1))
                             for project in (self.query, self.key, self.value))
        dropout = dropout_of(self.dropout, self.training)
        if hidden_states.shape[1] <= self.chunk_length:
            output = attention(query, key, value, mask=_mask(self, _visible(attention_mask)), **dropout)
        else:
            output = self._in_chunks(query, key, value, attention_mask, dropout)
        return LocalSelfAttentionOutput(hidden_states=output.flatten(-2), attention_probs=())

    def _in_chunks(self, query, key, value, attention_mask, dropout):
        """Every chunk is an entry of a batch, with the chunks around it as keys; before the first comes the last."""
        batch, seqlen = query.shape[:2]
        chunks = -(-seqlen // self.chunk_length)
        before = self.num_chunks_before
        visible = query.new_ones((batch, seqlen), dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        query, key, value, visible = (self._chunked(x, chunks) for x in (query, key, value, visible))
        key, value, visible = (torch.cat([x.roll(-shift, 1) for shift in range(-before, self.num_chunks_after + 1)], 2)
                               for x in (key, value, visible))
        if self.is_decoder:  # what lies before the first chunk is the future
            window = torch.arange(visible.shape[2]).expand(chunks, -1)
            begins = (torch.arange(chunks)[:, None] - before) * self.chunk_length
            visible = visible & (window + begins >= 0)
        mask = _mask(self, visible.flatten(0, 1)[:, None, None, :], before * self.chunk_length)
        output = attention(*(x.flatten(0, 1) for x in (query, key, value)), mask=mask, **dropout)
        return output.unflatten(0, (batch, chunks)).flatten(1, 2)[:, :seqlen]

    def _chunked(self, x, chunks):
        """[batch, chunks, chunk_length, ...], zeros (False) behind the last."""
        missing = chunks * self.chunk_length - x.shape[1]
        if missing:
            x = torch.cat([x, x.new_zeros((x.shape[0], missing, *x.shape[2:]))], 1)
        return x.unflatten(1, (chunks, self.chunk_length))


def _any_length_forward(self, *args, **kwargs):
    """The model's own forward pass, which pads to a multiple of the chunks it reads in the config; 1: not at all."""
    config = View(self.config, lsh_attn_chunk_length=1, local_attn_chunk_length=1)
    return ReformerModel.forward(View(self, config=config), *args, **kwargs)


LongspanReformerModel = model_replacement(ReformerModel, _any_length_forward, __name__)


def refusal(module):
    if isinstance(module, LocalSelfAttention) and module.is_decoder and module.num_chunks_after > 0:
        return (f"local_num_chunks_after = {module.num_chunks_after} with is_decoder = True: a causal layer looks back "
                "only")
    return None


REPLACEMENTS = (LongspanLSHSelfAttention, LongspanLocalSelfAttention, LongspanReformerModel)
HOOKS = {}
