"""Scratch and crack: the geometry of their lines, and what their settings do to a flat part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge.forge import lines, shapes
from flawforge.forge.lines import Crack, Scratch
from flawforge.types import ConfigError, Forged, Sample

AT = np.linspace(0.0, 1.0, 41)


def flat(tone: int = 128, side: int = 120) -> Any:
    return np.full((side, side, 1), tone, np.uint8)


def scratched(seed: int, **fields: Any) -> Forged:
    plain: dict[str, Any] = {"size": 50.0, "contrast": 0.4, "sharpness": 1.0, "count": 1, "rim": 0.0, "gaps": 0.0}
    return Scratch(**(plain | fields))(Sample(flat()), np.random.default_rng(seed))


def extent(mask: Any) -> float:
    """Largest extent of the forged pixels over 32 directions, in pixels."""
    points = np.argwhere(mask).astype(float)
    angles = np.linspace(0, np.pi, 32, endpoint=False)
    return max(float(np.ptp(points @ np.array([np.sin(a), np.cos(a)]))) for a in angles) + 1


# ---- lines


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_a_line_lands_thickens_and_lifts(seed: int) -> None:
    width = lines._taper(AT, np.random.default_rng(seed))
    assert width[0] == width[-1] == 0
    assert ((width >= 0) & (width <= 1)).all()
    peak = int(width.argmax())
    assert 0.1 <= AT[peak] <= 0.9
    assert (np.diff(width[: peak + 1]) >= 0).all()
    assert (np.diff(width[peak:]) <= 0).all()
    assert width.max() > 0.9


@given(st.integers(0, 10_000), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_contact_comes_and_goes_by_the_gaps_asked_for(seed: int, gaps: float) -> None:
    strength = lines._contact(AT, gaps, np.random.default_rng(seed))
    assert strength.max() == pytest.approx(1)
    assert strength.min() == pytest.approx(1 - gaps)


@given(st.integers(0, 10_000), st.floats(0.5, 3))
@settings(max_examples=50, deadline=None)
def test_a_second_line_runs_beside_the_first(seed: int, width: float) -> None:
    rng = np.random.default_rng(seed)
    first = shapes.grow(60.0, 2.0, 0.0, 0.0, rng)  # straight, so that distances to it are plain
    beside = lines._beside(first, width, rng)
    assert 4 <= len(beside) <= len(first)
    ahead = (first[-1] - first[0]) / np.linalg.norm(first[-1] - first[0])
    other = (beside[-1] - beside[0]) / np.linalg.norm(beside[-1] - beside[0])
    assert abs(float(ahead @ other)) >= np.cos(np.deg2rad(5.0)) - 1e-9
    normal = np.array([-ahead[1], ahead[0]])
    away = abs(float((beside.mean(axis=0) - first[0]) @ normal))
    assert 3 * width - 1e-6 <= away <= 12 * width + 1e-6
    np.testing.assert_allclose(np.linalg.norm(np.diff(beside, axis=0), axis=1), 2.0, rtol=1e-6)


@given(st.integers(0, 10_000), st.floats(10, 100), st.floats(0, 90))
@settings(max_examples=50, deadline=None)
def test_a_line_without_wobble_turns_by_at_most_its_bend(seed: int, length: float, bend: float) -> None:
    path = shapes.grow(length, 2.0, bend, 0.0, np.random.default_rng(seed))
    steps = np.diff(path, axis=0)
    np.testing.assert_allclose(np.linalg.norm(steps, axis=1).sum(), length, rtol=1e-6)
    heading = np.unwrap(np.arctan2(steps[:, 0], steps[:, 1]))
    assert np.rad2deg(np.ptp(heading)) <= bend + 1e-3
    turns = np.diff(heading)
    np.testing.assert_allclose(turns, turns.mean(), atol=1e-6)  # a curve: as much at every step


def test_a_branch_leaves_its_parent_aside_and_thinner() -> None:
    straight = np.stack([np.full(31, 40.0), 2.0 * np.arange(31)], axis=1)
    for seed in range(30):
        branch, width = Crack(jag=0.0)._branch((straight, 1.6), np.random.default_rng(seed))
        assert 0.8 <= width <= 1.28
        assert np.abs(straight - branch[0]).sum(axis=1).min() == 0  # it starts on the parent
        first = branch[1] - branch[0]
        aside = np.rad2deg(np.arccos(first[1] / np.linalg.norm(first)))
        assert 20 - 1 <= aside <= 70 + 1
        assert 0.15 * 62 <= np.linalg.norm(np.diff(branch, axis=0), axis=1).sum() <= 0.65 * 62


# ---- scratches


@pytest.mark.parametrize("size", [20.0, 50.0, 90.0])
def test_a_straight_scratch_is_as_long_as_asked(size: float) -> None:
    """Its tapered ends may fall below the least change; the middle of it may not leave the picture."""
    lengths = []
    for seed in range(30):
        forged = scratched(seed, size=size, bend=0.0, width=2.0)
        y, x = forged.drawn["centre"]
        if min(y, x, 120 - y, 120 - x) > size / 2:
            lengths.append(extent(forged.mask))
    if size < 90:
        assert lengths
    assert all(0.75 * size <= each <= size + 6 for each in lengths)


def test_width_is_at_most_a_twelfth_of_the_length() -> None:
    drawn = [scratched(seed, size=24.0, width=3.0).drawn["width"] for seed in range(5)]
    assert drawn == [2.0] * 5
    assert scratched(0, size=60.0, width=3.0).drawn["width"] == 3.0


@pytest.mark.parametrize("narrow", [0.5, 1.0])
def test_a_wider_scratch_covers_more(narrow: float) -> None:
    areas = [np.mean([scratched(s, size=80.0, width=w).mask.sum() for s in range(10)]) for w in (narrow, 3 * narrow)]
    assert areas[0] < areas[1]


def test_a_rim_adds_the_opposite_tone_and_no_rim_adds_none() -> None:
    with_rim, without = 0, 0
    for seed in range(10):
        for rim in (0.0, 0.6):
            forged = scratched(seed, rim=rim, width=3.0, tone="darker")
            lighter = (forged.image[..., 0] > 128).sum()
            without, with_rim = without + lighter * (rim == 0), with_rim + lighter * (rim > 0)
    assert without == 0
    assert with_rim > 50


def test_gaps_break_a_scratch_and_weaken_it() -> None:
    change = {
        gaps: np.mean([np.abs(scratched(s, gaps=gaps, width=2.0).image.astype(int) - 128).sum() for s in range(10)])
        for gaps in (0.0, 1.0)
    }
    assert change[1.0] < 0.8 * change[0.0]


def test_several_lines_are_nearly_parallel() -> None:
    """One line's pixels vary much more along it than across; so do those of a few lines side by side."""
    for seed in range(6):
        forged = scratched(seed, count=3, bend=0.0, size=90.0, width=1.0)
        if forged.mask.sum() > 60:
            points = np.argwhere(forged.mask).astype(float)
            along, across = sorted(np.sqrt(np.linalg.eigvalsh(np.cov(points.T))), reverse=True)
            assert along > 1.5 * across


