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
                      size carries no information; 95 % interval by bootstrap
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

from flawforge.judging.loading import load
from flawforge.pictures.dataset import good_entries, read_entries
from flawforge.proving import intervals
from flawforge.proving.pod import forgers_of, prove, recipe_for, touches
from flawforge.proving.specimens import defect_size
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
        command = [
            "fit",
            str(data),
            "-o",
            str(model),
            "--method",
            options.method,
            "--minutes",
            f"{options.minutes:g}",
            "--clock",
            "cpu",
        ]
        ours = [sys.executable, "-c", "from flawforge.cli import main; main()"]
        subprocess.run([*ours, *command, "--seed", str(seed)], check=True, stdout=subprocess.DEVNULL)
    inspector = load(model)
    entries = read_entries(data)
    goods = [entry.path for entry in good_entries(entries)]
    recipe = recipe_for(forgers_of(inspector.content.config), count=options.count, seed=seed)
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
        proof = prove(inspector, goods, recipe).as_dict()
        sizes, hits = real_defects(inspector, entries)
        summary, bins = compare(proof, sizes, hits)
        row = {
            "data": data.name,
            "method": options.method,
            "seed": seed,
            "rate": rate,
            "promised": inspector.calibration.false_alarm,
            "model_id": inspector.about["model_id"],
            "minutes": training.get("minutes"),
            "steps": training.get("steps"),
            "cpu_seconds": time.process_time() - start,
        }
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
        bins.append(
            {
                "from": float(low),
                "to": float(high),
                "n_real": int(inside.sum()),
                "real": real.value,
                "real_low": real.low,
                "real_high": real.high,
                "n_forged": len(forged),
                "forged": faked.value,
                "forged_low": faked.low,
                "forged_high": faked.high,
                "predicted": float(predicted[inside].mean()),
            }
        )
    pairs = [(each["predicted"], each["real"]) for each in bins]
    moves = len({a for a, _ in pairs}) > 1 and len({b for _, b in pairs}) > 1
    recall = float(hits.mean())
    exact = intervals.rate(int(hits.sum()), hits.size)
    rng = np.random.default_rng(0)
    gaps = (predicted - hits)[rng.integers(hits.size, size=(BOOTSTRAP, hits.size))].mean(axis=1)
    low, high = np.quantile(gaps, (0.025, 0.975))
    concordance = intervals.image_metrics(predicted, hits, bootstrap=BOOTSTRAP, rng=rng)["auroc"]
    summary = {
        "n_real": sizes.size,
        "real": recall,
        "real_low": exact.low,
        "real_high": exact.high,
        "forged": float(predicted.mean()),
        "faint": faint,
        "plain": plain,
        "gap": float(predicted.mean()) - recall,
        "gap_low": float(low),
        "gap_high": float(high),
        "spearman": float(spearmanr(*zip(*pairs, strict=True)).statistic) if moves else None,
        "concordance": concordance.value,
        "concordance_low": concordance.low,
        "concordance_high": concordance.high,
        "n_beyond": int((sizes > max(size for size, _ in trials)).sum()),
        "brier": float(np.mean((predicted - hits) ** 2)),
        "brier_rate": recall * (1 - recall),
        "median_size": float(np.median(sizes)),
        "n_forged": len(trials),
        "goods": proof["goods"],
    }
    return summary, bins


def _at(points: list[list[float]], sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """POD of a curve at sizes; beyond the sizes tried it stays as it is at the end."""
    table = np.array(points)
    return np.asarray(np.interp(np.log(sizes), np.log(table[:, 0]), table[:, 1]))


PANEL, EDGE, ACROSS = 250, 46, 2  # px of a panel's square, of the room about it; panels in a row
INKS = {True: "#2b6cb0", False: "#d4571a"}  # forged as large as these were tried, or not


def drawing(rows: list[dict[str, str]]) -> str:
    """A standalone SVG, predicted against actual recall: a panel per data set, a dot per size bin of each model and rate."""
    latest = {tuple(row[name] for name in (*KEY, "from")): row for row in rows}
    names = sorted({row["data"] for row in latest.values()})
    step = PANEL + EDGE + 26
    width, height = EDGE + ACROSS * step, -(-len(names) // ACROSS) * step + 66
    about = 'role="img" aria-label="Actual recall on real defects against recall predicted from synthetic ones"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12" {about}>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for i, name in enumerate(names):
        mine = [row for row in latest.values() if row["data"] == name]
        parts += _panel(name, mine, EDGE + i % ACROSS * step, 26 + i // ACROSS * step)
    foot = height - 50
    notes = ((0, INKS[True], "forged defects were tried at this size"), (270, INKS[False], "real ones larger than forged"))
    for x, ink, words in notes:
        parts.append(f'<circle cx="{EDGE + 6 + x}" cy="{foot}" r="5" fill="{ink}"/>')
        parts.append(f'<text x="{EDGE + 18 + x}" y="{foot + 4}">{words}</text>')
    more = "larger dot: larger defects; full: the model's own rate, hollow: 5 %; bar: 95 %; dashed: predicted = actual"
    parts.append(f'<text x="{EDGE}" y="{foot + 28}" fill="#555">{more}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(name: str, rows: list[dict[str, str]], left: int, top: int) -> list[str]:
    x = lambda v: left + v * PANEL  # noqa: E731
    y = lambda v: top + (1 - v) * PANEL  # noqa: E731
    models = len({row["method"] for row in rows})
    title = f"{name}, {models} method{'s' * (models > 1)}"
    parts = [f'<text x="{left}" y="{top - 8}" font-size="14" font-weight="600">{title}</text>']
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<path d="M{x(tick)} {y(0)}V{y(1)}M{x(0)} {y(tick)}H{x(1)}" stroke="#e5e8ec"/>')
        parts.append(f'<text x="{x(tick)}" y="{y(0) + 15}" text-anchor="middle" fill="#555">{tick:g}</text>')
        parts.append(f'<text x="{x(0) - 5}" y="{y(tick) + 4}" text-anchor="end" fill="#555">{tick:g}</text>')
    parts.append(f'<path d="M{x(0)} {y(0)}L{x(1)} {y(1)}" stroke="#999" stroke-dasharray="4 3"/>')
    parts.append(f'<text x="{x(0.5)}" y="{y(0) + 30}" text-anchor="middle">predicted from synthetic defects</text>')
    parts.append(f'<text transform="translate({left - 33} {y(0.5)}) rotate(-90)" text-anchor="middle">real recall</text>')
    place: dict[tuple[str, ...], int] = {}
    for row in sorted(rows, key=lambda row: float(row["from"])):
        key = tuple(row[each] for each in KEY)
        place[key] = place.get(key, 0) + 1
        a, b, low, high = (float(row[each]) for each in ("predicted", "real", "real_low", "real_high"))
        ink = INKS[int(row["n_forged"]) > 0]
        words = f"{row['method']}, {row['from']} to {row['to']} px, {row['n_real']} defects"
        parts.append(f'<path d="M{x(a):.1f} {y(low):.1f}V{y(high):.1f}" stroke="{ink}" opacity="0.18"/>')
        fill = ink if float(row["rate"]) == 0 else "none"
        parts.append(
            f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="{1.5 + 0.9 * place[key]:.1f}" stroke="{ink}" '
            f'fill="{fill}" fill-opacity="0.6"><title>{words}</title></circle>'
        )
    return parts


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
