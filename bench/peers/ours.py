# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""longspan itself, through the C functions of shim.cpp."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from case import LSH_ROUNDS, Arrays, Case, Inputs, Skip, from_bfloat16, to_bfloat16


class _BenchCall(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64)
                for name in ("seqlen_q", "seqlen_k", "heads", "heads_kv", "head_dim")]
    _fields_ += [(name, ctypes.c_int32) for name in ("bfloat16", "causal", "threads")]
    _fields_ += [("kernel", ctypes.c_char_p), ("num_buckets", ctypes.c_int64 * 2)]
    _fields_ += [(name, ctypes.c_int32) for name in ("lsh", "num_hashes")]


class _BenchInputs(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("query", "key", "value")]


class Longspan:
    """The loaded library."""

    def __init__(self, path: Path, kernel: str) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.bench_error.restype = ctypes.c_char_p
        self.library.bench_version.restype = ctypes.c_char_p
        self.library.bench_product_peak.restype = ctypes.c_double
        self.library.bench_read_bandwidth.restype = ctypes.c_double
        self.wanted_kernel = kernel.encode()
        self.threads: int = self.library.bench_threads()
        self.version: str = self.library.bench_version().decode()

    def product_peak(self, kernel: str, dtype: str) -> float:
        """FLOP/s at this moment; 0: not known."""
        return self.library.bench_product_peak(kernel.encode(), int(dtype == "bfloat16"),
                                               self.threads)

    def read_bandwidth(self) -> float:
        """Bytes/s at this moment."""
        return self.library.bench_read_bandwidth(self.threads)

    def check(self, status: int) -> None:
        """Turns what the library refuses into a Skip."""
        if status != 0:
            raise Skip(self.library.bench_error().decode())

    def prepare(self, case: Case, inputs: Inputs) -> OurCall:
        """A call of longspan in its own layout, [seqlen, heads, head_dim]."""
        return (OurLshCall if case.lsh else OurCall)(self, case, inputs)


class OurCall:
    """Tensors of one call."""

    def __init__(self, longspan: Longspan, case: Case, inputs: Inputs) -> None:
        self._longspan = longspan
        self._case = case
        native = np.copy if case.dtype == "float32" else to_bfloat16
        self._query, self._doutput = native(inputs.query), native(inputs.doutput)
        self._keys = [native(inputs.key) for _ in range(case.copies)]
        self._values = [native(inputs.value) for _ in range(case.copies)]
        self._output = np.zeros_like(self._query)
        self._lse = np.zeros((case.heads, case.seqlen_q), dtype=np.float32)
        self._gradients = {"dquery": np.zeros_like(self._query),
                           "dkey": np.zeros_like(self._keys[0]),
                           "dvalue": np.zeros_like(self._values[0])}
        self._call = _BenchCall(case.seqlen_q, case.seqlen_k, case.heads, case.heads_kv,
                                case.head_dim, int(case.dtype == "bfloat16"), int(case.causal),
                                longspan.threads, longspan.wanted_kernel,
                                (ctypes.c_int64 * 2)(*(case.lsh_buckets if case.lsh else ())),
                                ["", "hf", "lucidrains"].index(case.lsh), LSH_ROUNDS)
        if case.work == "backward":  # which needs what the forward gives
            self._run("bench_forward", self._output, self._lse)

    @property
    def kernel(self) -> str:
        """The name of the kernel that runs."""
        name = ctypes.create_string_buffer(32)
        self._longspan.check(self._longspan.library.bench_kernel(
            ctypes.byref(self._call), ctypes.byref(self._inputs(0)), name))
        return name.value.decode()

    def _inputs(self, copy: int) -> _BenchInputs:
        return _BenchInputs(self._query.ctypes.data, self._keys[copy].ctypes.data,
                            self._values[copy].ctypes.data)

    def _run(self, function: str, *arrays: np.ndarray | None, copy: int = 0) -> None:
        pointers = [ctypes.c_void_p(None if array is None else array.ctypes.data)
                    for array in arrays]
        self._longspan.check(getattr(self._longspan.library, function)(
            ctypes.byref(self._call), ctypes.byref(self._inputs(copy)), *pointers))

    def run(self, copy: int) -> None:
        """One call."""
        if self._case.work == "forward":
            self._run("bench_forward", self._output, self._lse)
        elif self._case.work == "decode":
            self._run("bench_decode", self._output, copy=copy)
        else:
            self._run("bench_backward", self._output, self._lse, self._doutput,
                      *self._gradients.values())

    def answer(self) -> Arrays:
        """Results as float32."""
        found = self._gradients if self._case.work == "backward" else {"output": self._output}
        if self._case.dtype == "float32":
            return dict(found)
        return {name: from_bfloat16(bits) for name, bits in found.items()}


class OurLshCall(OurCall):
    """LSH attention with the peer's options."""

    def run(self, copy: int) -> None:
        """One call; training hashes once for a forward and a backward, as the operators do."""
        del copy  # there is one
        if self._case.work != "training":
            self._run("bench_lsh_forward", None, self._output, self._lse)
            return
        buckets = self._hashed()
        self._run("bench_lsh_forward", buckets, self._output, self._lse)
        self._run("bench_lsh_backward", buckets, self._output, self._lse, self._doutput,
                  self._gradients["dquery"], self._gradients["dvalue"])

    def answer(self) -> Arrays:
        """Results; float32 is what peers have."""
        found = {"output": self._output}
        if self._case.work == "training":
            found |= {"dquery_key": self._gradients["dquery"],
                      "dvalue": self._gradients["dvalue"]}
        return found

    def _hashed(self) -> np.ndarray:
        buckets = np.empty((self._case.heads, LSH_ROUNDS, self._case.seqlen_q), dtype=np.int32)
        self._run("bench_lsh_buckets", buckets)
        return buckets

    def buckets(self) -> np.ndarray:
        """Hashes once more."""
        return self._hashed()[-1]
