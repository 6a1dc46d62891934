"""What is decided before training: rates, budget, region of interest, where checkpoints go; and what a forecast says."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from flawforge.fitting import engine, places, planning
from flawforge.fitting.forecasting import Forecast
from flawforge.fitting.planning import Request, less_ignored, read_roi, same_part, seeded
from flawforge.fitting.promises import promised_rates
from flawforge.methods import METHODS
from flawforge.pictures.region import product_mask
from flawforge.types import CalibrationError, ConfigError, DataError, ImageError, ModelError, Sample
from flawforge_runtime.files import new_folder
from flawforge_runtime.images import write_image
from flawforge_runtime.rates import ROUNDED, pictures_needed, rank

MANY = 10**6

# ---- rates


@given(st.integers(1, 2000), st.sampled_from([None, 0.5, 0.9, 0.95]))
@settings(deadline=None, max_examples=60)
def test_default_rates_are_kept_by_so_many_pictures(n: int, confidence: float | None) -> None:
    """Whatever is promised by default can be had, and is no looser than needed."""
    (alarm, review), notes = promised_rates(n, None, None, confidence)
    assert 0.01 <= alarm <= review
    if alarm < 1:
        assert rank(n, alarm, confidence) >= 1
        assert rank(n, review, confidence) >= 1
    assert (alarm > 0.01) == bool(notes) == (n < pictures_needed(0.01, confidence))
    if notes and confidence is None:
        assert alarm == pytest.approx(1 / (n + 1))
    if notes and confidence is not None:
        assert beta.cdf(alarm, 1, n) == pytest.approx(confidence)  # the highest of n good scores leaves Beta(1, n) above it


@given(st.integers(1, 400), st.floats(0.001, 0.999))
@settings(deadline=None, max_examples=60)
def test_a_rate_that_was_asked_for_is_kept_or_refused(n: int, rate: float) -> None:
    if rate < (1 - ROUNDED) / (n + 1):
        with pytest.raises(CalibrationError, match=f"{n} calibration pictures? do(es)? not support"):
            promised_rates(n, rate, None)
        return
    (alarm, review), notes = promised_rates(n, rate, None)
    assert alarm == rate
    assert review >= rate
    assert notes == ()


@given(st.integers(1, 300), st.integers(1, 300))
@settings(deadline=None, max_examples=40)
def test_more_pictures_never_loosen_a_default(a: int, b: int) -> None:
    few, many = sorted((a, b))
    assert promised_rates(many, None, None)[0] <= promised_rates(few, None, None)[0]


def test_no_picture_promises_nothing_and_review_is_no_stricter() -> None:
    with pytest.raises(CalibrationError, match="raise --holdout"):
        promised_rates(0, None, None)
    with pytest.raises(ConfigError, match=r"--review 0\.1 is below --false-alarm 0\.2"):
        promised_rates(50, 0.2, 0.1)
    assert promised_rates(50, 0.1, 0.1)[0] == (0.1, 0.1)


@pytest.mark.parametrize(
    ("n", "total", "confidence", "holdout", "words"),
    [
        (60, 0, None, None, "60 calibration pictures support a false-alarm rate of 1.7 % at best; 1 % needs 99"),
        (20, 0, None, "b*", "20 held-back pictures support a false-alarm rate of 4.8 % at best; 1 % needs 99 held back"),
        (20, 99, None, 0.2, "1 % needs 99 held back of about 495 good pictures; --folds 5 calibrates on all 99, for an"),
        (20, 99, None, 0.2, " estimate of 1 % at best"),
        (2, 3, None, 0.3, "2 held-back pictures are not enough to state a false-alarm rate; --folds 3 calibrates on all 3"),
        (1, 2, None, 0.2, "1 held-back picture is not enough to state a false-alarm rate; --folds 2 calibrates on all 2"),
        (20, 99, 0.95, "b*", "support a false-alarm rate of 14 % with 0.95 confidence at best; 1 % needs 299 held back"),
    ],
)
def test_what_so_many_pictures_support_is_told(
    n: int, total: int, confidence: float | None, holdout: float | str | None, words: str
) -> None:
    (note,) = promised_rates(n, None, None, confidence, total, holdout)[1]
    assert words in note
    assert ("--folds" in note) == (total > n and confidence is None)


def test_a_rate_that_is_refused_says_how_many_good_pictures_it_takes() -> None:
    """As a fit holds them back, in folds, and without either where the pictures were given to be calibrated on."""
    start = (
        "12 calibration pictures do not support a false-alarm rate of 0.1 %: the lowest is 7.7 %; ask for a higher rate, "
    )
    for confidence, holdout, end in (
        (
            None,
            0.2,
            "or calibrate on 999 pictures (--holdout 0.2 holds 999 back of about 4995 good pictures; --folds takes 999 good "
            "pictures in all).",
        ),
        (None, "batch7*", "or calibrate on 999 pictures (--folds takes 999 good pictures in all)."),
        (None, None, "or calibrate on 999 pictures."),
    ):
        with pytest.raises(CalibrationError) as refused:
            promised_rates(12, 0.001, None, confidence, 60, holdout)
        assert str(refused.value) == start + end
    with pytest.raises(
        CalibrationError, match=r"or calibrate on 59 pictures \(--holdout 0\.2 holds 59 back of about 295 good"
    ):
        promised_rates(12, 0.05, None, 0.95, 60, 0.2)


# ---- budget


@pytest.mark.parametrize(
    ("asked", "pictures", "budget"),
    [
        ({"steps": 7}, 10, engine.Budget(steps=7)),
        ({"minutes": 2.0, "clock": "cpu"}, 10, engine.Budget(minutes=2.0, clock="cpu")),
        ({}, 10, engine.Budget(minutes=planning.DEFAULT_MINUTES)),
        ({"settings": {"epochs": 3, "batch": 4}}, 10, engine.Budget(steps=8)),  # 30 pictures in batches of 4
        ({"settings": {"epochs": 0.01, "batch": 8}}, 10, engine.Budget(steps=1)),
        ({"settings": {"epochs": 3, "batch": 4}, "steps": 5}, 10, engine.Budget(steps=5)),
    ],
)
def test_the_budget_is_what_was_asked_for_or_the_methods(
    asked: dict[str, Any], pictures: int, budget: engine.Budget
) -> None:
    config = dataclasses.replace(METHODS["draem"].tiny, **asked.get("settings", {"epochs": 0}))
    assert planning._budget(Request(Path("d"), Path("o"), **asked), config, pictures) == budget


@pytest.mark.parametrize("asked", [{"steps": 5, "minutes": 1.0}, {"steps": 0}, {"minutes": float("nan")}, {"minutes": -1.0}])
def test_a_budget_that_is_none_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="A budget of"):
        planning._budget(Request(Path("d"), Path("o"), **asked), METHODS["draem"].tiny, 10)


@given(st.integers(1, 500), st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_progress_is_the_share_that_is_spent(steps: int, step: int) -> None:
    assert engine.Budget(steps=steps).progress(step, 1e9) == pytest.approx(min(step / steps, 1))
    assert engine.Budget(minutes=steps).progress(10**9, 60.0 * step) == pytest.approx(min(step / steps, 1))


def test_a_clock_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="--clock was given as sun; allowed are"):
        engine.Budget(steps=1, clock="sun")


# ---- masks


def mask_file(path: Path, mask: np.ndarray) -> Path:
    write_image(path, np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2))
    return path


def test_a_region_of_interest_is_what_is_white(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), bool)
    mask[5:15, 3:9] = True
    path = mask_file(tmp_path / "roi.png", mask)
    assert np.array_equal(read_roi(path, [(20, 30), (40, 60)], MANY), mask)
    assert read_roi(None, [(20, 30)], MANY) is None
    with pytest.raises(ImageError, match="give a mask of the same proportions"):
        read_roi(path, [(20, 30), (30, 30)], MANY)
    with pytest.raises(ImageError, match="is all black; paint what is to be judged white"):
        read_roi(mask_file(tmp_path / "black.png", np.zeros((20, 30), bool)), [(20, 30)], MANY)


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(deadline=None, max_examples=15)
def test_what_is_ignored_is_taken_away_and_nothing_else(seed: int, whole: bool) -> None:
    rng = np.random.default_rng(seed)
    ignored, roi = rng.random((6, 9)) < 0.3, rng.random((6, 9)) < 0.8
    roi[0, 0], ignored[0, 0] = True, False
    with tempfile.TemporaryDirectory() as folder:
        path = mask_file(Path(folder) / "ignore.png", ignored)
        left = less_ignored(None if whole else roi, path, [(6, 9)], MANY)
    assert left is not None
    for row in range(6):
        for column in range(9):
            assert left[row, column] == ((whole or roi[row, column]) and not ignored[row, column])


def test_an_ignore_mask_of_another_shape_or_over_everything_is_refused(tmp_path: Path) -> None:
    path = mask_file(tmp_path / "ignore.png", np.ones((20, 30), bool))
    with pytest.raises(ImageError, match="leaves nothing to judge"):
        less_ignored(None, path, [(20, 30)], MANY)
    with pytest.raises(ImageError, match=r"The ignore mask .* is 30 x 20 pixels and the picture 20 x 20"):
        less_ignored(None, path, [(20, 20)], MANY)
    roi = np.eye(4, dtype=bool)
    assert less_ignored(roi, None, [(4, 4)], MANY) is roi


def test_a_larger_ignore_mask_is_brought_to_the_size_of_the_region(tmp_path: Path) -> None:
    ignored = np.zeros((8, 8), bool)
    ignored[:, :4] = True
    left = less_ignored(np.ones((4, 4), bool), mask_file(tmp_path / "i.png", ignored), [(16, 16)], MANY)
    assert np.array_equal(left, np.repeat([[False, False, True, True]], 4, axis=0))


def test_the_region_of_a_bright_part_on_black_is_the_part() -> None:
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(6):
        picture = rng.integers(0, 6, (96, 96, 3)).astype(np.uint8)
        picture[30:70, 24:72] = rng.integers(150, 200, (40, 48, 3))
        pictures.append(picture)
    mask = product_mask(pictures)
    assert mask[34:66, 28:68].all()
    assert not mask[:20].any()
    assert not mask[:, :14].any()


# ---- nets, parts, tiles


def test_a_seed_decides_the_weights_and_leaves_torchs_own_generator() -> None:
    method = METHODS["draem"]
    before = torch.random.get_rng_state()
    nets = [seeded(method.build, method.tiny, seed) for seed in (1, 1, 2)]
    assert torch.equal(before, torch.random.get_rng_state())
    weights = [torch.cat([p.detach().flatten() for p in net.parameters()]) for net in nets]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_pictures_of_one_part_are_kept_together() -> None:
    a, b, c, d = map(Path, "abcd")
    assert same_part({a: "1", b: "2", c: "1", d: "3"}) == [[a, c]]
    assert same_part(None) == []
    assert same_part({}) == []


def test_a_method_without_forgeries_trains_on_the_picture_itself() -> None:
    picture = np.full((4, 5, 3), 0.5, np.float32)
    sample = Sample(picture, np.ones((4, 5), bool))
    forged = planning.left_good(sample, np.random.default_rng(0))
    assert forged.image is picture
    assert forged.mask.shape == (4, 5)
    assert not forged.mask.any()
    assert forged.kind == ""


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"method": "magic"}, ConfigError, r"Method 'magic' was given; allowed are auto, guided"),
        ({"profile": "huge"}, ConfigError, r"Profile 'huge' was given; method auto has cpu"),
        ({"tile": 8}, ConfigError, r"--tile was given as 8; allowed are 32 pixels or more"),
        ({"tile": 32, "align": "on"}, ConfigError, r"--align on was given with --tile"),
        ({"method": "patchstats", "init": Path("w")}, ConfigError, r"--init was given, but method patchstats"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(
    washers: Path, tmp_path: Path, asked: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        planning.plan(Request(washers, tmp_path / "m", size=64, **asked))


def test_a_plan_holds_back_without_overlap_and_repeats(washers: Path, tmp_path: Path) -> None:
    request = Request(washers, tmp_path / "m", method="patchstats", size=64, seed=3)
    plan = planning.plan(request)
    train, held = ({entry.path for entry in entries} for entries in (plan.train, plan.held))
    assert len(train) + len(held) == 24
    assert not train & held
    assert {path.parent.name for path in train | held} == {"good"}
    again = planning.plan(request)
    assert (again.train, again.held, again.rates, again.canvas) == (plan.train, plan.held, plan.rates, plan.canvas)
    gone = next(iter(train))
    without = planning.plan(request, without=[gone])
    assert gone not in {entry.path for entry in (*without.train, *without.held)}
    assert len(without.train) + len(without.held) == 23


def test_tiles_are_cut_from_the_region_alone_and_are_what_the_picture_shows(washers: Path, tmp_path: Path) -> None:
    request = Request(washers, tmp_path / "m", method="patchstats", size=64, tile=32)
    plan = planning.plan(request)
    plan = dataclasses.replace(plan, train=plan.train[:4])
    entries = planning.cut_tiles(plan, 32, tmp_path)
    assert len(entries) == 9 * len(plan.train)  # tiles of 32 overlap: from 0, 16 and 32 in both directions
    assert all(entry.path.parent == tmp_path for entry in entries)
    left = np.zeros((64, 64), bool)
    left[:, :40] = True
    half = planning.cut_tiles(dataclasses.replace(plan, roi=left), 32, tmp_path)
    assert len(half) == 3 * len(plan.train)
    with pytest.raises(DataError, match="No tile of 32 pixels lies wholly in the region of interest"):
        planning.cut_tiles(dataclasses.replace(plan, roi=np.eye(64, dtype=bool)), 32, tmp_path)


# ---- places


def test_a_started_fit_is_resumed_or_in_the_way(tmp_path: Path) -> None:
    out = tmp_path / "model"
    assert places.work_folder(out) == tmp_path / "model.fitting"
    places.check_output(out, resume=False)
    with pytest.raises(ModelError, match=r"There is no checkpoint in .*model\.fitting to resume from; leave out --resume"):
        places.check_output(out, resume=True)
    places.checkpoint_file(out).parent.mkdir()
    places.checkpoint_file(out).touch()
    places.check_output(out, resume=True)
    with pytest.raises(ModelError, match=r"model\.fitting holds an unfinished fit; add --resume"):
        places.check_output(out, resume=False)


def test_a_model_that_is_there_is_not_overwritten_but_one_saved_early_is_resumed(tmp_path: Path) -> None:
    out = tmp_path / "model"
    with new_folder(out) as draft:
        (draft / "notes.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(ModelError, match=r"model"):
            places.check_output(out, resume)
    (out / "manifest.json").write_text("{}")
    with pytest.raises(ModelError, match="There is no checkpoint"):
        places.check_output(out, resume=True)
    places.checkpoint_file(out).parent.mkdir()
    places.checkpoint_file(out).touch()
    places.check_output(out, resume=True)


# ---- forecast

FORECAST = Forecast(
    0.5,
    240,
    2.0,
    3 * 2**30,
    2_500_000,
    {"filters": 0.25},
    (
        ("filters", "statistics", 15.0),
        ("segmenter", "training", 120.0),
        ("pack", "check", 5.0),
        ("calibration", "check", 9.0),
    ),
)


def test_a_forecast_in_words_and_as_a_dictionary() -> None:
    first, second = FORECAST.lines()
    assert first == ("forecast: 240 steps of 0.50 s, 2.0 minutes of training, about 3.0 GiB of memory, 2.5 M parameters")
    assert second == "a whole fit takes about 2 min: statistics 15 s, training 2 min, check 14 s"
    told = FORECAST.as_dict()
    assert told["seconds"] == FORECAST.seconds == 149.0
    assert [stage["stage"] for stage in told["stages"]] == ["filters", "segmenter", "pack", "calibration"]
    assert told["stages"][1] == {"stage": "segmenter", "part": "training", "seconds": 120.0}
    assert told["collect"] == {"filters": 0.25}


def test_a_method_without_steps_says_that_a_budget_has_no_effect() -> None:
    first, second = Forecast(0.0, 0, 0.0, 2**29, 0, {}, (("filters", "statistics", 0.2),)).lines()
    assert first == "forecast: no training steps, so --minutes and --steps have no effect; about 0.5 GiB of memory"
    assert second == "a whole fit takes about 1 s"  # a part of less than half a second is not named


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "1 s"), (1.4, "1 s"), (89.4, "89 s"), (90.0, "2 min"), (600.0, "10 min"), (5399.0, "90 min"), (5400.0, "1.5 h")],
)
def test_a_duration_in_words(seconds: float, words: str) -> None:
    told = Forecast(0.0, 0, 0.0, 0, 0, {}, (("a", "none of the parts", seconds),)).lines()[1]
    assert told == f"a whole fit takes about {words}"
