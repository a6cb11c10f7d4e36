#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# The main job of `make run`: attention of a trained model over 4096 tokens against its float64 answer, the same from
# two halves of the keys, by hashing, and 131072 tokens in little memory. Exit 1 when an answer or the memory bound is
# missed.
"""usage: run_main_job.py BUILD_FOLDER    writes to out/"""

import json
import math
import struct
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out"
REL_L2 = 2e-6               # float32 against float64
LSE = ("2e-6", "1e-6")      # absolute, relative
MEMORY_BOUND = 16 << 20     # above inputs and outputs, the process itself included
LONG_SEQLEN, LONG_HEAD_DIM = 131072, 64
NO_MEMORY_EXIT = 4
CHECKED_ROWS = (0, 1, 5000, LONG_SEQLEN // 2 + 1, LONG_SEQLEN - 1)


class Failure(Exception):
    pass


class NoMemory(Failure):
    pass


class Program:
    def __init__(self, build, folder=None):
        """`folder`: where its commands run"""
        self.path, self.folder = str(build / "cli" / "longspan"), folder

    def run(self, *arguments):
        """The record of a command. Its progress goes to the terminal."""
        done = subprocess.run([self.path, *map(str, arguments), "--json"], cwd=self.folder, stdout=subprocess.PIPE,
                              check=False)
        record = json.loads(done.stdout or "{}")
        if done.returncode == NO_MEMORY_EXIT:
            raise NoMemory(record["error"]["message"])
        if done.returncode != 0 and not (arguments[0] == "compare" and "tensors" in record):
            raise Failure(f"{' '.join(map(str, arguments))}: exit {done.returncode}")
        return record

    def attend(self, source, output, *options):
        return self.run("attend", source, "-o", output, "--force", "--quiet", *options)

    @staticmethod
    def attend_command(source, output, *options):
        """What a reader would type for it."""
        return " ".join(map(str, ("longspan attend", source, "-o", output, "--force", *options, "--json")))

    def difference(self, result, expected):
        """Relative L2 of the output and the largest difference of lse, both within tolerance."""
        output = self.run("compare", result, expected, "--tensor", "output", "--rel-l2", REL_L2)
        lse = self.run("compare", result, expected, "--tensor", "lse", "--atol", LSE[0], "--rtol", LSE[1])
        error, lse_error = output["tensors"][0]["rel_l2"], lse["tensors"][0]["max_abs"]
        for record in (output, lse):
            if record["within"] is not True:
                raise Failure(f"{result} differs from {expected}: output {error} relative L2, lse {lse_error}")
        return error, lse_error


def attend_by_hashing(program, source):
    """The record of causal LSH attention, and how far it is from exact attention: what --diagnose says of sampled rows
    in float64 has to hold what all rows of the program's exact attention say."""
    exact, hashed = OUT / "minilm_causal.safetensors", OUT / "minilm_hashed.safetensors"
    program.attend(source, exact, "--output-dtype", "f32", "--causal")
    record = program.attend(source, hashed, "--output-dtype", "f32", "--causal", "--method", "lsh", "--diagnose")
    compared = program.run("compare", hashed, exact, "--tensor", "output", "--rel-l2", REL_L2)
    error, sampled = compared["tensors"][0]["rel_l2"], record["diagnosis"]["output_error"]
    if not sampled["low"] <= error <= sampled["high"]:
        raise Failure(f"{hashed}: relative L2 {error} against {exact}, --diagnose says {sampled}")
    return record, error


class Tensors:
    """The float32 tensors of a safetensors file, a row at a time."""

    def __init__(self, path):
        self.file = open(path, "rb")
        length, = struct.unpack("<Q", self.file.read(8))
        self.header = json.loads(self.file.read(length))
        self.begin = 8 + length

    def rows(self, name, first, count, width):
        if self.header[name]["dtype"] != "F32":
            raise Failure(f"{self.file.name}: {name} is {self.header[name]['dtype']}, expected F32")
        self.file.seek(self.begin + self.header[name]["data_offsets"][0] + 4 * first * width)
        for _ in range(count):
            yield struct.unpack(f"<{width}f", self.file.read(4 * width))


def dot(a, b):
    return sum(map(float.__mul__, a, b))


def check_long_rows(source, result):
    """A few causal rows in float64, literally: the softmax of all scores, then the mean of the values."""
    inputs, outputs = Tensors(source), Tensors(result)
    squares, reference = 0.0, 0.0
    for row in CHECKED_ROWS:
        query, = inputs.rows("query", row, 1, LONG_HEAD_DIM)
        scale = 1 / math.sqrt(LONG_HEAD_DIM)
        scores = [scale * dot(query, key) for key in inputs.rows("key", 0, row + 1, LONG_HEAD_DIM)]
        largest = max(scores)
        weights = [math.exp(score - largest) for score in scores]
        total = math.fsum(weights)
        expected = [0.0] * LONG_HEAD_DIM
        for weight, value in zip(weights, inputs.rows("value", 0, row + 1, LONG_HEAD_DIM)):
            expected = [e + weight * v for e, v in zip(expected, value)]
        expected = [e / total for e in expected]
        found, = outputs.rows("output", row, 1, LONG_HEAD_DIM)
        squares += sum((f - e) ** 2 for f, e in zip(found, expected))
        reference += dot(expected, expected)
        (lse,), = outputs.rows("lse", row, 1, 1)
        expected_lse = largest + math.log(total)
        if not abs(lse - expected_lse) <= 2e-6 + 1e-6 * abs(expected_lse):
            raise Failure(f"{result}: lse of row {row} is {lse}, expected {expected_lse}")
    error = math.sqrt(squares / reference)
    if not error <= REL_L2:
        raise Failure(f"{result}: {len(CHECKED_ROWS)} rows differ by {error} relative L2, at most {REL_L2}")
    return error


def memory_above(record):
    above = record["peak_bytes"] - record["input_bytes"] - record["output_bytes"]
    if not 0 < above < MEMORY_BOUND:
        raise Failure(f"{above} bytes above inputs and outputs, at most {MEMORY_BOUND}")
    return above


def size(count):
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def row_of(name, record, error):
    shapes = record["shapes"]
    scores = 4 * shapes["batch"] * shapes["num_heads"] * shapes["seqlen_q"] * shapes["seqlen_k"]
    return (name, f"{shapes['seqlen_q']} x {shapes['num_heads']} x {shapes['head_dim']}", record["dtype"],
            record["kernel"], record["threads"], f"{record['seconds']:.3g}", f"{record['gflops']:.0f}",
            f"{error:.1e}", size(memory_above(record)), size(scores))


def print_table(rows):
    head = ("job", "seqlen x heads x dim", "inputs", "kernel", "threads", "seconds", "GFLOP/s", "error", "memory", "scores")
    columns = list(zip(head, *rows))
    widths = [max(len(str(cell)) for cell in column) for column in columns]
    for line in (head, tuple("-" * width for width in widths), *rows):
        print("  ".join(str(cell).ljust(width) for cell, width in zip(line, widths)).rstrip())
    print("\nerror: relative L2 of the output against float64; by hashing: against exact attention, which it approximates"
          f"\nmemory: peak above inputs and outputs, program and libraries included (bound {size(MEMORY_BOUND)})"
          "\nscores: what the full score matrix would take in float32")


def run(build):
    program = Program(build)
    OUT.mkdir(exist_ok=True)
    source = ROOT / "data" / "minilm_l2_4096.safetensors"
    expected = ROOT / "data" / "minilm_l2_4096_expected.safetensors"

    print("run: a trained model over 4096 tokens", flush=True)
    whole = OUT / "minilm.safetensors"
    record = program.attend(source, whole, "--output-dtype", "f32")
    error, lse_error = program.difference(whole, expected)
    rows = [row_of("all keys at once", record, error)]

    print("run: the same from two halves of the keys, merged", flush=True)
    halves = [OUT / "minilm_low.safetensors", OUT / "minilm_high.safetensors"]
    merged = OUT / "minilm_merged.safetensors"
    parts = [program.attend(source, half, "--output-dtype", "f32", "--keys", keys)
             for half, keys in zip(halves, ("0:2048", "2048:4096"))]
    program.run("merge", *halves, "-o", merged, "--force")
    merged_error, merged_lse_error = program.difference(merged, expected)
    both = dict(parts[0], seconds=sum(part["seconds"] for part in parts),
                peak_bytes=max(part["peak_bytes"] for part in parts))
    both["gflops"] = sum(part["flop"] for part in parts) / both["seconds"] / 1e9
    rows.append(row_of("two halves, merged", both, merged_error))

    print("run: the same input by hashing, causal", flush=True)
    hashed, hashed_error = attend_by_hashing(program, source)
    rows.append(row_of("by hashing, causal", hashed, hashed_error))

    print(f"run: {LONG_SEQLEN} tokens, causal (some seconds)", flush=True)
    long_source, long_result = OUT / "long.safetensors", OUT / "long_result.safetensors"
    subprocess.run([str(build / "examples" / "example_make_input"), long_source, str(LONG_SEQLEN), "1",
                    str(LONG_HEAD_DIM)], check=True)
    record = program.attend(long_source, long_result, "--causal")
    rows.append(row_of("long, causal", record, check_long_rows(long_source, long_result)))

    print()
    print_table(rows)
    recalled = hashed["diagnosis"]["recalled_mass"]
    print(f"by hashing: {hashed['diagnosis']['rows']} rows find {100 * recalled['value']:.0f} % of their attention "
          f"({100 * recalled['low']:.0f} to {100 * recalled['high']:.0f}); docs/lsh.md says what more rounds do"
          f"\nlse: largest difference {lse_error:.1e} at once, {merged_lse_error:.1e} merged"
          f"\nlong run: {len(CHECKED_ROWS)} rows checked against float64; the files are in out/\n\nrun: ok")


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        run(Path(sys.argv[1]).resolve())
    except (Failure, subprocess.CalledProcessError, OSError) as failure:
        print(f"run: failed: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
