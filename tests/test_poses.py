"""How parts lie: drawn parts, moved by known amounts, and everything from fit to verdict over them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge import fitting
from flawforge.demo.washers import render_good
from flawforge.judging import export, speed
from flawforge.judging.loading import load
from flawforge.pictures.alignment import register
from flawforge.pictures.dataset import GoodPictures, good_entries, read_entries
from flawforge.types import ConfigError, ModelError, ScoreRule
from flawforge_runtime import bundle, images, poses
from flawforge_runtime.calibrate import calibrate
from flawforge_runtime.inspector import Inspector
from flawforge_runtime.poses import Pose, Template

ALL = np.ones((96, 96), bool)


def plate(seed: int = 0) -> Any:
    """96 x 96 x 3: a plate with a slot and a hole, so that its pose has one answer only."""
    picture = np.full((96, 96, 3), 40, np.float32) + np.random.default_rng(seed).normal(0, 2, (96, 96, 3))
    cv2.rectangle(picture, (22, 28), (74, 68), (190, 180, 170), -1)
    cv2.rectangle(picture, (30, 36), (52, 42), (70, 60, 60), -1)
    cv2.circle(picture, (64, 58), 6, (60, 60, 70), -1)
    return cv2.GaussianBlur(picture, (3, 3), 0).clip(0, 255).astype(np.uint8)


def moved(picture: Any, turn: float, right: float, down: float) -> Any:
    """The picture turned about its centre, then shifted; the background goes on."""
    h, w = picture.shape[:2]
    matrix = Pose(turn, right, down, 1.0).matrix((h, w))
    return cv2.warpAffine(picture, matrix, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


TEMPLATE = Template(poses.grey_of(plate()), 0.4)


@settings(max_examples=25, deadline=None)
@given(turn=st.floats(-8, 8), right=st.floats(-12, 12), down=st.floats(-12, 12), gain=st.floats(0.7, 1.2))
def test_a_known_pose_is_found_whatever_the_light(turn: float, right: float, down: float, gain: float) -> None:
    picture = np.clip(moved(plate(1), turn, right, down).astype(np.float32) * gain, 0, 255).astype(np.uint8)
    pose = poses.find(picture, ALL, TEMPLATE)
    assert pose is not None
    assert pose.turn == pytest.approx(turn, abs=0.6)
    assert pose.right == pytest.approx(right, abs=0.6)
    assert pose.down == pytest.approx(down, abs=0.6)
    assert pose.likeness > 0.9
    again = poses.lay(picture, pose).astype(np.float32) / gain
    assert np.abs(again - plate())[16:80, 16:80].mean() < 6


def test_a_map_goes_back_to_where_the_part_lies() -> None:
    pose = Pose(6.0, 5.0, -3.0, 1.0)
    surface = np.zeros((96, 96), np.float32)
    surface[58:61, 63:66] = 1.0
    laid_back = poses.back(surface, pose)
    row, column = np.unravel_index(laid_back.argmax(), laid_back.shape)
    assert np.abs(np.subtract(poses.back_at(59, 64, pose, (96, 96)), (row, column))).max() <= 1
    assert laid_back.max() > 0.8
    there_and_back = poses.lay(poses.back(surface + 1, pose)[..., None].repeat(3, 2), pose)[..., 0]
    assert np.abs(there_and_back - surface - 1)[30:70, 30:70].max() < 0.6
    marked = poses.lay_mask(ALL, pose)
    assert 0.8 < marked.mean() < 1.0
    assert marked[40:60, 40:60].all()


@pytest.mark.parametrize(
    "picture",
    [
        np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8),
        np.full((96, 96, 3), 90, np.uint8),
        np.rot90(plate(), 1).copy(),
    ],
)
def test_no_pose_is_believed_where_the_part_is_not_to_be_seen(picture: Any) -> None:
    assert poses.find(picture, ALL, Template(TEMPLATE.grey, 0.8)) is None


def test_what_is_too_far_is_not_believed() -> None:
    assert poses.find(moved(plate(), 0, 20, 0), ALL, TEMPLATE) is not None
    far = poses.find(moved(plate(), 0, 30, 0), ALL, TEMPLATE)
    assert far is None or abs(far.right) <= poses.REACH * 96


def pictures(amount: float, count: int = 12) -> list[tuple[Any, Any]]:
    rng = np.random.default_rng(3)
    return [(moved(plate(i), *(amount * rng.uniform(-1, 1, 3) * (5, 9, 9))), ALL) for i in range(count)]


def test_good_pictures_say_whether_poses_pay() -> None:
    still, lying = register(pictures(0.0), "auto"), register(pictures(1.0), "auto")
    assert still.template is None
    assert lying.template is not None
    assert "good ones lie up to" in lying.note
    assert 0.3 < lying.template.least < 0.6
    assert register(pictures(1.0), "off").template is None
    assert register(pictures(0.0), "on").template is not None
    rng = np.random.default_rng(1)
    noise = [(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8), ALL) for _ in range(6)]
    assert register(noise, "auto").template is None
    with pytest.raises(ConfigError, match=r"--align on was given, but a common pose was found in \d of 6 good pictures"):
        register(noise, "on")
    with pytest.raises(ConfigError, match=r"--align was given as maybe; allowed are auto, on and off\."):
        register(pictures(0.0), "maybe")
    with pytest.raises(ConfigError, match="at least 2 are needed"):
        register(pictures(0.0)[:1], "on")


def darkness(batch: Any) -> tuple[Any, Any]:
    """Calls strange what is darker than the template's plate is there."""
    here = np.maximum(TEMPLATE.grey / 255 - batch.mean(axis=1), 0).astype(np.float32)
    return here, here.max(axis=(1, 2))


