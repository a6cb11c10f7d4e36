#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# What rounds buy: recalled mass and error of causal LSH attention on the activations of a trained model and on N(0, 1)
# vectors of the same shape, as the table and the picture of docs/lsh.md. tools/report.py draws the same.
"""usage: lsh_quality.py BUILD_FOLDER    rewrites the table in docs/lsh.md, and docs/report_rounds.svg"""

import subprocess
import sys
import tempfile
from pathlib import Path

from run_main_job import ROOT, Failure, Program
from svg_plot import Curve, Panel, Point, linear_axis, log_axis, picture

ROUNDS = (1, 2, 4, 8, 16)
DEDUPS = ("exact", "none")
DOCUMENT, PICTURE = ROOT / "docs" / "lsh.md", ROOT / "docs" / "report_rounds.svg"
TABLE_BEGIN, TABLE_END = "<!-- by tools/lsh_quality.py -->\n", "<!-- end -->\n"
MODEL, NORMAL = "trained model", "N(0, 1)"


def make_input(build, folder, seqlen, heads, head_dim):
    """N(0, 1) vectors; the name of the file in `folder`."""
    name = f"normal_{seqlen}_{heads}_{head_dim}.safetensors"
    program = build / "examples" / "example_make_input"
    subprocess.run([str(program), name, str(seqlen), str(heads), str(head_dim)], cwd=folder, check=True)
    return name


def measure(build, folder, rounds=ROUNDS, sources=None):
    """One report line a run (tools/report_records.py); files go to `folder`."""
    program = Program(build, folder)
    if sources is None:
        (folder / "data").symlink_to(ROOT / "data")
        sources = {MODEL: "data/minilm_l2_4096.safetensors", NORMAL: make_input(build, folder, 4096, 4, 32)}
    for name, source in sources.items():
        for num_hashes in rounds:
            for dedup in DEDUPS:
                arguments = (source, "result.safetensors", "--output-dtype", "f32", "--causal", "--method", "lsh",
                             "--num-hashes", num_hashes, "--dedup", dedup, "--diagnose")
                yield {"figure": "rounds", "input": name, "num_hashes": num_hashes, "dedup": dedup,
                       "command": program.attend_command(*arguments), "record": program.attend(*arguments)}


def diagnoses(lines):
    """{(input, rounds, dedup): the diagnosis}"""
    return {(line["input"], line["num_hashes"], line["dedup"]): line["record"]["diagnosis"] for line in lines}


def rounds_of(found):
    return sorted({rounds for _, rounds, _ in found})


def number(estimate):
    return f"{estimate['value']:.2f} ({estimate['low']:.2f} to {estimate['high']:.2f})"


def percent(estimate):
    return f"{100 * estimate['value']:.1f} % ({100 * estimate['low']:.1f} to {100 * estimate['high']:.1f})"


def table(found):
    """Head and rows"""
    head = ("input", "rounds", "recalled mass", "of the pairs", "error, dedup exact", "error, dedup none", "finds per pair")
    rows = []
    for name in (MODEL, NORMAL):
        for rounds in rounds_of(found):
            exact, none = found[name, rounds, "exact"], found[name, rounds, "none"]
            rows.append((name, rounds, percent(exact["recalled_mass"]), percent(exact["recalled_pairs"]),
                         number(exact["output_error"]), number(none["output_error"]),
                         f"{exact['finds_per_pair']['value']:.2f}"))
    return head, rows


def markdown(head, rows):
    lines = ["| " + " | ".join(map(str, cells)) + " |\n" for cells in (head, *rows)]
    lines.insert(1, "|" + "---|" * len(head) + "\n")
    return "".join(lines)


def replace_between(document, begin, end, text):
    old = document.read_text()
    first = old.index(begin) + len(begin)
    document.write_text(old[:first] + text + old[old.index(end, first):])


def panels(found):
    rounds = rounds_of(found)

    def curve(label, colour, name, dedup, figure, dashed=False):
        estimates = [found[name, each, dedup][figure] for each in rounds]
        points = [Point(each, e["value"], e["low"], e["high"]) for each, e in zip(rounds, estimates)]
        return Curve(label, colour, points, dashed)

    mass, error = [], []
    for colour, name in enumerate((MODEL, NORMAL)):
        mass += [curve(name, colour, name, "exact", "recalled_mass"),
                 curve("of the pairs", colour, name, "exact", "recalled_pairs", True)]
        error += [curve(name, colour, name, "exact", "output_error"),
                  curve("dedup none", colour, name, "none", "output_error", True)]
    across = log_axis("rounds", "{:g}".format, rounds, 2)
    ends = [end for each in error for point in each.points for end in (point.low, point.high)]
    return [Panel("share of exact attention that is found", across,
                  linear_axis("share", lambda share: f"{100 * share:.3g} %", (0, .25, .5, .75, 1)), mass),
            Panel("relative L2 error of the output", across, log_axis("relative L2", "{:.3g}".format, ends), error)]


def write_documents(found):
    replace_between(DOCUMENT, TABLE_BEGIN, TABLE_END, markdown(*table(found)))
    PICTURE.write_text(picture(panels(found)))


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = diagnoses(measure(Path(sys.argv[1]).resolve(), Path(folder)))
        write_documents(found)
    except (Failure, subprocess.CalledProcessError, OSError) as failure:
        print(f"lsh_quality: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
