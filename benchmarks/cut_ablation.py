"""What the parts of `cutswap` and `cutpaste` buy: one row per variant, data set and seed in results/cut_ablation.csv.

    FLAWFORGE_DATA=... OMP_NUM_THREADS=1 python benchmarks/cut_ablation.py [--minutes 10] [--seeds 0 1 2]
        [--data mvtec_bottle magnetic_tile] [--variant NAME ...] [--set KEY=VALUE ...] [--steps N]

Every variant departs from its method's `cpu` profile in the one thing that names it, for the same minutes of
processor time. Rows that are
there already (variant, data set, budget, settings, seed) are not measured again, so a stopped run goes on where it was.

`forged_*` are judged on good pictures that were held back and on defects forged into them (`proving.specimens`, kinds that
neither method trains on); settings may be chosen by them. The other figures are the labelled test pictures', last weights;
nothing is chosen by them. Pixel figures are taken at every second pixel of every second row. `cpu_seconds` is what the fit
cost on one thread, `fit_seconds` the same by the clock.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flawforge import fitting
from flawforge.config import parse_pairs
from flawforge.fitting import engine
from flawforge.judging import loading
from flawforge.proving import specimens
from flawforge_runtime import images, inspector
from judging import figures, test_pairs
from record import read, record

RESULTS = Path(__file__).resolve().parent / "results" / "cut_ablation.csv"
SETS = ("mvtec_bottle", "magnetic_tile")
KEY = ("variant", "data", "budget", "size", "settings", "seed")
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "cutswap": ("cutswap", {}),
    "random places": ("cutswap", {"saliency": "none"}),
    "lowest cluster": ("cutswap", {"pick": "lowest"}),
    "random cluster": ("cutswap", {"pick": "random"}),
    "finest level": ("cutswap", {"levels": (1,)}),
    "coarsest level": ("cutswap", {"levels": (4,)}),
    "classes by level": ("cutswap", {"reading": "levels"}),
    "all levels in one picture": ("cutswap", {"reading": "all"}),
    "one-way paste": ("cutswap", {"exchange": False}),
    "fuzzy c-means": ("cutswap", {"clustering": "fuzzy"}),
    "five clusters": ("cutswap", {"clusters": 5}),
    "patches 0.005 to 0.05": ("cutswap", {"area": (0.005, 0.05)}),
    "patches 0.05 to 0.3": ("cutswap", {"area": (0.05, 0.3)}),
    "nearest pictures": ("cutswap", {"density": "nearest"}),
    "score of the map": ("cutswap", {"score": "map"}),
    "map by distance": ("cutswap", {"surprise": "distance"}),
    "map of stage 1": ("cutswap", {"stages": 1}),
    "map of stages 1 to 3": ("cutswap", {"stages": 3}),
    "cutpaste": ("cutpaste", {}),
    "cutpaste, patch": ("cutpaste", {"task": "patch"}),
    "cutpaste, scar": ("cutpaste", {"task": "scar"}),
    "cutpaste, union": ("cutpaste", {"task": "union"}),
    "cutpaste, nearest pictures": ("cutpaste", {"density": "nearest"}),
    "cutpaste, score of the map": ("cutpaste", {"score": "map"}),
    "cutpaste, windows": ("cutpaste", {"localise": "windows"}),
}


def main() -> None:
    options = _options()
    root = Path(os.environ["FLAWFORGE_DATA"])
    torch.set_num_threads(1)
    for seed in options.seeds:
        for variant in options.variant or VARIANTS:
            for name in options.data:
                budget = f"{options.steps} steps" if options.steps else f"{options.minutes:g} minutes"
                cells = (variant, name, budget, str(options.size), " ".join(sorted(options.set)), str(seed))
                key = dict(zip(KEY, cells, strict=True))
                if any(all(row.get(k) == v for k, v in key.items()) for row in read(options.out)[1]):
                    print(f"{variant}, {name}, seed {seed}: already measured")
                    continue
                found = measure(root / name, variant, seed, options)
                record(options.out, key | found)
                shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in found.items()}
                print(variant, name, seed, shown, flush=True)


def measure(folder: Path, variant: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Fit one variant and judge it: by forged defects, and by the test pictures."""
    method, changed = VARIANTS[variant]
    request = fitting.Request(
        folder,
        Path("unused"),
        method=method,
        seed=seed,
        settings=changed | parse_pairs(options.set),
        steps=options.steps,
        minutes=None if options.steps else options.minutes,
        clock="cpu",
        size=options.size,
    )
    plan = fitting.plan(request)
    pictures = fitting.load_pictures(plan)
    net, _ = fitting.new_net(plan)
    stages = plan.method.stages(net, plan.settings)
    clock, cpu = time.perf_counter(), time.process_time()
    history = engine.fit(
        net,
        stages,
        fitting.batches(plan, pictures, net, stages),
        plan.budget,
        engine.Run(seed=seed, device="cpu", precision=plan.settings.precision),
        clean=lambda: pictures.clean_batches(plan.settings.batch),
    )
    found: dict[str, Any] = {"fit_seconds": time.perf_counter() - clock, "cpu_seconds": time.process_time() - cpu}
    found["steps"] = sum(max(row["step"] for row in history if row["stage"] == s) for s in {row["stage"] for row in history})
    judge = inspector.Inspector(
        loading.numpy_network(net, torch.device("cpu")), plan.canvas, plan.method.score(plan.settings)
    )
    goods = [images.read_picture(entry.path).pixels for entry in plan.held]
    forged = specimens.proof_pictures([entry.path for entry in plan.held], specimens.Recipe(count=options.proofs))
    blank = [(good, np.zeros(good.shape[:2], bool)) for good in goods]
    made = figures(judge, [*blank, *((each.image, each.mask) for each in forged)], every=2)
    found |= {f"forged_{name}": value for name, value in made.items() if name != "ms_per_picture"}
    found |= figures(judge, test_pairs(folder), every=2)
    return found | {"facts": "; ".join(net.facts())}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What the parts of cutswap and cutpaste buy.")
    parser.add_argument("--data", nargs="+", default=list(SETS))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, help="instead of minutes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variant", nargs="+", choices=list(VARIANTS))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changed in every variant")
    parser.add_argument("--proofs", type=int, default=8, help="forged defects of each kind and contrast")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
