# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# The records behind the report: one JSON object a line, {"figure", "command", "record", ...}, the record as the program
# printed it. Measures them, and reads them as what somebody else may have written.
"""measure(build, folder, options) yields lines; read(path) gives checked ones."""

import json
import math
import time

import lsh_quality
from run_main_job import Failure, NoMemory, Program

REPEATS, REPEATED_BELOW = 3, 0.5  # runs of a case, and the seconds above which it is run once
OTHER_HEAD_DIMS_UP_TO = 8192      # tokens: enough to see where the methods cross
ERROR_QUERIES = 256               # of exact attention: more than the 16 rows that bench samples, few enough to be quick
RESULT = "result.safetensors"
FIGURES = ("time", "error", "recall", "rounds")


class Cases:
    """Runs what its last shorter run says will end within the limit, or says why not."""

    def __init__(self, limit):
        self.limit, self.last = limit, {}

    def run(self, key, seqlen, power, job, what):
        """The lines that `job` gives, of a case whose time grows with seqlen^power; a line that it is left out."""
        if key in self.last:
            before, seconds = self.last[key]
            expected = seconds * (seqlen / before) ** power
            if expected > self.limit:
                return [left_out(what, f"{before} tokens took {seconds:.3g} s, so these exceed the limit of {self.limit:g} s")]
        start = time.monotonic()
        try:
            lines = job()
        except NoMemory as failure:
            return [left_out(what, f"not enough memory: {failure}")]
        self.last[key] = seqlen, time.monotonic() - start
        return lines


def left_out(what, reason):
    return {"figure": "left out", "what": what, "reason": reason}


def name_of(num_hashes):
    return f"LSH, {num_hashes} round{'s' * (num_hashes > 1)}" if num_hashes else "exact"


def measure_lengths(program, cases, source, shape, options):
    """Time and memory of all methods at one length, by turns, each run a process of its own."""
    seqlen, _, head_dim = shape
    jobs = [(num_hashes, backward) for backward in (False, True) for num_hashes in (0, *options.rounds)]
    for turn in range(REPEATS):
        for num_hashes, backward in list(jobs):
            arguments = [source, RESULT, "--causal"]
            if num_hashes:
                arguments += ["--method", "lsh", "--num-hashes", num_hashes]
            if backward:  # the gradient of a sum of products with the values: any would do
                arguments += ["--backward", "--doutput-name", "value"]
            what = f"{name_of(num_hashes)}, forward{' and backward' * backward}, head_dim {head_dim}: {seqlen} tokens"
            lines = cases.run(("time", head_dim, num_hashes, backward), seqlen, 1 if num_hashes else 2, lambda: [
                {"figure": "time", "num_hashes": num_hashes, "command": program.attend_command(*arguments),
                 "record": program.attend(*arguments)}], what)
            yield from lines
            if lines[0]["figure"] == "left out" or turn == 0 and seconds_of(lines[0]["record"]) > REPEATED_BELOW:
                jobs.remove((num_hashes, backward))


def measure_errors(program, cases, source, shape, options):
    """bench for exact attention of one head in several types; how far LSH is from exact attention."""
    seqlen, _, head_dim = shape
    # Not causal: the first rows of a causal call see few keys, are the largest and would hide the others' error.
    bench = ("bench", "--seqlen", seqlen, "--seqlen-q", min(seqlen, ERROR_QUERIES), "--heads", 1, "--head-dim", head_dim,
             "--dtype", "f32,f16,bf16", "--repeat", 1, "--warm-up", 0, "--quiet")
    command = "longspan " + " ".join(map(str, bench)) + " --json"
    yield from cases.run("bench", seqlen, 1, lambda: [
        {"figure": "error", "command": command, "record": record} for record in program.run(*bench)["records"]],
        f"error of exact attention: {seqlen} tokens")
    for num_hashes in options.rounds:
        arguments = (source, RESULT, "--causal", "--method", "lsh", "--num-hashes", num_hashes, "--diagnose")
        yield from cases.run(("recall", num_hashes), seqlen, 1, lambda: [
            {"figure": "recall", "num_hashes": num_hashes, "command": program.attend_command(*arguments),
             "record": program.attend(*arguments)}], f"error of {name_of(num_hashes)}: {seqlen} tokens")


def measure(build, folder, options):
    """All lines, as they come. `folder` is for inputs and results; they are removed when they have served."""
    program, cases = Program(build, folder), Cases(options.limit)
    for head_dim in options.head_dims if {"time", "error"} & set(options.only) else ():
        main = head_dim == options.head_dims[0]
        for seqlen in options.lengths:
            if not main and seqlen > OTHER_HEAD_DIMS_UP_TO:
                continue
            shape = seqlen, options.heads, head_dim
            source = lsh_quality.make_input(build, folder, *shape)
            if "time" in options.only:
                yield from measure_lengths(program, cases, source, shape, options)
            if main and "error" in options.only:
                yield from measure_errors(program, cases, source, shape, options)
            (folder / source).unlink()
            (folder / RESULT).unlink(missing_ok=True)
    if "rounds" in options.only:
        yield from lsh_quality.measure(build, folder)


