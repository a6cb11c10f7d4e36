# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""ggml's flash_attn_ext, the attention of llama.cpp, through the PyPI package ggml-python.

The package holds ggml's source and is compiled for this processor when it is installed. Queries and
outputs are float32 always; keys and values are of the case's type.
"""

from __future__ import annotations

import ctypes
import math

import ggml
import numpy as np

from case import Arrays, Call, Case, Inputs, Skip, to_bfloat16

NAME = "ggml"
GRAPH_BYTES = 16 << 20  # of tensor headers and graphs, no data


def version() -> str:
    """Of the package."""
    return ggml.__version__


class _Flash:
    """A graph of one node for each copy; layout [heads, seqlen, head_dim]."""

    def __init__(self, case: Case, inputs: Inputs, threads: int) -> None:
        self._context = ggml.ggml_init(
            ggml.ggml_init_params(mem_size=GRAPH_BYTES, mem_buffer=None, no_alloc=True))
        self._arrays: list[np.ndarray] = []  # keeps what the tensors point to
        self._output = np.zeros_like(inputs.query)
        query = self._tensor(inputs.query.transpose(1, 0, 2), ggml.GGML_TYPE_F32)
        mask = self._mask(case) if case.causal else None
        self._graphs = []
        for _ in range(case.copies):
            key, value = (self._keys(x, case) for x in (inputs.key, inputs.value))
            node = ggml.ggml_flash_attn_ext(self._context, query, key, value, mask,
                                            1 / math.sqrt(case.head_dim), 0.0, 0.0)
            node.contents.data = self._output.ctypes.data
            graph = ggml.ggml_new_graph(self._context)
            ggml.ggml_build_forward_expand(graph, node)
            plan = ggml.ggml_graph_plan(graph, threads, None)
            work = np.zeros(max(plan.work_size, 1), np.uint8)
            self._arrays.append(work)
            plan.work_data = ctypes.cast(work.ctypes.data, ctypes.POINTER(ctypes.c_uint8))
            self._graphs.append((graph, plan))

    def __del__(self) -> None:
        ggml.ggml_free(self._context)

    def _tensor(self, numbers: np.ndarray, kind: int) -> ggml.ggml_tensor_p:
        array = np.array(numbers, order="C")
        self._arrays.append(array)
        shape = (1,) * (4 - array.ndim) + array.shape
        tensor = ggml.ggml_new_tensor_4d(self._context, kind, *reversed(shape))
        tensor.contents.data = array.ctypes.data
        return tensor

    def _keys(self, rows: np.ndarray, case: Case) -> ggml.ggml_tensor_p:
        if case.dtype == "float32":
            return self._tensor(rows.transpose(1, 0, 2), ggml.GGML_TYPE_F32)
        return self._tensor(to_bfloat16(rows.transpose(1, 0, 2)), ggml.GGML_TYPE_BF16)

    def _mask(self, case: Case) -> ggml.ggml_tensor_p:
        """Its only form of a causal mask: a number for each pair."""
        visible = np.tri(case.seqlen_q, case.seqlen_k, case.seqlen_k - case.seqlen_q, dtype=bool)
        return self._tensor(np.where(visible, 0, -np.inf).astype(np.float16), ggml.GGML_TYPE_F16)

    def run(self, copy: int) -> None:
        """One call."""
        graph, plan = self._graphs[copy]
        if ggml.ggml_graph_compute(graph, ctypes.byref(plan)) != 0:
            raise Skip("ggml_graph_compute failed")

    def answer(self) -> Arrays:
        """The output, [seqlen, heads, head_dim] as it comes."""
        return {"output": self._output}


def prepare(case: Case, inputs: Inputs, threads: int) -> Call:
    """Forward and decode."""
    if case.work == "backward":
        raise Skip("no backward: its flash_attn_back aborts")
    ggml.ggml_cpu_init()
    return _Flash(case, inputs, threads)
