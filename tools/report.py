#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Time, memory and error of the methods against length, and LSH against rounds, from the records of the program itself:
# one page without scripts, the pictures and tables of the documents.
"""report.py BUILD_FOLDER measures and draws build/report/report.html; --from FILE draws kept records again."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import lsh_quality
import report_figures
import report_records
import svg_plot
from run_main_job import ROOT, Failure
from svg_plot import clean

DOCUMENT = ROOT / "docs" / "which-method.md"
BEGIN, END = "<!-- by tools/report.py -->\n", "<!-- end -->\n"
PAGE_STYLE = """
body { margin: 0 auto; max-width: 840px; padding: 16px; font: 16px/1.5 sans-serif; color: #24292f; background: #ffffff }
h1, h2 { line-height: 1.2 } .panels { display: flex; flex-wrap: wrap; gap: 12px } figure { margin: 0 }
.plot { flex: 1 1 320px; max-width: 100%; min-width: 0 } pre, .wide { overflow-x: auto } pre { font-size: 13px }
table { border-collapse: collapse; font-size: 14px } td, th { padding: 2px 10px 2px 0; text-align: left; white-space: nowrap }
"""
DARK_STYLE = "body { color: #e6edf3; background: #0d1117 }\n"


def html_table(head, rows):
    def line(tag, cells):
        return "<tr>" + "".join(f"<{tag}>{clean(cell)}</{tag}>" for cell in cells) + "</tr>\n"

    return f'<div class="wide"><table>\n{line("th", head)}{"".join(line("td", row) for row in rows)}</table></div>\n'


def html_list(texts):
    return "<ul>\n" + "".join(f"<li>{clean(text)}</li>\n" for text in texts) + "</ul>\n"


def html_figure(figure):
    panels = "".join(map(svg_plot.inline, figure.panels))
    return (f'<h2 id="{figure.name}">{clean(figure.heading)}</h2>\n<figure>\n<div class="panels">\n{panels}</div>\n'
            f"<figcaption>{clean(figure.caption)}</figcaption>\n</figure>\n"
            f"<details><summary>Numbers</summary>\n{html_table(figure.head, figure.rows)}</details>\n"
            f"<details><summary>Commands</summary>\n<pre>{clean(chr(10).join(figure.commands))}</pre></details>\n")


def page(lines):
    figures, absent = report_figures.figures(lines)
    left_out = report_figures.left_out(lines) + [f"{heading}: the records hold none of it" for heading in absent]
    body = f"<h1>longspan: time, memory, error</h1>\n<p>{clean(report_figures.machine(lines))}.</p>\n"
    if report_figures.of(lines, "time"):
        body += ("<h2>Where the methods cross</h2>\n" + html_list(report_figures.crossover_sentences(lines)) +
                 html_table(*report_figures.crossovers(lines)) +
                 "<p>A straight line in logarithms between the two measured lengths around the crossing. It says nothing of "
                 "error: LSH leaves keys out.</p>\n")
    body += "".join(map(html_figure, figures))
    if left_out:
        body += "<h2>Not measured</h2>\n" + html_list(left_out)
    style = (PAGE_STYLE + svg_plot.style(svg_plot.LIGHT) +
             "@media (prefers-color-scheme: dark) {\n" + DARK_STYLE + svg_plot.style(svg_plot.DARK) + "}\n")
    return ('<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
            '<meta name="color-scheme" content="light dark"/>\n<title>longspan: time, memory, error</title>\n'
            f"<style>\n{style}</style>\n</head>\n<body>\n{body}</body>\n</html>\n")


def measure(build, out, options):
    """Measures into records.jsonl; a run that is stopped leaves the records of an earlier one alone."""
    kept, lines = out / "records.jsonl", []
    with tempfile.TemporaryDirectory(dir=out) as folder, open(out / "records.partial", "w", encoding="utf-8") as file:
        for line in report_records.measure(build, Path(folder), options):
            print(f"report: {line.get('command') or report_figures.left_out([line])[0]}", file=sys.stderr, flush=True)
            file.write(json.dumps(line) + "\n")
            file.flush()
            lines.append(line)
    (out / "records.partial").replace(kept)
    return kept


def write_documents(lines):
    figures, absent = report_figures.figures(lines)
    if absent:
        raise Failure(f"--docs: expected records of every figure, found none of: {', '.join(absent)}")
    for figure in figures:
        (ROOT / "docs" / f"report_{figure.name}.svg").write_text(svg_plot.picture(figure.panels))
    lsh_quality.write_documents(lsh_quality.diagnoses(report_figures.of(lines, "rounds")))
    left_out = report_figures.left_out(lines)
    shape = report_figures.shape_words(report_figures.of(lines, "time"))
    text = (f"{report_figures.machine(lines)}; {shape} where nothing else is said.\n\n"
            f"{lsh_quality.markdown(*report_figures.crossovers(lines))}\n"
            "Time and peak memory above inputs and outputs, each forward / forward and backward:\n\n"
            f"{lsh_quality.markdown(*report_figures.times_table(lines))}")
    if left_out:
        text += "\nNot measured:\n\n" + "".join(f"- {each}\n" for each in left_out)
    lsh_quality.replace_between(DOCUMENT, BEGIN, END, text)


def numbers(text):
    """4,16 or 256:65536 (by factors of 2)"""
    try:
        if ":" in text:
            first, last = map(int, text.split(":"))
            found = [first << n for n in range(40) if 0 < first << n <= last]
        else:
            found = [int(each) for each in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise argparse.ArgumentTypeError(f"expected positive integers such as 4,16 or 256:65536, found {text!r}")
    return list(dict.fromkeys(found))


def figure_names(text):
    names = text.split(",")
    if not set(names) <= {"time", "error", "rounds"}:
        raise argparse.ArgumentTypeError(f"expected some of time,error,rounds, found {text!r}")
    return names


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", nargs="?", type=Path, help="build folder with cli/longspan, such as build/release")
    parser.add_argument("--from", dest="records", type=Path, metavar="FILE", help="draw these records, measure nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "report", metavar="FOLDER",
                        help="for report.html and records.jsonl (build/report)")
    parser.add_argument("--docs", action="store_true", help="also the pictures and tables of docs/")
    parser.add_argument("--lengths", type=numbers, default=numbers("256:65536"), help="tokens (256:65536)")
    parser.add_argument("--rounds", type=numbers, default=[4, 16], help="of LSH against length (4,16)")
    parser.add_argument("--heads", type=int, default=8, help="heads (8)")
    parser.add_argument("--head-dims", type=numbers, default=[64, 32, 128],
                        help="the first is drawn, the crossings of all are compared (64,32,128)")
    parser.add_argument("--limit", type=float, default=40, help="seconds that one run may take (40)")
    parser.add_argument("--only", type=figure_names, default=["time", "error", "rounds"], help="time,error,rounds")
    options = parser.parse_args(arguments)
    if (options.build is None) == (options.records is None):
        parser.error("expected BUILD_FOLDER or --from FILE, one of them")
    if options.docs and len(set(options.only)) < 3:
        parser.error("--docs: expected all figures, found --only")
    options.lengths.sort()
    return options


def main():
    options = parse(sys.argv[1:])
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        records = options.records or measure(options.build.resolve(), options.out, options)
        lines = report_records.read(records)
        target = options.out / "report.html"
        target.write_text(page(lines), encoding="utf-8")
        if options.docs:
            write_documents(lines)
    except (Failure, subprocess.CalledProcessError, OSError) as failure:
        print(f"report: {failure}", file=sys.stderr)
        return 1
    for sentence in report_figures.crossover_sentences(lines) if report_figures.of(lines, "time") else ():
        print(sentence)
    print(f"report: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
