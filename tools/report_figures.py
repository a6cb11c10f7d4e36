# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# What the report shows of its records: four figures, each with its numbers, and where the methods cross.
"""figures(lines) -> Figures; crossovers(lines), machine(lines), times_table(lines) are words and tables."""

import math
import statistics
from typing import NamedTuple

import lsh_quality
from report_records import memory_of, name_of, seconds_of
from svg_plot import COMPUTED, Curve, Panel, Point, linear_axis, log_axis

PASSES = ("forward", "forward and backward")


class Figure(NamedTuple):
    name: str  # of docs/report_NAME.svg
    heading: str
    caption: str
    commands: list
    panels: list
    head: tuple
    rows: list


def size(count):
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def duration(seconds):
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if seconds * factor >= .9995:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def style_of(num_hashes, all_rounds):
    """Colour, dashed"""
    if not num_hashes:
        return 0, False
    index = all_rounds.index(num_hashes)
    return 1 + index % 3, index >= 3


def of(lines, figure):
    return [line for line in lines if line["figure"] == figure]


def left_out(lines):
    return [f"{line['what']} ({line['reason']})" for line in of(lines, "left out")]


def time_runs(lines):
    """{(head_dim, rounds, with backward): {tokens: [lines]}}, tokens ascending"""
    runs = {}
    for line in sorted(of(lines, "time"), key=lambda line: line["record"]["shapes"]["seqlen_k"]):
        shapes = line["record"]["shapes"]
        case = runs.setdefault((shapes["head_dim"], line["num_hashes"], "backward" in line["record"]), {})
        case.setdefault(shapes["seqlen_k"], []).append(line)
    return runs


def main_runs(lines):
    """Those of the head_dim that was measured first: {(rounds, with backward): {tokens: [lines]}}."""
    first = of(lines, "time")[0]["record"]["shapes"]["head_dim"]
    return {key[1:]: case for key, case in time_runs(lines).items() if key[0] == first}


def medians(case):
    return {tokens: statistics.median(seconds_of(line["record"]) for line in runs) for tokens, runs in case.items()}


def most_memory(case):
    return {tokens: max(memory_of(line["record"]) for line in runs) for tokens, runs in case.items()}


def crossing(exact, lsh):
    """{tokens: seconds} of both -> (tokens, shorter, longer): from where on LSH is and stays faster, a straight line in
    logarithms between the two measured lengths around it. `shorter` None: everywhere; `longer` None: nowhere."""
    common = sorted(exact.keys() & lsh.keys())
    slower = [tokens for tokens in common if lsh[tokens] >= exact[tokens]]
    if not slower:
        return common[0], None, common[0]
    shorter = slower[-1]
    if shorter == common[-1]:
        return shorter, shorter, None
    longer = common[common.index(shorter) + 1]
    above, below = math.log(lsh[shorter] / exact[shorter]), math.log(lsh[longer] / exact[longer])
    return shorter * (longer / shorter) ** (above / (above - below)), shorter, longer


def crossing_words(exact, lsh):
    if not exact.keys() & lsh.keys():
        return "not measured"
    tokens, shorter, longer = crossing(exact, lsh)
    if shorter is None:
        return f"below {longer} tokens"
    if longer is None:
        return f"beyond {shorter} tokens"
    return f"about {float(f'{tokens:.2g}'):.0f} tokens"


def crossovers(lines):
    """Head and rows: from how many tokens on LSH is faster."""
    runs = time_runs(lines)
    rows = []
    for head_dim, num_hashes in sorted({key[:2] for key in runs if key[1]}):
        words = [crossing_words(*(medians(runs.get((head_dim, each, backward), {})) for each in (0, num_hashes)))
                 for backward in (False, True)]
        rows.append((head_dim, num_hashes, *words))
    return ("head_dim", "LSH rounds", *(f"{each}: LSH is faster from" for each in PASSES)), rows


def crossover_sentences(lines):
    first = of(lines, "time")[0]["record"]["shapes"]["head_dim"]
    for head_dim, num_hashes, *words in crossovers(lines)[1]:
        for name, each in zip(PASSES, words):
            if head_dim == first and each != "not measured":
                place, _, tokens = each.partition(" ")
                yield {
                    "about": f"{name}: {name_of(num_hashes)}, overtakes exact attention at about {tokens}.",
                    "below": f"{name}: {name_of(num_hashes)}, is faster at every measured length, from {tokens} on.",
                    "beyond": f"{name}: {name_of(num_hashes)}, is slower at every measured length, up to {tokens}.",
                }[place]


