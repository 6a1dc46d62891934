"""Overlays: one colour scale for all pictures of a model, outlines where the marks are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from flawforge.reporting.overlays import LEAST_WIDTH, RING, headline, labelled, overlay, ring_centres
from flawforge.types import ConfigError, Decision
from flawforge_runtime.calibrate import calibrate
from flawforge_runtime.drawing import AT_THRESHOLD, COLOURS, DEFECT, MARKED, Scale, outline

SCALE = Scale(low=1.0, threshold=3.0)


def judged(anomaly_map: NDArray[np.float32]) -> Decision:
    mask = anomaly_map > SCALE.threshold
    return Decision("", 0.0, 1.0, "OK", False, 0.0, anomaly_map, mask, (), 0.0)


def panels(drawn: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    width = (drawn.shape[1] - 4) // 2
    return drawn[:, :width], drawn[:, width + 4 :]


def test_the_scale_hangs_on_the_calibration() -> None:
    scale = calibrate(range(9), 0.1, peaks=[1, 2, 2, 3, 3, 4, 4, 5, 9]).scale
    assert (scale.low, scale.threshold) == (3.0, 9.0)
    values = np.array([[-1e9, 3.0, 6.0, 9.0, 18.0, 1e9]], np.float32)
    assert scale.ramp(values)[0] == pytest.approx([0, 0, AT_THRESHOLD / 2, AT_THRESHOLD, 1, 1])


def test_equal_peaks_still_give_a_scale() -> None:
    for peak in (0.0, -5.0, 7.0):
        scale = calibrate(range(9), 0.1, peaks=[peak] * 9).scale
        assert scale.threshold == peak
        ramp = scale.ramp(np.array([[peak - 1, peak, peak + 1]], np.float32))
        assert ramp[0] == pytest.approx([0, AT_THRESHOLD, 1], abs=1e-5)


def test_a_value_has_one_colour_whatever_else_the_map_holds() -> None:
    grey = np.full((8, 8, 3), 100, np.uint8)
    calm = np.full((8, 8), 1.5, np.float32)
    wild = calm.copy()
    wild[0, 0] = 1000.0
    first, second = (panels(overlay(grey, judged(each), SCALE))[1] for each in (calm, wild))
    assert (first[1:, 1:] == second[1:, 1:]).all()
    assert (first[0, 0] != second[0, 0]).any()


def test_below_the_scale_the_picture_shows_through_and_above_it_is_hot() -> None:
    grey = np.full((4, 4, 3), 100, np.uint8)
    low = panels(overlay(grey, judged(np.zeros((4, 4), np.float32)), SCALE))
    assert (low[0] == 100).all()
    assert (low[1] == 100).all()
    hot = panels(overlay(grey, judged(np.full((4, 4), 9.0, np.float32)), SCALE))[1]
    assert hot[0, 0, 0] > 200  # inferno's bright end: red and green high, blue lower
    assert hot[0, 0, 0] > hot[0, 0, 2]


def test_outlines_surround_the_marks_and_leave_them_visible() -> None:
    picture = np.full((9, 9, 3), 50, np.uint8)
    mask = np.zeros((9, 9), bool)
    mask[3:5, 3:6] = True
    drawn = outline(picture, mask, MARKED)
    ring = np.zeros((9, 9), bool)
    ring[2:6, 2:7] = True
    assert (drawn[ring & ~mask] == MARKED).all()
    assert (drawn[~ring | mask] == 50).all()
    assert (picture == 50).all()


def test_defect_and_mark_have_their_own_colours() -> None:
    anomaly_map = np.zeros((20, 20), np.float32)
    anomaly_map[3:5, 3:5] = 9.0
    truth = np.zeros((20, 20), bool)
    truth[12:15, 12:15] = True
    left, _ = panels(overlay(np.zeros((20, 20, 3), np.uint8), judged(anomaly_map), SCALE, truth))
    assert tuple(left[2, 2]) == MARKED
    assert tuple(left[11, 11]) == DEFECT
    left, _ = panels(overlay(np.zeros((20, 20, 3), np.uint8), judged(anomaly_map), SCALE))
    assert tuple(left[11, 11]) == (0, 0, 0)


def test_a_hairline_survives_the_thumbnail() -> None:
    anomaly_map = np.zeros((600, 400), np.float32)
    anomaly_map[300, 50:350] = 9.0
    drawn = overlay(np.zeros((600, 400, 3), np.uint8), judged(anomaly_map), SCALE, max_side=60)
    assert drawn.shape == (60, 84, 3)
    assert (panels(drawn)[0] == MARKED).all(-1).any(0)[6:34].all()


def test_float_pictures_are_drawn_like_their_eight_bit_twins() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3)).astype(np.uint8)
    decision = judged(np.full((12, 10), 2.0, np.float32))
    twin = overlay((pixels / 255).astype(np.float32), decision, SCALE)
    assert (overlay(pixels, decision, SCALE) == twin).all()


def test_sizes_that_differ_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"mask is \(3, 4\)"):
        overlay(np.zeros((4, 4, 3), np.uint8), judged(np.zeros((4, 4), np.float32)), SCALE, np.zeros((3, 4), bool))
    with pytest.raises(ConfigError, match="map"):
        overlay(np.zeros((5, 4, 3), np.uint8), judged(np.zeros((4, 4), np.float32)), SCALE)


def rejected(anomaly_map: NDArray[np.float32], verdict: str = "NG") -> Decision:
    return replace(judged(anomaly_map), verdict=verdict, pred_label=verdict == "NG", pred_score=9.0, threshold=3.0)


@pytest.mark.parametrize("shape", [(64, 64), (400, 900)])
@pytest.mark.parametrize("marked", [0, 1])
def test_a_reject_without_a_visible_mark_gets_a_ring(shape: tuple[int, int], marked: int) -> None:
    """A mark of one pixel, or none at all: the ring lies around the map's highest value."""
    anomaly_map = np.ones(shape, np.float32)
    anomaly_map[20, 30] = 9.0 if marked else 2.9
    left, _ = panels(overlay(np.zeros((*shape, 3), np.uint8), rejected(anomaly_map), SCALE))
    rows, columns = np.nonzero((left == MARKED).all(-1))
    assert rows.max() - rows.min() >= RING * min(shape)
    assert abs((rows.max() + rows.min()) / 2 - 20) <= 1.5
    assert abs((columns.max() + columns.min()) / 2 - 30) <= 1.5
    calm, _ = panels(overlay(np.zeros((*shape, 3), np.uint8), rejected(anomaly_map, "OK"), SCALE))
    outline_of_one_pixel = {64: 3**2 - 1, 900: 5**2 - 1}[shape[1]]
    assert (calm == MARKED).all(-1).sum() == (outline_of_one_pixel if marked else 0)


