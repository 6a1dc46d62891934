"""What --tolerate names: varied copies of good pictures, and a promise that holds for them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge import fitting
from flawforge.methods import METHODS
from flawforge.pictures import tolerance
from flawforge.pictures.dataset import GoodPictures, good_entries, read_entries
from flawforge.types import ConfigError

ONE = np.ones(2)


def picture(h: int = 64, w: int = 96) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (cv2.GaussianBlur(rng.random((h, w, 3)), (0, 0), 2) * 255).astype(np.uint8)


@settings(max_examples=30, deadline=None)
@given(st.sets(st.sampled_from(sorted(tolerance.KINDS))), st.integers(0, 2**32), st.booleans(), st.sampled_from([1, 3]))
def test_shape_type_and_range_stay_and_the_seed_decides(kinds: set[str], seed: int, deep: bool, channels: int) -> None:
    image = picture(20, 31)[..., :channels]
    image = image.astype(np.float32) / 255 if deep else image
    first, second = (tolerance.vary(image, sorted(kinds), np.random.default_rng(seed)) for _ in range(2))
    assert first.shape == image.shape
    assert first.dtype == image.dtype
    np.testing.assert_array_equal(first, second)
    assert first.max() <= (1 if deep else 255)
    assert np.isfinite(first).all()
    if not kinds:
        np.testing.assert_array_equal(first, image)


def test_the_amounts_are_what_the_help_says() -> None:
    image = picture()
    brighter = tolerance.varied(image // 2, {"brightness": ONE})
    np.testing.assert_array_equal(brighter, np.rint(image // 2 * 1.2).astype(np.uint8))
    moved = tolerance.varied(image, {"shift": ONE})  # a 64th of 64 px is one pixel, down and to the right
    np.testing.assert_array_equal(moved[1:, 1:], image[:-1, :-1])
    dot = np.zeros((257, 257, 1), np.float32)
    dot[128, 228] = 1
    row, column = np.unravel_index(tolerance.varied(dot, {"turn": ONE}).argmax(), (257, 257))
    assert np.degrees(np.arctan2(abs(row - 128), column - 128)) == pytest.approx(2, abs=0.4)
    step = np.zeros((256, 256, 1), np.float32)
    step[:, 128:] = 1
    blurred = tolerance.varied(step, {"blur": ONE})[0, :, 0]
    assert blurred[127] == pytest.approx(0.31, abs=0.02)  # a Gaussian's share beyond half a pixel
    coarse = tolerance.varied(image, {"jpeg": ONE})
    assert 0 < np.abs(coarse.astype(int) - image).mean() < 8


def test_an_unknown_kind_is_refused_in_a_sentence() -> None:
    assert tolerance.kinds_from("all") == tuple(tolerance.KINDS)
    assert tolerance.kinds_from("turn, shift") == ("turn", "shift")
    assert tolerance.kinds_from("") == ()
    with pytest.raises(ConfigError, match="'spin'; allowed are all, or any of brightness"):
        tolerance.kinds_from("spin")


def test_every_picture_has_its_copies_under_its_own_index(washers: Path) -> None:
    entries = good_entries(read_entries(washers))[:5]
    plain = GoodPictures(entries, (64, 64))
    varied = GoodPictures(entries, (64, 64), tolerate=("brightness",), seed=1)
    seen = [index for batch in varied.clean_batches(4) for index in batch.index.tolist()]
    assert seen == [*range(5)] * (1 + tolerance.COPIES)
    np.testing.assert_array_equal(varied.picture(2), plain.picture(2))
    assert not np.array_equal(varied.picture(2, 1), plain.picture(2))
    again = GoodPictures(entries, (64, 64), tolerate=("brightness",), seed=1)
    np.testing.assert_array_equal(varied.picture(2, 1), again.picture(2, 1))
    assert not np.array_equal(varied.picture(2, 1), varied.picture(2, 2))


def test_a_model_that_tolerates_light_rejects_fewer_good_parts_in_other_light(washers: Path, tmp_path: Path) -> None:
    def dark_scores(tolerate: str) -> float:
        request = fitting.Request(
            washers,
            tmp_path / f"m{tolerate}",
            method="patchstats",
            size=64,
            tolerate=tolerate,
            settings=dataclasses.asdict(METHODS["patchstats"].tiny),
        )
        model = fitting.run(request)
        assert model.content is not None
        assert model.content.config["tolerate"] == tolerate
        goods = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in (washers / "test" / "good").iterdir()]
        dark = [tolerance.varied(good, {"brightness": -ONE}) for good in goods]
        return float(np.mean([model(each).pred_score > model.calibration.threshold for each in dark]))  # type: ignore[union-attr]

    assert dark_scores("brightness") < dark_scores("")
