"""Results that a model folder keeps: none is overwritten, the newest is first, and new limits judge them again."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flawforge as ff
from flawforge.proving import again
from flawforge.reporting.card import when
from flawforge.reporting.kept import KINDS, album, keep, kept
from flawforge.types import DataError
from flawforge_runtime.calibrate import Calibration, Rules, calibrate
from flawforge_runtime.files import locked
from flawforge_runtime.images import read_picture

FEW: dict[str, Any] = {"kinds": ["stain"], "contrasts": [0.4], "count": 4}
DOT = np.zeros((8, 8, 3), np.uint8)


def test_nothing_is_overwritten_and_the_newest_is_first(tmp_path: Path) -> None:
    """All within one second, so that the names need their numbers."""
    stored = [keep(tmp_path, "drift", {"n": number}, data=f"day {number}") for number in range(12)]
    assert len({one.folder for one in stored}) == 12
    assert [one.counts for one in kept(tmp_path, "drift")] == [{"parts": number} for number in reversed(range(12))]
    assert kept(tmp_path)[0] == stored[-1]
    assert album(tmp_path, "drift") == stored[-1].folder
    assert stored[3].text.startswith("drift check of day 3 (3 parts), 2")
    assert kept(tmp_path, "proof") == ()
    assert album(tmp_path, "proof") == tmp_path / "proof"


def test_what_older_versions_wrote_is_read_as_the_oldest(tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    old = tmp_path / "evaluation" / "evaluation.json"
    old.write_text(json.dumps({"counts": {"good": 2, "defective": 3}, "operating_point": {"threshold": 1.5}}))
    assert album(tmp_path, "evaluation") == old.parent
    (one,) = kept(tmp_path, "evaluation")
    assert (one.folder, one.data, one.limit) == (old.parent, "", 1.5)
    assert one.text.startswith("evaluation (2 good, 3 defective), 2")
    new = keep(tmp_path, "evaluation", {"counts": {"good": 1, "defective": 0}}, [("good", {"path": "a"}, DOT)])
    assert [each.folder for each in kept(tmp_path)] == [new.folder, old.parent]
    assert new.read()["overlays"] == [{"file": "00_good.webp", "group": "good", "path": "a"}]
    assert (new.folder / "00_good.webp").is_file()


@pytest.mark.parametrize("damage", ["{", "[]", "[" * 100_000])
def test_a_damaged_result_hides_no_other(damage: str, tmp_path: Path) -> None:
    first, second = (keep(tmp_path, "proof", {"goods": number}) for number in range(2))
    (second.folder / "proof.json").write_text(damage)
    assert kept(tmp_path) == (first,)
    assert album(tmp_path, "proof") == second.folder  # the report must not show an older one without a word
    with pytest.raises(DataError, match=r"proof\.json is not a JSON object"):
        second.read()


def test_a_result_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        keep(tmp_path, "drift", {"n": float("nan")})
    with locked(tmp_path / "drift"), pytest.raises(BlockingIOError):
        keep(tmp_path, "drift", {"n": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def model(tiny_model: Path, washers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with one result of each kind."""
    folder = Path(shutil.copytree(tiny_model, tmp_path_factory.mktemp("kept") / "model"))
    ff.evaluate(folder, washers, bootstrap=0)
    ff.pod(folder, washers, **FEW)
    ff.drift(folder, washers / "test" / "good")
    return folder


def limits(model: Path) -> Calibration:
    """Other limits with the same marks: NG above the median score of the evaluated pictures."""
    calibration = ff.load(model).calibration
    assert calibration is not None
    scores = [row["score"] for row in kept(model, "evaluation")[0].read()["pictures"]]
    return calibration.moved(threshold=float(np.median(scores)))


