"""What is known of a model -> the page that people look at, its Markdown, and the JSON behind both.

The HTML page is one file: pictures and the JSON are embedded and nothing is fetched. A few lines of script of our own move
the limit and enlarge pictures; without them the page says the same. Names that come from outside are escaped.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from flawforge.reporting import charts, pod_words
from flawforge.reporting.card import defects_in_words, when
from flawforge.reporting.commands import commands
from flawforge.reporting.kept import album
from flawforge_runtime.names import shown
from flawforge_runtime.rates import percent

Facts = dict[str, Any]
METRICS = {
    "image.auroc": ("Pictures: AUROC", "chance that a defective picture scores above a good one"),
    "image.ap": ("Pictures: average precision", "precision over all limits, weighted by recall"),
    "image.f1_max": ("Pictures: best F1", "at the best limit in hindsight, not the one in use"),
    "pixel.auroc": ("Pixels: AUROC", "the same over pixels; near 1 even for coarse maps"),
    "pixel.ap": ("Pixels: average precision", "strict where defects are small"),
    "pixel.f1_max": ("Pixels: best F1", "at the best limit in hindsight"),
    "pixel.aupro_0.3": ("Regions: AUPRO to 0.3", "each defect counts alike, false positives up to 30 %"),
    "pixel.aupro_0.05": ("Regions: AUPRO to 0.05", "the same, false positives up to 5 %"),
    "pixel.iou": ("Pixels: IoU", "overlap of marked and true pixels at the calibrated limit"),
    "pixel.peak_on_defect": ("Map peaks on the defect", "share of defective pictures; low means right for the wrong reason"),
}
RATES = {
    "operating_point.false_alarm_rate": ("Good pictures rejected (NG)", "false alarms at the limit in use"),
    "operating_point.escape_rate": ("Defects not rejected", "escapes at the limit in use: judged OK or REVIEW"),
    "operating_point.passed_rate": ("Defects judged OK", "escapes that no reviewer would see"),
}
GROUPS = {
    "escape": ("Missed defects", "Not rejected. The lowest scores first."),
    "false": ("Good parts that were rejected", "False alarms. The highest scores first."),
    "detect": ("Detected defects", "The highest score of each kind first."),
    "good": ("Typical good parts", "The scores nearest to the median."),
}
# The three pictures of the first screen: the first group that has one. "top_" groups are drawn large for it.
FIRST = (
    ("A good part", ("top_good", "good", "hardest_good")),
    ("Best catch", ("top_catch", "detection", "found")),
    ("Worst miss", ("top_miss", "escape", "missed")),
)
PICTURES_PER_GROUP = 6
LISTED = 1000  # rows of the table of every picture
MIME = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
VERDICTS = ("OK", "REVIEW", "NG")
TRAINING = {"pictures": "pictures", "minutes": "minutes asked for", "steps": "steps", "seconds": "seconds taken"}


def report_json(facts: Facts, logo: str = "") -> str:
    """The facts as JSON, without the logo; values that are not finite become null, so that every reader accepts it."""
    return json.dumps(plain(facts), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def report_html(facts: Facts, logo: str = "") -> str:
    """One self-contained page. logo: a data URI, shown at the top; "" = none."""
    evaluation = facts["evaluation"] or {}
    rows = evaluation.get("pictures") or []
    good = [row.get("score") for row in rows if row.get("label") == 0]
    defective = [row.get("score") for row in rows if row.get("label") == 1]
    calibration = facts["calibration"]
    of_calibration = not good and not defective
    good = (calibration or {}).get("scores", []) if of_calibration else good
    lines = _limits(calibration)
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            **facts,
            logo=Markup(logo) if logo.startswith("data:image/") else "",
            metrics=_metric_rows(evaluation),
            kinds=_kind_rows(evaluation),
            confusion=confusion(rows, _has_review(calibration)),
            first=_first(facts),
            alarms=_alarms(facts),
            escapes=_escapes(facts),
            gallery=gallery(facts, "evaluation", GROUPS),
            proof_gallery=gallery(facts, "proof", pod_words.GROUPS),
            colour_bar=charts.colour_bar(*facts["colours"]) if facts["colours"] else "",
            sight=pod_words.view(facts["proof"], _shorter_side(facts)),
            watched=charts.evidence(facts["drift"]["wealth"], facts["drift"]["level"]) if facts["drift"] else "",
            rows=sorted(rows, key=lambda row: -_sortable(row.get("score")))[:LISTED],
            row_count=len(rows),
            floor=1 / (calibration["n"] + 1) if calibration else 0.0,
            histogram=charts.histogram(good, defective, lines),
            raised=charts.raised(rows),
            slider=_slider(good, defective, lines, of_calibration),
            trade_off=charts.trade_off(good, defective, calibration["threshold"] if calibration else None),
            curves=charts.training_curves(facts["config"].get("history") or []),
            training=_training(facts["config"]),
            commands=commands(facts),
            data_uri=as_data_uri(json.dumps(plain(facts)).encode(), "application/json"),
        )
    )


def report_markdown(facts: Facts, logo: str = "") -> str:
    """The same figures as text, for a repository or a ticket. logo: not shown."""
    lines = [f"# {_md(facts['title'] or facts['name'])}", "", "## May I use this?", ""]
    lines += [f"- {_md(entry['text'])}" for entry in facts["answer"]]
    if facts["expected"]:
        lines.append(f"- {facts['expected']['text']}")
    lines += ["", "Higher score = more anomalous. OK: deliver. REVIEW: a person looks. NG: rejected.", ""]
    lines += [_md(facts["note"]), ""] if facts["note"] else []
    if facts["calibration"]:
        c = facts["calibration"]
        lines += [f"NG above {c['threshold']:.6g}, REVIEW above {c['review_threshold']:.6g}.", ""]
    evaluation = facts["evaluation"] or {}
    if evaluation:
        lines += [f"{_md(facts['evaluated'])}", ""]
        table = confusion(evaluation.get("pictures") or [], _has_review(facts["calibration"]))
        heads = [cell["verdict"] for cell in table[0]["cells"]] if table else VERDICTS
        lines += ["## Verdicts", "", f"| pictures | {' | '.join(heads)} |", f"|---{'|---' * len(heads)}|"]
        lines += [f"| {row['label']} | {' | '.join(str(cell['count']) for cell in row['cells'])} |" for row in table]
        lines += ["", "## Figures", "", "| figure | value | 95 % interval |", "|---|---|---|"]
        for row in _metric_rows(evaluation):
            lines.append(f"| {_md(row['name'])} | {row['text']} | {row['interval']} |")
        lines += ["", "## By kind of defect", "", "| kind | AUROC | not rejected | 95 % interval |", "|---|---|---|---|"]
        for row in _kind_rows(evaluation):
            lines.append(f"| {_md(row['kind'])} | {row['auroc']} | {row['escape']} | {row['interval']} |")
        lines.append("")
        lines += [f"- {_md(note)}" for note in evaluation.get("notes") or []] + [""]
    proof = pod_words.view(facts["proof"])
    if proof:
        columns = ("kind", "contrast", "bound", "a90", "a50", "found")
        lines += ["## Synthetic defects that it finds (POD after MIL-HDBK-1823A)", ""]
        lines += ["| kind | contrast | a90/95 | a90 | a50 | found |", "|---|---|---|---|---|---|"]
        lines += [f"| {' | '.join(_md(row[key]) for key in columns)} |" for row in proof["rows"]]
        lines += ["", *(f"{_md(note)}." for note in proof["too_few"])] if proof["too_few"] else []
        lines += ["", _md(proof["real"])] if proof["real"] else []
        lines.append("")
    if facts["missing"]:
        lines += ["## What is missing", ""]
        lines += [f"- {_md(entry['what'])} Run {_code(entry['command'])}." for entry in facts["missing"]] + [""]
    lines += ["## Model", ""]
    lines += [f"- {key}: {_md(str(facts['config'].get(key)))}" for key in ("method", "profile", "seed", "flawforge_version")]
    lines += [f"- {_md(name)}: sha256 {entry['sha256']}" for name, entry in sorted(facts["files"].items())]
    lines += ["", "## Reproduce", "", "```sh", *commands(facts), "```", ""]
    return "\n".join(lines)


MAKERS = {".html": report_html, ".htm": report_html, ".md": report_markdown, ".json": report_json}


def _has_review(calibration: Mapping[str, Any] | None) -> bool:
    return not calibration or calibration["review_threshold"] < calibration["threshold"]


def confusion(rows: Sequence[Mapping[str, Any]], review: bool = True) -> list[Facts]:
    """Verdicts of good and of defective pictures: {"label", "count", "cells": [{"verdict", "count", "share"}]} each.

    review  False: the model never judges REVIEW, so it has no cell unless a picture was judged so
    """
    table = []
    shown = [key for key in VERDICTS if key != "REVIEW" or review or any(row.get("verdict") == key for row in rows)]
    for label, name in ((0, "good"), (1, "defective")):
        verdicts = [row.get("verdict") for row in rows if row.get("label") == label]
        if verdicts:
            counts = {verdict: verdicts.count(verdict) for verdict in shown}
            cells = [
                {"verdict": key, "count": count, "share": percent(count / len(verdicts))} for key, count in counts.items()
            ]
            table.append({"label": name, "count": len(verdicts), "cells": cells})
    return table


def _limits(calibration: Mapping[str, Any] | None) -> list[tuple[float, str, str]]:
    """The limits as lines of a chart; one where both are the same."""
    if not calibration:
        return []
    lines = [(calibration["review_threshold"], "REVIEW", "review"), (calibration["threshold"], "NG", "ng movable")]
    return lines[1:] if lines[0][0] == lines[1][0] else lines


def _alarms(facts: Facts) -> Facts:
    """Good parts rejected: what to expect, what was measured, and both as a chart."""
    expected, point, accepted = facts["expected"], _point(facts), _accepted(facts)
    measured = _measured(point.get("false_alarm_rate"))
    of = int(((facts["evaluation"] or {}).get("counts") or {}).get("good", 0))
    ng = (expected or {}).get("ng")
    chart: Any = ""
    if ng or measured:
        chart = charts.rate_bar((ng["expected"], ng["bound"]) if ng else None, measured, accepted.get("false alarms"))
    if expected and expected["unstated"]:
        chart = charts.rate_bar(None, measured, accepted.get("false alarms")) if measured else ""
    words = _rate_words(measured, of, "good pictures rejected")
    return {"expected": ng, "unstated": bool(expected and expected["unstated"]), "measured": words, "chart": chart}


def _escapes(facts: Facts) -> Facts:
    """Defects that are not rejected: what was measured, as words and chart, and how many of them go to REVIEW."""
    point, evaluation = _point(facts), facts["evaluation"] or {}
    measured = _measured(point.get("escape_rate"))
    of = int((evaluation.get("counts") or {}).get("defective", 0))
    words = _rate_words(measured, of, "defective pictures not rejected")
    passed = (point.get("passed_rate") or {}).get("value")
    if words and measured and passed is not None:
        missed, ok = round(measured[0] * of), round(passed * of)
        all_of_them = {1: "It was", 2: "Both were"}.get(ok, f"All {ok} were")
        words["split"] = f"{ok} judged OK, {missed - ok} sent to REVIEW." if missed - ok else f"{all_of_them} judged OK."
        words["split"] = words["split"] if missed else ""
    chart = charts.rate_bar(None, measured, _accepted(facts).get("escapes")) if measured else ""
    return {"measured": words, "chart": chart}


def _point(facts: Facts) -> Facts:
    return dict((facts["evaluation"] or {}).get("operating_point") or {})


def _accepted(facts: Facts) -> dict[str, float]:
    """The highest acceptable share by the name of its criterion."""
    return {criterion["name"]: criterion["accepted"] for criterion in (facts["acceptance"] or {}).get("criteria", [])}


def _measured(rate: Mapping[str, Any] | None) -> tuple[float, float, float] | None:
    value, low, high = ((rate or {}).get(key) for key in ("value", "low", "high"))
    return None if value is None or low is None or high is None else (value, low, high)


def _rate_words(measured: tuple[float, float, float] | None, of: int, what: str) -> Facts | None:
    if measured is None:
        return None
    value, low, high = measured
    interval = f"95 % interval {percent(low)} to {percent(high)}"
    return {"value": percent(value), "counts": f"{round(value * of)} of {of} {what}", "interval": interval, "split": ""}


def _slider(
    good: Sequence[Any], defective: Sequence[Any], lines: Sequence[tuple[float, str, str]], of_calibration: bool
) -> Facts | None:
    """What the movable limit needs: its data for the script, and what it says at the limit in use."""
    axis = charts.score_axis(good, defective, lines)
    if axis is None or not lines:
        return None
    good, defective, limit = charts.finite(good), charts.finite(defective), lines[-1][0]
    x, y = charts.trade_axes(good, defective, limit)
    span = (axis.end - axis.start) or 1.0
    data = {
        "good": good,
        "defective": defective,
        "limit": limit,
        "axis": {"low": axis.low, "high": axis.high, "log": axis.log, "start": axis.start, "end": axis.end},
        "x": [x.start, x.end, x.high],
        "y": [y.start, y.end, y.high],
        "what": "calibration" if of_calibration else "good",
    }
    alarms = round(charts.share_above(good, limit) * len(good))
    text = f"Limit {limit:.4g}: {alarms} of {len(good)} {data['what']} pictures rejected"
    if defective:
        text += f", {round(charts.share_above(defective, limit) * len(defective))} of {len(defective)} defects found"
    return {"data": json.dumps(data), "place": (axis(limit) - axis.start) / span, "text": text}


def _metric_rows(evaluation: Mapping[str, Any]) -> list[Facts]:
    rows = []
    point = {"operating_point": evaluation.get("operating_point") or {}}
    for path, (name, meaning) in (RATES | METRICS).items():
        group, key = path.split(".", 1)
        estimate = ({**evaluation, **point}.get(group) or {}).get(key)
        if isinstance(estimate, Mapping) and estimate.get("value") is not None:
            words = percent if group == "operating_point" or key == "peak_on_defect" else _three
            rows.append({"name": name, "meaning": meaning, **_estimate(estimate, words), "path": path})
    return rows


def _kind_rows(evaluation: Mapping[str, Any]) -> list[Facts]:
    rows = []
    for kind, values in (evaluation.get("kinds") or {}).items():
        escape = _estimate(values.get("escape_rate") or {}, percent)
        auroc = _estimate(values.get("image_auroc") or {}, _three)
        rows.append(
            {
                "kind": kind,
                "count": values.get("count", ""),
                "escape": escape["text"],
                "auroc": f"{auroc['text']} ({auroc['interval']})" if auroc["interval"] != "–" else auroc["text"],
                "interval": escape["interval"],
                "whisker": escape["whisker"],
            }
        )
    return rows


def _estimate(estimate: Mapping[str, Any], words: Any) -> Facts:
    value, low, high = (estimate.get(key) for key in ("value", "low", "high"))
    known = low is not None and high is not None
    return {
        "text": "–" if value is None else words(value),
        "interval": f"{words(low)} to {words(high)}" if known else "–",
        "whisker": charts.whisker(value, low, high),
    }


def _first(facts: Facts) -> list[Facts]:
    """The pictures of the first screen: of an evaluation, else of a proof.

    Where the evaluation missed nothing, the third is a synthetic defect that was missed, or else a sentence.
    """
    for kind in ("evaluation", "proof"):
        rows = (facts[kind] or {}).get("overlays") or []
        folder = album(Path(facts["folder"]), kind)
        shown = [picture for title, groups in FIRST if (picture := _picture(folder, rows, title, groups))]
        if len(shown) == 2 and shown[-1]["title"] == "Best catch":
            synthetic = (facts["proof"] or {}).get("overlays") or []
            shown.append(_missed(album(Path(facts["folder"]), "proof"), synthetic))
        if shown:
            return shown
    return []


def _missed(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Facts:
    """The synthetic defect of a proof that was missed; one that was rejected for another place is not called a miss."""
    miss = _picture(folder, rows, "Worst miss (synthetic)", ("top_miss",))
    if miss is None:
        return {"title": "Worst miss", "uri": None, "large": True, "figures": "None of the tested defects was missed."}
    return miss | {"title": "Marked at another place (synthetic)"} if miss["verdict"] == "NG" else miss


def _picture(folder: Path, rows: Sequence[Mapping[str, Any]], title: str, groups: Sequence[str]) -> Facts | None:
    """The first picture of the first of these groups that has one."""
    for group in groups:
        row = next((row for row in rows if row.get("group") == group), None)
        uri = None if row is None else _picture_uri(folder, str(row.get("file", "")))
        if row is not None and uri is not None:
            title = "Most anomalous good part" if group == "hardest_good" else title
            return {"title": title, "uri": uri, "large": row.get("panels") == 1, **_caption(row)}
    return None


def gallery(facts: Facts, kind: str, groups: Mapping[str, tuple[str, str]]) -> list[Facts]:
    """Pictures by group, embedded: [{"key", "title", "hint", "panels", "more", "pictures"}], each picture a dict of "uri",
    "file" and its caption.

    kind    "evaluation" or "proof"
    groups  {key: (title, hint)}, in the order to show them in
    """
    folder, rows = album(Path(facts["folder"]), kind), (facts[kind] or {}).get("overlays") or []
    by_group: dict[str, list[Facts]] = {}
    for row in rows:
        if row.get("panels") != 1:
            by_group.setdefault(str(row.get("group", "")), []).append(row)
    rank = list(groups)
    keys = {name: next((key for key in rank if key in name.lower()), "") for name in by_group}
    result = []
    for name in sorted(by_group, key=lambda name: rank.index(keys[name]) if keys[name] else len(rank)):
        some = by_group[name][:PICTURES_PER_GROUP]
        title, hint = groups.get(keys[name], (name, ""))
        pictures = [
            {"uri": _picture_uri(folder, str(row.get("file", ""))), "file": row.get("file"), **_caption(row)} for row in some
        ]
        panels = 6 if all(row.get("panels") == 6 for row in some) else 2
        more = len(by_group[name]) - len(some)
        result.append(
            {"key": keys[name], "title": title, "hint": hint, "panels": panels, "pictures": pictures, "more": more}
        )
    return result


def _caption(row: Mapping[str, Any]) -> Facts:
    name, score = "/".join(Path(str(row.get("path", ""))).parts[-2:]), row.get("score")
    if "contrast" in row:
        figures = pod_words.caption(row)
    else:
        figures = f"score {score:.4g}" if isinstance(score, int | float) else ""
    return {"name": name, "verdict": row.get("verdict", ""), "figures": figures}


def _shorter_side(facts: Facts) -> float | None:
    """Of the good pictures in px, their median; None = not known."""
    sizes = (facts["config"].get("data_report") or {}).get("sizes") or {}
    middle = sizes.get("median") if isinstance(sizes, Mapping) else None
    return float(min(middle)) if middle else None


def _training(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a reader may want to know of the training, in words."""
    training = config.get("training") or {}
    values = [(words, training.get(key)) for key, words in TRAINING.items()]
    told = [(words, f"{value:.4g}") for words, value in values if isinstance(value, int | float)]
    defects = defects_in_words(config)
    return [*told, ("real defects", defects)] if defects else told


