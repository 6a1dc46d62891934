"""Reviewed parts in the result store: a fair sample of good ones for thresholds, and all of them as a labelled folder."""

from __future__ import annotations

import csv
import datetime
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import flawforge as ff
from flawforge.cli import main
from flawforge.demo.washers import render_good
from flawforge.fitting.reviewed import recalibrate_from_reviews
from flawforge.pictures.defects import read_defects
from flawforge.pictures.listing import labelled_listing
from flawforge.store.fair import FairSample, fair_sample
from flawforge.store.kept import keep_picture, sha256_of
from flawforge.store.labelled import export_labelled
from flawforge.store.opening import Store, open_store
from flawforge.store.reviews import Box, add
from flawforge.store.verdicts import Filter, Verdict, record, verdict_of
from flawforge.types import ConfigError, DataError
from flawforge_runtime import bundle
from flawforge_runtime.images import read_mask

SHAPE = (40, 48)


def png(array: Any) -> bytes:
    """h w 3 RGB or h w, as the bytes of a PNG."""
    return cv2.imencode(".png", array[..., ::-1] if array.ndim == 3 else array)[1].tobytes()


def picture(number: int) -> bytes:
    return png(np.full((*SHAPE, 3), number % 256, np.uint8))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "results.db") as opened:
        yield opened


def judged(store: Store, number: int, verdict: str = "OK", sampled: bool = False, **more: Any) -> Verdict:
    """Record one verdict, its picture being kept; `number` makes the picture its own."""
    data = more.pop("data", None) or picture(number)
    assert store.files is not None
    kept = keep_picture(store.files, data, sha256_of(data))
    made = Verdict(
        time=datetime.datetime(2026, 5, 4, 12, tzinfo=datetime.UTC),
        source="http",
        station="line 1",
        part_id=f"part {number}",
        picture=f"{number}.png",
        sha256=sha256_of(data),
        height=SHAPE[0],
        width=SHAPE[1],
        model="bracket",
        model_id="aaaabbbbcccc",
        manifest="ff" * 32,
        score=float(number),
        score_normalised=None,
        p_value=0.5,
        threshold=10.0,
        review_threshold=None,
        verdict=verdict,
        valid=True,
        notes=(),
        regions=(),
        seconds=0.1,
        kept=kept,
        sampled=sampled,
    )
    return record(store, [Verdict(**vars(made) | more)])[0]


def reviewed(store: Store, number: int, word: str, verdict: str = "OK", sampled: bool = True, **more: Any) -> Verdict:
    made = judged(store, number, verdict, sampled, **more)
    add(store, made.id, "ann", word)
    return made


def good_of(sample: FairSample) -> list[str]:
    return [verdict.part_id for verdict in sample.good]


# ---- which reviews may set a threshold


def test_only_parts_that_were_queued_by_chance_count(store: Store) -> None:
    for number in range(3):
        reviewed(store, number, "good")
    reviewed(store, 3, "defect", "NG")
    for number in range(4, 7):
        reviewed(store, number, "good", "NG", sampled=False)
    judged(store, 7)  # neither queued nor reviewed
    sample = fair_sample(store, Filter())
    assert good_of(sample) == ["part 0", "part 1", "part 2"]
    assert (sample.defect, sample.unsure, sample.waiting, sample.picked) == (1, 0, 0, 3)
    assert sample.lines() == [
        "3 good parts that were queued for review by chance; of the others that were, 1 are defective and 0 unsure",
        "3 reviewed good parts do not count, as they were queued for their verdict, not by chance",
    ]


def test_good_parts_that_were_queued_for_their_verdict_alone_are_refused(store: Store) -> None:
    for number in range(5):
        reviewed(store, number, "good", "NG", sampled=False)
    with pytest.raises(DataError, match=r"5 reviewed good parts were queued for their verdict.* most anomalous .*too high"):
        fair_sample(store, Filter())


def test_a_rejected_part_that_chance_chose_too_counts(store: Store) -> None:
    """Left out, the sample would be selected by score the other way round."""
    for number in range(3):
        reviewed(store, number, "good", "NG" if number == 2 else "OK")
    assert len(fair_sample(store, Filter()).good) == 3


