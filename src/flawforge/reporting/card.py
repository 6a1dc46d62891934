"""The model card: README.md in every model folder, for the person who finds it a year later."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flawforge_runtime.bundle import Content
from flawforge_runtime.names import shown
from flawforge_runtime.rates import percent, percent_up, pictures_needed, strictest_rate

MONTHS = (  # in English whatever the locale is
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)

TEMPLATE = """# {method} model `{model_id}`

Made by flawforge {version} on {created}. It judges pictures of one product; a higher score is more anomalous.

| | |
|---|---|
| method, profile | {method}, {profile} |
| canvas | {height} x {width} (h x w); pictures are letterboxed into it, maps come back at the picture's own size |
| trained on | {pictures} good pictures, {steps} steps, {seconds:.0f} s, seed {seed} |
| synthetic defects in training | {forgers} |
{defects}{features}| score | {score} |
{rates}{guard}{exported}
{notes}
## Use

    flawforge inspect {{this folder}} PICTURE...
    flawforge evaluate {{this folder}} DATA

    import flawforge as ff
    decision = ff.load("{{this folder}}")("part.png")    # .verdict, .pred_score, .p_value, .anomaly_map, .regions

## Limits

The false-alarm rate holds for parts that are made and photographed like the calibration pictures; another camera, light or
product voids it (`flawforge drift` detects that). It says nothing about missed defects: `flawforge evaluate` measures
those on real defects, `flawforge pod` on synthetic ones.
"""

RATES = """
## False-alarm rate

| verdict | score | good parts, on average | this model, {sure} confidence |
|---|---|---|---|
| NG (rejected) | above {threshold:.6g} | {ng} | up to {ng_bound} |
| REVIEW or NG | above {review_threshold:.6g} | {flagged} | up to {flagged_bound} |

These rates come from {n} calibration {of} ({how}). They support rates from {best} upwards; 1 % takes {needed}.
A pixel is marked above {pixel_threshold:.6g}{marked}.{rules}
"""

GUARD = """
## Pictures of something else

A picture that is not like any good picture (blank, smeared, half out of the frame, another product, or a part with a large
defect) is NG whatever the network says, and is marked `valid: false` with the reason.
Of {count} good pictures, limits that had not seen them rejected {flagged}; such rejects come on top of the rates above.
"""


FEATURES = (
    "| features | `{backbone}`, its weights from {source} and held in this folder; licence {licence}; sha256 of their file "
    "`{sha256}` |\n"
)

DEFECTS = "| real defects | {about} |\n"
DEFECT_FILES = "| their pictures, by SHA-256 |"  # not for handing on, as the fingerprints of the good pictures


EXPORT = """
## Export

Exported from model `{model}` to {to} in {precision} (ONNX opset {opset}). It judges without torch:
`flawforge_runtime.load(folder)`. Compared with that model on {p_good} good pictures and {p_forged} with synthetic defects
({p_source}): the largest difference of a score is {p_score_difference:.3g} (scores spread over {p_score_spread:.3g}), of a
map {p_map_difference:.3g}; {flipped} of {count} verdicts flipped.
"""


def when(stamp: str) -> str:
    """An ISO time for people: 2025-01-31T12:00:00+00:00 -> 31 January 2025, 12:00 UTC; another text as it is."""
    try:
        at = datetime.fromisoformat(stamp)
    except ValueError:
        return stamp
    zone = f" {at.tzname()}" if at.tzinfo is not None else ""
    return f"{at.day} {MONTHS[at.month - 1]} {at.year}, {at:%H:%M}{zone}"


def defects_in_words(config: Mapping[str, Any]) -> str:
    """How many pictures with real defects a fit was given, and what for; "" where none."""
    about = (config.get("training") or {}).get("defects")
    if not about:
        return ""
    kinds = ", ".join(f"{shown(kind)} {count}" for kind, count in about["kinds"].items())
    kept = about["pictures"] - about["trained_on"]
    return f"{about['pictures']} pictures ({kinds}), {kept} of them kept from training to prove it"


def _forgers(training: Mapping[str, Any]) -> str:
    """Names of the forgers that a model was trained on, as code; "none" where it was trained on none."""
    # Models of before hold the forger as Python writes it, also where no step was trained.
    old = re.findall(r"\w+(?=\()", str(training.get("forger", ""))) if training.get("steps") else []
    names = dict.fromkeys(training.get("forgers", old))
    return ", ".join(f"`{name}`" for name in names) or "none"


def handed_on(text: str) -> str:
    """A model card without the line that tells the pictures with real defects again."""
    return "\n".join(line for line in text.split("\n") if not line.startswith(DEFECT_FILES))


def model_card(content: Content) -> str:
    """Markdown from the model's own settings and calibration."""
    config, calibration = content.config, content.calibration
    training, rule = config["training"], config["score_rule"]
    rates = ""
    if calibration is not None:
        sure, rules = calibration.confidence, calibration.rules
        ng, flagged = calibration.rate_ng, calibration.rate_flagged
        values = calibration.as_dict() | {
            "ng": percent(ng.expected),
            "ng_bound": percent(ng.bound),
            "flagged": percent(flagged.expected),
            "flagged_bound": percent(flagged.bound),
            "sure": percent(ng.confidence),
            "needed": pictures_needed(0.01, sure),
            "best": percent_up(strictest_rate(calibration.n, sure)),
            "of": calibration.of,
            "how": f"cross-conformal in {calibration.folds} folds: an estimate, not a guarantee"
            if calibration.folds
            else "split-conformal"
            if sure is None
            else f"split-conformal, limits kept with {percent(sure)} confidence",
            "marked": ""
            if calibration.mark_rate is None
            else f": {percent(calibration.rate_marked.expected)} of good parts get a mark on average, whatever the verdict",
            "rules": f" Rules after the thresholds: {rules.text}." if rules.text else "",
        }
        rates = RATES.format(**values)
    guard = ""
    if content.guard is not None:
        guard = GUARD.format(count=content.guard.count, flagged=content.guard.flagged)
    notes = "\n".join(f"- {shown(note)}" for note in (*config["notes"], *config["data_report"]["notes"]))
    export = config.get("export")
    exported = ""
    if export:
        parity = export["parity"]
        exported = EXPORT.format(
            **export,
            **{f"p_{key}": value for key, value in {**parity, "source": shown(parity["source"])}.items()},
            count=parity["good"] + parity["forged"],
            flipped=len(parity["flips"]),
            model=export["from"],
        )
    trunk = config.get("trunk")
    features = ""
    if trunk:
        features = FEATURES.format(**trunk | {"licence": trunk["licence"] or "not known; ask whoever gave the weights"})
    defects = defects_in_words(config)
    if defects:
        files = ", ".join(f"{shown(each['name'])} `{each['sha256']}` ({each['use']})" for each in config.get("defects", ()))
        defects = DEFECTS.format(about=defects) + (f"{DEFECT_FILES} {files} |\n" if files else "")
    return TEMPLATE.format(
        defects=defects,
        features=features,
        method=config["method"],
        model_id=content.model_id,
        version=config["flawforge_version"],
        created=when(config["created"]),
        profile=config["profile"],
        height=config["canvas"][0],
        width=config["canvas"][1],
        pictures=training["pictures"],
        steps=training["steps"],
        seconds=training["seconds"],
        seed=config["seed"],
        forgers=_forgers(training),
        score=f"{rule['reduce']} of the map after a {rule['smooth']} x {rule['smooth']} mean",
        rates=rates,
        guard=guard,
        exported=exported,
        notes=f"\n## Notes\n\n{notes}\n" if notes else "",
    )
