"""Pieces of the picture in the wrong place: contents, places and mirrored draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.cluster import KMeans

from flawforge.forge import salient
from flawforge.forge.corrupt import Nsa, PixelCorrupt, object_box
from flawforge.forge.paste import CutPaste, HardAugment, jitter_colour, paste_turned
from flawforge.forge.salient import CutSwap, RandomSwap, SaliencyPerlin
from flawforge.types import ConfigError, Sample


def scene(seed: int = 0, channels: int = 3) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (64, 80, channels), dtype=np.uint8)


def smooth(seed: int = 0) -> Any:
    """A disc on a darker ground with a little grain: a part."""
    y, x = np.mgrid[0:96, 0:96]
    part = np.hypot(y - 48, x - 48) < 30
    grain = np.random.default_rng(seed).normal(0, 2, (96, 96))
    return np.repeat(np.clip(60 + 120 * part + x / 3 + grain, 0, 255)[..., None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize("seed", range(8))
def test_a_patch_without_jitter_is_the_picture_from_where_it_says(seed: int) -> None:
    image = scene()
    forged = CutPaste(shape="patch", jitter=0.0)(Sample(image), np.random.default_rng(seed))
    (sy, sx), (ty, tx), (h, w) = (forged.drawn[k] for k in ("from", "to", "size"))
    np.testing.assert_array_equal(forged.image[ty : ty + h, tx : tx + w], image[sy : sy + h, sx : sx + w])
    assert not forged.mask[:ty].any()
    assert not forged.mask[:, tx + w :].any()
    assert forged.mask[ty : ty + h, tx : tx + w].mean() > 0.9


def test_patch_areas_span_the_published_range() -> None:
    sizes = [CutPaste(shape="patch")(Sample(scene()), np.random.default_rng(s)).drawn["size"] for s in range(200)]
    share = np.array([h * w for h, w in sizes]) / (64 * 80)
    assert 0.015 < share.min() < 0.04
    assert 0.13 < share.max() < 0.16


def test_a_scar_has_its_size_and_turn() -> None:
    forged = CutPaste(shape="scar", width=8.0, length=40.0, turn=0.0)(Sample(scene()), np.random.default_rng(3))
    rows, columns = np.nonzero(forged.mask)
    assert np.ptp(rows) + 1 <= 40 * 64 / 256 + 2
    assert np.ptp(columns) + 1 <= 8 * 64 / 256 + 2


@pytest.mark.parametrize("axis", [0, 1])
def test_a_mirrored_draw_on_a_mirrored_picture_is_the_mirrored_forgery(axis: int) -> None:
    """Mask and picture transform together: flip the picture and the draw, and both results flip."""
    image, rng = scene(), np.random.default_rng(0)
    source, target, size = (20.0, 30.0), (50.0, 24.0), (12.0, 18.0)
    h, w = image.shape[:2]

    def mirror(point: tuple[float, float]) -> tuple[float, float]:
        return (point[0], h - 1 - point[1]) if axis == 0 else (w - 1 - point[0], point[1])

    one, mask = paste_turned(image, source, target, size, 0.0, (0.0,) * 4, rng)
    flipped = np.ascontiguousarray(np.flip(image, axis))
    two, other = paste_turned(flipped, mirror(source), mirror(target), size, 0.0, (0.0,) * 4, rng)
    np.testing.assert_array_equal(np.flip(other, axis), mask)
    np.testing.assert_array_equal(np.flip(two, axis)[mask], one[mask])


def test_turning_by_a_quarter_turns_the_contents() -> None:
    image = scene()
    candidate, mask = paste_turned(
        image, (30.0, 30.0), (50.0, 30.0), (11.0, 11.0), 90.0, (0.0,) * 4, np.random.default_rng(0)
    )
    patch, pasted = image[26:35, 26:35], candidate[26:35, 46:55]
    assert mask[26:35, 46:55].all()
    turned = [np.rot90(patch, k) for k in (1, 3)]
    assert any(np.abs(pasted.astype(int) - t).max() <= 1 for t in turned)


def test_jitter_keeps_to_its_strength() -> None:
    flat = np.full((8, 8, 1), 100, np.uint8)
    tones = [jitter_colour(flat, (0.2, 0.0, 0.0, 0.0), np.random.default_rng(s))[0, 0, 0] for s in range(50)]
    assert 80 <= min(tones) < 88
    assert 112 < max(tones) <= 120
    np.testing.assert_array_equal(jitter_colour(flat, (0.0,) * 4, np.random.default_rng(0)), flat)


@pytest.mark.parametrize("shape", [(64, 80), (80, 64)])
def test_hard_augment_pastes_the_copy_that_it_drew(shape: tuple[int, int]) -> None:
    """The pasted middle has the tone of the rotated, permuted copy at the drawn source (tones tell the place here)."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    image = ((y / shape[0]) * 0.6 + (x / shape[1]) * 0.3)[..., None].astype(np.float32)
    right, altered = [], 0
    for seed in range(40):
        forged = HardAugment(jitter=(0.0,) * 4, turn=0.0)(Sample(image), np.random.default_rng(seed))
        drawn = forged.drawn
        assert drawn["rotate"] in (0, 90, 180, 270)
        altered += drawn["rotate"] > 0 or any(drawn["halves"])
        copy = np.rot90(image, drawn["rotate"] // 90)
        copy = np.roll(copy, [s // 2 * h for s, h in zip(copy.shape[:2], drawn["halves"], strict=True)], axis=(0, 1))
        (sx, sy), (tx, ty) = drawn["from"], drawn["to"]
        ty, tx = min(int(ty), shape[0] - 1), min(int(tx), shape[1] - 1)
        if forged.mask[ty, tx]:
            wanted = copy[min(int(sy), copy.shape[0] - 1), min(int(sx), copy.shape[1] - 1), 0]
            right.append(abs(float(forged.image[ty, tx, 0] - wanted)) < 0.04)
    assert altered > 20
    assert len(right) > 20
    assert np.mean(right) > 0.85  # not where a seam of the permutation runs through the middle


def test_a_swap_exchanges_and_loses_nothing() -> None:
    image = scene()
    for forger in (RandomSwap(), CutSwap()):
        for seed in range(5):
            forged = forger(Sample(image), np.random.default_rng(seed))
            (ay, ax), (by, bx), (h, w) = (forged.drawn[k] for k in ("one", "two", "size"))
            one, two = (slice(ay, ay + h), slice(ax, ax + w)), (slice(by, by + h), slice(bx, bx + w))
            np.testing.assert_array_equal(forged.image[one], image[two])
            np.testing.assert_array_equal(forged.image[two], image[one])
            assert abs(ay - by) >= h or abs(ax - bx) >= w, "the two patches overlap"


def test_cutswap_takes_its_pair_from_the_most_salient_cluster() -> None:
    prior = np.zeros((64, 80), np.float32)
    prior[8:24, 8:72] = 1.0
    prior[24:40] = 0.5
    forger = CutSwap(area=0.005, aspect=(1.0, 1.0), levels=(64, 32))
    for seed in range(20):
        drawn = forger(Sample(scene(), prior), np.random.default_rng(seed)).drawn
        for key in ("one", "two"):
            middle = np.asarray(drawn[key]) + np.asarray(drawn["size"]) / 2
            assert 6 <= middle[0] <= 26
            assert 6 <= middle[1] <= 74


def test_clusters_are_as_good_as_scikit_learns() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(m, 0.03, 200) for m in (0.1, 0.5, 0.9)]).astype(np.float32)
    ranks = salient.one_dimensional_clusters(values.reshape(20, 30), 3)
    ours = sum(((values[ranks.ravel() == r] - values[ranks.ravel() == r].mean()) ** 2).sum() for r in range(3))
    assert ours <= KMeans(3, n_init=5, random_state=0).fit(values[:, None]).inertia_ * 1.001
    means = [values[ranks.ravel() == r].mean() for r in range(3)]
    assert means == sorted(means, reverse=True)


def test_clusters_of_a_flat_prior_are_one() -> None:
    for how in ("kmeans", "fuzzy"):
        assert (salient.one_dimensional_clusters(np.ones((5, 5), np.float32), 3, how) == 0).all()


def test_fuzzy_centres_are_where_the_objective_is_least() -> None:
    """Bezdek's objective sum u^2 d^2 with the best memberships u; scipy's minimiser starts from the true means."""
    values = np.concatenate([np.random.default_rng(0).normal(m, 0.05, n) for m, n in ((0.1, 300), (0.5, 60), (0.9, 100))])

    def objective(centres: np.ndarray) -> float:
        apart = np.maximum((values - centres[:, None]) ** 2, 1e-12)
        return float((((1 / apart) / (1 / apart).sum(axis=0)) ** 2 * apart).sum())

    found = salient.fuzzy_centres(values, np.array([1.0, 0.5, 0.0]))
    best = minimize(objective, [0.9, 0.5, 0.1], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9}).x
    np.testing.assert_allclose(found, best, atol=2e-3)
    ranks = salient.one_dimensional_clusters(values.astype(np.float32).reshape(20, 23), 3, "fuzzy").ravel()
    np.testing.assert_array_equal(ranks, np.abs(values[:, None] - found).argmin(axis=1))


