"""Thresholds from pictures whose scores are known by hand; what good pictures are compared by; what a model folder holds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from flawforge import __version__
from flawforge.fitting import contents, planning, questions
from flawforge.fitting.planning import Request
from flawforge.fitting.questions import features_for, pixel_features, screened
from flawforge.fitting.thresholds import (
    Scored,
    calibrate_on,
    compared,
    described,
    doubts_of,
    on_another_day,
    rates_of_batches,
    write_sheet,
)
from flawforge.methods import METHODS
from flawforge.pictures.copies import fingerprint, known
from flawforge.pictures.screening import LEAST
from flawforge.reporting.good_sheet import FILE
from flawforge.types import CalibrationError, DataError, ScoreRule, Train
from flawforge_runtime.calibrate import calibrate
from flawforge_runtime.images import read_picture, write_image
from flawforge_runtime.inspector import Inspector
from flawforge_runtime.rates import strictest_rate


def brightness() -> Inspector:
    """A model whose score is how bright a picture is, in [0, 1]."""
    return Inspector(lambda batch: (batch.mean(axis=1), batch.mean(axis=(1, 2, 3))), (32, 32), ScoreRule("network"))


def grey(folder: Path, levels: Sequence[int]) -> list[Path]:
    """Pictures of these grey levels, with a little structure of their own."""
    folder.mkdir()
    paths = [folder / f"{place:03d}.png" for place in range(len(levels))]
    for path, level in zip(paths, levels, strict=True):
        write_image(path, np.full((32, 32, 3), level, np.uint8))
    return paths


# ---- thresholds by hand


def test_the_limit_is_the_kth_highest_of_the_readable(tmp_path: Path) -> None:
    levels = [10, 90, 20, 80, 30, 70, 40, 60, 50]
    paths = grey(tmp_path / "good", levels)
    (tmp_path / "good" / "broken.png").write_bytes(b"no picture")
    seen: list[tuple[int, int]] = []
    scored = calibrate_on(
        brightness(),
        [*paths, tmp_path / "good" / "broken.png"],
        0.2,
        0.3,
        progress=lambda done, of: seen.append((done, of)),
    )
    assert scored.calibration.threshold == pytest.approx(80 / 255, abs=1e-5)  # the 2nd of 9: 0.2 * 10
    assert scored.calibration.review_threshold == pytest.approx(70 / 255, abs=1e-5)
    assert [path for path, _ in scored.ranked] == [paths[place] for place in np.argsort(levels)[::-1]]
    ((path, why),) = scored.skipped
    assert path.name == "broken.png"
    assert "broken.png" in why
    assert seen == [(place, 10) for place in range(10)]
    assert scored.calibration.pictures == tuple(sorted(fingerprint(path) for path in paths))
    assert scored.lines()[0] == (
        "most anomalous calibration pictures, by score: 001.png (0.3529), 003.png (0.3137), 005.png (0.2745)"
    )


def test_a_part_counts_once_by_its_brightest_picture(tmp_path: Path) -> None:
    paths = grey(tmp_path / "good", [10, 100, 20, 21, 30, 5])
    parts = {path: f"part {place // 2}" for place, path in enumerate(paths)}
    scored = calibrate_on(brightness(), paths, 0.25, 0.25, parts=parts)
    assert scored.calibration.n == 3
    assert scored.calibration.per_part
    brightest = pytest.approx([21 / 255, 30 / 255, 100 / 255], abs=1e-5)
    assert scored.calibration.scores == brightest
    assert scored.calibration.peaks == brightest
    assert len(scored.ranked) == 6
    with pytest.raises(CalibrationError, match="3 calibration pictures do not support"):
        calibrate_on(brightness(), paths, 0.1, 0.1, parts=parts)


def test_blocks_count_once_where_their_scores_are_alike(tmp_path: Path) -> None:
    alike = [level + place for level in (10, 60, 110, 160, 210) for place in range(6)]
    paths = grey(tmp_path / "good", alike)
    blocks = {path: f"block {place // 6}" for place, path in enumerate(paths)}
    scored = calibrate_on(brightness(), paths, 0.05, 0.1, batches=blocks)
    assert scored.calibration.batches
    assert scored.calibration.n == 5
    assert scored.calibration.false_alarm == pytest.approx(1 / 6)
    assert "30 calibration pictures count as 5 batches, which support 16.7 %" in scored.calibration.doubts[0]
    mixed = dict(zip(paths, [f"block {place % 5}" for place in range(30)], strict=True))
    plain = calibrate_on(brightness(), paths, 0.05, 0.1, batches=mixed)
    assert not plain.calibration.batches
    assert plain.calibration.n == 30


def test_a_tolerated_variation_moves_scores_repeatably(tmp_path: Path) -> None:
    paths = grey(tmp_path / "good", [100] * 4)
    plain, first, again = (
        [score for _, score in calibrate_on(brightness(), paths, 0.3, 0.3, tolerate=kinds, seed=1, batches={}).ranked]
        for kinds in ("", "brightness", "brightness")
    )
    assert plain == pytest.approx([100 / 255] * 4, abs=1e-5)
    assert first == again
    assert len(set(first)) == 4  # each picture is varied in its own way
    assert len(described(brightness(), paths)) == 4
    assert len(described(brightness(), [*paths, tmp_path / "gone.png"], "brightness")) == 8


@pytest.mark.parametrize("both", [False, True])
def test_another_day_by_hand(tmp_path: Path, both: bool) -> None:
    first = calibrate_on(brightness(), grey(tmp_path / "a", range(10, 29)), 0.05, 0.1, batches={})
    grey(tmp_path / "same", range(5, 24))
    found, notes = on_another_day(brightness(), first, tmp_path / "same", both, batches={})
    assert found == first.calibration
    assert notes[-1].startswith("another day: 0 of 19 good pictures are NG (0 % to ")
    assert "in line with the stated 5 %" in notes[-1]
    grey(tmp_path / "bright", range(20, 39))
    found, notes = on_another_day(brightness(), first, tmp_path / "bright", both, batches={})
    assert notes[-1].startswith("another day: 10 of 19 good pictures are NG (")  # 29 to 38
    assert (found == first.calibration) == (not both)
    assert found.threshold == pytest.approx((38 if both else 28) / 255, abs=1e-5)
    assert ("--both-days" in notes[-1]) == (not both)


def test_the_sheet_shows_the_most_anomalous_and_the_suspects(tmp_path: Path) -> None:
    paths = grey(tmp_path / "good", range(10, 29))
    scored = calibrate_on(brightness(), paths, 0.05, 0.1, batches={})
    model = brightness().with_calibration(scored.calibration)
    assert write_sheet(tmp_path, model, scored.ranked, []) == tmp_path / FILE
    small = read_picture(write_sheet(tmp_path, model, scored.ranked[:1], [])).pixels
    large = read_picture(write_sheet(tmp_path, model, scored.ranked, [paths[0]])).pixels
    assert large.shape[0] > 3 * small.shape[0] / 2
    paths[18].unlink()
    without = read_picture(write_sheet(tmp_path, model, scored.ranked[:2], [])).pixels
    assert without.shape == small.shape  # one of the two is gone
    (tmp_path / FILE).unlink()
    write_sheet(tmp_path, model, [], [])
    assert not (tmp_path / FILE).exists()


@given(st.integers(2, 400), st.integers(2, 400), st.floats(0.001, 0.5), st.sampled_from([None, 0.9]))
@settings(deadline=None, max_examples=40)
def test_rates_are_raised_to_what_batches_support_and_no_further(
    pictures: int, count: int, rate: float, confidence: float | None
) -> None:
    (alarm, review), told = rates_of_batches(pictures, count, (rate, 1.5 * rate), confidence)
    least = strictest_rate(count, confidence)
    assert (alarm, review) == (max(rate, least), max(1.5 * rate, least))
    assert f"{pictures} calibration pictures count as {count} batches" in told
    assert ("which support" in told) == (least > rate)


@given(st.lists(st.integers(0, 20), min_size=LEAST, max_size=40), st.integers(10_000, 99_999))
@settings(deadline=None, max_examples=40)
def test_one_that_stands_far_out_is_always_doubted_and_named(scores: list[int], high: int) -> None:
    ranked = sorted(((Path(f"{n}.png"), float(score)) for n, score in enumerate([*scores, high])), key=lambda each: -each[1])
    calibration = calibrate([score for _, score in ranked], strictest_rate(len(ranked)))
    doubts = doubts_of(calibration, ranked)
    assert len(doubts) == 1
    assert f"{len(scores)}.png ({high:.4g})" in doubts[0]
    assert f"NG is above {high:.4g}" in doubts[0]


def test_too_few_scores_are_not_doubted() -> None:
    ranked = [(Path("a.png"), 100.0), *((Path(f"{n}.png"), 1.0) for n in range(LEAST - 2))]
    assert doubts_of(calibrate([score for _, score in ranked], 0.2), ranked) == ()


@pytest.mark.parametrize("strange", [0, 2])
@pytest.mark.parametrize(("rejected", "refused"), [(2, False), (5, False), (6, True), (20, True)])
def test_more_rejects_than_a_kept_rate_explains_need_a_yes(rejected: int, refused: bool, strange: int) -> None:
    """The old model states 1 % on average and 3 % at most; 6 of 50 are rarer than 1 in 100, by score or by the guard."""
    old = calibrate(range(100), 0.01)
    above = rejected - strange
    scores = [99.5 + n / 100 for n in range(above)] + [float(n) for n in range(50 - above)]
    ranked = tuple(sorted(((Path(f"{n}.png"), score) for n, score in enumerate(scores)), key=lambda each: -each[1]))
    foreign = {Path(f"{n}.png") for n in range(50 - strange, 50)}  # whatever their score
    fresh = Scored(calibrate(scores, 0.05), (), ranked)
    if refused:
        with pytest.raises(DataError, match=f"{rejected} of 50 pictures were NG before, and 3 % at most were expected"):
            compared(old, fresh, foreign, yes=False, asked=True)
    (line,) = compared(old, fresh, foreign, yes=refused, asked=True)
    assert line.endswith(f"; {rejected} of 50 pictures were NG before")


def scored_of(scores: Sequence[float], rate: float) -> Scored:
    ranked = sorted(((Path(f"{n:02d}.png"), score) for n, score in enumerate(scores)), key=lambda each: -each[1])
    return Scored(calibrate(scores, rate), (), tuple(ranked))


def test_defects_that_lift_the_limit_far_need_a_yes_where_few_pictures_stand_behind_the_old_one() -> None:
    """12 pictures bound the old rate so loosely (22 %) that 18 rejects of 78 might be chance; a limit far above is none."""
    old = calibrate(np.linspace(20, 51.6, 12).tolist(), 1 / 13)
    good, defects = np.linspace(20, 51, 60).tolist(), np.linspace(60, 95, 18).tolist()
    mixed = scored_of([*good, *defects], 1 / 26)
    assert mixed.calibration.threshold == pytest.approx(90.9, abs=0.1)  # the 3rd of 78
    with pytest.raises(DataError) as refused:
        compared(old, mixed, set(), yes=False)
    assert str(refused.value) == (
        "18 of 78 pictures were NG before, and 7.7 % were expected of good parts; the NG limit moves from 51.6 to 90.88. "
        "Look at 77.png, 76.png, 75.png first; remove those that are not good, or add --yes if all are good."
    )
    assert compared(old, mixed, set(), yes=True) == ["NG limit moves from 51.6 to 90.88; 18 of 78 pictures were NG before"]
    # As many as are expected, and two more: a limit that such pictures lift is one of good parts.
    for rejects, asked in ((5, True), (8, True), (9, False)):
        some = scored_of([*good, *defects[-rejects:], *good[: 18 - rejects]], 1 / 26)
        if asked:
            assert compared(old, some, set(), yes=False)
        else:
            with pytest.raises(DataError, match=r"9 of 78 pictures were NG before, and 7\.7 % were expected"):
                compared(old, some, set(), yes=False)
    # A limit that stays where it was, whatever number of pictures lay above.
    near = scored_of([*good, *np.linspace(51.7, 53, 18)], 1 / 26)
    assert compared(old, near, set(), yes=False)


def test_fewer_pictures_than_before_need_a_yes() -> None:
    old = calibrate(range(60), 1 / 61)
    for scores, words in (
        ([30.0], r"^1 calibration picture cannot state .* rate, and the 60 calibration pictures so far state 1\.7 %; "),
        (range(30), r"^The .* rise from 1\.7 % \(60 calibration pictures\) to 3\.3 % \(30 calibration pictures\); "),
    ):
        fewer = scored_of([float(score) for score in scores], 1 / (1 + len(scores)))
        with pytest.raises(DataError, match=f"{words}give more pictures of good parts, or add --yes"):
            compared(old, fewer, set(), yes=False)
        assert compared(old, fewer, set(), yes=True)
    asked = scored_of([float(n) for n in range(30)], 0.1)
    assert compared(old, asked, set(), yes=False, asked=True)  # a higher rate, as wished
    with pytest.raises(DataError, match="1 calibration picture cannot state"):
        compared(old, scored_of([30.0], 0.5), set(), yes=False, asked=True)
    few = calibrate([1.0, 2.0], 0.5)
    assert compared(few, scored_of([1.0, 1.5], 0.5), set(), yes=False)  # no worse than before


# ---- what good pictures are compared by


def test_pixels_where_outside_weights_are_forbidden_else_a_networks_features(washers: Path) -> None:
    picture = read_picture(sorted((washers / "train" / "good").iterdir())[0]).pixels
    image = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    features, name = features_for(False)
    assert (features, name) == (pixel_features, "pixels")
    assert pixel_features(image).shape == (1, 48 + 3, 4, 4)
    features, name = features_for(True)
    assert name == "features of lite0"
    with torch.inference_mode():
        found, again = features(image), features(image.clone())
    assert found.shape[0] == 1
    assert found.shape[-2] == found.shape[-1]
    assert torch.equal(found, again)
    assert bool(torch.isfinite(found).all())


@given(st.integers(0, 2**32 - 1), st.floats(-0.5, 0.5))
@settings(deadline=None, max_examples=20)
def test_light_moves_the_means_alone_and_a_shift_by_a_cell_moves_the_cells(seed: int, light: float) -> None:
    image = torch.from_numpy(np.random.default_rng(seed).random((1, 3, 48, 64), np.float32))
    plain, brighter = pixel_features(image), pixel_features(image + light)
    torch.testing.assert_close(brighter[:, :48], plain[:, :48], atol=1e-5, rtol=0)
    torch.testing.assert_close(brighter[:, 48:], plain[:, 48:] + light, atol=1e-5, rtol=0)
    torch.testing.assert_close(pixel_features(image.roll((16, 32), (2, 3))), plain.roll((1, 2), (2, 3)))
    torch.testing.assert_close(plain[:, :48].unflatten(1, (3, 16)).sum(dim=2), torch.zeros(1, 3, 3, 4), atol=1e-4, rtol=0)


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=20)
def test_features_are_scaled_to_a_deviation_of_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    patches = [torch.from_numpy(rng.standard_normal((n, 3)) * [1.0, 10.0, 0.1] + 5).float() for n in (4, 9, 30)]
    scaled = torch.cat(patches) * questions._scale(patches)
    np.testing.assert_allclose(scaled.double().std(dim=0, correction=0), 1, rtol=1e-4)
    still = questions._scale([torch.zeros(5, 2)])
    assert bool(torch.isfinite(still).all())


@given(st.lists(st.lists(st.integers(0, 19), max_size=4), max_size=5), st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_no_group_is_ever_cut(groups: list[list[int]], seed: int) -> None:
    paths = [Path(f"{n:02d}") for n in range(20)]
    dealt = questions._folds(paths, [[paths[n] for n in dict.fromkeys(group)] for group in groups], seed)
    assert set(dealt) <= set(range(questions.FOLDS))
    if sum(len(set(group)) for group in groups) == len({n for group in groups for n in group}):  # none shares a picture
        for group in groups:
            assert len({dealt[n] for n in group}) <= 1


@pytest.fixture(scope="module")
def plan(washers: Path, tmp_path_factory: pytest.TempPathFactory) -> planning.Plan:
    """A tiny fit on the washers, as it is planned."""
    told = {"method": "draem", "steps": 2, "size": 64, "settings": dataclasses.asdict(METHODS["draem"].tiny)}
    return planning.plan(Request(washers, tmp_path_factory.mktemp("plan") / "m", trunk="", **told))


def test_good_washers_are_all_compared_and_ranked(plan: planning.Plan) -> None:
    by_pixels = dataclasses.replace(plan, request=dataclasses.replace(plan.request, trunk="none"))
    seen: list[int] = []
    found = screened(by_pixels, lambda done, total: seen.append(done))
    assert seen == list(range(1, 25))
    assert {path for path, _ in found.scores} == {entry.path for entry in (*plan.train, *plan.held)}
    values = [score for _, score in found.scores]
    assert values == sorted(values, reverse=True)
    assert min(values) > 0
    assert found.features == "pixels"
    assert screened(by_pixels).scores == found.scores
    few = screened(dataclasses.replace(by_pixels, train=plan.train[: LEAST - 2], held=plan.held[:1]))
    assert few.limit is None
    assert few.lines() == [f"{LEAST - 1} good pictures are too few to tell which of them are unlike the others"]


# ---- what a model folder holds


def test_the_content_says_what_was_fitted_to_what(plan: planning.Plan) -> None:
    net, _ = planning.new_net(plan)
    asked = {"false_alarm": 0.2, "roi": Path("/line/roi.png"), "strict": True, "settings": {"batch": 2}, "workers": 3}
    request = Request(plan.request.data, plan.request.out, method="padim", seed=4, trunk="net/w.safetensors", **asked)
    assert contents.asked_of(request) == {
        "false_alarm": 0.2,
        "roi": "PATH",
        "strict": True,
        "trunk": "PATH",
        "settings": {"batch": 2},
    }
    assert contents.asked_of(Request(plan.request.data, plan.request.out, roi=Path("auto"), trunk="none")) == {
        "roi": "auto",
        "trunk": "none",
    }
    history: list[dict[str, Any]] = [{"stage": "a", "step": 1}, {"stage": "a", "step": 7}, {"stage": "b", "step": 3}]
    content = contents.content_of(plan, net, history, 12.345, ["a note"])
    told = json.loads(json.dumps(content.config, allow_nan=False))
    assert (told["method"], told["seed"], told["canvas"]) == ("draem", 0, [64, 64])
    assert told["flawforge_version"] == __version__
    assert told["settings"] == json.loads(json.dumps(dataclasses.asdict(plan.settings)))
    assert (told["init"], told["trunk"], told["tile"], told["align"], told["screening"]) == (None,) * 5
    training = told["training"]
    assert (training["pictures"], training["held_back"]) == (len(plan.train), len(plan.held))
    assert (training["steps"], training["seconds"]) == (10, 12.3)  # the last step of each stage
    assert training["fingerprints"] == sorted(fingerprint(entry.path) for entry in plan.train)
    assert known(told).trained_on([entry.path for entry in (*plan.train, *plan.held)]) == [e.path for e in plan.train]
    assert [Path(path) for path in told["held_back"]] == [entry.path.resolve() for entry in plan.held]
    assert told["notes"][0] == "a note"
    weights = load(content.tensors)
    assert weights.keys() == net.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_that_trains_says_on_what(plan: planning.Plan, name: str) -> None:
    method = METHODS[name]
    own = dataclasses.replace(plan, method=method, settings=method.tiny)
    net = planning.seeded(method.build, method.tiny, 0)
    forgers = contents.trained_on(own, net)
    assert len(set(forgers)) == len(forgers)
    trains = any(isinstance(stage, Train) for stage in method.stages(net, method.tiny))
    if not trains:
        assert forgers == ()
    if forgers:
        assert trains
    training = contents.content_of(own, net, [], 0.0, []).config["training"]
    assert (training["forgers"], bool(training["forger"])) == ([*forgers], bool(forgers and method.forger))
