"""The guided segmenter and its gate: hand-sized arrays, other people's statistics, and the road through `fit`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import average_precision_score

from flawforge import fitting
from flawforge.fitting import engine
from flawforge.judging import loading
from flawforge.methods import METHODS, auto
from flawforge.nn import gate, guided
from flawforge.nn.head_start import recipe
from flawforge.types import Batch, Collect, ModelError, ScoreRule, Train
from flawforge_runtime.maps import picture_score

TINY = METHODS["auto"].tiny


def pictures(n: int, seed: int = 0, size: int = 32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    part = np.random.default_rng(9).random((1, 3, size, size)).astype(np.float32)
    return np.clip(part + 0.05 * rng.standard_normal((n, 3, size, size)).astype(np.float32), 0, 1)


def looked(clean: np.ndarray, config: guided.Config = TINY) -> guided.Guided:
    """A net whose statistics are fitted, and nothing else."""
    net = fitting.seeded(guided.Guided, config, 0)

    def batches() -> Iterator[Batch]:
        for start in range(0, len(clean), 4):
            x = clean[start : start + 4]
            one = np.ones_like(x[:, :1])
            yield Batch(x, x, one * 0, one, np.arange(start, start + len(x)))

    def never(stage: int, step: int) -> Batch:
        raise AssertionError("a Collect stage forges nothing")

    early = [stage for stage in auto.stages(net, config) if isinstance(stage, Collect)][:5]
    engine.fit(net, early, never, engine.Budget(steps=1), engine.Run(device="cpu"), clean=batches)
    return net


def test_a_forged_region_that_no_statistic_sees_teaches_nothing() -> None:
    mask, valid = torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    mask[0, 0, :3, :3], mask[0, 0, 5:, 5:], valid[0, 0, 7, 0] = 1, 1, 0
    fused, clean = torch.full((2, 1, 8, 8), 4.0), torch.full((2, 1, 8, 8), 4.0)
    fused[0, 0, 1, 1] = 8.0  # the first region rises by four nats at one place, the second not at all
    weights = guided.learnable(fused, clean, mask, valid, nats=3.0)
    assert bool((weights[0, 0, :3, :3] == 1).all())
    assert bool((weights[0, 0, 5:, 5:] == 0).all())
    assert float(weights[0].sum()) == 64 - 9 - 1
    assert bool((weights[1] == 1).all())
    assert bool((guided.learnable(fused, clean, mask, valid, nats=5.0)[0] * mask[0] == 0).all())


def test_average_precision_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    maps, mask = rng.standard_normal((3, 500)), rng.random(500) < 0.1
    found = gate.average_precision(torch.from_numpy(maps), torch.from_numpy(mask))
    np.testing.assert_allclose(found, [average_precision_score(mask, row) for row in maps], rtol=1e-9)


def test_average_precision_among_good_pictures_is_scikit_learns_of_all_of_them() -> None:
    """Ties included: values are whole numbers. Each value of a good picture stands for two."""
    rng = np.random.default_rng(4)
    maps, mask, good = rng.integers(0, 9, (2, 60)) + 0.0, rng.random(60) < 0.2, rng.integers(0, 8, (2, 40)) + 0.0
    quiet = torch.from_numpy(np.sort(good, axis=1))
    found = gate.average_precision(torch.from_numpy(maps), torch.from_numpy(mask), quiet, 2)
    labels = np.concatenate([mask, np.zeros(80, bool)])
    rows = [np.concatenate([row, more, more]) for row, more in zip(maps, good, strict=True)]
    expected = [average_precision_score(labels, row) for row in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_map_that_flares_on_good_pictures_loses_its_gain() -> None:
    """In the forged picture alone the segmenter is perfect; one good picture has a spot that is brighter than the defect."""
    net = looked(pictures(12))
    net.unit[:] = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    clean, forged = torch.zeros(2, 32, 32), torch.zeros(2, 32, 32)
    forged[0, :4, :4], forged[0, 20:, 20:], forged[1, :4, :4] = 2.0, 1.0, 5.0  # statistics: right, and a little wrong
    valid = torch.ones(32, 32, dtype=torch.bool)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :4, :4] = 1
    batch = Batch(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32), mask, torch.ones_like(mask), torch.tensor([0]))
    net.both = lambda images, folds=None, inner=None: (forged[:1], forged[1:])  # type: ignore[method-assign]

    def precision(flare: float) -> list[float]:
        spotted = clean.clone()
        spotted[1, 10:14, 10:14] = flare
        net.reserved = [(clean, valid), (spotted, valid)]
        proof = gate.begin(net, 0.01)
        gate.prove(net, proof, batch, 0.01)
        return [float(each) for each in proof.rows[0][1][1]]

    assert precision(0.0)[:2] == pytest.approx([1.0, 1.0])
    statistics, segmenter, _ = precision(9.0)
    assert statistics == pytest.approx(1.0)
    assert segmenter < 0.7


def test_the_gate_looks_at_a_bounded_even_share_of_the_kept_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guided, "RESERVED", 3)
    x = pictures(24)
    net, kept = looked(x), guided.Reserved()
    for i, picture in enumerate(x):
        one = torch.ones(1, 1, 32, 32)
        good = torch.from_numpy(picture)[None]
        guided.look_at_units(net, kept, Batch(good, good, one * 0, one, torch.tensor([i])))
    assert sorted(kept.places) == [0, 8, 16]  # of 0, 2 .. 22, the first of two folds
    resumed = guided.Guided(TINY)
    resumed.load_state_dict(net.state_dict())
    assert int(resumed.first) == 12  # a fit that is resumed takes the same share
    older = net.state_dict()
    del older["first"]
    guided.Guided(TINY).load_state_dict(older)
    assert len(kept.maps) == 3
    few, many, more = (guided.units_demand(net, (32, 64), count).memory_bytes for count in (2, 6, 600))
    assert (3 * few, more) == (many, many)


def test_a_folds_pixels_are_judged_by_a_reference_that_never_saw_them() -> None:
    x = pictures(5)
    net = looked(x)
    half = torch.from_numpy(x.reshape(5, 3, 16, 2, 16, 2).mean(axis=(3, 5))).double()
    folds = TINY.folds
    for fold in range(folds):
        others = half[[i for i in range(5) if i % folds != fold]]
        torch.testing.assert_close(net.fold_mean[fold], others.mean(dim=0).float(), rtol=0, atol=1e-6)
        expected = (others.var(dim=0) + (2 / 255) ** 2).sqrt().float()
        torch.testing.assert_close(net.fold_deviation[fold], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(net.mean, half.mean(dim=0).float(), rtol=0, atol=1e-6)
    own = net.look(torch.from_numpy(x), [i % folds for i in range(5)]).picture
    known = net.look(torch.from_numpy(x)).picture
    maps = len(net.stats.branches)
    assert float(own[:, maps : maps + 3].abs().mean()) > float(known[:, maps : maps + 3].abs().mean())


def test_the_gate_scores_pictures_as_judging_does() -> None:
    rng = np.random.default_rng(1)
    surface, valid = rng.standard_normal((64, 48)).astype(np.float32), rng.random((64, 48)) < 0.8
    expected, _ = picture_score(surface, 0.0, valid, ScoreRule("top", top=0.01))
    found = gate.top_mean(torch.from_numpy(surface)[None], torch.from_numpy(valid), 0.01)
    assert float(found[0]) == pytest.approx(expected, rel=1e-6)


def test_least_gain_is_the_lower_end_of_students_interval() -> None:
    values = np.random.default_rng(2).random((12, 3))
    found = gate.least_gains(values)
    for place in (1, 2):
        interval = stats.ttest_1samp(values[:, place] - values[:, 0], 0.0).confidence_interval(0.90)
        assert found[place] == pytest.approx(interval.low)


def decided(rows: np.ndarray) -> list[list[float]]:
    """The weights that the gate gives for proof rows pictures 2 3 (picture and map by candidates)."""
    net = guided.Guided(TINY)
    gate.decide(net, [(index, torch.from_numpy(row)) for index, row in enumerate(rows)])
    return net.use.tolist()


def test_the_gate_takes_a_sure_gain_and_no_other() -> None:
    rng = np.random.default_rng(3)
    base = rng.random((10, 2, 1)) * 0.2 + 0.5
    sure = np.concatenate([base, base + 0.05, base + 0.1], axis=2) + 0.005 * rng.standard_normal((10, 2, 3))
    assert decided(sure) == [[1.0, 1.0], [1.0, 1.0]]  # the sum gains most
    assert decided(sure[..., [0, 2, 1]]) == [[1.0, 1.0], [1.0, 1.0]]  # the segmenter gains more, and is no candidate
    assert decided(sure[..., [1, 2, 0]]) == [[1.0, 0.0], [1.0, 0.0]]
    assert decided(sure[..., [2, 1, 0]]) == [[1.0, 0.0], [1.0, 0.0]]  # the statistics are best
    mixed = sure.copy()
    mixed[:, 0, 1:] = mixed[:, 0, :1] + 0.3 * rng.standard_normal((10, 2))  # for the picture, only noise
    assert decided(mixed) == [[1.0, 0.0], [1.0, 1.0]]
    assert decided(sure[:2]) == [[1.0, 0.0], [1.0, 0.0]]  # two pictures prove nothing


def test_a_fold_is_judged_by_gaussians_that_never_saw_it() -> None:
    """Twins, one in either fold: the Gaussians without fold 0 and without fold 1 have then seen the same pictures."""
    single = pictures(6)
    net = looked(np.repeat(single, 2, axis=0))
    for branch in net.stats.parts():
        np.testing.assert_allclose(branch.fold_centre[0], branch.fold_centre[1], atol=1e-4)
        assert not torch.allclose(branch.fold_factor[0], branch.factor)  # six pictures are not twelve
    other = looked(pictures(12))
    x = torch.from_numpy(pictures(12))
    own = [i % 2 for i in range(12)]
    unseen, known = other.stats.surprises(x, own).mean(), other.stats.surprises(x).mean()
    assert float(unseen) > float(known)  # a picture is stranger to Gaussians that it did not help to make


def test_before_training_the_segmenter_says_what_the_statistics_say() -> None:
    net = looked(pictures(12))
    for parameter in net.unet.out.parameters():
        torch.nn.init.zeros_(parameter)
    torn = pictures(1, seed=7)
    torn[0, :, 10:16, 10:16] = 1 - torn[0, :, 10:16, 10:16]
    statistics, segmenter = (each.detach().numpy().ravel() for each in net.eval().both(torch.from_numpy(torn)))
    assert stats.spearmanr(statistics, segmenter).statistic > 0.999


def request(washers: Path, out: Path, **options: Any) -> fitting.Request:
    settings = dataclasses.asdict(TINY) | options.pop("settings", {})
    return fitting.Request(washers, out, method="auto", steps=6, size=64, settings=settings, checkpoint_every=0, **options)


def test_a_model_is_there_before_training_and_a_stopped_fit_goes_on_to_the_same_bits(washers: Path, tmp_path: Path) -> None:
    fitting.run(request(washers, tmp_path / "whole"))
    seen: list[str] = []

    def stop(tick: engine.Tick) -> None:
        if tick.stage == "segmenter" and tick.step == 3:
            early = loading.load(tmp_path / "cut")
            seen.extend(early.content.config["notes"] if early.content else [])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitting.run(request(washers, tmp_path / "cut"), on_tick=stop)
    assert any("before training" in note for note in seen)
    picture = next((washers / "test" / "good").iterdir())
    assert loading.load(tmp_path / "cut")(picture).verdict in ("OK", "REVIEW", "NG")
    fitting.run(request(washers, tmp_path / "cut"), resume=True)
    whole, cut = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut
    card = (tmp_path / "cut" / "README.md").read_text()
    assert "for the picture" in card
    assert "for the map" in card
    assert "gain over the statistics" in card
    assert not (tmp_path / "cut.fitting").exists()


def test_the_model_holds_no_folds_and_judges_as_it_did_when_it_was_saved(washers: Path, tmp_path: Path) -> None:
    for use in ("sum", "segmenter", "statistics"):
        made = fitting.run(request(washers, tmp_path / use, settings={"use": use}))
        loaded = loading.load(tmp_path / use)
        picture = next((washers / "test" / "good").iterdir())
        assert made(picture).pred_score == loaded(picture).pred_score
        from safetensors.torch import load_file

        tensors = load_file(tmp_path / use / "model.safetensors")
        assert all(each.numel() == 0 for name, each in tensors.items() if ".fold_" in name)
        assert tensors["use"].tolist() == [list(guided.USES[use])] * 2


def test_statistics_stand_where_there_are_too_few_pictures_for_a_gate(washers: Path, tmp_path: Path) -> None:
    stages_seen: set[str] = set()
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted((washers / "train" / "good").iterdir())[:5]:
        (few / path.name).write_bytes(path.read_bytes())
    made = fitting.run(request(few, tmp_path / "model"), on_tick=lambda tick: stages_seen.add(tick.stage))
    assert "segmenter" not in stages_seen
    assert made.content is not None
    assert "for the picture the statistics alone" in made.content.config["notes"]
    forecast = fitting.forecast(
        fitting.plan(request(few, tmp_path / "none")), fitting.load_pictures(fitting.plan(request(few, tmp_path / "none")))
    )
    assert forecast.steps == 0
    # A segmenter that nobody trained is not summed in, whatever the settings say.
    asked = fitting.run(request(few, tmp_path / "sum", settings={"use": "sum"}))
    assert asked.content is not None
    assert "for the picture the statistics alone" in asked.content.config["notes"]


def test_the_segmenter_never_sees_the_pictures_of_the_gate() -> None:
    net = guided.Guided(METHODS["auto"].profiles["cpu"])
    drawn = {
        stage.name: stage.draw
        for stage in auto.stages(net, METHODS["auto"].profiles["cpu"])
        if not isinstance(stage, Collect)
    }
    taught, proved = drawn["segmenter"], drawn["gate"]
    assert taught is not None
    assert proved is not None
    for count in (15, 16, 99, 500):
        assert set(taught(count)).isdisjoint(proved(count))
        assert set(taught(count)) | set(proved(count)) == set(range(count))
    assert taught(10) == proved(10) == []


def test_the_shipped_weights_are_those_of_the_recipe_and_fit_the_default() -> None:
    config = METHODS["auto"].profiles["cpu"]
    assert recipe()["form"] == json.loads(json.dumps({name: getattr(config, name) for name in guided.FORM}))
    assert recipe()["photographs"] == 0
    first, second = (fitting.seeded(guided.Guided, config, seed) for seed in (0, 1))
    for name, value in first.unet.state_dict().items():
        assert torch.equal(value, second.unet.state_dict()[name])  # nothing is left to the seed
    bare = fitting.seeded(guided.Guided, dataclasses.replace(config, head_start=False), 0)
    assert not torch.equal(bare.unet.out.weight, first.unet.out.weight)
    # Six maps of another meaning are as strange to these weights as another width.
    for other in (dataclasses.replace(config, width=8), dataclasses.replace(config, normalised=(1, 2, 4, 8), raw=(1, 2))):
        assert torch.equal(
            fitting.seeded(guided.Guided, other, 3).unet.out.weight,
            fitting.seeded(guided.Guided, dataclasses.replace(other, head_start=False), 3).unet.out.weight,
        )


def test_shipped_weights_that_were_damaged_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = recipe()
    monkeypatch.setattr("flawforge.nn.head_start.recipe", lambda: {**made, "sha256": made["sha256"][::-1]})
    with pytest.raises(ModelError, match=r"The weights that ship with flawforge are damaged; install flawforge again\."):
        guided.Guided(METHODS["auto"].profiles["cpu"])


def test_minutes_leave_room_for_looking_and_proving() -> None:
    train = Train("a", [])
    stages = auto.stages(guided.Guided(TINY), TINY)
    trains = [stage for stage in stages if isinstance(stage, Train)]
    part = engine._part(trains[0], stages, engine.Budget(minutes=10), seconds_looking=60.0)
    assert part.minutes == pytest.approx(7.8)  # a tenth for the gate, a fiftieth for what counts, a minute gone
    assert engine._part(train, [train], engine.Budget(minutes=10), seconds_looking=0.0).minutes == 10
    assert engine._part(trains[0], stages, engine.Budget(minutes=1), seconds_looking=600.0).minutes == pytest.approx(0.1)
    assert engine._part(trains[0], stages, engine.Budget(steps=7), seconds_looking=60.0).steps == 7
