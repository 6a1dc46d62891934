"""What a model folder keeps of `evaluate`, `pod` and `drift`: one new folder per run, which no later run overwrites.

    MODEL/evaluation/20261126-162833/evaluation.json   and its pictures as WebP
    MODEL/proof/20261126-163012/proof.json
    MODEL/drift/20261126-164500/drift.json

The JSON is the result's `as_dict()` with two more keys: "overlays", {"file", "group", and facts} for each picture, and
"kept", {"when", "data", "of"} as in `Kept`. Older model folders hold one result per kind, directly in MODEL/evaluation; that
is read like the others, with the time at which its file was written. `kept` lists all, newest first; `album` finds the
newest.
"""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flawforge.types import DataError
from flawforge_runtime.drawing import Drawn
from flawforge_runtime.files import locked, new_folder, write_atomically
from flawforge_runtime.images import write_image

KINDS = ("evaluation", "proof", "drift")
NAMES = {"evaluation": "evaluation", "proof": "POD", "drift": "drift check"}


@dataclass(frozen=True)
class Kept:
    """One stored result.

    kind      "evaluation", "proof" (of `pod`) or "drift"
    folder    that holds KIND.json and its pictures
    when      local time with its offset from UTC, to the second; of a result judged again, when that was done
    data      the last two parts of the data's path, or how many arrays were given; "" in older model folders
    counts    of pictures: {"good", "defective"} of an evaluation, {"good"} of a POD, {"parts"} of a drift check
    model_id  of the model that was measured
    limit     NG above this score, when it was measured or judged again; None = not known
    of        when the scores were measured, where `calibrate` had them judged again at new limits; "" = then and there
    """

    kind: str
    folder: Path
    when: datetime.datetime
    data: str = ""
    counts: Mapping[str, int] | None = None
    model_id: str = ""
    limit: float | None = None
    of: str = ""

    def read(self) -> dict[str, Any]:
        """The JSON. Raises DataError where it is none."""
        path = self.folder / f"{self.kind}.json"
        try:
            result = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            result = None
        if not isinstance(result, dict):
            raise DataError(f"{path} is not a JSON object; remove its folder, or run the command again.")
        return result

    @property
    def what(self) -> str:
        """Kind, data and counts in words."""
        of = f" of {self.data}" if self.data else ""
        counts = ", ".join(f"{number} {name}" for name, number in (self.counts or {}).items())
        return f"{NAMES[self.kind]}{of}{f' ({counts})' if counts else ''}"

    @property
    def text(self) -> str:
        """Kind, data, counts and time in words."""
        again = f", scores of {self.of}" if self.of else ""
        return f"{self.what}, {self.when:%Y-%m-%d %H:%M:%S}{again}"


def keep(
    model: Path,
    kind: str,
    result: Mapping[str, Any],
    pictures: Sequence[tuple[str, Mapping[str, Any], Drawn]] = (),
    *,
    data: str = "",
    of: str = "",
    files: Mapping[str, Path] | None = None,
) -> Kept:
    """Write a new folder below MODEL/KIND: all of it or, where it fails, nothing.

    result    of `as_dict()`
    pictures  (group, facts, picture) each
    data, of  see `Kept`
    files     pictures that lie elsewhere already, copied by name; `result` then has "overlays" of its own
    Raises OSError (a full disk; BlockingIOError where another process writes results of this kind), ValueError for a value
    that JSON has no word for.
    """
    place, now = Path(model) / kind, datetime.datetime.now().astimezone().replace(microsecond=0)
    facts = {"when": now.isoformat(), "data": data, "of": of}
    with locked(place):
        place.mkdir(exist_ok=True)
        for left in place.glob(".*.tmp"):  # of a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        target = place / f"{now:%Y%m%d-%H%M%S}"
        for number in range(2, 1000):
            if not target.exists():
                break
            target = place / f"{now:%Y%m%d-%H%M%S}-{number}"
        with _tidy(place), new_folder(target) as draft:
            index = list(result.get("overlays") or ())
            for number, (group, caption, picture) in enumerate(pictures):
                file = f"{number:02d}_{group}.webp"
                write_image(draft / file, picture)
                index.append({"file": file, "group": group, **caption})
            for name, source in (files or {}).items():
                shutil.copyfile(source, draft / name)
            write_json(draft / f"{kind}.json", {**result, "overlays": index, "kept": facts})
    return _kept(kind, target, {**result, "kept": facts}, now)


