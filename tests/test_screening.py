"""Which good pictures stand out from the others: the limit by its stated rate, the comparison on pictures made for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flawforge.fitting import questions
from flawforge.fitting.questions import FOLDS, pixel_features, screen
from flawforge.pictures import screening
from flawforge.pictures.screening import LEAST, Screening, outlier_limit

VALID = torch.ones(1, 1, 64, 64)


@pytest.mark.parametrize("count", [12, 50, 300])
def test_clean_samples_have_an_outlier_as_seldom_as_stated(count: int) -> None:
    rng = np.random.default_rng(1)
    samples = rng.laplace(7, 3, size=(2000, count))  # exponential on both sides of the median
    share = np.mean([max(x) > outlier_limit(x) for x in samples])
    assert share == pytest.approx(screening.RATE, abs=0.015)  # three standard errors of 2,000 draws


def test_lighter_tails_have_one_more_seldom() -> None:
    rng = np.random.default_rng(2)
    share = np.mean([max(x) > outlier_limit(x) for x in rng.standard_normal((1000, 100))])
    assert share < screening.RATE / 2


@given(st.lists(st.floats(-1e3, 1e3), min_size=LEAST, max_size=40), st.floats(0.1, 100), st.floats(-1e3, 1e3))
@settings(max_examples=50, deadline=None)
def test_the_limit_moves_with_the_values(values: list[float], scale: float, shift: float) -> None:
    limit, moved = outlier_limit(values), outlier_limit([scale * v + shift for v in values])
    assert limit is not None
    assert moved == pytest.approx(scale * limit + shift, rel=1e-6, abs=1e-3 * scale)


def test_a_quarter_of_outliers_hardly_moves_it() -> None:
    clean = list(np.random.default_rng(3).standard_normal(60))
    with_outliers = outlier_limit([*clean, *[1000.0] * 12])
    assert with_outliers is not None
    assert with_outliers < 40


def test_too_few_pictures_tell_nothing() -> None:
    assert outlier_limit([1.0] * (LEAST - 1)) is None
    assert outlier_limit([1.0] * LEAST) == pytest.approx(1.0, abs=1e-6)


def made(rng: np.random.Generator, count: int) -> list[tuple[Path, Tensor, Tensor]]:
    """Noise of one kind."""
    return [
        (Path(f"{i:02d}.png"), torch.from_numpy(rng.random((1, 3, 64, 64), np.float32)) * 0.1 + 0.5, VALID)
        for i in range(count)
    ]


def test_the_odd_picture_is_proposed_and_no_other() -> None:
    pictures = made(np.random.default_rng(0), 30)
    pictures[17][1][:, :, 20:40, 20:40] = 0.0
    found = screen(pictures, [], pixel_features, "pixels")
    assert [path.name for path, _ in found.suspects] == ["17.png"]
    assert "17.png" in "\n".join(found.lines())
    assert found.as_dict()["suspects"][0]["path"] == "17.png"


def test_alike_pictures_have_no_suspect_but_a_ranking() -> None:
    found = screen(made(np.random.default_rng(0), 30), [], pixel_features, "pixels")
    assert found.suspects == ()
    assert [score for _, score in found.scores] == sorted((score for _, score in found.scores), reverse=True)
    assert found.scores[0][0].name in found.lines()[0]


def test_a_defect_that_is_photographed_twice_does_not_vouch_for_itself() -> None:
    pictures = made(np.random.default_rng(0), 30)
    for place in (3, 4):
        pictures[place][1][:, :, 20:40, 20:40] = 0.0
    together = screen(pictures, [[Path("03.png"), Path("04.png")]], pixel_features, "pixels")
    assert {path.name for path, _ in together.suspects} == {"03.png", "04.png"}


def test_what_is_not_judged_is_not_compared() -> None:
    pictures = made(np.random.default_rng(0), 30)
    pictures[5][1][:, :, :16, :16] = 0.0
    outside = torch.ones(1, 1, 64, 64)
    outside[:, :, :16, :16] = 0
    assert screen([(path, x, outside) for path, x, _ in pictures], [], pixel_features, "pixels").suspects == ()
    assert screen(pictures, [], pixel_features, "pixels").suspects[0][0].name == "05.png"


@pytest.mark.parametrize("others", [0, 4])
def test_pictures_that_are_equal_where_they_are_judged_are_said_to_be(others: int) -> None:
    """As a saturated background in a region of interest that misses the part; a division by their score is none."""
    rng = np.random.default_rng(0)
    pictures = [(Path(f"{i}.png"), torch.ones(1, 3, 64, 64), VALID) for i in range(12)] + made(rng, others)
    found = screen(pictures, [], pixel_features, "pixels")
    (line,) = found.lines()
    assert line.startswith(f"12 of {12 + others} good pictures equal others where they are judged")
    assert "check that the region of interest shows the part" in line
    assert all(np.isfinite(row["score"]) for row in found.as_dict()["most_anomalous"])


def test_one_that_stands_out_among_equal_ones_is_named_with_its_score() -> None:
    pictures = [(Path(f"{i}.png"), torch.ones(1, 3, 64, 64), VALID) for i in range(12)]
    pictures[3][1][:, :, 20:40, 20:40] = 0.0
    found = screen(pictures, [], pixel_features, "pixels")
    assert [path.name for path, _ in found.suspects] == ["3.png"]
    assert found.lines()[0].startswith("11 of 12 good pictures equal others")
    assert found.lines()[-1] == f"  3.png: {found.suspects[0][1]:.3g}"


def test_multiples_are_of_the_median_score() -> None:
    scores = tuple((Path(f"{i}.png"), float(score)) for i, score in enumerate([80, 6, 5, *[4] * 3, *[2] * 5]))
    quiet, loud = Screening(scores, 100.0, "pixels"), Screening(scores, 5.5, "pixels")
    assert quiet.lines()[0].endswith("typical one's score: 0.png (20.0), 1.png (1.5), 2.png (1.2)")
    assert loud.lines()[0].startswith("2 of 11 good pictures stand out from all others")
    assert loud.lines()[1:] == ["  0.png: 20.0 times a typical score", "  1.png: 1.5 times a typical score"]
    assert Screening(scores[:3], None, "").lines() == [
        "3 good pictures are too few to tell which of them are unlike the others"
    ]


def test_groups_stay_in_one_fold_and_folds_are_even() -> None:
    paths = [Path(str(i)) for i in range(40)]
    groups = [[paths[0], paths[1]], [paths[1], paths[9]], [Path("elsewhere"), paths[20]]]
    dealt = questions._folds(paths, groups, seed=0)
    assert dealt[0] == dealt[1] == dealt[9]
    sizes = np.bincount(dealt, minlength=FOLDS)
    assert sizes.max() - sizes.min() <= 3


def test_pixel_features_are_means_of_a_patch() -> None:
    image = torch.arange(3 * 16 * 16, dtype=torch.float32).reshape(1, 3, 16, 16)
    found = pixel_features(image)[0, :, 0, 0]
    for colour in range(3):
        cells = image[0, colour].reshape(4, 4, 4, 4).mean(dim=(1, 3)).flatten()
        torch.testing.assert_close(found[16 * colour : 16 * colour + 16], cells - cells.mean())
        torch.testing.assert_close(found[48 + colour], cells.mean())