def example(lines):
    """The command that made the input of a line, and its own."""
    shapes = lines[-1]["record"]["shapes"]
    numbers = shapes["seqlen_k"], shapes["num_heads"], shapes["head_dim"]
    return ["example_make_input normal_{}_{}_{}.safetensors {} {} {}".format(*numbers, *numbers), lines[-1]["command"]]


def commands_of(runs):
    """Of the last length that all cases have."""
    common = set.intersection(*({*case} for case in runs.values())) or {min(next(iter(runs.values())))}
    found = [example(case[max(common)]) for case in runs.values() if max(common) in case]
    return list(dict.fromkeys(command for each in found for command in each))


def length_axis(values):
    return log_axis("tokens", "{:.0f}".format, values, 2)


def panels_by_pass(title, runs, values_of, axis, extra=lambda case: []):
    """One panel a pass, with one curve a method; `extra` curves from the case with the most lengths."""
    all_rounds = sorted({num_hashes for num_hashes, _ in runs if num_hashes})
    curves = {backward: [] for backward in (False, True)}
    for (num_hashes, backward), case in sorted(runs.items()):
        points = [Point(tokens, value) for tokens, value in values_of(case).items()]
        colour, dashed = style_of(num_hashes, all_rounds)
        curves[backward].append(Curve(name_of(num_hashes), colour, points, dashed))
    for backward, drawn in curves.items():
        cases = [case for key, case in runs.items() if key[1] == backward]
        if cases:
            drawn += extra(max(cases, key=len))
    points = [point for drawn in curves.values() for curve in drawn for point in curve.points]
    across, up = length_axis([point.x for point in points]), axis([point.y for point in points])
    return [Panel(f"{title}, {name}", across, up, drawn) for name, drawn in zip(PASSES, curves.values()) if drawn]


def shape_words(lines):
    shapes = lines[0]["record"]["shapes"]
    return f"{shapes['num_heads']} heads, head_dim {shapes['head_dim']}, {lines[0]['record'].get('dtype', 'float32')}"


def time_figure(lines):
    runs = main_runs(lines)
    rows = []
    for (num_hashes, backward), case in sorted(runs.items()):
        for tokens, several in case.items():
            seconds = [seconds_of(line["record"]) for line in several]
            rows.append((PASSES[backward], name_of(num_hashes), tokens, duration(statistics.median(seconds)),
                         duration(min(seconds)), duration(max(seconds)), len(seconds)))
    caption = (f"Time of a call, causal, {shape_words(of(lines, 'time'))}, N(0, 1) inputs, separate query and key; median of "
               "up to three runs. Every run is a process of its own, as when the program is typed: short calls contain the "
               "start of the threads.")
    panels = panels_by_pass("time", runs, medians, lambda values: log_axis("time", duration, values))
    return Figure("time", "Time against length", caption, commands_of(runs), panels,
                  ("pass", "method", "tokens", "median", "least", "most", "runs"), rows)


def scores_bytes(record):
    shapes = record["shapes"]
    return 4 * shapes["num_heads"] * shapes["seqlen_q"] * shapes["seqlen_k"]


def memory_figure(lines):
    runs = main_runs(lines)

    def computed(case):
        records = [(tokens, several[0]["record"]) for tokens, several in case.items()]
        ends = [Point(tokens, record["input_bytes"] + record["output_bytes"]) for tokens, record in records]
        scores = [Point(tokens, scores_bytes(record)) for tokens, record in records]
        return [Curve("in- and outputs", COMPUTED, ends), Curve("scores, computed", COMPUTED, scores, True)]

    rows = []
    for (num_hashes, backward), case in sorted(runs.items()):
        for tokens, above in most_memory(case).items():
            record = case[tokens][0]["record"]
            rows.append((PASSES[backward], name_of(num_hashes), tokens, size(above),
                         size(record["input_bytes"] + record["output_bytes"]), size(scores_bytes(record))))
    caption = ("Peak memory above inputs and outputs, the program and its libraries included, of the same runs. The grey line is "
               "what inputs and outputs take. The dashed line is not measured: it is what the seqlen x seqlen "
               "scores of all heads would take in float32, which no method here forms.")
    panels = panels_by_pass("peak memory", runs, most_memory, lambda values: log_axis("memory", size, values, 2), computed)
    return Figure("memory", "Memory against length", caption, commands_of(runs), panels,
                  ("pass", "method", "tokens", "peak above in- and outputs", "in- and outputs", "scores, computed"), rows)


DTYPES = {"f32": ("exact, float32", 0, False), "f16": ("exact, float16", 0, True), "bf16": ("exact, bfloat16", 3, False)}