def test_what_is_judged_again_is_what_would_be_measured(model: Path, washers: Path) -> None:
    """The oracle judges the pictures themselves at the new limits."""
    new = limits(model)
    inspector = ff.load(model).with_calibration(new)
    results = {kind: again.JUDGES[kind](kept(model, kind)[0].read(), new) for kind in ("evaluation", "proof", "drift")}
    assert not any(isinstance(result, str) for result in results.values())
    told = {kind: json.loads(json.dumps(result)) for kind, result in results.items()}
    evaluation = json.loads(json.dumps(ff.evaluate(inspector, washers, bootstrap=0).as_dict()))
    for key in ("operating_point", "confusion", "kinds", "counts"):
        assert told["evaluation"][key] == evaluation[key], key
    for row, fresh in zip(told["evaluation"]["pictures"], evaluation["pictures"], strict=True):
        assert {**row, "seconds": 0} == {**fresh, "seconds": 0}
    before = kept(model, "evaluation")[0].read()
    assert before["confusion"] != told["evaluation"]["confusion"]
    groups = {(row["group"], row["verdict"] == "NG") for row in told["evaluation"]["overlays"]}
    rejects, others = ("detection", "top_catch", "false_alarm"), ("escape", "top_miss", "good", "top_good")
    assert groups <= {(name, True) for name in rejects} | {(name, False) for name in others}
    proof = json.loads(json.dumps(ff.pod(inspector, washers, **FEW).as_dict()))
    for key in ("false_alarm", "curves", "rejected_elsewhere", "trials", "good_scores"):
        assert told["proof"][key] == proof[key], key
    drift = json.loads(json.dumps(ff.drift(inspector, washers / "test" / "good").as_dict()))
    assert {key: told["drift"][key] for key in drift} == drift


def test_real_defects_are_judged_again_as_they_would_be_measured(model: Path, washers: Path) -> None:
    """They have a curve of their own at the new limits, and are never among the rejects that point elsewhere."""
    inspector, new, how = ff.load(model), limits(model), FEW | {"defects": washers, "count": 12}
    before, fresh = (
        json.loads(json.dumps(ff.pod(one, washers, **how).as_dict())) | {"seconds": {}, "overlays": []}
        for one in (inspector, inspector.with_calibration(new))
    )
    assert json.loads(json.dumps(again.proof_at(before, new))) == fresh
    assert before["real_defects"] != fresh["real_defects"]
    rejects = [row for row in fresh["trials"] if row["verdict"] == "NG"]
    forged, grafted = ([row for row in rejects if row["kind"] == kind] for kind in ("stain", "transplant"))
    assert not all(row["hit"] for row in grafted)
    assert fresh["rejected_elsewhere"]["of"] == len(forged)
    assert fresh["rejected_elsewhere"]["count"] == sum(not row["hit"] for row in forged)


