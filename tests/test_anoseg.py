"""AnoSeg: its layer table, its losses by hand, turns that keep to their own weights, collapse, and a kill at any moment."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flawforge import fitting
from flawforge.fitting import engine
from flawforge.judging import loading
from flawforge.methods import anoseg
from flawforge.methods.anoseg import PAPER, TINY, AnoSeg, Config, Decoder, Discriminator
from flawforge.nn import collapse
from flawforge.nn.resnet import ResNet
from flawforge.types import Batch, Init, ModelError, Sample, Train, TrainingError


def millions(net: nn.Module) -> float:
    return sum(p.numel() for p in net.parameters()) / 1e6


def tiny(**changes: Any) -> Config:
    return dataclasses.replace(TINY, **changes)


def built(config: Config) -> AnoSeg:
    net: AnoSeg = fitting.seeded(AnoSeg, config, 0)
    return net


def squares(stage: int, step: int, n: int = 4, side: int = 32) -> Batch:
    """Dim noise; the forgery is a bright square somewhere. A few steps suffice to learn it."""
    rng = np.random.default_rng([stage, step])
    clean = 0.3 + 0.1 * rng.random((n, 3, side, side), dtype=np.float32)
    mask = np.zeros((n, 1, side, side), np.float32)
    for each in mask:
        y, x = rng.integers(0, side - 12, 2)
        each[:, y : y + 12, x : x + 12] = 1
    return Batch(np.where(mask > 0, 1 - 0.2 * clean, clean).astype(np.float32), clean, mask, np.ones_like(mask))


def as_tensors(batch: Batch) -> Batch:
    return Batch(*map(torch.from_numpy, batch[:4]))


def train(net: AnoSeg, config: Config, steps: int, **options: Any) -> list[engine.Tick]:
    ticks: list[engine.Tick] = []
    stages = anoseg.stages(net, config)
    engine.fit(net, stages, squares, engine.Budget(steps=steps), engine.Run(workers=0), on_tick=ticks.append, **options)
    return ticks


def state(net: nn.Module) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in net.state_dict().items()}


def test_layers_of_table_6() -> None:
    """Every row's output, and the sizes that follow: one decoder 10.3 M, the discriminator 12.2 M, ResNet-18 11.2 M."""
    seen: list[tuple[int, ...]] = []

    def watch(net: nn.Module) -> None:
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.register_forward_hook(lambda *given: seen.append(tuple(given[2].shape[1:])))

    with torch.device("meta"):
        decoder, critic, whole = Decoder(512, 128, 3, 1), Discriminator(PAPER), AnoSeg(PAPER)
        watch(decoder)
        assert decoder(torch.empty(1, 512, 8, 8)).shape == (1, 3, 256, 256)
        assert seen == [
            (512, 8, 8),
            (512, 16, 16),
            (256, 16, 16),
            (256, 32, 32),
            (128, 32, 32),
            (128, 64, 64),
            (128, 64, 64),
            (128, 128, 128),
            (128, 128, 128),
            (128, 256, 256),
            (128, 256, 256),
            (3, 256, 256),
        ]
        seen.clear()
        watch(critic)
        logit, features = critic(torch.empty(1, 3, 256, 256), torch.empty(1, 1, 256, 256))
        assert seen == [
            (64, 128, 128),
            (128, 64, 64),
            (256, 32, 32),
            (512, 16, 16),
            (512, 8, 8),
            (512, 4, 4),
            (128, 2, 2),
            (1, 1, 1),
        ]
        assert logit.shape == (1, 1)
        assert features.shape == (1, 2 * 2 * 128)
        sizes = [millions(each) for each in (decoder, critic, whole.maker.encoder)]
        assert sizes == pytest.approx([10.3, 12.2, 11.2], abs=0.06)
        assert [type(each) for each in critic.features if not isinstance(each, nn.LeakyReLU)] == (
            [nn.Conv2d] + [nn.Conv2d, nn.BatchNorm2d] * 6
        )
        assert millions(AnoSeg(Config())) < 10


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_decoder_that_stops_early_still_fills_the_picture(stride: int) -> None:
    assert Decoder(8, 2, 3, stride)(torch.rand(1, 8, 2, 3)).shape == (1, 3, 64, 96)


