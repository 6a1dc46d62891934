"""Model folders that an earlier commit fitted judge as they did then. tools/old_model.py made them at commit 7c3c296."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flawforge.judging import loading

FOLDER = Path(__file__).parent / "golden" / "models"
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", EXPECTED)
def test_an_old_model_judges_as_it_did(name: str) -> None:
    """Another processor may round the last bits differently, so scores are compared to a millionth."""
    judge = loading.load(FOLDER / name, device="cpu")
    for picture, then in EXPECTED[name].items():
        now = judge(FOLDER / picture)
        assert now.pred_score == pytest.approx(then["score"], rel=1e-6, abs=1e-6)
        np.testing.assert_allclose(now.anomaly_map[::8, ::8].flatten(), then["map"], rtol=1e-5, atol=1e-5)
        assert (now.p_value, now.verdict) == (then["p_value"], then["verdict"])


def test_the_models_differ_in_what_they_say_and_stay_small() -> None:
    """Else the test above could compare nothing with nothing."""
    for said in EXPECTED.values():
        good, chip = said["good.png"], said["chip.png"]
        assert good["map"] != chip["map"]
        assert len(set(good["map"])) > 8
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 2**19
