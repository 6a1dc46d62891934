"""SGSF: retrieval and losses with pictures small enough to reason about, and full fits on ten good parts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from flawforge import fitting
from flawforge.config import settings_from_dict
from flawforge.demo.washers import write_demo_parts
from flawforge.fitting import engine
from flawforge.forge.salient import SaliencyPerlin
from flawforge.judging import loading
from flawforge.methods import METHODS, sgsf
from flawforge.methods.sgsf import METHOD, PAPER, TINY, Config, GuidedUNet, Sgsf, loss, score_rule
from flawforge.types import Batch, Collect, ConfigError, Init, ScoreRule


def flat(*colours: tuple[float, float, float], side: int = 64) -> Tensor:
    """Pictures n 3 side side of one colour each."""
    return torch.tensor(colours)[:, :, None, None].expand(-1, -1, side, side).clone()


def batch_of(clean: Tensor, forged: Tensor | None = None, first: int = 0) -> Batch:
    """A batch whose mask is where forged and clean differ; its pictures' indices run from `first`."""
    forged = clean if forged is None else forged
    mask = (forged != clean).any(dim=1, keepdim=True).float()
    return Batch(forged, clean, mask, torch.ones_like(mask), torch.arange(first, first + len(clean)))


def with_references(pictures: Tensor, config: Config = TINY) -> Sgsf:
    """A net whose references were chosen from these good pictures, in batches of two."""
    torch.manual_seed(0)
    net = Sgsf(config)
    for look in sgsf.stages(net, config)[:2]:
        assert isinstance(look, Collect)
        state = look.begin(net)
        for first, part in zip(range(0, len(pictures), 2), pictures.split(2), strict=True):
            look.visit(net, state, batch_of(part, first=first))
        look.finish(net, state)
    return net.eval()


PRIMARIES = ((0.9, 0.1, 0.1), (0.1, 0.9, 0.1), (0.1, 0.1, 0.9))


def test_the_reference_is_the_good_picture_that_looks_most_alike() -> None:
    goods = flat(*PRIMARIES)
    net = with_references(goods)
    torch.testing.assert_close(net.memory.float(), goods, atol=5e-4, rtol=0)
    asked = flat((0.2, 0.5, 0.1), (0.5, 0.2, 0.1), (0.0, 0.1, 0.3))
    assert net.retrieve(asked, 1)[:, 0].tolist() == [1, 0, 2]
    assert net.retrieve(asked, 3)[0].tolist() == [1, 0, 2]  # cosines by hand: .97, .59, .41 of red, ...
    torch.testing.assert_close(net.nearest(asked), net.memory[[1, 0, 2]].float())


def test_brightness_does_not_change_the_reference() -> None:
    net = with_references(flat(*PRIMARIES))
    dim = flat((0.06, 0.2, 0.04))
    torch.testing.assert_close(net.retrieve(dim, 3), net.retrieve(3 * dim, 3))


def test_a_small_flaw_does_not_change_the_reference_and_its_place_matters() -> None:
    """The features keep where things are: a bar on the left finds the good picture with a bar on the left."""
    left, right = torch.full((3, 64, 64), 0.2), torch.full((3, 64, 64), 0.2)
    left[:, :, :24], right[:, :, 40:] = 0.8, 0.8
    net = with_references(torch.stack([left, right]))
    flawed = torch.stack([left, right])
    flawed[:, :, 28:36, 28:36] = 1.0
    assert net.retrieve(flawed, 1)[:, 0].tolist() == [0, 1]


def test_in_training_a_picture_is_never_its_own_reference() -> None:
    goods = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    net = with_references(goods)
    forged = goods.clone()
    forged[:, :, :8, :8] = 1.0
    own = torch.arange(4)
    assert (net.retrieve(forged, 1)[:, 0] == own).all()
    assert (net.retrieve(forged, 3, own) != own[:, None]).all()
    for seed in range(20):
        torch.manual_seed(seed)
        drawn, _, _ = net.contrast(batch_of(goods, forged), 4)
        assert ((drawn - goods).abs().amax(dim=(1, 2, 3)) > 0.1).all()