def test_coordinates_of_two_by_three_pixels() -> None:
    found = anoseg.coordinates(torch.rand(2, 3, 2, 3))
    rows, columns = [[-1, -1, -1], [1, 1, 1]], [[-1, 0, 1], [-1, 0, 1]]
    torch.testing.assert_close(found, torch.tensor([[rows, columns]] * 2, dtype=torch.float32))


def column(*values: float) -> Tensor:
    """n 1 1 2, a picture of two pixels each."""
    return torch.tensor(values).reshape(-1, 1, 1, 2)


def test_losses_of_two_pixels_by_hand() -> None:
    normal, found, ones = column(1, 1, 1, 0), column(0.9, 0.7, 0.6, 0.2), torch.ones(2, 1, 1, 2)
    assert anoseg.segmentation_loss(found, normal, ones) == pytest.approx((0.1 + 0.3 + 0.4 + 0.2) / 4)
    assert anoseg.segmentation_loss(found, normal, column(1, 1, 1, 0)) == pytest.approx((0.1 + 0.3 + 0.4) / 3)
    assert anoseg.segmentation_loss(found, normal, ones, balance=True) == pytest.approx(((0.1 + 0.3 + 0.4) / 3 + 0.2) / 2)
    x, picture = torch.zeros(2, 3, 1, 2), torch.zeros(2, 3, 1, 2)
    picture[0, :, 0, 1], picture[1, :, 0, 1] = 0.5, 99.0  # the second stands on the forged pixel
    assert anoseg.rebuild_loss(picture, x, normal, ones) == pytest.approx(3 * 0.5 / (3 * 3))
    logit = torch.tensor([[0.0], [2.0]])
    d = [0.5, 1 / (1 + np.exp(-2.0))]
    assert anoseg.adversarial_loss(logit, True) == pytest.approx(-np.log(d).mean(), rel=1e-5)
    assert anoseg.adversarial_loss(logit, False) == pytest.approx(-np.log(1 - np.array(d)).mean(), rel=1e-5)
    anomalous, forged = torch.tensor([0.0, 50.0]), torch.tensor([1.0, 0.0])  # the second was left good: it does not count
    expected = -np.log(d).mean() + np.log(2)
    assert anoseg.classification_loss(logit[:, 0], anomalous, forged) == pytest.approx(expected, rel=1e-5)
    assert anoseg.feature_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])) == pytest.approx(2.5)


def test_the_score_by_hand_and_its_sign() -> None:
    """alpha MSE of features + beta MSE of pictures; a map that says "all normal" and a true rebuild score nothing."""
    good, found = torch.tensor([[1.0, 3.0], [1.0, 3.0]]), torch.tensor([[1.0, 3.0], [2.0, 1.0]])
    images, picture = torch.zeros(2, 3, 1, 2), torch.zeros(2, 3, 1, 2)
    picture[1] = 0.5
    score = anoseg.detector_score(good, found, images, picture, PAPER)
    torch.testing.assert_close(score, torch.tensor([0.0, 1.0 * 2.5 + 0.1 * 0.25]))


def test_a_batch_is_seen_good_and_forged_and_one_is_normal() -> None:
    batch = as_tensors(squares(0, 0, n=2))
    x, normal, valid = anoseg.pairs(batch)
    assert torch.equal(x, torch.cat([batch.clean, batch.forged]))
    assert normal[:2].min() == 1
    assert torch.equal(normal[2:], 1 - batch.mask)
    assert valid.shape == normal.shape