def test_what_follows_the_first_gap_does_not_count(store: Store) -> None:
    """A reviewer who takes the striking ones first selects by score, whatever queued them."""
    for number in range(4):
        reviewed(store, number, "good")
    judged(store, 4, sampled=True)
    for number in range(5, 9):
        reviewed(store, number, "good", "NG")
    sample = fair_sample(store, Filter())
    assert good_of(sample) == [f"part {number}" for number in range(4)]
    assert sample.waiting == 5
    assert "5 more were queued by chance; they do not count, as the oldest of them waits for review" in sample.lines()


def test_a_gap_at_the_very_beginning_is_refused_by_its_number(store: Store) -> None:
    first = judged(store, 0, sampled=True)
    for number in range(1, 4):
        reviewed(store, number, "good", "NG")
    with pytest.raises(DataError, match=rf"Result {first.id}, the oldest .* waits .* and the 3 that follow"):
        fair_sample(store, Filter())


def test_many_unsure_ones_are_refused_and_few_are_counted(store: Store) -> None:
    for number in range(19):
        reviewed(store, number, "good")
    reviewed(store, 19, "unsure")
    assert fair_sample(store, Filter()).unsure == 1
    for number in range(20, 23):
        reviewed(store, number, "unsure")
    with pytest.raises(DataError, match=r"4 of 23 parts .* unsure, at most 10% may be"):
        fair_sample(store, Filter())


def test_nothing_reviewed_is_refused(store: Store) -> None:
    judged(store, 0)
    with pytest.raises(DataError, match="nothing to calibrate on"):
        fair_sample(store, Filter())


def test_a_correction_counts_instead_and_a_picture_counts_once(store: Store) -> None:
    first = reviewed(store, 0, "defect")
    add(store, first.id, "ben", "good")
    again = judged(store, 0, sampled=True)
    add(store, again.id, "ben", "good")
    other = reviewed(store, 1, "good")
    add(store, other.id, "ben", "defect")
    sample = fair_sample(store, Filter())
    assert good_of(sample) == ["part 0"]
    assert sample.defect == 1


def test_the_filter_leaves_other_models_and_stations_out(store: Store) -> None:
    reviewed(store, 0, "good")
    reviewed(store, 1, "good", model="washer", model_id="ddddeeeeffff")
    reviewed(store, 2, "good", station="line 2")
    judged(store, 3, sampled=True, station="line 3")
    assert good_of(fair_sample(store, Filter(model_id="ddddeeeeffff"))) == ["part 1"]
    assert good_of(fair_sample(store, Filter(model="bracket", station="line 2"))) == ["part 2"]
    with pytest.raises(DataError, match="waits for its review"):
        fair_sample(store, Filter(station="line 3"))


# ---- thresholds from them


def served(store: Store, model: Path, pictures: Sequence[Any], word: str = "good", sampled: bool = True) -> list[Verdict]:
    """Judge pictures as a service would, keep and review them."""
    inspector = ff.load(model)
    content = bundle.read(model)
    assert store.files is not None
    made = []
    for pixels in pictures:
        data = png(pixels)
        decision = inspector(pixels)
        kept = keep_picture(store.files, data, sha256_of(data))
        (verdict,) = record(
            store,
            [
                verdict_of(
                    decision,
                    source="http",
                    sha256=sha256_of(data),
                    model="washer",
                    model_id=content.model_id,
                    manifest="ff" * 32,
                    kept=kept,
                    sampled=sampled,
                )
            ],
        )
        add(store, verdict.id, "ann", word)
        made.append(verdict)
    return made


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def parts(count: int, seed: int = 77) -> list[Any]:
    return [render_good(place, seed, 64) for place in range(count)]


def test_thresholds_come_from_the_sampled_good_parts_as_from_a_folder(store: Store, model: Path, tmp_path: Path) -> None:
    served(store, model, parts(24))
    folder, other = tmp_path / "good", Path(shutil.copytree(model, tmp_path / "other"))
    folder.mkdir()
    for place, pixels in enumerate(parts(24)):
        (folder / f"{place:03d}.png").write_bytes(png(pixels))
    found, notes = recalibrate_from_reviews(model, tmp_path / "results.db", yes=True)
    from flawforge import fitting

    expected, _ = fitting.recalibrate(other, folder, None, None, yes=True)
    assert sorted(found.scores) == sorted(expected.scores)
    assert found.threshold == expected.threshold
    assert found.n == 24
    assert notes[0].startswith("24 good parts that were queued for review by chance")
    saved = bundle.read(model).calibration
    assert saved is not None
    assert saved.threshold == found.threshold


