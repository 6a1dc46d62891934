"""What a model's figures mean for the person who has to decide: may I use this?

Pure functions over the calibration and the dict of `flawforge evaluate --json`; the report shows what they say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flawforge.reporting import pod_words
from flawforge_runtime.calibrate import Calibration, percent, pictures_needed, strictest_rate

Facts = dict[str, Any]


def promise(calibration: Calibration | None) -> Facts | None:
    """What the held-back good pictures carry, in figures and in one text; None without thresholds."""
    if calibration is None:
        return None
    return {
        "false_alarm": calibration.false_alarm,
        "review": calibration.review,
        "n": calibration.n,
        "confidence": calibration.confidence,
        "strictest": strictest_rate(calibration.n, calibration.confidence),
        "needed_for_1_percent": pictures_needed(0.01, calibration.confidence),
        "text": _promise_text(calibration),
    }


def _promise_text(calibration: Calibration) -> str:
    n, sure = calibration.n, calibration.confidence
    best = strictest_rate(n, sure)
    of = "parts" if calibration.per_part else "pictures"
    if calibration.fixed is not None:
        return (
            f"The threshold was set by hand; on average {percent(calibration.carried(calibration.fixed))} of good parts or "
            f"fewer lie above it, as far as {n} held-back good {of} can say."
        )
    how = "on average" if sure is None else f"with {percent(sure)} confidence"
    text = f"At most {percent(calibration.false_alarm)} of good parts are rejected, {how}; "
    text += f"{n} held-back good {of} carry that promise."
    if calibration.folds:
        text = (
            f"About {percent(calibration.false_alarm)} of good parts are rejected, or fewer: {n} good {of} in "
            f"{calibration.folds} folds say so, each scored by a model that had not seen it. That is weaker than a "
            "hold-out, which proves it."
        )
    if best > 0.01:
        return f"{text} A promise of 1 % takes {pictures_needed(0.01, sure)} of them; {n} carry {percent(best)} at best."
    return f"{text} They carry {percent(best)} at best."


def answer(
    calibration: Calibration | None, evaluation: Facts | None, proof: Facts | None = None, drift: Facts | None = None
) -> list[dict[str, str]]:
    """Sentences for the first screen: {"tone": "good" | "open" | "warn", "text"}; the first one is the headline.

    proof, drift  the dicts of `flawforge pod --json` and `flawforge drift --json`; None = there is none
    """
    sentences = _answer(calibration, evaluation)
    if calibration is None:
        return sentences
    pod_sentences = pod_words.sentences(proof["curves"]) if proof and proof.get("curves") else []
    if pod_sentences and not evaluation:
        text = "Its false alarms are promised, and what it sees is shown on forged defects; real ones have not been tried."
        sentences = [{"tone": "open", "text": text}]
        if proof and not pod_words.best(proof["curves"])["of"]:
            text = (
                "Not on this evidence: it was not shown to find 9 of 10 forged defects of any kind, and real ones have "
                "not been tried."
            )
            sentences = [{"tone": "warn", "text": text}]
    sentences = [sentences[0], *({"tone": "open", "text": text} for text in pod_sentences), *sentences[1:]]
    if drift and drift.get("alarm"):
        sentences = [{"tone": "warn", "text": f"Not now: {drift['text']}"}, *sentences[1:]]
    return sentences


def _answer(calibration: Calibration | None, evaluation: Facts | None) -> list[dict[str, str]]:
    """What the promise and real pictures say."""
    if calibration is None:
        return [{"tone": "warn", "text": "Not yet: the model gives scores, but it has no thresholds and so no verdicts."}]
    point = (evaluation or {}).get("operating_point") or {}
    escape, alarm = point.get("escape_rate") or {}, point.get("false_alarm_rate") or {}
    if escape.get("value") is None or escape.get("high") is None:
        return [{"tone": "open", "text": "Its false alarms are promised. How many defects it passes has not been measured."}]
    counts = (evaluation or {}).get("counts") or {}
    defective, good = int(counts.get("defective", 0)), int(counts.get("good", 0))
    notes = []
    alarms = round((alarm.get("value") or 0.0) * good)
    if alarms > calibration.false_alarm * good and chance_of_alarms(alarms, good, calibration) < 0.025:
        notes.append(
            {
                "tone": "warn",
                "text": f"It rejected {alarms} of {good} good pictures, more than the promised "
                f"{percent(calibration.false_alarm)} by more than chance explains: these pictures are not like the ones "
                "held back for calibration. Calibrate again with good pictures from the line as it runs now.",
            }
        )
    peak = ((evaluation or {}).get("pixel") or {}).get("peak_on_defect") or {}
    if peak.get("value") is not None and peak["value"] < 0.8:
        notes.append(
            {
                "tone": "warn",
                "text": f"Only in {percent(peak['value'])} of the defective pictures does the map peak on the defect; "
                "elsewhere the score may be right for the wrong reason. Look at the overlays below.",
            }
        )
    few = f"{good} good and {defective} defective pictures are few: more of them would narrow the intervals."
    warned = any(note["tone"] == "warn" for note in notes)
    if min(good, defective) < 30:
        notes.append({"tone": "open", "text": few})
    limit = f"up to {percent(escape['high'])} of defects like those tried may go unrejected"
    if escape["high"] > 0.5:
        return [{"tone": "warn", "text": f"Hardly: {limit}."}, *notes]
    if warned:
        return [{"tone": "warn", "text": f"Not before the red notes below are cleared; and {limit}."}, *notes]
    return [{"tone": "good" if escape["high"] <= 0.2 else "open", "text": f"Yes, if you can accept that {limit}."}, *notes]


def chance_of_alarms(alarms: int, good: int, calibration: Calibration) -> float:
    """Probability in [0, 1] of `alarms` or more among `good` fresh pictures that are like the held-back ones.

    The rate behind a threshold varies with the held-back pictures as Beta(k, n + 1 - k) (Vovk 2012, Conditional
    validity of inductive conformal predictors, prop. 2a), so the count is beta-binomial.
    """
    k = calibration.rank
    a, b = k, calibration.n + 1 - k

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
) -> list[dict[str, str]]:
    """What the report cannot say, and the command that would change it."""
    parts = [
        (calibration is None, "The model has no thresholds.", f"flawforge calibrate {name} GOOD"),
        (not proof, "What it can see has not been proved on forged defects.", f"flawforge pod {name} DATA"),
        (
            not drift,
            "Whether parts in use are still like those it was calibrated on is not known.",
            f"flawforge drift {name} PARTS_IN_USE",
        ),
        (not evaluation, "It has not been tried on labelled pictures.", f"flawforge evaluate {name} DATA"),
        (
            bool(evaluation) and not (evaluation or {}).get("pixel"),
            "The evaluation had no masks that count: nothing is said on pixels.",
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
