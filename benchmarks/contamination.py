"""What defective parts among the good pictures do, and whether `fit` notices: results/contamination.csv.

    FLAWFORGE_DATA=/data OMP_NUM_THREADS=1 python benchmarks/contamination.py [--data NAME ...] [--method padim]
        [--set KEY=VALUE ...] [--shares 0 0.01 0.02 0.05 0.1] [--seeds 0 1 2] [--pictures 100] [--out FILE]

`--pictures` good training pictures are drawn by the seed, and real test defects, drawn as well, are put among them and
called good (at least one where the share is not 0). The model is fitted as it is, and with `--clean`, and judges the other
test pictures. One row a fit: how many pictures `fit` named, how many of them are defective, the NG limit, image AUROC, and
the rates. With a share of 0 a named picture is a warning for nothing. Where `fit` names no picture, `--clean` leaves none
out, so that row repeats the figures of the fit before. Rows that are there already are not measured again.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ablation import missing, show
from flawforge import fitting
from flawforge.config import parse_pairs
from flawforge.pictures import dataset
from flawforge.proving import metrics
from record import read, record

SETS = ("mvtec_bottle", "magnetic_tile", "kolektorsdd", "aws_cookies")
COUNTS = ("good", "mixed_in", "named", "named_defective", "calibration_doubts")
FIGURES = (*COUNTS, "ng_limit", "image_auroc", "false_alarms", "escapes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(SETS))
    parser.add_argument("--method", default="padim")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--shares", type=float, nargs="+", default=[0, 0.01, 0.02, 0.05, 0.1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "contamination.csv")
    options = parser.parse_args()
    for name, seed, share in ((d, s, c) for d in options.data for s in options.seeds for c in options.shares):
        for way in ("as it is", "--clean"):
            key = {"data": name, "method": options.method, "share": f"{share:g}", "way": way, "seed": str(seed)}
            key["settings"] = " ".join(options.set)
            if missing(options.out, [key]):
                same = _nothing_named(options.out, {**key, "way": "as it is"}) if way == "--clean" else None
                root = Path(os.environ["FLAWFORGE_DATA"]) / name
                row = {**key, **(same or measured(root, share, way == "--clean", seed, options))}
                record(options.out, row)
                show(row=row)


def _nothing_named(out: Path, key: dict[str, str]) -> dict[str, Any] | None:
    """The figures of the row under `key` where that fit named no picture."""
    for row in read(out)[1]:
        if row["named"] == "0" and all(row.get(name, "") == value for name, value in key.items()):
            return {name: row[name] for name in FIGURES}
    return None


def measured(root: Path, share: float, clean: bool, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Fit on a mixed folder, judge the test pictures that are not in it."""
    entries, rng = dataset.read_entries(root), np.random.default_rng(seed)
    good = [entry.path for entry in entries if entry.split == "train"]
    good = [good[place] for place in sorted(rng.permutation(len(good))[: options.pictures])]
    tests = [entry for entry in entries if entry.split == "test"]
    defective = [entry.path for entry in tests if entry.label]
    count = max(1, round(share * len(good))) if share else 0
    mixed_in = {defective[place] for place in rng.permutation(len(defective))[:count]}
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "good.csv"
        listing.write_text("image_path\n" + "".join(f"{path}\n" for path in (*good, *sorted(mixed_in))))
        model = fitting.fit(listing, method=options.method, seed=seed, clean=clean, settings=parse_pairs(options.set))
    assert model.content is not None
    assert model.calibration is not None
    named = {each["path"] for each in model.content.config["screening"]["suspects"]}
    left = [entry for entry in tests if entry.path not in mixed_in]
    decisions = [model(entry.path) for entry in left]
    labels = [bool(entry.label) for entry in left]
    ng = [decision.verdict == "NG" for decision in decisions]
    return {
        "good": len(good),
        "mixed_in": count,
        "named": len(named),
        "named_defective": len(named & {str(path) for path in mixed_in}),
        "calibration_doubts": len(model.calibration.doubts),
        "ng_limit": model.calibration.threshold,
        "image_auroc": metrics.auroc([decision.pred_score for decision in decisions], labels),
        "false_alarms": float(np.mean([n for n, label in zip(ng, labels, strict=True) if not label])),
        "escapes": float(np.mean([not n for n, label in zip(ng, labels, strict=True) if label])),
    }


if __name__ == "__main__":
    main()
