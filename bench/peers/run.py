#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
"""Times longspan and its peers in one process, in turn: ours, theirs, ours, theirs, ...

Both get the same threads and the same N(0, 1) numbers, each in the layout it likes best; answers are
compared with float64 first. Between calls there is a pause, so that no thread pool still spins when
the other one is timed. Peaks are measured in the same rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import cast

import truth
from case import Call, Case, DType, Inputs, Lsh, LshCall, NoRow, Skip, Work
from ours import Longspan, OurCall

PEERS = ("torch_sdpa", "torch_flex", "torch_naive", "onnxruntime_mha", "ggml_flash",
         "two_products", "two_products_openblas", "lsh_hugging_face", "lsh_reformer_pytorch")
PAUSE_SECONDS = 0.05     # longer than libgomp, TBB and OpenBLAS spin
SAMPLE_SECONDS = 0.02    # shorter calls are repeated to this in each round
SLOW_PEER = 4            # times our time: then SLOW_ROUNDS show it
SLOW_ROUNDS = 3
HEADER = ("| work | type | peer | rounds | ours ms, median (min) | peer ms, median (min) "
          "| peer / ours | ours of peak | peer of peak | error ours | error peer |\n"
          "|---|---|---|---|---|---|---|---|---|---|---|")


def cases(full: bool) -> list[Case]:
    """The rows: forward, causal, backward, decode, LSH attention."""
    rows = []
    works: tuple[Work, ...] = ("forward", "backward")
    dtypes: tuple[DType, ...] = ("float32", "bfloat16")
    for work in works:
        for dtype in dtypes:
            for dim in (64, 128):
                for heads, seqlen, causal in ((8, 4096, False), (1, 16384, False),
                                              (8, 16384, False), (8, 4096, True), (8, 512, True)):
                    long = heads * seqlen > 8 * 4096
                    rows.append(Case(work, dtype, seqlen, seqlen, heads, heads, dim, causal, long))
    for dtype in dtypes:
        for heads, heads_kv, keys, dim in ((32, 8, 32768, 128), (8, 8, 65536, 64),
                                           (32, 32, 8192, 128)):
            rows.append(Case("decode", dtype, 1, keys, heads, heads_kv, dim))
    lsh: tuple[Lsh, ...] = ("hf", "lucidrains")
    trained: tuple[Work, ...] = ("forward", "training")
    for whose in lsh:
        for work in trained:
            rows += [Case(work, "float32", seqlen, seqlen, 8, 8, 64, True, seqlen > 16384, whose)
                     for seqlen in (4096, 16384, 65536)]
    return [row for row in rows if full or not row.long]


@dataclasses.dataclass
class Result:
    """One row of the table, numbers by round."""

    case: Case
    peer: str
    ours: list[float] = dataclasses.field(default_factory=list)
    theirs: list[float] = dataclasses.field(default_factory=list)
    peak: list[float] = dataclasses.field(default_factory=list)  # FLOP/s or bytes/s
    our_error: float = 0
    their_error: float = 0
    problem: str = ""

    @property
    def ratio(self) -> float:
        """How many times our time the peer takes."""
        return statistics.median(b / a for a, b in zip(self.ours, self.theirs))

    def share(self, seconds: list[float]) -> float:
        """Of the peak of the same round."""
        work = self.case.bytes_read if self.case.work == "decode" else self.case.flop
        return statistics.median(work / s / p if p else 0.0 for s, p in zip(seconds, self.peak))

    def row(self) -> str:
        """As a line of the table."""
        start = f"| {self.case.name} | {self.case.dtype} | {self.peer} |"
        if self.problem:
            return f"{start} {self.problem} | | | | | | | |"

        def times(seconds: list[float]) -> str:
            return f"{1e3 * statistics.median(seconds):.3g} ({1e3 * min(seconds):.3g})"

        return (f"{start} {len(self.ours)} | {times(self.ours)} | {times(self.theirs)} "
                f"| {self.ratio:.2f} | {100 * self.share(self.ours):.1f} % "
                f"| {100 * self.share(self.theirs):.1f} % "
                f"| {self.our_error:.1e} | {self.their_error:.1e} |")

    def record(self) -> dict[str, object]:
        """For --json."""
        record: dict[str, object] = {**dataclasses.asdict(self.case), "name": self.case.name,
                                     "peer": self.peer}
        if self.problem:
            return {**record, "problem": self.problem}
        return {**record, "rounds": len(self.ours), "ratio": self.ratio,
                "seconds_median": statistics.median(self.ours), "seconds_min": min(self.ours),
                "peer_seconds_median": statistics.median(self.theirs),
                "peer_seconds_min": min(self.theirs), "share": self.share(self.ours),
                "peer_share": self.share(self.theirs), "rel_l2": self.our_error,
                "peer_rel_l2": self.their_error}


def seconds_of(call: Call, case: Case, repeats: int) -> float:
    """Of one call, after a pause."""
    time.sleep(PAUSE_SECONDS)
    start = time.perf_counter()
    for _ in range(repeats):
        for copy in range(case.copies):
            call.run(copy)
    return (time.perf_counter() - start) / (repeats * case.copies)


def repeats_of(call: Call, case: Case) -> int:
    """Calls that make a sample long enough to time; warms up as well."""
    seconds = seconds_of(call, case, 1) * case.copies
    return max(1, round(SAMPLE_SECONDS / seconds))


def check(found: float, tolerance: float, who: str) -> None:
    """Skips what is wrong: there is nothing to time. NaN is."""
    if not found <= tolerance:
        raise Skip(f"{who} answer is WRONG: relative L2 {found:.2g}")


def expected_of(case: Case, inputs: Inputs, call: Call) -> truth.Arrays:
    """The answer that the call's last run should have given; LSH depends on its random buckets."""
    if case.lsh:
        return truth.lsh(case, inputs, cast(LshCall, call).buckets())
    return truth.attention(case, inputs)


