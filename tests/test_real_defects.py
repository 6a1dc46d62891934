"""`fit --defects` and `pod --defects`: what real defects change of a fit, and what they do not."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from conftest import made_once
from flawforge import api, fitting
from flawforge.cli import main
from flawforge.fitting.real_defects import REAL_PROOF, REAL_TRAINING, forgers_of
from flawforge.forge.mixtures import Mix
from flawforge.forge.physical import PHYSICAL
from flawforge.forge.texture import Perlin
from flawforge.forge.transplant import Transplant
from flawforge.methods import METHODS
from flawforge.pictures.defects import Defects, read_defects
from flawforge.proving.specimens import Recipe, proof_pictures
from flawforge.reporting.page import report_html, report_markdown
from flawforge.reporting.report import report_facts
from flawforge.types import Collect, ConfigError, DataError, Prove, Train, TrainingError
from flawforge_runtime import bundle
from flawforge_runtime.images import read_picture

TOLD: dict[str, Any] = {"method": "draem", "steps": 3, "size": 64, "settings": dataclasses.asdict(METHODS["draem"].tiny)}


def request(washers: Path, out: Path, **more: Any) -> fitting.Request:
    return fitting.Request(data=washers, out=out, **TOLD | more)


@pytest.fixture(scope="module")
def model(washers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that was given the washers' eight real defects. Read only."""
    return made_once(
        tmp_path_factory, "with-defects", lambda out: fitting.run(request(washers, out, defects=washers / "test"))
    )


def real(washers: Path) -> Defects:
    found = read_defects(washers)
    assert found is not None
    return found


def nothing(*_: Any) -> None:
    """A stage that does nothing."""


def stages(*kinds: str) -> list[Any]:
    made: dict[str, Any] = {
        "collect": Collect("c", nothing, nothing, nothing),
        "train": Train("t", []),
        "own": Train("o", [], forger=Perlin()),
        "prove": Prove("p", PHYSICAL, 2, nothing, nothing, nothing),
    }
    return [made[kind] for kind in kinds]


def of(forger: Any) -> tuple[Any, set[str], float]:
    """(the forger that a mixture adds to, the pictures of its pieces, their share)."""
    assert isinstance(forger, Mix)
    own, transplant = forger.forgers
    assert isinstance(transplant, Transplant)
    return own, {piece.source for piece in transplant.pieces}, forger.weights[1]


def test_each_stage_sees_the_defects_that_it_may(washers: Path) -> None:
    found, method = real(washers), Mix()
    trained = {each.sha256[:12] for each in found.trained}
    proving = {each.sha256[:12] for each in found.proving}
    assert (len(trained), len(proving)) == (6, 2)
    made = forgers_of(method, stages("collect", "prove", "train", "own", "prove"), found, (64, 64), None)
    assert made[0] is method
    assert of(made[1]) == (PHYSICAL, trained | proving, REAL_PROOF)
    assert of(made[2]) == (method, trained, REAL_TRAINING)
    assert of(made[3]) == (Perlin(), trained, REAL_TRAINING)
    assert of(made[4]) == (PHYSICAL, proving, REAL_PROOF)


def test_two_defects_do_not_judge_what_learnt_them(washers: Path) -> None:
    few = read_defects(washers / "test" / "dent")
    made = forgers_of(Mix(), stages("prove", "train", "prove"), few, (64, 64), None)
    assert len(of(made[0])[1]) == len(of(made[1])[1]) == 2
    assert made[2] is PHYSICAL


def test_without_defects_every_stage_draws_as_before() -> None:
    method = Mix()
    made = forgers_of(method, stages("collect", "train", "own", "prove"), None, (64, 64), None)
    assert made == [method, method, Perlin(), PHYSICAL]
    assert made[1] is method


def test_where_no_stage_draws_defects_they_are_refused(washers: Path) -> None:
    with pytest.raises(ConfigError, match="no defects are trained on or judged by; leave out --defects"):
        forgers_of(Mix(), stages("collect"), real(washers), (64, 64), None)


def good_only(washers: Path, folder: Path) -> Path:
    """A labelled folder in which nobody has found a defect yet."""
    shutil.copytree(washers / "test" / "good", folder / "test" / "good")
    return folder


