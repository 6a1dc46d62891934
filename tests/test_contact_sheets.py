"""Contact sheets: tiles, close-ups, captions, and a JSON that holds all a forgery depends on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge.demo.washers import render_good
from flawforge.forge import FORGERS, Mix, Pipe, forger_from
from flawforge.reporting import contact_sheets as sheets
from flawforge.reporting.contact_sheets import CELL, Forgeries, caption_of, contact_sheet, describe, forge, reader, rebuild
from flawforge.reporting.realism import Realism
from flawforge.types import ConfigError, DataError, Forged
from flawforge_runtime.images import write_image


def forged_at(y: int, x: int, h: int = 6, w: int = 8, shape: tuple[int, int] = (60, 80)) -> Forged:
    mask = np.zeros(shape, bool)
    mask[y : y + h, x : x + w] = True
    return Forged(np.full((*shape, 3), 90, np.uint8) + mask[..., None].astype(np.uint8) * 100, mask, "x", {})


@pytest.fixture(scope="module")
def goods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("goods")
    for i in range(3):
        write_image(folder / f"{i}.png", render_good(i, 0, 48))
    return folder


# ---- tiles


@given(st.integers(0, 54), st.integers(0, 72), st.integers(1, 30), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_a_close_up_lies_in_the_picture_and_holds_the_forgery(y: int, x: int, h: int, w: int) -> None:
    forged = forged_at(y, x, h, w)
    place = np.arange(60 * 80, dtype=np.int32).reshape(60, 80)
    part = sheets._close_up(place[..., None], forged.mask)[..., 0]
    inside = np.isin(place[forged.mask], part).mean()
    assert inside > 0.95  # a pixel at the border may be lost to rounding
    assert part.shape[0] / part.shape[1] == pytest.approx(60 / 80, rel=0.1)
    np.testing.assert_array_equal(np.diff(part, axis=1), 1)  # a window of the picture, in order


def test_a_small_forgery_is_shown_at_48_pixels_or_more() -> None:
    mask = np.zeros((400, 600), bool)
    mask[200:203, 300:303] = True
    part = sheets._close_up(np.zeros((400, 600, 3), np.uint8), mask)
    assert part.shape[:2] == (32, 48)


@pytest.mark.parametrize(("shape", "cells"), [((60, 80), (132, 176)), ((80, 60), (176, 132)), ((300, 300), (176, 176))])
def test_a_tile_is_five_cells_in_the_pictures_proportions(shape: tuple[int, int], cells: tuple[int, int]) -> None:
    good = np.full((*shape, 3), 90, np.uint8)
    tile = sheets._tile(good, forged_at(10, 10, shape=shape), 3)
    assert tile.shape == (cells[0] + 18, 5 * cells[1] + 4 * 2, 3)
    assert max(cells) == CELL
    first, second = tile[: cells[0], : cells[1]], tile[: cells[0], cells[1] + 2 : 2 * cells[1] + 2]
    assert (np.abs(first.astype(int) - 90) <= 1).all()
    assert second.max() > 150


def test_the_largest_change_is_white() -> None:
    good = np.full((176, 176, 3), 90, np.uint8)
    mask = np.zeros((176, 176), bool)
    mask[40:80, 40:80] = True
    image = np.where(mask[..., None], 120, good).astype(np.uint8)
    tile = sheets._tile(good, Forged(image, mask, "x", {}), 0)
    cells = [tile[:176, i * 178 : i * 178 + 176] for i in range(5)]
    assert (cells[3][60, 60] == 255).all()
    assert (cells[3][5, 5] == 0).all()
    assert (cells[4][60, 60] == 255).all()
    assert (cells[4][5, 5] == 0).all()


@given(st.integers(1, 7), st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_a_sheet_has_room_for_all_its_tiles(count: int, columns: int) -> None:
    good = np.full((30, 40, 3), 90, np.uint8)
    pairs = [(good, forged_at(5, 5, shape=(30, 40)))] * count
    sheet = contact_sheet("x", pairs, columns=columns)
    tile = sheets._tile(good, pairs[0][1], 0)
    used = min(columns, count)
    assert sheet.shape == (44 + -(-count // used) * (tile.shape[0] + 8), used * (tile.shape[1] + 12) + 4, 3)
    assert sheet.dtype == np.uint8


def test_a_figure_of_realism_is_written_where_there_is_one() -> None:
    good = np.full((60, 80, 3), 90, np.uint8)
    pairs = [(good, forged_at(5, 5))] * 2
    plain = contact_sheet("x", pairs)
    none = contact_sheet("x", pairs, Realism(None, None, 0.5, 3))
    told = contact_sheet("x", pairs, Realism(0.75, 0.7, 0.5, 48))
    np.testing.assert_array_equal(plain, none)
    assert (told[:44] != plain[:44]).any()
    np.testing.assert_array_equal(told[44:], plain[44:])


@pytest.mark.parametrize(
    ("drawn", "words"),
    [
        ({}, "area 48 px"),
        ({"size_px": 12.4, "contrast": 0.25, "sharpness": 1.0}, "area 48 px, size 12 px, contrast 25 %, sharpness 1.00"),
        ({"opacity": 0.333, "source": "self"}, "area 48 px, opacity 0.33, self"),
        ({"threshold": 0.5, "shape": "scar", "fallback": "tone_patch"}, "area 48 px, threshold 0.50, scar, tone_patch"),
    ],
)
def test_captions_say_what_was_drawn(drawn: dict[str, Any], words: str) -> None:
    assert caption_of(replace(forged_at(5, 5), drawn=drawn)) == words


def test_grey_and_float_pictures_are_shown_in_eight_bits_and_three_channels() -> None:
    unit = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4, 1)
    eight = sheets._eight(unit)
    assert eight.shape == (3, 4, 3)
    assert eight.dtype == np.uint8
    np.testing.assert_array_equal(eight[..., 0], np.rint(unit[..., 0] * 255))
    colour = np.zeros((3, 4, 3), np.uint8)
    assert sheets._eight(colour) is colour


# ---- forgers written down


@pytest.mark.parametrize("name", sorted(FORGERS))
def test_a_forger_survives_json(name: str) -> None:
    forger = forger_from(name)
    assert rebuild(json.loads(json.dumps(describe(forger)))) == forger


def test_nested_forgers_survive_too() -> None:
    inner = Pipe((forger_from("scratch", size=(9.0, 12.0)), Mix((forger_from("blob"),), (2.0,))))
    outer = Mix((inner, forger_from("perlin")), (1.0, 3.0))
    assert rebuild(json.loads(json.dumps(describe(outer)))) == outer


def test_a_foreign_function_cannot_be_written_down() -> None:
    with pytest.raises(ConfigError, match="is no forger of FORGERS"):
        describe(lambda sample, rng: None)  # type: ignore[arg-type, return-value]


# ---- reading


def test_a_picture_is_read_once_while_there_is_room(goods: Path) -> None:
    read = reader()
    one = read(str(goods / "0.png"))
    assert read(str(goods / "0.png")) is one
    tight = reader(budget=one.nbytes)
    first = tight(str(goods / "0.png"))
    second = tight(str(goods / "1.png"))
    assert tight(str(goods / "0.png")) is first
    assert tight(str(goods / "1.png")) is not second  # no room: read again
    np.testing.assert_array_equal(tight(str(goods / "1.png")), second)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_another_picture_takes_the_good_ones_size_and_type(dtype: Any) -> None:
    other = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    good = np.zeros((10, 15, 3), dtype)
    alike = sheets._alike(other, good)
    assert alike.shape == good.shape
    assert alike.dtype == dtype
    means = other.reshape(10, 2, 15, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(alike * (1 if dtype == np.uint8 else 255.0), means, atol=0.6)
    same = np.zeros((20, 30, 3), np.uint8)
    assert sheets._alike(same, np.zeros((20, 30, 3), np.uint8)) is same


# ---- from Python


def test_from_python_a_folder_or_paths_give_the_same_forgeries(goods: Path, tmp_path: Path) -> None:
    one = forge(goods, tmp_path / "one", ["stain"], count=3, seed=4)
    two = forge(sorted(goods.iterdir()), tmp_path / "two", ["stain"], count=3, seed=4)
    assert isinstance(one, Forgeries)
    assert one.lines() == [f"contact sheets of the synthetic defects: {tmp_path / 'one' / 'index.html'}"]
    assert json.loads(json.dumps(one.as_dict())) == json.loads((tmp_path / "one" / "forgeries.json").read_text())
    assert one.as_dict()["forgeries"] == two.as_dict()["forgeries"]
    assert "<p>" not in (tmp_path / "one" / "index.html").read_text().split("<h2>", 1)[1]  # the sheet says it already
    for name in ("pictures/stain_000.png", "masks/stain_002.png", "stain.jpg"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_pictures_and_others_are_taken_in_turn(goods: Path, tmp_path: Path) -> None:
    rows = forge(goods, tmp_path / "out", ["nsa"], count=5).as_dict()["forgeries"]
    assert [Path(row["source"]).name for row in rows] == ["0.png", "1.png", "2.png", "0.png", "1.png"]
    assert [Path(row["other"]).name for row in rows] == ["1.png", "2.png", "0.png", "1.png", "2.png"]
    assert [row["seed"] for row in rows] == [[0, 0, i] for i in range(5)]


def test_a_single_picture_has_no_other(goods: Path, tmp_path: Path) -> None:
    rows = forge([goods / "0.png"], tmp_path / "out", ["blob"], count=2, prior="none").as_dict()["forgeries"]
    assert {row["other"] for row in rows} == {None}
    assert {row["drawn"]["saliency"] for row in rows} == {"none"}


def test_a_folder_of_textures_must_hold_one(goods: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"--textures .* holds no picture"):
        forge(goods, tmp_path / "out", ["perlin"], textures=tmp_path / "empty")
    assert not (tmp_path / "out").exists()
