# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""LSHSelfAttention of Hugging Face's Reformer. Modules that hand out query_key and value stand in
for its two projections, so that only hashing and attention are timed. The backward is autograd's
over the layer; the model's reversible blocks would run the forward once more."""

from __future__ import annotations

import numpy as np
import torch
import transformers
from transformers.models.reformer.modeling_reformer import LSHSelfAttention

from case import LSH_CHUNK, LSH_ROUNDS, Call, Case, Inputs
from torch_lsh import TorchLshCall

NAME = "Hugging Face LSHSelfAttention"
LSH = "hf"


def version() -> str:
    """Of transformers."""
    return transformers.__version__


class _Given(torch.nn.Module):
    """In place of a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = torch.empty(0)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """What was given."""
        del hidden_states
        return self.rows


def prepare(case: Case, inputs: Inputs, threads: int) -> Call:
    """A layer without projections; rows are [1, seqlen, heads * head_dim]."""
    del threads  # set for the process
    factors = case.lsh_buckets
    layer = LSHSelfAttention(transformers.ReformerConfig(
        hidden_size=case.heads * case.head_dim, num_attention_heads=case.heads,
        attention_head_size=case.head_dim, num_hashes=LSH_ROUNDS,
        num_buckets=list(factors) if len(factors) > 1 else factors[0],
        lsh_attn_chunk_length=LSH_CHUNK, is_decoder=True, lsh_attention_probs_dropout_prob=0.0,
        max_position_embeddings=case.seqlen_k)).eval()
    layer.query_key, layer.value = _Given(), _Given()

    def attention(query_key: torch.Tensor,
                  value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        layer.query_key.rows, layer.value.rows = query_key, value
        found = layer(query_key)
        return found.hidden_states, found.buckets

    def to_tensor(numbers: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(numbers).reshape(1, case.seqlen_k, -1)

    def to_array(rows: torch.Tensor) -> np.ndarray:
        return rows.reshape(case.seqlen_k, case.heads, case.head_dim).numpy()

    return TorchLshCall(case, inputs, attention, to_tensor, to_array)
