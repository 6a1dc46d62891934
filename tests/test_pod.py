"""The proof of a model: what is a hit, what is said where nothing is reached, and that the order of pictures is nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from click.testing import CliRunner

from flawforge.cli import main
from flawforge.demo.washers import render_good
from flawforge.forge import Mix, Pipe, forger_from, names_in
from flawforge.judging import loading
from flawforge.pictures import copies
from flawforge.proving import hitmiss, leakage, pod
from flawforge.proving.curves import Trial, kind_curve
from flawforge.proving.specimens import Recipe
from flawforge.reporting import pod_words
from flawforge.reporting.kept import album
from flawforge.types import CalibrationError, ConfigError, DataError, Mask
from flawforge_runtime.calibrate import calibrate
from flawforge_runtime.images import as_picture, write_image
from flawforge_runtime.inspector import Inspector
from flawforge_runtime.types import Decision, Region, ScoreRule

GOODS = [render_good(index, size=96) for index in range(8)]
RECIPE = Recipe(("stain", "scratch"), (0.1, 0.4), count=16)


def network(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distance to the mean good picture: a real detector for washers that always lie alike."""
    maps = np.abs(batch - MEAN).mean(axis=1)
    return maps, maps.max(axis=(1, 2))


MEAN = np.stack(GOODS).astype(np.float32).transpose(0, 3, 1, 2).mean(axis=0)[None] / 255


def inspector(rate: float = 0.2) -> Inspector:
    bare = Inspector(network, (96, 96), ScoreRule("max", smooth=3))
    judged = [bare.judge(as_picture(good)) for good in GOODS]
    return bare.with_calibration(calibrate([j.score for j in judged], rate, peaks=[j.peak for j in judged]))


@pytest.fixture(scope="module")
def proved() -> dict[str, Any]:
    return pod.prove(inspector(), GOODS, RECIPE).as_dict()


def test_the_result_is_the_one_that_scripts_rely_on(proved: dict[str, Any]) -> None:
    result = json.loads(json.dumps(proved, allow_nan=False))
    assert set(result["false_alarm"]) >= {"promised", "measured"}
    assert set(result["forgers"]) >= {"trained_on", "proved_with"}
    elsewhere = result["rejected_elsewhere"]
    assert elsewhere["low"] <= elsewhere["value"] == elsewhere["count"] / elsewhere["of"] <= elsewhere["high"]
    assert [(row["kind"], row["contrast"]) for row in result["curves"]] == [
        ("stain", 0.1),
        ("stain", 0.4),
        ("scratch", 0.1),
        ("scratch", 0.4),
    ]
    for row in result["curves"]:
        assert row["unit"] == "px"
        assert row["n"] == len([t for t in result["trials"] if (t["kind"], t["contrast"]) == (row["kind"], row["contrast"])])
        assert row["hits"] == sum(b[2] for b in row["bins"])
        assert row["n"] == sum(b[3] for b in row["bins"])
        for size, value, low, high in row["points"]:
            assert row["smallest"] <= size <= row["largest"] * (1 + 1e-9)
            assert 0 <= low <= value <= high <= 1
        assert (row["a90_95"] is None) == bool(row["why"])
        assert row["recall"]["low"] <= row["recall"]["value"] == row["hits"] / row["n"] <= row["recall"]["high"]
        assert row["a50_95"] is None or row["a50"] <= row["a50_95"]
    plain = {(row["kind"], row["contrast"]): row["hits"] for row in result["curves"]}
    assert plain["stain", 0.4] > plain["stain", 0.1]  # it is a detector of tone


def test_too_few_defects_and_a_single_good_picture_are_named() -> None:
    """They cannot show 90 % with 95 % confidence, and one picture is one part; 29 of many are enough."""
    result = pod.prove(inspector(), GOODS[:1], Recipe(("stain",), (0.4,), count=4))
    few, alone = result.notes[-2:]
    assert (
        few == "4 defects per kind and contrast cannot show 90 % with 95 % confidence; that takes at least 29 (--count 48)"
    )
    assert alone == "1 good picture: every defect was drawn into the same part; use 20 or more"
    assert all(f"  {note}" in result.lines() for note in (few, alone))
    view = pod_words.view(result.as_dict())
    assert view is not None
    assert view["too_few"] == [few, alone]
    assert hitmiss.demonstrates(pod_words.NEEDED, pod_words.NEEDED)
    assert not hitmiss.demonstrates(pod_words.NEEDED - 1, pod_words.NEEDED - 1)
    assert pod_words.too_few(29, 2) == []


def test_the_order_of_the_pictures_changes_no_curve(proved: dict[str, Any]) -> None:
    turned = pod.prove(inspector(), GOODS[::-1], RECIPE).as_dict()
    assert turned["curves"] == proved["curves"]
    assert turned["false_alarm"] == proved["false_alarm"]


def test_sizes_in_millimetres_are_the_same_sizes(proved: dict[str, Any]) -> None:
    scaled = pod.prove(inspector(), GOODS, RECIPE, scale=0.05).as_dict()
    for mm, px in zip(scaled["curves"], proved["curves"], strict=True):
        assert mm["unit"] == "mm"
        for key in ("a50", "a90", "smallest", "largest"):
            assert mm[key] == (None if px[key] is None else pytest.approx(0.05 * px[key], rel=1e-6))