def kept(model: Path, kind: str = "") -> tuple[Kept, ...]:
    """The stored results of one kind, or of all ("") together, newest first. Those that cannot be read are left out."""
    results = []
    for one_kind in (kind,) if kind else KINDS:
        for folder in reversed(_folders(Path(model), one_kind)):
            with suppress(OSError, DataError):
                path = folder / f"{one_kind}.json"
                written = datetime.datetime.fromtimestamp(path.stat().st_mtime).astimezone().replace(microsecond=0)
                results.append(_kept(one_kind, folder, Kept(one_kind, folder, written).read(), written))
    return tuple(sorted(results, key=lambda one: one.when, reverse=True))


def album(model: Path, kind: str) -> Path:
    """The folder of the newest result of a kind, also where its JSON is damaged; MODEL/KIND where there is none."""
    folders = _folders(Path(model), kind)
    return folders[-1] if folders else Path(model) / kind


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result as indented JSON, atomically; ValueError for a value that JSON has no word for."""
    write_atomically(path, as_bytes(result))


def as_json(result: Mapping[str, Any]) -> str:
    """A result as indented JSON; ValueError for a value that JSON has no word for."""
    return json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_bytes(result: Mapping[str, Any]) -> bytes:
    """As `as_json`, as a file holds it; bytes of names that are not UTF-8 are escaped."""
    return as_json(result).encode(errors="backslashreplace")


def _folders(model: Path, kind: str) -> list[Path]:
    """Those that hold a result, oldest first. Their names begin with the time, to the second."""
    place = model / kind
    dated = [folder for folder in place.glob("[0-9]*") if (folder / f"{kind}.json").is_file()] if place.is_dir() else []

    def age(folder: Path) -> tuple[str, int]:
        day, _, rest = folder.name.partition("-")
        time, _, number = rest.partition("-")
        return f"{day}-{time}", int(number) if number.isdigit() else 1

    return [*([place] if (place / f"{kind}.json").is_file() else []), *sorted(dated, key=age)]


def _kept(kind: str, folder: Path, result: Mapping[str, Any], written: datetime.datetime) -> Kept:
    facts, model = result.get("kept"), result.get("model")
    facts = facts if isinstance(facts, dict) else {}
    try:
        when = datetime.datetime.fromisoformat(str(facts["when"])).astimezone()
    except (KeyError, ValueError, OverflowError):
        when = written
    return Kept(
        kind,
        folder,
        when,
        data=str(facts.get("data") or ""),
        counts=_counts(kind, result),
        model_id=str(model.get("model_id") or "") if isinstance(model, dict) else "",
        limit=_limit(kind, result),
        of=str(facts.get("of") or ""),
    )


def _counts(kind: str, result: Mapping[str, Any]) -> dict[str, int]:
    if kind == "evaluation":
        counts = result.get("counts")
        wanted = {name: counts.get(name) for name in ("good", "defective")} if isinstance(counts, Mapping) else {}
    else:
        wanted = {"good": result.get("goods")} if kind == "proof" else {"parts": result.get("n")}
    return {name: number for name, number in wanted.items() if isinstance(number, int)}


def _limit(kind: str, result: Mapping[str, Any]) -> float | None:
    group = {"evaluation": "operating_point", "proof": "false_alarm"}.get(kind)
    holder = result.get(group) if group else result
    value = holder.get("threshold") if isinstance(holder, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


@contextmanager
def _tidy(place: Path) -> Iterator[None]:
    """Takes MODEL/KIND away again where nothing could be written into it."""
    try:
        yield
    finally:
        with suppress(OSError):
            place.rmdir()
