"""Small inline SVG charts for the report: numbers in, escaped markup out. No script, no request, no plot library.

Colours are CSS classes of the page, so one chart serves light, dark and paper. Values that are not finite are
left out; an empty chart says so in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from flawforge_runtime.calibrate import percent

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 54, 20, 34, 40


@dataclass(frozen=True)
class Axis:
    """Values to pixels: linear, or logarithmic for positive values over several decades."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self._bend(self.low), self._bend(self.high)
        share = (self._bend(max(value, self.low) if self.log else value) - low) / (high - low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def _bend(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def ticks(self) -> list[float]:
        """About five round values inside the axis."""
        if self.log:
            decades = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            whole = [10.0**d for d in decades]
            if len(whole) >= 3:
                return whole[:: math.ceil(len(whole) / 6)]
            fine = [m * 10.0**d for d in range(decades.start - 1, decades.stop + 1) for m in (1, 2, 5)]
            return [v for v in fine if self.low <= v <= self.high]
        raw = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def axis(values: Sequence[float], start: float, end: float) -> Axis:
    """An axis that holds all `values`: logarithmic where all are positive and span a factor of 15 or more."""
    low, high = min(values), max(values)
    if low > 0 and high / low >= 15:
        return Axis(low / 1.15, high * 1.15, start, end, log=True)
    room = 0.04 * (high - low) or 0.05 * abs(high) or 0.5
    return Axis(low - room, high + room, start, end)


def histogram(good: Sequence[float], defective: Sequence[float], lines: Sequence[tuple[float, str, str]]) -> Markup:
    """Scores of good parts above the line and of defective ones below it, over one axis; a higher score is stranger.

    lines  (value, label, CSS class) drawn from top to bottom, such as thresholds
    """
    good, defective = finite(good), finite(defective)
    lines = [line for line in lines if math.isfinite(line[0])]
    if not good and not defective:
        return _nothing("no scores")
    x = axis([*good, *defective, *(value for value, _, _ in lines)], LEFT, WIDTH - RIGHT)
    bins = 40
    width = (x.end - x.start) / bins
    counts = [[0] * bins, [0] * bins]
    for row, values in zip(counts, (good, defective), strict=True):
        for value in values:
            row[min(int((x(value) - x.start) / width), bins - 1)] += 1
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    half = (HEIGHT - TOP - BOTTOM) / 2 - 6
    most = max(max(counts[0]), max(counts[1]), 1)
    parts = [_grid_x(x, "score (a higher score is stranger)")]
    parts.append(_line(LEFT, middle, WIDTH - RIGHT, middle, "axis"))
    for row, css, sign in ((counts[0], "good", -1), (counts[1], "bad", 1)):
        for i, count in enumerate(row):
            if count:
                tall = max(half * count / most, 2.0)  # one picture stays visible beside hundreds
                y = middle - tall if sign < 0 else middle
                tip = Markup("<title>{}</title>").format(f"{count} {'good' if sign < 0 else 'defective'}")
                parts.append(
                    Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}">{}</rect>').format(
                        css, _n(x.start + i * width + 0.5), _n(y), _n(width - 1), _n(tall), tip
                    )
                )
    parts.append(_text(LEFT - 6, middle - half / 2, "good", "end label good-text"))
    parts.append(_text(LEFT - 6, middle + half / 2, "defect", "end label bad-text"))
    for i, (value, label, css) in enumerate(sorted(lines)):
        at, top = x(value), TOP - 22 + 14 * i  # labels at steps, so that close thresholds stay readable
        parts.append(_line(at, top - 8, at, HEIGHT - BOTTOM, f"mark {css}"))
        end = "end" if at > WIDTH - RIGHT - 60 else ""
        parts.append(_text(at + (-4 if end else 4), top, label, f"label {css} {end}"))
    return _svg(parts, "Scores of good and defective pictures")