@pytest.mark.parametrize("evidence", ["logit", "probability"])
def test_evidence_is_high_where_the_papers_map_is_low(evidence: Any) -> None:
    net = built(tiny(evidence=evidence)).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        _, logit = net.mark(images)
        found = net(images).map
    normal = logit[:, 0].sigmoid()
    torch.testing.assert_close(found if evidence == "probability" else found.sigmoid(), 1 - normal)


def test_outside_the_valid_part_nothing_gives_a_made_pair_away() -> None:
    net = built(tiny()).eval()
    x, normal = torch.rand(1, 3, 32, 32), torch.ones(1, 1, 32, 32)
    nothing = torch.zeros(1, 1, 32, 32)
    with torch.no_grad():
        fake = net.generate(x, normal, nothing)[2]
        real, made = net.discriminate(x, normal)
    assert fake is not None
    torch.testing.assert_close(made, real)
    torch.testing.assert_close(fake, real)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"critic_norm": "batch", "critic_rate": 1.0, "skips": False, "map_stride": 1, "picture_stride": 1},
    {"class_head": True, "balance": False},
    {"coordinates": False},
    {"adversarial": 0.0},
    {"masked": False},
    {"score": "top"},
    {"detector_adversarial": 0.0, "detector_features": 0.0},
    {"schedule": "flat", "rebuild": 0.0, "score": "top"},
    {"backbone": "lite0", "skips": False},
    {"backbone": "lite0", "coordinates": False, "encoder_rate": 0.0, "score": "top"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options) or "tiny")
def test_every_option_trains_and_judges_any_canvas(options: dict[str, Any]) -> None:
    config = tiny(**options)
    net = built(config)
    ticks = train(net, config, 4)
    with torch.no_grad():
        evidence = net(torch.rand(2, 3, 40, 70))
    assert evidence.map.shape == (2, 40, 70)
    assert torch.isfinite(evidence.score).all()
    shown = set().union(*(tick.losses for tick in ticks))
    assert ("critic accuracy" in shown) == (config.adversarial > 0 or config.score == "detector")
    assert {tick.stage for tick in ticks} == {"mark"} | ({"detect"} if config.score == "detector" else set())
    assert net.left == ()
    assert len(net.facts()) == 1


def test_spectral_norm_holds_every_layer_to_one() -> None:
    critic = built(tiny()).critic
    assert critic is not None
    for _ in range(30):  # power iteration settles
        critic(torch.rand(2, 3, 32, 32), torch.rand(2, 1, 32, 32))
    layers = [layer for layer in critic.modules() if isinstance(layer, nn.Conv2d)]
    assert len(layers) == 5
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2) == pytest.approx(1.0, abs=0.05)


def moved(stage: Train, net: AnoSeg, turn: int) -> set[str]:
    """The first parts of the names of weights that one step of one turn moves."""
    before = {key: value.clone() for key, value in net.named_parameters()}
    losses = stage.turns[turn].loss(net, as_tensors(squares(0, 0)))
    optimiser = stage.turns[turn].optimiser(stage.turns[turn].parameters(net))
    optimiser.zero_grad()
    sum(value for value in losses.values() if value.requires_grad).backward()  # type: ignore[union-attr]
    optimiser.step()
    return {key.partition(".")[0] for key, value in net.named_parameters() if not torch.equal(value, before[key])}


def test_each_turn_moves_its_own_weights() -> None:
    net = built(tiny())
    mark, detect = anoseg.stages(net, tiny())
    assert [moved(mark, net, i) for i in (0, 1)] == [{"maker"}, {"critic"}]
    assert [moved(detect, net, i) for i in (0, 1)] == [{"detector"}, {"detector_critic"}]


def test_a_makers_turn_leaves_no_gradient_in_its_critic() -> None:
    net = built(tiny())
    losses = anoseg.generator_losses(net, as_tensors(squares(0, 0)), tiny())
    losses["adversarial"].backward()
    assert net.critic is not None
    assert all(p.grad is None and p.requires_grad for p in net.critic.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in net.maker.mark.parameters())  # type: ignore[union-attr]
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in net.maker.picture.parameters())