class Runner:
    """Everything that is the same for all rows."""

    def __init__(self, longspan: Longspan, rounds: int) -> None:
        self._longspan = longspan
        self._rounds = rounds

    def check_ours(self, case: Case, inputs: Inputs) -> tuple[OurCall, truth.Arrays, float]:
        """Our call, checked."""
        ours = self._longspan.prepare(case, inputs)
        ours.run(0)
        expected = expected_of(case, inputs, ours)
        error = truth.error(ours.answer(), expected)
        kind = "gradient" if case.work in ("backward", "training") else "output"
        check(error, truth.OUR_TOLERANCE[case.dtype, kind], "our")
        return ours, expected, error

    def compare(self, ours: OurCall, peer: ModuleType, case: Case, inputs: Inputs,
                expected: truth.Arrays, result: Result) -> None:
        """Fills in the result."""
        theirs: Call = peer.prepare(case, inputs, self._longspan.threads)
        theirs.run(0)
        if not getattr(peer, "SOFTMAX", True):
            expected = truth.products(case, inputs)
        elif case.lsh:
            expected = expected_of(case, inputs, theirs)
        result.their_error = truth.error(theirs.answer(), expected)
        check(result.their_error, truth.LSH_PEER_TOLERANCE if case.lsh
              else truth.PEER_TOLERANCE[case.dtype], "the peer's")

        our_repeats, their_repeats = repeats_of(ours, case), repeats_of(theirs, case)
        rounds, kernel = self._rounds, ours.kernel
        while len(result.ours) < rounds:
            if case.work == "decode":
                result.peak.append(self._longspan.read_bandwidth())
            else:
                result.peak.append(self._longspan.product_peak(kernel, case.dtype))
            result.ours.append(seconds_of(ours, case, our_repeats))
            result.theirs.append(seconds_of(theirs, case, their_repeats))
            if len(result.ours) == SLOW_ROUNDS and result.ratio > SLOW_PEER:
                rounds = SLOW_ROUNDS

    def run(self, case: Case, peers: list[ModuleType]) -> list[Result]:
        """The case against each peer."""
        results = []
        inputs = Inputs.of(case)
        try:
            ours, expected, our_error = self.check_ours(case, inputs)
        except Skip as skip:
            result = Result(case, "-", problem=f"not measured: {skip}")
            print(result.row(), flush=True)
            return [result]
        for peer in peers:
            if getattr(peer, "LSH", "") != case.lsh:
                continue
            result = Result(case, f"{peer.NAME} {peer.version()}", our_error=our_error)
            try:
                self.compare(ours, peer, case, inputs, expected, result)
            except NoRow:
                continue
            except Skip as skip:
                result.problem = f"not measured: {skip}"
            except Exception as error:  # pylint: disable=broad-except  # a peer may fail anyhow
                result.problem = f"not measured: {type(error).__name__}: " + " ".join(
                    str(error).split())[:200]
            gc.collect()
            print(result.row(), flush=True)
            results.append(result)
        return results


def name_openblas_core() -> None:
    """Debian's OpenBLAS does not know newer processors and takes its slowest kernels there, so the
    best that the instructions allow is named before it is loaded."""
    flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    for flag, core in (("avx512vl", "SkylakeX"), ("avx2", "Haswell")):
        if flag in flags:
            os.environ.setdefault("OPENBLAS_CORETYPE", core)


def load_peers(names: list[str], longspan: Longspan) -> list[ModuleType]:
    """Modules that can be imported; says why the others cannot."""
    peers = []
    for name in names:
        try:
            peer = importlib.import_module(name)
        except ImportError as error:
            print(f"{name}: skipped, {error}")
            continue
        if hasattr(peer, "use_shim"):
            peer.use_shim(longspan.library)
        peers.append(peer)
    return peers


def main() -> int:
    """Parses options, prints tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shim", type=Path, required=True, help="liblongspan_shim.so")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peers", default=",".join(PEERS), help="names of files in this folder")
    parser.add_argument("--only", default="", help="rows whose name and type hold this text")
    parser.add_argument("--kernel", default="", help="ours; default: the best")
    parser.add_argument("--full", action="store_true",
                        help="8 x 16384, LSH of 65536 (18 GiB) as well (hours)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()

    name_openblas_core()
    longspan = Longspan(options.shim, options.kernel)
    os.environ["OMP_NUM_THREADS"] = str(longspan.threads)  # before any peer is loaded
    peers = load_peers(options.peers.split(","), longspan)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(longspan.threads)
    print(f"longspan {longspan.version}, {longspan.threads} threads, {options.rounds} rounds\n")
    print(HEADER, flush=True)
    runner = Runner(longspan, options.rounds)
    results = []
    for case in cases(options.full):
        if options.only in f"{case.name}, {case.dtype}":
            results += runner.run(case, peers)
    if options.json:
        options.json.write_text(json.dumps([result.record() for result in results], indent=2))
    return int(any("WRONG" in result.problem for result in results))


if __name__ == "__main__":
    sys.exit(main())
