"""Evaluation of a real Inspector over a closed-form network: the map is the picture's brightness."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import flawforge as ff
from flawforge.pictures.listing import Entry, read_entries
from flawforge.proving import evaluate as ev
from flawforge.proving import intervals, metrics
from flawforge.reporting.close_ups import GAP, LARGE, PANEL
from flawforge.reporting.kept import kept
from flawforge.types import CalibrationError, DataError, ImageError, ScoreRule
from flawforge_runtime import images
from flawforge_runtime.calibrate import Rules, calibrate
from flawforge_runtime.inspector import Inspector

SIZE = (32, 32)


def brightness(batch: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    maps = batch.mean(axis=1)
    return maps, maps.max(axis=(1, 2))


def an_inspector(threshold: float = 0.4, review: float = 0.3) -> Inspector:
    """NG above `threshold`, REVIEW above `review`: 9 held-back scores promise 10 % and 20 %."""
    scores = [threshold, review, *np.linspace(0.05, 0.15, 7)]
    return Inspector(brightness, SIZE, ScoreRule("max"), calibrate(scores, 0.1, review=0.2), about={"method": "brightness"})


def evaluated(*arguments: Any, **options: Any) -> dict[str, Any]:
    """What the JSON of an evaluation holds."""
    return ev.evaluate(*arguments, **options).as_dict()


def grey(level: int, spot: int | None = None, at: tuple[int, int] = (4, 4), side: int = 6) -> NDArray[np.uint8]:
    pixels = np.full((*SIZE, 3), level, np.uint8)
    if spot is not None:
        pixels[at[0] : at[0] + side, at[1] : at[1] + side] = spot
    return pixels


def a_mask(at: tuple[int, int] = (4, 4), side: int = 6) -> NDArray[np.bool_]:
    return grey(0, 255, at, side)[..., 0] > 0


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Five good pictures, one of them with a bright crumb; three dents found, one not; a stain marked off its place."""
    pictures: dict[str, tuple[NDArray[np.uint8], NDArray[np.bool_] | None]] = {
        "train/good/0": (grey(10), None),
        **{f"test/good/{i}": (grey(20 + i), None) for i in range(4)},
        "test/good/crumb": (grey(20, 120), None),  # 0.47
        "test/dent/0": (grey(20, 200), a_mask()),
        "test/dent/1": (grey(20, 220), a_mask()),
        "test/dent/2": (grey(21, 90), a_mask()),  # 0.35: REVIEW
        "test/dent/3": (grey(22, 40), a_mask()),  # 0.16: OK, an escape
        "test/stain/0": (grey(23, 240), a_mask((20, 20))),
    }
    for name, (pixels, mask) in pictures.items():
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        images.write_image(path, pixels)
        if mask is not None:
            path = tmp_path / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            images.write_image(path, mask)
    return tmp_path


def test_every_number_is_the_metric_of_the_same_arrays(parts: Path) -> None:
    result = evaluated(an_inspector(), read_entries(parts), bootstrap=50)
    rows = result["pictures"]
    scores, labels = [row["score"] for row in rows], [bool(row["label"]) for row in rows]
    assert sorted(scores)[-1] == pytest.approx(240 / 255)
    assert result["image"]["auroc"]["value"] == metrics.auroc(scores, labels) == pytest.approx(23 / 25)
    assert result["image"]["ap"]["value"] == metrics.average_precision(scores, labels)
    assert result["image"]["f1_max"]["value"] == metrics.f1_max(scores, labels)
    maps = [images.read_picture(row["path"]).pixels.mean(2, dtype=np.float32) / np.float32(255) for row in rows]
    masks = [a_mask((20, 20) if r["kind"] == "stain" else (4, 4)) & bool(r["label"]) for r in rows]
    pixel = result["pixel"]
    assert pixel["auroc"]["value"] == pytest.approx(metrics.pixel_auroc(maps, masks))
    assert pixel["aupro_0.3"]["value"] == pytest.approx(metrics.aupro(maps, masks, 0.3))
    assert pixel["aupro_0.05"]["value"] == pytest.approx(metrics.aupro(maps, masks, 0.05))
    assert pixel["iou"]["value"] == 72 / (5 * 36 + 2 * 36)  # two dents of five regions; crumb and stain's mark beside
    assert pixel["peak_on_defect"]["value"] == 4 / 5
    assert pixel["grid"] == "the picture's own size"
    assert result["counts"] == {"good": 5, "defective": 5, "unreadable": 0, "without_mask": 0, "invalid": 0}
    assert result["model"] == {"method": "brightness"}
    assert 0 < result["seconds"]["per_picture"] < result["seconds"]["total"]