def test_a_selection_by_score_changes_nothing(store: Store, model: Path, tmp_path: Path) -> None:
    before = (model / "manifest.json").read_bytes()
    served(store, model, parts(6), sampled=False)
    with pytest.raises(DataError, match="queued for their verdict"):
        recalibrate_from_reviews(model, tmp_path / "results.db")
    assert (model / "manifest.json").read_bytes() == before


def test_another_models_reviews_are_not_taken_unless_named(store: Store, model: Path, tmp_path: Path) -> None:
    for number in range(20):
        reviewed(store, number, "good")
    with pytest.raises(DataError, match="nothing to calibrate on"):
        recalibrate_from_reviews(model, tmp_path / "results.db")
    made = served(store, model, parts(22))
    assert made
    found, _ = recalibrate_from_reviews(model, tmp_path / "results.db", served="washer", yes=True)
    assert found.n == 22


@pytest.mark.parametrize("harm", ["gone", "changed"])
def test_a_picture_that_is_not_kept_as_it_was_judged_is_refused(
    store: Store, model: Path, tmp_path: Path, harm: str
) -> None:
    first = served(store, model, parts(4))[0]
    assert store.files is not None
    path = store.files / first.kept
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(picture(3))
    with pytest.raises(DataError, match=rf"picture of result {first.id} is not kept as it was judged.*not fair"):
        recalibrate_from_reviews(model, tmp_path / "results.db")


