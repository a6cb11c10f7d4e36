# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""PyTorch's scaled_dot_product_attention: its own fused CPU kernel, forward and backward.

Queries that share a head of keys can be given to it in three ways; all are timed once, and the
fastest is the peer.
"""

from __future__ import annotations

import time

import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from case import Call, Case, Inputs
from torch_tensors import Attention, ForwardCall, call_of

NAME = "PyTorch SDPA"


def version() -> str:
    """Of PyTorch."""
    return torch.__version__


def _grouped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return sdpa(q, k, v, enable_gqa=True)


def _expanded(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Views with a stride of 0: nothing is copied by us."""
    group = q.shape[1] // k.shape[1]

    def expand(x: torch.Tensor) -> torch.Tensor:
        return x.unsqueeze(2).expand(-1, -1, group, -1, -1).flatten(1, 2)

    return sdpa(q, expand(k), expand(v))


def _heads_as_queries(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The heads of a group as queries of one head: right without a mask only."""
    batch, heads, seqlen, dim = q.shape
    rows = q.reshape(batch, k.shape[1], heads // k.shape[1] * seqlen, dim)
    return sdpa(rows, k, v).reshape(q.shape)


def _seconds(call: ForwardCall) -> float:
    call.run(0)
    start = time.perf_counter()
    call.run(0)
    return time.perf_counter() - start


def prepare(case: Case, inputs: Inputs, threads: int) -> Call:
    """Everything is supported."""
    del threads  # set for the process
    if case.heads == case.heads_kv:
        def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return sdpa(q, k, v, is_causal=case.causal)

        return call_of(case, inputs, attention)
    ways: list[Attention] = [_grouped, _expanded]
    if case.seqlen_q == 1:
        ways.append(_heads_as_queries)
    return min((ForwardCall(case, inputs, way) for way in ways), key=_seconds)