def test_a_flaw_is_marked_where_it_lies_and_a_part_without_pose_is_judged_as_it_lies() -> None:
    inspector = Inspector(darkness, (96, 96), ScoreRule(), calibrate([0.2, 0.21, 0.22, 0.23], 0.2), template=TEMPLATE)
    flawed = plate(2)
    flawed[46:50, 26:30] = 20
    assert inspector(moved(plate(4), 4, 7, -6)).verdict == "OK"
    decision = inspector(moved(flawed, 4, 7, -6))
    assert decision.verdict == "NG"
    assert decision.notes == ()
    x, y = Pose(4, 7, -6, 1).matrix((96, 96)) @ (27.5, 47.5, 1.0)
    region = decision.regions[0]
    assert abs(region.x + region.w / 2 - 0.5 - x) < 2
    assert abs(region.y + region.h / 2 - 0.5 - y) < 2
    noise = np.random.default_rng(0).integers(0, 60, (96, 96, 3), dtype=np.uint8)
    lost = inspector(noise)
    assert lost.notes == (poses.NOT_FOUND,)
    assert lost.verdict == "NG"
    unlaid = dataclasses.replace(inspector, template=None)(noise)
    assert lost.pred_score == unlaid.pred_score


def test_the_region_of_interest_goes_with_the_part() -> None:
    roi = np.zeros((96, 96), bool)
    roi[40:60, 22:40] = True
    inspector = Inspector(darkness, (96, 96), ScoreRule(), calibrate([0.2, 0.21], 0.4), template=TEMPLATE, roi=roi)
    inside, outside = plate(2), plate(2)
    inside[46:50, 26:30] = outside[46:50, 66:70] = 20
    assert inspector(moved(inside, 0, 8, 8)).verdict == "NG"
    assert inspector(moved(outside, 0, 8, 8)).verdict == "OK"


