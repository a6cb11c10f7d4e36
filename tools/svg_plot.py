# SPDX-License-Identifier: Apache-2.0
# Part of longspan. See LICENSE.
#
# The plots of tools/: panels of curves over one axis each, as SVG text. The same numbers give the same bytes.
"""log_axis, linear_axis -> Axis; Panel(title, x, y, curves); inline(panel) for a page, picture(panels) for a file."""

import math
import re
from html import escape
from typing import Callable, NamedTuple

WIDTH, HEIGHT = 400, 300  # of a panel: at 360 pixels the text is still larger than 10
LEFT, RIGHT, TOP, BOTTOM = 62, 118, 40, 46
LABEL_GAP = 15

# Blue, vermilion, green, purple (told apart by the colour-blind; markers differ, too), grey for what is not measured.
LIGHT = {"text": "#24292f", "tick": "#57606a", "grid": "#d8dee4", "ground": "#ffffff",
         "c0": "#0b62c4", "c1": "#b84a00", "c2": "#00785a", "c3": "#8a3f8f", "c4": "#6a737d"}
DARK = {"text": "#e6edf3", "tick": "#9da7b3", "grid": "#30363d", "ground": "#0d1117",
        "c0": "#6cb6ff", "c1": "#ff9d5c", "c2": "#4fd1a5", "c3": "#d8a1e0", "c4": "#9da7b3"}
COMPUTED = 4
MARKERS = ("m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", "m-4-4h8v8h-8z", "m0-5l5 9h-10z", "m0-5l5 5l-5 5l-5-5z", "m0 0")


class Point(NamedTuple):
    x: float
    y: float
    low: float | None = None  # of an interval
    high: float | None = None


class Curve(NamedTuple):
    label: str
    colour: int  # of MARKERS as well
    points: list
    dashed: bool = False


class Axis(NamedTuple):
    title: str
    text: Callable  # of a tick
    ticks: list
    low: float
    high: float
    log: bool

    def place(self, value):
        """0 at the low end to 1 at the high one; what lies beyond stands at the end."""
        if not self.log:
            share = (value - self.low) / (self.high - self.low)
        elif value > 0:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = 0
        return min(max(share, 0), 1)


class Panel(NamedTuple):
    title: str
    x: Axis
    y: Axis
    curves: list


def log_ticks(low, high, base, most=6):
    """Powers of the base, so many apart that there are few; 1, 2, 5, 10 where there are less than three powers of ten."""
    first, last = math.ceil(math.log(low, base) - 1e-9), math.floor(math.log(high, base) + 1e-9)
    if base == 10 and last - first < 2:
        found = [digit * 10.0 ** n for n in range(first - 1, last + 1) for digit in (1, 2, 5)]
        return [tick for tick in found if low * .999 <= tick <= high * 1.001]
    step = 1
    while last // step - -(-first // step) + 1 > most:
        step += 1
    return [float(base) ** n for n in range(first, last + 1) if n % step == 0]


def log_axis(title, text, values, base=10):
    """An axis that holds the positive ones of `values`."""
    values = [value for value in values if value > 0] or [1]
    low, high = min(values), max(values)
    if high < 2 * low:
        low, high = low / 2, high * 2
    margin = (high / low) ** .04
    return Axis(title, text, log_ticks(low, high, base), low / margin, high * margin, True)


def linear_axis(title, text, ticks):
    return Axis(title, text, ticks, ticks[0], ticks[-1], False)


