"""A model folder -> one page that a customer can read, print and archive: HTML, Markdown, or the JSON behind both.

The HTML page is one file: pictures and the JSON are embedded, nothing is fetched, nothing runs. Names of files and
kinds come from outside and are escaped. What the folder does not hold is named, with the command that adds it.
"""

from __future__ import annotations

import base64
import html
import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from flawforge.reporting import answer, charts, pod_words
from flawforge.reporting.answer import Facts
from flawforge.reporting.overlays import album
from flawforge.reporting.recorded import COMMANDS, KINDS
from flawforge.types import ConfigError, ModelError
from flawforge_runtime import bundle
from flawforge_runtime.calibrate import percent
from flawforge_runtime.files import write_atomically
from flawforge_runtime.inspector import Inspector
from flawforge_runtime.names import shown
from flawforge_runtime.schema import checked

METRICS = {
    "image.auroc": ("Pictures: AUROC", "chance that a defective picture scores above a good one"),
    "image.ap": ("Pictures: average precision", "precision over all thresholds, weighted by recall"),
    "image.f1_max": ("Pictures: best F1", "at the best threshold in hindsight, not the one in use"),
    "pixel.auroc": ("Pixels: AUROC", "the same over pixels; near 1 even for coarse maps"),
    "pixel.ap": ("Pixels: average precision", "strict where defects are small"),
    "pixel.f1_max": ("Pixels: best F1", "at the best threshold in hindsight"),
    "pixel.aupro_0.3": ("Regions: AUPRO to 0.3", "each defect counts alike, false positives up to 30 %"),
    "pixel.aupro_0.05": ("Regions: AUPRO to 0.05", "the same, false positives up to 5 %"),
    "pixel.iou": ("Pixels: IoU", "overlap of marked and true pixels at the calibrated threshold"),
    "pixel.peak_on_defect": ("Map peaks on the defect", "share of defective pictures; low means right for the wrong reason"),
}
GROUPS = {
    "escape": "Worst escapes: defects that were not rejected",
    "false": "Worst false alarms: good parts that were rejected",
    "detect": "Best detections",
    "good": "Typical good parts",
}
PICTURES_PER_GROUP = 8
MIME = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


@dataclass(frozen=True)
class Report:
    """All that is known of a model. A notebook shows it as its page.

    facts   what it says, JSON-able
    folder  of the model
    path    where it was written; None = nowhere
    """

    facts: Facts = field(repr=False)
    folder: Path
    path: Path | None = None

    def lines(self) -> list[str]:
        """For people: where it lies, or, where it was not written, its first screen."""
        return [entry["text"] for entry in self.facts["answer"]] if self.path is None else [f"report: {self.path}"]

    def as_dict(self) -> Facts:
        """What a report with the ending .json holds."""
        plain: Facts = _plain(self.facts)
        return plain

    def text(self, ending: str = ".html") -> str:
        """The report as .html, .md or .json. Raises ModelError where the model folder holds a result that is damaged."""
        with _stated(self.folder):
            return MAKERS[ending](self.facts)

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that its style stays there."""
        page = html.escape(self.text().encode(errors="backslashreplace").decode())
        return f'<iframe sandbox="allow-downloads" srcdoc="{page}" width="100%" height="640" title="report"></iframe>'


def report(model: str | Path | Inspector, out: str | Path | None = None) -> Report:
    """The report on a model; written to `out` where it is given: .html (one self-contained page), .md or .json.

    model  a model folder, or an Inspector that was loaded from one
    Raises ModelError where the folder is no whole model, ConfigError for another ending or a folder that is not there.
    """
    if isinstance(model, Inspector):
        if model.origin is None:
            raise ModelError("This inspector was not loaded from a folder; give one that inspector.save(FOLDER) wrote.")
        model = model.origin.folder
    folder, path = Path(model), None if out is None else Path(out)
    if path is not None:
        if path.suffix.lower() not in MAKERS:
            raise ConfigError(f"A report named {path.name} was asked for; end the name in .html, .md or .json.")
        if path.is_dir() or not path.parent.is_dir():
            raise ConfigError(f"The report cannot be written to {path}; give a file name in a folder that exists.")
    with _stated(folder):
        result = Report(report_facts(folder), folder, path)
    if path is not None:
        write_atomically(path, result.text(path.suffix.lower()).encode(errors="backslashreplace"))
    return result


@contextmanager
def _stated(folder: Path) -> Iterator[None]:
    """The models in `recorded` name what is wrong with a result where they can; what is left must be a sentence too."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, jinja2.TemplateError) as error:
        raise ModelError(
            f"The results in {folder} hold a value that the report cannot show ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); run evaluate, pod and drift again to replace them."
        ) from error


