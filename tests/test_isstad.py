"""ISSTAD by its parts: losses by hand, scores in an absolute scale, two stages that resume, weights from elsewhere."""

from __future__ import annotations

import dataclasses
import json
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter

from flawforge import fitting
from flawforge.fitting import engine
from flawforge.methods import METHODS
from flawforge.methods.isstad import (
    DEVIATION,
    MEAN,
    PAPER,
    STAGE_ONE,
    STAGE_TWO,
    TINY,
    Config,
    Isstad,
    TrunkPatches,
    blurred,
    classification_loss,
    combined,
    cropped,
    hiding_loss,
    repairing_loss,
    stages,
    start,
)
from flawforge.nn.vit import positions
from flawforge.types import Batch, ConfigError, Init, ModelError, ScoreRule, Train


def tiny(**changes: Any) -> Isstad:
    return fitting.seeded(Isstad, dataclasses.replace(TINY, **changes), 0)  # type: ignore[no-any-return]


def pictures(n: int = 2, h: int = 16, w: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(seed))


def test_published_sizes() -> None:
    """Encoder 303.1 M frozen; decoder blocks 37.8 M, with the embedding and both heads 39.0 M trained."""
    with torch.device("meta"):
        net = Isstad(PAPER)

    def size(part: Any) -> float:
        return sum(p.numel() for p in part.parameters()) / 1e6

    assert size(net.encoder) == pytest.approx(303.1, abs=0.05)
    assert size(net.decoder.blocks) == pytest.approx(37.8, abs=0.05)
    assert size(net) - size(net.encoder) == pytest.approx(39.0, abs=0.05)


@pytest.mark.parametrize("shape", [(16, 24), (17, 30), (8, 8), (3, 50)])
def test_any_canvas_gives_maps_of_its_size(shape: tuple[int, int]) -> None:
    net = tiny().eval()
    with torch.no_grad():
        evidence = net(pictures(2, *shape))
        repaired, logits = net.repair_and_classify(pictures(2, *shape))
    assert evidence.map.shape == (2, *shape)
    assert repaired.shape == (2, 3, *shape)
    assert logits.shape == (2, 2, *shape)  # two decoder blocks, a map after each
    assert evidence.map.isfinite().all()


def test_the_classifier_is_shared_by_the_blocks_or_stands_after_the_last() -> None:
    all_blocks, last = tiny().eval(), tiny(supervise="last").eval()
    torch.testing.assert_close(last.repair_and_classify(pictures())[1], all_blocks.repair_and_classify(pictures())[1][:, 1:])


def test_hiding_loss_by_hand() -> None:
    """A head that says 0 leaves the normalised picture's own mean square, whatever patches are hidden; the border does
    not count, though it is wild."""
    net = tiny()
    with torch.no_grad():
        net.repair.weight.zero_()
    grey = torch.full((2, 3, 16, 24), 0.25)
    valid = torch.ones(2, 1, 16, 24)
    valid[..., 8:] = 0
    grey[..., 8:] = 50.0
    batch = Batch(grey, grey, torch.zeros_like(valid), valid)
    by_hand = sum(((0.25 - mean) / deviation) ** 2 for mean, deviation in zip(MEAN, DEVIATION, strict=True)) / 3
    torch.manual_seed(0)
    losses = [float(hiding_loss(net, batch, net.config)["hidden"].detach()) for _ in range(20)]
    assert max(losses) == pytest.approx(by_hand, rel=1e-5)
    assert all(value == pytest.approx(by_hand, rel=1e-5) or value == 0.0 for value in losses)  # 0: no valid patch hidden


def test_only_hidden_patches_teach_stage_one() -> None:
    """What the head says of patches that were shown does not matter."""
    net = tiny()
    image = pictures(1)
    torch.manual_seed(4)
    guess, wanted, hidden = net.guess_hidden(image)
    (gradient,) = torch.autograd.grad(_hidden_with_seed(net, image, 4), net.repair.bias)
    assert gradient.abs().max() > 0
    assert 0 < hidden.sum() < hidden.numel()
    target = ((image - net.mean) / net.deviation).reshape(1, 3, 2, 8, 3, 8).permute(0, 2, 4, 3, 5, 1).reshape(1, 6, -1)
    torch.testing.assert_close(wanted, target)
    by_hand = ((guess - target) ** 2).mean(dim=2)[hidden > 0].mean()
    assert float(_hidden_with_seed(net, image, 4).detach()) == pytest.approx(float(by_hand.detach()), rel=1e-5)