def test_the_operating_point_is_the_calibrations(parts: Path) -> None:
    result = evaluated(an_inspector(), read_entries(parts), bootstrap=0)
    point = result["operating_point"]
    assert (point["threshold"], point["review_threshold"], point["promised_false_alarm"]) == (0.4, 0.3, 0.1)
    assert point["false_alarm_rate"] == intervals.rate(1, 5)._asdict()
    assert point["escape_rate"] == intervals.rate(2, 5)._asdict()
    assert point["passed_rate"] == intervals.rate(1, 5)._asdict()
    assert point["review_rate_good"] == intervals.rate(0, 5)._asdict()
    assert point["review_rate_defective"] == intervals.rate(1, 5)._asdict()
    assert list(result["kinds"]) == ["dent", "stain"]
    assert result["kinds"]["dent"]["image_auroc"]["value"] == pytest.approx(18 / 20)
    assert result["kinds"]["dent"]["escape_rate"] == intervals.rate(2, 4)._asdict()
    assert result["kinds"]["stain"]["peak_on_defect"] == intervals.rate(0, 1)._asdict()


def test_same_seed_same_result_and_progress_is_told(parts: Path) -> None:
    told: list[tuple[int, int]] = []
    entries = read_entries(parts)
    first = evaluated(an_inspector(), entries, seed=3, bootstrap=40, progress=lambda *at: told.append(at))
    again = evaluated(an_inspector(), entries, seed=3, bootstrap=40)
    other = evaluated(an_inspector(), entries, seed=4, bootstrap=40)
    assert (first["image"], first["pixel"], first["kinds"]) == (again["image"], again["pixel"], again["kinds"])
    assert first["image"] != other["image"]
    assert told == [(i, 10) for i in range(1, 11)]


def test_pictures_of_several_sizes_come_back_at_their_own(parts: Path) -> None:
    images.write_image(parts / "test/dent/0.png", np.kron(grey(20, 200), np.ones((2, 1, 1), np.uint8)))
    images.write_image(parts / "ground_truth/dent/0_mask.png", np.kron(a_mask(), np.ones((2, 1), bool)))
    result = evaluated(an_inspector(), read_entries(parts), bootstrap=0)
    assert result["pixel"]["peak_on_defect"]["value"] == 4 / 5