def test_pictures_that_are_almost_equal_are_no_references_of_themselves_either() -> None:
    """A plain product: two pictures differ by noise of a grey level, and no likeness could tell which one was forged."""
    goods = 0.5 + torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(4)) / 255
    net = with_references(goods, dataclasses.replace(TINY, references=8))
    assert (net.retrieve(goods, 7, torch.arange(8)) != torch.arange(8)[:, None]).all()
    assert float(net.left) > 1.5  # noise explains no noise
    for seed in range(20):
        torch.manual_seed(seed)
        drawn, _, _ = net.contrast(batch_of(goods), 7)
        assert ((drawn - goods).abs().amax(dim=(1, 2, 3)) > 1 / 255).all()


def test_a_varied_copy_of_a_picture_is_not_its_reference() -> None:
    """--tolerate gives several copies of each picture under one index."""
    goods = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    config = dataclasses.replace(TINY, references=6)
    net = Sgsf(config)
    for look in sgsf.stages(net, config)[:2]:
        assert isinstance(look, Collect)
        state = look.begin(net)
        look.visit(net, state, batch_of(goods))
        look.visit(net, state, batch_of((goods + 0.02).clamp(0, 1)))
        look.finish(net, state)
    assert net.whose.tolist() == [0, 1, 2, 0, 1, 2]
    assert not (net.whose[net.retrieve(goods, 4, torch.arange(3))] == torch.arange(3)[:, None]).any()
    for seed in range(20):
        torch.manual_seed(seed)
        drawn, _, _ = net.contrast(batch_of(goods), 6)
        assert ((drawn - goods).abs().amax(dim=(1, 2, 3)) > 0.1).all()


def test_another_fit_shows_what_this_one_decided() -> None:
    for alike, show in ((1.0, "always"), (0.0, "never")):
        net = with_references(flat(*PRIMARIES))
        net.alike.fill_(alike)
        assert sgsf.decided(net, TINY).show == show
    never = dataclasses.replace(TINY, show="never")
    assert sgsf.decided(with_references(flat(*PRIMARIES), never), never) == never


def test_references_are_drawn_from_the_contrast_set_alone() -> None:
    greys = [(g, g, 0.5) for g in (0.1, 0.2, 0.3, 0.4, 0.9)]
    net = with_references(flat(*greys), dataclasses.replace(TINY, references=5))
    asked = flat((0.21, 0.21, 0.5), (0.21, 0.21, 0.5))
    seen = set()
    for seed in range(40):
        torch.manual_seed(seed)
        drawn, valid, _ = net.contrast(batch_of(asked, first=100), 2)
        seen |= {round(float(value), 2) for value in drawn[:, 0, 0, 0]}
        assert valid.eq(1).all()
    assert seen == {0.2, 0.3}  # angles to grey 0.21: 0.2 and 0.3 are the two nearest


def test_one_good_picture_is_its_own_reference_for_want_of_another() -> None:
    goods = flat(PRIMARIES[0])
    drawn, _, _ = with_references(goods).contrast(batch_of(goods), 4)
    torch.testing.assert_close(drawn, goods, atol=5e-4, rtol=0)


def test_without_references_the_neighbour_in_the_batch_stands_in() -> None:
    goods = flat(*PRIMARIES)
    drawn, _, _ = Sgsf(TINY).contrast(batch_of(goods), 4)
    torch.testing.assert_close(drawn, goods[[2, 0, 1]])


def test_choosing_is_greedy_and_covers_every_cluster() -> None:
    """Three directions with 5, 3 and 1 copies: one of each is taken before a second of any, the largest cluster first."""
    keys = torch.eye(3, dtype=torch.float64).repeat_interleave(torch.tensor([5, 3, 1]), dim=0)
    assert sgsf.choose(keys, 3) == [0, 5, 8]
    assert sorted(sgsf.choose(keys, 20)) == list(range(9))


