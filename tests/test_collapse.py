"""The watch over an adversary: shares by hand, running means, and when a fit is stopped."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flawforge.nn import collapse
from flawforge.nn.collapse import ALIVE, LOOKS, Watch
from flawforge.types import Batch, Evidence, TrainingError

ONES = torch.ones(4, 1, 8, 8)


def masks() -> Tensor:
    """The first three of four pictures are forged, in their left half."""
    mask = torch.zeros(4, 1, 8, 8)
    mask[:3, :, :, :4] = 1
    return mask


class Answering(nn.Module):
    """Judges by the red channel as a map and the mean of green as a score: a net whose answers the test writes down."""

    def __init__(self, watch: Watch | None = None) -> None:
        super().__init__()
        self.watch, self.detector, self.detector_watch = watch or Watch(), None, Watch()
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Evidence:
        self.modes.append(self.training)
        return Evidence(x[:, 0], x[:, 1].mean(dim=(1, 2)))

    def outlined_and_caught(self, good: Tensor, forged: Tensor, mask: Tensor, valid: Tensor) -> Any:
        return collapse.outlined_and_caught(self, good, forged, mask, valid)


def batch(outlines: int, catches: int) -> Batch:
    """Of three forgeries, the map outlines the first `outlines` and the score catches the first `catches`."""
    good, forged = torch.full((4, 3, 8, 8), 0.5), torch.full((4, 3, 8, 8), 0.4)
    for i in range(3):
        forged[i, 0] = 0.2
        forged[i, 0, :, :4] = 0.9 if i < outlines else 0.1
        forged[i, 1] = 0.8 if i < catches else 0.3
    return Batch(forged, good, masks(), ONES, torch.arange(4))


@pytest.mark.parametrize("outlines", range(4))
@pytest.mark.parametrize("catches", range(4))
def test_shares_by_hand(outlines: int, catches: int) -> None:
    made = batch(outlines, catches)
    found = collapse.outlined_and_caught(Answering(), made.clean, made.forged, made.mask, made.valid)
    assert found is not None
    assert float(found[0]) == pytest.approx(outlines / 3)
    assert float(found[1]) == pytest.approx(catches / 3)


def test_no_forgery_says_nothing() -> None:
    made = batch(1, 1)
    assert collapse.outlined_and_caught(Answering(), made.clean, made.forged, 0 * made.mask, made.valid) is None


def test_what_is_not_valid_is_not_around_a_forgery() -> None:
    made = batch(3, 3)
    loud = made.forged.clone()
    loud[:, 0, :, 6:] = 9.0  # far above the outline, but not judged
    valid = ONES.clone()
    valid[..., 6:] = 0
    found = collapse.outlined_and_caught(Answering(), made.clean, loud, made.mask, valid)
    assert found is not None
    assert float(found[0]) == 1
    assert float(collapse.outlined_and_caught(Answering(), made.clean, loud, made.mask, ONES)[0]) == 0  # type: ignore[index]


@pytest.mark.parametrize("training", [True, False])
def test_the_net_judges_as_the_finished_model_and_is_left_as_it_was(training: bool) -> None:
    net, made = Answering().train(training), batch(1, 1)
    collapse.outlined_and_caught(net, made.clean, made.forged, made.mask, made.valid)
    assert net.modes == [False]
    assert net.training is training


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8), st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_shares_of_either_order_add_up_to_one(a: list[float], b: list[float]) -> None:
    n = min(len(a), len(b))
    one, two = torch.tensor(a[:n], dtype=torch.float64), torch.tensor(b[:n], dtype=torch.float64)
    assert float(collapse._share_above(one, two) + collapse._share_above(two, one)) == pytest.approx(1, abs=1e-6)
    assert float(collapse._share_above(one, one)) == 0.5


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=10), st.floats(0, 0.99))
@settings(max_examples=60, deadline=None)
def test_a_running_mean_starts_at_its_first_value_and_stays_within_all(values: list[float], decay: float) -> None:
    watch = Watch()
    expected = values[0]
    for i, value in enumerate(values):
        watch.see("caught", torch.tensor(value), decay)
        expected = value if i == 0 else decay * expected + (1 - decay) * value
    assert float(watch.caught) == pytest.approx(expected, abs=1e-5)
    assert min(values) - 1e-5 <= float(watch.caught) <= max(values) + 1e-5
    assert float(watch.outlined) == -1


def test_a_watch_is_saved_and_goes_on() -> None:
    watch, again = Watch(), Watch()
    watch.see("critic", torch.tensor(0.7), 0.9)
    watch.steps += 5
    again.load_state_dict(watch.state_dict())
    assert float(again.critic) == pytest.approx(0.7)
    assert int(again.steps) == 5


def test_it_looks_every_so_often_and_counts_every_step() -> None:
    watch, net = Watch(), Answering()
    for step in range(7):
        shares = collapse.check(net, watch, batch(3, 3), "outlined", every=3, patience=100)
        assert float(shares["outlined"]) == 1
        assert int(watch.steps) == step + 1
    assert len(net.modes) == 3  # at steps 0, 3 and 6
    never = Watch()
    assert float(collapse.check(net, never, batch(3, 3), "caught", every=0, patience=0)["caught"]) == -1


def test_a_living_share_never_stops_a_fit_and_chance_does_after_the_patience() -> None:
    for outlines, dies in ((3, False), (2, False), (1, True)):
        watch, net = Watch(), Answering()
        for _ in range(4):
            collapse.check(net, watch, batch(outlines, 3), "outlined", every=1, patience=4)
        if dies:
            with pytest.raises(TrainingError, match="outlines 33 of 100 forgeries"):
                collapse.check(net, watch, batch(outlines, 3), "outlined", every=1, patience=4)
        else:
            collapse.check(net, watch, batch(outlines, 3), "outlined", every=1, patience=4)


@pytest.mark.parametrize(
    ("share", "stops"), [(-1.0, False), (0.0, True), (ALIVE - 1e-6, True), (ALIVE, False), (1.0, False)]
)
def test_the_line_between_dead_and_alive(share: float, stops: bool) -> None:
    if stops:
        with pytest.raises(TrainingError):
            collapse._stop_if_dead("caught", share, -1.0)
    else:
        collapse._stop_if_dead("caught", share, -1.0)


@pytest.mark.parametrize(
    ("name", "critic", "words"),
    [
        ("outlined", -1.0, "the map has collapsed: it outlines 40 of 100 forgeries, where 50 is chance; set a lower"),
        ("caught", 0.8, "the detector's score has collapsed: it catches 40 .* right about 80% of the pairs; set a lower"),
        ("outlined", 0.995, "set critic_norm=spectral or a lower critic_rate"),
    ],
)
def test_the_sentence_names_what_died_and_what_to_set(name: str, critic: float, words: str) -> None:
    with pytest.raises(TrainingError, match=words) as error:
        collapse._stop_if_dead(name, 0.4, critic)
    assert str(error.value).endswith("and fit again.")
    assert "\n" not in str(error.value)


def test_the_last_look_asks_the_finished_net_the_same() -> None:
    stage: Any = collapse.last_look(lambda sample, rng: None)  # type: ignore[arg-type, return-value]
    assert stage.name == "last look"
    net, seen = Answering(), []
    for outlines in (0, 1, 0):
        collapse._last_look(net, seen, batch(outlines, 3))
    assert len(seen) == 3
    with pytest.raises(TrainingError, match="outlines 11 of 100"):
        collapse._last_word(net, seen)
    collapse._last_word(net, [])
    alive: list[Any] = []
    collapse._last_look(net, alive, batch(3, 1))
    collapse._last_word(net, alive)  # there is no detector, so its share does not count
    net.detector = SimpleNamespace()  # type: ignore[assignment]
    with pytest.raises(TrainingError, match="catches 33 of 100"):
        collapse._last_word(net, alive)
    assert LOOKS >= 8