def test_no_defect_changes_no_bit(washers: Path, tmp_path: Path) -> None:
    """Weights, thresholds and the checkpoint's identity are those of a fit without --defects."""
    empty = good_only(washers, tmp_path / "reviewed")
    plain = fitting.run(request(washers, tmp_path / "plain"))
    told: list[str] = []
    none = fitting.run(request(washers, tmp_path / "none", defects=empty), show=told.append)
    one, other = bundle.read(tmp_path / "plain"), bundle.read(tmp_path / "none")
    assert one.tensors == other.tensors
    assert one.calibration == other.calibration
    assert (one.config.keys(), "defects" in one.config) == (other.config.keys(), False)
    assert one.config["training"]["forgers"] == other.config["training"]["forgers"]
    assert f"--defects {empty} holds good pictures alone, so nothing changes" in other.config["notes"]
    picture = washers / "test" / "dent" / "000.png"
    assert plain(picture).pred_score == none(picture).pred_score
    plans = [fitting.plan(request(washers, tmp_path / "x", defects=each)) for each in (None, empty)]
    assert fitting.identity(plans[0]) == fitting.identity(plans[1])


def test_defects_change_the_batches_and_never_what_is_held_back(washers: Path, tmp_path: Path) -> None:
    plain, given = (fitting.plan(request(washers, tmp_path / "m", defects=defects)) for defects in (None, washers / "test"))
    assert given.held == plain.held
    assert given.train == plain.train
    assert fitting.identity(given) != fitting.identity(plain)
    drawn = []
    for plan in (plain, given):
        pictures = fitting.load_pictures(plan)
        batch = fitting.batches(plan, pictures, None, stages("train"))
        drawn.append([batch(0, step).forged for step in range(6)])
        np.testing.assert_array_equal(drawn[-1][2], batch(0, 2).forged)  # the same again
    assert any(not np.array_equal(one, other) for one, other in zip(*drawn, strict=True))


def test_other_defects_are_another_fit(washers: Path, tmp_path: Path) -> None:
    copy = tmp_path / "parts"
    for part in ("test", "ground_truth"):
        shutil.copytree(washers / part, copy / part)
    one = fitting.identity(fitting.plan(request(washers, tmp_path / "m", defects=copy)))
    shutil.rmtree(copy / "test" / "dent")
    assert fitting.identity(fitting.plan(request(washers, tmp_path / "m", defects=copy))) != one