def test_cutswap_starts_from_the_cluster_it_is_told_to() -> None:
    prior = np.zeros((64, 80), np.float32)
    prior[:24], prior[24:44] = 1.0, 0.5
    rows = {"highest": (0, 24), "lowest": (44, 64)}
    for pick, (top, bottom) in rows.items():
        forger = CutSwap(area=0.004, aspect=(1.0, 1.0), levels=(64,), pick=pick)
        for seed in range(10):
            drawn = forger(Sample(scene(), prior), np.random.default_rng(seed)).drawn
            for key in ("one", "two"):
                assert top - 3 <= drawn[key][0] + drawn["size"][0] / 2 <= bottom + 3
    forger = CutSwap(area=0.004, aspect=(1.0, 1.0), levels=(64,), pick="random")
    middles = [forger(Sample(scene(), prior), np.random.default_rng(s)).drawn["one"][0] + 2 for s in range(30)]
    assert all(any(low <= y < high for y in middles) for low, high in ((0, 24), (24, 44), (44, 64)))


def test_one_way_is_the_swaps_first_half_at_the_same_places() -> None:
    prior = np.random.default_rng(3).random((64, 80)).astype(np.float32)
    for seed in range(5):
        both, one = (CutSwap(exchange=e)(Sample(scene(), prior), np.random.default_rng(seed)) for e in (True, False))
        assert {k: both.drawn[k] for k in ("one", "two", "size")} == {k: one.drawn[k] for k in ("one", "two", "size")}
        (ay, ax), (h, w) = one.drawn["one"], one.drawn["size"]
        here = np.s_[ay : ay + h, ax : ax + w]
        np.testing.assert_array_equal(one.image[here], both.image[here])
        outside = np.ones(one.mask.shape, bool)
        outside[here] = False
        assert not one.mask[outside].any()
        assert both.mask[outside].any()