def trade_off(good: Sequence[float], defective: Sequence[float], threshold: float | None) -> Markup:
    """Share of defects not rejected against share of good parts rejected, over all thresholds; the one in use is marked."""
    good, defective = finite(good), finite(defective)
    if not good or not defective:
        return _nothing("good and defective pictures are both needed")
    x, y = Axis(0, 1, LEFT, WIDTH - RIGHT), Axis(0, 1, HEIGHT - BOTTOM, TOP)
    parts = [_grid_x(x, "good parts rejected", percent), _grid_y(y, percent)]
    parts.append(_text(LEFT, TOP - 12, "defects not rejected", "label"))
    points: list[tuple[float, float]] = []
    for cut in sorted({*good, *defective, min(*good, *defective) - 1}):
        point = (share_above(good, cut), 1 - share_above(defective, cut))
        if points:  # a step, never a slope: rates change at single pictures
            points.append((point[0], points[-1][1]))
        points.append(point)
    parts.append(_polyline([(x(a), y(b)) for a, b in points], "curve"))
    if threshold is not None and math.isfinite(threshold):
        a, b = share_above(good, threshold), 1 - share_above(defective, threshold)
        parts.append(Markup('<circle class="point" cx="{}" cy="{}" r="5"/>').format(_n(x(a)), _n(y(b))))
        side = "end" if a > 0.6 else ""
        at = x(a) + (-10 if side else 10)
        words = f"in use: {percent(a)} / {percent(b)}"
        parts.append(_text(at, y(b) - 10 if b < 0.9 else y(b) + 18, words, f"label strong {side}"))
    return _svg(parts, "Defects not rejected against good parts rejected")


