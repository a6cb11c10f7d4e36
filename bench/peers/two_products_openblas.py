# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""Two matrix products in C++ (two_products.cpp): Debian's OpenBLAS on our own threads, float32."""

from __future__ import annotations

import ctypes
import time

import numpy as np

from case import Arrays, Call, Case, Inputs, NoRow, Skip

NAME = "two products, OpenBLAS"
SOFTMAX = False
BLOCKS = ((128, 512), (256, 512), (256, 1024), (512, 512))  # (queries, keys)

_shim: list[ctypes.CDLL] = []  # the library that holds the function, once run.py has loaded it


def use_shim(library: ctypes.CDLL) -> None:
    """Called by run.py."""
    _shim[:] = [library]


def version() -> str:
    """Of OpenBLAS, and which kernels it took."""
    library, = _shim
    library.openblas_get_config.restype = ctypes.c_char_p
    library.openblas_get_corename.restype = ctypes.c_char_p
    number = library.openblas_get_config().decode().split()[1]
    return f"{number} {library.openblas_get_corename().decode()}"


class _Products:
    def __init__(self, case: Case, inputs: Inputs, threads: int, blocks: tuple[int, int]) -> None:
        self._run = _shim[0].bench_two_products
        self._arrays = [np.copy(x) for x in (inputs.query, inputs.key, inputs.value)]
        self._arrays.append(np.zeros_like(inputs.query))
        self._numbers = [ctypes.c_int64(x) for x in (case.seqlen_k, case.heads, case.head_dim)]
        self._blocks = [ctypes.c_int64(x) for x in blocks]
        self._threads = threads

    def run(self, copy: int) -> None:
        """One call."""
        del copy  # there is one
        pointers = [ctypes.c_void_p(x.ctypes.data) for x in self._arrays]
        self._run(*self._numbers, *pointers, *self._blocks, self._threads)

    def answer(self) -> Arrays:
        """(Q K^T) V"""
        return {"output": self._arrays[3]}


def _seconds(call: _Products) -> float:
    call.run(0)
    start = time.perf_counter()
    call.run(0)
    return time.perf_counter() - start


def prepare(case: Case, inputs: Inputs, threads: int) -> Call:
    """Forward without a mask."""
    if case.work != "forward" or case.causal:
        raise NoRow
    if case.dtype != "float32":
        raise Skip("OpenBLAS has no bfloat16 product here")
    return min((_Products(case, inputs, threads, blocks) for blocks in BLOCKS), key=_seconds)
