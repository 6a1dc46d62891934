"""Where the product lies: drawn parts on drawn backgrounds."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from flawforge import fitting
from flawforge.fitting import planning
from flawforge.pictures.region import part_mask, product_mask
from flawforge.types import ConfigError
from flawforge_runtime.images import write_image


def disc(rng: np.random.Generator, at: tuple[int, int], radius: int = 30, clutter: bool = False) -> np.ndarray:
    picture = np.full((128, 160, 3), 40, np.float32) + rng.normal(0, 2, (128, 160, 3))
    cv2.circle(picture, at, radius, (200, 150, 90), -1)
    if clutter:
        cv2.circle(picture, (6, 6), 2, (220, 220, 220), -1)
    return picture.clip(0, 255).astype(np.uint8)


def test_the_mask_holds_every_good_part_and_not_the_clutter() -> None:
    rng = np.random.default_rng(0)
    places = [(80 + dx, 64 + dy) for dx, dy in rng.integers(-6, 7, (20, 2))]
    pictures = [disc(rng, at, clutter=i == 3) for i, at in enumerate(places)]
    mask = product_mask(pictures)
    assert mask.shape == (128, 160)
    for x, y in places:
        exact = np.zeros((128, 160), np.uint8)
        cv2.circle(exact, (x, y), 30, 1, -1)
        assert mask[exact > 0].all()
    assert not mask[:20, :20].any()
    assert mask.mean() < 0.35


def test_textures_and_parts_that_fill_the_frame_have_no_mask() -> None:
    rng = np.random.default_rng(1)
    with pytest.raises(ConfigError, match=r"stands out from its background.*leave out --roi"):
        product_mask([rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(6)])
    assert part_mask(np.ones((32, 32), bool)) is None
    assert part_mask(np.zeros((32, 32), bool)) is None
    stripe = np.zeros((32, 32), bool)
    stripe[:, 10:25] = True
    assert part_mask(stripe) is not None  # it touches the frame with a fourth of it


def test_holes_are_filled_and_crumbs_left_out() -> None:
    ring = np.zeros((64, 64), np.uint8)
    cv2.circle(ring, (32, 32), 20, 1, 4)
    ring[2:4, 2:4] = 1
    part = part_mask(ring > 0)
    assert part is not None
    assert part[32, 32]
    assert not part[:6, :6].any()


def test_roi_auto_is_in_the_model_and_nothing_beside_the_part_is_judged(washers: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    good = tmp_path / "good"
    good.mkdir()
    for i in range(10):
        write_image(good / f"{i}.png", disc(rng, (80, 64)))
    request = fitting.Request(good, tmp_path / "m", size=144, roi=planning.AUTO_ROI, method="patchstats")
    plan = fitting.plan(request)
    assert plan.roi is not None
    assert 0.1 < plan.roi.mean() < 0.4
    model = fitting.run(request)
    clean, cluttered = (model(disc(np.random.default_rng(3), (80, 64), clutter=each)).pred_score for each in (False, True))
    assert cluttered == pytest.approx(clean, rel=1e-3)
