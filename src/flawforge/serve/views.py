"""What the templates show, put into words and charts: results, the history, the model."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup

from flawforge.reporting import charts, pod_words
from flawforge.reporting.good_sheet import FILE as SHEET
from flawforge.reporting.page import as_data_uri, gallery
from flawforge.reporting.report import report_facts
from flawforge.serve import judging, texts
from flawforge.serve.service import Service
from flawforge.serve.shelf import Served, manifest_hash
from flawforge.store import rates, reviews
from flawforge.store.kept import kept_path
from flawforge.store.verdicts import Filter, Verdict
from flawforge.types import FlawforgeError, Image
from flawforge_runtime.rates import percent, share_interval
from flawforge_runtime.types import p_words

LINE_DAYS = 7  # of the model page's look at the line
HOURLY = datetime.timedelta(days=3)  # a shorter time is drawn by the hour
FEW = 20  # random checks, below which no rate is stated
THUMBNAIL = 160  # pixels of a thumbnail's longest side


@dataclass(frozen=True)
class Detail:
    """One result as the page shows it.

    picture, heat  whether each can be fetched
    chance         the p-value in words
    chart          SVG: the score among the calibration scores, with both limits; "" where the model is not served
    n, of          calibration pictures (or parts) behind the chart
    facts          (name, text) of each detail
    file           the picture's name, where the part is called by its id
    places         of a defect that the newest review draws
    """

    verdict: Verdict
    review: reviews.Review | None
    name: str
    meaning: str
    picture: bool
    heat: bool
    chance: str
    chart: Markup | str
    n: int
    of: str
    facts: tuple[tuple[str, str], ...]
    file: str
    places: int

    @property
    def half(self) -> tuple[int, int]:
        """(width, height) in pixels of one of the two pictures of the overlay."""
        height, width = self.verdict.height, self.verdict.width
        factor = min(1.0, judging.LONGEST_SIDE / max(height, width))
        return max(1, round(width * factor)), max(1, round(height * factor))


def detail(service: Service, verdict: Verdict) -> Detail:
    """A result with all that is shown of it. Raises Unreachable."""
    served = service.shelf.with_manifest(verdict.manifest)
    calibration = served.inspector.calibration if served is not None else None
    picture = kept_path(service.store.files, verdict.kept) is not None
    heat = kept_path(service.store.files, verdict.overlay) is not None or (picture and served is not None)
    n, chart, of = 0, Markup(""), ""
    if calibration is not None:
        n, of = calibration.n, calibration.of
        lines = [(verdict.threshold, texts.VERDICTS["NG"], "ng"), (verdict.score, texts.CHART_THIS, "here")]
        if verdict.review_threshold is not None and verdict.review_threshold < verdict.threshold:
            lines.append((verdict.review_threshold, texts.VERDICTS["REVIEW"], "review"))
        chart = charts.histogram(calibration.scores, [], lines)
    review = reviews.latest(service.store, [verdict.id]).get(verdict.id)
    return Detail(
        verdict=verdict,
        review=review,
        name=texts.name_of(verdict),
        meaning=texts.meaning(verdict),
        picture=picture,
        heat=heat,
        chance=texts.chance(verdict.p_value, n) if verdict.valid else "",
        chart=chart,
        n=n,
        of=of,
        facts=tuple(_facts(verdict, n)),
        file=verdict.picture if verdict.part_id else "",
        places=len(review.boxes) + (review.mask is not None) if review is not None else 0,
    )


def _facts(verdict: Verdict, n: int) -> list[tuple[str, str]]:
    values = {
        "time": when(verdict.time),
        "part_id": verdict.part_id,
        "station": verdict.station,
        "picture": verdict.picture,
        "score": f"{verdict.score:.4g}",
        "limits": texts.limits(verdict.threshold, verdict.review_threshold),
        "p_value": p_words(verdict.p_value, 1.0 / (n + 1) if n else 0.0).removeprefix("= "),
        "model": f"{verdict.model} ({verdict.model_id})",
        "source": texts.SOURCES[verdict.source],
        "size": f"{verdict.width} × {verdict.height} px",
        "seconds": f"{verdict.seconds:.2f} s",
        "id": str(verdict.id),
    }
    return [(texts.FACT_NAMES[name], text) for name, text in values.items() if text]


def when(time: datetime.datetime) -> str:
    """A time aware of its offset, as the server's local time to the second."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def times() -> str:
    """Which clock the page's times are of."""
    shift = datetime.datetime.now().astimezone().utcoffset() or datetime.timedelta()
    return texts.TIMES.format(offset=texts.offset(shift.total_seconds()))


def moment(text: str) -> datetime.datetime | None:
    """What a datetime-local field holds, taken as the server's local time; None for an empty or malformed one."""
    try:
        return datetime.datetime.fromisoformat(text).astimezone(datetime.UTC) if text else None
    except (ValueError, OverflowError):
        return None