def report_facts(model_folder: Path) -> Facts:
    """All that the report says, JSON-able: config, calibration, evaluation, files, answer, missing. Raises ModelError."""
    content = bundle.read(model_folder)
    calibration = content.calibration
    evaluation, proof, drift = (_recorded(model_folder, name) for name in KINDS)
    missing = answer.missing(shown(shlex.quote(model_folder.name)), content.config, calibration, evaluation, proof, drift)
    return {
        "name": model_folder.resolve().name,
        "folder": str(model_folder.resolve()),
        "model_id": content.model_id,
        "config": _shown(content.config),
        "calibration": {**calibration.as_dict(), "pictures": []} if calibration else None,
        "promise": answer.promise(calibration),
        "answer": answer.answer(calibration, evaluation, proof, drift),
        "missing": missing,
        "evaluation": evaluation,
        "proof": proof and {key: value for key, value in proof.items() if key not in ("trials", "good_scores")},
        "drift": drift and {key: value for key, value in drift.items() if key != "parts"},
        "stale": answer.stale(content.model_id, calibration, evaluation),
        "files": _read_json(model_folder / "manifest.json")["files"],
        "card": content.card,
    }


def _shown(config: Mapping[str, Any]) -> Facts:
    """The settings without the lists of files: a page that is handed on tells no paths and no fingerprints of pictures."""
    training = {key: value for key, value in (config.get("training") or {}).items() if key not in bundle.PRIVATE}
    return {key: value for key, value in config.items() if key != "held_back"} | {"training": training}


def report_json(facts: Facts) -> str:
    """The facts as JSON; values that are not finite become null, so that every reader accepts it."""
    return json.dumps(_plain(facts), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def report_html(facts: Facts) -> str:
    """One self-contained page."""
    evaluation = facts["evaluation"] or {}
    rows = evaluation.get("pictures") or []
    good = [row.get("score") for row in rows if row.get("label") == 0]
    defective = [row.get("score") for row in rows if row.get("label") == 1]
    calibration = facts["calibration"]
    lines = (
        [
            (calibration[key], name, css)
            for key, name, css in (("review_threshold", "REVIEW", "review"), ("threshold", "NG", "ng"))
        ]
        if calibration
        else []
    )
    if len(lines) == 2 and lines[0][0] == lines[1][0]:
        del lines[0]
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            **facts,
            metrics=_metric_rows(evaluation),
            kinds=_kind_rows(evaluation),
            gallery=_gallery(facts),
            sight=pod_words.view(facts["proof"]),
            proof_gallery=_proof_gallery(facts),
            watched=charts.evidence(facts["drift"]["wealth"], facts["drift"]["level"]) if facts["drift"] else "",
            rows=sorted(rows, key=lambda row: -_sortable(row.get("score"))),
            histogram=charts.histogram(good or (calibration or {}).get("scores", []), defective, lines),
            trade_off=charts.trade_off(good, defective, calibration["threshold"] if calibration else None),
            curves=charts.training_curves(facts["config"].get("history") or []),
            commands=_commands(facts),
            data_uri=_data_uri(json.dumps(_plain(facts)).encode(), "application/json"),
        )
    )


def report_markdown(facts: Facts) -> str:
    """The same figures as text, for a repository or a ticket."""
    lines = [f"# flawforge report: {_md(facts['name'])}", "", "## May I use this?", ""]
    lines += [f"- {_md(entry['text'])}" for entry in facts["answer"]]
    if facts["promise"]:
        lines.append(f"- {facts['promise']['text']}")
    lines += ["", "A higher score is stranger. OK: deliver. REVIEW: a person looks. NG: reject.", ""]
    if facts["calibration"]:
        c = facts["calibration"]
        lines += [f"NG above {c['threshold']:.6g}, REVIEW above {c['review_threshold']:.6g}.", ""]
    evaluation = facts["evaluation"] or {}
    if evaluation:
        lines += ["## Figures", "", "| figure | value | 95 % interval |", "|---|---|---|"]
        for row in _metric_rows(evaluation):
            lines.append(f"| {_md(row['name'])} | {row['text']} | {row['interval']} |")
        lines += ["", "## By kind of defect", "", "| kind | AUROC | not rejected | 95 % interval |", "|---|---|---|---|"]
        for row in _kind_rows(evaluation):
            lines.append(f"| {_md(row['kind'])} | {row['auroc']} | {row['escape']} | {row['interval']} |")
        lines.append("")
        lines += [f"- {_md(note)}" for note in evaluation.get("notes") or []] + [""]
    seen = pod_words.view(facts["proof"])
    if seen:
        columns = ("kind", "contrast", "found", "a50", "a90", "bound")
        lines += ["## Forged defects that it finds", "", "| kind | contrast | found | a50 | a90 | a90/95 |"]
        lines += ["|---|---|---|---|---|---|"]
        lines += [f"| {' | '.join(_md(row[key]) for key in columns)} |" for row in seen["rows"]]
        lines.append("")
    if facts["missing"]:
        lines += ["## What is missing", ""]
        lines += [f"- {_md(entry['what'])} Run {_code(entry['command'])}." for entry in facts["missing"]] + [""]
    lines += ["## Model", ""]
    lines += [f"- {key}: {_md(str(facts['config'].get(key)))}" for key in ("method", "profile", "seed", "flawforge_version")]
    lines += [f"- {_md(name)}: sha256 {entry['sha256']}" for name, entry in sorted(facts["files"].items())]
    lines += ["", "## Do it again", "", "```sh", *_commands(facts), "```", ""]
    return "\n".join(lines)


