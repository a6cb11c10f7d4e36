# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""LSHAttention of reformer-pytorch: the module that its layers call between their projections. It
takes one rotation of seqlen / chunk_len buckets and keeps all products with it."""

from __future__ import annotations

from importlib import metadata

import numpy as np
import torch
from reformer_pytorch import LSHAttention

from case import LSH_CHUNK, LSH_ROUNDS, Call, Case, Inputs
from torch_lsh import TorchLshCall

NAME = "reformer-pytorch LSHAttention"
LSH = "lucidrains"


def version() -> str:
    """Of reformer-pytorch."""
    return metadata.version("reformer-pytorch")


def prepare(case: Case, inputs: Inputs, threads: int) -> Call:
    """Rows are [heads, seqlen, head_dim]."""
    del threads  # set for the process
    layer = LSHAttention(bucket_size=LSH_CHUNK, n_hashes=LSH_ROUNDS, causal=True).eval()

    def attention(query_key: torch.Tensor,
                  value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output, _, buckets = layer(query_key, value)
        return output, buckets

    def to_tensor(numbers: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(numbers.transpose(1, 0, 2)))

    def to_array(rows: torch.Tensor) -> np.ndarray:
        return rows.transpose(0, 1).numpy()

    return TorchLshCall(case, inputs, attention, to_tensor, to_array)
