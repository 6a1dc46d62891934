"""Does the stated false-alarm rate hold on pictures of other batches? results/batches.csv.

    FLAWFORGE_DATA=/data OMP_NUM_THREADS=1 python benchmarks/batches.py [--data NAME ...] [--method padim] [--splits 10]
        [--ways default] [--out FILE]

The good training pictures, in the order of their names, are cut into runs of RUN neighbours. A fifth of the runs is set
aside as the pictures of other batches; the model is fitted on the rest, once with single pictures held back and once by the
default, which holds back blocks where it finds batches. One row a split and way: the expected rate, its 95 % bound, and how
many of the pictures set aside are NG. `--set` is as for `fit`. Rows that are there already are not measured again.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from ablation import missing, show
from flawforge import fitting
from flawforge.config import parse_pairs
from flawforge.fitting import planning
from flawforge.pictures import dataset
from flawforge.pictures.batches import in_order
from record import record

SETS = ("mvtec_bottle", "magnetic_tile", "kolektorsdd", "aws_cookies")
RUN = 8
WAYS = ("single pictures", "default")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(SETS))
    parser.add_argument("--method", default="padim")
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--most", type=int, default=260, help="good pictures at most, the first by name")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "batches.csv")
    options = parser.parse_args()
    for name in options.data:
        entries = dataset.good_entries(dataset.read_entries(Path(os.environ["FLAWFORGE_DATA"]) / name))
        paths = in_order([entry.path for entry in entries])[: options.most]
        runs = [paths[start : start + RUN] for start in range(0, len(paths), RUN)]
        for split in range(options.splits):
            order = np.random.default_rng(split).permutation(len(runs))
            aside = {path for place in order[: max(1, len(runs) // 5)] for path in runs[place]}
            for way in options.ways:
                key = {"data": name, "method": options.method, "way": way, "split": str(split)}
                if missing(options.out, [key]):
                    row = {**key, **measured(paths, aside, way, split, options)}
                    record(options.out, row)
                    show(row=row)


def measured(paths: list[Path], aside: set[Path], way: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Fit on the others, judge those set aside."""
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "good.csv"
        used = [path for path in paths if path not in aside]
        listing.write_text("image_path\n" + "".join(f"{path}\n" for path in used))
        told = {"method": options.method, "seed": seed, "settings": parse_pairs(options.set)}
        look = None if way == "single pictures" else planning.find_batches
        with mock.patch.object(planning, "find_batches", side_effect=look, return_value=None):
            model = fitting.fit(listing, **told)
    verdicts = [model(path).verdict for path in sorted(aside)]
    calibration = model.calibration
    assert calibration is not None
    return {
        "trained_on": len(used),
        "calibration_count": calibration.n,
        "counts": calibration.of,
        "expected": calibration.rate_ng.expected,
        "bound_95": calibration.rate_ng.bound,
        "aside": len(verdicts),
        "ng": verdicts.count("NG"),
        "rate": verdicts.count("NG") / len(verdicts),
    }


if __name__ == "__main__":
    main()