def test_at_most_so_many_references_and_all_where_none_is_said() -> None:
    goods = torch.rand(7, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    assert len(with_references(goods).memory) == TINY.references
    assert len(with_references(goods, dataclasses.replace(TINY, references=0)).memory) == 7
    assert sgsf.spread(5, 9) == [0, 1, 2, 3, 4]
    assert len(sgsf.spread(5000, 1024)) == 1024


def test_the_features_are_the_linear_autoencoder_of_the_good_pictures() -> None:
    """Good pictures on a plane are encoded without loss, and what leaves the plane is not seen."""
    rng = torch.Generator().manual_seed(3)
    basis = torch.rand(2, 3, 32, 32, generator=rng)
    goods = torch.einsum("nk,kchw->nchw", torch.rand(6, 2, generator=rng), basis) / 2
    net = with_references(goods, dataclasses.replace(TINY, references=6))
    assert net.encoder.shape[0] == 2
    small = sgsf.shrink(goods)
    torch.testing.assert_close(small @ net.encoder.T @ net.encoder, small, atol=1e-5, rtol=1e-4)


def test_half_precision_of_the_references_costs_less_than_a_grey_level() -> None:
    goods = torch.rand(2, 3, 32, 32)
    assert float((with_references(goods).memory.float() - goods).abs().max()) < 0.25 / 255


# ---- nets and losses


def test_sizes_of_the_profiles() -> None:
    """paper: DRAEM's 69.0 M of the autoencoder, 28.4 M of the U-Net, and the fusion's convolutions."""
    with torch.device("meta"):
        count = {
            name: sum(p.numel() for key, p in METHOD.build(config).named_parameters() if "trunk." not in key) / 1e6
            for name, config in METHOD.profiles.items()
        }
    own, guides = (64, 128, 256, 512, 512), (128, 128, 256, 512, 1024)
    fusion = sum(9 * (o + g) * o + 3 * o for o, g in zip(own, guides, strict=True)) / 1e6
    assert count["paper"] == pytest.approx(69.0 + 28.4 + fusion, abs=0.1)
    assert 1 < count["cpu"] < 3
    draem = METHODS["draem"].profiles
    for name, config in METHOD.profiles.items():  # draem is compared with a decoder as wide, at the same resolution
        assert (config.segment_width, config.stride) == (draem[name].segment_width, draem[name].stride)


@pytest.mark.parametrize("residual", [False, True])
def test_the_guide_reaches_the_answer_at_every_scale(residual: bool) -> None:
    torch.manual_seed(0)
    net = GuidedUNet(3, 4, 1, (1, 1, 2, 4, 8), residual)
    x = torch.rand(2, 3, 64, 64)
    features = [torch.rand(2, c, 64 >> level, 64 >> level, requires_grad=True) for level, c in enumerate((1, 1, 2, 4, 8))]
    net(x, features).square().sum().backward()
    assert all(each.grad is not None and float(each.grad.abs().max()) > 0 for each in features)


def losses_of(guidance: str, detach: bool = False, **changed: Any) -> tuple[Sgsf, dict[str, Tensor]]:
    config = settings_from_dict(Config, {**dataclasses.asdict(TINY), "guidance": guidance, "detach": detach, **changed})
    goods = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    net = with_references(goods, config) if guidance == "reference" else Sgsf(config)
    net.train()
    forged = goods.clone()
    forged[:, :, :16, :16] = 1 - forged[:, :, :16, :16]
    return net, loss(net, batch_of(goods, forged), config)


@pytest.mark.parametrize(
    ("guidance", "names"),
    [("reference", {"focal", "l2", "ssim"}), ("denoise", {"focal", "l2", "ssim"}), ("none", {"focal"})],
)
def test_what_each_reading_is_trained_on(guidance: str, names: set[str]) -> None:
    net, losses = losses_of(guidance)
    assert set(losses) == names
    assert (net.guide is None) == (guidance == "none")
    assert ("memory" in net.state_dict()) == (guidance == "reference")


@pytest.mark.parametrize("guidance", ["reference", "denoise"])
def test_detach_keeps_the_segmentation_loss_from_the_guide(guidance: str) -> None:
    for detach in (False, True):
        net, losses = losses_of(guidance, detach)
        losses["focal"].backward()
        assert net.guide is not None
        moved = [p.grad is not None and bool(p.grad.abs().max() > 0) for p in net.guide.parameters()]
        assert any(moved) != detach
        assert all(p.grad is not None for p in net.segment.parameters())


def test_the_focal_loss_is_the_textbooks_over_valid_pixels() -> None:
    """Against numbers: logit 0 costs (1/2)^2 log 2 wherever it stands, and what is not valid costs nothing."""
    net = Sgsf(dataclasses.replace(TINY, guidance="none"))
    torch.nn.init.zeros_(net.segment.out.weight)
    assert net.segment.out.bias is not None
    torch.nn.init.zeros_(net.segment.out.bias)
    goods = torch.rand(2, 3, 64, 64)
    batch = batch_of(goods, 1 - goods)
    found = loss(net, batch, dataclasses.replace(TINY, guidance="none"))["focal"]
    assert float(found.detach()) == pytest.approx(0.25 * math.log(2), rel=1e-4)
    bias = torch.zeros(8)
    bias[4:] = 3.0  # the second class' four folded pixels: every pixel is called forged with logit 3
    net.segment.out.bias.data.copy_(bias)
    half = batch.valid.clone()
    half[..., 32:] = 0
    mixed = batch._replace(valid=half, mask=half)
    p = 1 / (1 + math.exp(-3))
    found = loss(net, mixed, dataclasses.replace(TINY, guidance="none"))["focal"]
    assert float(found.detach()) == pytest.approx(-((1 - p) ** 2) * math.log(p), rel=1e-3)


def test_the_reference_is_reconstructed_not_the_forged_picture() -> None:
    """A guide that gives back its input exactly has no loss in the journal's reading, and pays for the flaw in the other."""

    class Mirror(torch.nn.Module):
        def decode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
            return x, [
                torch.zeros(len(x), c, x.shape[2] >> (k + 1), x.shape[3] >> (k + 1)) for k, c in enumerate((2, 2, 4, 8, 16))
            ]

    goods = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    forged = goods.clone()
    forged[:, :, :16, :16] = 1 - forged[:, :, :16, :16]
    expected = {"reference": 0.0, "denoise": float(((forged - goods) ** 2).mean())}
    for guidance, value in expected.items():
        config = settings_from_dict(Config, {**dataclasses.asdict(TINY), "guidance": guidance})
        net = with_references(goods, config) if guidance == "reference" else Sgsf(config)
        net.guide = Mirror()  # type: ignore[assignment]
        found = loss(net, batch_of(goods, forged), config)
        assert float(found["l2"].detach()) == pytest.approx(value, abs=1e-6)


def test_the_segmenter_is_shown_the_good_picture_where_it_is_asked_for() -> None:
    """With the guide's features silent, only what is shown can move the answer."""
    goods = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(6))
    for show in ("always", "alike", "never"):  # random pictures are not alike
        config = settings_from_dict(Config, {**dataclasses.asdict(TINY), "show": show})
        net = with_references(goods, config).train()
        assert net.guide is not None
        for fuse in net.segment.fuse:
            torch.nn.init.zeros_(fuse[1].weight)  # type: ignore[index]
        with torch.no_grad():
            answers = [net.guide_and_segment(goods, source)[1] for source in (goods, goods.flip(0))]
        assert torch.equal(*answers) == (show != "always")


