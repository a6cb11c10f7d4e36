#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# What rounds buy: recalled mass and error of causal LSH attention on the activations of a trained model and on N(0, 1)
# vectors of the same shape, as the table and the picture of docs/lsh.md.
"""usage: lsh_quality.py BUILD_FOLDER    rewrites the table in docs/lsh.md, and docs/lsh_quality.svg"""

import math
import subprocess
import sys
from pathlib import Path

from run_main_job import OUT, ROOT, Failure, Program

ROUNDS = (1, 2, 4, 8, 16)
DOCUMENT, PICTURE = ROOT / "docs" / "lsh.md", ROOT / "docs" / "lsh_quality.svg"
TABLE_BEGIN, TABLE_END = "<!-- by tools/lsh_quality.py -->\n", "<!-- end -->\n"
MODEL, NORMAL = "trained model", "N(0, 1)"


def make_inputs(build):
    normal = OUT / "normal_4096.safetensors"
    subprocess.run([str(build / "examples" / "example_make_input"), normal, "4096", "4", "32"], check=True)
    return {MODEL: ROOT / "data" / "minilm_l2_4096.safetensors", NORMAL: normal}


def measure(build):
    """{(input, rounds, dedup): the diagnosis}"""
    program = Program(build)
    OUT.mkdir(exist_ok=True)
    found = {}
    for name, source in make_inputs(build).items():
        for rounds in ROUNDS:
            for dedup in ("exact", "none"):
                record = program.attend(source, OUT / "quality.safetensors", "--output-dtype", "f32", "--causal",
                                        "--method", "lsh", "--num-hashes", rounds, "--dedup", dedup, "--diagnose")
                found[name, rounds, dedup] = record["diagnosis"]
    return found


def number(estimate):
    return f"{estimate['value']:.2f} ({estimate['low']:.2f} to {estimate['high']:.2f})"


def percent(estimate):
    return f"{100 * estimate['value']:.1f} % ({100 * estimate['low']:.1f} to {100 * estimate['high']:.1f})"


def table(found):
    lines = ["| input | rounds | recalled mass | of the pairs | error, dedup exact | error, dedup none | finds per pair |",
             "|---|---|---|---|---|---|---|"]
    for name in (MODEL, NORMAL):
        for rounds in ROUNDS:
            exact, none = found[name, rounds, "exact"], found[name, rounds, "none"]
            cells = (name, rounds, percent(exact["recalled_mass"]), percent(exact["recalled_pairs"]),
                     number(exact["output_error"]), number(none["output_error"]),
                     f"{exact['finds_per_pair']['value']:.2f}")
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


class Panel:
    """Curves over the number of rounds (in steps of a factor of 2), as elements of an SVG picture."""

    WIDTH, HEIGHT, TOP = 330, 250, 56

    def __init__(self, left, title, ticks, place, text):
        """`place`: value -> 0 (bottom) to 1 (top); `text`: of a tick"""
        self.left, self.place = left, place
        self.elements = [f'<text class="title" x="{left}" y="{self.TOP - 22}">{title}</text>']
        for tick in ticks:
            y = self.y(tick)
            self.elements += [f'<path class="grid" d="M{left} {y:.1f}h{self.WIDTH}"/>',
                              f'<text class="tick" text-anchor="end" x="{left - 8}" y="{y + 4:.1f}">{text(tick)}</text>']
        for rounds in ROUNDS:
            self.elements.append(f'<text class="tick" text-anchor="middle" x="{self.x(rounds):.1f}" '
                                 f'y="{self.TOP + self.HEIGHT + 20}">{rounds}</text>')
        self.elements.append(f'<text class="tick" text-anchor="middle" x="{left + self.WIDTH / 2}" '
                             f'y="{self.TOP + self.HEIGHT + 40}">rounds</text>')

    def x(self, rounds):
        return self.left + 14 + (self.WIDTH - 28) * math.log2(rounds) / math.log2(ROUNDS[-1])

    def y(self, value):
        return self.TOP + self.HEIGHT * (1 - self.place(value))

    def curve(self, style, estimates, label, lift=0):
        """Estimates by rounds, with their intervals; the label stands behind the last, so much higher."""
        places = [(self.x(rounds), self.y(e["value"])) for rounds, e in zip(ROUNDS, estimates)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        self.elements.append(f'<polyline class="{style}" points="{line}"/>')
        for (x, y), e in zip(places, estimates):
            self.elements += [f'<path class="{style} whisker" d="M{x:.1f} {self.y(e["low"]):.1f}V{self.y(e["high"]):.1f}"/>',
                              f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>']
        x, y = places[-1]
        self.elements.append(f'<text class="label {style}" x="{x + 10:.1f}" y="{y + 4 - lift:.1f}">{label}</text>')


STYLE = """
text { font: 12px sans-serif; fill: #24292f; stroke: none } .title { font-size: 14px; font-weight: bold }
.tick { fill: #57606a } .grid { stroke: #d8dee4; stroke-width: 1 }
polyline { fill: none; stroke-width: 2 } .whisker { stroke-width: 1.2 } circle { stroke-width: 1.5 }
.model { stroke: #0b62c4; fill: #0b62c4 } .normal { stroke: #c2570c; fill: #c2570c }
polyline.model, polyline.normal { fill: none } .second { stroke-dasharray: 5 4 } circle.second { stroke-dasharray: none; fill: #ffffff }
.whisker.second { stroke-dasharray: none } text.label { stroke: none }
"""


def picture(found):
    def estimates(name, dedup, figure):
        return [found[name, rounds, dedup][figure] for rounds in ROUNDS]

    mass = Panel(60, "share of exact attention that is found", (0, .25, .5, .75, 1), lambda share: share,
                 lambda tick: f"{100 * tick:.0f} %")
    low, high = .1, 10
    error = Panel(560, "relative L2 error of the output", (.1, .2, .5, 1, 2, 5, 10),
                  lambda x: math.log(x / low) / math.log(high / low), lambda tick: f"{tick:g}")
    for name, style, lift in ((MODEL, "model", 5), (NORMAL, "normal", -5)):
        mass.curve(style, estimates(name, "exact", "recalled_mass"), name)
        mass.curve(style + " second", estimates(name, "exact", "recalled_pairs"), "of the pairs", lift)
        error.curve(style, estimates(name, "exact", "output_error"), name)
        error.curve(style + " second", estimates(name, "none", "output_error"), "dedup none")
    body = "\n".join(mass.elements + error.elements)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 360" width="1000" height="360">\n'
            f'<style>{STYLE}</style>\n<rect width="1000" height="360" fill="#ffffff"/>\n{body}\n</svg>\n')


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        found = measure(Path(sys.argv[1]).resolve())
    except (Failure, subprocess.CalledProcessError, OSError) as failure:
        print(f"lsh_quality: {failure}", file=sys.stderr)
        return 1
    text = DOCUMENT.read_text()
    begin, end = text.index(TABLE_BEGIN) + len(TABLE_BEGIN), text.index(TABLE_END)
    DOCUMENT.write_text(text[:begin] + table(found) + text[end:])
    PICTURE.write_text(picture(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