def _picture_uri(folder: Path, name: str) -> Markup | None:
    """A picture of the evaluation folder as a data URI; None where it is missing, no picture, or outside the folder."""
    path = (folder / name).resolve()
    mime = MIME.get(path.suffix.lower())
    if mime is None or folder.resolve() not in path.parents or not path.is_file():
        return None
    return as_data_uri(path.read_bytes(), mime)


def as_data_uri(content: bytes, mime: str) -> Markup:
    """Bytes of a type such as image/png, inside the page."""
    return Markup(f"data:{mime};base64,{base64.b64encode(content).decode()}")


def unbroken(text: str) -> str:
    """Percentages in a text for the page: no line ends between the number and its sign."""
    return re.sub(r"(\d) %", "\\1\u00a0%", text)


def _three(value: float) -> str:
    return f"{value:.3f}"


def _code(text: str) -> str:
    """Text as a code span, between more backticks than it holds itself."""
    text = shown(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"


def _sortable(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else -math.inf


def _md(text: str) -> str:
    """Text as Markdown shows it, with nothing in it that Markdown or HTML would act upon."""
    flat = shown(" ".join(str(text).split()))
    for sign in "\\`*_[]|#~":
        flat = flat.replace(sign, "\\" + sign)
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def plain(value: Any) -> Any:
    """JSON-able: values that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flawforge.reporting", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: unbroken(percent(share))
    environment.filters["unbroken"] = unbroken
    environment.filters["when"] = lambda stamp: when(str(stamp))
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:.4g}"
    return environment
