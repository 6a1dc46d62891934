"""The drift check: a martingale whose alarm is as rare as it says, and that does go off."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, kstest

import flawforge as ff
from flawforge import fitting
from flawforge.demo.washers import render_good
from flawforge.proving import drift
from flawforge.types import CalibrationError, ConfigError, DataError
from flawforge_runtime.calibrate import Calibration, calibrate
from flawforge_runtime.images import write_image
from flawforge_runtime.inspector import Inspector
from flawforge_runtime.types import ScoreRule


def known(rng: np.random.Generator, n: int = 59, rate: float = 0.05) -> Calibration:
    return calibrate(rng.normal(size=n).tolist(), rate)


def test_online_p_values_are_uniform_ties_or_not() -> None:
    rng = np.random.default_rng(0)
    for draw in (lambda n: rng.normal(size=n), lambda n: rng.integers(0, 4, n).astype(float)):
        values = np.concatenate([drift.online_p_values(draw(10), draw(20), rng) for _ in range(150)])
        assert kstest(values, "uniform").pvalue > 0.001
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.06


def test_online_p_values_by_hand() -> None:
    class Half:
        def random(self) -> float:
            return 0.5

    found = drift.online_p_values([1.0, 3.0], [2.0, 9.0, 0.0], Half())  # type: ignore[arg-type]
    assert found.tolist() == pytest.approx([1.5 / 3, 0.5 / 4, 4.5 / 5])


@given(st.lists(st.floats(0, 1), max_size=12))
@settings(max_examples=60, deadline=None)
def test_the_jumper_is_a_fair_game(p_values: list[float]) -> None:
    """The mean wealth after a uniform p-value is the wealth before it; two points suffice, for it is linear."""
    before = drift.jumper(p_values)[-1]
    after = [drift.jumper([*p_values, p])[-1] for p in (0.0, 1.0)]
    assert np.mean(after) == pytest.approx(before)
    assert min(after) > 0


@given(st.lists(st.booleans(), max_size=12), st.floats(0.05, 0.9))
@settings(max_examples=60, deadline=None)
def test_the_bet_on_rejects_is_fair_at_the_share_and_losing_below(rejected: list[bool], share: float) -> None:
    before = drift.rejects(rejected, share)[-1]
    won, lost = (drift.rejects([*rejected, each], share)[-1] for each in (True, False))
    assert share * won + (1 - share) * lost == pytest.approx(before)
    assert 0.5 * share * won + (1 - 0.5 * share) * lost < before


def test_evidence_stays_a_number_however_long_everything_is_wrong() -> None:
    """A lamp is broken for a shift: all parts are rejected until it is repaired, or each scores higher than all before."""
    calibration = known(np.random.default_rng(0))
    rejected = [50.0] * 1000 + [0.0] * 50
    rising = np.linspace(-5.0, calibration.threshold - 1e-6, 4000).tolist()
    for scores in (rejected, rising):
        path = drift.evidence(calibration, scores)
        assert len(path) == len(scores) + 1
        assert np.isfinite(path).all()
        first = int(np.argmax(path >= drift.level(0.01)))
        assert 0 < first < 200
        np.testing.assert_allclose(drift.evidence(calibration, scores[:150]), path[:151])  # whatever comes later
    found = drift.finding(calibration, rejected, alarm=0.01, defects=drift.DEFECTS, seed=0)
    assert found["alarm"]
    assert found["at"] < 10
    assert found["evidence"] >= drift.MOST / 2  # half of it is the bet on rejects
    for path in (drift.rejects([True] * 900, 0.1), drift.jumper([1e-6] * 3000)):
        assert drift.MOST <= path.max() < 100 * drift.MOST
        assert (np.diff(path[path < drift.MOST])[1:] > 0).all()


def test_false_alarms_are_as_rare_as_stated() -> None:
    """Exchangeable parts, 5 % of them defective and rejected: 200 lines watched for 120 parts each, alarm rate 10 %."""
    rng, alarms = np.random.default_rng(1), 0
    for seed in range(200):
        scores = np.where(rng.random(120) < 0.05, 50.0, rng.normal(size=120))
        path = drift.evidence(known(rng), scores.tolist(), alarm=0.1, seed=seed)
        alarms += bool((path >= drift.level(0.1)).any())
    assert alarms <= binom.ppf(0.999, 200, 0.1)


@pytest.mark.parametrize(("what", "within"), [("up", 110), ("down", 90), ("all rejected", 30)])
def test_a_change_is_seen(what: str, within: int) -> None:
    rng = np.random.default_rng(2)
    fresh = {"up": rng.normal(1.0, 1, 200), "down": rng.normal(-1.2, 1, 200), "all rejected": rng.normal(9, 1, 200)}[what]
    scores = np.concatenate([rng.normal(size=100), fresh])
    path = drift.evidence(known(rng, 99), scores.tolist())
    over = np.flatnonzero(path >= drift.level(0.01))
    assert 100 < over[0] <= 100 + within


def test_the_interval_of_a_median_covers_it() -> None:
    rng = np.random.default_rng(4)
    for n in (6, 17, 50):
        found = [drift.median_interval(rng.exponential(size=n)) for _ in range(400)]
        covered = sum(low <= np.log(2) <= high for low, high in found if low is not None and high is not None)
        assert covered >= binom.ppf(0.001, 400, 0.95)
    assert drift.median_interval(rng.normal(size=5)) == (None, None)
    assert drift.median_interval(np.arange(6.0)) == (0.0, 5.0)


def test_the_order_of_parts_in_use_matters_and_the_seed_decides_ties_only() -> None:
    rng = np.random.default_rng(3)
    calibration, scores = known(rng), np.sort(rng.normal(size=80)).tolist()
    rising = drift.evidence(calibration, scores).max()
    assert rising > drift.evidence(calibration, rng.permutation(scores).tolist()).max()
    assert np.array_equal(drift.evidence(calibration, scores, seed=1), drift.evidence(calibration, scores, seed=1))


def test_refusals() -> None:
    calibration = known(np.random.default_rng(0))
    for options in ({"alarm": 0.0}, {"alarm": 1.0}, {"defects": 1.0}, {"defects": float("nan")}):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            drift.evidence(calibration, [1.0], **options)
    with pytest.raises(CalibrationError, match="calibrate anew"):
        drift.evidence(calibrate([1.0] * 19, 0.05), [1.0])


def mean_grey(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    maps = np.abs(batch.mean(axis=1) - 0.5)
    return maps, maps.mean(axis=(1, 2))


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> tuple[Inspector, list[Path]]:
    """An inspector calibrated on 30 washers, and 60 washers in use of which the last 30 are 15 % darker."""
    folder = tmp_path_factory.mktemp("line")
    pictures = [render_good(index, size=64) for index in range(90)]
    bare = Inspector(mean_grey, (64, 64), ScoreRule("network"))
    from flawforge_runtime.images import as_picture

    judged = [bare.judge(as_picture(picture)) for picture in pictures[:30]]
    looks = [drift.looks_of(picture) for picture in pictures[:30]]
    made: Any = calibrate([each.score for each in judged], 0.1, peaks=[each.peak for each in judged])
    object.__setattr__(made, "looks", {name: tuple(each[name] for each in looks) for name in drift.LOOKS})
    paths = [folder / f"{index:02d}.png" for index in range(60)]
    for index, path in enumerate(paths):
        write_image(path, (pictures[30 + index] * (1.0 if index < 30 else 0.85)).astype(np.uint8))
    return bare.with_calibration(made), paths


def test_a_lamp_that_dims_is_named(line: tuple[Inspector, list[Path]]) -> None:
    inspector, paths = line
    calm = drift.watch(inspector, paths[:30]).as_dict()
    assert not calm["alarm"]
    assert calm["text"].startswith("No drift alarm in 30 production parts")
    dim = drift.watch(inspector, paths).as_dict()
    assert dim["alarm"]
    assert 30 < dim["at"] <= 60
    share = dim["rejected_share"]
    assert share["value"] == dim["rejected"] / 60
    assert share["low"] < share["value"] < share["high"]
    assert f"{dim['rejected']} of 60 were rejected" in dim["text"]
    assert all(row["now_low"] <= row["now"] <= row["now_high"] for row in dim["looks"])
    brightness = next(row for row in dim["looks"] if row["name"] == "brightness")
    assert brightness["now"] < brightness["then"]
    late = drift.watch(inspector, paths[30:]).as_dict()
    assert "brightness from" in late["text"]


def test_a_model_without_thresholds_or_pictures_is_refused(line: tuple[Inspector, list[Path]], tmp_path: Path) -> None:
    inspector, paths = line
    with pytest.raises(CalibrationError, match="no thresholds"):
        drift.watch(Inspector(mean_grey, (64, 64), ScoreRule("network")), paths)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="None of the 1 pictures"):
        drift.watch(inspector, [tmp_path / "bad.png"])


def test_looks_say_which_way() -> None:
    picture = render_good(0, size=96)
    plain, moved = drift.looks_of(picture), drift.looks_of(np.roll(picture, 6, axis=1))
    assert moved["horizontal position"] > plain["horizontal position"]
    assert moved["vertical position"] == pytest.approx(plain["vertical position"], abs=1)
    assert drift.looks_of((picture * 0.5).astype(np.uint8))["brightness"] < plain["brightness"]
    assert drift.looks_of(picture.astype(np.float32) / 255) == pytest.approx(plain, rel=1e-2)


def test_pictures_that_set_the_limits_do_not_drift(washers: Path, tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    good = washers / "test" / "good"
    fitting.recalibrate(folder, good, None, None, yes=True)
    with pytest.raises(
        DataError, match=f"^All {len(list(good.iterdir()))} pictures are those that the limits were set with"
    ):
        ff.drift(folder, good, save=False)
    result = ff.drift(folder, [good, washers / "test" / "dent"], save=False)
    assert result.n == len(list((washers / "test" / "dent").iterdir()))
    assert any("pictures were left out, as the limits were set with them" in note for note in result.notes)
