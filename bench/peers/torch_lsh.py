# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""What the peers of LSH attention in PyTorch have in common: a call of (query_key, value)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from case import Arrays, Case, Inputs

# (query_key, value) -> output in the same layout, buckets that hold [..., heads, rounds, seqlen]
Attention = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
ToTensor = Callable[[np.ndarray], torch.Tensor]  # from [seqlen, heads, head_dim]
ToArray = Callable[[torch.Tensor], np.ndarray]   # and back


class TorchLshCall:
    """The forward, or the forward and the backward of the peer's autograd."""

    def __init__(self, case: Case, inputs: Inputs, attention: Attention, to_tensor: ToTensor,
                 to_array: ToArray) -> None:
        self._case = case
        self._attention, self._to_array = attention, to_array
        self._query_key, self._value, self._doutput = (
            to_tensor(x).clone() for x in (inputs.query, inputs.value, inputs.doutput))
        self._found: dict[str, torch.Tensor] = {}
        self._buckets = torch.empty(0)
        if case.work == "training":
            self._query_key.requires_grad_()
            self._value.requires_grad_()

    def run(self, copy: int) -> None:
        """One call."""
        del copy  # there is one
        self._found = {}  # what the last call kept is freed before
        if self._case.work == "forward":
            with torch.inference_mode():
                self._found["output"], self._buckets = self._attention(self._query_key, self._value)
            return
        output, self._buckets = self._attention(self._query_key, self._value)
        dquery_key, dvalue = torch.autograd.grad(output, (self._query_key, self._value),
                                                 self._doutput)
        self._found = {"output": output.detach(), "dquery_key": dquery_key, "dvalue": dvalue}

    def answer(self) -> Arrays:
        """Output, and the gradients with training."""
        return {name: self._to_array(x) for name, x in self._found.items()}

    def buckets(self) -> np.ndarray:
        """Of the last head."""
        return self._buckets.reshape(self._case.heads, -1, self._case.seqlen_q)[-1].numpy()
