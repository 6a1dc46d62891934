"""What the gates measure of a forged picture, against scikit-learn: AUROC of scores, average precision of pixels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn

from flawforge.nn import evidence, gate, tuning
from flawforge.nn.normality import FAMILIES, SUMS
from flawforge.types import Batch, Evidence
from test_guided import looked, pictures

TOP = 0.01


def placed(score: float, others: Any) -> float:
    """AUROC of one forged picture among good ones."""
    return float(roc_auc_score([0] * len(others) + [1], [*others, score]))


def found(values: Any, mask: Any, others: Any, times: int) -> float:
    """Average precision of a map's values at the mask, among its other values and so many times those of good pictures."""
    everything = np.concatenate([np.asarray(values), *([np.asarray(others)] * times)])
    labels = np.concatenate([np.asarray(mask), np.zeros(times * len(others), bool)])
    return float(average_precision_score(labels, everything))


def highest(values: Any, top: float) -> float:
    return float(np.sort(np.asarray(values))[::-1][: max(1, round(top * len(values)))].mean())


def forgeries(clean: np.ndarray, size: int, valid: np.ndarray, indices: list[int]) -> Batch:
    """Two pictures with a dark square each, and one that is left good."""
    forged, mask = clean[:3].copy(), np.zeros((3, 1, size, size), np.float32)
    for place, corner in ((0, 8), (1, 24)):
        forged[place, :, corner : corner + 12, corner : corner + 10] *= 0.2
        mask[place, :, corner : corner + 12, corner : corner + 10] = 1
    mask *= valid
    parts = (forged, clean[:3], mask, np.broadcast_to(valid, mask.shape).copy())
    return Batch(*map(torch.from_numpy, parts), torch.tensor(indices))


# ---- does fine-tuning help?