def seconds_of(record):
    return record["seconds"] + record.get("backward", {"seconds": 0})["seconds"]


def memory_of(record):
    """Above inputs and outputs, the program itself included."""
    return record["peak_bytes"] - record["input_bytes"] - record["output_bytes"]


# What a line has to hold: (words for it, test).
def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


TEXT = ("a text", lambda value: isinstance(value, str))
POSITIVE = ("a positive number", lambda value: is_number(value) and value > 0)
NUMBER = ("a number of at least 0", lambda value: is_number(value) and value >= 0)
COUNT = ("a positive integer", lambda value: is_number(value) and value == int(value) and value > 0)
ROUNDS = ("an integer of at least 0", lambda value: is_number(value) and value == int(value) and value >= 0)
ONE = ("1", lambda value: is_number(value) and value == 1)


def estimate(name):
    return {f"record.diagnosis.{name}.{part}": NUMBER for part in ("value", "low", "high")}


RUN = {"command": TEXT, "record.schema": ONE, "record.version": TEXT, "record.kernel": TEXT, "record.threads": COUNT}
SHAPES = {f"record.shapes.{name}": COUNT for name in ("seqlen_q", "seqlen_k", "num_heads", "head_dim")}
FIELDS = {
    "time": {**RUN, **SHAPES, "num_hashes": ROUNDS, "record.seconds": POSITIVE, "record.peak_bytes": COUNT,
             "record.input_bytes": COUNT, "record.output_bytes": COUNT},
    "error": {**RUN, "record.cpu": TEXT, "record.dtype": TEXT, "record.seqlen_k": COUNT, "record.num_heads": COUNT,
              "record.head_dim": COUNT, "record.checked_rows": COUNT, "record.output_rel_l2": NUMBER},
    "recall": {**RUN, **SHAPES, "num_hashes": COUNT, "record.diagnosis.rows": COUNT, **estimate("output_error"),
               **estimate("recalled_mass")},
    "rounds": {**RUN, "num_hashes": COUNT, "dedup": ("exact or none", lambda value: value in lsh_quality.DEDUPS),
               "input": (f"{lsh_quality.MODEL} or {lsh_quality.NORMAL}",
                         lambda value: value in (lsh_quality.MODEL, lsh_quality.NORMAL)),
               **estimate("recalled_mass"), **estimate("recalled_pairs"), **estimate("output_error"),
               **estimate("finds_per_pair")},
    "left out": {"what": TEXT, "reason": TEXT},
}


def check_field(line, where, path, expected):
    words, test = expected
    value = line
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            raise Failure(f"{where}: {path}: expected {words}, found nothing")
        value = value[name]
    if not test(value):
        raise Failure(f"{where}: {path}: expected {words}, found {json.dumps(value)[:60]}")


def check_line(line, where):
    if not isinstance(line, dict):
        raise Failure(f"{where}: expected a JSON object, found {json.dumps(line)[:60]}")
    known = ", ".join(FIELDS)
    check_field(line, where, "figure", (f"one of {known}", lambda value: isinstance(value, str) and value in FIELDS))
    for path, expected in FIELDS[line["figure"]].items():
        check_field(line, where, path, expected)
    if line["figure"] == "time":
        if "backward" in line["record"]:
            check_field(line, where, "record.backward.seconds", POSITIVE)
        if memory_of(line["record"]) <= 0:
            raise Failure(f"{where}: record.peak_bytes: expected more than input_bytes + output_bytes, found "
                          f"{line['record']['peak_bytes']}")


def parse_line(text, where):
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Failure(f"{where}: expected JSON, found {text[:40]!r} ({error})") from error
    check_line(line, where)
    return line


def check_rounds(lines, path):
    """Every input and way of counting with the same rounds, or none at all."""
    found = lsh_quality.diagnoses(line for line in lines if line["figure"] == "rounds")
    for rounds in lsh_quality.rounds_of(found):
        for name in (lsh_quality.MODEL, lsh_quality.NORMAL):
            for dedup in lsh_quality.DEDUPS:
                if (name, rounds, dedup) not in found:
                    raise Failure(f"{path}: expected a line of figure rounds with input {name}, num_hashes {rounds}, "
                                  f"dedup {dedup}, found none")


def read(path):
    """The lines of a file, each checked: file, line and field are named where one is not as it has to be."""
    try:
        texts = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise Failure(f"{path}: expected UTF-8 text, found byte {error.start} to be none") from error
    lines = [parse_line(text, f"{path}:{number}") for number, text in enumerate(texts, 1) if text.strip()]
    if not any(line["figure"] in FIGURES for line in lines):
        raise Failure(f"{path}: expected records, found none")
    check_rounds(lines, path)
    return lines
