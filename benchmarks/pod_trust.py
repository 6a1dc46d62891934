"""How far does forged-defect POD tell the truth? Forged recall beside real recall, by size, where real masks exist.

    FLAWFORGE_DATA=... python benchmarks/pod_trust.py [--data mvtec_bottle ...] [--method patchstats] [--minutes 10]
        [--seeds 0] [--rates 0 0.05] [--models DIR] [--count 48] [--again]

For each data set, seed and rate: a model is fitted by the command line (or taken from --models, named as accuracy.py
names them), defects are forged into its held-back good pictures as `flawforge pod` does, and the labelled test pictures
are judged. A real defect is measured and counted by the same rules as a forged one: size = largest extent of the mask,
hit = NG and a mark on it. Rate 0 is the model's own promise; another rate moves the threshold before anything is judged.
Nothing of the real defects reaches the forging.

results/pod_trust.csv, one row each, with the minutes that the model was fitted for:
    real, forged      recall of all real defects, with its 95 % interval; the latter predicted at each real size by the
                      mean of the forged curves; `gap` is forged less real, its interval by bootstrap over real defects
    faint, plain      the same prediction by the curves of the lowest and of the highest contrast alone
    spearman          rank correlation over size bins of predicted and real recall
    concordance       chance that a real defect that was found has a higher predicted POD than one that was missed; 0.5 =
                      sizes foretell nothing; 95 % interval by bootstrap
    brier             of that prediction, beside `brier_rate`, that of the real recall itself, which knows more than any
                      forgery can
    n_beyond          real defects larger than the largest forged one, where the curves are held level
results/pod_trust_bins.csv: the bins. results/pod_trust.svg: all bins of all rows; docs/forged-and-real.md is written from
both by trust_page.py.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from flawforge import intervals
from flawforge.data import good_entries, read_entries
from flawforge.loading import load
from flawforge.pod import forgers_of, prove, touches, unseen
from flawforge.proof import CONTRASTS, Recipe, defect_size, held_out_kinds
from flawforge_runtime.calibrate import calibrate
from flawforge_runtime.images import read_mask, read_picture
from flawforge_runtime.types import CalibrationError
from record import read, record

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "pod_trust.csv"
PICTURE = HERE / "results" / "pod_trust.svg"
BINS = 5  # of real sizes, with as many real defects each
BOOTSTRAP = 1000
KEY = ("data", "method", "seed", "rate")


def main() -> int:
    options = _options()
    root = Path(os.environ.get("FLAWFORGE_DATA", ""))
    found = sorted(path.parent.name for path in root.glob("*/ground_truth")) if str(root) != "." else []
    unknown = [name for name in options.data or found if name not in found]
    if not found or unknown:
        raise SystemExit(f"FLAWFORGE_DATA holds {found or 'no data sets with masks'}, asked for were {unknown}.")
    done = {tuple(row[name] for name in KEY) for row in read(options.out)[1]}
    for seed in options.seeds:
        for name in options.data or found:
            keys = {rate: (name, options.method, str(seed), f"{rate:g}") for rate in options.rates}
            wanted = [rate for rate, key in keys.items() if options.again or key not in done]
            if wanted:
                with tempfile.TemporaryDirectory() as temporary:
                    _measure(root / name, seed, wanted, options, Path(temporary))
    bins = options.out.with_name("pod_trust_bins.csv")
    options.picture.write_text(drawing(read(bins)[1]), encoding="utf-8")
    return 0


def _measure(data: Path, seed: int, rates: list[float], options: argparse.Namespace, temporary: Path) -> None:
    name = f"{data.name}_{options.method}_{seed}"
    model = Path(options.models or temporary) / name
    if not model.is_dir():
        command = ["fit", str(data), "-o", str(model), "--method", options.method, "--minutes", f"{options.minutes:g}",
                   "--clock", "cpu"]  # fmt: skip
        ours = [sys.executable, "-c", "from flawforge.cli import main; main()"]
        subprocess.run([*ours, *command, "--seed", str(seed)], check=True, stdout=subprocess.DEVNULL)
    inspector = load(model)
    entries = read_entries(data)
    goods, _ = unseen([entry.path for entry in good_entries(entries)], inspector.content.config)
    trained_on = forgers_of(inspector.content.config)
    recipe = Recipe(held_out_kinds(trained_on), CONTRASTS, count=options.count, seed=seed)
    training = inspector.content.config["training"]
    for rate in rates:
        start = time.process_time()
        if rate:
            known = inspector.calibration
            try:
                inspector = inspector.with_calibration(calibrate(known.scores, rate, peaks=known.peaks))
            except CalibrationError as error:
                print(f"{data.name} seed {seed}: {error}", flush=True)
                continue
        proof, _ = prove(inspector, goods, recipe, trained_on=trained_on)
        sizes, hits = real_defects(inspector, entries)
        summary, bins = compare(proof, sizes, hits)
        row = {"data": data.name, "method": options.method, "seed": seed, "rate": rate,
               "promised": inspector.calibration.false_alarm, "model_id": inspector.about["model_id"],
               "minutes": training.get("minutes"), "steps": training.get("steps"),
               "cpu_seconds": time.process_time() - start}  # fmt: skip
        for each in bins:
            record(options.out.with_name("pod_trust_bins.csv"), row | each)
        record(options.out, row | summary)
        print(data.name, seed, rate, ", ".join(f"{key} {value}" for key, value in summary.items()), flush=True)


def real_defects(inspector: Any, entries: Any) -> tuple[NDArray[np.float64], NDArray[np.int_]]:
    """Size in px of its picture and hit of every defective test picture that has a mask."""
    sizes, hits = [], []
    for entry in entries:
        if entry.label != 1 or entry.split != "test" or entry.mask_path is None:
            continue
        decision = inspector(entry.path)
        mask = read_mask(entry.mask_path, read_picture(entry.path).pixels.shape[:2])
        if mask.any():
            sizes.append(defect_size(mask))
            hits.append(int(decision.pred_label and touches(decision, mask)))
    return np.array(sizes), np.array(hits)


def compare(
    proof: dict[str, Any], sizes: NDArray[np.float64], hits: NDArray[np.int_]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Summary and bins of a proof (the JSON of `flawforge pod`) and real defects: sizes (n,) px, hits (n,) of 0 and 1."""
    drawn = [curve for curve in proof["curves"] if curve["points"]]
    predicted = np.mean([_at(curve["points"], sizes) for curve in drawn], axis=0)
    tones = [curve["contrast"] for curve in drawn]
    faint, plain = (
        float(np.mean([_at(curve["points"], sizes) for curve in drawn if curve["contrast"] == tone]))
        for tone in (min(tones), max(tones))
    )
    trials = [(each["size"], each["hit"]) for each in proof["trials"]]
    edges = np.unique(np.quantile(sizes, np.linspace(0, 1, BINS + 1)))
    bins = []
    for low, high in pairwise(edges):
        inside = (sizes >= low) & ((sizes < high) | (high == edges[-1]))
        forged = [hit for size, hit in trials if low <= size < high]
        real, faked = intervals.rate(int(hits[inside].sum()), int(inside.sum())), intervals.rate(sum(forged), len(forged))
        bins.append({
            "from": float(low), "to": float(high), "n_real": int(inside.sum()), "real": real.value, "real_low": real.low,
            "real_high": real.high, "n_forged": len(forged), "forged": faked.value, "forged_low": faked.low,
            "forged_high": faked.high, "predicted": float(predicted[inside].mean()),
        })  # fmt: skip
    pairs = [(each["predicted"], each["real"]) for each in bins]
    moves = len({a for a, _ in pairs}) > 1 and len({b for _, b in pairs}) > 1
    recall = float(hits.mean())
    exact = intervals.rate(int(hits.sum()), hits.size)
    rng = np.random.default_rng(0)
    gaps = (predicted - hits)[rng.integers(hits.size, size=(BOOTSTRAP, hits.size))].mean(axis=1)
    low, high = np.quantile(gaps, (0.025, 0.975))
    concordance = intervals.image_metrics(predicted, hits, bootstrap=BOOTSTRAP, rng=rng)["auroc"]
    summary = {
        "n_real": sizes.size, "real": recall, "real_low": exact.low, "real_high": exact.high,
        "forged": float(predicted.mean()), "faint": faint, "plain": plain,
        "gap": float(predicted.mean()) - recall, "gap_low": float(low), "gap_high": float(high),
        "spearman": float(spearmanr(*zip(*pairs, strict=True)).statistic) if moves else None,
        "concordance": concordance.value, "concordance_low": concordance.low, "concordance_high": concordance.high,
        "n_beyond": int((sizes > max(size for size, _ in trials)).sum()),
        "brier": float(np.mean((predicted - hits) ** 2)), "brier_rate": recall * (1 - recall),
        "median_size": float(np.median(sizes)), "n_forged": len(trials), "goods": proof["goods"],
    }  # fmt: skip
    return summary, bins