class Channel(nn.Module):
    """A detector whose map is one channel, rounded so that values tie, and whose score is the channel's mean."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel

    def forward(self, images: Tensor) -> Evidence:
        maps = (images[:, self.channel] * 20).round() / 20
        return Evidence(maps, images[:, self.channel].mean(dim=(1, 2)))


@pytest.mark.parametrize("by_map", [False, True])
def test_the_gate_of_fine_tuning_measures_both_networks_by_score_and_pixels(by_map: bool) -> None:
    rng = np.random.default_rng(0)
    good = rng.random((7, 3, 32, 32), np.float32)
    valid = np.ones((1, 1, 32, 32), np.float32)
    valid[..., :5] = 0
    rivals = tuning.Rivals((Channel(0), Channel(2)), (None, None))  # type: ignore[arg-type]
    for picture in good[:4]:
        rivals.keep(torch.from_numpy(picture[None]), torch.from_numpy(valid))
    state = tuning.begin_proof(SimpleNamespace(rivals=[rivals]), by_map)  # type: ignore[arg-type]
    clean = good[4:]
    forged, mask = clean.copy(), np.zeros((3, 1, 32, 32), np.float32)
    forged[0, :, 10:20, 10:20] = rng.uniform(0.5, 1, (3, 10, 10))
    forged[1, :, 4:9, 2:9] = 0.9  # partly where nothing is judged
    mask[0, :, 10:20, 10:20] = mask[1, :, 4:9, 2:9] = mask[2, :, :, :5] = 1  # the last only there
    ones = np.broadcast_to(valid, (3, 1, 32, 32)).copy()
    batch = Batch(*map(torch.from_numpy, (forged, clean, mask, ones)), torch.tensor([5, 10, 15]))
    tuning.prove(None, state, batch, by_map)  # type: ignore[arg-type]
    assert [index for index, _ in state[1].rows] == [5, 10]
    judged = valid[0, 0] > 0
    thin = np.zeros_like(judged)
    thin[::2, ::2] = True
    for place, (_, row) in enumerate(state[1].rows):
        for channel, value in zip((0, 2), row.tolist(), strict=True):
            maps = np.round(good[:4, channel] * 20) / np.float32(20)
            own = np.round(forged[place, channel] * 20) / np.float32(20)
            others, score = good[:4, channel].mean(axis=(1, 2)), float(forged[place, channel].mean())
            if by_map:
                others = [highest(each[judged], tuning.TOP) for each in maps]
                score = highest(own[judged], tuning.TOP)
            quiet = maps[:, judged & thin].ravel()
            expected = (placed(score, others) + found(own[judged], mask[place, 0][judged] > 0, quiet, 4)) / 2
            assert value == pytest.approx(expected, abs=1e-6)


# ---- which families of statistics, and the segmenter


@pytest.fixture(scope="module")
def net() -> Any:
    return looked(pictures(15, size=64))


def test_the_gate_of_families_measures_each_sum(net: Any) -> None:
    indices = [0, net.stats.folds, 2 * net.stats.folds]  # pictures of the first fold
    clean = pictures(15, size=64)[indices]
    valid = np.ones((1, 1, 64, 64), np.float32)
    valid[..., 48:] = 0
    good: list[tuple[Tensor, Tensor]] = []
    everything = Batch(*map(torch.from_numpy, (clean, clean, np.zeros_like(clean[:, :1]), np.repeat(valid, 3, axis=0))))
    with torch.no_grad():
        for shift in (0, 1):  # of the other fold's pictures none is kept
            evidence.look_at_good(net, good, everything._replace(index=torch.tensor(indices) + shift))
        assert len(good) == 3
        evidence.keep(net, good)
        proof = evidence.begin(net, TOP)
        assert net.reserved == []
        batch = forgeries(clean, 64, valid, indices)
        evidence.prove(net, proof, batch, TOP)
        maps = evidence.sums_of(net, batch.forged, None).numpy()
    assert [index for index, _ in proof.rows] == indices[:2]  # what is left good is not asked
    cell = 64 // maps.shape[-1]
    cells = np.zeros(maps.shape[-2:], bool)
    cells[:, : 48 // cell] = True
    for place, (_, row) in enumerate(proof.rows):
        mask = batch.mask[place, 0].numpy().reshape(64 // cell, cell, 64 // cell, cell).max(axis=(1, 3)) > 0
        for sum_, value in enumerate(row.tolist()):
            quiet = [each[sum_].numpy()[cells] for each, _ in good]
            score, own = highest(maps[place, sum_][cells], TOP), maps[place, sum_][cells]
            expected = placed(score, [highest(each, TOP) for each in quiet])
            expected += found(own, mask[cells], np.concatenate(quiet), 1)
            assert value == pytest.approx(expected / 2, abs=1e-6)


def test_a_sum_is_the_mean_of_its_families_by_the_names(net: Any) -> None:
    images = torch.from_numpy(pictures(2, size=64))
    with torch.no_grad():
        surprises = net.stats.surprises(images, [0, 0], None)
        families = dict(zip(FAMILIES, net.stats.families(surprises).unbind(dim=1), strict=True))
        sums = evidence.sums_of(net, images, None).unbind(dim=1)
        own = surprises[:, : len(net.stats.branches)]
    torch.testing.assert_close(families["filters"], own.mean(dim=1))
    for names, found_ in zip(SUMS, sums, strict=True):
        torch.testing.assert_close(found_, torch.stack([families[name] for name in names]).mean(dim=0))


def test_the_gate_of_the_segmenter_measures_score_and_pixels_apart(net: Any) -> None:
    indices = [0, net.stats.folds, 2 * net.stats.folds]
    clean = pictures(15, size=64)[indices]
    valid = np.ones((1, 1, 64, 64), np.float32)
    valid[..., :8, :] = 0
    judged = torch.from_numpy(valid[0, 0] > 0)
    batch = forgeries(clean, 64, valid, indices)
    with torch.no_grad():
        both = torch.stack(net.both(batch.clean, [0, 0, 0]), dim=1)
        net.reserved = [(maps, judged) for maps in both]
        proof = gate.begin(net, TOP)
        gate.prove(net, proof, batch, TOP)
        forged = torch.stack(net.both(batch.forged, [0, 0, 0]), dim=1)
    middle, width = net.unit[:, 0, None, None], net.unit[:, 1, None, None]

    def three(maps: Tensor) -> np.ndarray:
        """Statistics, segmenter and their sum, each map by its own median and width."""
        scaled = (maps - middle) / width
        return np.concatenate([scaled.numpy(), scaled.sum(dim=0, keepdim=True).numpy()])

    good, thin = [three(maps) for maps in both], judged.numpy().copy()
    thin[1::2] = thin[:, 1::2] = False
    assert [index for index, _ in proof.rows] == indices[:2]
    for place, (_, row) in enumerate(proof.rows):
        own, mask = three(forged[place]), batch.mask[place, 0].numpy() > 0
        for candidate in range(3):
            values = own[candidate][judged.numpy()]
            others = [highest(each[candidate][judged.numpy()], TOP) for each in good]
            assert float(row[0, candidate]) == pytest.approx(placed(highest(values, TOP), others))
            quiet = np.concatenate([each[candidate][thin] for each in good])
            precision = found(values, mask[judged.numpy()], quiet, 4)
            assert float(row[1, candidate]) == pytest.approx(precision, abs=1e-6)
