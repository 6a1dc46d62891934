"""Stored results at new limits: after `calibrate` the scores that a model folder keeps are judged again.

The newest result of each data set is judged again and kept beside the old one. Scores alone do not say everything: where
rules on marked regions apply, nothing is judged again; the marks stay those of the old limits; a picture that was not like
any good picture stays NG. Where it has changed what is like one, a result with such pictures is not judged again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flawforge.proving import drift as drifting
from flawforge.proving import evaluate as evaluating
from flawforge.proving import intervals, pod, shares
from flawforge.proving.curves import Trial, tally
from flawforge.reporting.card import when
from flawforge.reporting.kept import KINDS, Kept, keep, kept
from flawforge.types import DataError
from flawforge_runtime.calibrate import Calibration, Rules

Result = dict[str, Any]
RULED = "rules on marked regions apply, and it holds scores alone"
WIDENED = "what is like a good picture has changed, which scores do not tell; run the command again"
NOTED = "Judged again at the limits that"
NOTE = NOTED + " flawforge calibrate has set since, from the scores of {when}; pictures show the old marks"


def judge_again(model: Path, calibration: Calibration, model_id: str, widened: bool = False) -> list[str]:
    """Judge the stored results of a model at its new limits and keep what comes out; returns sentences for people.

    widened  more pictures than before pass as like a good one, which stored scores do not tell
    Nothing that was kept before is changed. OSError (a full disk) passes through.
    """
    lines = []
    for kind in KINDS:
        newest: dict[str, Kept] = {}
        for one in kept(model, kind):
            if one.model_id in ("", model_id):
                newest.setdefault(one.data, one)
        for one in reversed(newest.values()):  # the newest is kept last, and so stays the newest
            try:
                before = one.read()
                result = WIDENED if widened and _foreign(kind, before) else JUDGES[kind](before, calibration)
            except (DataError, KeyError, TypeError, ValueError, AttributeError):
                lines.append(f"not judged again, because it holds a value that cannot be used: {one.text}")
                continue
            if isinstance(result, str):
                lines.append(f"not judged again, because {result}: {one.text}")
                continue
            at = one.of or f"{one.when:%Y-%m-%d %H:%M:%S}"
            notes = [note for note in result.get("notes") or () if not str(note).startswith(NOTED)]  # of an earlier time
            result["notes"] = [*notes, NOTE.format(when=when(at))]
            files = {str(row["file"]): one.folder / Path(str(row["file"])).name for row in result["overlays"]}
            again = keep(model, kind, result, data=one.data, of=at, files=files)
            lines.append(f"judged again at the new limits: {again.text}{_moved(kind, before, result)}")
    return lines


def _foreign(kind: str, result: Mapping[str, Any]) -> bool:
    """Whether some of its pictures were rejected because they were like no good one."""
    if kind == "drift":
        return bool(result.get("invalid"))
    return kind == "evaluation" and not all(row.get("valid", True) for row in result["pictures"])


def _moved(kind: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What the new limits do to an evaluation: ": ..."; "" for other results."""
    if kind != "evaluation":
        return ""
    words = []
    for name, label in (("defects not rejected", 1), ("good parts rejected", 0)):
        old, new = ([row["verdict"] for row in result["pictures"] if row["label"] == label] for result in (before, now))
        if old:
            count = [sum((verdict == "NG") == (label == 0) for verdict in verdicts) for verdicts in (old, new)]
            words.append(f"{name} {count[0]} of {len(old)} before, {count[1]} now")
    return f": {'; '.join(words)}" if words else ""


def evaluation_at(result: Result, calibration: Calibration) -> Result | str:
    """An evaluation, as its JSON, at other limits; a phrase where that cannot be had."""
    if _ruled(calibration):
        return RULED
    rows = [_row_at(row, calibration) for row in result["pictures"]]
    good, defective = ([row for row in rows if row["label"] == label] for label in (0, 1))
    kinds = {
        name: {**kind, "escape_rate": shares.escape_rate([row for row in defective if row["kind"] == name])._asdict()}
        for name, kind in result["kinds"].items()
    }
    pixel = result["pixel"] and {name: value for name, value in result["pixel"].items() if name != "iou"}
    by_path = {row["path"]: row for row in rows}
    overlays = [
        {**shown, **{key: row[key] for key in ("score", "p_value", "verdict")}, "group": group}
        for shown in result["overlays"]
        if (row := by_path.get(shown["path"])) is not None and (group := _group_at(shown["group"], row))
    ]
    return result | {
        "pixel": pixel,
        "operating_point": shares.operating_point(calibration, shares.rates_of(good, defective)),
        "confusion": shares.confusion_of(rows),
        "kinds": kinds,
        "pictures": rows,
        "overlays": overlays,
    }


def _ruled(calibration: Calibration) -> bool:
    """Whether a verdict hangs on more than the score."""
    return calibration.rules != Rules(mm_per_pixel=calibration.rules.mm_per_pixel)


