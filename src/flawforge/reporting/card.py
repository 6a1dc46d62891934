"""The model card: README.md in every model folder, for the person who finds it a year later."""

from __future__ import annotations

from flawforge_runtime.bundle import Content
from flawforge_runtime.calibrate import Rules, pictures_needed
from flawforge_runtime.names import shown

TEMPLATE = """# {method} model `{model_id}`

Made by flawforge {version} on {created}. It judges pictures of one product; a higher score is stranger.

| | |
|---|---|
| method, profile | {method}, {profile} |
| canvas | {height} x {width} (h x w); pictures are letterboxed into it, maps come back at the picture's own size |
| trained on | {pictures} good pictures, {steps} steps, {seconds:.0f} s, seed {seed} |
| forger | `{forger}` |
{features}| score | {score} |
{promise}{guard}{exported}
{notes}
## Use

    flawforge inspect {{this folder}} PICTURE...
    flawforge evaluate {{this folder}} DATA

    import flawforge as ff
    decision = ff.load("{{this folder}}")("part.png")    # .verdict, .pred_score, .p_value, .anomaly_map, .regions

## Limits

The promise holds for parts that are made and photographed as the held-back good pictures were; another camera, light or
product voids it (`flawforge drift` watches for that). What the model cannot see: `flawforge pod`.
"""

PROMISE = """
## Promise

From {n} held-back good {of} (split-conformal), {how}: at most {false_alarm:.2%} of good parts are judged NG
and at most {review:.2%} NG or REVIEW. NG above score {threshold:.6g}, REVIEW above {review_threshold:.6g}, a pixel is
marked above {pixel_threshold:.6g}. A promise of 1 % needs {needed} held-back {of}.{rules}
"""

GUARD = """
## Pictures of something else

A picture that is not like any good picture (blank, smeared, half out of the frame, another product) is NG whatever the
network says, and is marked `valid: false` with the reason. Of {count} good pictures, limits that had not seen them rejected
{flagged}; such rejects come on top of the promise.
"""


FEATURES = (
    "| features | `{backbone}`, its weights from {source} and held in this folder; licence {licence}; sha256 of their file "
    "`{sha256}` |\n"
)


EXPORT = """
## Export

Exported from model `{model}` to {to} in {precision} (ONNX opset {opset}). It judges without torch:
`flawforge_runtime.load(folder)`. Compared with that model on {p_good} good and {p_forged} forged pictures ({p_source}): the
largest difference of a score is {p_score_difference:.3g} (scores spread over {p_score_spread:.3g}), of a map
{p_map_difference:.3g}; {flipped} of {count} verdicts flipped.
"""


def model_card(content: Content) -> str:
    """Markdown from the model's own settings and calibration."""
    config, calibration = content.config, content.calibration
    training, rule = config["training"], config["score_rule"]
    promise = ""
    if calibration is not None:
        sure, rules = calibration.confidence, calibration.rules
        values = calibration.as_dict() | {
            "needed": pictures_needed(0.01, sure),
            "of": "parts" if calibration.per_part else "pictures",
            "how": f"cross-conformal in {calibration.folds} folds, not proved"
            if calibration.folds
            else "on average"
            if sure is None
            else f"with {sure:.4g} confidence",
            "rules": f" Rules after the thresholds: {rules}." if rules != Rules() else "",
        }
        promise = PROMISE.format(**values)
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
    return TEMPLATE.format(
        features=features,
        method=config["method"],
        model_id=content.model_id,
        version=config["flawforge_version"],
        created=config["created"],
        profile=config["profile"],
        height=config["canvas"][0],
        width=config["canvas"][1],
        pictures=training["pictures"],
        steps=training["steps"],
        seconds=training["seconds"],
        seed=config["seed"],
        forger=training["forger"] or "none",
        score=f"{rule['reduce']} of the map after a {rule['smooth']} x {rule['smooth']} mean",
        promise=promise,
        guard=guard,
        exported=exported,
        notes=f"\n## Notes\n\n{notes}\n" if notes else "",
    )
