"""Judging around the network, with closed-form networks so that every number is known by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flawforge.judging.loading import load
from flawforge.types import CalibrationError, Decision, ImageError, ScoreRule
from flawforge_runtime import bundle
from flawforge_runtime.calibrate import calibrate
from flawforge_runtime.feed import inspect_paths
from flawforge_runtime.inspector import Inspector, Judged, from_content
from flawforge_runtime.maps import find_regions, fit_roi, picture_score, smooth, to_network


def brightness(batch: Any) -> tuple[Any, Any]:
    """A network that calls a pixel strange by its brightness."""
    maps = batch.mean(axis=1)
    return maps.astype(np.float32), np.full(len(maps), 7.0, np.float32)


def inspector(**options: Any) -> Inspector:
    calibration = calibrate([0.1 * i for i in range(1, 5)], 0.2, review=0.6)
    return Inspector(brightness, (64, 64), ScoreRule(), calibration, **options)


def spot(h: int, w: int, y: int, x: int, value: int = 255) -> np.ndarray[Any, Any]:
    picture = np.zeros((h, w, 3), np.uint8)
    picture[y : y + 8, x : x + 8] = value
    return picture


def test_a_bright_spot_is_found_where_it_is_at_the_pictures_own_size() -> None:
    decision = inspector()(spot(128, 96, 40, 20))
    assert decision.verdict == "NG"
    assert decision.pred_label
    assert decision.anomaly_map.shape == decision.pred_mask.shape == (128, 96)
    assert decision.anomaly_map.dtype == np.float32
    region = decision.regions[0]
    assert (region.x <= 20, region.y <= 40, region.x + region.w >= 28, region.y + region.h >= 48) == (True,) * 4
    assert region.w <= 12
    assert region.area == decision.pred_mask.sum()
    assert decision.p_value == 0.2


def test_a_dark_picture_is_ok_and_a_middling_one_is_for_review() -> None:
    assert inspector()(np.zeros((64, 64, 3), np.uint8)).verdict == "OK"
    assert inspector()(np.zeros((64, 64, 3), np.uint8)).regions == ()
    review = inspector()(np.full((64, 64, 3), 80, np.uint8))  # 0.31: above the second lowest of four, below the highest
    assert review.verdict == "REVIEW"
    assert len(review.regions) == 1


def test_a_pixel_on_the_limit_is_not_marked() -> None:
    judge = Inspector(brightness, (64, 64), ScoreRule(), calibrate([1.0] * 4, 0.2))
    for level, marked in ((1.0, 0), (1.5, 16)):
        decision = judge.decide(Judged(level, level, np.full((4, 4), level, np.float32), (0, 0)))
        assert np.count_nonzero(decision.pred_mask) == marked
        assert decision.verdict == ("NG" if marked else "OK")


def test_nothing_outside_the_region_of_interest_counts() -> None:
    roi = np.zeros((128, 96), bool)
    roi[64:] = True
    inside, outside = spot(128, 96, 80, 20), spot(128, 96, 20, 20)
    judge = inspector(roi=roi)
    assert judge(inside).verdict == "NG"
    decision = judge(outside)
    assert decision.verdict == "OK"
    assert not decision.pred_mask[:64].any()


def test_a_region_of_interest_of_other_proportions_is_refused() -> None:
    assert fit_roi(np.ones((10, 10), bool), (100, 101)).shape == (100, 101)
    with pytest.raises(ImageError, match="same proportions"):
        fit_roi(np.ones((10, 10), bool), (100, 110))
    with pytest.raises(ImageError, match="no pixel"):
        inspector(roi=np.zeros((64, 64), bool))(np.zeros((64, 64, 3), np.uint8))


def test_a_picture_of_another_size_than_trained_on_is_noted() -> None:
    judge = inspector(sizes=((120, 96), (128, 96)))
    assert judge(spot(128, 96, 80, 20)).notes == ()
    assert judge(spot(64, 48, 40, 10)).notes == (
        "64 x 48 pixels (h x w), trained on 120 to 128 x 96: resized onto the canvas 64 x 64, proportions kept",
    )


def test_smoothing_means_only_valid_pixels() -> None:
    surface, valid = np.zeros((4, 8), np.float32), np.zeros((4, 8), bool)
    surface[:, :4], valid[:, :4] = 1.0, True
    surface[:, 4:] = 1e6  # a border must neither dilute nor leak
    np.testing.assert_allclose(smooth(surface, valid, 3)[valid], 1.0, rtol=1e-6)
    assert smooth(surface, valid, 1) is surface


def test_the_three_score_rules_by_hand() -> None:
    surface = np.arange(100, dtype=np.float32).reshape(10, 10)
    valid = np.ones((10, 10), bool)
    valid[9] = False
    assert picture_score(surface, 3.0, valid, ScoreRule("max")) == (89.0, (8, 9))
    assert picture_score(surface, 3.0, valid, ScoreRule("top", top=4 / 90))[0] == pytest.approx((86 + 87 + 88 + 89) / 4)
    assert picture_score(surface, 3.0, valid, ScoreRule("network"))[0] == 3.0


def test_a_score_without_a_marked_pixel_still_points_somewhere() -> None:
    calibration = calibrate([0.1, 0.2, 0.3, 0.4], 0.2, peaks=[9.0] * 4)
    decision = Inspector(brightness, (64, 64), ScoreRule(), calibration)(spot(64, 64, 10, 30))
    assert decision.verdict == "NG"
    assert not decision.pred_mask.any()
    assert 10 <= decision.regions[0].y < 18
    assert 30 <= decision.regions[0].x < 38


def test_regions_by_hand() -> None:
    mask = np.array([[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1]], bool)
    surface = np.array([[5, 0, 0, 0], [0, 1, 0, 7], [0, 0, 0, 9]], np.float32)
    first, second = find_regions(surface, mask)
    assert (first.x, first.y, first.w, first.h, first.area, first.peak) == (3, 1, 1, 2, 2, 9.0)
    assert (second.x, second.y, second.w, second.h, second.area, second.peak) == (0, 0, 2, 2, 2, 5.0)


def test_what_the_network_sees_is_what_training_sees() -> None:
    """One rule from uint8 to float32 in training and in judging, or an export gives another verdict."""
    from flawforge.pictures.dataset import GoodPictures

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert to_network(pixels).shape == (1, 3, 64, 64)
    assert to_network(pixels).dtype == np.float32
    folder = Path(pytest.importorskip("tempfile").mkdtemp())
    Image.fromarray(pixels).save(folder / "a.png")
    from flawforge.pictures.dataset import read_entries

    clean = next(iter(GoodPictures(read_entries(folder), (64, 64)).clean_batches(1))).clean
    np.testing.assert_array_equal(clean, to_network(pixels))


def test_the_most_pixels_that_the_fit_was_given_are_allowed_and_no_more(tiny_model: Path) -> None:
    content = bundle.read(tiny_model)
    picture = np.zeros((64, 64, 3), np.uint8)
    enough, few = (
        from_content(dataclasses.replace(content, config={**content.config, "max_pixels": most}), brightness)
        for most in (4096, 4000)
    )
    assert enough(picture).anomaly_map.shape == (64, 64)
    with pytest.raises(ImageError, match="allowed are 4,000"):
        few(picture)


def test_without_thresholds_there_is_no_verdict() -> None:
    with pytest.raises(CalibrationError, match="flawforge calibrate"):
        Inspector(brightness, (64, 64), ScoreRule())(np.zeros((64, 64, 3), np.uint8))


def test_a_value_that_is_not_finite_is_no_judgement() -> None:
    def broken(batch: Any) -> tuple[Any, Any]:
        return np.full((1, 64, 64), np.nan, np.float32), np.zeros(1, np.float32)

    with pytest.raises(ImageError, match="not finite"):
        Inspector(broken, (64, 64), ScoreRule(), inspector().calibration)(np.zeros((64, 64, 3), np.uint8))


def test_one_bad_file_does_not_stop_the_rest(tmp_path: Path) -> None:
    good, bad = tmp_path / "a.png", tmp_path / "b.png"
    Image.fromarray(spot(64, 64, 10, 10)).save(good)
    bad.write_bytes(good.read_bytes()[:60])
    results = list(inspect_paths(inspector(), [bad, good, tmp_path / "none.png", good]))
    assert [isinstance(result, Decision) for result in results] == [False, True, False, True]
    assert isinstance(results[1], Decision)
    assert results[1].image_path == str(good)
    assert isinstance(results[0], tuple)
    assert str(bad) in results[0][1]


def test_path_picture_and_array_are_judged_alike(tmp_path: Path, tiny_model: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (70, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    model = load(tiny_model)
    decisions = [model(tmp_path / "a.png"), model(Image.fromarray(pixels)), model(pixels)]
    assert len({decision.pred_score for decision in decisions}) == 1
    for decision in decisions[1:]:
        np.testing.assert_array_equal(decision.anomaly_map, decisions[0].anomaly_map)