def test_pictures_that_were_calibrated_on_prove_no_rate(proved: dict[str, Any]) -> None:
    assert proved["false_alarm"]["calibrated_on"] == len(GOODS)
    assert proved["false_alarm"]["measured"] == {"value": None, "low": None, "high": None}
    others = [render_good(index, size=96) for index in range(8, 12)]
    fresh = pod.prove(inspector(), others, Recipe(("stain",), (0.4,), count=2)).as_dict()
    assert (fresh["false_alarm"]["n"], fresh["false_alarm"]["calibrated_on"]) == (4, 0)


def test_the_numbers_of_the_pictures_change_no_bound() -> None:
    """Where the bootstrap by picture decides, too: which picture comes first in the folder is nothing."""
    rng, limits = np.random.default_rng(0), (30, 34, 5, 6, 7, 8, 9, 10, 4)  # each picture finds them from another size on
    trials = [
        Trial("stain", 0.3, float(size), good, 1.0, "NG" if size > limits[good] else "OK", True)
        for size in np.geomspace(4, 120, 24)
        for good in range(9)
    ]
    orders = [[*range(9)], *(rng.permutation(9).tolist() for _ in range(4))]
    rows = [kind_curve(trials, "stain", 0.3, None, 0, order) for order in orders]
    assert rows[0].a90_95_by == "bootstrap by picture"
    assert rows[0].a90_95 is not None
    assert all(row == rows[0] for row in rows)


def test_a_part_is_one_trial_of_the_promise_however_often_it_is_photographed(tmp_path: Path) -> None:
    """Four parts of two pictures; of one part one picture was calibrated on, so the other is no fresh one either."""
    paths = [tmp_path / f"{index}.png" for index in range(8)]
    for path, good in zip(paths, GOODS, strict=True):
        write_image(path, good)
    parts = {path: f"part {index // 2}" for index, path in enumerate(paths)}
    model = inspector()
    assert model.calibration is not None
    seen = dataclasses.replace(model.calibration, pictures=(copies.fingerprint(paths[2]),), fixed=-1.0)
    recipe = Recipe(("stain",), (0.4,), count=2)
    by_part = pod.prove(model.with_calibration(seen), paths, recipe, parts=parts).as_dict()
    alarm = by_part["false_alarm"]
    assert (alarm["n"], alarm["calibrated_on"], alarm["of"], alarm["measured"]["value"]) == (3, 1, "parts", 1.0)
    by_picture = pod.prove(model.with_calibration(seen), paths, recipe).as_dict()
    alarm = by_picture["false_alarm"]
    assert (alarm["n"], alarm["calibrated_on"], alarm["of"]) == (7, 1, "pictures")


def test_held_back_pictures_are_none_the_fresher_for_having_been_varied(tmp_path: Path) -> None:
    """Under --tolerate the scores of the calibration are those of varied copies; the files tell."""
    folder, run = tmp_path / "good", CliRunner()
    folder.mkdir()
    for index in range(12):
        write_image(folder / f"{index:02d}.png", render_good(index, size=64))
    tiny = ["--method", "patchstats", "--size", "64", "--holdout", "0.5", "--set", "filters=4", "--set", "side=5"]
    fit = ["fit", str(folder), "-o", str(tmp_path / "m"), *tiny, "--tolerate", "brightness,turn"]
    assert run.invoke(main, fit, catch_exceptions=False).exit_code == 0
    model = loading.load(tmp_path / "m")
    plain = [model(path).pred_score for path in sorted(folder.iterdir())]
    assert model.calibration is not None
    assert not set(plain) & set(model.calibration.scores)  # what was compared before
    wanted = ["--count", "2", "--kind", "stain", "--contrast", "0.4", "--json", str(tmp_path / "pod.json")]
    assert run.invoke(main, ["pod", str(tmp_path / "m"), str(folder), *wanted], catch_exceptions=False).exit_code == 0
    alarm = json.loads((tmp_path / "pod.json").read_text())["false_alarm"]
    assert (alarm["n"], alarm["calibrated_on"]) == (0, 6)
    for index in range(12, 15):
        write_image(folder / f"{index:02d}.png", render_good(index, size=64))
    assert run.invoke(main, ["pod", str(tmp_path / "m"), str(folder), *wanted], catch_exceptions=False).exit_code == 0
    alarm = json.loads((tmp_path / "pod.json").read_text())["false_alarm"]
    assert (alarm["n"], alarm["calibrated_on"]) == (3, 6)


def decision(mask: Mask, verdict: str = "NG", regions: tuple[Region, ...] = ()) -> Decision:
    return Decision("", 1.0, 0.1, verdict, verdict == "NG", 0.5, mask.astype(np.float32), mask, regions, 0.0)