def test_a_resume_with_other_defects_is_refused(washers: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        """Ends a fit in its middle."""

    def stop(tick: Any) -> None:
        if tick.step >= 2:
            raise Stop

    first = request(washers, tmp_path / "m", defects=washers / "test", checkpoint_every=1e-6)
    with pytest.raises(Stop):
        fitting.run(first, on_tick=stop)
    for other in (None, washers / "test" / "dent"):
        with pytest.raises(TrainingError, match="belongs to a run with other data"):
            fitting.run(dataclasses.replace(first, defects=other), resume=True)
    fitting.run(first, resume=True)
    whole = fitting.run(dataclasses.replace(first, out=tmp_path / "whole"))
    assert whole.content is not None
    assert bundle.read(tmp_path / "m").tensors == whole.content.tensors


def test_a_method_that_trains_on_no_defects_refuses_them(washers: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"method patchstats learns from good pictures alone \(methods .*draem.*\); leave out"
    ):
        fitting.plan(fitting.Request(data=washers, out=tmp_path / "m", method="patchstats", defects=washers))


def test_a_good_training_picture_is_no_defect(washers: Path, tmp_path: Path) -> None:
    folder = tmp_path / "defects"
    folder.mkdir()
    shutil.copy(washers / "train" / "good" / "003.png", folder / "7.png")
    shutil.copy(washers / "ground_truth" / "dent" / "000_mask.png", folder / "7_mask.png")
    with pytest.raises(DataError, match="is the good picture"):
        fitting.plan(request(washers, tmp_path / "m", defects=folder))


def test_the_model_says_which_defects_it_was_given(model: Path, washers: Path) -> None:
    content = bundle.read(model)
    assert content.config["training"]["forgers"] == ["perlin", "transplant"]
    about = {"pictures": 8, "trained_on": 6, "kinds": {"chip": 2, "dent": 2, "scratch": 2, "stain": 2}}
    assert content.config["training"]["defects"] == about
    assert {each["sha256"] for each in content.config["defects"]} == {each.sha256[:12] for each in real(washers).pictures}
    row = next(line for line in content.card.splitlines() if line.startswith("| real defects |"))
    assert "8 pictures (chip 2, dent 2, scratch 2, stain 2), 2 of them kept from training to prove it" in row
    files = next(line for line in content.card.splitlines() if line.startswith("| their pictures, by SHA-256 |"))
    assert all(each["sha256"] in files and each["name"] in files for each in content.config["defects"])
    assert "real defects" not in bundle.read(model).config["notes"][0]
    assert any("8 pictures with real defects" in note for note in content.config["notes"])


def test_the_report_counts_them_and_names_no_file(model: Path) -> None:
    facts = report_facts(model)
    page = report_html(facts)
    assert "8 pictures (chip 2, dent 2, scratch 2, stain 2), 2 of them kept from training" in page
    for each in bundle.read(model).config["defects"]:
        assert each["sha256"] not in page
    assert "defects" not in facts["config"]


def test_evaluate_leaves_out_the_defects_of_the_fit(model: Path, washers: Path) -> None:
    with_none = api.evaluate(model, washers, save=False, bootstrap=0)
    assert with_none.counts["defective"] == 0
    assert any("8 of 14 pictures were left out, as the model was trained on them" in note for note in with_none.notes)


def test_pod_grafts_only_defects_that_training_never_saw(model: Path, washers: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    how: dict[str, Any] = {"kinds": ["scratch"], "contrasts": [0.3], "count": 5}
    proof = api.pod(copy, washers, defects=washers, **how)
    assert proof.real is not None
    assert (proof.real.kind, proof.real.contrast, proof.real.n) == ("transplant", 1.0, 5)
    assert any("6 of 8 pictures with real defects were left out" in note for note in proof.notes)
    assert proof.lines()[-1] == proof.real.line
    written = json.loads(json.dumps(proof.as_dict()))
    assert written["real_defects"]["n"] == 5
    assert [curve["kind"] for curve in written["curves"]] == ["scratch"]
    assert [row["kind"] for row in written["trials"]].count("transplant") == 5
    without = api.pod(copy, washers, **how, save=False)
    assert without.real is None
    assert "real_defects" not in without.as_dict()
    assert without.curves == proof.curves
    told = "found; 9 of 10: not demonstrated." if proof.real.a90_95 is None else "9 of 10: from"
    facts = report_facts(copy)
    for page in (report_html(facts), report_markdown(facts)):
        assert "Real defects that training never saw, grafted onto good pictures at 0.5 to 2 times their size" in page
        assert told in page


def test_pod_with_defects_that_are_all_known_is_refused(model: Path, washers: Path, tmp_path: Path) -> None:
    known = {each["sha256"] for each in bundle.read(model).config["defects"] if each["use"] == "training"}
    folder = tmp_path / "known"
    folder.mkdir()
    for number, each in enumerate(each for each in real(washers).pictures if each.sha256[:12] in known):
        shutil.copy(each.path, folder / f"{number}.png")
        shutil.copy(each.mask_path, folder / f"{number}_mask.png")
    with pytest.raises(DataError, match="was trained on all 6 pictures"):
        api.pod(model, washers, defects=folder, save=False)


def test_graftings_are_the_defects_at_half_to_twice_their_size(washers: Path) -> None:
    found = real(washers)
    pieces = found.pieces(found.pictures)
    goods = [washers / "test" / "good" / f"{place:03d}.png" for place in range(3)]
    recipe = Recipe(kinds=("scratch",), contrasts=(0.3,), count=12)
    made = list(proof_pictures(goods, recipe, pieces=pieces))
    plain = list(proof_pictures(goods, recipe))
    grafted = [each for each in made if each.kind == "transplant"]
    assert len(made) - len(grafted) == len(plain)
    np.testing.assert_array_equal(made[0].image, plain[0].image)
    assert 10 <= len(grafted) <= 12
    for each in grafted:
        good = read_picture(goods[each.good]).pixels
        np.testing.assert_array_equal(each.image[~each.mask], good[~each.mask])
        assert each.mask.any()
        assert 0.5 <= each.drawn["wanted"] <= 2.0
        assert each.drawn["opacity"] == 1.0
    assert len({each.drawn["source"] for each in grafted}) == min(8, len(pieces))
    shuffled = list(proof_pictures(goods[::-1], recipe, pieces=pieces))
    assert all(np.array_equal(one.image, other.image) for one, other in zip(made, shuffled, strict=True))


def test_the_command_takes_them(washers: Path, tmp_path: Path) -> None:
    told = ["fit", str(washers), "-o", str(tmp_path / "model"), "--method", "draem", "--size", "64", "--dry-run"]
    result = CliRunner().invoke(main, [*told, "--defects", str(washers / "test" / "dent")])
    assert result.exit_code == 0, result.output
    assert "2 pictures with real defects (dent 2), all of them trained on" in result.output
    bad = CliRunner().invoke(main, [*told, "--defects", str(washers / "train" / "good")])
    assert bad.exit_code != 0
    assert "holds no pictures of defective parts" in bad.output
