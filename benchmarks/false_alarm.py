"""Does the promised false-alarm rate hold on good pictures that the model never saw?

    FLAWFORGE_DATA=... python benchmarks/false_alarm.py MODEL [--data magnetic_tile] [--rate 0.05] [--splits 200]
        [--confidence 0.95]

The scores of the data set's test/good pictures, judged by MODEL's Inspector, are split at random into calibration and
fresh pictures, `splits` times. Each time the threshold is calibrated for `rate` on the one part and the share of false
alarms counted on the other. The promise is on the mean over calibrations, so the mean over the splits must stay at or
below `rate` plus the binomial error of as many fresh pictures (1.96 standard errors); one split alone may lie above,
and `share_above` says how many did. `expected` is what theory gives without ties: k / (n + 1), at most `rate`.

With --confidence the promise is on each calibration: the rate behind its threshold is above `rate` in at most 5 % of them.
A split counts alarms among finitely many fresh pictures, so `share_above` is held against `expected_above`, the exact share
of splits with more than `rate` alarms (beta-binomial), plus 1.96 standard errors of as many splits.

Splits are plain random ones: they test the calibration's arithmetic on real scores. They say nothing of a line that
drifts, or of frames of one part that fall on both sides.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom

from flawforge_runtime.calibrate import calibrate
from flawforge_runtime.rates import rank
from record import record

RESULTS = Path(__file__).resolve().parent / "results" / "false_alarm.csv"


def main() -> int:
    options = _options()
    scores = good_scores(options.model, options.data)
    row = measure(
        scores, options.rate, options.splits, options.calibration or scores.size // 2, options.seed, options.confidence
    )
    model = {"data": options.data, "model": options.model.name, "model_id": _model_id(options.model)}
    record(options.out, {**model, "seed": options.seed, **row})
    print(", ".join(f"{name} {value}" for name, value in row.items()))
    return int(row["holds"] == "no")


def measure(
    scores: NDArray[np.float64], rate: float, splits: int, calibration: int, seed: int, confidence: float | None = None
) -> dict[str, Any]:
    """Split n scores (n,) `splits` times into `calibration` and fresh ones; the measured columns of one row."""
    rng = np.random.default_rng(seed)
    rates = np.empty(splits)
    for index in range(splits):
        drawn = rng.permutation(scores)
        threshold = calibrate(drawn[:calibration].tolist(), rate, confidence=confidence).threshold
        rates[index] = (drawn[calibration:] > threshold).mean()
    fresh = scores.size - calibration
    bound = rate + 1.96 * np.sqrt(rate * (1 - rate) / (splits * fresh))
    k = rank(calibration, rate, confidence)
    above = float((rates > rate).mean())
    expected_above = float(betabinom(fresh, k, calibration + 1 - k).sf(np.floor(rate * fresh + 1e-9)))
    most = expected_above + 1.96 * np.sqrt(expected_above * (1 - expected_above) / splits)
    kept = rates.mean() <= bound if confidence is None else above <= most
    return {
        "promised": rate,
        "mean": float(rates.mean()),
        "bound": float(bound),
        "holds": "yes" if kept else "no",
        "expected": k / (calibration + 1),
        "spread": float(rates.std(ddof=1)),
        "share_above": above,
        "expected_above": expected_above,
        "confidence": confidence,
        "splits": splits,
        "n_calibration": calibration,
        "n_fresh": fresh,
    }


def good_scores(model: Path, data: str) -> NDArray[np.float64]:
    """Scores (n,) of the good test pictures, by the Inspector; kept in the temporary folder for the next call."""
    root = os.environ.get("FLAWFORGE_DATA")
    if not root or not (Path(root) / data / "test" / "good").is_dir():
        raise SystemExit(f"FLAWFORGE_DATA names no folder with {data}/test/good in it; set it, or correct --data.")
    folder = Path(root) / data / "test" / "good"
    name = hashlib.sha256(f"{_model_id(model)}{folder.resolve()}".encode()).hexdigest()[:16]
    cache = Path(tempfile.gettempdir()) / f"flawforge_scores_{name}.npz"
    if cache.exists():
        with np.load(cache) as kept:
            return np.asarray(kept["scores"], np.float64)
    from flawforge.judging.loading import load
    from flawforge.pictures.listing import pictures_in

    inspector = load(model)
    scores = np.array([inspector(path).pred_score for path in pictures_in(folder)])
    np.savez(cache, scores=scores)
    return scores


def _model_id(model: Path) -> str:
    """The model folder's own id: it changes with the weights."""
    from flawforge_runtime import bundle

    return bundle.read(model).model_id


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The promised false-alarm rate over random splits.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="magnetic_tile")
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--confidence", type=float, help="keep the rate with this probability, not only on average")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--calibration", type=int, help="pictures to calibrate on; half of them where not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