def clean(text):
    """As XML has to have it: escaped, without control characters and lone surrogates."""
    return escape(re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", str(text)))


def spread(places, low, high):
    """Places of labels at least LABEL_GAP apart, between low and high if there is room."""
    order = sorted(range(len(places)), key=lambda n: places[n])
    moved, least = list(places), low
    for n in order:
        moved[n] = max(places[n], least)
        least = moved[n] + LABEL_GAP
    most = high
    for n in reversed(order):
        moved[n] = min(moved[n], most)
        most = moved[n] - LABEL_GAP
    return moved


def elements(panel):
    """The panel at (0, 0), as lines of SVG."""
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x_of(value):
        return LEFT + width * panel.x.place(value)

    def y_of(value):
        return TOP + height * (1 - panel.y.place(value))

    lines = [f'<text class="title" x="{LEFT}" y="20">{clean(panel.title)}</text>']
    for tick in panel.y.ticks:
        y = y_of(tick)
        lines += [f'<path class="grid" d="M{LEFT} {y:.1f}h{width}"/>',
                  f'<text class="tick y" x="{LEFT - 7}" y="{y + 4:.1f}">{clean(panel.y.text(tick))}</text>']
    lines.append(f'<path class="grid" d="M{LEFT} {TOP + height}h{width}"/>')
    for tick in panel.x.ticks:
        x = x_of(tick)
        lines += [f'<path class="grid" d="M{x:.1f} {TOP + height}v5"/>',
                  f'<text class="tick x" x="{x:.1f}" y="{TOP + height + 19}">{clean(panel.x.text(tick))}</text>']
    lines.append(f'<text class="tick x" x="{LEFT + width / 2}" y="{HEIGHT - 7}">{clean(panel.x.title)}</text>')

    curves = [curve for curve in panel.curves if curve.points]
    for curve in curves:
        style = f"c{curve.colour}" + (" dashed" if curve.dashed else "")
        places = [(x_of(point.x), y_of(point.y)) for point in curve.points]
        lines.append(f'<polyline class="{style}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>')
        if curve.colour == COMPUTED:
            continue
        for (x, y), point in zip(places, curve.points):
            if point.low is not None:
                lines.append(f'<path class="{style} interval" d="M{x:.1f} {y_of(point.low):.1f}V{y_of(point.high):.1f}"/>')
            about = f"{curve.label}: {panel.x.text(point.x)} {panel.x.title}, {panel.y.text(point.y)}"
            lines.append(f'<path class="{style} point" d="M{x:.1f} {y:.1f}{MARKERS[curve.colour]}">'
                         f"<title>{clean(about)}</title></path>")
    last = max((point.x for curve in curves for point in curve.points), default=0)
    whole = [curve for curve in curves if curve.points[-1].x == last]
    for curve, y in zip(whole, spread([y_of(curve.points[-1].y) for curve in whole], TOP, TOP + height)):
        lines.append(f'<text class="label c{curve.colour}" x="{x_of(last) + 9:.1f}" y="{y + 4:.1f}">{clean(curve.label)}</text>')
    for curve in curves:
        end = curve.points[-1]
        if curve in whole:
            continue
        # It ends before others: its label stands above its end, or below it when it is the lowest there.
        lowest = all(point.y > end.y for each in curves for point in each.points if point.x == end.x and each is not curve)
        lines.append(f'<text class="label x c{curve.colour}" x="{x_of(end.x):.1f}" '
                     f'y="{y_of(end.y) + (18 if lowest else -9):.1f}">{clean(curve.label)}</text>')
    return lines


def style(colours):
    """The rules of the plots in these colours."""
    each = "".join(f".plot .c{n} {{ stroke: {colours[f'c{n}']}; fill: {colours[f'c{n}']} }}\n" for n in range(len(MARKERS)))
    return (f".plot text {{ font: 13px sans-serif; fill: {colours['text']} }} .plot .title {{ font-weight: bold }}\n"
            f".plot .tick {{ font-size: 12px; fill: {colours['tick']} }} .plot .x {{ text-anchor: middle }}\n"
            f".plot .y {{ text-anchor: end }} .plot .grid {{ stroke: {colours['grid']} }}\n"
            f"{each}.plot polyline {{ stroke-width: 2; fill: none !important }} .plot .dashed {{ stroke-dasharray: 5 4 }}\n"
            f".plot path.dashed {{ stroke-dasharray: none; fill: {colours['ground']} }} .plot .label {{ stroke: none }}\n")


def inline(panel):
    """For a page that has `style` in its style sheet."""
    return (f'<svg class="plot" xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {WIDTH} {HEIGHT}">\n'
            f"<title>{clean(panel.title)}</title>\n" + "\n".join(elements(panel)) + "\n</svg>\n")


def picture(panels):
    """A file: the panels side by side on white ground."""
    width = WIDTH * len(panels)
    body = "\n".join(f'<g transform="translate({WIDTH * n})">\n' + "\n".join(elements(panel)) + "\n</g>"
                     for n, panel in enumerate(panels))
    return (f'<svg class="plot" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" '
            f'height="{HEIGHT}">\n<style>\n{style(LIGHT)}</style>\n'
            f'<rect width="{width}" height="{HEIGHT}" fill="{LIGHT["ground"]}"/>\n{body}\n</svg>\n')
