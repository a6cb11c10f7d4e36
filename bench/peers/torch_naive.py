# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""The textbook's three lines in PyTorch: all scores in memory. What everybody writes first."""

from __future__ import annotations

import math

import torch

from case import Call, Case, Inputs, Skip
from torch_tensors import call_of

NAME = "PyTorch, naive"
SCORE_LIMIT = 4 << 30  # bytes of one matrix of scores; there are several


def version() -> str:
    """Of PyTorch."""
    return torch.__version__


def prepare(case: Case, inputs: Inputs, threads: int) -> Call:
    """softmax(Q K^T / sqrt(d)) V"""
    del threads  # set for the process
    if case.heads * case.seqlen_q * case.seqlen_k * case.element_bytes > SCORE_LIMIT:
        raise Skip("the scores do not fit into memory")
    hidden = None
    if case.causal:
        hidden = torch.ones(case.seqlen_q, case.seqlen_k, dtype=torch.bool).triu(1)

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        group = q.shape[1] // k.shape[1]
        if group > 1:
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
        if hidden is not None:
            scores = scores.masked_fill(hidden, -math.inf)
        return torch.softmax(scores, dim=3) @ v

    return call_of(case, inputs, attention)
