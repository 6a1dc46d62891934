"""The guard: is this a picture of the product at all?"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flawforge.demo.washers import render_defect, render_good
from flawforge.judging import loading
from flawforge.proving import drift
from flawforge_runtime import bundle, guard, inspector
from flawforge_runtime.calibrate import Rules, calibrate
from flawforge_runtime.decode import Picture
from flawforge_runtime.types import ImageError, ScoreRule
from harm import KINDS, foreign, harmed

SIZE = (96, 96)


def goods(count: int, first: int = 0) -> list[np.ndarray]:
    return [render_good(index, size=96) for index in range(first, first + count)]


@pytest.fixture(scope="module")
def made() -> guard.Guard:
    return guard.fit_guard([guard.describe(each, SIZE) for each in goods(40)], SIZE)


def test_bands_are_means_by_hand() -> None:
    rows = np.repeat(np.arange(64, dtype=np.uint8), 32).reshape(64, 32)
    picture = np.dstack([rows, 2 * rows, 3 * rows])
    colour = guard.describe(picture, (64, 32))["colour"].reshape(2, guard.BANDS, 3) * guard.FLOOR["colour"]
    np.testing.assert_allclose(colour[0, :, 0], 0.5 + 2 * np.arange(32))  # two rows a band
    np.testing.assert_allclose(colour[1, :, 1], 2 * 31.5)  # every column alike
    structure = guard.describe(picture, (64, 32))["structure"].reshape(2, 2, guard.BANDS) * guard.FLOOR["structure"]
    np.testing.assert_allclose(structure[0, 1], np.log(guard.TINY), rtol=1e-6)  # across: no difference
    assert (structure[0, 0] > structure[0, 1]).all()


def test_whole_numbers_by_hand() -> None:
    picture = np.full((40, 50, 3), 100, np.uint8)
    picture[:10] = 255
    found = guard.describe(picture, (40, 50))["whole"] * [floor for floor, _ in guard.WHOLE.values()]
    mean = (10 * 255 + 30 * 100) / 40
    assert found[0] == pytest.approx(mean)
    assert found[1] == pytest.approx(np.sqrt((10 * (255 - mean) ** 2 + 30 * (100 - mean) ** 2) / 40))
    assert found[3] == pytest.approx(38 / 39)  # one row differs from the row above
    assert found[4] == pytest.approx(1.0)
    assert found[5] == pytest.approx(0.25)


def test_outside_the_region_of_interest_nothing_counts() -> None:
    judged = np.zeros((96, 96), bool)
    judged[20:70, 10:80] = True
    one = goods(1)[0]
    other = one.copy()
    other[80:] = 0
    other[:, 85:] = 255
    for name, values in guard.describe(one, SIZE, judged).items():
        np.testing.assert_allclose(guard.describe(other, SIZE, judged)[name], values, atol=1e-4)
    other[40:50] = 0
    assert np.abs(guard.describe(other, SIZE, judged)["colour"] - guard.describe(one, SIZE, judged)["colour"]).max() > 1


@pytest.mark.parametrize("value", [0, 1, 77, 128, 254, 255])
def test_a_blank_picture_is_like_no_good_one(made: guard.Guard, value: int) -> None:
    assert made.unlike(guard.describe(np.full((96, 96, 3), value, np.uint8), SIZE)).startswith(guard.UNLIKE)


@pytest.mark.parametrize("kind", KINDS)
def test_lost_rows_and_columns_are_found(made: guard.Guard, kind: str) -> None:
    """From a tenth of the picture on, always; the rates for real products are in docs."""
    rng = np.random.default_rng(3)
    for share in (0.1, 0.25, 0.5, 0.9, 1.0):
        for picture in goods(6, first=60):
            for axis in (0, 1):
                assert made.unlike(guard.describe(harmed(picture, kind, share, axis, rng), SIZE)), (share, axis)


def test_good_parts_and_defects_of_the_product_pass(made: guard.Guard) -> None:
    found = [made.unlike(guard.describe(each, SIZE)) for each in goods(60, first=100)]
    assert sum(map(bool, found)) <= 1  # of 60, at 1 / 41 each at most
    defects = [render_defect(kind, index, size=96)[0] for kind in ("scratch", "stain") for index in range(4)]
    assert sum(bool(made.unlike(guard.describe(each, SIZE))) for each in defects) <= 2


def test_limits_are_those_of_pictures_that_the_reference_did_not_see() -> None:
    """By hand: each block of neighbours is held against the guard of all others."""
    described = [guard.describe(each, SIZE) for each in goods(9)]
    worst = dict.fromkeys(guard.GROUPS, 0.0)
    for block in np.array_split(np.arange(9), guard.FOLDS):
        others = guard.fit_guard([each for place, each in enumerate(described) if place not in block], SIZE)
        for place in block:
            for name, value in others.deviations(described[place]).items():
                worst[name] = max(worst[name], value)
    expected = {name: max(guard.LEAST[name], guard.MARGIN * value) for name, value in worst.items()}
    assert guard.fit_guard(described, SIZE).limits == pytest.approx(expected, rel=1e-3)


def test_flagged_are_counted_by_limits_that_did_not_see_them() -> None:
    """Of nine none is set apart, so the blank one sets a limit, which a count by that limit would not notice."""
    described = [guard.describe(each, SIZE) for each in (*goods(8), np.zeros((96, 96, 3), np.uint8))]
    found = guard.fit_guard(described, SIZE)
    assert (found.count, found.flagged, found.apart) == (9, 1, ())
    clean = guard.fit_guard([guard.describe(each, SIZE) for each in goods(20)], SIZE)
    assert (clean.count, clean.flagged, clean.apart) == (20, 0, ())


def test_more_pictures_apart_than_may_be_are_none() -> None:
    """Each stands apart in a group of its own; two of twenty are no longer an exception."""
    strange = {name: np.ones(20) for name in guard.GROUPS}
    strange["colour"][3] = strange["structure"][9] = 100.0
    assert not guard._apart(strange, 1).any()
    assert np.flatnonzero(guard._apart(strange, 2)).tolist() == [3, 9]


def test_one_blank_picture_among_the_good_ones_does_not_open_the_gate() -> None:
    described = [guard.describe(each, SIZE) for each in goods(20)]
    described.insert(7, guard.describe(np.zeros((96, 96, 3), np.uint8), SIZE))
    found = guard.fit_guard(described, SIZE)
    assert (found.count, found.flagged, found.apart) == (21, 1, (7,))  # counted and named, not hidden
    clean = guard.fit_guard([*described[:7], *described[8:]], SIZE)
    assert (found.limits, found.low, found.high) == (clean.limits, clean.low, clean.high)
    assert found.unlike(described[7])


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_few_good_pictures_still_tell_a_blank_one(count: int) -> None:
    few = guard.fit_guard([guard.describe(each, SIZE) for each in goods(count)], SIZE)
    assert few.unlike(guard.describe(np.zeros((96, 96, 3), np.uint8), SIZE))
    assert not few.unlike(guard.describe(goods(1)[0], SIZE))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(8, 40), st.integers(8, 40))
def test_any_picture_has_finite_numbers(seed: int, h: int, w: int) -> None:
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
    judged = rng.random((h, w)) > rng.random()
    for mask in (None, judged, np.zeros((h, w), bool)):
        for each in guard.describe(picture, (h, w), mask).values():
            assert np.isfinite(each).all()
    for one, two in zip(
        guard.describe(picture, (h, w)).values(),
        guard.describe(picture.astype(np.float32) / 255, (h, w)).values(),
        strict=True,
    ):
        np.testing.assert_allclose(one, two, atol=1e-4)


def test_a_number_that_is_none_is_outside_every_limit(made: guard.Guard) -> None:
    traits = dict(guard.describe(goods(1)[0], SIZE))
    traits["structure"] = np.full_like(traits["structure"], np.nan)
    assert made.unlike(traits)


def test_a_written_guard_decides_to_the_bit_as_the_fitted_one(made: guard.Guard) -> None:
    again = guard.guard_from_dict(json.loads(json.dumps(made.as_dict())))
    assert again.as_dict() == made.as_dict()
    for picture in (*goods(3, first=70), foreign()):
        traits = guard.describe(picture, SIZE)
        assert again.deviations(traits) == made.deviations(traits)


@pytest.mark.parametrize(
    "change",
    [
        {"limits": {}},
        {"size": [1, 1]},
        {"low": [0.0]},
        {"reference": {}},
        {"limits": dict.fromkeys(guard.GROUPS, float("nan"))},
        {"limits": dict.fromkeys(guard.GROUPS, -1.0)},
    ],
)
def test_a_harmed_guard_is_refused(made: guard.Guard, change: dict[str, object]) -> None:
    with pytest.raises((KeyError, ValueError, TypeError)):
        guard.guard_from_dict(made.as_dict() | change)


def test_widened_takes_further_good_pictures_in_and_nothing_out(made: guard.Guard) -> None:
    darker = [(each * 0.6).astype(np.uint8) for each in goods(8, first=80)]
    seen = [guard.describe(each, SIZE) for each in darker]
    assert any(made.unlike(each) for each in seen)
    wider = made.widened(seen)
    assert not any(wider.unlike(each) for each in seen)
    assert all(wider.limits[name] >= made.limits[name] for name in guard.GROUPS)
    assert wider.unlike(guard.describe(np.zeros((96, 96, 3), np.uint8), SIZE))


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_blank_picture_among_further_good_ones_lets_no_blank_one_pass(made: guard.Guard, value: int) -> None:
    blank = guard.describe(np.full((96, 96, 3), value, np.uint8), SIZE)
    seen = [guard.describe((each * 0.6).astype(np.uint8), SIZE) for each in goods(19, first=80)]
    assert made.unlike(blank)
    wider = made.widened([*seen[:7], blank, *seen[7:]])
    assert wider.unlike(blank)
    assert not any(wider.unlike(each) for each in seen)


# ---- in a decision


def test_a_picture_like_no_good_one_is_ng_at_the_floor_and_says_why() -> None:
    """Where the network itself finds nothing strange."""
    network = lambda batch: (np.zeros((1, 96, 96), np.float32), np.zeros(1, np.float32))  # noqa: E731
    judge = inspector.Inspector(network, (96, 96), ScoreRule(), calibrate([0.9, 1.0, 1.1], 0.25))
    seen = [judge.describe(Picture(each, "8-bit RGB")) for each in goods(12)]
    judge = dataclasses.replace(judge, guard=guard.fit_guard(seen, judge.guard_size))
    assert judge(goods(1)[0]).verdict == "OK"
    blank = np.zeros((96, 96, 3), np.uint8)
    decision = judge(blank)
    assert (decision.verdict, decision.pred_label, decision.valid) == ("NG", True, False)
    assert decision.p_value == 1 / 4
    assert decision.pred_score > 1.1
    assert decision.notes[0].startswith(guard.UNLIKE)
    assert decision.regions
    # No rule and no threshold of the user's own takes it back.
    assert judge.calibration is not None
    for limits in (judge.calibration.moved(threshold=1e6), judge.calibration.moved(rules=Rules(max_count=99))):
        again = judge.with_calibration(limits)(blank)
        assert again.verdict == "NG"
        assert again.pred_score > limits.threshold


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("clipped", "black or saturated pixels 100 %, good pictures 34 to 35 %"),
        ("equal rows", "rows like the row above: 100 % (blank or smeared), good pictures 34 to 35 %"),
        ("brightness", "brightness 400, good pictures 136 to 140"),
    ],
)
def test_reasons_are_words_that_a_person_understands(name: str, words: str) -> None:
    place = list(guard.WHOLE).index(name)
    made = guard.fit_guard([guard.describe(each, SIZE) for each in goods(12)], SIZE)
    low, high = (17.0,) * len(guard.WHOLE), (17.5,) * len(guard.WHOLE)  # in units of their floors
    values = np.full(len(guard.WHOLE), 50.0, np.float32)
    held = dataclasses.replace(made, low=low, high=high)
    said = held._words("whole", {"whole": values}, np.eye(len(values))[place])
    assert said == words


def test_an_empty_station_is_not_ok(tiny_model: Path, washers: Path) -> None:
    """Only the background is seen: the corner of good pictures, tiled."""
    judge = loading.load(tiny_model)
    good = cv2.cvtColor(cv2.imread(str(next((washers / "train" / "good").iterdir()))), cv2.COLOR_BGR2RGB)
    empty = np.tile(good[:8, :8], (8, 8, 1))
    assert not judge(empty).valid
    half = good.copy()
    half[:, 32:] = np.tile(good[:8, :8], (8, 4, 1))  # half out of the frame
    assert not judge(half).valid


def test_drift_hears_of_it(tiny_model: Path, tmp_path: Path) -> None:
    paths = []
    for index in range(6):
        paths.append(tmp_path / f"{index}.png")
        cv2.imwrite(str(paths[-1]), np.zeros((64, 64, 3), np.uint8))
    result = drift.watch(loading.load(tiny_model), paths).as_dict()
    assert (result["invalid"], result["rejected"]) == (6, 6)
    assert "not like any good picture" in result["text"]


def test_sizes_far_from_the_product_are_refused(tiny_model: Path) -> None:
    judge = loading.load(tiny_model)
    for size, why in (((1, 1), "smaller"), ((7, 64), "smaller"), ((2, 20_000), "smaller"), ((64, 300), "oblong")):
        with pytest.raises(ImageError, match=why):
            judge(np.zeros((*size, 3), np.uint8))
    assert judge(np.zeros((16, 60, 3), np.uint8)).verdict == "NG"


def test_the_guard_is_part_of_the_model_folder(tiny_model: Path) -> None:
    content = bundle.read(tiny_model)
    assert content.guard is not None
    assert content.guard.count == 24  # trained on or held back
    assert json.loads((tiny_model / "guard.json").read_text()) == json.loads(json.dumps(content.guard.as_dict()))
    assert "guard.json" in json.loads((tiny_model / "manifest.json").read_text())["files"]


def test_an_older_model_without_a_guard_holds_pictures_against_its_calibration(tiny_model: Path) -> None:
    judge = dataclasses.replace(loading.load(tiny_model), guard=None)
    decision = judge(np.zeros((64, 64, 3), np.uint8))
    assert (decision.verdict, decision.valid) == ("NG", False)
    assert judge(render_good(50, size=64)).valid


@pytest.mark.parametrize("streamed", [False, True])
def test_large_pictures_have_the_same_guard(streamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = lambda batch: (batch.mean(axis=1), batch.mean(axis=(1, 2, 3)))  # noqa: E731
    judge = inspector.Inspector(network, (64, 64), ScoreRule(), calibrate([0.9, 1.0, 1.1], 0.25), tile=64)
    seen = [judge.describe(Picture(render_good(index, size=160), "8-bit RGB")) for index in range(12)]
    judge = dataclasses.replace(judge, guard=guard.fit_guard(seen, judge.guard_size))
    if streamed:
        monkeypatch.setattr(inspector, "WHOLE", 1000)
    for name, pixels in (("good", render_good(40, size=160)), ("blank", np.zeros((160, 160, 3), np.uint8))):
        path = tmp_path / f"{name}.tif"
        Image.fromarray(pixels).save(path)
        assert judge(path).valid == (name == "good")
        assert judge(path).verdict == ("OK" if name == "good" else "NG")


# ---- nothing that is not finite gets through


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (3e38, ScoreRule("top", 5)),
        (3e38, ScoreRule("network")),
        (-3e38, ScoreRule("top", 5)),
        (float("nan"), ScoreRule()),
        (1e300, ScoreRule("max", 5)),
    ],
)
def test_an_overflow_after_the_network_is_no_verdict(tiny_model: Path, value: float, rule: ScoreRule) -> None:
    given_map = np.full((1, 64, 64), value, np.float64 if abs(value) > 1e38 and value == 1e300 else np.float32)
    given_map[0, 3, 3] = -given_map[0, 3, 3]
    network = lambda batch: (given_map, np.array([np.nan if rule.reduce == "network" else 0.0], np.float32))  # noqa: E731
    judge = inspector.Inspector(network, (64, 64), rule, loading.load(tiny_model).calibration)
    with pytest.raises(ImageError, match="not finite"), np.errstate(all="ignore"):
        judge(Picture(goods(1)[0], "8-bit RGB").pixels)


def test_the_score_of_nothing_has_no_verdict_and_no_p_value(tiny_model: Path) -> None:
    calibration = loading.load(tiny_model).calibration
    assert calibration is not None
    for ask in (calibration.verdict, calibration.p_value):
        with pytest.raises(ImageError, match="not a number"):
            ask(float("nan"))
    assert calibration.verdict(float("inf")) == "NG"
