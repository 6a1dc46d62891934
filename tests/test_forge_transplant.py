"""`transplant`: what is cut out of a real defect, and how it lies on a good part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.test_forgers import obeys, picture, samples
from flawforge.forge import blend, family, forger_from, names_in
from flawforge.forge.mixtures import Mix
from flawforge.forge.transplant import HOME_SHIFT, RING, Piece, Transplant, cut_out
from flawforge.reporting.contact_sheets import describe
from flawforge.types import ConfigError, Forged, Sample

FOUND = {"scale": 1.0, "turn": 0.0, "opacity": 1.0}


def flat(tone: int, shape: tuple[int, int] = (96, 128)) -> Any:
    return np.full((*shape, 3), tone, np.uint8)


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> Any:
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    return np.hypot(y - centre[0], x - centre[1]) <= radius


def spot(tone: int = 40, surface: int = 120) -> tuple[Piece, ...]:
    """A dark disc of radius 6 at (30, 90) of a flat picture of 96 x 128."""
    defective, mask = flat(surface), disc((96, 128), (30, 90), 6)
    defective[mask] = tone
    return cut_out(defective, mask, "spot", "ab12")


def bar() -> tuple[Piece, ...]:
    """A dark horizontal bar of 41 x 5 in the middle of a flat picture."""
    defective, mask = flat(120), np.zeros((96, 128), bool)
    mask[46:51, 44:85] = True
    defective[mask] = 30
    return cut_out(defective, mask, "bar")


def forge(forger: Transplant, good: Any, seed: int = 0, prior: Any = None) -> Forged:
    return forger(Sample(good, prior), np.random.default_rng(seed))


def test_every_region_is_a_piece_with_surface_around_it() -> None:
    mask = disc((96, 128), (30, 90), 6) | disc((96, 128), (70, 20), 4)
    mask[5, 5:9] = True  # four pixels are no defect that could be seen
    good = flat(120)
    good[mask] = 40
    first, second = cut_out(good, mask, "spot", "ab12")
    assert (first.extent, second.extent) == ((13, 13), (9, 9))
    assert first.place == pytest.approx((30.5 / 96, 90.5 / 128))
    assert second.place == pytest.approx((70.5 / 96, 20.5 / 128))
    assert first.mask.shape == (13 + 4 * RING, 13 + 4 * RING)
    assert (first.pixels[first.mask] == 40).all()
    assert (first.pixels[~first.mask] == 120).all()
    assert (first.kind, first.source) == ("spot", "ab12")


def test_regions_that_nearly_touch_are_one_piece_and_the_border_ends_the_cutout() -> None:
    mask = np.zeros((64, 64), bool)
    mask[0:4, 0:10] = mask[6:9, 0:10] = True
    (piece,) = cut_out(flat(9, (64, 64)), mask)
    assert piece.extent == (9, 10)
    assert piece.mask.shape == (9 + 2 * RING, 10 + 2 * RING)
    assert cut_out(flat(9, (64, 64)), np.zeros((64, 64), bool)) == ()


def test_the_cutout_is_a_copy() -> None:
    good = flat(120)
    (piece,) = cut_out(good, disc((96, 128), (30, 90), 6))
    good[:] = 0
    assert (piece.pixels == 120).all()


@pytest.mark.parametrize("pieces", [spot(), (*spot(), *bar())])
@given(sample=samples(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_the_laws_of_forgers_hold_for_given_pieces(pieces: tuple[Piece, ...], sample: Sample, seed: int) -> None:
    obeys("transplant", sample, Transplant(pieces)(sample, np.random.default_rng(seed)))


@pytest.mark.parametrize("seed", range(4))
def test_a_defect_comes_back_as_it_was_found(seed: int) -> None:
    """On the same surface, as found and at home: the same tone, the same area, within the shift that is allowed."""
    forged = forge(Transplant(spot(), home=1.0, **FOUND), flat(120), seed)
    inner = forged.image[forged.mask].min(axis=1)
    assert abs(int(inner.min()) - 40) <= 2
    dark = (forged.image[..., 0] < 80).sum()
    assert dark == pytest.approx(np.pi * 36, rel=0.15)
    rows, columns = np.nonzero(forged.image[..., 0] < 80)
    assert abs(rows.mean() - 30) <= HOME_SHIFT * 96 + 1
    assert abs(columns.mean() - 90) <= HOME_SHIFT * 128 + 1
    assert forged.drawn["of"] == "spot"
    assert forged.drawn["source"] == "ab12"
    assert forged.drawn["piece"] == 0
    assert forged.drawn["redraws"] == 0


@pytest.mark.parametrize("tone", [90, 160])
def test_it_takes_the_tone_of_the_surface_that_it_lies_on(tone: int) -> None:
    """Poisson: on flat surfaces the change is the same, whatever the surface's own tone. A pasted copy would show a rim."""
    forged = forge(Transplant(spot(), home=1.0, **FOUND), flat(tone))
    change = forged.image[..., 0].astype(int) - tone
    assert abs(int(change.min()) - (40 - 120)) <= 3
    dark = change < -40
    assert dark.sum() == pytest.approx(np.pi * 36, rel=0.15)
    assert np.abs(change[~dark]).max() < 40, "no rim of the old surface"