def _at(points: list[list[float]], sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """POD of a curve at sizes; beyond the sizes tried it stays as it is at the end."""
    table = np.array(points)
    return np.asarray(np.interp(np.log(sizes), np.log(table[:, 0]), table[:, 1]))


COLOURS = ("#2b6cb0", "#d4571a", "#16794a", "#7a4bb5", "#8a5a00", "#b3261e")


def drawing(rows: list[dict[str, str]]) -> str:
    """A standalone SVG: predicted against real recall, a dot per size bin, a colour per data set."""
    side, left, top = 420, 56, 20
    x = lambda v: left + v * (side - 80)  # noqa: E731
    y = lambda v: top + (1 - v) * (side - 80)  # noqa: E731
    names = sorted({row["data"] for row in rows})
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {side}" font-family="sans-serif" font-size="12">',
             f'<rect width="640" height="{side}" fill="#fff"/>',
             f'<path d="M{x(0)} {y(0)}L{x(1)} {y(1)}" stroke="#999" stroke-dasharray="4 3"/>']  # fmt: skip
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<path d="M{x(tick)} {y(0)}V{y(1)}M{x(0)} {y(tick)}H{x(1)}" stroke="#e5e8ec"/>')
        parts.append(f'<text x="{x(tick)}" y="{y(0) + 16}" text-anchor="middle">{tick:g}</text>')
        parts.append(f'<text x="{x(0) - 6}" y="{y(tick) + 4}" text-anchor="end">{tick:g}</text>')
    parts.append(f'<text x="{x(0.5)}" y="{y(0) + 36}" text-anchor="middle">recall foretold by forged defects</text>')
    parts.append(f'<text transform="translate(14 {y(0.5)}) rotate(-90)" text-anchor="middle">recall of real defects</text>')
    place: dict[tuple[str, ...], int] = {}
    for row in rows:
        key = tuple(row[name] for name in KEY)
        place[key] = place.get(key, 0) + 1
        colour = COLOURS[names.index(row["data"]) % len(COLOURS)]
        a, b, low, high = (float(row[name]) for name in ("predicted", "real", "real_low", "real_high"))
        title = f"{row['data']}, {row['method']}, {row['from']} to {row['to']} px, {row['n_real']} defects"
        fill = colour if float(row["rate"]) == 0 else "#fff"
        parts.append(f'<path d="M{x(a):.1f} {y(low):.1f}V{y(high):.1f}" stroke="{colour}" opacity="0.35"/>')
        parts.append(f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="{2 + place[key]}" fill="{fill}" stroke="{colour}">'
                     f"<title>{title}</title></circle>")  # fmt: skip
    for i, name in enumerate(names):
        parts.append(f'<circle cx="{x(1) + 34}" cy="{top + 12 + 20 * i}" r="5" fill="{COLOURS[i % len(COLOURS)]}"/>')
        parts.append(f'<text x="{x(1) + 46}" y="{top + 16 + 20 * i}">{name}</text>')
    notes = ("larger dot: larger defects", "full: the model's own rate", "hollow: a higher rate", "bar: 95 %")
    for i, line in enumerate(notes):
        parts.append(f'<text x="{x(1) + 28}" y="{top + 40 + 20 * len(names) + 16 * i}" fill="#555">{line}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Forged-defect POD beside real recall.")
    parser.add_argument("--data", nargs="+", metavar="NAME", help="data sets with masks; all where not given")
    parser.add_argument("--method", default="patchstats")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 0.05], help="false-alarm rates; 0 = the model's own")
    parser.add_argument("--count", type=int, default=48, help="forgeries per kind and contrast")
    parser.add_argument("--models", help="folder of fitted models, DATA_METHOD_SEED; fitted there where missing")
    parser.add_argument("--again", action="store_true", help="measure rows again that are already there")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
