"""The model card: what it says follows the model, and nothing in a model's words becomes Markdown of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flawforge.reporting.card import model_card, when
from flawforge_runtime import bundle
from flawforge_runtime.bundle import Content
from flawforge_runtime.calibrate import Rules, calibrate
from flawforge_runtime.rates import percent


@pytest.fixture(scope="module")
def content(tiny_model: Path) -> Content:
    return bundle.read(tiny_model)


def changed(content: Content, **config: Any) -> Content:
    return replace(content, config={**content.config, **config})


def sections(card: str) -> list[str]:
    return [line for line in card.splitlines() if line.startswith("#")]


def test_the_card_in_the_folder_is_the_models(content: Content) -> None:
    assert model_card(content) == content.card
    assert content.card.startswith(f"# draem model `{content.model_id}`")


def test_settings_are_stated(content: Content) -> None:
    card = model_card(content)
    training = content.config["training"]
    assert "| canvas | 64 x 64 (h x w)" in card
    assert f"{training['pictures']} good pictures, {training['steps']} steps" in card
    assert f"seed {content.config['seed']} |" in card
    assert training["forgers"] == ["perlin"]
    assert "| synthetic defects in training | `perlin` |" in card


def test_forgers_are_named_and_where_nothing_was_trained_there_are_none(content: Content) -> None:
    old = {key: value for key, value in content.config["training"].items() if key != "forgers"}
    for training, words in (
        ({**old, "forger": "Perlin()", "forgers": ["cutpaste", "transplant"]}, "`cutpaste`, `transplant`"),
        ({**old, "forger": "CutPaste(shape='scar')", "forgers": []}, "none"),
        ({**old, "forger": "Mixed(forgers=(Perlin(a=1), CutPaste()))", "steps": 3}, "`Mixed`, `Perlin`, `CutPaste`"),
        ({**old, "forger": "CutPaste(shape='scar')", "steps": 0}, "none"),
    ):
        assert f"| synthetic defects in training | {words} |\n" in model_card(changed(content, training=training))


def test_without_thresholds_there_is_no_rate_and_without_guard_no_word_of_it(content: Content) -> None:
    bare = model_card(replace(content, calibration=None, guard=None))
    assert "## False-alarm rate" not in bare
    assert "## Pictures of something else" not in bare
    assert "## Use" in bare
    full = model_card(content)
    assert "## False-alarm rate" in full
    assert content.guard is None or f"Of {content.guard.count} good pictures" in full


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "These rates come from 20 calibration pictures (split-conformal)."),
        ({"per_part": True}, "These rates come from 20 calibration parts (split-conformal)."),
        ({"rules": Rules(min_area=4.0, max_count=1)}, "Rules after the thresholds"),
    ],
)
def test_the_rates_say_what_they_rest_on(options: dict[str, Any], words: str, content: Content) -> None:
    made = calibrate([i / 100 for i in range(20)], 0.1, **options)
    card = model_card(replace(content, calibration=made))
    assert words in card
    assert ("Rules after the thresholds" in card) is ("rules" in options)


def test_rates_with_confidence_and_those_of_folds_say_so(content: Content) -> None:
    scores = [i / 100 for i in range(80)]
    sure = model_card(replace(content, calibration=calibrate(scores, 0.1, confidence=0.95)))
    folds = model_card(replace(content, calibration=replace(calibrate(scores, 0.1), folds=4)))
    plain = model_card(replace(content, calibration=calibrate(scores, 0.1)))
    assert "limits kept with 95 % confidence" in sure
    assert "cross-conformal in 4 folds: an estimate, not a guarantee" in folds
    assert "limits kept" not in plain
    assert "cross-conformal" not in plain


def test_notes_are_listed_and_hostile_ones_stay_one_line(content: Content) -> None:
    report = {**content.config["data_report"], "notes": ["2 pictures skipped"]}
    card = model_card(changed(content, notes=["a\nb", "c\x1b[31m"], data_report=report))
    listed = [line for line in card.splitlines() if line.startswith("- ")]
    assert listed == ["- a\\nb", "- c\\x1b[31m", "- 2 pictures skipped"]
    assert "## Notes" not in model_card(changed(content, notes=[], data_report={**report, "notes": []}))


def test_an_export_states_its_comparison(content: Content) -> None:
    parity = {
        "good": 20,
        "forged": 44,
        "source": "good ones\nheld back",
        "score_difference": 1.25e-6,
        "score_spread": 0.5,
        "map_difference": 2e-6,
        "flips": ["a", "b"],
    }
    export = {"from": "draem-1", "to": "onnx", "precision": "float32", "opset": 18, "parity": parity}
    card = model_card(changed(content, export=export))
    assert "## Export" in card
    assert "2 of 64 verdicts flipped" in card
    assert "good ones\\nheld back" in card
    assert "is 1.25e-06 (scores spread over 0.5)" in " ".join(card.split())
    assert "## Export" not in model_card(changed(content, export=None))


@pytest.mark.parametrize(
    ("licence", "words"), [("Apache-2.0", "licence Apache-2.0;"), (None, "licence not known; ask whoever")]
)
def test_features_from_outside_are_named_with_their_licence(licence: str | None, words: str, content: Content) -> None:
    trunk = {"backbone": "lite0", "source": "package x", "licence": licence, "sha256": "ab" * 32}
    card = model_card(changed(content, trunk=trunk))
    (row,) = [line for line in card.splitlines() if line.startswith("| features |")]
    assert words in row
    assert "`lite0`, its weights from package x" in row
    assert "ab" * 32 in row
    assert "| features |" not in model_card(changed(content, trunk=None))


def test_sections_come_in_one_order(content: Content) -> None:
    titles = sections(model_card(changed(content, notes=["x"])))[1:]
    order = ["## False-alarm rate", "## Pictures of something else", "## Export", "## Notes", "## Use", "## Limits"]
    assert titles == [title for title in order if title in titles]
    assert "{" not in model_card(content).replace("{this folder}", "")


@pytest.mark.parametrize(
    ("stamp", "words"),
    [
        ("2025-01-31T12:00:00+00:00", "31 January 2025, 12:00 UTC"),
        ("2024-12-01T07:05:59+01:00", "1 December 2024, 07:05 UTC+01:00"),
        ("2024-12-01T07:05:59", "1 December 2024, 07:05"),
        ("yesterday", "yesterday"),
    ],
)
def test_a_date_is_written_for_people(stamp: str, words: str) -> None:
    assert when(stamp) == words


def test_the_table_holds_the_calibrations_own_figures(content: Content) -> None:
    made = calibrate([i / 100 for i in range(39)], 0.05, review=0.1)
    card = model_card(replace(content, calibration=made))
    assert f"| NG (rejected) | above {made.threshold:.6g} | {percent(made.rate_ng.expected)} |" in card
    assert f"| REVIEW or NG | above {made.review_threshold:.6g} | {percent(made.rate_flagged.expected)} |" in card
    assert f"up to {percent(made.rate_ng.bound)} |" in card
    assert "They support rates from 2.5 % upwards; 1 % takes 99." in card
