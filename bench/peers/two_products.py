# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""Two matrix products and nothing else, (Q K^T) V: what a library of products leaves for a softmax.

PyTorch calls MKL for float32 and oneDNN for bfloat16. Outputs are allocated before; blocks of
queries keep the scores small, and the fastest of several block sizes is the peer.
"""

from __future__ import annotations

import time

import torch

from case import Arrays, Call, Case, Inputs, NoRow
from torch_tensors import array_of, tensor_of

NAME = "two products, PyTorch"
SOFTMAX = False
BLOCKS = (64, 128, 256, 512, 1024)


def version() -> str:
    """Of PyTorch."""
    return torch.__version__


class _Products:
    def __init__(self, case: Case, inputs: Inputs, block: int) -> None:
        self._query, self._key, self._value = (tensor_of(x, case)[0]
                                               for x in (inputs.query, inputs.key, inputs.value))
        self._output = torch.empty_like(self._query)
        self._scores = torch.empty(block, case.seqlen_k, dtype=self._query.dtype)
        self._block = block

    def run(self, copy: int) -> None:
        """Head by head, block by block; both threads work on one product."""
        del copy  # there is one
        for query, key, value, output in zip(self._query, self._key, self._value, self._output):
            for first in range(0, len(query), self._block):
                rows = query[first:first + self._block]
                scores = self._scores[:len(rows)]
                torch.mm(rows, key.T, out=scores)
                torch.mm(scores, value, out=output[first:first + self._block])

    def answer(self) -> Arrays:
        """(Q K^T) V"""
        return {"output": array_of(self._output[None])}


def _seconds(call: _Products) -> float:
    call.run(0)
    start = time.perf_counter()
    call.run(0)
    return time.perf_counter() - start


def prepare(case: Case, inputs: Inputs, threads: int) -> Call:
    """Forward without a mask."""
    del threads  # set for the process
    if case.work != "forward" or case.causal:
        raise NoRow
    return min((_Products(case, inputs, block) for block in BLOCKS), key=_seconds)
