"""Tiles cover every pixel once, leave no seam, and judge a picture that memory never holds."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge import fitting
from flawforge.judging import loading, rows
from flawforge.pictures.listing import read_entries
from flawforge.proving import evaluate
from flawforge.types import ConfigError, DataError, Image, ImageError, ScoreRule
from flawforge_runtime import tiles
from flawforge_runtime.calibrate import calibrate
from flawforge_runtime.images import read_picture, write_image
from flawforge_runtime.inspector import Inspector
from flawforge_runtime.maps import find_regions


def brightness(batch: Any) -> tuple[Any, Any]:
    """A pixel is as strange as it is bright."""
    maps = batch.mean(axis=1).astype(np.float32)
    return maps, maps.max(axis=(1, 2))


def judge(**changes: Any) -> Inspector:
    made = Inspector(brightness, (32, 32), ScoreRule(), calibrate([0.1, 0.2, 0.3], 0.25), tile=32)
    return dataclasses.replace(made, **changes)


@given(st.integers(1, 500), st.integers(8, 200))
def test_tiles_cover_a_side_with_overlap(length: int, side: int) -> None:
    found = tiles.starts(length, side)
    assert found[0] == 0
    if length > side:
        assert found[-1] == length - side
        steps = np.diff(found)
        assert (steps > 0).all()
        assert (steps <= np.ceil(side * (1 - tiles.OVERLAP))).all()


@given(st.integers(1, 90), st.integers(1, 90), st.integers(8, 40), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_what_every_tile_sees_alike_is_blended_to_itself(h: int, w: int, side: int, batch: int) -> None:
    """A judge that looks at single pixels gives the same map in tiles as at once, and each row comes once."""
    pixels = np.random.default_rng(h * w).random((h, w, 3), dtype=np.float32)

    def alone(some: list[tuple[int, int, Image]]) -> list[Any]:
        assert len(some) <= batch
        return [tile.mean(axis=2) for _, _, tile in some]

    bands = list(tiles.blended(tiles.Whole(pixels), side, batch, alone))
    assert [top for top, _ in bands] == list(np.cumsum([0] + [len(band) for _, band in bands[:-1]]))
    np.testing.assert_allclose(np.concatenate([band for _, band in bands]), pixels.mean(axis=2), rtol=1e-5)


def test_no_seam_where_tiles_disagree() -> None:
    """Tiles that say 0 and 1 in turn meet in a ramp: no step between neighbours is larger than a few hundredths."""
    pixels = np.zeros((64, 400, 3), np.uint8)
    order = {left: i % 2 for i, left in enumerate(tiles.starts(400, 64))}

    def odd(some: list[tuple[int, int, Image]]) -> list[Any]:
        return [np.full(tile.shape[:2], order[left], np.float32) for _, left, tile in some]

    ((_, surface),) = tiles.blended(tiles.Whole(pixels), 64, 4, odd)
    assert surface.max() > 0.9
    assert surface.min() < 0.1
    assert np.abs(np.diff(surface, axis=1)).max() < 0.1


@given(st.integers(0, 10_000), st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_regions_joined_across_bands_are_those_of_the_whole(seed: int, high: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.random((21, 17), dtype=np.float32)
    mask = values > 0.6
    regions = tiles.Regions()
    for top in range(0, 21, high):
        regions.add(top, values[top : top + high], mask[top : top + high])
    assert set(regions.found()) == set(find_regions(values, mask))


def tiff(path: Path, pixels: Any, **how: Any) -> Path:
    tifffile.imwrite(path, pixels, **how)
    return path


@pytest.mark.parametrize("how", [{"rowsperstrip": 7}, {"rowsperstrip": 64, "compression": "zlib"}, {"tile": (16, 32)}, {}])
@pytest.mark.parametrize("kind", ["grey", "rgb", "deep"])
def test_a_tiff_in_strips_is_the_picture(tmp_path: Path, how: dict[str, Any], kind: str) -> None:
    rng = np.random.default_rng(0)
    shape = (101, 90, 3) if kind == "rgb" else (101, 90)
    pixels = rng.integers(0, 65536 if kind == "deep" else 256, shape).astype(np.uint16 if kind == "deep" else np.uint8)
    how = how | {"photometric": "rgb" if kind == "rgb" else "minisblack"}
    rows = tiles.open_rows(tiff(tmp_path / "a.tif", pixels, **how), 10**8)
    assert isinstance(rows, tiles.Strips)
    assert (rows.height, rows.width) == (101, 90)
    read = np.concatenate(list(rows.bands()))
    wanted = pixels / np.float32(65535) if kind == "deep" else pixels
    np.testing.assert_array_equal(read, wanted if kind == "rgb" else np.repeat(wanted[..., None], 3, axis=2))


def test_streamed_and_whole_judge_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.zeros((150, 131), np.uint8)
    pixels[20:40, 100:120] = 200
    pixels[90:140, 10:13] = 120
    path = tiff(tmp_path / "a.tif", pixels, rowsperstrip=11)
    whole = judge()(path)
    monkeypatch.setattr("flawforge_runtime.inspector.WHOLE", 100)
    monkeypatch.setattr("flawforge_runtime.inspector.SHRUNK", 50)
    seen: list[tuple[int, int]] = []
    streamed = judge(progress=lambda done, of: seen.append((done, of)))(path)
    assert seen[-1] == (150, 150)
    assert streamed.pred_score == whole.pred_score == pytest.approx(200 / 255)
    assert (streamed.verdict, streamed.regions) == (whole.verdict, whole.regions)
    assert [(r.x, r.y, r.w, r.h) for r in whole.regions] == [(100, 20, 20, 20), (10, 90, 3, 50)]
    assert streamed.anomaly_map.shape == streamed.pred_mask.shape == (50, 44)
    assert streamed.anomaly_map.max() == whole.anomaly_map.max()
    assert "highest of 3 x 3 pixels" in streamed.notes[-1]


@settings(max_examples=30, deadline=None)
@given(h=st.integers(1, 40), w=st.integers(1, 40), factor=st.integers(1, 7), high=st.integers(1, 12), seed=st.integers(0, 9))
def test_shrinking_by_bands_is_shrinking_the_whole(h: int, w: int, factor: int, high: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).random((h, w, 3), dtype=np.float32)

    class Bands:
        height, width = h, w

        def bands(self) -> Any:
            return (pixels[top : top + high] for top in range(0, h, high))

    blocks = [[pixels[y : y + factor, x : x + factor] for x in range(0, w, factor)] for y in range(0, h, factor)]
    for highest in (False, True):
        wanted = [[block.max((0, 1)) if highest else block.mean((0, 1)) for block in row] for row in blocks]
        np.testing.assert_allclose(tiles.shrunk(Bands(), factor, highest=highest), np.array(wanted), rtol=1e-5)


def test_streamed_pictures_are_drawn_and_evaluated_at_the_maps_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flawforge_runtime.inspector.WHOLE", 100)
    monkeypatch.setattr("flawforge_runtime.inspector.SHRUNK", 50)
    root = tmp_path / "parts"
    for folder in ("test/good", "test/spot", "ground_truth/spot"):
        (root / folder).mkdir(parents=True)
    calm, flawed, mask = (np.zeros((150, 131), np.uint8) for _ in range(3))
    flawed[20:40, 100:120] = 200
    mask[20:40, 100:120] = 255
    tiff(root / "test" / "good" / "0.tif", calm, rowsperstrip=11)
    path = tiff(root / "test" / "spot" / "0.tif", flawed, rowsperstrip=11)
    write_image(root / "ground_truth" / "spot" / "0_mask.png", mask)
    entries, inspector = read_entries(root), judge()
    found = evaluate.evaluate(inspector, entries, bootstrap=0)
    assert found.pixel is not None
    assert found.pixel["auroc"].value > 0.99
    assert found.pixel["peak_on_defect"].value == 1.0
    shown = evaluate.draw_telling(inspector, entries, found)
    assert {each.group for each in shown} == {"top_catch", "detection", "top_good", "good"}
    decision = inspector(path)
    assert tiles.mask_like(root / "ground_truth" / "spot" / "0_mask.png", (50, 44), 10**6).sum() == 8 * 7
    drawn = rows.overlay_path(tmp_path, decision, 1)
    rows.write_overlay(drawn, decision, inspector, rows.picture_of(decision, 10**6))
    high, wide, _ = read_picture(drawn).pixels.shape
    assert wide == 7 * (2 * 44 + 4)  # enlarged, so that its words can be read
    assert high == 7 * 50 + 2 * 28
    write_image(root / "ground_truth" / "spot" / "0_mask.png", mask[:, :90])
    with pytest.raises(ImageError, match=r"is 150 x 90 \(h x w\) and its map 50 x 44"):
        evaluate.evaluate(inspector, entries, bootstrap=0)


def test_nothing_outside_the_region_of_interest_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.full((120, 120), 20, np.uint8)
    pixels[100:, :] = 255
    pixels[10:20, 10:20] = 100
    roi = np.zeros((60, 60), bool)
    roi[:45] = True
    path = tiff(tmp_path / "a.tif", pixels, rowsperstrip=16)
    whole = judge(roi=roi)(path)
    monkeypatch.setattr("flawforge_runtime.inspector.WHOLE", 100)
    streamed = judge(roi=roi)(path)
    for decision in (whole, streamed):
        assert decision.pred_score == pytest.approx(100 / 255)
        assert [(r.x, r.y, r.w, r.h) for r in decision.regions] == [(10, 10, 10, 10)]
    with pytest.raises(ImageError, match="leaves no pixel"):
        judge(roi=np.zeros((60, 60), bool))(path)
    with pytest.raises(ImageError, match="same proportions"):
        judge(roi=np.ones((60, 30), bool))(path)


def test_bad_tiffs_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiff(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8), rowsperstrip=8)
    path.write_bytes(path.read_bytes()[: 300 * 150])
    monkeypatch.setattr("flawforge_runtime.inspector.WHOLE", 100)
    with pytest.raises(ImageError, match=r"a\.tif (is damaged|is no TIFF)|ends after"):
        judge()(path)
    (tmp_path / "b.tif").write_bytes(b"II*\0no")
    with pytest.raises(ImageError, match=r"b\.tif is no TIFF"):
        judge()(tmp_path / "b.tif")
    nan = np.full((40, 40), np.nan, np.float32)
    with pytest.raises(ImageError, match="not finite"):
        judge()(tiff(tmp_path / "nan.tif", nan))
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ConfigError, match="run `pip install tifffile`"):
        judge()(tmp_path / "nan.tif")


def test_batches_follow_the_memory() -> None:
    assert tiles.batch_size((64, 64), 64, memory=1) == 1
    assert tiles.batch_size((256, 256), 256, memory=1 << 40) == tiles.MOST
    assert 1 < tiles.batch_size((256, 256), 256, memory=512 << 20) < tiles.MOST


def test_fit_with_tiles_learns_judges_and_loads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(8):
        (tmp_path / "good").mkdir(exist_ok=True)
        write_image(tmp_path / "good" / f"{number}.png", rng.integers(100, 130, (150, 200, 3)).astype(np.uint8))
    roi = np.zeros((150, 200), bool)
    roi[:, :140] = True
    write_image(tmp_path / "roi.png", roi)
    request = fitting.Request(
        tmp_path / "good", tmp_path / "model", method="patchstats", tile=64, size=64, roi=tmp_path / "roi.png"
    )
    made = fitting.run(request)
    loaded = loading.load(tmp_path / "model")
    assert loaded.tile == made.tile == 64
    assert loaded.canvas == (64, 64)
    picture = rng.integers(100, 130, (150, 200, 3)).astype(np.uint8)
    calm = loaded(picture)
    assert calm.anomaly_map.shape == (150, 200)
    assert loaded(picture).pred_score == made(picture).pred_score
    picture[60:72, 70:82] = 255
    assert loaded(picture).pred_score > calm.pred_score
    picture[:, 145:] = 0
    row, column = np.unravel_index(loaded(picture).anomaly_map.argmax(), (150, 200))
    assert 50 <= row <= 82
    assert 60 <= column <= 92
    for options, error, words in (({"tile": 8}, ConfigError, "--tile was given as 8"),):
        with pytest.raises(error, match=words):
            fitting.run(dataclasses.replace(request, out=tmp_path / "other", **options))
    small = np.zeros((150, 200), bool)
    small[:40, :40] = True
    write_image(tmp_path / "small.png", small)
    with pytest.raises(DataError, match="No tile of 64 pixels lies wholly"):
        fitting.run(dataclasses.replace(request, out=tmp_path / "other", roi=tmp_path / "small.png"))


LARGE = """
from dataclasses import replace
import resource, sys, numpy as np, tifffile
from flawforge_runtime.calibrate import calibrate
from flawforge_runtime.inspector import Inspector
from flawforge_runtime.types import ScoreRule
side = 20_000
def strips():
    for top in range(0, side, 500):
        strip = np.full((500, side), 40, np.uint8)
        if top == 12_000:
            strip[100:130, 7_000:7_050] = 250
        yield strip
tifffile.imwrite(sys.argv[1], strips(), shape=(side, side), dtype=np.uint8, rowsperstrip=500, photometric="minisblack")
def network(batch):
    maps = batch[:, 0]
    return maps, maps.max(axis=(1, 2))
seen = []
judge = Inspector(network, (256, 256), ScoreRule(), calibrate([0.3] * 20, 0.1), tile=2048)
inspector = replace(judge, progress=lambda *at: seen.append(at))
decision = inspector(sys.argv[1])
assert decision.verdict == "NG"
region, = decision.regions
# A tile is shrunk eightfold, so a region's edge is known to about a canvas pixel.
assert abs(region.x - 7_000) <= 16 and abs(region.y - 12_100) <= 16, region
assert seen[-1] == (side, side) and len(seen) > 5
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
assert used < 2.0, used
print(f"{used:.2f} GiB, {decision.seconds:.1f} s")
"""


@pytest.mark.slow
def test_twenty_thousand_by_twenty_thousand_stays_below_two_gigabytes(tmp_path: Path) -> None:
    program = [sys.executable, "-c", LARGE, str(tmp_path / "large.tif")]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