def _hidden_with_seed(net: Isstad, image: torch.Tensor, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    ones = torch.ones_like(image[:, :1])
    return hiding_loss(net, Batch(image, image, 0 * ones, ones), net.config)["hidden"]


def test_classification_loss_by_hand() -> None:
    """Two maps of three pixels: a good one (weight 3), a corrupted one (weight 1), one that is not valid."""
    logits = torch.tensor([[[[1.0, 2.0, 9.0]], [[-1.0, 0.0, 9.0]]]])
    mask, valid = torch.tensor([[[[0.0, 1.0, 1.0]]]]), torch.tensor([[[[1.0, 1.0, 0.0]]]])

    def soft(x: float) -> float:
        return float(np.log1p(np.exp(x)))

    maps = [(3 * soft(1.0) + soft(-2.0)) / 4, (3 * soft(-1.0) + soft(0.0)) / 4]
    assert float(classification_loss(logits, mask, valid, 3.0)) == pytest.approx(sum(maps) / 2, rel=1e-6)


@pytest.mark.parametrize(("target", "wrong"), [("clean", 0.5), ("identity", 0.1)])
def test_the_repairs_target(target: str, wrong: float) -> None:
    """A head that paints 0.7 everywhere: 0.5 from the clean 0.2, 0.1 from the corrupted 0.8; half of the MSE in [-1, 1]."""
    net = tiny(target=target)
    with torch.no_grad():
        net.repair.weight.zero_()
        net.repair.bias.copy_(((0.7 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)).repeat(64))
    clean, forged = torch.full((1, 3, 48, 48), 0.2), torch.full((1, 3, 48, 48), 0.8)
    inner = torch.zeros(1, 1, 48, 48)
    inner[..., 12:36, 12:36] = 1  # the windows of SSIM there see nothing beyond the border
    losses = repairing_loss(net, Batch(forged, clean, torch.ones_like(inner), inner), net.config)
    assert float(losses["repair"].detach()) == pytest.approx(0.5 * (2 * wrong) ** 2, rel=1e-5)
    assert set(losses) == {"classify", "repair", "ssim"}
    aim = 0.2 if target == "clean" else 0.8
    alike = (2 * 0.7 * aim + 1e-4) / (0.7**2 + aim**2 + 1e-4)  # SSIM of two constants: no contrast, so tones alone count
    assert float(losses["ssim"].detach()) == pytest.approx(0.1 * (1 - alike), abs=3e-5)


def test_blur_is_a_gaussian() -> None:
    maps = torch.rand(2, 1, 20, 31)
    expected = [gaussian_filter(each[0].numpy(), 1.7, mode="nearest", truncate=4.0) for each in maps]
    np.testing.assert_allclose(blurred(maps, 1.7)[:, 0], expected, atol=1e-6)
    assert blurred(maps, 0.0) is maps


@pytest.mark.parametrize(
    ("how", "by_hand"), [("product", [0.4, 0.9]), ("probability", [0.2, 0.9]), ("error", [0.8, 0.9]), ("sum", [0.5, 0.9])]
)
def test_combinations_by_hand(how: str, by_hand: list[float]) -> None:
    probability, error = torch.tensor([[[[0.2, 0.9]]]]), torch.tensor([[[[0.8, 0.9]]]])
    surface, score = combined(probability, error, how, 0.0)
    np.testing.assert_allclose(surface[0, 0, 0], by_hand, rtol=1e-6)
    assert float(score) == pytest.approx(max(by_hand))


def test_a_perfect_part_scores_below_a_broken_one_but_in_the_release_their_maps_are_alike() -> None:
    error = torch.tensor([0.001, 1.0]).view(2, 1, 1, 1) * torch.rand(1, 1, 4, 5)
    probability = torch.full((2, 1, 4, 5), 0.5)
    for how in ("product", "error", "sum"):
        surface, score = combined(probability, error, how, 0.0)
        assert surface[0].max() < surface[1].max()
        assert score[0] < score[1]
    surface, score = combined(probability, error, "release", 0.0)
    torch.testing.assert_close(surface[0], surface[1])  # the stretched error has lost its scale: no threshold can hold
    assert score[0] < score[1]


def test_release_scores_by_hand() -> None:
    probability, error = torch.tensor([[[[0.5, 1.0]]]]), torch.tensor([[[[0.2, 0.6]]]])
    surface, score = combined(probability, error, "release", 0.0)
    np.testing.assert_allclose(surface[0, 0, 0], [0.0, 1.0], atol=1e-6)
    assert float(score) == pytest.approx((0.5 * 0.2 + 1.0 * 0.6) / 2)
    release = dataclasses.replace(TINY, combine="release")
    assert METHODS["isstad"].score(release) == ScoreRule("network")
    assert METHODS["isstad"].score(PAPER) == ScoreRule("top", top=1.0)


def test_crops_come_from_the_picture_and_keep_the_border_out() -> None:
    ramp = torch.linspace(0, 1, 24).expand(8, 3, 16, 24).contiguous()
    valid = torch.ones(8, 1, 16, 24)
    assert cropped(ramp, valid, 1.0, False)[0] is ramp
    torch.manual_seed(0)
    mirrored, _ = cropped(ramp, valid, 1.0, True)
    kinds = [torch.allclose(each, ramp[0], atol=1e-5) for each in mirrored]
    assert [torch.allclose(each, ramp[0].flip(2), atol=1e-5) for each in mirrored] == [not kind for kind in kinds]
    assert 0 < sum(kinds) < 8
    valid[..., 12:] = 0
    images, inside = cropped(ramp, valid, 0.2, False)
    spans = images.amax(dim=(1, 2, 3)) - images.amin(dim=(1, 2, 3))
    assert 0.3 < spans.min() < 0.9
    shown = images[inside.expand_as(images) > 0]
    assert shown.max() <= 11.5 / 23 + 0.02  # never from beyond the last valid column
    torch.manual_seed(0)
    images, inside = cropped(1 - 0.5 * valid.expand(8, 3, 16, 24), valid, 0.2, False)  # grey, and white where not valid
    assert (inside > 0).any()
    assert float((images[inside.expand_as(images) > 0] - 0.5).abs().max()) < 1e-5


def test_settings_that_do_not_fit_together() -> None:
    for changes, words in (
        ({"heads": 3}, "width is 16 with 3 heads"),
        ({"decoder_width": 6}, "decoder_width is 6"),
        ({"masked_depth": 3}, "masked_depth is 3"),
        ({"patch": 12, "stem": "convolutional"}, "patch is 12"),
        ({"patch": 32, "backbone": "lite0"}, "patch is 32 and the stem linear with a trunk; give a patch of 8 or 16"),
        ({"stem": "convolutional", "backbone": "lite0"}, "the stem convolutional with a trunk"),
        ({"masked": "features"}, "masked=features was given without a trunk; give --trunk lite0"),
    ):
        with pytest.raises(ConfigError, match=words):
            tiny(**changes)


def batch(stage: int, step: int) -> Batch:
    rng = np.random.default_rng([stage, step])
    clean = rng.random((2, 3, 16, 24), dtype=np.float32)
    mask = (rng.random((2, 1, 16, 24)) > 0.5).astype(np.float32)
    return Batch(np.where(mask > 0, 1 - clean, clean), clean, mask, np.ones_like(mask))


def bits(net: torch.nn.Module) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in net.state_dict().items()}