def test_no_store_is_made_where_there_is_none(model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no result store"):
        recalibrate_from_reviews(model, tmp_path / "nothing.db")
    assert not (tmp_path / "nothing.db").exists()


# ---- a labelled folder


def mask_png() -> tuple[bytes, Any]:
    mask = np.zeros(SHAPE, np.uint8)
    mask[5:15, 20:30] = 255
    return png(mask), mask > 0


def fill(store: Store) -> dict[str, Verdict]:
    """A good part, defects with a box, a mask and neither, an unsure one, and one without a review."""
    made = {name: judged(store, place) for place, name in enumerate(("good", "box", "mask", "bare", "unsure", "none"))}
    add(store, made["good"].id, "ann", "good")
    add(store, made["box"].id, "ann", "defect", boxes=[Box(2, 3, 10, 8), Box(30, 30, 5, 5)], note="=dent")
    add(store, made["mask"].id, "ann", "defect", mask=mask_png()[0])
    add(store, made["bare"].id, "ann", "defect")
    add(store, made["unsure"].id, "ann", "unsure")
    return made


def test_the_folder_has_pictures_masks_and_where_they_come_from(store: Store, tmp_path: Path) -> None:
    made, out = fill(store), tmp_path / "reviewed"
    result = export_labelled(store, out)
    assert (result.good, result.marked, result.unmarked, result.unsure, result.lost) == (1, 2, 1, 1, 0)
    assert json.loads(json.dumps(result.as_dict()))["marked"] == 2
    assert result.lines()[0].endswith("1 good parts, 2 defective ones with a mask, 1 without")
    name = f"{made['box'].id:08d}"
    assert (out / "test" / "defect" / f"{name}.png").read_bytes() == picture(1)
    mask = read_mask(out / "ground_truth" / "defect" / f"{name}_mask.png", SHAPE)
    expected = np.zeros(SHAPE, bool)
    expected[3:11, 2:12] = expected[30:35, 30:35] = True
    np.testing.assert_array_equal(mask, expected)
    drawn = read_mask(out / "ground_truth" / "defect" / f"{made['mask'].id:08d}_mask.png", SHAPE)
    np.testing.assert_array_equal(drawn, mask_png()[1])
    with (out / "reviews.csv").open(newline="") as file:
        rows = {row["part_id"]: row for row in csv.DictReader(file)}
    assert rows["part 1"]["file"] == f"test/defect/{name}.png"
    assert rows["part 1"]["mask"] == f"ground_truth/defect/{name}_mask.png"
    assert rows["part 1"]["note"] == "'=dent"  # no formula for a spreadsheet
    assert rows["part 0"]["mask"] == ""
    assert set(rows) == {"part 0", "part 1", "part 2", "part 3"}


def test_evaluate_and_defects_read_the_folder(store: Store, tmp_path: Path) -> None:
    fill(store)
    export_labelled(store, tmp_path / "all")
    entries = labelled_listing(tmp_path / "all").entries
    assert sorted((entry.kind, entry.mask_path is not None) for entry in entries) == [
        ("defect", True),
        ("defect", True),
        ("defect_unmarked", False),
        ("good", False),
    ]
    with pytest.raises(DataError, match=r"1 of 3 pictures of --defects .* have no mask"):
        read_defects(tmp_path / "all")
    result = export_labelled(store, tmp_path / "marked", marked_only=True)
    assert (result.unmarked, result.no_mask) == (0, 1)
    assert "left out, as nobody said where the defect is: 1" in result.lines()
    found = read_defects(tmp_path / "marked")
    assert found is not None
    assert found.kinds == {"defect": 2}


def test_no_defect_yet_is_a_folder_that_changes_no_fit(store: Store, tmp_path: Path) -> None:
    reviewed(store, 0, "good")
    export_labelled(store, tmp_path / "out")
    assert read_defects(tmp_path / "out") is None


def test_of_one_picture_the_newest_review_counts(store: Store, tmp_path: Path) -> None:
    first, second = judged(store, 7), judged(store, 7)
    add(store, second.id, "ann", "good")
    add(store, first.id, "ben", "defect", boxes=[Box(0, 0, 4, 4)])
    result = export_labelled(store, tmp_path / "out")
    assert (result.good, result.marked, result.twice) == (0, 1, 1)
    assert "left out, as the same picture has a newer review: 1" in result.lines()


def test_pictures_that_are_gone_or_changed_are_left_out(store: Store, tmp_path: Path) -> None:
    made = fill(store)
    assert store.files is not None
    (store.files / made["box"].kept).unlink()
    (store.files / made["mask"].kept).write_bytes(picture(200))
    result = export_labelled(store, tmp_path / "out")
    assert (result.marked, result.lost) == (0, 2)
    assert "left out, as their picture is not kept as it was judged: 2" in result.lines()


def test_an_export_of_nothing_counts_every_reviewed_result(store: Store, tmp_path: Path) -> None:
    for _ in range(7):
        reviewed(store, 0, "defect")
    with pytest.raises(DataError) as caught:
        export_labelled(store, tmp_path / "out", marked_only=True)
    told = "None of 7 reviewed results can be written (0 unsure, 1 without a mask, 0 pictures not kept, 6 of a picture "
    assert str(caught.value).startswith(told)


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match="None of 0 reviewed results can be written"):
        export_labelled(store, out)
    reviewed(store, 0, "good")
    reviewed(store, 1, "good", model="washer")
    with pytest.raises(ConfigError, match="reviews of the models bracket, washer; choose one with --model"):
        export_labelled(store, out)
    assert export_labelled(store, out, Filter(model="washer")).good == 1
    with pytest.raises(ConfigError, match="exists already"):
        export_labelled(store, out, Filter(model="washer"))
    bare = Store(store.engine, None, "x")
    with pytest.raises(ConfigError, match="keeps no pictures"):
        export_labelled(bare, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["out", "results-files"]


# ---- the commands


def run(*told: object) -> Any:
    return CliRunner().invoke(main, [str(each) for each in told])


def test_the_commands_export_and_recalibrate(store: Store, model: Path, tmp_path: Path) -> None:
    served(store, model, parts(20))
    db, out = tmp_path / "results.db", tmp_path / "reviewed"
    exported = run("reviews", "export", db, "-o", out)
    assert exported.exit_code == 0, exported.output
    assert "20 good parts" in exported.output
    assert len(list((out / "test" / "good").iterdir())) == 20
    for command in (("recalibrate", model, "--reviews", db), ("calibrate", model, "--reviews", db)):
        done = run(*command, "--yes", "--json", tmp_path / "c.json")
        assert done.exit_code == 0, done.output
        assert "20 good parts that were queued for review by chance" in done.output
        assert json.loads((tmp_path / "c.json").read_text())["calibration"]["n"] == 20


@pytest.mark.parametrize("more", [(), ("good", "--reviews", "x.db")])
def test_calibrate_takes_a_folder_or_reviews(model: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "0.png").write_bytes(picture(0))
    told = [tmp_path / each if each == "good" else each for each in more]
    done = run("calibrate", model, *told)
    assert done.exit_code == 2
    assert "give one of the two" in done.output
