"""Small inline SVG charts for the report: numbers in, escaped markup out. No request, no plot library.

Colours are CSS classes of the page, so one chart serves light, dark and paper; lines also differ in their dashes, for the
colour-blind. Values that are not finite are left out; an empty chart says so in words.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from flawforge_runtime.drawing import AT_THRESHOLD, OPAQUE
from flawforge_runtime.rates import percent

WIDTH, HEIGHT = 460, 250
LABELS, BAR = 78, 400  # where the axis of `rate_bar` starts, and its width
RAMP = (  # inferno, evenly spaced
    *((0, 0, 4), (22, 11, 57), (66, 10, 104), (106, 23, 110), (147, 38, 103), (188, 55, 84)),
    *((221, 81, 58), (243, 120, 25), (252, 165, 10), (246, 215, 70), (252, 255, 164)),
)
NOT_SHOWN, ALL_FOUND = "not shown", "all found"  # instead of a size
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 34, 42


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


def score_axis(good: Sequence[float], defective: Sequence[float], lines: Sequence[tuple[float, str, str]]) -> Axis | None:
    """The score axis of `histogram`; None where no value is finite."""
    values = finite([*good, *defective])
    return axis([*values, *finite(value for value, _, _ in lines)], LEFT, WIDTH - RIGHT) if values else None


def histogram(good: Sequence[float], defective: Sequence[float], lines: Sequence[tuple[float, str, str]]) -> Markup:
    """Counts by score over one axis: good parts, and, where there are any, defective ones below the line.

    lines  (value, label, CSS class) drawn from top to bottom, such as thresholds; a class "movable" is for the slider
    """
    good, defective = finite(good), finite(defective)
    lines = [line for line in lines if math.isfinite(line[0])]
    x = score_axis(good, defective, lines)
    if x is None:
        return _nothing("no scores")
    bins = 40
    width = (x.end - x.start) / bins
    counts = [[0] * bins, [0] * bins]
    for row, values in zip(counts, (good, defective), strict=True):
        for value in values:
            row[min(int((x(value) - x.start) / width), bins - 1)] += 1
    tall = HEIGHT - TOP - BOTTOM
    middle = TOP + tall / 2 if good and defective else TOP if defective else TOP + tall
    half = (tall / 2 if good and defective else tall) - 6
    most = max(max(counts[0]), max(counts[1]), 1)
    parts = [_grid_x(x, "score (higher = more anomalous)")]
    for count in sorted({most, most // 2} - {0}):
        for sign in [sign for sign, values in ((-1, good), (1, defective)) if values]:
            y = middle + sign * half * count / most
            parts.append(_line(LEFT, y, WIDTH - RIGHT, y, "grid"))
            parts.append(_text(LEFT - 5, y + 4, str(count), "end tick"))
    parts.append(_line(LEFT, middle, WIDTH - RIGHT, middle, "axis"))
    for row, css, sign in ((counts[0], "good", -1), (counts[1], "bad", 1)):
        for i, count in enumerate(row):
            if count:
                high = max(half * count / most, 2.0)  # one picture stays visible beside hundreds
                y = middle - high if sign < 0 else middle
                tip = Markup("<title>{}</title>").format(f"{count} {'good' if sign < 0 else 'defective'}")
                parts.append(
                    Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}">{}</rect>').format(
                        css, _n(x.start + i * width + 0.5), _n(y), _n(width - 1), _n(high), tip
                    )
                )
    if good:
        parts.append(_title_y("good", middle - half / 2, "good-text"))
    if defective:
        parts.append(_title_y("defective", middle + half / 2, "bad-text"))
    parts.append(_text(LEFT - 5, TOP - 12, "pictures", "end tick"))
    for i, (value, label, css) in enumerate(sorted(lines)):
        at, top = x(value), TOP - 22 + 14 * i  # labels at steps, so that close thresholds stay readable
        parts.append(_line(at, top - 8, at, HEIGHT - BOTTOM, f"mark {css}"))
        end = "end" if at > WIDTH - RIGHT - 60 else ""
        parts.append(_text(at + (-4 if end else 4), top, label, f"label {css} {end}"))
    return _svg(parts, "Pictures by score")


def trade_axes(good: Sequence[float], defective: Sequence[float], threshold: float | None) -> tuple[Axis, Axis]:
    """The axes of `trade_off`: from 0 to the first of 20, 50, 100 % with room around the threshold in use."""
    cut = math.inf if threshold is None else threshold
    shares = share_above(good, cut), 1 - share_above(defective, cut)
    x, y = (next(high for high in (0.2, 0.5, 1.0) if 1.25 * share <= high or high == 1.0) for share in shares)
    return Axis(0, x, LEFT, WIDTH - RIGHT), Axis(0, y, HEIGHT - BOTTOM, TOP)


def trade_off(good: Sequence[float], defective: Sequence[float], threshold: float | None) -> Markup:
    """Share of defects not rejected against share of good parts rejected, over all thresholds; the one in use is marked."""
    good, defective = finite(good), finite(defective)
    if not good or not defective:
        return _nothing("good and defective pictures are both needed")
    x, y = trade_axes(good, defective, threshold)
    parts = [_grid_x(x, "good pictures rejected", percent), _grid_y(y, percent, "defects not rejected")]
    points: list[tuple[float, float]] = []
    for cut in sorted({*good, *defective, min(*good, *defective) - 1}, reverse=True):
        point = (share_above(good, cut), 1 - share_above(defective, cut))
        if points:  # a step, never a slope: rates change at single pictures
            points.append((point[0], points[-1][1]))
        points.append(point)
    inside = [i for i, (a, b) in enumerate(points) if a <= x.high and b <= y.high]
    if inside:
        shown = points[max(inside[0] - 1, 0) : inside[-1] + 2]  # steps across the edge are cut there
        parts.append(_polyline([(x(a), y(b)) for a, b in shown], "curve"))
    if threshold is not None and math.isfinite(threshold):
        a, b = share_above(good, threshold), 1 - share_above(defective, threshold)
        parts.append(Markup('<circle class="point movable" cx="{}" cy="{}" r="5"/>').format(_n(x(a)), _n(y(b))))
        side = "end" if a > 0.6 * x.high else ""
        at = x(a) + (-10 if side else 10)
        words = f"in use: {percent(a)} / {percent(b)}"
        parts.append(_text(at, y(b) + (18 if y(b) < TOP + 30 else -10), words, f"label strong {side}"))
    return _svg(parts, "Defects not rejected against good pictures rejected")


def raised(rows: Sequence[Mapping[str, Any]]) -> str:
    """A sentence below a histogram of scores that are not all the network's own, for many are equal; "" where all are."""
    count = sum(row.get("valid") is False for row in rows)
    if not count:
        return ""
    pictures = "1 picture is" if count == 1 else f"{count} pictures are"
    return (
        f"{pictures} unlike every good picture and therefore NG, with a score that is raised above those of all "
        "calibration pictures; many can share it."
    )


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
    parts = [_grid_x(x, "training step"), _grid_y(y, title="loss")]
    for i, (name, points) in enumerate(series.items()):
        drawn = points[:: max(1, len(points) // 300)]
        parts.append(_polyline([(x(a), y(b)) for a, b in drawn], f"curve series{i % 5}"))
        parts.append(_text(WIDTH - RIGHT - 4, TOP + 10 + 15 * i, name, f"label end series-text{i % 5}"))
    return _svg(parts, "Training losses over the steps")


def pod_curves(curves: Sequence[Mapping[str, Any]]) -> Markup:
    """Probability of detection against size for one kind of defect: a line per contrast, solid, then dashed, then dotted.

    curves  rows of `flawforge pod --json`. The band is the 95 % bound of the first line, thin lines those of the others;
            dots are counts by size; a line down to the axis marks each a90/95. The grey dashed line is 90 %.
    """
    curves = [curve for curve in curves if curve["points"]]
    if not curves:
        return _nothing("no defect of this kind could be drawn")
    unit = curves[0]["unit"]
    sizes = [point[0] for curve in curves for point in (curve["points"][0], curve["points"][-1])]
    low, high = min(sizes), max(sizes)
    x, y = Axis(low / 1.05, high * 1.05, LEFT, WIDTH - RIGHT, log=True), Axis(0, 1, HEIGHT - BOTTOM, TOP)
    parts = [_grid_x(x, f"defect size, {unit} (largest extent)"), _grid_y(y, percent, "found")]
    parts.append(_line(LEFT, y(0.9), WIDTH - RIGHT, y(0.9), "mark axis"))
    for i, curve in enumerate(curves):
        there = [(x(a), y(low)) for a, _, low, _ in curve["points"]]
        back = [(x(a), y(high)) for a, _, _, high in reversed(curve["points"])]
        if i == 0:
            corners = " ".join(f"{_n(a)},{_n(b)}" for a, b in (*there, *back))
            parts.append(Markup('<polygon class="band series-fill0" points="{}"/>').format(corners))
        else:
            parts += [_polyline(bound, f"bound series{i % 5}") for bound in (there, back)]
    for i, curve in enumerate(curves):
        parts.append(_polyline([(x(a), y(p)) for a, p, _, _ in curve["points"]], f"curve dash{i % 3} series{i % 5}"))
        for start, end, hits, of, *_ in curve["bins"]:
            dot = Markup('<circle class="series-fill{}" cx="{}" cy="{}" r="3.2"><title>{}</title></circle>')
            tip = f"{hits} of {of} found, {_number(start)} to {_number(end)}"
            parts.append(dot.format(i % 5, _n(x(math.sqrt(start * end))), _n(y(hits / of)), tip))
        if curve["a90_95"] is not None:
            at = x(curve["a90_95"])
            parts.append(_line(at, y(0.9), at, HEIGHT - BOTTOM, f"curve dash{i % 3} series{i % 5}"))
    sizes = [size_of(curve, "a90_95") for curve in curves]
    words = ", ".join(f"{text} ({percent(curve['contrast'])})" for text, curve in zip(sizes, curves, strict=True))
    words = NOT_SHOWN if set(sizes) == {NOT_SHOWN} else words
    parts.append(_text(LEFT + 2, TOP - 12, f"a90/95: {words}", "label strong"))
    return _svg(parts, f"Probability of detection of synthetic {curves[0]['kind']} defects by size")


def size(value: float | None, unit: str) -> str:
    """15.2 -> "16 px", 0.761 -> "0.77 mm", None -> "not shown"; rounded up, for a bound is one."""
    if value is None:
        return NOT_SHOWN
    if unit == "px":
        return f"{math.ceil(value - 1e-9)} px"
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / step - 1e-9) * step:.2g} {unit}"


