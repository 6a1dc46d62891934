"""The physical forgers do what a proof needs: size, contrast and sharpness are what is asked, in px or mm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flawforge.forge import FAMILIES, FORGERS, measure
from flawforge.types import Sample

PHYSICAL = sorted({*FAMILIES["physical"], "blur", "noise"})
TONED = ("scratch", "crack", "stain", "dent", "blob")


def part(shape: tuple[int, int] = (160, 160), tone: int = 128) -> Any:
    """Fine grain on a flat part with some squares on it, so that blur, missing and misplaced find detail."""
    image = np.random.default_rng(0).normal(tone, 3, (*shape, 1))
    for y in range(10, shape[0] - 20, 40):
        for x in range(10, shape[1] - 20, 40):
            image[y : y + 14, x : x + 14] += 60
    return np.clip(image, 0, 255).astype(np.uint8)


def flat(tone: int = 128) -> Any:
    return np.full((160, 160, 1), tone, np.uint8)


@pytest.mark.parametrize("name", PHYSICAL)
def test_the_drawn_size_contrast_and_sharpness_are_recorded(name: str) -> None:
    forged = FORGERS[name](size=30.0, contrast=0.4, sharpness=0.9)(Sample(part()), np.random.default_rng(0))
    assert (forged.drawn["size"], forged.drawn["size_px"], forged.drawn["unit"]) == (30.0, 30.0, "px")
    assert (forged.drawn["contrast"], forged.drawn["sharpness"]) == (0.4, 0.9)


@pytest.mark.parametrize("name", PHYSICAL)
def test_millimetres_are_pixels_in_another_unit(name: str) -> None:
    px = FORGERS[name](size=(20.0, 40.0), contrast=0.4)
    mm = replace(px, size=(5.0, 10.0), mm_per_pixel=0.25)
    if hasattr(px, "width"):
        mm = replace(mm, width=tuple(v * 0.25 for v in px.width))
    one, two = (f(Sample(part()), np.random.default_rng(3)) for f in (px, mm))
    np.testing.assert_array_equal(one.image, two.image)
    assert two.drawn["unit"] == "mm"
    assert two.drawn["size"] == pytest.approx(one.drawn["size"] * 0.25)


@pytest.mark.parametrize("name", PHYSICAL)
def test_a_greater_size_forges_more(name: str) -> None:
    areas = []
    for size in (12.0, 30.0, 75.0):
        forger = FORGERS[name](size=size, contrast=0.5, sharpness=0.9)
        areas.append(np.mean([forger(Sample(part()), np.random.default_rng(s)).mask.sum() for s in range(12)]))
    assert areas[0] < areas[1] < areas[2]


@pytest.mark.parametrize("name", PHYSICAL)
def test_the_mask_is_about_as_large_as_the_drawn_size(name: str) -> None:
    extents = []
    for seed in range(15):
        forger = FORGERS[name](size=40.0, contrast=0.5, sharpness=1.0)
        if hasattr(forger, "count"):
            forger = replace(forger, count=1)
        rows, columns = np.nonzero(forger(Sample(part((240, 240))), np.random.default_rng(seed)).mask)
        extents.append(max(np.ptp(rows), np.ptp(columns)) + 1)
    assert 0.6 * 40 <= np.median(extents) <= 1.9 * 40, np.median(extents)


@pytest.mark.parametrize("name", TONED)
@pytest.mark.parametrize("contrast", [0.1, 0.3])
def test_the_peak_change_is_the_contrast(name: str, contrast: float) -> None:
    """On a flat part. Thin lines may not fill a pixel, so theirs is a bound from above alone."""
    peaks = []
    for seed in range(10):
        forger = FORGERS[name](contrast=contrast, sharpness=1.0, size=40.0)
        if hasattr(forger, "tint"):
            forger = replace(forger, tint=0.0)
        if hasattr(forger, "shadow"):
            forger = replace(forger, shadow=0.0)
        forged = forger(Sample(flat()), np.random.default_rng(seed))
        peaks.append(np.abs(forged.image.astype(float) - 128).max() / 255)
    assert max(peaks) <= contrast * 1.06 + 1 / 255
    assert np.median(peaks) >= contrast * (0.5 if name in ("scratch", "crack") else 0.9)


@pytest.mark.parametrize("name", ["scratch", "crack", "stain", "blob"])
@pytest.mark.parametrize(("tone", "sign"), [("darker", -1), ("lighter", 1)])
def test_darker_is_darker(name: str, tone: str, sign: int) -> None:
    settings: dict[str, Any] = {"tone": tone, "contrast": 0.3}
    if name == "scratch":
        settings["rim"] = 0.0
    if name == "blob":
        settings["shadow"] = 0.0
    forged = FORGERS[name](**settings)(Sample(flat()), np.random.default_rng(0))
    change = (forged.image.astype(int) - 128)[forged.mask]
    assert (np.sign(change) == sign).all()


@pytest.mark.parametrize("name", ["stain", "blob", "missing"])
def test_a_lower_sharpness_is_a_softer_edge(name: str) -> None:
    from flawforge.reporting.realism import border_ratio

    def steepness(sharpness: float) -> float:
        made = []
        for seed in range(10):
            forger = FORGERS[name](sharpness=sharpness, contrast=0.3, size=40.0)
            if hasattr(forger, "shadow"):
                forger = replace(forger, shadow=0.0)
            forged = forger(Sample(flat()), np.random.default_rng(seed))
            made.append(border_ratio(flat(), forged))
        return float(np.median(made))

    assert steepness(0.0) < 0.7 * steepness(1.0)


@pytest.mark.parametrize("name", PHYSICAL)
def test_a_prior_says_where(name: str) -> None:
    prior = np.zeros((160, 160), np.float32)
    prior[100:150, 20:70] = 1.0
    for seed in range(10):
        forged = FORGERS[name](size=12.0, contrast=0.5)(Sample(part(), prior), np.random.default_rng(seed))
        if "fallback" in forged.drawn:
            continue
        y, x = forged.drawn["centre"]
        assert 96 <= y <= 152
        assert 16 <= x <= 72


@pytest.mark.parametrize("name", ["scratch", "crack", "stain", "dent", "noise"])
def test_a_flaw_ends_where_the_part_ends(name: str) -> None:
    prior = np.zeros((160, 160), np.float32)
    prior[:, :80] = 1.0
    for seed in range(10):
        forged = FORGERS[name](size=60.0, contrast=0.5)(Sample(part(), prior), np.random.default_rng(seed))
        assert not forged.mask[:, 84:].any()  # a soft line may bleed by its own blur


def test_dents_turn_with_their_light() -> None:
    """Lit from the right, a dent's left wall is in shadow's opposite: the flanks exchange when the light does."""

    def flank(light: float) -> float:
        total = 0.0
        for seed in range(6):
            forger = FORGERS["dent"](light=light, raised=0.0, contrast=0.3, size=40.0)
            forged = forger(Sample(flat()), np.random.default_rng(seed))
            change = forged.image[..., 0].astype(float) - 128
            columns = np.arange(160) - forged.drawn["centre"][1]
            total += float((change * columns[None]).sum())
        return total

    assert flank(0.0) * flank(180.0) < 0
    assert abs(flank(0.0)) > 5 * abs(flank(90.0))


def test_a_size_beyond_the_picture_is_cut_and_recorded_as_cut() -> None:
    drawn = measure.take(1000.0, 0.5, 1.0, None, (100, 200), np.random.default_rng(0)).drawn
    assert drawn["size_px"] == 90.0


def test_sign_leaves_the_end_of_the_range() -> None:
    rng = np.random.default_rng(0)
    assert {measure.sign_for("either", 0.02, 0.2, rng) for _ in range(20)} == {1}
    assert {measure.sign_for("either", 0.98, 0.2, rng) for _ in range(20)} == {-1}
    assert {measure.sign_for("either", 0.5, 0.2, rng) for _ in range(20)} == {-1, 1}
    assert measure.sign_for("darker", 0.0, 0.2, rng) == -1


def test_missing_shows_the_background_at_an_edge() -> None:
    """A bright part on a dark ground: chips at its edge are filled dark, not with the part's own tone."""
    image = np.full((120, 120, 1), 20, np.uint8)
    image[30:90, 30:90] = 200
    dark = 0
    for seed in range(20):
        forged = FORGERS["missing"](at_edges=1.0, size=20.0, contrast=0.05)(Sample(image), np.random.default_rng(seed))
        if forged.drawn.get("fill") == "darker":
            dark += 1
            inner = forged.image[forged.mask & (image[..., 0] == 200)]
            assert np.median(inner) < 60
    assert dark >= 10


def test_fill_from_takes_the_nearest_known_tone() -> None:
    part_ = np.full((30, 30, 1), 50, np.uint8)
    part_[:, 15:] = 90
    hole = np.zeros((30, 30), bool)
    hole[10:20, 10:20] = True
    known = np.zeros((30, 30), bool)
    known[:, :10] = True
    filled = measure.fill_from(part_, hole, known, False, np.random.default_rng(0))
    assert np.abs(filled[hole].astype(int) - 50).max() <= 1
    np.testing.assert_array_equal(filled[~hole], part_[~hole])