def test_a_reject_that_points_elsewhere_is_no_hit() -> None:
    defect, here, away = (np.zeros((128, 128), bool) for _ in range(3))
    defect[60:64, 60:64] = True
    away[10:20, 10:20] = True
    here[65, 60] = True  # 2 px off: a 64th of the side
    assert pod.touches(decision(here), defect)
    assert not pod.touches(decision(np.roll(here, 2, axis=0)), defect)
    assert not pod.touches(decision(away), defect)
    nothing = np.zeros((128, 128), bool)
    assert pod.touches(decision(nothing, regions=(Region(61, 61, 1, 1, 1, 1.0),)), defect)
    assert not pod.touches(decision(nothing, regions=(Region(5, 5, 1, 1, 1, 1.0),)), defect)
    assert not pod.touches(decision(nothing), defect)


@pytest.mark.parametrize(("verdict", "pointed", "hit"), [("NG", True, True), ("NG", False, False), ("REVIEW", True, False)])
def test_a_hit_is_a_reject_that_points(verdict: str, pointed: bool, hit: bool) -> None:
    assert Trial("stain", 0.1, 9.0, 0, 1.0, verdict, pointed).hit is hit


@dataclass(frozen=True)
class Blind:
    """Judges as an Inspector, and never marks anything."""

    calibration: Any = field(default_factory=lambda: calibrate([0.0] * 19, 0.05))
    about: Mapping[str, Any] = field(default_factory=dict)
    roi: Mask | None = None

    def __call__(self, picture: Any, image_path: str = "") -> Decision:
        return decision(np.zeros(picture.shape[:2], bool), "OK")


def test_a_blind_model_reaches_nothing_and_says_so() -> None:
    result = pod.prove(Blind(), GOODS[:2], Recipe(("stain",), (0.3,), count=12))
    row = result.curves[0]
    assert (row.a50, row.a90, row.a90_95, row.hits) == (None, None, None, 0)
    assert row.why
    assert {each.group for each in result.shown} == {"top_good", "hardest_good", "top_miss", "missed"}


def test_refusals() -> None:
    with pytest.raises(CalibrationError, match="no thresholds"):
        pod.prove(Inspector(network, (96, 96), ScoreRule()), GOODS)
    with pytest.raises(ConfigError, match="millimetres of one pixel"):
        pod.prove(inspector(), GOODS, scale=0.0)


def test_names_in_a_mixture() -> None:
    assert names_in(forger_from("perlin")) == ("perlin",)
    assert names_in(Mix((forger_from("stain"), Pipe((forger_from("perlin"), forger_from("stain")))))) == ("stain", "perlin")
    assert names_in(lambda sample, rng: None) == ()


def test_forgers_of_a_model_from_before_they_were_written_down() -> None:
    assert pod.forgers_of({"training": {"steps": 0, "forger": "Perlin(beta=1)"}}) == ()
    assert pod.forgers_of({"training": {"steps": 9, "forger": "Perlin(beta=1)"}}) == ("perlin",)
    assert pod.forgers_of({"training": {"steps": 9, "forger": "Perlin()", "forgers": ["nsa"]}}) == ("nsa",)


def test_the_command_leaves_training_pictures_out_and_the_report_finds_its_files(tmp_path: Path) -> None:
    folder, model, run = tmp_path / "good", tmp_path / "model", CliRunner()
    folder.mkdir()
    for index in range(12):
        write_image(folder / f"{index:02d}.png", render_good(index, size=64))
    tiny = ["--method", "patchstats", "--size", "64", "--holdout", "0.5", "--set", "filters=4", "--set", "side=5"]
    done = run.invoke(main, ["fit", str(folder), "-o", str(model), *tiny], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    options = ["--count", "3", "--kind", "stain", "--contrast", "0.4", "--json", str(tmp_path / "pod.json")]
    done = run.invoke(main, ["pod", str(model), str(folder), *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "6 of 12 pictures were left out, as the model was trained on them; 6 remain" in done.output
    result = json.loads((tmp_path / "pod.json").read_text())
    assert result["goods"] == result["false_alarm"]["calibrated_on"] == 6
    assert result["forgers"]["trained_on"] == []
    stored = json.loads((album(model, "proof") / "proof.json").read_text())
    assert stored["curves"] == result["curves"]
    assert all((album(model, "proof") / row["file"]).is_file() for row in stored["overlays"])
    loaded = loading.load(model)
    train = [
        p for p in sorted(folder.iterdir()) if copies.fingerprint(p) in loaded.content.config["training"]["fingerprints"]
    ]
    assert len(train) == 6
    with pytest.raises(DataError, match="were trained on"):
        leakage.unseen(train, loaded)


def test_the_worst_miss_is_one_that_was_not_rejected() -> None:
    kept, none = pod._Album(), cast(Any, None)
    for size, verdict in ((20.0, "NG"), (5.0, "OK"), (9.0, "REVIEW"), (30.0, "NG"), (7.0, "OK")):
        kept.add(Trial("scratch", 0.3, size, 0, 1.0, verdict, pointed=False), none, none)
    assert kept.missed["scratch", 0.3][0].size == 9.0
    kept.add(Trial("dent", 0.3, 30.0, 0, 1.0, "NG", pointed=False), none, none)
    assert kept.missed["dent", 0.3][0].rejected  # better than nothing to look at