def test_a_reference_is_shown_where_references_are_alike_in_detail() -> None:
    """Energies by hand: noise of deviation s on a common pattern of deviation 1 leaves 2 s^2 / (1 + s^2) of the detail."""
    rng = torch.Generator().manual_seed(7)
    pattern = torch.randn(1, 3, 64, 64, generator=rng)
    for noise, alike in ((0.5, 1.0), (2.0, 0.0)):
        goods = 0.5 + 0.03 * (pattern + noise * torch.randn(4, 3, 64, 64, generator=rng))
        goods += torch.tensor([-0.1, 0.0, 0.1, 0.2])[:, None, None, None]  # light changes nothing
        net = with_references(goods)
        assert float(net.left) == pytest.approx(2 * noise**2 / (1 + noise**2), rel=0.05)
        assert float(net.alike) == alike
        assert ("it is shown" in net.facts()[0]) == bool(alike)
    assert float(with_references(pattern.clamp(0, 1)).left) == 2.0


def test_published_judging() -> None:
    assert score_rule(PAPER) == ScoreRule(reduce="max", smooth=1)
    assert PAPER.show == "never"
    assert not PAPER.residual
    assert (PAPER.guidance, PAPER.forge_share, PAPER.focal_gamma, PAPER.batch, PAPER.references) == (
        "reference",
        0.75,
        2.0,
        16,
        0,
    )
    rates = [sgsf.SCHEDULES[PAPER.schedule](p) for p in (0.0, 0.49, 0.5, 0.7, 0.9)]
    assert rates == pytest.approx([1, 1, 0.1, 0.01, 0.001])