def error_figure(lines):
    exact, hashed = {}, {}
    for line in of(lines, "error"):
        exact.setdefault(line["record"]["dtype"], {})[line["record"]["seqlen_k"]] = line
    for line in of(lines, "recall"):
        hashed.setdefault(line["num_hashes"], {})[line["record"]["shapes"]["seqlen_k"]] = line
    all_rounds = sorted(hashed)
    errors, recall, rows, commands = [], [], [], []
    for dtype, case in exact.items():
        name, colour, dashed = DTYPES.get(dtype, (f"exact, {dtype}", 3, True))
        values = [(tokens, case[tokens]["record"]["output_rel_l2"]) for tokens in sorted(case)]
        errors.append(Curve(name, colour, [Point(*each) for each in values], dashed))
        rows += [(name, tokens, f"{value:.2g}", "") for tokens, value in values]
        commands.append(case[max(case)]["command"])
    for num_hashes, case in sorted(hashed.items()):
        found = [(tokens, case[tokens]["record"]["diagnosis"]) for tokens in sorted(case)]
        for figure, curves in (("output_error", errors), ("recalled_mass", recall)):
            points = [Point(tokens, *(each[figure][end] for end in ("value", "low", "high"))) for tokens, each in found]
            colour, dashed = style_of(num_hashes, all_rounds)
            curves.append(Curve(name_of(num_hashes), colour, points, dashed))
        rows += [(name_of(num_hashes), tokens, "{value:.2g} ({low:.2g} to {high:.2g})".format(**each["output_error"]),
                  lsh_quality.percent(each["recalled_mass"])) for tokens, each in found]
        commands += example([case[max(case)]])
    points = [point for curve in errors for point in curve.points]
    across = length_axis([point.x for point in points])
    panels = [Panel("relative L2 error of the output", across,
                    log_axis("relative L2", "{:.2g}".format, [point.y for point in points]), errors)]
    if recall:
        panels.append(Panel("share of exact attention that LSH finds", across,
                            linear_axis("share", lambda share: f"{100 * share:.3g} %", (0, .25, .5, .75, 1)), recall))
    caption = ("Exact attention against float64, sampled queries of one head that see all keys: rounding alone. LSH, causal, "
               "against exact attention: what it leaves out, with 95 % intervals. N(0, 1) inputs are hard for hashing, since "
               "every key matters nearly as much as the next; the figure by rounds has a trained model beside them.")
    return Figure("error", "Error against length", caption, list(dict.fromkeys(commands)), panels,
                  ("method", "tokens", "relative L2 error", "share found"), rows)


def rounds_figure(lines):
    runs = of(lines, "rounds")
    found = lsh_quality.diagnoses(runs)
    caption = ("Causal LSH attention by the number of rounds, 95 % intervals: a trained model's layer and N(0, 1) vectors of the "
               "same shape. Left: how much of the weights of exact attention is on pairs that were found; dashed: what as many "
               "pairs would hold by chance. Right: the error; dashed: with every find of a pair counted.")
    return Figure("rounds", "LSH by rounds", caption, [runs[-1]["command"]], lsh_quality.panels(found),
                  *lsh_quality.table(found))


MAKERS = {"Time against length": (time_figure, "time"), "Memory against length": (memory_figure, "time"),
          "Error against length": (error_figure, "error"), "LSH by rounds": (rounds_figure, "rounds")}


def figures(lines):
    """Those that the records hold, and the headings of the others."""
    present = {line["figure"] for line in lines}
    return ([maker(lines) for maker, needs in MAKERS.values() if needs in present],
            [heading for heading, (_, needs) in MAKERS.items() if needs not in present])


def machine(lines):
    """Words for version, processor, kernel and threads, as the records say."""
    records = [line["record"] for line in lines if "record" in line]

    def all_of(name):
        return ", ".join(sorted({str(record[name]) for record in records if name in record})) or "not recorded"

    return (f"longspan {all_of('version')}; processor {all_of('cpu')}; kernel {all_of('kernel')}; "
            f"threads {all_of('threads')}")


def times_table(lines):
    """Head and rows: time and memory of the methods by length, for the document."""
    runs = main_runs(lines)
    all_rounds = sorted({num_hashes for num_hashes, _ in runs})
    rows = []
    for tokens in sorted({tokens for case in runs.values() for tokens in case}):
        cells = []
        for num_hashes in all_rounds:
            times = [medians(runs.get((num_hashes, backward), {})).get(tokens) for backward in (False, True)]
            memory = [most_memory(runs.get((num_hashes, backward), {})).get(tokens) for backward in (False, True)]
            cells.append("; ".join(" / ".join(words(each) if each else "not measured" for each in values)
                                   for words, values in ((duration, times), (size, memory))))
        rows.append((tokens, *cells))
    return ("tokens", *map(name_of, all_rounds)), rows