def thumbnail(pixels: Image) -> bytes:
    """h w 3 in RGB as a small JPEG, THUMBNAIL at most a side."""
    height, width = pixels.shape[:2]
    factor = min(1.0, THUMBNAIL / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = np.asarray(cv2.resize(np.asarray(pixels), size, interpolation=cv2.INTER_AREA))
    if small.dtype != np.uint8:
        small = np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8)
    small = small.reshape(*small.shape[:2], -1)
    small = small if small.shape[2] == 3 else np.repeat(small[:, :, :1], 3, axis=2)
    done, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])
    if not done:
        raise ValueError("a thumbnail could not be encoded")
    return data.tobytes()


@dataclass(frozen=True)
class Line:
    """Rates over time beside the promise.

    chart    SVG
    parts    what the chart's points are of, the oldest first
    step     "hour" or "day"
    sampled  what the parts that were reviewed by chance say of the false-alarm rate, in a sentence
    """

    chart: Markup | str
    parts: tuple[rates.Rates, ...]
    step: str
    sampled: str
    totals: Mapping[str, int]


def line(service: Service, which: Filter, served: Served | None) -> Line:
    """The rates of the results that `which` picks, beside the promise of a model; None = of none. Raises Unreachable."""
    hours = rates.rates(service.store, which, step="hour")
    brief = bool(hours) and hours[-1].start - hours[0].start <= HOURLY
    parts = hours if brief else rates.rates(service.store, which)
    step = "hour" if brief else "day"
    calibration = served.inspector.calibration if served is not None else None
    promise = calibration.rate_ng if calibration is not None else None
    series = [
        (texts.RATE_SERIES[0], [(part.start, part.reject_rate) for part in parts]),
        (texts.RATE_SERIES[1], [(part.start, part.false_alarms / part.count) for part in parts if part.reviewed]),
    ]
    limit = None if promise is None else (promise.expected, f"{texts.RATE_PROMISE} {percent(promise.expected)}")
    totals = rates.totals(parts)
    chart = charts.rates_over_time(series, limit, texts.RATES) if parts else ""
    return Line(chart, parts, step, _sampled(totals), totals)


def _sampled(totals: Mapping[str, int]) -> str:
    n, k = totals["sampled_good"], totals["sampled_alarms"]
    if not n:
        return texts.LINE_NOT_SAMPLED
    if n < FEW:
        return texts.LINE_SAMPLED_FEW.format(n=n, k=k, least=FEW)
    low, high = share_interval(k, n)
    return texts.LINE_SAMPLED.format(n=n, k=k, share=percent(k / n), low=percent(low), high=percent(high))


@dataclass(frozen=True)
class ModelView:
    """A served model as its page shows it.

    facts      what the folder tells, of `report_facts`; {} where that cannot be read, and `damaged` says why
    changed    the folder holds another version than the one that is served
    proof      of `pod_words.view`; None = not measured
    hardest    groups of pictures: of `reporting.page.gallery`
    sheet      a data URI of the good pictures that look least like the others; "" = none
    """

    served: Served
    histogram: Markup
    facts: Mapping[str, Any]
    damaged: str
    changed: bool
    proof: Mapping[str, Any] | None
    drift_chart: Markup | str
    hardest: Sequence[Mapping[str, Any]]
    sheet: str
    line: Line
    about: tuple[tuple[str, str], ...]


def model_view(service: Service, served: Served) -> ModelView:
    """All that the model page shows. Raises Unreachable."""
    calibration = served.inspector.calibration
    assert calibration is not None  # a shelf holds calibrated models alone
    lines = [(calibration.threshold, texts.VERDICTS["NG"], "ng")]
    if calibration.review_threshold < calibration.threshold:
        lines.append((calibration.review_threshold, texts.VERDICTS["REVIEW"], "review"))
    facts: dict[str, Any] = {}
    damaged, changed = "", False
    try:
        changed = manifest_hash(served.folder) != served.manifest
        facts = report_facts(served.folder)
    except (FlawforgeError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        damaged = texts.DAMAGED.format(why=str(error) if isinstance(error, FlawforgeError) else type(error).__name__)
    drift = facts.get("drift")
    since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=LINE_DAYS)
    sheet = served.folder / SHEET
    about = served.inspector.about
    rows = {**about, "manifest": served.manifest, "since": when(served.since)}
    return ModelView(
        served=served,
        histogram=charts.histogram(calibration.scores, [], lines),
        facts=facts,
        damaged=damaged,
        changed=changed,
        proof=pod_words.view(facts.get("proof")),
        drift_chart=charts.evidence(drift["wealth"], drift["level"]) if drift else "",
        hardest=[group for group in gallery(facts, "proof", pod_words.GROUPS) if group["key"] == "hardest_good"]
        if facts.get("proof")
        else [],
        sheet=str(as_data_uri(sheet.read_bytes(), "image/jpeg")) if sheet.is_file() else "",
        line=line(service, Filter(model=served.name, since=since), served),
        about=tuple((words, str(rows[name])) for name, words in texts.MODEL_FACT_NAMES.items() if rows.get(name)),
    )