def size_of(curve: Mapping[str, Any], key: str) -> str:
    """`size` of this key of a row of `flawforge pod --json`; "all found" where there is none although none was missed."""
    missed_none = curve.get("n") and curve.get("hits") == curve["n"]
    return ALL_FOUND if curve[key] is None and missed_none else size(curve[key], curve["unit"])


def line_sample(index: int) -> Markup:
    """A short line in the style of the index-th curve of `pod_curves`, for a legend."""
    line = _line(1, 8, 33, 8, f"curve dash{index % 3} series{index % 5}")
    return Markup('<svg class="chart sample" viewBox="0 0 34 16" aria-hidden="true">{}</svg>').format(line)


def size_dot(share: float) -> Markup:
    """A frame that stands for the whole picture, and in it a dot whose diameter is this share of the frame's side."""
    radius = min(max(22 * share, 0.6), 22.0)
    markup = '<svg class="chart dot" viewBox="0 0 46 46" aria-hidden="true"><rect class="frame" x="1" y="1" width="44" '
    markup += 'height="44"/><circle class="bad" cx="23" cy="23" r="{}"/></svg>'
    return Markup(markup).format(_n(radius))


def evidence(wealth: Sequence[float], level: float) -> Markup:
    """Evidence of drift (a bettor's wealth) over the production parts, on a logarithmic axis, and the alarm level."""
    values = [max(value, 1e-3) for value in finite(wealth)]
    if len(values) < 2:
        return _nothing("no production parts")
    x = Axis(0, len(values) - 1, LEFT, WIDTH - RIGHT)
    y = Axis(min(0.1, *values), max(2 * level, *values), HEIGHT - BOTTOM, TOP, log=True)
    parts = [_grid_x(x, "production parts"), _grid_y(y, title="evidence of drift (1 = none)")]
    parts.append(_line(LEFT, y(level), WIDTH - RIGHT, y(level), "mark ng"))
    parts.append(_text(LEFT + 4, y(level) - 5, f"alarm at {_number(level)}", "label ng"))
    drawn = list(enumerate(values))[:: max(1, len(values) // 400)]
    parts.append(_polyline([(x(i), y(v)) for i, v in drawn], "curve"))
    return _svg(parts, "Evidence of drift over the production parts")


def rates_over_time(
    series: Sequence[tuple[str, Sequence[tuple[datetime.datetime, float]]]],
    promise: tuple[float, str] | None,
    title: str,
) -> Markup:
    """Shares in [0, 1] over time: a line with dots for each series, solid, then dashed; the promised share across.

    series   (name, [(time, share), ...]) each, the oldest point first
    promise  (share, label); None = no line
    """
    points = [point for _, some in series for point in some]
    if not points:
        return _nothing("no results")
    first, last = (edge(time.timestamp() for time, _ in points) for edge in (min, max))
    room = 0.03 * (last - first) or 1800.0  # one point lies in the middle
    x = Axis(first - room, last + room, LEFT, WIDTH - RIGHT)
    highest = max(*(share for _, share in points), promise[0] if promise else 0.0, 0.01)
    y = Axis(0, min(1.2 * highest, 1.0), HEIGHT - BOTTOM, TOP)
    parts = [_grid_y(y, percent), _line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "axis")]
    times = sorted({time for time, _ in points})
    form = "%d %b" if last - first > 2 * 86400 else "%d %b %H:%M"
    for time in times[:: max(1, math.ceil(len(times) / 4))]:
        local = time if last - first > 2 * 86400 else time.astimezone()
        parts.append(_text(x(time.timestamp()), HEIGHT - BOTTOM + 15, f"{local:{form}}", "middle tick"))
    if promise is not None:
        parts.append(_line(LEFT, y(promise[0]), WIDTH - RIGHT, y(promise[0]), "mark ng"))
        parts.append(_text(WIDTH - RIGHT, y(promise[0]) - 5, promise[1], "label ng end"))
    for i, (name, some) in enumerate(series):
        places = [(x(time.timestamp()), y(share)) for time, share in some]
        parts.append(_polyline(places, f"curve dash{i % 3} series{i % 5}"))
        for (time, share), (a, b) in zip(some, places, strict=True):
            tip = f"{name}: {percent(share)}, {time:%Y-%m-%d %H:%M} UTC"
            dot = Markup('<circle class="series-fill{}" cx="{}" cy="{}" r="3.2"><title>{}</title></circle>')
            parts.append(dot.format(i % 5, _n(a), _n(b), tip))
        parts.append(_line(8 + 175 * i, 10, 34 + 175 * i, 10, f"curve dash{i % 3} series{i % 5}"))
        parts.append(_text(40 + 175 * i, 14, name, f"label series-text{i % 5}"))
    return _svg(parts, title)


def rate_bar(
    expected: tuple[float, float] | None = None,
    measured: tuple[float, float, float] | None = None,
    accepted: float | None = None,
) -> Markup:
    """A rate as a bar: what is expected, what was measured and what is accepted, over one axis from 0.

    expected  (on average, bound): a bar up to the average, a lighter one up to the bound
    measured  (value, low, high): a dot with its 95 % interval
    accepted  a line
    """
    values = [*(expected or ()), *(measured or ()), *([accepted] if accepted is not None else [])]
    if not finite(values):
        return _nothing("nothing was measured")
    x = Axis(0, max(min(1.12 * max(finite(values)), 1.0), 0.01), LABELS, BAR - 14)
    rows = [name for name, values in (("expected", expected), ("measured", measured)) if values]
    bottom = 12 + 26 * len(rows)
    parts = [_line(LABELS, bottom, BAR - 14, bottom, "axis")]
    for tick in x.ticks():
        parts.append(_line(x(tick), 8, x(tick), bottom, "grid"))
        parts.append(_text(x(tick), bottom + 15, percent(tick), "middle tick"))
    for i, name in enumerate(rows):
        y = 24 + 26 * i
        parts.append(_text(LABELS - 6, y + 4, name, "end label"))
        if name == "expected" and expected:
            average, bound = (x(value) for value in expected)
            parts += [_bar(LABELS, y, bound, "whisker"), _bar(LABELS, y, average, "good")]
        elif measured:
            value, low, high = (x(one) for one in measured)
            parts += [
                _line(low, y, high, y, "interval"),
                *(_line(end, y - 5, end, y + 5, "interval") for end in (low, high)),
            ]
            parts.append(Markup('<circle class="dot" cx="{}" cy="{}" r="5"/>').format(_n(value), _n(y)))
    if accepted is not None:
        end = "end" if x(accepted) > BAR / 2 else ""
        parts.append(_line(x(accepted), 4, x(accepted), bottom, "mark ng"))
        parts.append(_text(x(accepted) + (-4 if end else 4), 11, f"accepted {percent(accepted)}", f"label ng {end}"))
    return _svg(parts, "Expected and measured rate", BAR, bottom + 22)


def colour_bar(low: float, limit: float) -> Markup:
    """The colours of the anomaly maps from the lowest value that is drawn to the brightest, with the limit marked."""
    x = Axis(low, low + (limit - low) / AT_THRESHOLD, 8, BAR - 8)
    steps = 60
    parts = []
    for i in range(steps):
        share = (i + 0.5) / steps
        cover = _n(100 * OPAQUE * min(share / AT_THRESHOLD, 1))
        place, width = _n(8 + i * (BAR - 16) / steps), _n((BAR - 16) / steps + 0.4)
        markup = Markup('<rect x="{}" y="18" width="{}" height="12" fill="{}" fill-opacity="{}%"/>')
        at = share * (len(RAMP) - 1)
        below, above = RAMP[int(at)], RAMP[min(int(at) + 1, len(RAMP) - 1)]
        mixed = (round(one + (at - int(at)) * (two - one)) for one, two in zip(below, above, strict=True))
        parts.append(markup.format(place, width, "#{:02x}{:02x}{:02x}".format(*mixed), cover))
    parts.append(_line(x(limit), 15, x(limit), 34, "axis"))
    parts.append(_text(x(limit), 13, f"limit {_number(limit)}: marked above", "middle label strong"))
    for value, css in ((x.low, "tick"), (x.high, "end tick")):
        parts.append(_text(x(value), 46, f"{_number(value)}{' or less: clear' if value == x.low else ' or more'}", css))
    return _svg(parts, "Colours of the anomaly maps", BAR, 52)


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
        parts.append(_text(x(tick), HEIGHT - BOTTOM + 15, (words or _number)(tick), "middle tick"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, title, "middle label"))
    return Markup("").join(parts)


def _grid_y(y: Axis, words: Callable[[float], str] | None = None, title: str = "") -> Markup:
    parts = [_title_y(title, (y.start + y.end) / 2)] if title else []
    for tick in y.ticks():
        parts.append(_line(LEFT, y(tick), WIDTH - RIGHT, y(tick), "grid"))
        parts.append(_text(LEFT - 5, y(tick) + 4, (words or _number)(tick), "end tick"))
    return Markup("").join(parts)


def _title_y(title: str, middle: float, css: str = "") -> Markup:
    """The title of an upright axis, read from below."""
    markup = Markup('<text class="middle label {}" x="12" y="{}" transform="rotate(-90 12 {})">{}</text>')
    return markup.format(css, _n(middle), _n(middle), title)


def _bar(left: float, middle: float, right: float, css: str) -> Markup:
    markup = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="12"/>')
    return markup.format(css, _n(left), _n(middle - 6), _n(max(right - left, 1.5)))


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


def _svg(parts: Sequence[Markup], title: str, width: int = WIDTH, height: int = HEIGHT) -> Markup:
    head = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">')
    return head.format(width, height, title) + Markup("").join(parts) + Markup("</svg>")


def _nothing(why: str) -> Markup:
    return Markup('<p class="absent">Nothing to draw: ') + escape(why) + Markup(".</p>")
