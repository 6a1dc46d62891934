"""What a model's figures mean for the person who has to decide: may I use this?

Pure functions over the calibration and the dict of `flawforge evaluate --json`; the report shows what they say. A "yes" is
only given where acceptance criteria were stated and all of them pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flawforge.reporting import pod_words
from flawforge.reporting.acceptance import CRITERIA, FAIL, NOT_ENOUGH, PASS, Acceptance
from flawforge_runtime.calibrate import Calibration
from flawforge_runtime.rates import ExpectedRate, noun, percent, pictures_needed, strictest_rate

Facts = dict[str, Any]
FEW = 30  # pictures of a class; with fewer, the report says that they are few
NO_CRITERIA = "No acceptance criteria given."


def expected(calibration: Calibration | None) -> Facts | None:
    """What the calibration pictures say of good parts rejected, in figures and in one text; None without thresholds."""
    if calibration is None:
        return None
    return {
        "ng": calibration.rate_ng.as_dict(),
        "unstated": calibration.rate_ng.unstated,
        "flagged": calibration.rate_flagged.as_dict(),
        "strictest": strictest_rate(calibration.n, calibration.confidence),
        "needed_for_1_percent": pictures_needed(0.01, calibration.confidence),
        "text": _expected_text(calibration),
    }


def _expected_text(calibration: Calibration) -> str:
    n, sure, rate = calibration.n, calibration.confidence, calibration.rate_ng
    of = noun(n, calibration.of)
    text = (
        f"Expect {percent(rate.expected)} of good parts to be rejected (NG) on average, and up to {percent(rate.bound)} by "
        f"this model ({percent(rate.confidence)} confidence)"
    )
    show = "shows" if n == 1 else "show"
    if rate.unstated:
        return f"The false-alarm r{rate.text.removeprefix('r')}. Give more pictures of good parts to flawforge calibrate."
    if calibration.fixed is not None:
        return f"The limit was set by hand. {text}, as {n} calibration {of} {show}."
    if calibration.folds:
        return (
            f"{text}: an estimate from {n} calibration {of} in {calibration.folds} folds, each scored by a model that had "
            "not seen it. It is weaker than a hold-out, which guarantees both numbers."
        )
    if strictest_rate(n, sure) > 0.01 and rate.rank == 1:
        return f"{text}. With {n} calibration {of} it cannot be set lower; 1 % needs {pictures_needed(0.01, sure)}."
    return f"{text}, as {n} calibration {of} {show}."


def answer(
    calibration: Calibration | None,
    evaluation: Facts | None,
    proof: Facts | None = None,
    drift: Facts | None = None,
    acceptance: Acceptance | None = None,
) -> list[dict[str, str]]:
    """Sentences for the first screen: {"tone": "good" | "open" | "warn" | "found", "text"}; the first one is the headline.

    The headline begins with "Yes", "No" or "Not yet". proof, drift: the dicts of `flawforge pod --json` and
    `flawforge drift --json`; None = there is none. acceptance: None = no criteria were given. "found": what a
    table of the page shows as well.
    """
    if calibration is None:
        return [_said("warn", "Not yet: the model gives scores, but it has no thresholds and so no verdicts.")]
    notes = _notes(calibration, evaluation)
    if drift and drift.get("alarm"):
        head = _said("warn", "No: production parts no longer resemble the calibration pictures.")
        notes = [_said("warn", f"Drift: {drift['text']}"), *notes]
    elif acceptance is not None:
        head = _accepted(acceptance, any(note["tone"] == "warn" for note in notes))
    else:
        head = _open_answer(evaluation, proof, notes)
    tones = {PASS: "good", NOT_ENOUGH: "open", FAIL: "warn"}
    criteria = [_said(tones[criterion.verdict], criterion.text) for criterion in acceptance.criteria] if acceptance else []
    if not criteria:
        text = (
            f"{NO_CRITERIA} With --accept-false-alarms and --accept-escapes, this page says PASS, FAIL or NOT ENOUGH DATA."
        )
        criteria = [_said("open", text)]
    sentences = pod_words.sentences(proof["curves"]) if proof and proof.get("curves") else []
    return [head, *criteria, *notes, *(_said("found", text) for text in sentences)]


def _accepted(acceptance: Acceptance, warned: bool) -> dict[str, str]:
    """The headline where criteria were given."""
    names = {
        verdict: _listed([c.name for c in acceptance.criteria if c.verdict == verdict]) for verdict in (FAIL, NOT_ENOUGH)
    }
    missing = [name for name in CRITERIA if name not in {criterion.name for criterion in acceptance.criteria}]
    if acceptance.verdict == FAIL:
        return _said("warn", f"No: it fails the acceptance criterion for {names[FAIL]}.")
    if acceptance.verdict == NOT_ENOUGH:
        return _said("open", f"Not yet: there are not enough data to accept {names[NOT_ENOUGH]}.")
    if warned:
        return _said("warn", "Not yet: the acceptance criteria pass, but the red notes below must be cleared first.")
    if missing:
        return _said("open", f"Not yet: the criterion that was given passes, but there is none for {_listed(missing)}.")
    return _said("good", "Yes: the acceptance criteria pass, for parts and defects like those measured.")


def _open_answer(evaluation: Facts | None, proof: Facts | None, notes: list[dict[str, str]]) -> dict[str, str]:
    """The headline where no criteria were given: never a yes."""
    escape = ((evaluation or {}).get("operating_point") or {}).get("escape_rate") or {}
    if escape.get("value") is None or escape.get("high") is None:
        if not proof or not proof.get("curves"):
            return _said("open", "Not yet: how many defects it misses has not been measured.")
        best = pod_words.best(proof["curves"])
        if not best["of"] and best["missed_none"]:
            text = "Not yet: it found all synthetic defects at the plainest contrast, but too few were tried to show 9 of 10"
            return _said("open", f"{text}, and real defects have not been tested.")
        if not best["of"]:
            text = "No, not on this evidence: finding 9 of 10 synthetic defects was not demonstrated for any kind"
            return _said("warn", f"{text}, and real defects have not been tested.")
        return _said("open", "Not yet: it has been tested on synthetic defects only, not on real ones.")
    limit = f"it may miss up to {percent(escape['high'])} of defects like those tested"
    if escape["high"] > 0.5:
        return _said("warn", f"No: {limit} (95 % confidence).")
    if any(note["tone"] == "warn" for note in notes):
        return _said("warn", f"Not yet: the red notes below must be cleared first; and {limit}.")
    return _said("open", f"Not yet: no acceptance criteria were given, and {limit} (95 % confidence).")


def _notes(calibration: Calibration, evaluation: Facts | None) -> list[dict[str, str]]:
    """What stands beside the figures: doubts, contradictions, the right score for the wrong reason, few pictures."""
    point = (evaluation or {}).get("operating_point") or {}
    counts = (evaluation or {}).get("counts") or {}
    defective, good = int(counts.get("defective", 0)), int(counts.get("good", 0))
    alarm = point.get("false_alarm_rate") or {}
    notes = [_said("warn", f"{doubt}.") for doubt in calibration.doubts]
    if alarm.get("value") is not None and alarm.get("low") is not None:
        note = against_expected(calibration.rate_ng, alarm, good)
        notes += [note] if note else []
    peak = ((evaluation or {}).get("pixel") or {}).get("peak_on_defect") or {}
    if peak.get("value") is not None and peak["value"] < 0.8:
        text = f"Only in {percent(peak['value'])} of the defective pictures does the map peak on the defect; elsewhere the"
        notes.append(_said("warn", f"{text} score may be right for the wrong reason. Look at the pictures below."))
    if evaluation and point and min(good, defective) < FEW:
        few = [f"{count} {name}" for name, count in (("good", good), ("defective", defective)) if count < FEW]
        pictures = "picture is" if few == ["1 good"] or few == ["1 defective"] else "pictures are"
        notes.append(_said("open", f"{_listed(few)} {pictures} few: more of them would narrow the intervals."))
    return notes


def against_expected(rate: ExpectedRate, alarm: Mapping[str, Any], good: int) -> dict[str, str] | None:
    """A sentence where clearly more good pictures were rejected than expected; None where not.

    alarm  {"value", "low", "high"} of `good` pictures
    It is a contradiction, and not chance, where the whole interval lies above the bound or where so many rejects have a
    probability below 2.5 %.
    """
    value, low, high = (float(alarm[key]) for key in ("value", "low", "high"))
    alarms = round(value * good)
    if alarms <= rate.expected * good + 1:  # one reject more than expected is nothing to speak of
        return None
    head = f"It rejected {alarms} of {good} good pictures ({percent(value)})"
    if low > rate.bound or chance_of_alarms(alarms, good, rate) < 0.025:
        text = (
            f"{head}, more than the expected {percent(rate.expected)} by more than chance explains: these pictures differ "
            "from the calibration pictures in camera, light, product or batch. Calibrate again with good pictures from the "
            "line as it runs now."
        )
        return _said("warn", text)
    text = (
        f"{head}, more than the expected {percent(rate.expected)}. Chance can explain it: this model's own rate may be up "
        f"to {percent(rate.bound)}, and {good} pictures measure it only to {percent(low)} to {percent(high)}."
    )
    return _said("open", text)


def _said(tone: str, text: str) -> dict[str, str]:
    return {"tone": tone, "text": text}


def _listed(names: list[str]) -> str:
    return " and ".join(names)


def chance_of_alarms(alarms: int, good: int, rate: ExpectedRate) -> float:
    """Probability in [0, 1] of `alarms` or more among `good` fresh pictures that are like the calibration pictures.

    The rate behind a threshold varies with the calibration pictures as Beta(k, n + 1 - k) (Vovk 2012, Conditional
    validity of inductive conformal predictors, prop. 2a), so the count is beta-binomial.
    """
    a, b = rate.rank, rate.n + 1 - rate.rank
    if b < 1:  # a limit below every calibration score: all may be rejected
        return 1.0

    def log_beta(x: float, y: float) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    def log_pmf(j: int) -> float:
        choose = -math.log(good + 1) - log_beta(j + 1, good - j + 1)
        return choose + log_beta(j + a, good - j + b) - log_beta(a, b)

    return min(1.0, math.fsum(math.exp(log_pmf(j)) for j in range(alarms, good + 1)))


def stale(model_id: str, calibration: Calibration | None, evaluation: Facts | None) -> bool:
    """The evaluation was made with other weights or another threshold than the folder now has."""
    if not evaluation:
        return False
    evaluated = (evaluation.get("model") or {}).get("model_id")
    threshold = (evaluation.get("operating_point") or {}).get("threshold")
    moved = calibration is not None and threshold is not None and not math.isclose(threshold, calibration.threshold)
    return moved or (evaluated is not None and evaluated != model_id)


def missing(
    name: str,
    config: Mapping[str, Any],
    calibration: Calibration | None,
    evaluation: Facts | None,
    proof: Facts | None = None,
    drift: Facts | None = None,
    acceptance: Acceptance | None = None,
) -> list[dict[str, str]]:
    """What the report cannot say, and the command that would change it."""
    parts = [
        (
            acceptance is None,
            "Whether its rates are acceptable: no acceptance criteria were given.",
            f"flawforge report {name} --accept-false-alarms 2% --accept-escapes 5%",
        ),
        (calibration is None, "The model has no thresholds.", f"flawforge calibrate {name} GOOD"),
        (not proof, "Which sizes of synthetic defects it finds has not been measured.", f"flawforge pod {name} DATA"),
        (
            not drift,
            "Whether production parts still resemble the calibration pictures is not known.",
            f"flawforge drift {name} PRODUCTION_PICTURES",
        ),
        (not evaluation, "It has not been tested on labelled pictures.", f"flawforge evaluate {name} DATA"),
        (
            bool(evaluation) and not (evaluation or {}).get("pixel"),
            "The evaluation had no usable masks, so there are no pixel figures.",
            f"flawforge evaluate {name} DATA_WITH_GROUND_TRUTH",
        ),
        (
            bool(evaluation) and not (evaluation or {}).get("pictures"),
            "The evaluation kept no scores per picture.",
            f"flawforge evaluate {name} DATA",
        ),
        (not config.get("data_report"), "No check of the training pictures was kept.", "flawforge fit DATA -o NEW_MODEL"),
        (
            not config.get("history") and bool((config.get("training") or {}).get("steps", 1)),
            "No training losses were kept.",
            "flawforge fit DATA -o NEW_MODEL",
        ),
    ]
    return [{"what": what, "command": command} for absent, what, command in parts if absent]
