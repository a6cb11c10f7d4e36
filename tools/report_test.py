#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# Draws invented records and reads the drawing again, spoils them one at a time, and runs the report once, small.
"""usage: report_test.py BUILD_FOLDER"""

import json
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import lsh_quality
import report_figures
import report_records
import svg_plot
from run_main_job import Failure, NoMemory

TOOL = Path(__file__).parent / "report.py"
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</style><script>alert('x' & \"y\")</script>\x00\x1b[31m"
LENGTHS = (256, 1024, 4096)
ESTIMATE = {"value": .5, "low": .4, "high": .6}
RUN = {"schema": 1, "version": "1.2.3", "kernel": "avx2", "threads": 2}


def shapes(tokens):
    return {"seqlen_q": tokens, "seqlen_k": tokens, "num_heads": 2, "head_dim": 64}


def time_line(tokens, num_hashes, backward):
    seconds = tokens ** 2 * 1e-8 if num_hashes == 0 else tokens * num_hashes * 4e-6  # they meet at 1600 for 4 rounds
    record = {**RUN, "shapes": shapes(tokens), "seconds": seconds, "peak_bytes": 5000 + 2 * tokens,
              "input_bytes": tokens, "output_bytes": tokens}
    if backward:
        record["backward"] = {"seconds": seconds}
    return {"figure": "time", "num_hashes": num_hashes, "command": f"longspan attend {tokens}", "record": record}


def invented():
    lines = [time_line(tokens, num_hashes, backward)
             for tokens in LENGTHS for num_hashes in (0, 4) for backward in (False, True)]
    for tokens in LENGTHS:
        lines.append({"figure": "error", "command": "longspan bench",
                      "record": {**RUN, "cpu": "a processor", "dtype": "f32", "seqlen_k": tokens, "num_heads": 1,
                                 "head_dim": 64, "checked_rows": 16, "output_rel_l2": 2e-7}})
        lines.append({"figure": "recall", "num_hashes": 4, "command": "longspan attend",
                      "record": {**RUN, "shapes": shapes(tokens),
                                 "diagnosis": {"rows": 256, "output_error": ESTIMATE, "recalled_mass": ESTIMATE}}})
    figures = ("recalled_mass", "recalled_pairs", "output_error", "finds_per_pair")
    lines += [{"figure": "rounds", "input": name, "num_hashes": rounds, "dedup": dedup, "command": "longspan attend",
               "record": {**RUN, "diagnosis": {figure: ESTIMATE for figure in figures}}}
              for name in (lsh_quality.MODEL, lsh_quality.NORMAL) for rounds in (1, 2, 4) for dedup in lsh_quality.DEDUPS]
    return lines + [{"figure": "left out", "what": "exact: 65536 tokens", "reason": "takes too long"}]


def run(folder, *arguments):
    return subprocess.run([sys.executable, str(TOOL), "--out", str(folder), *map(str, arguments)],
                          capture_output=True, text=True, check=False)


def draw(folder, lines):
    records = Path(folder, "given.jsonl")
    records.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run(folder, "--from", records)


def parse_page(folder):
    text = Path(folder, "report.html").read_text(encoding="utf-8")
    return text, ElementTree.fromstring(text)


def drawn(panel):
    return ElementTree.fromstring(svg_plot.picture([panel]))


def with_class(root, name):
    return [element for element in root.iter() if name in element.get("class", "").split()]


class PlotTest(unittest.TestCase):
    def test_ticks(self):
        self.assertEqual(svg_plot.log_ticks(2e-4, 30, 10), [1e-3, 1e-2, 1e-1, 1, 10])
        self.assertEqual(svg_plot.log_ticks(.4, 6, 10), [.5, 1, 2, 5])
        self.assertEqual(svg_plot.log_ticks(250, 70000, 2), [256, 1024, 4096, 16384, 65536])
        self.assertEqual(svg_plot.log_ticks(1, 16, 2), [1, 2, 4, 8, 16])

    def test_places(self):
        axis = svg_plot.log_axis("", str, [1, 100])
        self.assertAlmostEqual(axis.place(10), .5)
        self.assertEqual((axis.place(0), axis.place(1e-9), axis.place(1e9)), (0, 0, 1))
        self.assertEqual(svg_plot.linear_axis("", str, (0, .5, 1)).place(.25), .25)

    def test_points_stand_where_they_belong(self):
        axis = svg_plot.linear_axis("", str, (0, 1))
        points = [svg_plot.Point(0, 0), svg_plot.Point(.5, 1, .5, 1), svg_plot.Point(1, .5)]
        root = drawn(svg_plot.Panel("", axis, axis, [svg_plot.Curve("a", 0, points)]))
        line, = root.iter(f"{SVG}polyline")
        left, right = svg_plot.LEFT, svg_plot.WIDTH - svg_plot.RIGHT
        top, bottom = svg_plot.TOP, svg_plot.HEIGHT - svg_plot.BOTTOM
        expected = [(left, bottom), ((left + right) / 2, top), (right, (top + bottom) / 2)]
        self.assertEqual([tuple(map(float, place.split(","))) for place in line.get("points").split()], expected)
        self.assertEqual((len(with_class(root, "point")), len(with_class(root, "interval"))), (3, 1))

    def test_labels_keep_apart(self):
        places = svg_plot.spread([100, 101, 99, 10], 0, 105)
        ordered = sorted(places)
        self.assertTrue(all(after - before >= svg_plot.LABEL_GAP for before, after in zip(ordered, ordered[1:])), places)
        self.assertLessEqual(ordered[-1], 105)
        self.assertEqual([places.index(place) for place in ordered], [3, 2, 0, 1])

    def test_same_numbers_same_bytes(self):
        one, two = (report_figures.figures(invented())[0] for _ in range(2))
        self.assertEqual(*([svg_plot.picture(figure.panels) for figure in each] for each in (one, two)))

    def test_sizes_and_durations(self):
        self.assertEqual([report_figures.size(count) for count in (2, 1 << 20, 3 << 30)], ["2 B", "1 MiB", "3 GiB"])
        self.assertEqual([report_figures.duration(seconds) for seconds in (2, .01, 5e-5)], ["2 s", "10 ms", "50 us"])


class CrossingTest(unittest.TestCase):
    def test_crossing(self):
        exact = {tokens: float(tokens) ** 2 for tokens in (100, 200, 400, 800)}
        for slope, expected in ((300, (300, 200, 400)), (50, (100, None, 100)), (1000, (800, 800, None))):
            tokens, *around = report_figures.crossing(exact, {n: slope * n for n in exact})
            self.assertAlmostEqual(tokens, expected[0])
            self.assertEqual(tuple(around), expected[1:])

    def test_the_last_crossing_counts(self):
        exact, lsh = {1: 1., 2: 5., 4: 4., 8: 9.}, {1: 2., 2: 2., 4: 5., 8: 3.}
        self.assertEqual(report_figures.crossing(exact, lsh)[1:], (4, 8))

    def test_lengths_of_one_method_alone_do_not_count(self):
        self.assertEqual(report_figures.crossing_words({1: 1., 2: 4.}, {2: 3., 4: 6., 1: 3.}), "about 2 tokens")
        self.assertEqual(report_figures.crossing_words({1: 1.}, {2: 1.}), "not measured")


class PageTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def test_page(self):
        done = draw(self.folder.name, invented())
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("forward: LSH, 4 rounds, overtakes exact attention at about 1600 tokens.", done.stdout)
        text, root = parse_page(self.folder.name)
        plots = with_class(root, "plot")
        # Methods x lengths; float32 and LSH x lengths, LSH x lengths; two inputs and two styles x rounds.
        self.assertEqual([len(with_class(plot, "point")) for plot in plots], [6, 6, 6, 6, 6, 3, 12, 12])
        self.assertEqual([len(with_class(plot, "interval")) for plot in plots], [0, 0, 0, 0, 3, 3, 12, 12])
        ticks = [tick.text for tick in with_class(plots[0], "x") if tick.text.isdigit()]
        self.assertEqual(ticks, ["256", "512", "1024", "2048", "4096"])
        for words in ("longspan 1.2.3; processor a processor; kernel avx2; threads 2", "exact: 65536 tokens (takes too long)",
                      "scores, computed", "longspan attend 4096"):
            self.assertIn(words, text)
        self.assertEqual([name for name in ("<script", "http:", "https:", "src=", "@import", "url(")
                          if name in text.replace("http://www.w3.org/2000/svg", "")], [])

    def test_what_is_absent_is_said(self):
        done = draw(self.folder.name, [line for line in invented() if line["figure"] != "rounds"])
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("LSH by rounds: the records hold none of it", parse_page(self.folder.name)[0])

    def test_hostile_text_is_shown_as_text(self):
        lines = invented()
        for line in lines:
            for holder in (line, line.get("record", {})):
                for name in {"command", "version", "kernel", "cpu", "dtype", "what", "reason"} & holder.keys():
                    holder[name] = HOSTILE
        done = draw(self.folder.name, lines)
        self.assertEqual(done.returncode, 0, done.stderr)
        text, root = parse_page(self.folder.name)  # would not parse with a control character
        self.assertEqual([element.tag for element in root.iter() if element.tag.endswith("script")], [])
        self.assertIn("alert('x' & \"y\")", "".join(root.itertext()))
        self.assertNotIn("<script", text)


class RecordsTest(unittest.TestCase):
    def refuse(self, text):
        with tempfile.TemporaryDirectory() as folder:
            records = Path(folder, "bad.jsonl")
            records.write_bytes(text)
            done = run(folder, "--from", records)
            self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
            self.assertFalse(Path(folder, "report.html").exists())
            return done.stderr

    def test_every_field_is_needed(self):
        seen = set()
        for line in invented():
            if line["figure"] in seen:
                continue
            seen.add(line["figure"])
            for path in report_records.FIELDS[line["figure"]]:
                for spoil in (None, -1, float("nan")):
                    with self.subTest(figure=line["figure"], path=path, spoil=spoil):
                        bad = json.loads(json.dumps(line))  # nothing shared
                        *outer, last = path.split(".")
                        holder = bad
                        for name in outer:
                            holder = holder[name]
                        if spoil is None:
                            del holder[last]
                        else:
                            holder[last] = spoil
                        with self.assertRaises(Failure) as caught:
                            report_records.check_line(bad, "records.jsonl:7")
                        self.assertIn(f"records.jsonl:7: {path}: expected", str(caught.exception))
        self.assertEqual(seen, set(report_records.FIELDS))

    def test_file_line_and_field_are_named(self):
        good = json.dumps(invented()[0]).encode()
        bad = invented()[1]
        bad["record"]["backward"]["seconds"] = "fast"
        for text, words in ((good + b"\n" + json.dumps(bad).encode(),
                             'bad.jsonl:2: record.backward.seconds: expected a positive number, found "fast"'),
                            (good + b"\n{\n", "bad.jsonl:2: expected JSON"),
                            (b"[" * 100000, "bad.jsonl:1: expected JSON"),
                            (b"[]\n", "bad.jsonl:1: expected a JSON object, found []"),
                            (b'{"figure": "cake"}\n', "bad.jsonl:1: figure: expected one of time"),
                            (b"\xff\xfe", "expected UTF-8"),
                            (b"\n\n", "expected records, found none")):
            with self.subTest(words):
                self.assertIn(words, self.refuse(text))

    def test_rounds_are_complete(self):
        lines = [line for line in invented() if line["figure"] == "rounds"][1:]
        words = self.refuse("\n".join(map(json.dumps, lines)).encode())
        self.assertIn("input trained model, num_hashes 1, dedup exact, found none", words)

    def test_usage(self):
        for arguments in ((), ("build", "--from", "x"), ("build", "--lengths", "1,-2"), ("build", "--only", "cake"),
                          ("build", "--docs", "--only", "time")):
            with self.subTest(arguments), tempfile.TemporaryDirectory() as folder:
                self.assertEqual(run(folder, *arguments).returncode, 2)


class MeasureTest(unittest.TestCase):
    def test_what_takes_too_long_is_left_out(self):
        cases = report_records.Cases(1)
        self.assertEqual(cases.run("a", 10, 2, lambda: ["ran"], "what"), ["ran"])
        cases.last["a"] = 10, .3
        line, = cases.run("a", 20, 2, self.fail, "20 tokens")
        self.assertEqual(line["what"], "20 tokens")
        report_records.check_line(line, "")
        self.assertEqual(cases.run("a", 20, 1, lambda: ["ran"], "what"), ["ran"])

    def test_what_does_not_fit_is_left_out(self):
        def job():
            raise NoMemory("2 TiB are needed")
        line, = report_records.Cases(1).run("a", 10, 2, job, "10 tokens")
        self.assertIn("2 TiB are needed", line["reason"])

    def test_small_run(self):
        with tempfile.TemporaryDirectory() as folder:
            done = run(folder, BUILD, "--lengths", "64,128", "--heads", 2, "--head-dims", "32", "--rounds", "2",
                       "--only", "time,error")
            self.assertEqual(done.returncode, 0, done.stderr)
            lines = report_records.read(Path(folder, "records.jsonl"))
            text, root = parse_page(folder)
            self.assertEqual([len(with_class(plot, "point")) for plot in with_class(root, "plot")], [4, 4, 4, 4, 8, 2])
            self.assertEqual(sorted(path.name for path in Path(folder).iterdir()), ["records.jsonl", "report.html"])
            self.assertNotIn(folder, json.dumps(lines) + text)
            again = Path(folder, "again")
            self.assertEqual(run(again, "--from", Path(folder, "records.jsonl")).returncode, 0)
            self.assertEqual(Path(again, "report.html").read_text(encoding="utf-8"), text)

    def test_rounds(self):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            source = lsh_quality.make_input(BUILD, folder, 128, 1, 16)
            sources = {lsh_quality.MODEL: source, lsh_quality.NORMAL: source}
            lines = list(lsh_quality.measure(BUILD, folder, (1, 2), sources))
        for line in lines:
            report_records.check_line(line, "")
        self.assertEqual(len(lines), 8)
        figure = report_figures.rounds_figure(lines)
        self.assertEqual([len(with_class(drawn(panel), "point")) for panel in figure.panels], [8, 8])


if __name__ == "__main__":
    BUILD = Path(sys.argv.pop(1)).resolve()
    unittest.main()