@pytest.fixture(scope="module")
def lying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Washers that lie anyhow, good ones and some with a flaw."""
    root = tmp_path_factory.mktemp("lying")
    rng = np.random.default_rng(0)
    for index in range(40):
        picture = moved(render_good(index, size=64), *(rng.uniform(-1, 1, 3) * (3, 7, 7)))
        images.write_image(root / "train" / "good" / f"{index:02d}.png", picture) if index else _first(root, picture)
    flawed = render_good(50, size=64)
    flawed[28:36, 8:12] = 30
    images.write_image(root / "flawed.png", moved(flawed, 2, 5, -4))
    return root


def _first(root: Path, picture: Any) -> None:
    (root / "train" / "good").mkdir(parents=True)
    images.write_image(root / "train" / "good" / "00.png", picture)


def fitted(lying: Path, out: Path, align: str) -> Inspector:
    return fitting.run(fitting.Request(lying, out, method="patchstats", size=64, align=align))


@pytest.mark.slow
def test_parts_that_lie_anyhow_are_laid_alike_from_fit_to_export(lying: Path, tmp_path: Path) -> None:
    with_poses, without = (fitted(lying, tmp_path / wish, wish) for wish in ("auto", "off"))
    assert with_poses.template is not None
    assert without.template is None
    assert any("laid alike before they are judged" in note for note in with_poses.content.config["notes"])  # type: ignore[union-attr]
    flawed = lying / "flawed.png"
    sound = [lying / "train" / "good" / f"{i:02d}.png" for i in range(8)]

    def margin(judge: Inspector) -> float:
        """How far the flaw stands out of good pictures, in their spread."""
        good = [judge(path).pred_score for path in sound]
        return float((judge(flawed).pred_score - np.mean(good)) / np.std(good))

    assert margin(with_poses) > margin(without)
    loaded = load(tmp_path / "auto")
    assert loaded.template is not None
    assert loaded.template.least == with_poses.template.least
    np.testing.assert_array_equal(loaded.template.grey, with_poses.template.grey)
    assert loaded(flawed).pred_score == with_poses(flawed).pred_score
    assert "pose" in speed.where(with_poses, sound, 3)
    assert "pose" not in speed.where(without, sound, 3)
    export.export(tmp_path / "auto", tmp_path / "onnx", "onnx", good=lying / "train" / "good")
    exported = load(tmp_path / "onnx")
    assert exported.template is not None
    assert exported(flawed).verdict == with_poses(flawed).verdict


def test_training_sees_a_part_as_judging_does(lying: Path) -> None:
    entries = good_entries(read_entries(lying))[:6]
    pixels = [images.read_picture(entry.path).pixels for entry in entries]
    template = register([(each, np.ones((64, 64), bool)) for each in pixels], "on").template
    assert template is not None
    seen: list[Any] = []

    def look(batch: Any) -> tuple[Any, Any]:
        seen.append(batch[0])
        return batch.mean(axis=1), np.zeros(len(batch), np.float32)

    judge = Inspector(look, (64, 64), ScoreRule(), template=template)
    for cache in (2**30, 0):  # a picture that is not held is read and laid again
        good = GoodPictures(entries, (64, 64), template=template, cache_bytes=cache)
        for batch in good.clean_batches(1):
            index = int(batch.index[0])
            judge.judge(images.as_picture(entries[index].path))
            np.testing.assert_allclose(seen[-1], batch.clean[0], atol=1e-6)
            assert not batch.valid[0].all() or pixels[index].shape != (64, 64)


def test_a_folder_whose_template_was_changed_is_refused(lying: Path, tmp_path: Path) -> None:
    fitted(lying, tmp_path / "model", "on")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["align"]["least"] > 0
    (tmp_path / "model" / "template.png").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"template\.png has 1 bytes instead of"):
        bundle.read(tmp_path / "model")


def test_tiles_have_no_pose(lying: Path, tmp_path: Path) -> None:
    request = fitting.Request(lying, tmp_path / "m", method="patchstats", size=64, tile=48, align="on")
    with pytest.raises(ConfigError, match="tiles have no pose"):
        fitting.plan(request)


def test_pictures_that_are_too_unlike_their_template_share_no_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flawforge.pictures.alignment.ALIKE", 0.9999)  # drawn plates are very alike
    assert register(pictures(1.0), "auto").template is None
    with pytest.raises(ConfigError, match="share no form to lay them by"):
        register(pictures(1.0), "on")
