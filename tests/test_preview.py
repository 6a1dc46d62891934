"""The preview folder, its JSON, and the realism test."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flawforge.demo.washers import render_good
from flawforge.forge import FORGERS, Mix, forger_from
from flawforge.pictures.listing import Entry
from flawforge.reporting import realism as realism_room
from flawforge.reporting.contact_sheets import contact_sheet, forge_preview, remake
from flawforge.reporting.realism import border_ratio, realism
from flawforge.types import ConfigError, DataError, Forged, ImageError, Sample
from flawforge_runtime.images import read_mask, read_picture, write_image


@pytest.fixture(scope="module")
def goods(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("goods")
    paths = [folder / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths):
        write_image(path, render_good(i, 0, 72))
    return paths


def test_the_folder_holds_what_it_says(goods: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "forged"
    seen: list[str] = []
    written = forge_preview([Entry(p) for p in goods], out, ["perlin", "scratch"], count=3, progress=seen.append)
    assert seen == ["perlin", "scratch"]
    assert sorted(p.name for p in out.iterdir()) == [
        "forgeries.json",
        "index.html",
        "masks",
        "perlin.jpg",
        "pictures",
        "scratch.jpg",
    ]
    page = (out / "index.html").read_text(encoding="utf-8")
    assert re.findall('<img src="([^"]*)"', page) == ["perlin.jpg", "scratch.jpg"]
    assert "<script" not in page
    assert json.loads((out / "forgeries.json").read_text()) == json.loads(json.dumps(written))
    assert len(written["forgeries"]) == 6
    for row in written["forgeries"]:
        good, forged = read_picture(row["source"]).pixels, read_picture(out / row["picture"]).pixels
        mask = read_mask(out / row["mask"], good.shape[:2])
        np.testing.assert_array_equal((good != forged).any(axis=2), mask)
        assert mask.sum() == row["forged_pixels"]
    sheet = read_picture(out / "perlin.jpg").pixels
    assert sheet.shape[0] > 200
    assert sheet.shape[1] > 600
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("name", sorted(FORGERS))
def test_each_forgery_can_be_made_again_alone(name: str, goods: list[Path], tmp_path: Path) -> None:
    forge_preview(goods, tmp_path / "out", [name], count=3, seed=5)
    row = json.loads((tmp_path / "out" / "forgeries.json").read_text())["forgeries"][2]
    again = remake(row)
    np.testing.assert_array_equal(again.image, read_picture(tmp_path / "out" / row["picture"]).pixels)
    np.testing.assert_array_equal(again.mask, read_mask(tmp_path / "out" / row["mask"], again.mask.shape))
    assert json.loads(json.dumps(dict(again.drawn))) == row["drawn"]


def test_own_settings_textures_and_priors_are_kept(goods: list[Path], tmp_path: Path) -> None:
    texture = tmp_path / "t.png"
    write_image(texture, np.full((20, 20, 3), (0, 200, 0), np.uint8))
    mine = {
        "weak": Mix((forger_from("perlin", opacity=1.0, operations=0), forger_from("stain", size=(9.0, 12.0))), (3.0, 1.0))
    }
    written = forge_preview(goods, tmp_path / "out", mine, count=6, prior="ones", textures=[texture])
    assert (tmp_path / "out" / "weak.jpg").exists()
    assert {row["kind"] for row in written["forgeries"]} <= {"perlin", "stain"}
    assert {row["drawn"]["saliency"] for row in written["forgeries"]} == {"ones"}
    for row in written["forgeries"]:
        np.testing.assert_array_equal(remake(row).image, read_picture(tmp_path / "out" / row["picture"]).pixels)


def test_same_seed_same_bytes(goods: list[Path], tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        forge_preview(goods, tmp_path / name, ["blob"], count=2, seed=9 if name == "c" else 8)
    a, b, c = ((tmp_path / n / "pictures" / "blob_001.png").read_bytes() for n in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"forgers": ["smudge"]}, ConfigError, "'smudge' is unknown"),
        ({"count": 0}, ConfigError, "count is 0"),
        ({"prior": "depth"}, ConfigError, "prior is 'depth'"),
    ],
)
def test_wrong_settings_leave_nothing(
    settings: dict[str, Any], error: type[Exception], words: str, goods: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        forge_preview(goods, tmp_path / "out", **settings)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_refused_and_untouched(goods: list[Path], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(ConfigError, match="exists already"):
        forge_preview(goods, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_no_pictures_and_broken_pictures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no good picture"):
        forge_preview([], tmp_path / "out")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    with pytest.raises(ImageError):
        forge_preview([broken], tmp_path / "out", ["perlin"])
    assert [p.name for p in tmp_path.iterdir()] == ["broken.png"]


def test_a_sheet_of_one_wide_grey_float_picture() -> None:
    good = np.full((40, 120, 1), 0.5, np.float32)
    forged = FORGERS["blob"]()(Sample(good), np.random.default_rng(0))
    sheet = contact_sheet("blob", [(good, forged)])
    assert sheet.dtype == np.uint8
    assert sheet.shape[2] == 3


def made(name: str, count: int = 16, **settings: Any) -> list[tuple[Any, Forged]]:
    pairs = []
    for i in range(count):
        good = render_good(i, 0, 96)
        pairs.append((good, forger_from(name, **settings)(Sample(good), np.random.default_rng([3, i]))))
    return pairs


def test_a_forgery_that_changes_nothing_to_speak_of_cannot_be_told() -> None:
    """Two levels on grain of about as much: the classifier must be near a coin; a black blob it must always see."""
    pairs = []
    for i in range(16):
        good = np.clip(np.random.default_rng(i).normal(120, 12, (96, 96, 1)), 0, 255).astype(np.uint8)
        mask = np.zeros((96, 96), bool)
        mask[30:60, 30:60] = True
        image = good.copy()
        image[30:60, 30:60] = np.roll(good[30:60, 30:60], (7, 11), axis=(0, 1))  # the same statistics, other places
        pairs.append((good, Forged(image, mask, "roll")))
    row = realism(pairs)
    assert row.patch_auroc == pytest.approx(0.5, abs=0.12)
    assert row.same_place == pytest.approx(0.5, abs=0.12)
    for good, forged in pairs:
        good[...] = np.clip(good, 60, 255)
        forged.image[forged.mask] = 0
    assert realism(pairs).patch_auroc == pytest.approx(1.0, abs=0.01)


def test_realism_is_the_same_every_time() -> None:
    assert realism(made("stain")) == realism(made("stain"))


def test_realism_of_too_few_says_none() -> None:
    row = realism(made("stain", count=2))
    assert row.patch_auroc is None
    assert row.border_ratio is not None


def test_border_ratio_by_hand() -> None:
    """A ramp of 2 levels a pixel has gradient 2; a step of 40 spread over two pixels by Sobel has 20 on its border."""
    good = np.broadcast_to((np.arange(60) * 2).astype(np.uint8)[None, :, None], (60, 60, 1)).copy()
    mask = np.zeros((60, 60), bool)
    mask[:, 20:40] = True
    image = good.copy()
    image[mask] += 40
    assert border_ratio(good, Forged(image, mask, "step")) == pytest.approx((20 + 20) / 2 / 2, abs=1.2)
    assert border_ratio(good, Forged(good, np.zeros((60, 60), bool), "none")) is None


def test_patches_touch_the_forgery() -> None:
    mask = np.zeros((50, 70), bool)
    mask[44:49, 60:69] = True
    for y, x in realism_room._places(mask, np.random.default_rng(0)):
        assert mask[y : y + 16, x : x + 16].any()
