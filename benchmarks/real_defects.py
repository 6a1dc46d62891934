"""Do a few real defects help a fit, and do they harm it on other kinds? results/real_defects.csv.

    FLAWFORGE_DATA=/data OMP_NUM_THREADS=1 python benchmarks/real_defects.py [--data NAME:KIND ...] [--counts 0 1 5 20]
        [--minutes 1] [--size 256] [--trunk lite0] [--pictures 100] [--tests 30] [--seeds 0] [--out FILE]

`--pictures` good training pictures are drawn by the seed, and of one kind of defect as many pictures as the largest of
`--counts`. The model is fitted with none, the first, the first five, ... of these (`fit --defects`), and judges the same
test pictures each time: none of the drawn ones, at most `--tests` of every kind and twice as many good ones. A row a fit
for the same kind, and one for all other kinds together, each against the good test pictures. Minutes are of processor time.
Rows that are there already are not measured again.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ablation import missing, show
from flawforge import fitting
from flawforge.pictures import dataset, masks
from flawforge.pictures.listing import Entry
from flawforge.proving import intervals, metrics
from flawforge.types import Decision
from record import record

SETS = ("magnetic_tile:crack", "kolektorsdd:crack")
Judged = list[tuple[Entry, Decision]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(SETS))
    parser.add_argument("--counts", type=int, nargs="+", default=[0, 1, 5, 20])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--trunk", default="", help="as of fit; none = many more steps in the same time")
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--tests", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "real_defects.csv")
    options = parser.parse_args()
    for name, seed, count in ((d, s, c) for s in options.seeds for c in options.counts for d in options.data):
        data, kind = name.split(":")
        key = {"data": data, "kind": kind, "defects": str(count), "minutes": f"{options.minutes:g}", "seed": str(seed)}
        key |= {"size": str(options.size), "trunk": options.trunk}
        if missing(options.out, [key]):
            for row in measured(Path(os.environ["FLAWFORGE_DATA"]) / data, kind, count, seed, options):
                record(options.out, {**key, **row})
                show(row={**key, **row})


def drawn(
    entries: Sequence[Entry], kind: str, options: argparse.Namespace, seed: int
) -> tuple[list[Entry], list[Entry], list[Entry]]:
    """(good pictures to learn from, defects to learn from, test pictures): none is in two of them."""
    rng = np.random.default_rng(seed)

    def some(given: Sequence[Entry], most: int) -> list[Entry]:
        return [given[place] for place in rng.permutation(len(given))[:most]]

    tests = [entry for entry in entries if entry.split == "test"]
    good = some([entry for entry in entries if entry.split == "train"], options.pictures)
    taught = some([entry for entry in tests if entry.kind == kind and entry.mask_path], max(options.counts))
    left = [entry for entry in tests if entry not in taught and (not entry.label or entry.mask_path)]
    judged = []
    for each in sorted({entry.kind for entry in left}):
        of_kind = [entry for entry in left if entry.kind == each]
        judged += some(of_kind, options.tests if of_kind[0].label else 2 * options.tests)
    return good, taught, judged


def measured(root: Path, kind: str, count: int, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Fit with the first `count` defects, judge the test pictures; a row for the same kind and one for the others."""
    good, taught, judged = drawn(dataset.read_entries(root), kind, options, seed)
    with tempfile.TemporaryDirectory() as folder:
        goods, defects = Path(folder) / "good.csv", Path(folder) / "defects.csv"
        goods.write_text("image_path\n" + "".join(f"{entry.path}\n" for entry in sorted(good, key=lambda e: e.path)))
        lines = "".join(f"{entry.path},1,test,{kind},{entry.mask_path}\n" for entry in taught[:count])
        defects.write_text("image_path,label,split,kind,mask_path\n" + lines)
        how = {"minutes": options.minutes, "clock": "cpu", "seed": seed, "size": options.size, "trunk": options.trunk}
        model = fitting.fit(goods, **how, defects=defects if count else None)
    assert model.content is not None
    decisions = [(entry, model(entry.path)) for entry in judged]
    facts = [fact for fact in model.content.config["notes"] if fact.startswith(("for the picture", "for the map"))]
    uses = {"use": "; ".join(fact.partition(";")[0] for fact in facts), "steps": model.content.config["training"]["steps"]}
    fine = [(entry, decision) for entry, decision in decisions if not entry.label]
    rows = []
    for group, is_one in (("same kind", lambda entry: entry.kind == kind), ("other kinds", lambda e: e.kind != kind)):
        defective = [(entry, decision) for entry, decision in decisions if entry.label and is_one(entry)]
        if not defective:  # KolektorSDD has one kind
            continue
        rows.append({"tested": group, "good": len(good), **uses, **figures(fine, defective, seed)})
    return rows


def figures(good: Judged, defective: Judged, seed: int) -> dict[str, Any]:
    """Image AUROC and average precision of pixels, with intervals for the first; and who is rejected at the limit."""
    both = [*good, *defective]
    labels = [bool(entry.label) for entry, _ in both]
    scores = [decision.pred_score for _, decision in both]
    auroc = intervals.image_metrics(scores, labels, bootstrap=500, rng=np.random.default_rng(seed))["auroc"]
    maps = [decision.anomaly_map for _, decision in both]
    where = [_mask(entry, decision.anomaly_map.shape) for entry, decision in both]
    found = [decision.verdict == "NG" for _, decision in defective]
    recall = intervals.rate(sum(found), len(found))
    return {
        "n_good": len(good),
        "n_defective": len(defective),
        "image_auroc": auroc.value,
        "image_auroc_low": auroc.low,
        "image_auroc_high": auroc.high,
        "pixel_ap": metrics.pixel_average_precision(maps, where),
        "recall": recall.value,
        "recall_low": recall.low,
        "recall_high": recall.high,
        "false_alarms": float(np.mean([decision.verdict == "NG" for _, decision in good])),
    }


def _mask(entry: Entry, shape: tuple[int, ...]) -> Any:
    if entry.mask_path is None:
        return np.zeros(shape, bool)
    mask = masks.read(entry.mask_path, entry.path, (shape[0], shape[1]), 10**9)
    return np.zeros(shape, bool) if mask is None else mask


if __name__ == "__main__":
    main()
