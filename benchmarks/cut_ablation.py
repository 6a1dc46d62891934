"""What the parts of `cutswap` and `cutpaste` buy: one row per variant, data set and seed in results/cut_ablation.csv.

    FLAWFORGE_DATA=... OMP_NUM_THREADS=1 python benchmarks/cut_ablation.py [--minutes 10] [--seeds 0 1 2]
        [--data mvtec_bottle magnetic_tile] [--variant NAME ...] [--set KEY=VALUE ...] [--steps N]

Every variant departs from its method's `cpu` profile (those of SCRATCH: from its form of --trunk none) in the one thing that
names it, for the same minutes of processor time; a frozen trunk needs only seconds of them. Rows that are there already
(variant, data set, budget, settings, seed) are not measured again, so a stopped run goes on where it was.

`forged_*` are judged on good pictures that were held back and on defects forged into them (`proving.specimens`, kinds that
neither method trains on); settings may be chosen by them. The other figures are the labelled test pictures', last weights;
nothing is chosen by them. Pixel figures are taken at every second pixel of every second row. `cpu_seconds` is what the fit
cost on one thread, `fit_seconds` the same by the clock.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from pathlib import Path
from typing import Any

import torch

from ablation import inspector_of, missing, pair_figures, parser, proof_figures, show, trained
from flawforge import fitting
from flawforge.config import parse_pairs
from record import record

RESULTS = Path(__file__).resolve().parent / "results" / "cut_ablation.csv"
KEY = ("variant", "data", "budget", "size", "settings", "seed")
# Of the form without outside weights, --trunk none; the rows of before there was another have these names.
SCRATCH: dict[str, tuple[str, dict[str, Any]]] = {
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
# Of the default, which starts from a trunk. A variant that is not gated trains on all good pictures.
TRUNK: dict[str, tuple[str, dict[str, Any]]] = {
    "trunk": ("cutswap", {}),
    "trunk frozen": ("cutswap", {"tuning": "never"}),
    "trunk trained": ("cutswap", {"tuning": "always"}),
    "trunk trained, random places": ("cutswap", {"tuning": "always", "saliency": "none"}),
    "trunk frozen, score of the picture": ("cutswap", {"tuning": "never", "score": "picture"}),
    "trunk trained, score of the picture": ("cutswap", {"tuning": "always", "score": "picture"}),
    "cutpaste, trunk": ("cutpaste", {}),
    "cutpaste, trunk trained": ("cutpaste", {"tuning": "always"}),
    "cutpaste, trunk trained, score of the picture": ("cutpaste", {"tuning": "always", "score": "picture"}),
}
VARIANTS = SCRATCH | TRUNK


def main() -> None:
    asked = parser("What the parts of cutswap and cutpaste buy.", VARIANTS, RESULTS, seeds=(0,))
    asked.add_argument("--proofs", type=int, default=8, help="forged defects of each kind and contrast")
    options = asked.parse_args()
    torch.set_num_threads(1)
    for seed, variant in itertools.product(options.seeds, options.variant):
        for key in missing(options.out, [own_key(variant, name, seed, options) for name in options.data]):
            found = measure(Path(os.environ["FLAWFORGE_DATA"]) / key["data"], variant, seed, options)
            record(options.out, {**key, **found})
            show(variant, key["data"], seed, row=found)


def own_key(variant: str, name: str, seed: int, options: argparse.Namespace) -> dict[str, str]:
    """As this file's rows have it, which name the budget in one column."""
    budget = f"{options.steps} steps" if options.steps else f"{options.minutes:g} minutes"
    cells = (variant, name, budget, str(options.size), " ".join(sorted(options.set)), str(seed))
    return dict(zip(KEY, cells, strict=True))


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
        trunk="" if variant in TRUNK else "none",
        minutes=None if options.steps else options.minutes,
        clock="cpu",
        size=options.size,
    )
    plan = fitting.plan(request)
    pictures = fitting.load_pictures(plan)
    net, _ = fitting.new_net(plan)
    stages = fitting.stages_of(plan, net, pictures)
    clock, cpu = time.perf_counter(), time.process_time()
    history = trained(net, plan, pictures, stages, seed)
    found: dict[str, Any] = {"fit_seconds": time.perf_counter() - clock, "cpu_seconds": time.process_time() - cpu}
    last = {row["stage"]: row["step"] for row in history}
    found["steps"] = sum(last.values())
    judge = inspector_of(net, plan)
    found |= proof_figures(judge, plan, options.proofs) | pair_figures(judge, folder)
    return found | {"facts": "; ".join(net.facts())}


if __name__ == "__main__":
    main()