def test_what_a_calibration_does_to_an_evaluation_is_said(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    new, identity = limits(folder), ff.load(folder).about["model_id"]
    before = kept(folder, "evaluation")[0].read()
    (line,) = [line for line in again.judge_again(folder, new, identity) if "evaluation of" in line]
    now = kept(folder, "evaluation")[0].read()
    missed, alarms = (
        [
            sum(row["label"] == label and (row["verdict"] == "NG") == (label == 0) for row in result["pictures"])
            for result in (before, now)
        ]
        for label in (1, 0)
    )
    defects, goods = (sum(row["label"] == label for row in now["pictures"]) for label in (1, 0))
    assert line.endswith(
        f": defects not rejected {missed[0]} of {defects} before, {missed[1]} now; "
        f"good parts rejected {alarms[0]} of {goods} before, {alarms[1]} now"
    )
    assert missed[0] != missed[1] or alarms[0] != alarms[1]


def test_where_more_passes_as_like_a_good_picture_scores_do_not_tell(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    new, identity = limits(folder), ff.load(folder).about["model_id"]
    path = next((folder / "evaluation").glob("*/evaluation.json"))
    result = json.loads(path.read_text())
    result["pictures"][0]["valid"] = False
    path.write_text(json.dumps(result))
    path = next((folder / "drift").glob("*/drift.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"invalid": 1}))
    lines = again.judge_again(folder, new, identity, widened=True)
    assert [line.startswith("not judged again") for line in lines if "drift check of" in line] == [True]
    assert [
        line.startswith("not judged again, because what is like a good") for line in lines if "evaluation of" in line
    ] == [True]
    assert any(line.startswith("judged again") for line in lines)


def test_the_newest_of_each_data_set_is_judged_again_and_the_old_ones_stay(
    model: Path, washers: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    ff.drift(folder, washers / "test" / "dent")
    before = kept(folder)
    text = {one.folder: one.read() for one in before}
    new, identity = limits(folder), ff.load(folder).about["model_id"]
    lines = again.judge_again(folder, new, identity)
    assert len(lines) == 4
    assert all(line.startswith("judged again at the new limits: ") for line in lines)
    after = kept(folder)
    assert after[4:] == before
    assert {one.folder: one.read() for one in before} == text
    assert all(one.limit == new.threshold and one.of for one in after[:4])
    assert "parts/test/dent" not in after[0].data
    assert album(folder, "drift").name == kept(folder, "drift")[0].folder.name
    assert kept(folder, "drift")[0].data == "test/dent"  # the newest stays the newest
    for one in after[:4]:
        result = one.read()
        assert "`" not in result["notes"][-1]
        assert f"calibrate has set since, from the scores of {when(one.of)}; pictures" in result["notes"][-1]
        assert all((one.folder / row["file"]).is_file() for row in result["overlays"])
    assert ff.report(folder).facts["evaluation"]["operating_point"]["threshold"] == new.threshold
    stored = ff.report(folder).facts["stored"]
    left = [one for one in kept(folder) if one.folder not in {album(folder, kind) for kind in KINDS}]
    assert all(
        text.startswith(one.what) and when(one.when.isoformat()) in text for text, one in zip(stored, left, strict=True)
    )
    assert len(stored) == 5
    facts = ff.report(folder).facts
    for kind, name in (("evaluation", "evaluated"), ("proof", "proved"), ("drift", "drifted")):
        newest = kept(folder, kind)[0]
        times = f", measured {when(newest.of)}; judged again at the limits of {when(newest.when.isoformat())}"
        assert facts[name].endswith(times)
    assert stored[-1] in ff.report(folder).text()
    again.judge_again(folder, limits(folder), identity)
    assert sum("Judged again" in note for note in kept(folder, "evaluation")[0].read()["notes"]) == 1
    assert kept(folder, "proof")[0].of == kept(folder, "proof")[1].of  # when it was measured, not when it was judged again


def test_what_cannot_be_had_from_scores_is_said(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    identity, count = ff.load(folder).about["model_id"], len(kept(folder))
    by_rule = replace(limits(folder), rules=Rules(min_area=4))
    lines = again.judge_again(folder, by_rule, identity)
    assert sum("rules on marked regions apply" in line for line in lines) == 2
    by_part = replace(limits(folder), per_part=True)
    assert "it counts pictures and the limits do not" in again.drift_at(kept(folder, "drift")[0].read(), by_part)
    path = kept(folder, "proof")[0].folder / "proof.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "trials": [{"kind": 7}]}))
    assert any("cannot be used" in line for line in again.judge_again(folder, limits(folder), identity))
    assert again.judge_again(folder, limits(folder), "another") == []
    assert len(kept(folder)) == count + 1 + 2  # the drift check; then the drift check and the evaluation


def test_a_picture_like_no_good_one_stays_rejected() -> None:
    calibration = calibrate([1.0, 2.0, 3.0], 0.25)
    row = {"label": 0, "score": 5.0, "valid": False, "verdict": "NG", "p_value": 0.25}
    higher = calibrate([1.0, 2.0, 300.0], 0.25)
    assert again._row_at(row, calibration)["verdict"] == again._row_at(row, higher)["verdict"] == "NG"
    assert again._row_at(row, higher)["score"] > higher.threshold


def test_a_result_holds_its_pictures(tmp_path: Path) -> None:
    red = np.full((8, 12, 3), (200, 30, 40), np.uint8)
    one = keep(tmp_path, "proof", {"goods": 3}, [("worst", {"score": 2.5}, red), ("missed", {"score": None}, red // 2)])
    assert sorted(path.name for path in one.folder.iterdir()) == ["00_worst.webp", "01_missed.webp", "proof.json"]
    assert one.read()["overlays"] == [
        {"file": "00_worst.webp", "group": "worst", "score": 2.5},
        {"file": "01_missed.webp", "group": "missed", "score": None},
    ]
    pixels = read_picture(one.folder / "00_worst.webp").pixels
    assert np.abs(pixels.astype(int) - red).max() < 40  # WebP loses a little
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Exception, match=r".+"):
        keep(tmp_path, "proof", {"goods": 2}, [("worst", {}, np.zeros((2, 2, 7), np.uint8))])
    assert sorted(tmp_path.rglob("*")) == before


def test_readers_beside_a_writer_always_find_whole_results(tmp_path: Path) -> None:
    keep(tmp_path, "proof", {"goods": 0})
    stop, seen = threading.Event(), set[int]()

    def read() -> None:
        while not stop.is_set():
            found = kept(tmp_path, "proof")
            seen.add(len(found))
            assert [one.read()["goods"] for one in found] == list(range(len(found)))[::-1]

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for number in range(1, 20):
            keep(tmp_path, "proof", {"goods": number})
        stop.set()
        for reader in readers:
            reader.result()
    assert len(seen) > 1