def training_curves(history: Sequence[Mapping[str, object]]) -> Markup:
    """Losses by name over the steps of a fit; history rows are {"step": n, "losses": {name: value}}."""
    series: dict[str, list[tuple[float, float]]] = {}
    staged = len({str(row.get("stage")) for row in history}) > 1
    for row in history:
        losses, step = row.get("losses"), row.get("step")
        if not isinstance(losses, Mapping) or not isinstance(step, int | float):
            continue
        for name, value in losses.items():
            if isinstance(value, int | float) and math.isfinite(value):
                label = f"{row.get('stage')}: {name}" if staged else str(name)
                series.setdefault(label, []).append((float(step), float(value)))
    if not series:
        return _nothing("no losses were recorded")
    everything = [point for points in series.values() for point in points]
    x = Axis(0, max(1, *(s for s, _ in everything)), LEFT, WIDTH - RIGHT)
    y = axis([v for _, v in everything], HEIGHT - BOTTOM, TOP)
    parts = [_grid_x(x, "step"), _grid_y(y)]
    for i, (name, points) in enumerate(series.items()):
        kept = points[:: max(1, len(points) // 300)]
        parts.append(_polyline([(x(a), y(b)) for a, b in kept], f"curve series{i % 5}"))
        parts.append(_text(WIDTH - RIGHT - 4, TOP + 10 + 15 * i, name, f"label end series-text{i % 5}"))
    return _svg(parts, "Training losses over the steps")


def pod_curves(curves: Sequence[Mapping[str, Any]]) -> Markup:
    """POD against size for one kind of defect, a line with its band per contrast; dots are counts by size.

    curves  rows of `flawforge pod --json`. The dashed line is POD 0.9; a tick on the axis marks each a90/95.
    """
    curves = [curve for curve in curves if curve["points"]]
    if not curves:
        return _nothing("none could be forged")
    sizes = [point[0] for curve in curves for point in (curve["points"][0], curve["points"][-1])]
    low, high = min(sizes), max(sizes)
    x, y = Axis(low / 1.05, high * 1.05, LEFT, WIDTH - RIGHT, log=True), Axis(0, 1, HEIGHT - BOTTOM, TOP + 14)
    parts = [_grid_x(x, f"size, {curves[0]['unit']} (largest extent)"), _grid_y(y, percent)]
    parts.append(_line(LEFT, y(0.9), WIDTH - RIGHT, y(0.9), "mark axis"))
    for i, curve in enumerate(curves):
        there = [(x(a), y(low)) for a, _, low, _ in curve["points"]]
        back = [(x(a), y(high)) for a, _, _, high in reversed(curve["points"])]
        corners = " ".join(f"{_n(a)},{_n(b)}" for a, b in (*there, *back))
        parts.append(Markup('<polygon class="band series-fill{}" points="{}"/>').format(i % 5, corners))
    for i, curve in enumerate(curves):
        parts.append(_polyline([(x(a), y(p)) for a, p, _, _ in curve["points"]], f"curve series{i % 5}"))
        for start, end, hits, of, *_ in curve["bins"]:
            dot = Markup('<circle class="series-fill{}" cx="{}" cy="{}" r="3.2"><title>{}</title></circle>')
            tip = f"{hits} of {of} found, {_number(start)} to {_number(end)}"
            parts.append(dot.format(i % 5, _n(x(math.sqrt(start * end))), _n(y(hits / of)), tip))
        bound = curve["a90_95"]
        if bound is not None:
            parts.append(_line(x(bound), y(0.9), x(bound), HEIGHT - BOTTOM, f"mark series{i % 5}"))
        words = "not reached" if bound is None else f"{_number(math.ceil(bound * 10) / 10)} {curve['unit']}"
        label = f"contrast {curve['contrast']:g}: a90/95 {words}"
        parts.append(_text(LEFT + 2, TOP - 20 + 17 * i, label, f"label strong series-text{i % 5}"))
    return _svg(parts, f"Probability of detection of forged {curves[0]['kind']} defects by size")


def evidence(wealth: Sequence[float], level: float) -> Markup:
    """Evidence of drift (a bettor's wealth) over the parts in use, on a logarithmic axis, and the level of the alarm."""
    values = [max(value, 1e-3) for value in finite(wealth)]
    if len(values) < 2:
        return _nothing("no parts in use")
    x = Axis(0, len(values) - 1, LEFT, WIDTH - RIGHT)
    y = Axis(min(0.1, *values), max(2 * level, *values), HEIGHT - BOTTOM, TOP, log=True)
    parts = [_grid_x(x, "parts in use"), _grid_y(y), _line(LEFT, y(level), WIDTH - RIGHT, y(level), "mark ng")]
    parts.append(_text(LEFT + 4, y(level) - 5, "alarm", "label ng"))
    kept = list(enumerate(values))[:: max(1, len(values) // 400)]
    parts.append(_polyline([(x(i), y(v)) for i, v in kept], "curve"))
    return _svg(parts, "Evidence of drift over the parts in use")


def whisker(value: float | None, low: float | None, high: float | None) -> Markup:
    """A value in [0, 1] as a dot, its interval as a bar."""
    if value is None or not math.isfinite(value):
        return Markup("")
    x = Axis(0, 1, 4, 116)
    parts = [_line(4, 8, 116, 8, "grid")]
    if low is not None and high is not None:
        bar = Markup('<rect class="whisker" x="{}" y="5" width="{}" height="6" rx="3"/>')
        parts.append(bar.format(_n(x(low)), _n(max(x(high) - x(low), 1.5))))
    parts.append(Markup('<circle class="dot" cx="{}" cy="8" r="4"/>').format(_n(x(value))))
    return Markup('<svg class="whisk" viewBox="0 0 120 16" aria-hidden="true">{}</svg>').format(Markup("").join(parts))


def share_above(values: Sequence[float], cut: float) -> float:
    """Share of values above `cut`; 0 for no values."""
    return sum(value > cut for value in values) / len(values) if values else 0.0


def finite(values: Iterable[float | None]) -> list[float]:
    """The values that are finite numbers."""
    return [float(value) for value in values if value is not None and math.isfinite(value)]


def _grid_x(x: Axis, title: str, words: Callable[[float], str] | None = None) -> Markup:
    parts = [_line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "axis")]
    for tick in x.ticks():
        parts.append(_line(x(tick), TOP, x(tick), HEIGHT - BOTTOM, "grid"))
        parts.append(_text(x(tick), HEIGHT - BOTTOM + 14, (words or _number)(tick), "middle tick"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, title, "middle label"))
    return Markup("").join(parts)


def _grid_y(y: Axis, words: Callable[[float], str] | None = None) -> Markup:
    parts = []
    for tick in y.ticks():
        parts.append(_line(LEFT, y(tick), WIDTH - RIGHT, y(tick), "grid"))
        parts.append(_text(LEFT - 5, y(tick) + 4, (words or _number)(tick), "end tick"))
    return Markup("").join(parts)


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1e5 else f"{value:.0e}"


def _n(value: float) -> str:
    return f"{value:.1f}"


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    markup = Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>')
    return markup.format(css, _n(x1), _n(y1), _n(x2), _n(y2))


def _polyline(points: Sequence[tuple[float, float]], css: str) -> Markup:
    return Markup('<polyline class="{}" points="{}"/>').format(css, " ".join(f"{_n(a)},{_n(b)}" for a, b in points))


def _text(x: float, y: float, words: str, css: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(css, _n(x), _n(y), words)


def _svg(parts: Sequence[Markup], title: str) -> Markup:
    head = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">')
    return head.format(WIDTH, HEIGHT, title) + Markup("").join(parts) + Markup("</svg>")


def _nothing(why: str) -> Markup:
    return Markup('<p class="absent">Nothing to draw: ') + escape(why) + Markup(".</p>")