def test_the_detector_leaves_the_first_net_as_it_was() -> None:
    """To the bit, batch-norm statistics and spectral vectors included."""
    config = tiny()
    net = built(config)
    _, detect = anoseg.stages(net, config)
    before = state(net)
    engine.fit(net, [detect], squares, engine.Budget(steps=3), engine.Run(workers=0))
    changed = {key.partition(".")[0] for key, value in state(net).items() if value != before[key]}
    assert changed == {"detector", "detector_critic", "detector_watch"}


def test_the_critics_accuracy_by_hand() -> None:
    real, fake = torch.tensor([[1.0], [-1.0]]), torch.tensor([[-2.0], [-3.0]])
    assert anoseg._accuracy(real, fake) == pytest.approx(0.75)


def test_a_look_counts_outlines_and_catches() -> None:
    """A net that answers with the picture's brightness finds every bright square."""

    class Bright(AnoSeg):
        def mark(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return images, -images.mean(dim=1, keepdim=True)

    net = Bright(tiny(score="top"))
    batch = as_tensors(squares(0, 0))
    seen = net.outlined_and_caught(batch.clean, batch.forged, batch.mask, batch.valid)
    assert seen is not None
    assert [float(share) for share in seen] == [1.0, 1.0]
    assert net.training


@pytest.mark.parametrize("evidence", ["logit", "probability"])
@pytest.mark.parametrize("value", [0.0, 1.0, 3.7, -5.0])
def test_a_constant_map_outlines_half_whatever_the_constant(value: float, evidence: Any) -> None:
    """Sums over a small outline and a large surrounding round differently; that must not look like knowledge."""

    class Constant(AnoSeg):
        def mark(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return images, torch.full_like(images[:, :1], value)

    net = Constant(tiny(score="top", evidence=evidence))
    batch = as_tensors(squares(0, 0, n=8, side=64))
    seen = net.outlined_and_caught(batch.clean, batch.forged, batch.mask, batch.valid)
    assert seen is not None
    assert [float(share) for share in seen] == [0.5, 0.5]


def test_a_look_leaves_out_what_was_not_forged() -> None:
    class Bright(AnoSeg):
        def mark(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return images, -images.mean(dim=1, keepdim=True)

    net, batch = Bright(tiny(score="top")), as_tensors(squares(0, 0))
    forged, mask = batch.forged.clone(), batch.mask.clone()
    forged[1:], mask[1:] = batch.clean[1:], 0
    seen = net.outlined_and_caught(batch.clean, forged, mask, batch.valid)
    assert seen is not None
    assert [float(share) for share in seen] == [1.0, 1.0]
    assert net.outlined_and_caught(batch.clean, batch.clean, torch.zeros_like(mask), batch.valid) is None


def test_a_running_mean_of_zero_is_not_taken_for_nothing_seen() -> None:
    watch = collapse.Watch()
    watch.see("outlined", torch.tensor(0.0), 0.9)
    watch.see("outlined", torch.tensor(1.0), 0.9)
    assert float(watch.outlined) == pytest.approx(0.1)


@pytest.mark.parametrize("score", ["top", pytest.param("detector", marks=pytest.mark.slow)])
def test_a_fit_too_short_for_the_watch_is_examined_at_its_end(score: Any) -> None:
    """Two steps with a rate that teaches nothing: the last look stops it. What has learnt passes the same look."""
    config = tiny(score=score, learning_rate=1e-12, check_every=10, patience=500)
    net = built(config)
    assert net.maker.mark is not None
    for parameter in net.maker.mark.parameters():
        nn.init.zeros_(parameter)
    with pytest.raises(TrainingError, match="the map has collapsed: it outlines 50 of 100 forgeries"):
        train(net, config, 2)
    learns = tiny(check_every=10, patience=500, learning_rate=1e-2)
    net = built(learns)
    assert [tick.stage for tick in train(net, learns, 60)][-1] == "last look"


def test_every_setting_of_the_losses_and_stages_reaches_them() -> None:
    batch = as_tensors(squares(0, 0))

    def losses(**changes: Any) -> dict[str, float]:
        config = tiny(**changes)
        with torch.no_grad():
            return {name: float(value) for name, value in anoseg.generator_losses(built(config), batch, config).items()}

    plain = losses()
    assert losses(masked=False)["rebuild"] != plain["rebuild"]
    assert losses(balance=False)["segment"] != plain["segment"]
    assert losses(segment=3.0)["segment"] == pytest.approx(3 * plain["segment"])
    assert losses(rebuild=3.0)["rebuild"] == pytest.approx(3 * plain["rebuild"])
    assert losses(adversarial=0.3)["adversarial"] == pytest.approx(3 * losses(adversarial=0.1)["adversarial"])
    config = tiny(critic_rate=0.25, detector_share=0.2, check_every=1)
    mark, detect, last = anoseg.stages(built(config), config)
    assert isinstance(mark, Train)
    assert isinstance(detect, Train)
    assert (mark.share, detect.share, last.name) == (0.8, 0.2, "last look")
    rates = [turn.optimiser([nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"] for turn in mark.turns]
    assert rates == [config.learning_rate, 0.25 * config.learning_rate]
    assert [turn.schedule(1.0) for turn in mark.turns] == [0.0, 0.0]
    flat = tiny(schedule="flat")
    assert [turn.schedule(1.0) for turn in anoseg.stages(built(flat), flat)[0].turns] == [1.0, 1.0]  # type: ignore[union-attr]
    head = built(tiny(class_head=True)).detector_critic
    assert head is not None
    assert head(batch.clean, batch.mask)[0].shape == (4, 2)


def test_a_fit_that_learns_is_let_through() -> None:
    config = tiny(patience=40, check_every=5, detector_share=0.4, learning_rate=1e-2)
    net = built(config)
    ticks = train(net, config, 80)
    first, last = ticks[0], [tick for tick in ticks if tick.stage == "mark"][-1]
    assert last.losses["segment"] < 0.5 * first.losses["segment"]
    assert net.watch.outlined > 0.9
    assert "the map was higher inside the outline for" in net.facts()[0]
    batch = as_tensors(squares(9, 9, n=8))
    with torch.no_grad():
        good, forged = net(batch.clean), net(batch.forged)
    inside = batch.mask[:, 0] > 0
    assert forged.map[inside].mean() > forged.map[~inside].mean() + 1
    assert (forged.score > good.score).float().mean() > 0.8


@pytest.mark.parametrize(
    ("critic", "cure"), [(0.7, "set a lower learning_rate"), (1.0, "set critic_norm=spectral or a lower critic_rate")]
)
def test_a_constant_map_stops_the_fit_after_its_patience(critic: float, cure: str) -> None:
    """A last layer of zeros says the same of every pixel; the sentence says what to change, by what the critic does."""
    config = tiny(patience=20, check_every=10)
    net, batch = built(config), as_tensors(squares(0, 0))
    assert net.maker.mark is not None
    for parameter in net.maker.mark.end[-1].parameters():
        nn.init.zeros_(parameter)
    net.watch.critic.fill_(critic)
    for _ in range(20):
        assert anoseg.generator_losses(net, batch, config)["outlined"] == pytest.approx(0.5)
    with pytest.raises(TrainingError, match=rf"the map has collapsed: it outlines 50 of 100 .*{cure} with --set"):
        anoseg.generator_losses(net, batch, config)
    unwatched = dataclasses.replace(config, check_every=0)
    anoseg.generator_losses(net, batch, unwatched)


def test_a_constant_score_stops_the_detectors_stage() -> None:
    config = tiny(patience=1, check_every=1, alpha=0.0, beta=0.0)
    net, batch = built(config), as_tensors(squares(0, 0))
    anoseg.detector_losses(net, batch, config)
    with pytest.raises(TrainingError, match="the detector's score has collapsed: it catches 50 of 100 forgeries"):
        anoseg.detector_losses(net, batch, config)


def test_a_collapsed_fit_leaves_no_model(washers: Path, tmp_path: Path) -> None:
    """The whole job, with a rate that lets nothing be learnt: an untrained map outlines forgeries by chance alone."""
    settings = {**dataclasses.asdict(TINY), "learning_rate": 1e-12, "patience": 20, "check_every": 1}
    request = fitting.Request(washers, tmp_path / "m", method="anoseg", steps=200, size=64, settings=settings)
    with pytest.raises(TrainingError, match="has collapsed"):
        fitting.run(request)
    assert not (tmp_path / "m").exists()


def test_forging_can_leave_out_its_parts() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    drawn: dict[str, list[Any]] = {}
    for forging in ("hard", "rotate_permute", "cutpaste"):
        forge = anoseg.forger(tiny(forging=forging))
        drawn[forging] = [forge(Sample(image), np.random.default_rng(seed)).drawn for seed in range(30)]
    assert any(d["jitter"] for d in drawn["hard"])
    assert any(d["rotate"] for d in drawn["rotate_permute"])
    assert not any(d["rotate"] or any(d["halves"]) or d["jitter"] for d in drawn["cutpaste"])
    jittered = {str(anoseg.forger(tiny(forging=each))) for each in ("hard", "rotate_permute")}
    assert len(jittered) == 2


def test_a_trunk_reads_the_picture_and_the_coordinates_join_at_the_end() -> None:
    """Each place of each stage is standardised over its channels; the coordinates of a cell are those of its middle."""
    trunk = anoseg.Trunk("lite0", 2).eval()
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        found = trunk.read(images, anoseg.coordinates(images))
        plain = [each.numpy() for each in trunk(images)[1:]]
    assert [each.shape[1] for each in found] == list(trunk.widths) == [24, 40, 112, 322]
    for mine, theirs in zip(found, plain, strict=True):
        by_hand = (theirs - theirs.mean(1, keepdims=True)) / np.sqrt(theirs.var(1, keepdims=True) + 1e-5)
        np.testing.assert_allclose(mine[:, : theirs.shape[1]], by_hand, atol=1e-4)
    rows, columns = found[-1][0, -2:]
    middle = 2 * 15.5 / 63 - 1
    np.testing.assert_allclose(rows, [[middle] * 3, [-middle] * 3], atol=1e-5)
    np.testing.assert_allclose(columns, [[2 * 15.5 / 95 - 1, 0, 1 - 2 * 15.5 / 95]] * 2, atol=1e-5)


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_a_trunk_learns_on_slowly_or_not_at_all(rate: float) -> None:
    config = tiny(backbone="lite0", encoder_rate=rate, score="top")
    net = built(config)
    (mark,) = anoseg.stages(net, config)
    assert isinstance(mark, Train)
    parameters = mark.turns[0].parameters(net)
    groups = mark.turns[0].optimiser(parameters).param_groups
    assert [group["lr"] for group in groups] == [config.learning_rate, *([rate * config.learning_rate] if rate else [])]
    assert mark.frozen == (() if rate else ("maker.encoder",))
    before = state(net.maker)
    train(net, config, 2)
    changed = {key.partition(".")[0] for key, value in state(net.maker).items() if value != before[key]}
    assert changed == {"picture", "mark", *(["encoder"] if rate else [])}


def test_the_detector_has_a_generator_of_its_own_and_no_trunk() -> None:
    net = built(tiny(backbone="lite0"))
    assert isinstance(net.maker.encoder, anoseg.Trunk)
    assert net.detector is not None
    assert isinstance(net.detector.encoder, ResNet)
    with pytest.raises(ModelError, match="a trunk has its place; add --trunk none, or leave out --init"):
        anoseg.start(net, net.config, Init({}))


def test_the_rate_of_marks_is_the_methods_and_reaches_threshold_and_card(washers: Path, tmp_path: Path) -> None:
    settings = {**dataclasses.asdict(TINY), "mark_rate": 0.5}
    request = fitting.Request(washers, tmp_path / "m", method="anoseg", steps=4, size=64, settings=settings)
    found = fitting.run(request)
    assert found.calibration is not None
    assert found.content is not None
    peaks = found.calibration.peaks
    assert found.calibration.pixel_threshold == peaks[-int(0.5 * (len(peaks) + 1))]
    assert found.calibration.threshold == found.calibration.scores[-1]
    card = (tmp_path / "m" / "README.md").read_text()
    assert "of good parts get a mark on average, whatever the verdict." in card
    loaded = loading.load(tmp_path / "m")
    assert loaded.rule.mark_rate == 0.5
    assert loaded.calibration == found.calibration
    calibration, _ = fitting.recalibrate(tmp_path / "m", washers / "test" / "good", None, None, yes=True)
    assert calibration.mark_rate == 0.5  # thresholds that are set anew keep it
    assert anoseg.score_rule(PAPER).mark_rate is None


def test_the_encoder_starts_from_given_weights_and_knows_no_place_yet() -> None:
    """A file has three channels; the two of the coordinates start at zero, so that the first answers are the file's."""
    net, given = built(tiny()), ResNet("resnet18", width=TINY.encoder_width)
    assert anoseg.start(net, tiny(), Init({f"x.{key}": value for key, value in given.state_dict().items()}))
    found = net.maker.encoder.state_dict()
    assert torch.equal(found["conv1.weight"][:, :3], given.conv1.weight)
    assert found["conv1.weight"][:, 3:].abs().max() == 0
    assert torch.equal(found["layer4.1.conv2.weight"], given.state_dict()["layer4.1.conv2.weight"])
    other = built(tiny())
    anoseg.start(other, tiny(), Init(net.state_dict(), {"method": "anoseg"}))
    assert all(torch.equal(value, found[key]) for key, value in other.maker.encoder.state_dict().items())
    with pytest.raises(ModelError, match="no residual network"):
        anoseg.start(net, tiny(), Init({"x": torch.ones(1)}))


# --- two processes ----------------------------------------------------------------------------------------------------

TWO = """
import sys
import numpy as np, torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from flawforge.methods import anoseg
from flawforge.types import Batch

def batch(*seed):
    rng = np.random.default_rng(seed)
    clean = rng.random((2, 3, 32, 32), dtype=np.float32)
    mask = np.zeros((2, 1, 32, 32), np.float32)
    mask[..., 8:20, 8:20] = 1
    return Batch(*map(torch.from_numpy, (np.where(mask > 0, 1 - clean, clean), clean, mask, np.ones_like(mask))))

strategy = DDPStrategy(find_unused_parameters=True, process_group_backend="gloo")  # a turn moves a part of the net
fabric = Fabric(accelerator="cpu", devices=2, strategy=strategy)
fabric.launch()
torch.manual_seed(0)
net = anoseg.AnoSeg(anoseg.TINY)
for number, stage in enumerate(anoseg.stages(net, anoseg.TINY)):
    for name in stage.frozen:
        net.get_submodule(name).eval().requires_grad_(False)
    wrapped, *optimisers = fabric.setup(net, *(turn.optimiser(turn.parameters(net)) for turn in stage.turns))
    for name in net.forward_methods:
        wrapped.mark_forward_method(name)
    for step in range(2):
        for turn, optimiser in zip(stage.turns, optimisers):
            losses = turn.loss(wrapped, batch(number, step, fabric.global_rank))
            optimiser.zero_grad()
            fabric.backward(sum(value for value in losses.values() if value.requires_grad))
            optimiser.step()
parts = {name: torch.cat([p.detach().flatten() for p in part.parameters()]).numpy() for name, part in net.named_children()
         if list(part.parameters())}
np.savez(f"{sys.argv[1]}/{fabric.global_rank}.npz", **parts)
"""


@pytest.mark.slow
def test_two_processes_learn_as_one(tmp_path: Path) -> None:
    """Each sees other pictures; only if every loss goes through DDP's hook do both end with the same weights."""
    script = tmp_path / "two.py"
    script.write_text(TWO)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (np.load(tmp_path / f"{rank}.npz") for rank in (0, 1))
    untouched = built(tiny())
    assert len(first.files) == 4
    for name in first.files:
        np.testing.assert_array_equal(first[name], second[name])
        before = torch.cat([p.detach().flatten() for p in untouched.get_submodule(name).parameters()]).numpy()
        assert not np.array_equal(first[name], before), name


# --- a kill at any moment ---------------------------------------------------------------------------------------------

KILLED = """
import dataclasses, json, os, signal, sys
from pathlib import Path
from flawforge import fitting
from flawforge.methods import METHODS
data, out, stage, turn, step = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
method, plain = METHODS["anoseg"], METHODS["anoseg"].stages
calls = 0
def bomb(loss):
    def bombed(net, batch):
        global calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss(net, batch)
    return bombed
def stages(net, config):
    made = []
    for each in plain(net, config):
        turns = list(each.turns)
        if each.name == stage:
            turns[turn] = dataclasses.replace(turns[turn], loss=bomb(turns[turn].loss))
        made.append(dataclasses.replace(each, turns=turns))
    return made
METHODS["anoseg"] = dataclasses.replace(method, stages=stages)
settings = json.loads(sys.argv[6])
request = fitting.Request(Path(data), out, method="anoseg", steps=12, size=64, settings=settings, checkpoint_every=0)
checkpoint = fitting.work_folder(out) / "checkpoint.safetensors"
fitting.run(request, resume=checkpoint.exists())
"""


def spawn(data: Path, out: Path, stage: str = "", turn: int = 0, step: int = 0) -> subprocess.Popen[bytes]:
    """A fit of twelve steps that goes on from its checkpoint and ends by its own hand in a turn of `stage`."""
    arguments = [sys.executable, "-c", KILLED, str(data), str(out), stage, str(turn), str(step), json.dumps(TWELVE)]
    return subprocess.Popen(arguments, env={**os.environ, "OMP_NUM_THREADS": "1"})


TWELVE = dataclasses.asdict(tiny(detector_share=0.5))


@pytest.mark.slow
def test_killed_between_two_turns_and_anywhere_it_resumes_to_the_bit(washers: Path, tmp_path: Path) -> None:
    """SIGKILL as the second turn begins, in either stage: the first turn's weights have moved, and that must be lost.

    The third kill comes from outside at a moment drawn anew each time, the writing of a checkpoint included.
    """
    whole = fitting.Request(washers, tmp_path / "whole", method="anoseg", steps=12, size=64, settings=TWELVE)
    fitting.run(whole)
    out = tmp_path / "killed"
    checkpoint = fitting.work_folder(out) / "checkpoint.safetensors"
    moments: list[int] = []
    for stage, step in (("mark", 4), ("detect", 2)):
        assert spawn(washers, out, stage, 1, step).wait(120) == -signal.SIGKILL
        moments.append(checkpoint.stat().st_mtime_ns)
    process = spawn(washers, out)
    while process.poll() is None and checkpoint.exists() and checkpoint.stat().st_mtime_ns == moments[-1]:
        time.sleep(0.002)
    time.sleep(0.1 * np.random.default_rng().random())
    process.kill()
    if process.wait(60):
        assert spawn(washers, out).wait(120) == 0
    assert moments == sorted(set(moments))
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
