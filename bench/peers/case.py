# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""What is computed, with which numbers, and what a peer has to offer.

A peer is a module with a NAME, a VERSION (a function, so that nothing is imported before it is
wanted) and prepare(case, inputs, threads), which returns a Call or raises Skip or NoRow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np

Work = Literal["forward", "backward", "decode", "training"]  # training: forward and backward
Lsh = Literal["", "hf", "lucidrains"]  # whose LSH attention it is; none: exact attention
DType = Literal["float32", "bfloat16"]
Arrays = dict[str, np.ndarray]

LSH_ROUNDS = 4
LSH_CHUNK = 64  # and as many keys before it

# Calls of a decode read copies of key and value in turn, together at least this much: no cache
# holds them. It is what the loop that measures the bandwidth reads, too.
DECODE_BYTES = 1 << 30


class Skip(Exception):
    """This peer cannot do this case; the text says why."""


class NoRow(Exception):
    """The case is not what this peer is for: it gets no row."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One row: batch 1, N(0, 1) inputs."""

    work: Work
    dtype: DType
    seqlen_q: int
    seqlen_k: int
    heads: int
    heads_kv: int
    head_dim: int
    causal: bool = False
    long: bool = False  # minutes with any peer: only with --full
    lsh: Lsh = ""  # shared query and key, causal

    @property
    def name(self) -> str:
        """The row's name without type and peer."""
        if self.work == "decode":
            return (f"decode, {self.heads}/{self.heads_kv} heads, {self.seqlen_k} keys, "
                    f"d {self.head_dim}")
        tail = ", causal" if self.causal else ""
        head = "LSH " if self.lsh else ""
        return f"{head}{self.work}, {self.heads} x {self.seqlen_k}, d {self.head_dim}{tail}"

    @property
    def element_bytes(self) -> int:
        """Bytes of a number."""
        return 4 if self.dtype == "float32" else 2

    @property
    def bytes_read(self) -> int:
        """Bytes of key and value."""
        return 2 * self.seqlen_k * self.heads_kv * self.head_dim * self.element_bytes

    @property
    def flop(self) -> float:
        """Two products, half of them with a causal mask; five in the backward. LSH attention: all
        pairs of its windows."""
        keys = (LSH_ROUNDS * 2 * LSH_CHUNK if self.lsh
                else self.seqlen_k * (0.5 if self.causal else 1.0))
        products = {"forward": 2, "decode": 2, "backward": 5, "training": 7}[self.work]
        return 2.0 * products * self.heads * self.seqlen_q * keys * self.head_dim

    @property
    def lsh_buckets(self) -> tuple[int, ...]:
        """Factors of the number of buckets: the peer's choice, which ours takes, too."""
        chunks = self.seqlen_k // LSH_CHUNK
        if self.lsh == "lucidrains":
            return (chunks,)
        power = (2 * chunks).bit_length() - 1
        if 2**power <= 2 * LSH_CHUNK:
            return (2**power,)
        return (2**(power // 2), 2**(power - power // 2))

    @property
    def copies(self) -> int:
        """Copies of key and value that are read in turn."""
        return -(-DECODE_BYTES // self.bytes_read) if self.work == "decode" else 1


@dataclasses.dataclass(frozen=True)
class Inputs:
    """float32 arrays [seqlen, heads, head_dim] whose numbers the case's type represents exactly."""

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    doutput: np.ndarray

    @staticmethod
    def of(case: Case) -> Inputs:
        """The same numbers every time."""
        random = np.random.default_rng(1)

        def rows(seqlen: int, heads: int) -> np.ndarray:
            numbers = random.standard_normal((seqlen, heads, case.head_dim), dtype=np.float32)
            return numbers if case.dtype == "float32" else from_bfloat16(to_bfloat16(numbers))

        return Inputs(rows(case.seqlen_q, case.heads), rows(case.seqlen_k, case.heads_kv),
                      rows(case.seqlen_k, case.heads_kv), rows(case.seqlen_q, case.heads))


class Call(Protocol):
    """A call that is ready to be made again and again."""

    def run(self, copy: int) -> None:
        """Makes the call with this copy of key and value."""

    def answer(self) -> Arrays:
        """What the last run gave, [seqlen, heads, head_dim]: output, or dquery, dkey, dvalue."""


class LshCall(Call, Protocol):
    """One of LSH attention; the answer is output, and with training dquery_key and dvalue."""

    def buckets(self) -> np.ndarray:
        """[rounds, seqlen] of the last head in the last run."""


Prepare = Callable[[Case, Inputs, int], Call]


def to_bfloat16(numbers: np.ndarray) -> np.ndarray:
    """Bits of the nearest bfloat16, ties to even (no NaN among them)."""
    bits = np.ascontiguousarray(numbers, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """float32 of these bits, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
