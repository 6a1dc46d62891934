"""The benchmarks' own arithmetic, so that a recorded figure means what its column says."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import accuracy
import aupro_speed
import false_alarm
from flawforge import metrics
from record import record


def test_random_splits_hold_the_promise_at_the_exact_rate() -> None:
    scores = np.random.default_rng(0).normal(size=190)
    row = false_alarm.measure(scores, 0.05, splits=200, calibration=95, seed=1)
    assert row["expected"] == 4 / 96  # floor(0.05 * 96) = 4 of 96
    assert row["mean"] == pytest.approx(4 / 96, abs=4 * row["spread"] / np.sqrt(200))
    assert row["holds"] == "yes"
    assert row["bound"] == pytest.approx(0.05 + 1.96 * np.sqrt(0.05 * 0.95 / (200 * 95)))
    assert (row["n_calibration"], row["n_fresh"]) == (95, 95)
    assert false_alarm.measure(scores, 0.05, splits=200, calibration=95, seed=1) == row


def test_equal_scores_never_alarm() -> None:
    row = false_alarm.measure(np.ones(60), 0.1, splits=5, calibration=30, seed=0)
    assert (row["mean"], row["share_above"]) == (0.0, 0.0)


def test_synthetic_maps_are_a_fair_task() -> None:
    """A seed gives the same maps, and their AUPRO is neither 0 nor 1."""
    masks = np.zeros((4, 64, 64), bool)
    masks[0, 10:20, 10:22] = masks[1, 30:50, 5:15] = True
    maps, _ = aupro_speed.synthetic(masks, 0)
    assert (maps == aupro_speed.synthetic(masks, 0)[0]).all()
    value = metrics.aupro(list(maps), list(masks), 0.3)
    assert value is not None
    assert 0.05 < value < 0.99


def test_a_measured_row_is_not_measured_again_but_a_failed_one_is(tmp_path: Path) -> None:
    options = argparse.Namespace(method="draem", profile="cpu", minutes=10.0, size=256, set=["b=2", "a=1"])
    key = accuracy._key(options, "parts", 0)
    path = tmp_path / "accuracy.csv"
    record(path, {**dict(zip(accuracy.KEY, key, strict=True)), "error": "the disk is full"})
    assert key not in accuracy._done(path)
    record(path, dict(zip(accuracy.KEY, key, strict=True)))
    assert key in accuracy._done(path)
    options.set.reverse()
    assert accuracy._key(options, "parts", 0) == key
    assert accuracy._key(options, "parts", 1) not in accuracy._done(path)
