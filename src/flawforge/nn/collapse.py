"""Whether adversarial training has collapsed, measured by what the finished model would answer, not by its losses.

A map can become constant and an adversary saturate while every loss stays finite. So the net judges good pictures and their
own forgeries as the finished model would, and two scale-free shares in [0, 1] are tracked; chance is 0.5. Ours, in no paper
(docs/decisions/0017).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flawforge.types import Batch, Forger, Prove, TrainingError

LOOKS = 16  # batches of the last look
ALIVE = 0.6  # a share below this, where chance is 0.5, is a collapse
SATURATED = 0.99  # a discriminator that is right more often than this teaches nothing


class Watch(nn.Module):
    """Running means that show whether a fit has collapsed; buffers, so that a resumed fit continues with them.

    critic    share of pairs that the stage's critic classifies correctly; 1.0 = saturated, its gradient is useless
    outlined  share of forged pictures whose map is higher inside the outline than outside; 0.5 = chance
    caught    share of forged pictures whose score is above their own good picture's; 0.5 = chance
    steps     of the stage so far
    A share below zero has not been measured yet.
    """

    critic: Tensor
    outlined: Tensor
    caught: Tensor
    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("critic", "outlined", "caught"):
            self.register_buffer(name, torch.full((), -1.0))
        self.register_buffer("steps", torch.zeros(()))

    def see(self, name: str, value: Tensor, decay: float) -> None:
        """Update the running mean called `name` by an exponential decay in [0, 1]; the first value is taken as it is."""
        buffer = self.get_buffer(name)
        buffer.copy_(torch.where(buffer < 0, value, decay * buffer + (1 - decay) * value))


def outlined_and_caught(
    net: nn.Module, good: Tensor, forged: Tensor, mask: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor] | None:
    """(outlined, caught), see `Watch`, of good pictures and their forgeries n 3 h w, judged as by the finished model.

    mask, valid: n 1 h w. None where no picture of the batch is forged.
    """
    at = mask.flatten(1).amax(dim=1) > 0
    if not at.any():
        return None
    good, forged, mask, valid = good[at], forged[at], mask[at].double(), valid[at].double()
    modes = {module: module.training for module in net.modules()}
    net.eval()
    evidence = net(torch.cat([good, forged]))
    for module, training in modes.items():
        module.training = training
    # In double precision: sums over a small outline and a large surrounding round differently, and what a constant map
    # says of the two must come out the same.
    surface = evidence.map[len(good) :, None].double()
    inside = (surface * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))
    around = valid * (1 - mask)
    outside = (surface * around).sum((1, 2, 3)) / around.sum((1, 2, 3)).clamp_min(1)
    good_score, forged_score = evidence.score.double().chunk(2)
    return _share_above(inside, outside), _share_above(forged_score, good_score)


def _share_above(a: Tensor, b: Tensor) -> Tensor:
    """Share of places where a is above b; a tie (to a millionth) is half of one, so that a constant gets 0.5."""
    tie = (a - b).abs() <= 1e-6 * torch.maximum(a.abs(), b.abs())
    return torch.where(tie, 0.5, (a > b).double()).float().mean()


def check(net: Any, watch: Watch, batch: Batch, name: str, every: int, patience: int) -> dict[str, Tensor]:
    """Measure every `every` steps (0 = never) -> the share `name`.

    Raises TrainingError where it is no better than chance after `patience` steps.
    """
    if every and int(watch.steps) % every == 0:
        with torch.no_grad():  # here and not in the net: several processes must not wait for gradients of it
            seen = net.outlined_and_caught(batch.clean, batch.forged, batch.mask, batch.valid)
        if seen is not None:
            for each, value in zip(("outlined", "caught"), seen, strict=True):
                watch.see(each, value, 0.9)
        if int(watch.steps) >= patience:
            _stop_if_dead(name, float(watch.get_buffer(name)), float(watch.critic))
    watch.steps += 1
    return {name: watch.get_buffer(name).clone()}


def _stop_if_dead(name: str, share: float, critic: float) -> None:
    """TrainingError where the share of "outlined" or "caught" is known and no better than chance."""
    if not 0 <= share < ALIVE:
        return
    what, do = ("map", "outlines") if name == "outlined" else ("detector's score", "catches")
    cure = "critic_norm=spectral or a lower critic_rate" if critic > SATURATED else "a lower learning_rate"
    told = f", and its critic is right about {critic:.0%} of the pairs" if critic >= 0 else ""
    raise TrainingError(
        f"Training stopped because the {what} has collapsed: it {do} {100 * share:.0f} of 100 forgeries, where 50 "
        f"is chance{told}; set {cure} with --set or give more minutes, and fit again."
    )


Shares = list[tuple[Tensor, Tensor]]


def _last_look(net: Any, seen: Shares, batch: Batch) -> None:
    """Forgeries of its own kind, judged by the finished net."""
    found = net.outlined_and_caught(batch.clean, batch.forged, batch.mask, batch.valid)
    if found is not None:
        seen.append(found)


def _last_word(net: Any, seen: Shares) -> None:
    """The same question as during training, whatever the length of the fit: TrainingError where the net is dead."""
    if seen:
        outlined, caught = torch.tensor(seen).mean(dim=0).tolist()
        _stop_if_dead("outlined", outlined, float(net.watch.critic))
        if net.detector is not None:
            _stop_if_dead("caught", caught, float(net.detector_watch.critic))


def last_look(forger: Forger) -> Prove:
    """A last stage that measures the same shares of the finished net, on fresh forgeries."""
    return Prove("last look", forger, LOOKS, lambda net: [], _last_look, _last_word, share=0.01)