def _row_at(row: Mapping[str, Any], calibration: Calibration) -> Result:
    """One picture of an evaluation; one like no good picture stays NG, above every good one."""
    valid = row.get("valid", True)
    score = row["score"] if valid else max(row["score"], calibration.beyond)
    verdict = calibration.verdict(score) if valid else "NG"
    return {**row, "score": score, "p_value": calibration.p_value(score), "verdict": verdict}


def _group(row: Mapping[str, Any]) -> str:
    if row["label"]:
        return "detection" if row["verdict"] == "NG" else "escape"
    return "false_alarm" if row["verdict"] == "NG" else "good"


def _group_at(group: str, row: Mapping[str, Any]) -> str:
    """What a picture shows now; "" for a large one of the first screen that no longer shows what it was chosen for."""
    now = _group(row)
    if group in evaluating.FIRST.values():
        return group if evaluating.FIRST.get(now) == group else ""
    return now


def proof_at(result: Result, calibration: Calibration) -> Result | str:
    """A POD, as its JSON, at other limits; a phrase where that cannot be had.

    A forgery counts as found where it is NG now and the marks of then touch it.
    """
    if _ruled(calibration):
        return RULED
    goods, scale, recipe = result["good_scores"], result["mm_per_pixel"], result["recipe"]
    places = {row["path"]: place for place, row in enumerate(goods)}
    parts = [row.get("part", place) for place, row in enumerate(goods)]
    trials = [
        Trial(
            row["kind"],
            row["contrast"],
            row["size"] / (scale or 1.0),
            places[row["good"]],
            row["score"],
            calibration.verdict(row["score"]),
            row["pointed"],
        )
        for row in result["trials"]
    ]
    judged = [(row["score"], calibration.verdict(row["score"])) for row in goods]
    found = tally(trials, recipe["kinds"], recipe["contrasts"], scale, recipe["seed"], parts, real="real_defects" in result)
    names = [str(row["path"]) for row in goods]
    alarm = pod.false_alarm_of(calibration, judged, _files(names), parts)
    if found.real is not None:
        result = result | {"real_defects": found.real.as_dict()}
    return result | {
        "false_alarm": alarm.as_dict(),
        "curves": [curve.as_dict() for curve in found.curves],
        "rejected_elsewhere": {
            "count": found.elsewhere,
            "of": found.rejected,
            **intervals.rate(found.elsewhere, found.rejected)._asdict(),
        },
        "trials": [pod.row_of(trial, scale, names) for trial in trials],
        "good_scores": [{**row, "verdict": verdict} for row, (_, verdict) in zip(goods, judged, strict=True)],
        "overlays": [overlay for shown in result["overlays"] if (overlay := _shown_at(shown, calibration)) is not None],
    }


def _files(names: Sequence[str]) -> list[Any]:
    """The pictures as paths where they still lie there, so that those that were calibrated on are known by their bytes."""
    return [path if (path := Path(name)).is_file() else name for name in names]


def _shown_at(shown: Mapping[str, Any], calibration: Calibration) -> Result | None:
    """A picture of a POD; None where it may no longer show what its group says."""
    verdict = calibration.verdict(shown["score"])
    rejected, before = verdict == "NG", shown["verdict"] == "NG"
    hit, missed = (shown["group"] in names for names in (("found", "top_catch"), ("missed", "top_miss")))
    if (hit and not rejected) or (missed and rejected and not before):
        return None
    changed = {"verdict": verdict, "p_value": calibration.p_value(shown["score"])}
    return {**shown, **changed, **({"rejected": rejected} if "rejected" in shown else {})}


def drift_at(result: Result, calibration: Calibration) -> Result | str:
    """A drift check, as its JSON, against other held-back pictures; a phrase where that cannot be had."""
    pictures = all(Path(row["part"]).suffix or row["part"].startswith("picture ") for row in result["parts"])
    if calibration.per_part == pictures:
        return f"it counts {'pictures' if pictures else 'parts'} and the limits do not"
    alarm, defects, seed = result["alarm_rate"], result["defects"], result["seed"]
    scores = [row["score"] for row in result["parts"]]
    looks = [
        drifting.compared(row["name"], calibration.looks, row["now"], row["now_low"], row["now_high"])
        for row in result["looks"]
    ]
    again = drifting.Drift(
        **drifting.finding(calibration, scores, alarm=alarm, defects=defects, seed=seed),
        looks=tuple(sorted((row for row in looks if row is not None), key=lambda row: -abs(row["shift"]))),
        skipped=tuple(result["skipped"]),
        model=result["model"],
        invalid=result.get("invalid", 0),
        parts=tuple(result["parts"]),
    )
    return result | again.as_dict()


JUDGES = {"evaluation": evaluation_at, "proof": proof_at, "drift": drift_at}
