"""A TIFF is judged alike whether it is read whole or, as large ones are, strip by strip."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as Pillow

from flawforge.types import Decision, ImageError, ScoreRule
from flawforge_runtime import tiles
from flawforge_runtime.calibrate import calibrate
from flawforge_runtime.images import read_picture
from flawforge_runtime.inspector import Inspector

COMPRESSIONS = {"none": None, "LZW": "tiff_lzw", "deflate": "tiff_adobe_deflate", "packbits": "packbits", "JPEG": "jpeg"}
STREAMED = ("none", "deflate", "packbits")  # what tifffile unpacks on its own
TURNS = (5, 6, 7, 8)  # orientations by which height and width change places


def brightness(batch: Any) -> tuple[Any, Any]:
    """A pixel is as strange as it is bright."""
    maps = batch.mean(axis=1).astype(np.float32)
    return maps, maps.max(axis=(1, 2))


def judge(path: Path, roi: Any = None) -> Decision:
    return Inspector(brightness, (32, 32), ScoreRule(), calibrate([0.1, 0.2, 0.3], 0.25), tile=32, roi=roi)(path)


def drawn(kind: str) -> NDArray[Any]:
    """A dark part with a bright spot near one corner; 90 x 70."""
    top = {"8": 255, "12 in 16": 4095, "16": 65535, "rgb": 255, "rgb 16": 65535}[kind]
    rng = np.random.default_rng(0)
    shape = (90, 70, 3) if "rgb" in kind else (90, 70)
    pixels = (rng.random(shape) * 0.02 * top).astype(np.uint8 if top == 255 else np.uint16)
    pixels[8:16, 48:60] = top
    return pixels


def saved(path: Path, kind: str, compression: str, orientation: int, frames: int = 1) -> Path:
    pixels = drawn(kind)
    if kind == "rgb 16":  # Pillow has none
        tifffile.imwrite(path, pixels, photometric="rgb", rowsperstrip=11, extratags=[(274, 3, 1, orientation, True)])
        return path
    image = Pillow.fromarray(pixels)
    more = [image] * (frames - 1)
    info = {274: orientation, 278: 16}  # upright, and rows of a strip
    image.save(path, "TIFF", compression=COMPRESSIONS[compression], tiffinfo=info, save_all=bool(more), append_images=more)
    return path


def both_ways(path: Path, monkeypatch: pytest.MonkeyPatch, roi: Any = None) -> tuple[Decision, Decision]:
    whole = judge(path, roi)
    monkeypatch.setattr("flawforge_runtime.inspector.WHOLE", 100)
    streamed = judge(path, roi)
    monkeypatch.undo()
    return whole, streamed


CASES = [
    *itertools.product(("8",), COMPRESSIONS, range(1, 9), (1,)),
    *itertools.product(("12 in 16", "16"), ("none", "LZW", "deflate", "packbits"), (1, 6), (1,)),
    *itertools.product(("rgb",), COMPRESSIONS, (1, 3), (1,)),
    *itertools.product(("rgb 16",), ("none",), range(1, 9), (1,)),
    *itertools.product(("8", "12 in 16"), ("none", "LZW"), (1, 3), (3,)),
]


@pytest.mark.parametrize(("kind", "compression", "orientation", "frames"), CASES)
def test_both_ways_give_the_same_picture_and_verdict(
    kind: str, compression: str, orientation: int, frames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.tif", kind, compression, orientation, frames)
    wanted = read_picture(path)
    rows = tiles.open_rows(path, 10**6)
    pixels = np.concatenate(list(rows.bands()))
    np.testing.assert_array_equal(pixels, wanted.pixels)
    assert rows.notes() == wanted.notes
    assert (rows.height, rows.width) == ((70, 90) if orientation in TURNS else (90, 70))
    if orientation == 1:
        assert isinstance(rows, tiles.Strips if compression in STREAMED else tiles.Whole), "large ones must not fill memory"
    whole, streamed = both_ways(path, monkeypatch)
    assert streamed.notes[:-1] == whole.notes == wanted.notes
    assert "judged in tiles" in streamed.notes[-1]
    assert (streamed.verdict, streamed.regions) == (whole.verdict, whole.regions)
    assert streamed.pred_score == whole.pred_score
    assert any("several frames" in note for note in whole.notes) == (frames > 1)
    if kind != "12 in 16":
        assert whole.verdict == "NG"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_region_of_interest_lies_on_the_upright_picture(
    orientation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.tif", "8", "none", orientation)
    level = read_picture(path).pixels.max(axis=2)
    found = set()
    for side in ("spot", "rest"):
        roi = (level > 200) == (side == "spot")
        whole, streamed = both_ways(path, monkeypatch, roi)
        assert whole.verdict == streamed.verdict
        found.add((side, whole.verdict))
    assert found == {("spot", "NG"), ("rest", "OK")}


def refusal(act: Callable[[], object]) -> str | None:
    """The sentence with which a picture is refused; None where it is not."""
    try:
        act()
    except ImageError as error:
        return str(error)
    return None


ODD: dict[str, tuple[dict[str, Any], str]] = {
    "separate planes": ({"photometric": "rgb", "planarconfig": "separate"}, "uint8"),
    "white is zero": ({"photometric": "miniswhite"}, "uint8"),
    "palette": ({"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)}, "uint8"),
    "32 bits": ({"photometric": "minisblack"}, "uint32"),
    "floats": ({"photometric": "minisblack"}, "float32"),
    "big endian": ({"photometric": "minisblack", "byteorder": ">"}, "uint16"),
    "differences": ({"photometric": "minisblack", "predictor": 2, "compression": "zlib"}, "uint16"),
    "tiles": ({"photometric": "minisblack", "tile": (16, 32)}, "uint16"),
    "alpha": ({"photometric": "rgb", "extrasamples": ["unassalpha"]}, "uint8"),
    "one bit": ({"photometric": "minisblack"}, "bool"),
    "half floats": ({"photometric": "minisblack"}, "float16"),
    "double floats": ({"photometric": "minisblack"}, "float64"),
    "signed": ({"photometric": "minisblack"}, "int8"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_tiffs_are_read_alike_or_refused_alike(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how, dtype = ODD[name]
    path, level = tmp_path / "a.tif", drawn("8") // 8
    channels = {"separate planes": 3, "alpha": 4}.get(name)
    pixels = level if channels is None else np.repeat(level[..., None], channels, axis=2)
    if name == "separate planes":
        pixels = np.moveaxis(pixels, 2, 0)
    pixels = pixels / 32 if "float" in dtype else pixels > 8 if dtype == "bool" else pixels
    tifffile.imwrite(path, pixels.astype(dtype), rowsperstrip=None if "tile" in how else 16, **how)
    if (sentence := refusal(lambda: read_picture(path))) is not None:
        for whole_up_to in (100, 10**6):
            monkeypatch.setattr("flawforge_runtime.inspector.WHOLE", whole_up_to)
            assert refusal(lambda: judge(path)) == sentence
        return
    wanted = read_picture(path)
    np.testing.assert_array_equal(np.concatenate(list(tiles.open_rows(path, 10**6).bands())), wanted.pixels)
    whole, streamed = both_ways(path, monkeypatch)
    assert streamed.notes[:-1] == whole.notes == wanted.notes
    assert (streamed.verdict, streamed.regions) == (whole.verdict, whole.regions)


def test_twelve_packed_bits_are_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, values = tmp_path / "a.tif", drawn("12 in 16")
    first, second = values[:, ::2], values[:, 1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=2).reshape(90, 105)
    tifffile.imwrite(path, packed.astype(np.uint8), photometric="minisblack", rowsperstrip=16)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags[256].overwrite(70)
        file.pages[0].tags[258].overwrite(12)
    wanted = read_picture(path)
    np.testing.assert_array_equal(wanted.pixels[..., 0], values / np.float32(65535))
    np.testing.assert_array_equal(np.concatenate(list(tiles.open_rows(path, 10**6).bands())), wanted.pixels)
    whole, streamed = both_ways(path, monkeypatch)
    assert streamed.notes[:-1] == whole.notes == wanted.notes
    assert "12-bit values in a 16-bit picture?" in whole.notes[0]


@pytest.mark.parametrize(
    ("compression", "orientation", "reason"),
    [
        ("LZW", 1, "its compression is LZW; save it uncompressed or with deflate"),
        ("JPEG", 1, "its compression is JPEG; save it uncompressed or with deflate"),
        ("none", 3, "it lies turned or mirrored (orientation 3); save it upright"),
    ],
)
def test_what_is_too_large_to_be_read_whole_is_told_the_true_reason(
    compression: str, orientation: int, reason: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.tif", "8", compression, orientation)
    sentence = (
        f"{path} is 90 x 70 (h x w), which is too large to be read whole, and it cannot be read strip by strip, as {reason}"
        ", or raise the limit with --max-pixels if you trust the file."
    )
    for limit in (90 * 70 - 1, 300):  # pixels; bytes while it is decoded
        with pytest.raises(ImageError) as refused:
            tiles.open_rows(path, limit)
        assert str(refused.value) == sentence
    assert tiles.open_rows(saved(path, "8", "none", 1), 90 * 16).height == 90


def test_a_deep_picture_above_the_memory_is_told_so_too(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", "rgb 16", "none", 6)  # 26 bytes a pixel, and 12 are allowed
    with pytest.raises(ImageError, match=r"too large to be read whole.*orientation 6\); save it upright"):
        tiles.open_rows(path, 90 * 70)