def test_opacity_scales_the_change() -> None:
    whole = forge(Transplant(spot(), home=1.0, **FOUND), flat(120))
    half = forge(Transplant(spot(), home=1.0, **FOUND | {"opacity": 0.5}), flat(120))
    assert (120 - int(half.image.min())) * 2 == pytest.approx(120 - int(whole.image.min()), abs=3)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_scale_resizes_the_piece(factor: float) -> None:
    forged = forge(Transplant(spot(), home=1.0, **FOUND | {"scale": factor}), flat(120))
    assert (forged.image[..., 0] < 80).sum() == pytest.approx(np.pi * 36 * factor**2, rel=0.25)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_turned_by_what_is_drawn(seed: int) -> None:
    forged = forge(Transplant(bar(), scale=1.0, home=0.0, opacity=1.0), flat(120), seed)
    rows, columns = np.nonzero(forged.image[..., 0] < 75)
    spread = np.cov(np.stack([columns, -rows]))
    along = np.linalg.eigh(spread)[1][:, -1]
    apart = (np.rad2deg(np.arctan2(along[1], along[0])) - forged.drawn["turn"]) % 180
    assert min(apart, 180 - apart) < 3.0


def test_it_is_mirrored_in_half_of_the_cases_away_from_home() -> None:
    away = [forge(Transplant(bar(), home=0.0), flat(120), seed).drawn for seed in range(60)]
    at_home = [forge(Transplant(bar(), home=1.0), flat(120), seed).drawn for seed in range(20)]
    assert 15 <= sum(drawn["mirrored"] for drawn in away) <= 45
    assert not any(drawn["mirrored"] for drawn in at_home)
    assert max(abs(drawn["turn"]) for drawn in at_home) <= 10.0 < max(abs(drawn["turn"]) for drawn in away)
    assert 10 <= sum(forge(Transplant(bar()), flat(120), seed).drawn["home"] for seed in range(40)) <= 30


@pytest.mark.parametrize("levels", [None, 3])
def test_away_from_home_it_lies_where_the_prior_is(levels: int | None) -> None:
    prior = np.zeros((96, 128), np.float32)
    prior[30:70, 20:50] = 1.0
    if levels:
        prior = np.stack([prior, *[np.zeros_like(prior)] * (levels - 1)], axis=2)
    for seed in range(8):
        rows, columns = np.nonzero(forge(Transplant(spot(), home=0.0), flat(120), seed, prior).mask)
        assert 28 <= rows.mean() <= 71
        assert 18 <= columns.mean() <= 51