def test_each_level_of_a_prior_speaks_for_its_own_grid() -> None:
    prior = np.zeros((64, 80, 2), np.float32)
    prior[:20, :, 0], prior[44:, :, 1] = 1.0, 1.0
    forger = CutSwap(area=0.004, aspect=(1.0, 1.0), levels=(64, 16), clusters=2)
    seen = set()
    for seed in range(20):
        drawn = forger(Sample(scene(), prior), np.random.default_rng(seed)).drawn
        seen.add(drawn["level"])
        middle = drawn["one"][0] + drawn["size"][0] / 2
        assert middle < 24 if drawn["level"] == 64 else middle > 40
    assert seen == {64, 16}
    with pytest.raises(ConfigError, match="levels has 2 grids and the prior 3"):
        forger(Sample(scene(), np.zeros((64, 80, 3), np.float32)), np.random.default_rng(0))


@pytest.mark.parametrize("wrong", [{"clustering": "mean"}, {"pick": "second"}, {"exchange": "no"}])
def test_options_of_the_swap_that_do_not_exist_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        CutSwap(**wrong)  # type: ignore[arg-type]


def test_saliency_perlin_takes_the_mean_of_a_priors_levels() -> None:
    prior = np.zeros((64, 80, 2), np.float32)
    prior[:32] = 1.0
    flat = np.asarray(prior.mean(axis=2))
    one, two = (SaliencyPerlin()(Sample(scene(), p), np.random.default_rng(0)) for p in (prior, flat))
    np.testing.assert_array_equal(one.image, two.image)
    assert one.drawn["prior"] == "given"


def test_nsa_blends_without_a_seam() -> None:
    """Poisson's promise: across the patch's border the step is smaller than that of the same patches pasted hard."""
    from flawforge.reporting.realism import border_ratio

    ratios = {"nsa": [], "cutpaste": []}  # type: ignore[var-annotated]
    for seed in range(12):
        good = smooth(seed)
        for name, forger in (("nsa", Nsa(count=1)), ("cutpaste", CutPaste(shape="patch"))):
            made = forger(Sample(good, other=smooth(seed + 100)), np.random.default_rng(seed))
            ratios[name].append(border_ratio(good, made))
    assert np.median(ratios["nsa"]) < 0.7 * np.median(ratios["cutpaste"])


def test_nsa_says_what_stood_in_for_the_other_picture() -> None:
    assert Nsa()(Sample(smooth()), np.random.default_rng(0)).drawn["other"].startswith("flip")
    assert Nsa()(Sample(smooth(), other=smooth(1)), np.random.default_rng(0)).drawn["other"] == "given"


def test_nsa_keeps_to_the_object_when_there_is_a_prior() -> None:
    prior = np.zeros((96, 96), np.float32)
    prior[60:90, 60:90] = 1.0
    hit = [
        (
            Nsa(count=1, size=(0.05, 0.1))(Sample(smooth(), prior, smooth(1)), np.random.default_rng(s)).mask & (prior > 0)
        ).any()
        for s in range(20)
    ]
    assert np.mean(hit) > 0.8


def test_object_box_is_padded_and_clipped() -> None:
    image = np.zeros((100, 100, 1), np.uint8)
    image[40:60, 30:70] = 255
    assert object_box(image) == (36, 26, 29, 49)
    image[:] = 7
    assert object_box(image) == (0, 0, 100, 100)


def test_pixel_corrupt_keeps_to_the_objects_box() -> None:
    image = np.full((120, 120, 3), 20, np.uint8)
    image[40:80, 30:90] = np.random.default_rng(0).integers(100, 255, (40, 60, 3))
    top, left, height, width = object_box(image)
    for seed in range(10):
        rows, columns = np.nonzero(PixelCorrupt()(Sample(image), np.random.default_rng(seed)).mask)
        assert rows.min() >= top
        assert columns.min() >= left
        assert rows.max() <= top + height
        assert columns.max() <= left + width


def test_pixel_corrupt_old_alters_in_place() -> None:
    forged = PixelCorrupt(version="old", patches=3)(Sample(smooth()), np.random.default_rng(1))
    assert forged.drawn["version"] == "old"
    assert 0 < forged.mask.mean() < 0.5