def test_masks_follow_the_settings() -> None:
    assert sgsf.forger(Config(rule="otsu")) == SaliencyPerlin(rule="otsu", spread=1.5, opacity=(0.2, 1.0))
    assert sgsf.forger(PAPER) == SaliencyPerlin(opacity=(0.1, 1.0))
    assert "saliency" not in str(sgsf.forger(Config(masks="perlin"))).lower()
    with pytest.raises(ConfigError, match="guidance"):
        settings_from_dict(Config, {"guidance": "neither"})


@pytest.mark.parametrize("guidance", ["reference", "denoise", "none"])
def test_every_size_is_judged_and_the_score_is_the_maps_highest_pixel(guidance: str) -> None:
    config = settings_from_dict(Config, {**dataclasses.asdict(TINY), "guidance": guidance})
    net = with_references(flat(*PRIMARIES), config) if guidance == "reference" else Sgsf(config).eval()
    for size in ((64, 64), (70, 45), (96, 32)):
        with torch.inference_mode():
            found = net(torch.rand(2, 3, *size))
        assert found.map.shape == (2, *size)
        torch.testing.assert_close(found.score, found.map.flatten(1).amax(dim=1))


def test_the_answer_depends_on_the_reference() -> None:
    goods = torch.rand(2, 3, 64, 64)
    net = with_references(goods).train()  # an untrained net whispers in eval mode
    with torch.inference_mode():
        before = net(goods).map
        torch.testing.assert_close(net(goods).map, before)
        net.memory.copy_((1 - goods).half())
        assert float((net(goods).map - before).abs().max()) > 1e-3


# ---- full fits


@pytest.mark.parametrize("guidance", ["reference", "denoise"])
def test_ten_good_pictures_suffice_and_the_references_travel_with_the_model(guidance: str, tmp_path: Path) -> None:
    root = write_demo_parts(tmp_path / "parts", good=10, test_good=1, per_kind=1, size=64)
    settings = {**dataclasses.asdict(TINY), "guidance": guidance}
    request = fitting.Request(root, tmp_path / "model", method="sgsf", steps=3, size=64, settings=settings)
    fitted = fitting.run(request)
    picture = next((root / "test" / "good").iterdir())
    loaded = loading.load(tmp_path / "model")(picture)
    np.testing.assert_array_equal(loaded.anomaly_map, fitted(picture).anomaly_map)
    stored = loading.load(tmp_path / "model")
    assert stored.about["training"]["pictures"] == 8


def test_a_run_that_was_cut_short_goes_on_to_the_same_bits(washers: Path, tmp_path: Path) -> None:
    def request(name: str) -> fitting.Request:
        return fitting.Request(
            washers,
            tmp_path / name,
            method="sgsf",
            steps=4,
            size=64,
            checkpoint_every=0.0,
            settings=dataclasses.asdict(TINY),
        )

    fitting.run(request("straight"))
    ticks = 0

    def stop(tick: engine.Tick) -> None:
        nonlocal ticks
        ticks += bool(tick.losses)
        if ticks == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitting.run(request("cut"), on_tick=stop)
    fitting.run(request("cut"), resume=True)
    straight, cut = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("straight", "cut"))
    assert straight == cut


def test_the_forecast_counts_steps_without_references(washers: Path, tmp_path: Path) -> None:
    request = fitting.Request(washers, tmp_path / "m", method="sgsf", steps=5, size=64, settings=dataclasses.asdict(TINY))
    plan = fitting.plan(request)
    assert fitting.forecast(plan, fitting.load_pictures(plan)).steps == 5


def test_it_learns_to_mark_what_the_reference_does_not_show() -> None:
    """Sixty steps on stripes with a grey square laid in: most of the square's pixels end above nearly all others."""
    rng = np.random.default_rng(0)
    stripes = torch.linspace(0, 12, 64).sin().mul(0.3).add(0.5).expand(3, 64, 64)
    goods = torch.stack([torch.roll(stripes, int(rng.integers(3)), dims=2) for _ in range(8)])

    def batch(stage: int, step: int) -> Batch:
        draw = np.random.default_rng([stage, step])
        index = draw.integers(8, size=4)
        clean = goods[index].clone()
        forged, mask = clean.clone(), torch.zeros(4, 1, 64, 64)
        for i in range(3):
            y, x = draw.integers(0, 48, 2)
            forged[i, :, y : y + 16, x : x + 16] = float(draw.uniform(0.2, 0.8))
            mask[i, :, y : y + 16, x : x + 16] = 1
        return Batch(forged.numpy(), clean.numpy(), mask.numpy(), np.ones((4, 1, 64, 64), np.float32), index)

    def every() -> Iterator[Batch]:
        return (batch_numpy(part, first) for first, part in zip((0, 4), goods.split(4), strict=True))

    torch.manual_seed(0)
    net = METHODS["sgsf"].build(TINY)
    engine.fit(net, METHODS["sgsf"].stages(net, TINY), batch, engine.Budget(steps=60), engine.Run(workers=0), clean=every)
    held = batch(1, 0)
    with torch.inference_mode():
        found = net(torch.from_numpy(held.forged[:3])).map
    marked = torch.from_numpy(held.mask[:3, 0]) > 0
    assert float(found[marked].median()) > float(found[~marked].quantile(0.95))