MAKERS = {".html": report_html, ".htm": report_html, ".md": report_markdown, ".json": report_json}


def _metric_rows(evaluation: Mapping[str, Any]) -> list[Facts]:
    rows = []
    point = {"operating_point": evaluation.get("operating_point") or {}}
    rates = {
        "operating_point.false_alarm_rate": ("Good parts rejected", "false alarms at the threshold in use"),
        "operating_point.escape_rate": ("Defects not rejected", "escapes at the threshold in use: judged OK or REVIEW"),
        "operating_point.passed_rate": ("Defects judged OK", "escapes that no reviewer would see"),
    }
    for path, (name, meaning) in (rates | METRICS).items():
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


def _gallery(facts: Facts) -> list[Facts]:
    """Overlays by group, embedded: [{"title", "pictures": [{"uri", "file", "name", "verdict", "figures"}], "more": n}]."""
    folder = album(Path(facts["folder"]), "evaluation")
    groups: dict[str, list[Facts]] = {}
    for row in (facts["evaluation"] or {}).get("overlays") or []:
        groups.setdefault(str(row.get("group", "")), []).append(row)
    rank = list(GROUPS)
    keyed = {name: next((key for key in rank if key in name.lower()), "") for name in groups}
    result = []
    for name in sorted(groups, key=lambda name: rank.index(keyed[name]) if keyed[name] else len(rank)):
        shown = groups[name][:PICTURES_PER_GROUP]
        pictures = [
            {"uri": _picture_uri(folder, str(row.get("file", ""))), "file": row.get("file"), **_caption(row)}
            for row in shown
        ]
        more = len(groups[name]) - len(shown)
        result.append({"title": GROUPS.get(keyed[name], name), "pictures": pictures, "more": more})
    return result


def _proof_gallery(facts: Facts) -> list[Facts]:
    """The proof's pictures by group, embedded: [{"title", "hint", "pictures": as `_gallery`'s}]."""
    folder, rows = album(Path(facts["folder"]), "proof"), (facts["proof"] or {}).get("overlays") or []
    result = []
    for group, (title, hint) in pod_words.GROUPS.items():
        pictures = [
            {
                **_caption(row),
                "uri": _picture_uri(folder, str(row.get("file", ""))),
                "file": row.get("file"),
                "figures": pod_words.caption(row),
            }
            for row in rows
            if row.get("group") == group
        ]
        if pictures:
            result.append({"title": title, "hint": hint, "pictures": pictures[:PICTURES_PER_GROUP]})
    return result


def _caption(row: Mapping[str, Any]) -> Facts:
    name = "/".join(Path(str(row.get("path", ""))).parts[-2:])
    score, p_value = (row.get(key) for key in ("score", "p_value"))
    known = isinstance(score, int | float) and isinstance(p_value, int | float)
    figures = f"score {score:.4g}, p {p_value:.3g}" if known else ""
    return {"name": name, "verdict": row.get("verdict", ""), "figures": figures}


def _picture_uri(folder: Path, name: str) -> Markup | None:
    """A picture of the evaluation folder as a data URI; None where it is missing, no picture, or outside the folder."""
    path = (folder / name).resolve()
    mime = MIME.get(path.suffix.lower())
    if mime is None or folder.resolve() not in path.parents or not path.is_file():
        return None
    return _data_uri(path.read_bytes(), mime)


def _data_uri(content: bytes, mime: str) -> Markup:
    return Markup(f"data:{mime};base64,{base64.b64encode(content).decode()}")


def _commands(facts: Facts) -> list[str]:
    """How to make this model and this page again, as far as the folder knows."""
    config, name = facts["config"], shown(shlex.quote(facts["name"]))
    training = config.get("training") or {}
    budget = next((f" --{key} {training[key]:g}" for key in ("minutes", "steps") if training.get(key)), "")
    calibration = facts["calibration"]
    rates = f" --false-alarm {calibration['false_alarm']:g} --review {calibration['review']:g}" if calibration else ""
    return [
        f"flawforge fit DATA -o {name} --method {config.get('method')}{budget} --seed {config.get('seed', 0)}{rates}",
        f"flawforge evaluate {name} DATA --json evaluation.json",
        f"flawforge pod {name} DATA --json pod.json",
        f"flawforge report {name} -o report.html",
    ]


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


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _recorded(model_folder: Path, name: str) -> Any:
    """The result of evaluate, pod or drift, or None where there is none. Raises ModelError for one that does not fit."""
    path = album(model_folder, name) / f"{name}.json"
    data = _read_json(path)
    if data is not None:
        try:
            checked(KINDS[name], data)
        except ValueError as error:
            raise ModelError(f"{path} is damaged ({error}); run `flawforge {COMMANDS[name]}` again to replace it.") from None
    return data


def _read_json(path: Path) -> Any:
    """A JSON object, or None where there is no such file. Raises ModelError for one that is no JSON object."""
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise ModelError(f"{path} is not a JSON object; run `flawforge evaluate` again to replace it.")
    return data


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flawforge.reporting", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:.4g}"
    return environment