def test_a_mark_that_can_be_seen_gets_no_ring_and_of_many_specks_the_highest_do() -> None:
    large = np.zeros((100, 100), np.float32)
    large[40:50, 40:50] = 9.0
    assert ring_centres(rejected(large)) == []
    specks = np.zeros((100, 100), np.float32)
    specks[::3, ::3] = 4.0
    specks[33, 33] = 90.0
    centres = ring_centres(rejected(specks))
    assert len(centres) == 5
    few = np.zeros((100, 100), np.float32)
    few[3, 3], few[90, 9], few[50, 50] = 5.0, 7.0, 6.0
    assert ring_centres(rejected(few)) == [(90, 9), (50, 50), (3, 3)]


def test_the_headline_carries_the_score_whatever_the_reason() -> None:
    decision = rejected(np.full((20, 30), 2.0, np.float32))
    figures = f"score {decision.pred_score:.4g}, NG above {decision.threshold:.4g}"
    assert headline(decision) == f"NG   {figures}, p {decision.p_text}"
    assert headline(replace(decision, valid=False)) == f"NG   unlike every good picture, {figures}"


@pytest.mark.parametrize("size", [(20, 30), (600, 800)])
def test_a_label_carries_the_verdict_and_leaves_the_picture_as_it_is(size: tuple[int, int]) -> None:
    decision = rejected(np.full(size, 2.0, np.float32))
    drawn = overlay(np.full((*size, 3), 77, np.uint8), decision, SCALE)
    told = labelled(drawn, decision, SCALE)
    factor = told.shape[1] // drawn.shape[1]
    assert told.shape[1] == factor * drawn.shape[1] >= LEAST_WIDTH
    strip = (told.shape[0] - factor * drawn.shape[0]) // 2
    assert strip >= 28
    assert (told[strip:-strip:factor, ::factor] == drawn).all()
    colours = {tuple(pixel) for pixel in told[:strip].reshape(-1, 3).tolist()}
    chip = tuple(int(COLOURS["NG"][at : at + 2], 16) for at in (1, 3, 5))
    assert chip in colours
    assert (255, 255, 255) in colours
    assert (told[:strip, -2:] == chip).all()  # the words fit
    assert len(np.unique(told[-strip:].reshape(-1, 3), axis=0)) > 50  # the colours of the map