def test_a_blunt_scratch_is_as_strong_and_wider() -> None:
    sharp, blunt = ([scratched(s, sharpness=sharpness, width=4.0, size=80.0) for s in range(8)] for sharpness in (1.0, 0.0))
    assert np.mean([f.mask.sum() for f in blunt]) > np.mean([f.mask.sum() for f in sharp])
    peaks = [np.mean([np.abs(f.image.astype(int) - 128).max() for f in made]) for made in (sharp, blunt)]
    assert peaks[1] == pytest.approx(peaks[0], rel=0.15)


# ---- cracks


def test_a_crack_has_no_more_branches_than_allowed() -> None:
    for most in (0, 2):
        made = [Crack(branches=most, contrast=0.4)(Sample(flat()), np.random.default_rng(s)) for s in range(20)]
        counts = {forged.drawn["branches"] for forged in made if "branches" in forged.drawn}
        assert counts <= set(range(most + 1))
        assert max(counts) == most


def test_branches_are_more_of_the_same_crack() -> None:
    areas = [
        np.mean(
            [
                Crack(size=60.0, contrast=0.5, branches=most, width=1.5)(Sample(flat()), np.random.default_rng(s)).mask.sum()
                for s in range(16)
            ]
        )
        for most in (0, 8)
    ]
    assert areas[1] > 1.3 * areas[0]


def test_a_jagged_crack_is_less_straight() -> None:
    """Length as grown over the distance between its ends."""

    def detour(jag: float) -> float:
        paths = [shapes.grow(80.0, 2.0, 0.0, jag, np.random.default_rng(s)) for s in range(20)]
        return float(np.mean([80.0 / np.linalg.norm(path[-1] - path[0]) for path in paths]))

    assert detour(0.0) == pytest.approx(1.0, abs=1e-6)
    assert 1.0 < detour(10.0) < detour(30.0)


def test_a_crack_is_dark_unless_asked_otherwise() -> None:
    for seed in range(6):
        forged = Crack(contrast=0.3)(Sample(flat()), np.random.default_rng(seed))
        assert (forged.image[forged.mask] < 128).all()
        light = Crack(contrast=0.3, tone="lighter")(Sample(flat()), np.random.default_rng(seed))
        change = light.image[light.mask].astype(int) - 128
        assert (change[np.abs(change) > 3] > 0).all()  # a filled pinhole moves by the least change, to either side


@pytest.mark.parametrize(
    ("forger", "fields", "words"),
    [
        (Scratch, {"width": 0.1}, "width is 0.1"),
        (Scratch, {"bend": (0, 10)}, "bend"),
        (Scratch, {"count": 0}, "count is 0"),
        (Scratch, {"rim": 1.5}, "rim is 1.5"),
        (Scratch, {"gaps": (0.5, 0.2)}, "gaps"),
        (Scratch, {"tone": "red"}, "tone is 'red'"),
        (Crack, {"jag": 61.0}, "jag is 61.0"),
        (Crack, {"branches": 21}, "branches is 21"),
        (Crack, {"branches": 2.5}, "branches is 2.5"),
    ],
)
def test_a_setting_out_of_bounds_is_named(forger: type, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        forger(**fields)
    assert str(error.value).startswith(forger.name)  # type: ignore[attr-defined]
    assert str(error.value).endswith(".")


def test_bounds_of_widths_follow_the_unit() -> None:
    """0.1 px is too thin; 0.1 mm at 0.05 mm a pixel is two pixels."""
    assert Scratch(width=0.1, size=5.0, mm_per_pixel=0.05).width == 0.1
    with pytest.raises(ConfigError, match="mm"):
        Scratch(width=5.0, size=5.0, mm_per_pixel=0.05)