def batch_numpy(part: Tensor, first: int = 0) -> Batch:
    return Batch(*(each.numpy() for each in batch_of(part, first=first)[:5]))


# ---- features of a trunk


def tiny_trunk(guidance: str = "both", **changed: Any) -> tuple[Sgsf, Config]:
    """On random weights of a tiny ResNet, whose stages have 4, 8 and 16 channels."""
    config = settings_from_dict(
        Config, {**dataclasses.asdict(TINY), "backbone": "resnet18-tiny", "guidance": guidance, **changed}
    )
    torch.manual_seed(0)
    return Sgsf(config), config


def looked_at(goods: Tensor, guidance: str = "both", **changed: Any) -> tuple[Sgsf, Config]:
    net, config = tiny_trunk(guidance, **changed)
    net.eval()
    with torch.no_grad():
        for look in sgsf.stages(net, config)[:-1]:
            assert isinstance(look, Collect)
            state = look.begin(net)
            for first, part in zip(range(0, len(goods), 2), goods.split(2), strict=True):
                look.visit(net, state, batch_of(part, first=first))
            look.finish(net, state)
    return net, config


def test_the_trunks_features_are_in_their_own_deviations_and_retrieve() -> None:
    goods = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(8))
    net, _ = looked_at(goods, references=6)
    with torch.no_grad():
        looked = net.look(goods)
        assert [tuple(each.shape[1:]) for each in looked] == [(4, 16, 16), (8, 8, 8), (16, 4, 4)]
        raw = net.trunk(goods)
        for each, plain in zip(looked, raw, strict=True):
            values = plain.double().transpose(0, 1).flatten(1)
            spread = values.std(dim=1, correction=0)  # a channel that is dead on all pictures says nothing
            scaled = (plain.double() - values.mean(dim=1)[:, None, None]) / spread.clamp_min(1e-3 * spread.max())[
                :, None, None
            ]
            torch.testing.assert_close(each.double(), scaled, rtol=1e-3, atol=1e-3)
        # The keys are of the trunk's features: the brute-force nearest by cosine among means over 2 x 2 places.
        small = torch.nn.functional.avg_pool2d(looked[-1], 2).flatten(1).double()
        direct = torch.nn.functional.normalize(small, dim=1)
        own = torch.arange(6)
        nearest = (direct @ direct.T - 3 * torch.eye(6)).argmax(dim=1)
        assert torch.equal(net.retrieve(goods, 1, own)[:, 0], nearest)
        assert torch.equal(net.retrieve(goods, 1)[:, 0], own)
        torch.testing.assert_close(net.encode(goods, looked), net.encode(goods))


def test_what_guides_beside_is_the_picture_and_its_distance_from_the_reference() -> None:
    goods = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(9))
    net, _ = looked_at(goods)
    with torch.no_grad():
        looked = net.look(goods)
        for each, given in zip(net.beside(looked, looked), looked, strict=True):
            picture, apart = each.chunk(2, dim=1)
            torch.testing.assert_close(picture, given.clamp(-8, 8))
            assert float(apart.abs().max()) == 0
        far = net.beside(looked, net.look(goods.flip(0)))
        torch.testing.assert_close(far[0][:, 4:], (looked[0] - looked[0].flip(0)).abs().clamp(max=8), rtol=1e-4, atol=1e-4)
    alone, _ = looked_at(goods, "denoise")
    with torch.no_grad():
        assert [each.shape[1] for each in alone.beside(alone.look(goods), [])] == [4, 8, 16]
    assert "memory" not in alone.state_dict()


