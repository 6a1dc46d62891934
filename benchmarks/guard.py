"""Does the guard keep its word on real products? results/guard.csv.

    FLAWFORGE_DATA=/data python benchmarks/guard.py [--method patchstats] [--minutes 1] [--data NAME ...] [--out FILE]

For each data set a model is fitted to the good pictures, then judges

- good and defective test pictures as they are (how many are "not like any good picture", how many OK);
- good test pictures with a share of their rows or columns replaced by a constant, a gradient, a copy of the neighbour, noise
  or another product (tests/harm.py);
- the good pictures of the other data sets.

A row a kind and share: how many were judged OK, REVIEW, NG, and how many of these NG by the guard. No setting was chosen by
these rows: MARGIN is an assumption, and the same for all products.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from flawforge import fitting
from flawforge.pictures import dataset
from flawforge.pictures.listing import evenly
from flawforge.proving import intervals
from flawforge.types import ImageError
from flawforge_runtime import images
from harm import KINDS, harmed
from record import record

NAMES = ("mvtec_bottle", "magnetic_tile", "kolektorsdd", "aws_cookies")
SHARES = (0.05, 0.1, 0.25, 0.5, 0.9, 1.0)
MOST = 30  # good test pictures that are harmed, evenly spread


def pictures_of(root: Path, name: str, most: int, label: int = 0) -> list[Path]:
    test = [entry.path for entry in dataset.read_entries(root / name) if entry.split == "test" and entry.label == label]
    return list(evenly(test, most))


def cases(root: Path, name: str, most: int) -> Iterator[tuple[str, float, Any]]:
    """(kind, share, pixels) of all that a model of `name` is to judge."""
    goods = [images.read_picture(path).pixels for path in pictures_of(root, name, 10**6)]
    for pixels in goods:
        yield "good as it is", 0.0, pixels
    for path in pictures_of(root, name, 10**6, label=1):
        yield "defective as it is", 0.0, images.read_picture(path).pixels
    others = [other for other in NAMES if other != name and (root / other).is_dir()]
    for other in others:
        for path in pictures_of(root, other, most):
            yield f"good {other}", 1.0, images.read_picture(path).pixels
    foreign = images.read_picture(pictures_of(root, others[0], 1)[0]).pixels if others else None
    rng = np.random.default_rng(0)
    for kind in KINDS:
        for share in SHARES:
            for number, pixels in enumerate(goods[:: max(1, len(goods) // most)][:most]):
                yield kind, share, harmed(pixels, kind, share, number % 2, rng, foreign)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="patchstats")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--data", nargs="+", default=NAMES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=MOST)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "guard.csv")
    options = parser.parse_args()
    root = Path(os.environ["FLAWFORGE_DATA"])
    for name in options.data:
        with tempfile.TemporaryDirectory() as folder:
            judge = fitting.run(
                fitting.Request(
                    root / name, Path(folder) / "m", method=options.method, minutes=options.minutes, seed=options.seed
                )
            )
        assert judge.guard is not None
        counts: dict[tuple[str, float], Counter[str]] = {}
        for kind, share, pixels in cases(root, name, options.most):
            found = counts.setdefault((kind, share), Counter())
            try:
                decision = judge(pixels)
            except ImageError:  # far smaller or more oblong than the product
                found["refused"] += 1
                continue
            found.update([decision.verdict, *([] if decision.valid else ["invalid"])])
        for (kind, share), found in counts.items():
            n = sum(found[verdict] for verdict in ("OK", "REVIEW", "NG", "refused"))
            ok = intervals.rate(found["OK"], n)
            row = {
                "data": name,
                "method": options.method,
                "seed": options.seed,
                "kind": kind,
                "share": share,
                "n": n,
                "ok": found["OK"],
                "review": found["REVIEW"],
                "ng": found["NG"],
                "invalid": found["invalid"],
                "refused": found["refused"],
                "ok_rate": ok.value,
                "ok_low": ok.low,
                "ok_high": ok.high,
                "fitted_to": judge.guard.count,
                "left_out_rejected": judge.guard.flagged,
            }
            record(options.out, row)
            print(name, kind, share, dict(found), flush=True)


if __name__ == "__main__":
    main()
