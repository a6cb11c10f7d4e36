# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""ONNX Runtime's fused operators: MultiHeadAttention, and GroupQueryAttention over a cache."""

from __future__ import annotations

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from case import Arrays, Call, Case, Inputs, Skip

NAME = "ONNX Runtime"
FLOAT, INT32 = TensorProto.FLOAT, TensorProto.INT32

Shapes = dict[str, tuple[int, list[int]]]  # name -> (type, shape)


def version() -> str:
    """Of ONNX Runtime."""
    return onnxruntime.__version__


def _session(operator: str, inputs: Shapes, outputs: Shapes, threads: int,
             **attributes: int) -> onnxruntime.InferenceSession:
    """A model of one node."""
    node = helper.make_node(operator, list(inputs), list(outputs), domain="com.microsoft")
    node.attribute.extend(helper.make_attribute(*pair) for pair in attributes.items())
    infos = [[helper.make_tensor_value_info(name, *about) for name, about in shapes.items()]
             for shapes in (inputs, outputs)]
    model = helper.make_model(
        helper.make_graph([node], operator, infos[0], infos[1]), ir_version=10,
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its threads spin during a run, not into the call that is timed after it.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options,
                                        providers=["CPUExecutionProvider"])


class _MultiHead:
    """Layout [1, seqlen, heads * head_dim]: ours."""

    def __init__(self, case: Case, inputs: Inputs, threads: int) -> None:
        width = case.heads * case.head_dim
        queries, keys = [1, case.seqlen_q, width], [1, case.seqlen_k, width]
        session = _session("MultiHeadAttention",
                           {"query": (FLOAT, queries), "key": (FLOAT, keys),
                            "value": (FLOAT, keys)},
                           {"output": (FLOAT, queries)}, threads, num_heads=case.heads,
                           unidirectional=int(case.causal))
        self._session = session
        self._output = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(queries, np.float32))
        self._bindings = [self._binding(inputs, queries, keys) for _ in range(case.copies)]
        self._shape = inputs.query.shape

    def _binding(self, inputs: Inputs, queries: list[int],
                 keys: list[int]) -> onnxruntime.IOBinding:
        binding = self._session.io_binding()
        for name, rows, shape in (("query", inputs.query, queries), ("key", inputs.key, keys),
                                  ("value", inputs.value, keys)):
            binding.bind_ortvalue_input(
                name, onnxruntime.OrtValue.ortvalue_from_numpy(rows.reshape(shape).copy()))
        binding.bind_ortvalue_output("output", self._output)
        return binding

    def run(self, copy: int) -> None:
        """One call without copies of tensors."""
        self._session.run_with_iobinding(self._bindings[copy])

    def answer(self) -> Arrays:
        """The output."""
        return {"output": self._output.numpy().reshape(self._shape)}


class _Cache:
    """One query whose key is the last of a cache [1, heads_kv, keys, head_dim], which is input and
    output: nothing is copied."""

    def __init__(self, case: Case, inputs: Inputs, threads: int) -> None:
        cache = [1, case.heads_kv, case.seqlen_k, case.head_dim]
        query, row = [1, 1, case.heads * case.head_dim], [1, 1, case.heads_kv * case.head_dim]
        self._session = _session(
            "GroupQueryAttention",
            {"query": (FLOAT, query), "key": (FLOAT, row), "value": (FLOAT, row),
             "past_key": (FLOAT, cache), "past_value": (FLOAT, cache),
             "seqlens_k": (INT32, [1]), "total_sequence_length": (INT32, [1])},
            {"output": (FLOAT, query), "present_key": (FLOAT, cache),
             "present_value": (FLOAT, cache)},
            threads, num_heads=case.heads, kv_num_heads=case.heads_kv)
        self._output = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(query, np.float32))
        self._shape = inputs.query.shape
        fixed = {"query": inputs.query.reshape(query), "key": inputs.key[-1].reshape(row),
                 "value": inputs.value[-1].reshape(row),
                 "seqlens_k": np.array([case.seqlen_k - 1], np.int32),
                 "total_sequence_length": np.array([case.seqlen_k], np.int32)}
        self._bindings = []
        for _ in range(case.copies):
            binding = self._session.io_binding()
            for name, array in fixed.items():
                binding.bind_ortvalue_input(
                    name, onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)))
            for name, rows in (("key", inputs.key), ("value", inputs.value)):
                kept = onnxruntime.OrtValue.ortvalue_from_numpy(
                    np.ascontiguousarray(rows.transpose(1, 0, 2)[None]))
                binding.bind_ortvalue_input(f"past_{name}", kept)
                binding.bind_ortvalue_output(f"present_{name}", kept)
            binding.bind_ortvalue_output("output", self._output)
            self._bindings.append(binding)

    def run(self, copy: int) -> None:
        """One call."""
        self._session.run_with_iobinding(self._bindings[copy])

    def answer(self) -> Arrays:
        """The output."""
        return {"output": self._output.numpy().reshape(self._shape)}


def prepare(case: Case, inputs: Inputs, threads: int) -> Call:
    """float32 only: its CPU kernels have no bfloat16."""
    if case.work == "backward":
        raise Skip("no backward in the inference package")
    if case.dtype != "float32":
        raise Skip("no CPU kernel for bfloat16")
    if case.work == "decode":
        return _Cache(case, inputs, threads)
    return _MultiHead(case, inputs, threads)
