# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""Tensors as PyTorch's attention likes them best, [1, heads, seqlen, head_dim] without gaps, and the
calls that differ only in the function they time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from case import Arrays, Case, Inputs

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def tensor_of(numbers: np.ndarray, case: Case) -> torch.Tensor:
    """[seqlen, heads, head_dim] -> a copy as [1, heads, seqlen, head_dim] of the case's type."""
    rows = torch.from_numpy(np.ascontiguousarray(numbers.transpose(1, 0, 2)))[None]
    return rows.to(torch.bfloat16) if case.dtype == "bfloat16" else rows.clone()


def array_of(rows: torch.Tensor) -> np.ndarray:
    """The way back, as float32."""
    return rows.detach()[0].transpose(0, 1).float().numpy()


class ForwardCall:
    """attention(query, key, value)"""

    def __init__(self, case: Case, inputs: Inputs, attention: Attention) -> None:
        self._attention = attention
        self._query = tensor_of(inputs.query, case)
        self._keys = [tensor_of(inputs.key, case) for _ in range(case.copies)]
        self._values = [tensor_of(inputs.value, case) for _ in range(case.copies)]
        self._output = torch.empty(0)

    def run(self, copy: int) -> None:
        """One call; PyTorch allocates its output."""
        with torch.inference_mode():
            self._output = self._attention(self._query, self._keys[copy], self._values[copy])

    def answer(self) -> Arrays:
        """The output."""
        return {"output": array_of(self._output)}


class BackwardCall:
    """The gradients alone: the forward is run once, before."""

    def __init__(self, case: Case, inputs: Inputs, attention: Attention) -> None:
        self._leaves = [tensor_of(x, case).requires_grad_()
                        for x in (inputs.query, inputs.key, inputs.value)]
        self._output = attention(*self._leaves)
        self._doutput = tensor_of(inputs.doutput, case)
        self._gradients: tuple[torch.Tensor, ...] = ()

    def run(self, copy: int) -> None:
        """One backward pass over the saved forward."""
        del copy  # there is one
        self._gradients = torch.autograd.grad(self._output, self._leaves, self._doutput,
                                              retain_graph=True)

    def answer(self) -> Arrays:
        """The gradients."""
        names = ("dquery", "dkey", "dvalue")
        return {name: array_of(x) for name, x in zip(names, self._gradients)}


def call_of(case: Case, inputs: Inputs, attention: Attention) -> ForwardCall | BackwardCall:
    """The call that this case times."""
    kind = BackwardCall if case.work == "backward" else ForwardCall
    return kind(case, inputs, attention)
