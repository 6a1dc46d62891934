"""A model folder -> one page that a customer can read, print and archive: HTML, Markdown, or the JSON behind both.

What the folder does not hold is named, with the command that adds it. How the page is made: `page`.
"""

from __future__ import annotations

import datetime
import html
import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from flawforge.reporting import answer
from flawforge.reporting.acceptance import Acceptance, accept
from flawforge.reporting.answer import Facts
from flawforge.reporting.card import handed_on, when
from flawforge.reporting.kept import album, kept
from flawforge.reporting.page import MAKERS, MIME, as_data_uri, plain
from flawforge.reporting.recorded import COMMANDS, KINDS
from flawforge.types import ConfigError, ModelError
from flawforge_runtime import bundle
from flawforge_runtime.calibrate import Calibration
from flawforge_runtime.inspector import Inspector
from flawforge_runtime.names import shown
from flawforge_runtime.outputs import check_output, write_output
from flawforge_runtime.schema import checked

LARGEST_LOGO = 2 << 20  # bytes


@dataclass(frozen=True)
class Report:
    """All that is known of a model. A notebook shows it as its page.

    facts   what it says, JSON-able
    folder  of the model
    path    where it was written; None = nowhere
    logo    a data URI of the picture at the top of the page; "" = none
    """

    facts: Facts = field(repr=False)
    folder: Path
    path: Path | None = None
    logo: str = field(default="", repr=False)

    @property
    def exit_code(self) -> int:
        """Of the acceptance criteria: 0 where all pass or none was given, 5 NOT ENOUGH DATA, 6 FAIL."""
        return int((self.facts["acceptance"] or {}).get("exit_code", 0))

    def lines(self) -> list[str]:
        """For people: where it was written, and the criteria; where it was not written, its first screen."""
        if self.path is None:
            return [entry["text"] for entry in self.facts["answer"]]
        criteria = (self.facts["acceptance"] or {}).get("criteria", [])
        return [f"report: {self.path}", *(f"  {criterion['text']}" for criterion in criteria)]

    def as_dict(self) -> Facts:
        """What a report with the ending .json holds."""
        result: Facts = plain(self.facts)
        return result

    def text(self, ending: str = ".html") -> str:
        """The report as .html, .md or .json. Raises ModelError where the model folder holds a result that is damaged."""
        with _stated(self.folder):
            return MAKERS[ending](self.facts, self.logo)

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that its style and its script stay there."""
        page = html.escape(self.text().encode(errors="backslashreplace").decode())
        sandbox = "allow-downloads allow-scripts"
        return f'<iframe sandbox="{sandbox}" srcdoc="{page}" width="100%" height="640" title="report"></iframe>'


def report(
    model: str | Path | Inspector,
    out: str | Path | None = None,
    *,
    title: str = "",
    note: str = "",
    logo: str | Path | None = None,
    accept_false_alarms: float | None = None,
    accept_escapes: float | None = None,
) -> Report:
    """The report on a model; written to `out` where it is given: .html (one self-contained page), .md or .json.

    model  a model folder, or an Inspector that was loaded from one
    title  of the page; "" = the folder's name. note: a paragraph below it, such as part number, line and camera
    logo   a PNG, JPEG, WebP or SVG file for the top of the page
    accept_false_alarms, accept_escapes  highest acceptable shares in (0, 1); each then gets PASS, FAIL or NOT ENOUGH DATA
    Raises ModelError where the folder is no whole model, ConfigError for another ending, a folder that is not there, a logo
    that is no picture, or a share outside (0, 1).
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
        check_output(path, "The report")
    picture = "" if logo is None else logo_uri(Path(logo))
    with _stated(folder):
        facts = report_facts(folder, title, note, accept_false_alarms, accept_escapes)
        result = Report(facts, folder, path, picture)
    if path is not None:
        write_output(path, result.text(path.suffix.lower()).encode(errors="backslashreplace"), "The report")
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


