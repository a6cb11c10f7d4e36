# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""PyTorch's FlexAttention, compiled; on a CPU it has no backward."""

from __future__ import annotations

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from case import Call, Case, Inputs, Skip
from torch_tensors import ForwardCall

NAME = "PyTorch FlexAttention"


def version() -> str:
    """Of PyTorch."""
    return torch.__version__


def prepare(case: Case, inputs: Inputs, threads: int) -> Call:
    """Compiles for the shapes of this case."""
    del threads  # set for the process
    if case.work == "backward":
        raise Skip("no backward on a CPU")
    torch.compiler.reset()
    compiled = torch.compile(flex_attention, dynamic=False)
    mask = None
    if case.causal:
        mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, case.seqlen_q,
                                 case.seqlen_k, device="cpu")

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return compiled(q, k, v, block_mask=mask, enable_gqa=case.heads != case.heads_kv)

    return ForwardCall(case, inputs, attention)
