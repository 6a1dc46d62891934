"""Cross-conformal: every picture scored once by a model that did not see it, parts together, and the promise says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawforge import answer, fitting, folds, loading
from flawforge.types import CalibrationError, ConfigError

SMALL = {"filters": 4, "side": 5}


@given(st.lists(st.integers(1, 5), min_size=2, max_size=30), st.integers(2, 8), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_units_are_dealt_whole_and_evenly(sizes: list[int], count: int, seed: int) -> None:
    units = [[Path(f"{i}_{j}") for j in range(size)] for i, size in enumerate(sizes)]
    if count > len(units):
        with pytest.raises(ConfigError, match="give from 2"):
            folds.deal(units, count, seed)
        return
    dealt = folds.deal(units, count, seed)
    assert sorted(path for fold in dealt for path in fold) == sorted(path for unit in units for path in unit)
    for unit in units:
        assert sum(bool(set(unit) & set(fold)) for fold in dealt) == 1
    assert max(map(len, dealt)) - min(map(len, dealt)) <= max(sizes)
    assert min(map(len, dealt)) >= 1


def test_all_pictures_train_and_all_calibrate(washers: Path, tmp_path: Path) -> None:
    request = fitting.Request(washers, tmp_path / "m", method="patchstats", size=64, settings=SMALL, false_alarm=0.05)
    seen: list[tuple[int, int]] = []
    model = folds.run(request, 3, on_fold=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    config = loading.load(tmp_path / "m").content.config
    assert (config["training"]["pictures"], config["training"]["held_back"]) == (24, 0)
    assert model.calibration is not None
    assert (model.calibration.n, model.calibration.folds, model.calibration.false_alarm) == (24, 3, 0.05)
    assert loading.load(tmp_path / "m").calibration == model.calibration
    assert len(model.calibration.looks["brightness"]) == 24
    said = answer.promise(model.calibration)
    assert said is not None
    assert "weaker than a hold-out" in said["text"]
    assert "not proved" in (tmp_path / "m" / "README.md").read_text()
    # 19 or more carry 5 %, however few a hold-out would have kept; 24 do not carry 1 %
    with pytest.raises(CalibrationError, match="hold back 99"):
        folds.run(fitting.Request(washers, tmp_path / "n", false_alarm=0.01), 3)
    with pytest.raises(ConfigError, match="leave one of them out"):
        folds.run(fitting.Request(washers, tmp_path / "n", confidence=0.95), 3)