def fitted(net: Isstad, steps: int = 8, **options: Any) -> Isstad:
    run = options.pop("run", engine.Run(workers=0))
    engine.fit(net, stages(net, net.config), batch, engine.Budget(steps=steps), run, **options)
    return net


def test_stage_two_leaves_the_encoder_as_stage_one_made_it() -> None:
    alone, frozen, free = tiny(masked_share=0.0), tiny(masked_share=0.0), tiny(masked_share=0.0, freeze=False)
    before = bits(alone.encoder)
    assert [stage.name for stage in stages(alone, alone.config)] == [STAGE_TWO]
    assert bits(fitted(frozen).encoder) == before != bits(fitted(free).encoder)
    both = tiny()
    assert [(stage.name, stage.share) for stage in stages(both, both.config)] == [(STAGE_ONE, 0.4), (STAGE_TWO, 0.6)]
    assert bits(fitted(both).encoder) != before


HYBRID = {"backbone": "lite0", "masked": "features"}


@pytest.mark.parametrize("patch", [8, 16])
def test_what_a_trunk_says_of_a_patch_by_hand(patch: int) -> None:
    """Each stage's numbers in the patch, in one row per stage and place, standardised by numpy."""
    torch.manual_seed(0)
    images = pictures(2, 32, 48)
    with torch.no_grad():
        hybrid = TrunkPatches("lite0", patch)
        found = hybrid(images)
        stages_out = [each.numpy() for each in hybrid.net(images)[1:]]
    assert [each.shape[2] for each in stages_out] == [8, 4, 2][: patch.bit_length() - 2]
    assert found.shape == (2, hybrid.width, 32 // patch, 48 // patch)
    row, column, rows = 1, 2, []
    for each in stages_out:
        fold = each.shape[2] // (32 // patch)
        # channel first, then the row and the column inside the patch
        values = each[1, :, row * fold : (row + 1) * fold, column * fold : (column + 1) * fold].reshape(-1)
        rows.append((values - values.mean()) / np.sqrt(values.var() + 1e-5))
    np.testing.assert_allclose(found[1, :, row, column], np.concatenate(rows), atol=1e-4)


@pytest.mark.parametrize("shape", [(16, 24), (17, 30), (3, 50)])
def test_over_a_trunk_any_canvas_gives_maps_of_its_size(shape: tuple[int, int]) -> None:
    net = tiny(**HYBRID).eval()
    with torch.no_grad():
        evidence = net(pictures(2, *shape))
    assert evidence.map.shape == (2, *shape)
    assert evidence.map.isfinite().all()


def test_guessed_features_by_hand() -> None:
    """A head that says 0 leaves the features' own mean square: 1, because they are standardised. A border does not count."""
    net = tiny(**HYBRID)
    assert net.describe is not None
    with torch.no_grad():
        for parameter in net.describe.parameters():
            parameter.zero_()
    image, valid = pictures(2, 32, 48), torch.ones(2, 1, 32, 48)
    valid[..., 20:] = 0  # the third column of patches is valid in part, so it does not count either
    torch.manual_seed(3)
    _, wanted, hidden = net.guess_hidden(image)
    torch.manual_seed(3)
    loss = hiding_loss(net, Batch(image, image, 0 * valid, valid), net.config)["hidden"]
    counted = hidden.reshape(2, 4, 6)[..., :2].bool()
    assert 0 < counted.sum() < counted.numel()
    by_hand = (wanted.reshape(2, 4, 6, -1)[:, :, :2][counted] ** 2).mean()
    torch.testing.assert_close(loss.detach(), by_hand)
    assert float(by_hand) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("masked", ["pixels", "features"])
@pytest.mark.parametrize("freeze", [True, False])
def test_no_stage_trains_the_trunk_and_each_trains_its_own(masked: str, freeze: bool) -> None:
    net = tiny(backbone="lite0", masked=masked, freeze=freeze)
    parts = {stage.name: stage for stage in stages(net, net.config)}
    assert all("trunk" in stage.frozen for stage in parts.values())
    moved = {}
    for name, stage in parts.items():
        before = bits(net)
        engine.fit(net, [stage], batch, engine.Budget(steps=2), engine.Run(workers=0))
        moved[name] = {key.partition(".")[0] for key, value in bits(net).items() if value != before[key]}
    head = {"repair"} if masked == "pixels" else {"describe"}
    assert moved[STAGE_ONE] == {"encoder", "decoder", *head}
    assert moved[STAGE_TWO] == {"decoder", "repair", "classify", *(() if freeze else ("encoder",))}


def test_stage_one_learns_to_guess_features() -> None:
    """Of one picture that comes again and again, features of hidden patches can be known from their place alone."""
    pattern = np.random.default_rng(0).random((1, 3, 32, 48), dtype=np.float32)
    ones = np.ones((1, 1, 32, 48), np.float32)

    def same(stage: int, step: int) -> Batch:
        return Batch(*(np.repeat(each, 2, axis=0) for each in (pattern, pattern, 0 * ones, ones)))

    net = tiny(weight_decay=0.0, **HYBRID)
    history = engine.fit(net, stages(net, net.config)[:1], same, engine.Budget(steps=60), engine.Run(workers=0))
    assert history[-1]["losses"]["hidden"] < 0.5 * history[0]["losses"]["hidden"]


class Killed(BaseException):
    """Stands for the end of the process at any step."""


@pytest.mark.parametrize("form", [{"stem": "convolutional"}, HYBRID], ids=["pixels", "trunk"])
def test_a_fit_killed_in_both_stages_gives_the_bits_of_a_whole_one(tmp_path: Path, form: dict[str, Any]) -> None:
    """The random hiding and the random crops follow from the step's seed, so nothing of them is lost."""
    settings = {"masked_share": 0.5, "crop": 0.3, "flip": True, **form}
    whole = fitted(tiny(**settings))
    run = engine.Run(checkpoint=tmp_path / "c.safetensors", checkpoint_every=0.0, workers=2, resume=True)
    for name in (STAGE_ONE, STAGE_TWO):

        def kill(tick: engine.Tick, name: str = name) -> None:
            if tick.stage == name and tick.step == 3:
                raise Killed

        with pytest.raises(Killed):
            fitted(tiny(**settings), run=run, on_tick=kill)
    assert bits(fitted(tiny(**settings), run=run)) == bits(whole)


def request(data: Path, out: Path, **options: Any) -> fitting.Request:
    settings = dataclasses.asdict(TINY)
    return fitting.Request(data, out, **({"method": "isstad", "steps": 6, "size": 64, "settings": settings} | options))


@pytest.fixture(scope="module")
def model(washers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("isstad") / "first"
    fitting.run(request(washers, out))
    return out


def test_another_product_starts_from_this_ones_encoder_and_says_what_it_saved(
    washers: Path, model: Path, tmp_path: Path
) -> None:
    fitting.run(request(washers, tmp_path / "second", init=model, seed=5))
    about = json.loads((tmp_path / "second" / "config.json").read_text())
    assert {row["stage"] for row in about["history"]} == {STAGE_TWO}
    (note,) = (note for note in about["notes"] if "started from" in note)
    assert f"stage 1 ({STAGE_ONE}) was skipped, saved" in note
    assert "(2 steps)" in note
    whole = json.loads((model / "config.json").read_text())
    assert whole["training"]["steps"] == 6  # of both stages
    assert about["training"]["steps"] == 6
    assert about["init"]["method"] == "isstad"
    first, second = (load_file(folder / "model.safetensors") for folder in (model, tmp_path / "second"))
    same = {key for key in first if torch.equal(first[key], second[key])}
    assert {key for key in first if key.startswith("encoder.")} <= same
    assert "decoder.embed.weight" not in same
    fitting.run(request(washers, tmp_path / "third", init=tmp_path / "second"))
    assert "its cost is not known" in (tmp_path / "third" / "config.json").read_text()


def test_a_killed_fit_that_was_started_from_a_model_goes_on(washers: Path, model: Path, tmp_path: Path) -> None:
    fitting.run(request(washers, tmp_path / "whole", init=model))

    def kill(tick: engine.Tick) -> None:
        if tick.step == 4:
            raise Killed

    with pytest.raises(Killed):
        fitting.run(request(washers, tmp_path / "killed", init=model, checkpoint_every=0.0), on_tick=kill)
    fitting.run(request(washers, tmp_path / "killed", init=model, checkpoint_every=0.0), resume=True)
    whole, killed = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed"))
    assert whole == killed


def test_the_forecast_counts_what_each_stage_costs(washers: Path, tmp_path: Path) -> None:
    def slow_second(net: Any, config: Config) -> list[Train]:
        one, two = stages(net, config)
        turn = two.turns[0]

        def loss(net: Any, batch: Batch) -> Any:
            time.sleep(0.2)
            return turn.loss(net, batch)

        return [one, dataclasses.replace(two, turns=[dataclasses.replace(turn, loss=loss)])]

    plan = fitting.plan(request(washers, tmp_path / "m", steps=100))
    slow = dataclasses.replace(plan, method=dataclasses.replace(plan.method, stages=slow_second))
    forecast = fitting.forecast(slow, fitting.load_pictures(slow))
    assert forecast.steps == 100
    assert forecast.minutes > 60 * 0.2 / 60  # 60 of the 100 steps are stage 2's


def test_carry_all_takes_decoder_and_heads_too(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    init = Init(tensors, json.loads((model / "config.json").read_text()))
    net = tiny(carry="all")
    assert "encoder and decoder" in start(net, net.config, init)[0]
    assert all(torch.equal(net.state_dict()[key], value) for key, value in tensors.items())
    other = tiny(carry="all", decoder_width=8)
    assert "encoder alone" in start(other, other.config, init)[0]


def test_what_no_tensors_shape_tells_is_compared_too(model: Path) -> None:
    """A donor of other heads has tensors of the same shapes; one that never had stage 1 saves none."""
    tensors, about = load_file(model / "model.safetensors"), json.loads((model / "config.json").read_text())
    with pytest.raises(ModelError, match=r"--init read pixels and these settings read lite0; give --trunk none\."):
        start(hybrid := tiny(backbone="lite0"), hybrid.config, Init(tensors, about))
    changed = about | {"settings": about["settings"] | {"backbone": "lite1"}}
    with pytest.raises(ModelError, match=r"--init read lite1 and these settings read pixels; give --trunk lite1\."):
        start(net := tiny(), net.config, Init(tensors, changed))
    for key, theirs in (("heads", 4), ("grid", 7)):
        changed = about | {"settings": about["settings"] | {key: theirs}}
        net = tiny()
        with pytest.raises(ModelError, match=rf"was fitted with {key}={theirs} .* give --set {key}={theirs}\."):
            start(net, net.config, Init(tensors, changed))
        assert not net.started_after_stage_one
    net = tiny()
    notes = start(net, net.config, Init(tensors, about | {"settings": about["settings"] | {"masked_share": 0.0}}))
    assert "it had no stage 1" in notes[0]
    assert [stage.name for stage in stages(net, net.config)] == ["hide and guess", "repair and point"]


def released(net: Isstad, decoder: bool = True, extra_blocks: int = 2) -> dict[str, torch.Tensor]:
    """The net's weights as MAE's released code names them, positions among them; timm's naming is that without a decoder."""
    mine = {key: value.clone() for key, value in net.state_dict().items()}
    found = {
        "cls_token": mine["encoder.cls_token"],
        "patch_embed.proj.weight": mine["encoder.patch.weight"],
        "patch_embed.proj.bias": mine["encoder.patch.bias"],
    }
    where = positions(14, 14, net.config.width)
    found["pos_embed"] = torch.cat([torch.zeros(1, net.config.width), where])[None]
    parts = (
        "norm1.weight",
        "norm1.bias",
        "attn.qkv.weight",
        "attn.qkv.bias",
        "attn.proj.weight",
        "attn.proj.bias",
        "norm2.weight",
        "norm2.bias",
        "mlp.fc1.weight",
        "mlp.fc1.bias",
        "mlp.fc2.weight",
        "mlp.fc2.bias",
    )
    for part in parts:
        found[f"blocks.0.{part}"] = mine[f"encoder.blocks.0.{part}"]
        for block in range(1 + extra_blocks if decoder else 0):
            found[f"decoder_blocks.{block}.{part}"] = mine[f"decoder.blocks.0.{part}"] + block
    for kind in ("weight", "bias"):
        found[f"norm.{kind}"] = mine[f"encoder.norm.{kind}"]
        if decoder:
            found[f"decoder_embed.{kind}"] = mine[f"decoder.embed.{kind}"]
            found[f"decoder_norm.{kind}"] = mine[f"decoder.norm.{kind}"]
            found[f"decoder_pred.{kind}"] = mine[f"repair.{kind}"]
    if decoder:
        found["mask_token"] = mine["decoder.mask_token"]
        found["decoder_pos_embed"] = torch.zeros(1, 197, net.config.decoder_width)
    return found


def scrambled(net: Isstad) -> Isstad:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    return net


def test_weights_in_the_released_naming_guess_as_the_net_they_came_from(washers: Path, tmp_path: Path) -> None:
    source = scrambled(tiny())
    save_file(released(source), tmp_path / "mae.safetensors")
    init = fitting.plan(request(washers, tmp_path / "m", init=tmp_path / "mae.safetensors")).init
    assert init is not None
    net = tiny()
    assert start(net, net.config, init) == ["started from outside weights: encoder and decoder"]
    guesses = []
    for each in (source, net):
        torch.manual_seed(7)
        guesses.append(each.guess_hidden(pictures(1, 16, 24))[0])
    torch.testing.assert_close(guesses[1], guesses[0])
    assert [stage.name for stage in stages(net, net.config)] == [STAGE_ONE, STAGE_TWO]
    fitting.run(request(washers, tmp_path / "m", init=tmp_path / "mae.safetensors"))
    about = json.loads((tmp_path / "m" / "config.json").read_text())
    assert "started from outside weights: encoder and decoder" in about["notes"]
    assert {row["stage"] for row in about["history"]} == {STAGE_ONE, STAGE_TWO}


def test_weights_in_timms_naming_give_the_encoder() -> None:
    source, net = scrambled(tiny()), tiny()
    before = bits(net.decoder)
    given = released(source, decoder=False) | {"fc_norm.weight": torch.ones(16), "head.bias": torch.zeros(10)}
    assert start(net, net.config, Init(given)) == ["started from outside weights: encoder alone"]
    assert bits(net.encoder) == bits(source.encoder)
    assert bits(net.decoder) == before


def test_timm_is_an_extra(washers: Path, tmp_path: Path) -> None:
    if find_spec("timm"):
        with pytest.raises(ConfigError, match="timm cannot give the weights of 'no_such_net'"):
            fitting.run(request(washers, tmp_path / "m", init=Path("timm:no_such_net")))
    else:
        with pytest.raises(ConfigError, match=r"timm is not installed; pip install 'flawforge\[timm\]'"):
            fitting.run(request(washers, tmp_path / "m", init=Path("timm:vit_large_patch16_224.mae")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda given: given.pop("norm.weight"), "lack encoder.norm.weight"),
        (lambda given: given.update({"norm.weight": torch.ones(8)}), "encoder.norm.weight of 8 and these settings need 16"),
        (lambda given: given.update({"blocks.1.norm1.bias": torch.ones(16)}), "hold 2 encoder blocks .* need 1"),
        (lambda given: given.update({"norm.bias": torch.full((16,), torch.nan)}), "not finite in encoder.norm.bias"),
        (lambda given: given["pos_embed"].add_(0.1), "learnt positions"),
        (lambda given: given.pop("patch_embed.proj.weight"), "lack encoder.patch.weight; .* same stem"),
        (lambda given: given.clear(), "hold 0 encoder blocks"),
    ],
)
def test_weights_that_do_not_fit_are_refused(spoil: Any, words: str) -> None:
    given = released(tiny())
    spoil(given)
    net = tiny()
    before = bits(net)
    with pytest.raises(ModelError, match=words):
        start(net, net.config, Init(given))
    assert bits(net) == before


def test_a_model_of_another_method_is_refused(tiny_model: Path, washers: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="a model of draem"):
        fitting.run(request(washers, tmp_path / "m", init=tiny_model))
    assert list(tmp_path.iterdir()) == []


def test_stage_one_learns_to_guess() -> None:
    """On pictures that repeat a fixed pattern, hidden patches can be known from their place alone."""
    pattern = np.random.default_rng(0).random((1, 3, 16, 24), dtype=np.float32)
    ones = np.ones((1, 1, 16, 24), np.float32)

    def same(stage: int, step: int) -> Batch:
        return Batch(*(np.repeat(each, 4, axis=0) for each in (pattern, pattern, 0 * ones, ones)))

    net = tiny(weight_decay=0.0)
    history = engine.fit(net, stages(net, net.config)[:1], same, engine.Budget(steps=150), engine.Run(workers=0))
    assert history[-1]["losses"]["hidden"] < 0.35 * history[0]["losses"]["hidden"]


def test_the_cpu_profile_is_small() -> None:
    with torch.device("meta"):
        assert 1e6 < sum(p.numel() for p in Isstad(Config()).parameters()) < 8e6
