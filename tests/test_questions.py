"""What is well-formed but wrong is questioned: defective parts among good ones, trained pictures, limits, other days."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

import flawforge as ff
from flawforge import fitting
from flawforge.fitting.thresholds import Scored, compared, doubts_of
from flawforge.proving.evaluate import _another_product
from flawforge.reporting.good_sheet import FILE
from flawforge.types import CalibrationError, DataError
from flawforge_runtime.calibrate import calibrate
from flawforge_runtime.images import read_picture, write_image
from flawforge_runtime.rates import share_interval


def spoilt(washers: Path, folder: Path) -> Path:
    """The good washers, and one with a hole in it that no washer has."""
    shutil.copytree(washers / "train" / "good", folder)
    victim = sorted(folder.iterdir())[7]
    picture = read_picture(victim).pixels.copy()
    cv2.rectangle(picture, (4, 4), (28, 28), (255, 0, 255), -1)
    write_image(victim, picture)
    return victim


def request(data: Path, out: Path, **more: object) -> fitting.Request:
    settings = {"filters": 4, "side": 5}
    return fitting.Request(data, out, method="patchstats", size=64, settings=settings, **more)  # type: ignore[arg-type]


def test_a_spoilt_picture_is_named_refused_or_left_out(washers: Path, tmp_path: Path) -> None:
    victim = spoilt(washers, tmp_path / "good")
    said: list[str] = []
    model = fitting.run(request(tmp_path / "good", tmp_path / "m"), show=said.append)
    assert any("1 of 24 good pictures stands out" in line for line in said)
    assert any(victim.name in line for line in said)
    assert model.content is not None
    assert model.content.config["screening"]["suspects"][0]["path"].endswith(victim.name)
    with pytest.raises(DataError, match=f"1 of 24 good pictures stands out .*{victim.name}.*--clean"):
        fitting.run(request(tmp_path / "good", tmp_path / "strict", strict=True))
    assert not (tmp_path / "strict").exists()
    clean = fitting.run(request(tmp_path / "good", tmp_path / "clean", clean=True))
    assert clean.content is not None
    assert clean.content.config["training"]["pictures"] + clean.content.config["training"]["held_back"] == 23
    assert any(note.startswith("--clean left out 1 of 24") and victim.name in note for note in clean.content.config["notes"])


def test_clean_pictures_pass_strict(washers: Path, tmp_path: Path) -> None:
    said: list[str] = []
    model = fitting.run(request(washers, tmp_path / "m", strict=True), show=said.append)
    sheet = read_picture(tmp_path / "m" / FILE).pixels
    assert sheet.shape[1] >= 640
    assert said[-1] == f"look at these good pictures: {tmp_path / 'm' / FILE}"
    assert model.content is not None
    assert model.content.config["screening"]["suspects"] == []


def ranked(scores: Sequence[float]) -> list[tuple[Path, float]]:
    return sorted(((Path(f"{place:02d}.png"), score) for place, score in enumerate(scores)), key=lambda each: -each[1])


def test_the_limit_without_what_stands_out_is_told() -> None:
    scores = [*np.linspace(20, 30, 19), 77.0]
    calibration = calibrate(scores, 0.05)
    (doubt,) = doubts_of(calibration, ranked(scores))
    assert "1 of 20 calibration pictures stand out from the others: 19.png (77)" in doubt
    assert "NG is above 77, and would be above 30 without them" in doubt
    assert doubts_of(calibrate(scores[:19], 0.06), ranked(scores[:19])) == ()


def scored(scores: Sequence[float]) -> Scored:
    return Scored(calibrate(scores, 0.05), (), tuple(ranked(scores)))


def test_limits_that_rise_over_defects_need_a_yes() -> None:
    old = calibrate(list(range(1, 101)), 0.01)
    fresh = scored([*range(1, 20), 50.5, 98.5])
    assert compared(old, fresh, set(), yes=False, asked=True) == [
        "NG limit moves from 100 to 98.5; 0 of 21 pictures were NG before"
    ]
    bad = scored([*range(1, 20), *range(200, 209)])
    with pytest.raises(DataError, match=r"9 of 28 pictures were NG before.*the NG limit moves.*--yes"):
        compared(old, bad, set(), yes=False, asked=True)
    foreign = {path for path, _ in fresh.ranked[3:12]}
    with pytest.raises(DataError, match="9 of 21 pictures were NG before"):
        compared(old, fresh, foreign, yes=False, asked=True)
    assert compared(old, bad, set(), yes=True)[0].endswith("9 of 28 pictures were NG before")


def test_trained_pictures_calibrate_nothing(washers: Path, tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    model = ff.load(folder)
    assert model.content is not None
    held = [Path(path) for path in model.content.config["held_back"]]
    (tmp_path / "trained").mkdir()
    for path in set((washers / "train" / "good").iterdir()) - {*held}:
        shutil.copy(path, tmp_path / "trained")
    with pytest.raises(DataError, match="pictures were trained on, so they prove nothing"):
        fitting.recalibrate(folder, tmp_path / "trained", None, None)
    calibration, notes = fitting.recalibrate(folder, washers / "train" / "good", None, None, yes=True)
    assert calibration.n == len(held)
    assert any(f"{24 - len(held)} of 24 pictures were left out" in note for note in notes)


def test_another_product_is_no_calibration_whatever_one_says(washers: Path, tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    (tmp_path / "noise").mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        write_image(tmp_path / "noise" / f"{number}.png", pixels)
    before = (folder / "calibration.json").read_bytes()
    for yes in (False, True):
        with pytest.raises(DataError, match=r"^6 of 6 pictures are like no good picture of this product.*fit a new model"):
            fitting.recalibrate(folder, tmp_path / "noise", None, None, yes=yes)
    assert (folder / "calibration.json").read_bytes() == before


def test_every_objection_is_told_at_once_the_worst_first() -> None:
    old = calibrate([float(n) for n in range(60)], 1 / 61)
    few = scored([*range(1, 20), *range(200, 209)])
    with pytest.raises(DataError) as refused:
        compared(old, few, set(), yes=False)
    first, second, last = str(refused.value).split(". ")
    assert first.startswith("9 of 28 pictures were NG before, and ")
    assert second.startswith(f"Look at {few.ranked[0][0].name}, ")
    assert second.endswith("; remove those that are not good")
    assert last.startswith("The false-alarm rate would rise from 1.7 % (60 calibration pictures) to ")
    assert last.endswith("; give more pictures of good parts, or add --yes if all are good.")
    assert compared(old, few, set(), yes=True)


def test_a_damaged_picture_does_not_stop_a_calibration(washers: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Where no rate was asked for, the rest states what it can; the damaged one is named."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    good = Path(shutil.copytree(washers / "test" / "good", tmp_path / "good"))
    whole = next(iter(sorted(good.iterdir()))).read_bytes()
    (good / "cut.png").write_bytes(whole[: len(whole) // 2])
    count = len(list(good.iterdir())) - 1
    calibration, notes = fitting.recalibrate(folder, good, None, None, yes=True)
    assert calibration.n == count
    assert any(note.startswith("skipped: ") and "cut.png" in note for note in notes)
    assert any(f"{count} calibration pictures" in note for note in notes)
    with pytest.raises(CalibrationError, match=f"{count} calibration pictures do not support"):
        fitting.recalibrate(folder, good, 1 / (count + 2), None, yes=True)


def darker(good: Path, folder: Path) -> Path:
    """The same parts in half the light."""
    folder.mkdir()
    for path in sorted(good.iterdir()):
        write_image(folder / path.name, (read_picture(path).pixels * 0.5).astype(np.uint8))
    return folder


def test_another_day_is_held_against_the_stated_rate(washers: Path, tmp_path: Path) -> None:
    model = tmp_path / "m"
    fitting.run(request(washers, model))
    dark = darker(washers / "test" / "good", tmp_path / "dark")
    good = washers / "test" / "good"
    before, notes = fitting.recalibrate(model, good, None, None, yes=True, other_day=dark)
    assert any("another day: 6 of 6 good pictures are NG" in note and "--both-days" in note for note in notes)
    assert any("another day" in doubt for doubt in before.doubts)
    after, notes = fitting.recalibrate(model, good, None, None, yes=True, other_day=dark, both_days=True)
    assert after.threshold > before.threshold
    assert any("the limits are now those of that day" in note for note in notes)
    same, notes = fitting.recalibrate(model, good, None, None, yes=True, other_day=good)
    assert any("in line with the stated" in note for note in notes)
    assert dataclasses.replace(same, doubts=()) == dataclasses.replace(before, doubts=())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is empty"):
        fitting.recalibrate(model, good, None, None, yes=True, other_day=tmp_path / "empty")


def test_three_calibration_pictures_state_no_rate() -> None:
    with pytest.raises(CalibrationError):
        calibrate([1.0, 2.0, 3.0], 0.05)
    assert "rate not known: 3 calibration pictures" in calibrate([1.0, 2.0, 3.0], 0.25).text
    assert "rate not known" not in calibrate(list(range(9)), 0.1).text


def test_the_interval_of_a_share_is_exact() -> None:
    low, high = share_interval(2, 20)
    assert (low, high) == pytest.approx((0.01234853, 0.31698271), abs=1e-7)  # R: binom.test(2, 20)
    assert share_interval(0, 10) == pytest.approx((0, 0.30849710), abs=1e-7)
    assert share_interval(10, 10) == pytest.approx((0.69150290, 1), abs=1e-7)


def test_calibrate_and_pod_refuse_defective_test_pictures(washers: Path, tiny_model: Path, tmp_path: Path) -> None:
    kind = next(path for path in sorted((washers / "test").iterdir()) if path.name != "good")
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    with pytest.raises(DataError, match="taken for defective ones"):
        fitting.recalibrate(folder, kind, None, None, yes=True)
    with pytest.raises(DataError, match="taken for defective ones"):
        ff.pod(folder, kind, save=False)


def test_another_product_is_noted_where_most_pictures_are_unlike_the_good_ones() -> None:
    rows = [{"valid": False}] * 3 + [{"valid": True}] * 2
    assert _another_product(rows) == [
        "3 of 5 pictures are like no good picture of this model; check that they show its product"
    ]
    assert _another_product(rows[1:]) == []