def report_facts(
    model_folder: Path,
    title: str = "",
    note: str = "",
    accept_false_alarms: float | None = None,
    accept_escapes: float | None = None,
) -> Facts:
    """All that the report says, JSON-able. Raises as `report`."""
    content = bundle.read(model_folder)
    calibration = content.calibration
    evaluation, proof, drift = (_recorded(model_folder, name) for name in KINDS)
    outdated = answer.stale(content.model_id, calibration, evaluation)
    acceptance = _acceptance(None if outdated else evaluation, accept_false_alarms, accept_escapes)
    name = shown(shlex.quote(model_folder.name))
    missing = answer.missing(name, content.config, calibration, evaluation, proof, drift, acceptance)
    return {
        "name": model_folder.resolve().name,
        "title": title,
        "note": note,
        "folder": str(model_folder.resolve()),
        "model_id": content.model_id,
        "config": _shown(content.config),
        "calibration": {**calibration.as_dict(), "pictures": []} if calibration else None,
        "colours": _colours(calibration),
        "expected": answer.expected(calibration),
        "acceptance": acceptance.as_dict() if acceptance else None,
        "answer": answer.answer(calibration, evaluation, proof, drift, acceptance),
        "missing": missing,
        "evaluation": evaluation,
        "evaluated": _measured_on(model_folder, "evaluation", evaluation),
        "proof": proof and {key: value for key, value in proof.items() if key not in ("trials", "good_scores")},
        "proved": _measured_on(model_folder, "proof", proof),
        "drift": drift and {key: value for key, value in drift.items() if key != "parts"},
        "drifted": _measured_on(model_folder, "drift", drift),
        "stale": outdated,
        "stored": _others(model_folder),
        "files": _read_json(model_folder / "manifest.json")["files"],
        "card": handed_on(content.card),
    }


def logo_uri(path: Path) -> str:
    """A picture file as a data URI. Raises ConfigError where it is none, or larger than 2 MB."""
    mime = {**MIME, ".svg": "image/svg+xml"}.get(path.suffix.lower())
    if mime is None or not path.is_file():
        raise ConfigError(f"The logo {path} is no PNG, JPEG, WebP or SVG file that exists; give one.")
    content = path.read_bytes()
    marks = {".png": b"\x89PNG", ".jpg": b"\xff\xd8", ".jpeg": b"\xff\xd8", ".webp": b"RIFF", ".svg": b"<svg"}
    mark = marks[path.suffix.lower()]
    if not (mark in content if mark == b"<svg" else content.startswith(mark)):
        raise ConfigError(f"The logo {path} is not what its ending says; give a PNG, JPEG, WebP or SVG file.")
    if len(content) > LARGEST_LOGO:
        raise ConfigError(f"The logo {path} has {len(content):,} bytes; give one of at most {LARGEST_LOGO:,}.")
    return str(as_data_uri(content, mime))


def _acceptance(evaluation: Facts | None, false_alarms: float | None, escapes: float | None) -> Acceptance | None:
    """The criteria against an evaluation that was made with the model as it is."""
    figures = evaluation or {}
    return accept(figures.get("operating_point") or {}, figures.get("counts") or {}, false_alarms, escapes)


def _colours(calibration: Calibration | None) -> tuple[float, float] | None:
    """Map values: the lowest that is drawn, and the limit above which pixels are marked."""
    return None if calibration is None else (calibration.scale.low, calibration.scale.threshold)


def _others(model_folder: Path) -> list[str]:
    """The stored results beside the newest of each kind, in words, newest first."""
    newest = {album(model_folder, kind) for kind in KINDS}
    left = (one for one in kept(model_folder) if one.folder not in newest)
    return [f"{one.what}, {_times(one.when.isoformat(), one.of)}" for one in left]


def _times(stamp: str, of: str) -> str:
    """When a result was measured; and where `calibrate` had it judged again, when the limits of now were set."""
    return f"measured {when(of)}; judged again at the limits of {when(stamp)}" if of else when(stamp)


def _measured_on(model_folder: Path, kind: str, result: Facts | None) -> str:
    """Which pictures a result is of, how many, and when it was made; "" without one."""
    if not result:
        return ""
    facts: Any = result.get("kept")
    facts = facts if isinstance(facts, dict) else {}
    data, stamp, of = (str(facts.get(name) or "") for name in ("data", "when", "of"))
    if not stamp:  # a result of an older version: the file's own time
        at = (album(model_folder, kind) / f"{kind}.json").stat().st_mtime
        stamp = datetime.datetime.fromtimestamp(at).astimezone().isoformat()
    counts = result.get("counts") or {}
    if kind == "evaluation":
        size = f"{counts.get('good', 0)} good and {counts.get('defective', 0)} defective pictures"
    else:
        size = f"{result.get('goods')} good pictures" if kind == "proof" else f"{result.get('n')} production parts"
    return f"{size}{f' of {data}' if data else ''}, {_times(stamp, of)}"


def _shown(config: Mapping[str, Any]) -> Facts:
    """The settings without the lists of files: a page that is handed on tells no paths and no fingerprints of pictures."""
    training = {key: value for key, value in (config.get("training") or {}).items() if key not in bundle.PRIVATE}
    return {key: value for key, value in config.items() if key not in ("held_back", "defects")} | {"training": training}


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
