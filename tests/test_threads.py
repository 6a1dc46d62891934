"""One Inspector shared by threads gives each picture its own verdict, to the bit, on every backend."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from flawforge.demo.washers import render_good
from flawforge.judging import loading
from flawforge_runtime import backends


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "onnx", "openvino"])
def test_eight_threads_and_500_pictures(backend: str, tiny_model: Path, exports: dict[str, Path]) -> None:
    model = loading.load(tiny_model) if backend == "torch" else backends.load(exports[backend], threads=1)
    pictures = [render_good(index, size=64) for index in range(500)]
    alone = [model(picture) for picture in pictures]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(model, pictures))
    assert len({decision.pred_score for decision in alone}) > 200  # they differ, or the test could not fail
    for one, other in zip(alone, together, strict=True):
        assert (one.pred_score, one.verdict, one.p_value) == (other.pred_score, other.verdict, other.p_value)
        np.testing.assert_array_equal(one.anomaly_map, other.anomaly_map)