@pytest.mark.parametrize("shape", [(32, 32), (40, 200)])
def test_a_piece_larger_than_the_picture_is_shrunk(shape: tuple[int, int]) -> None:
    defective, mask = flat(120, (300, 300)), disc((300, 300), (150, 150), 120)
    defective[mask] = 30
    forged = forge(Transplant(cut_out(defective, mask)), flat(120, shape))
    assert "fallback" not in forged.drawn
    assert forged.mask.any()


def test_a_long_thin_piece_larger_than_the_picture_still_shows() -> None:
    defective, mask = flat(120, (64, 400)), np.zeros((64, 400), bool)
    mask[28:36, 20:380] = True
    defective[mask] = 30
    shown = [forge(Transplant(cut_out(defective, mask)), flat(120, (64, 64)), seed) for seed in range(10)]
    assert sum("fallback" not in forged.drawn for forged in shown) >= 8


def test_a_coloured_piece_is_grey_on_a_grey_part() -> None:
    defective, mask = flat(120), disc((96, 128), (30, 90), 6)
    defective[mask] = (200, 30, 30)
    pieces = cut_out(defective, mask)
    forged = forge(Transplant(pieces), flat(120))
    assert blend.is_grey(forged.image)
    assert forge(Transplant(pieces), flat(120)[..., :1]).image.shape == (96, 128, 1)
    coloured = flat(120)
    coloured[..., 0] += 20
    assert not blend.is_grey(forge(Transplant(pieces), coloured).image - coloured)


def test_pieces_of_eight_bits_lie_on_pictures_of_sixteen_and_back() -> None:
    deep = np.full((96, 128, 3), 120 / 255, np.float32)
    forged = forge(Transplant(spot(), home=1.0, **FOUND), deep)
    assert forged.image.dtype == np.float32
    assert forged.image.min() == pytest.approx(40 / 255, abs=0.02)
    fine = tuple(Piece(piece.pixels.astype(np.float32) / 255, piece.mask, piece.place) for piece in spot())
    assert forge(Transplant(fine, home=1.0, **FOUND), flat(120)).image.min() == pytest.approx(40, abs=3)


def test_all_pieces_get_their_turn() -> None:
    forger = Transplant((*spot(), *bar()))
    drawn = [forge(forger, flat(120), seed).drawn for seed in range(30)]
    assert {each["of"] for each in drawn} == {"spot", "bar"}
    assert {each["piece"] for each in drawn} == {0, 1}


def test_without_pieces_a_region_of_a_good_picture_stands_in() -> None:
    good = picture(np.random.default_rng(0), (64, 72), 3, np.uint8, "disc")
    other = picture(np.random.default_rng(1), (64, 72), 3, np.uint8, "noise")
    alone = Transplant()(Sample(good), np.random.default_rng(3))
    pasted = Transplant()(Sample(good, other=other), np.random.default_rng(3))
    assert alone.drawn["piece"] == pasted.drawn["piece"] == "stand-in"
    assert not np.array_equal(alone.image, pasted.image)


@pytest.mark.parametrize(
    ("pieces", "told"),
    [
        ([], "must be a tuple of pieces"),
        (("spot",), "must be a tuple of pieces"),
        ((Piece(flat(1, (8, 8)), np.eye(8, dtype=bool)),), "fewer than 9 pixels"),
    ],
)
def test_other_pieces_are_refused(pieces: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Transplant(pieces)


def test_it_has_a_family_of_its_own_and_says_little_of_its_pieces() -> None:
    forger = forger_from("transplant", pieces=spot())
    assert family("transplant") == "real"
    assert names_in(Mix((forger, forger_from("scratch")))) == ("transplant", "scratch")
    assert "pieces" not in repr(forger)
    assert forger == Transplant(spot())
    assert forger != Transplant(bar())
    with pytest.raises(ConfigError, match="cannot be written down"):
        describe(forger)