@pytest.mark.parametrize("most", [4, 3])
def test_features_of_few_references_are_kept_and_those_of_many_are_not(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    goods = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(9))
    net, _ = looked_at(goods)
    monkeypatch.setattr(sgsf, "RECALLED", most)
    with torch.no_grad():
        for _ in range(2):
            drawn, _, other = net.contrast(batch_of(goods.flip(0)), 3, net.look(goods.flip(0)))
            for given, seen in zip(other, net.look(drawn), strict=True):
                torch.testing.assert_close(given, seen, rtol=1e-4, atol=1e-4)
    assert bool(net.recalled) == (most == 4)
    assert not any("recalled" in name for name in net.state_dict())


@pytest.mark.parametrize("backbone", ["", "resnet18-tiny"])
def test_both_guides_restore_the_picture_and_rebuild_the_reference(backbone: str) -> None:
    """A guide that gives back its input has to pay for the flaw of the picture only, half of what is rebuilt."""

    class Mirror(torch.nn.Module):
        def decode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
            sizes = ((2, 1), (2, 2), (4, 3), (8, 4), (16, 5))
            return x, [torch.zeros(len(x), c, x.shape[2] >> k, x.shape[3] >> k) for c, k in sizes]

    goods = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    forged = goods.clone()
    forged[:, :, :16, :16] = 1 - forged[:, :, :16, :16]
    net, config = looked_at(goods, backbone=backbone)
    net.guide = Mirror()  # type: ignore[assignment]
    found = loss(net, batch_of(goods, forged), config)
    assert set(found) == {"focal", "l2", "ssim"}
    assert float(found["l2"].detach()) == pytest.approx(float(((forged - goods) ** 2).mean()) / 2, abs=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_every_part_of_the_guide_reaches_the_answer_and_the_trunk_is_not_trained(stride: int) -> None:
    goods = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(10))
    net, config = looked_at(goods, stride=stride, show="always")
    net.train()
    forged = goods.clone()
    forged[:, :, :16, :16] = 1 - forged[:, :, :16, :16]
    loss(net, batch_of(goods, forged), config)["focal"].backward()
    assert net.guide is not None
    learning = [*net.narrow.parameters(), *net.guide.down.parameters()]
    assert all(each.grad is not None and bool(each.grad.abs().max() > 0) for each in learning)
    assert all(each.grad is None for each in net.trunk.parameters())
    (turn,) = sgsf.stages(net, config)[-1].turns  # type: ignore[union-attr]
    moved = {id(each) for each in turn.parameters(net)}
    assert not moved & {id(each) for each in net.trunk.parameters()}
    assert sgsf.stages(net, config)[-1].frozen == ("trunk",)  # type: ignore[union-attr]


def test_without_a_guide_a_trunk_is_not_looked_at() -> None:
    net, config = tiny_trunk("none")
    assert net.trunk is None
    assert "not looked at" in sgsf.trunk(net, config, Init({}))[0]
    assert len(sgsf.stages(net, config)) == 1


def test_the_default_has_a_trunk_and_both_guides_and_older_models_mean_what_they_meant(washers: Path) -> None:
    made = fitting.plan(fitting.Request(washers, Path("unused"), method="sgsf"))
    assert made.settings == METHOD.profiles["cpu"]
    assert (made.settings.guidance, made.settings.backbone) == ("reference", "lite0")
    assert made.trunk is not None
    none = fitting.plan(fitting.Request(washers, Path("unused"), method="sgsf", trunk="none"))
    assert (none.settings, none.trunk) == (Config(), None)
    assert "trunk" not in " ".join(Sgsf(TINY).state_dict())


@pytest.mark.slow
def test_a_fit_with_a_trunk_resumes_to_the_bit(washers: Path, tmp_path: Path) -> None:
    settings = {"guide_width": 2, "segment_width": 4, "references": 4, "batch": 4}

    def request(name: str) -> fitting.Request:
        return fitting.Request(
            washers, tmp_path / name, method="sgsf", steps=5, size=64, settings=settings, checkpoint_every=0.0
        )

    fitting.run(request("straight"))
    ticks = 0

    def stop(tick: engine.Tick) -> None:
        nonlocal ticks
        ticks += bool(tick.losses)
        if ticks == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitting.run(request("cut"), on_tick=stop)
    fitting.run(request("cut"), resume=True)
    straight, cut = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("straight", "cut"))
    assert straight == cut