def test_an_unreadable_picture_is_named_and_counted(parts: Path) -> None:
    (parts / "test/good/2.png").write_bytes(b"")
    whole = (parts / "test/dent/1.png").read_bytes()
    (parts / "test/dent/1.png").write_bytes(whole[: len(whole) // 2])
    result = evaluated(an_inspector(), read_entries(parts), bootstrap=0)
    assert result["counts"] == {"good": 4, "defective": 4, "unreadable": 2, "without_mask": 0, "invalid": 0}
    assert sorted(Path(s["path"]).name for s in result["skipped"]) == ["1.png", "2.png"]
    assert all(s["reason"].endswith(".") for s in result["skipped"])
    for path in parts.rglob("test/*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="None of the 10 pictures can be read"):
        evaluated(an_inspector(), read_entries(parts))


def test_a_mask_of_another_size_is_refused_with_both_sizes(parts: Path) -> None:
    images.write_image(parts / "ground_truth/dent/2_mask.png", np.ones((16, 20), bool))
    with pytest.raises(ImageError, match=r"16 x 20 .* 32 x 32"):
        evaluated(an_inspector(), read_entries(parts))


def test_without_masks_pixel_is_null_and_some_missing_are_counted(parts: Path) -> None:
    (parts / "ground_truth/dent/0_mask.png").unlink()
    result = evaluated(an_inspector(), read_entries(parts), bootstrap=0)
    assert result["counts"]["without_mask"] == 1
    assert result["pixel"]["pictures"] == 9
    assert "1 of 5 defective pictures have no mask, so the pixel figures are of the others" in result["notes"]
    for path in (parts / "ground_truth").rglob("*.png"):
        path.unlink()
    result = evaluated(an_inspector(), read_entries(parts), bootstrap=0)
    assert result["pixel"] is None
    assert result["kinds"]["dent"]["peak_on_defect"]["value"] is None
    assert "5 of 5 defective pictures have no mask, so there are no pixel figures" in result["notes"]


def printed(parts: Path, **options: Any) -> tuple[dict[str, Any], str]:
    """What `flawforge evaluate` writes to its JSON, and what it prints."""
    result = ff.evaluate(an_inspector(), parts, **options)
    json.dumps(result.as_dict(), allow_nan=False)
    return result.as_dict(), "\n".join(result.lines())


def set_mask(parts: Path, name: str, mask: NDArray[Any]) -> None:
    images.write_image(parts / f"ground_truth/{name}_mask.png", mask)


def test_missing_masks_are_printed_and_a_misnamed_folder_named(parts: Path) -> None:
    (parts / "ground_truth/stain/0_mask.png").unlink()
    assert "1 of 5 defective pictures have no mask" in printed(parts)[1]
    (parts / "ground_truth").rename(parts / "masks")
    result, text = printed(parts)
    assert result["pixel"] is None
    assert "5 of 5 defective pictures have no mask, so there are no pixel figures" in text
    assert "if masks holds them, rename it" in text


def test_the_masks_of_a_picture_are_joined(parts: Path) -> None:
    whole = evaluated(an_inspector(), read_entries(parts), bootstrap=0)["pixel"]
    one = parts / "ground_truth/dent/0_mask.png"
    for name, rows in (("000", slice(0, 7)), ("001", slice(7, 32))):
        part = np.zeros(SIZE, bool)
        part[rows] = a_mask()[rows]
        (parts / "ground_truth/dent/0").mkdir(exist_ok=True)
        images.write_image(parts / f"ground_truth/dent/0/{name}.png", part)
    one.unlink()
    assert evaluated(an_inspector(), read_entries(parts), bootstrap=0)["pixel"] == whole


def test_empty_masks_are_named_and_count_as_none(parts: Path) -> None:
    set_mask(parts, "dent/1", np.zeros(SIZE, bool))
    result, text = printed(parts)
    assert "Masks that mark nothing count as none: 1 (dent/1_mask.png)" in text
    assert "1 of 5 defective pictures have no mask, so the pixel figures are of the others" in text
    (parts / "ground_truth/dent/1_mask.png").unlink()
    without = evaluated(an_inspector(), read_entries(parts))
    assert (result["pixel"], result["counts"]) == (without["pixel"], without["counts"])


def test_pixel_figures_of_inverted_masks_are_withheld(parts: Path) -> None:
    for path in (parts / "ground_truth").rglob("*.png"):
        images.write_image(path, ~(images.read_picture(path).pixels[..., 0] > 0))
    result, text = printed(parts)
    assert result["pixel"] is None
    assert result["kinds"]["dent"]["peak_on_defect"]["value"] is None
    assert "No pixel figures are given, because 5 of 5 masks mark more than half of their pictures" in text
    assert "dent/0_mask.png" in text
    assert "--large-masks" in text
    assert "have no mask" not in text
    taken, text = printed(parts, large_masks=True)
    assert taken["pixel"]["pictures"] == 10
    assert "taken as they are: 5 (" in text
    assert taken["operating_point"] == result["operating_point"]


@pytest.mark.parametrize(("large", "withheld"), [(2, False), (3, True)])
def test_large_masks_are_believed_where_most_are_small(parts: Path, large: int, withheld: bool) -> None:
    """Two large defects that leave an edge free are possible, three of five are a set that was inverted."""
    for name in range(large):
        set_mask(parts, f"dent/{name}", a_mask((1, 1), 30))
    result, text = printed(parts)
    assert (result["pixel"] is None) == withheld
    assert (f"so look whether they are inverted: {large} (dent/0_mask.png" in text) != withheld
    assert (f"because {large} of 5 masks" in text) == withheld


def test_a_white_mask_says_nothing_of_where(parts: Path) -> None:
    set_mask(parts, "dent/2", np.ones(SIZE, bool))
    result, text = printed(parts)
    assert "left out of the pixel figures: 1 (dent/2_mask.png)" in text
    assert "have no mask" not in text
    assert result["pixel"]["pictures"] == 9
    (parts / "ground_truth/dent/2_mask.png").unlink()
    assert evaluated(an_inspector(), read_entries(parts))["pixel"] == result["pixel"]
    set_mask(parts, "dent/2", np.ones(SIZE, bool))
    assert printed(parts, large_masks=True)[0]["pixel"]["pictures"] == 10


def test_labels_of_another_program_are_named_and_the_rest_goes_on(parts: Path) -> None:
    (parts / "ground_truth/dent/1_mask.png").unlink()
    (parts / "test/dent/1.json").write_text('{"exposure": 12}')
    result, text = printed(parts)
    assert "Label files that cannot be read count as none: 1; the first: The labels" in text
    assert result["pixel"]["pictures"] == 9


def test_pictures_that_cannot_be_read_are_printed(parts: Path) -> None:
    (parts / "test/dent/1.png").write_bytes(b"")
    assert "1 pictures cannot be read and were not judged; the first:" in printed(parts)[1]


def test_one_class_leaves_its_questions_open(parts: Path) -> None:
    entries = [entry for entry in read_entries(parts) if entry.label == 0]
    result = evaluated(an_inspector(), entries, bootstrap=10)
    assert result["image"]["auroc"] == {"value": None, "low": None, "high": None}
    assert result["operating_point"]["escape_rate"]["value"] is None
    assert result["operating_point"]["false_alarm_rate"]["value"] == 1 / 5
    assert result["pixel"] is None
    assert result["kinds"] == {}
    entries = [entry for entry in read_entries(parts) if entry.label == 1]
    result = evaluated(an_inspector(), entries, bootstrap=10)
    assert result["operating_point"]["false_alarm_rate"]["value"] is None
    assert any("no good test picture" in note for note in result["notes"])
    assert 0 < result["pixel"]["auroc"]["value"] < 1  # a defective picture has good pixels too


def test_verdicts_are_counted_against_labels_and_stand_beside_the_expected_rate(parts: Path) -> None:
    result = ev.evaluate(an_inspector(), read_entries(parts), bootstrap=0)
    rows = result.pictures
    for name, label in (("good", 0), ("defective", 1)):
        for verdict in ("OK", "REVIEW", "NG"):
            count = sum(row["label"] == label and row["verdict"] == verdict for row in rows)
            assert result.confusion[name][verdict] == result.as_dict()["confusion"][name][verdict] == count
    lines = [line.split() for line in result.lines()]
    assert ["verdict", "OK", "REVIEW", "NG"] in lines
    assert ["defective", *map(str, result.confusion["defective"].values())] in lines
    (alarms,) = (line for line in result.lines() if "false-alarm rate" in line)
    assert "1 of 5 good pictures NG; to expect: 10 % of good parts on average" in alarms
    (escapes,) = (line for line in result.lines() if "escape rate" in line)
    assert "2 of 5 defective pictures not NG" in escapes


def test_what_is_judged() -> None:
    train, test = Entry(Path("a")), Entry(Path("b"), split="test")
    nameless = Entry(Path("c"), label=None, kind="unlabelled")
    chosen, notes = ev.choose([train, test])
    assert ([each.name for each in chosen], notes) == (["b"], [])
    chosen, notes = ev.choose([train, nameless])
    assert [each.name for each in chosen] == ["a"]
    assert "1 pictures without a label" in notes[0]
    assert "rates flatter" in notes[1]
    with pytest.raises(DataError, match="labelled"):
        ev.choose([nameless])


def test_a_good_picture_has_no_defect_whatever_mask_it_brings(parts: Path) -> None:
    entries = read_entries(parts)
    odd = [
        replace(entry, mask_path=parts / "ground_truth/dent/0_mask.png") if not entry.label else entry for entry in entries
    ]
    assert evaluated(an_inspector(), odd, bootstrap=9)["pixel"] == evaluated(an_inspector(), entries, bootstrap=9)["pixel"]


def test_without_thresholds_there_is_nothing_to_evaluate(parts: Path) -> None:
    with pytest.raises(CalibrationError, match="flawforge calibrate"):
        evaluated(Inspector(brightness, SIZE, ScoreRule("max")), read_entries(parts))


def test_rates_of_pictures_are_not_passed_off_as_rates_of_parts(parts: Path) -> None:
    model = an_inspector()
    assert model.calibration is not None
    by_part = model.with_calibration(replace(model.calibration, per_part=True))
    told = [evaluated(each, read_entries(parts), bootstrap=0)["notes"] for each in (model, by_part)]
    assert [any("count pictures" in note for note in notes) for notes in told] == [False, True]


def test_too_many_pixels_are_thinned_and_the_grid_says_so(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ev, "POOLED", 4 * 32 * 32)
    result = evaluated(an_inspector(), read_entries(parts), bootstrap=0)
    rows = result["pictures"]
    assert result["pixel"]["grid"] == "one pixel in 2 x 2 of the picture's own size"
    maps = [images.read_picture(r["path"]).pixels[::2, ::2].mean(2, dtype=np.float32) for r in rows]
    masks = [(a_mask((20, 20) if r["kind"] == "stain" else (4, 4)) & bool(r["label"]))[::2, ::2] for r in rows]
    assert result["pixel"]["ap"]["value"] == pytest.approx(metrics.pixel_average_precision(maps, masks))
    assert result["pixel"]["iou"]["value"] == 72 / 252  # counted before


def test_the_telling_pictures(parts: Path) -> None:
    rows = evaluated(an_inspector(), read_entries(parts), bootstrap=0)["pictures"]
    names = {
        group: [f"{r['kind']}/{Path(r['path']).stem}" for r in some] for group, some in ev.telling(rows, per_group=2).items()
    }
    assert names["escape"] == ["dent/3", "dent/2"]
    assert names["false_alarm"] == ["good/crumb"]
    assert names["detection"] == ["dent/1", "stain/0"]  # the strangest of each kind, not the two strangest
    assert set(names["good"]) == {"good/1", "good/2"}  # about the median


def test_the_good_part_that_is_shown_has_no_mark(tmp_path: Path) -> None:
    """Three of five good parts are OK only because one marked speck is tolerated, and theirs is the typical score."""
    inspector = an_inspector()
    assert inspector.calibration is not None
    inspector = inspector.with_calibration(replace(inspector.calibration, rules=Rules(max_count=1)))
    for name, spot in {"a": 120, "b": 121, "c": 122, "d": None, "e": None}.items():
        path = tmp_path / f"{name}.png"
        Image.fromarray(grey(20, spot)).save(path)
    entries = [Entry(path, split="test") for path in sorted(tmp_path.iterdir())]
    result = ev.evaluate(inspector, entries, bootstrap=0)
    assert [row["verdict"] for row in result.pictures] == ["OK"] * 5
    assert Path(ev.telling(result.pictures)["good"][0]["path"]).stem == "a"
    shown = [Path(each.row["path"]).stem for each in ev.draw_telling(inspector, entries, result, per_group=2)]
    assert shown == ["d", "d", "e"]


def test_saved_evaluation_is_whole_and_stands_beside_the_old_one(parts: Path, tmp_path: Path) -> None:
    inspector, entries = an_inspector(), read_entries(parts)
    result = ev.evaluate(inspector, entries, bootstrap=5)
    model = tmp_path / "model"
    model.mkdir()
    old = ev.save_evaluation(model, replace(result, notes=("old",)))
    new = ev.save_evaluation(model, result, ev.draw_telling(inspector, entries, result), data="parts")
    folder = new.folder
    assert kept(model) == (new, old)
    assert (old.read()["notes"], new.data, new.counts) == (["old"], "parts", {"good": 5, "defective": 5})
    assert [path.name for path in model.iterdir()] == ["evaluation"]
    saved: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    assert {key: saved[key] for key in result.as_dict()} == result.as_dict()
    assert [shown["group"] for shown in saved["overlays"]] == (
        ["top_miss"] + ["escape"] * 2 + ["false_alarm"] + ["top_catch"] + ["detection"] * 3 + ["top_good"] + ["good"] * 3
    )
    sizes = {1: (LARGE, LARGE, 3), 6: (3 * PANEL + 2 * GAP, 2 * PANEL + GAP, 3)}
    for shown in saved["overlays"]:
        assert images.read_picture(folder / shown["file"]).pixels.shape == sizes[shown["panels"]]
    with pytest.raises(ValueError, match="JSON"):
        ev.save_evaluation(model, replace(result, seconds={"total": float("nan")}))
    assert json.loads((folder / "evaluation.json").read_text()) == saved
    assert kept(model) == (new, old)


def test_nothing_of_it_imports_torch() -> None:
    code = "import sys, flawforge.proving.evaluate, flawforge.reporting.overlays; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
