"""What the parts of `patchcore` and `padim` buy: one row per variant, data set and seed in results/density_ablation.csv.

    FLAWFORGE_DATA=... OMP_NUM_THREADS=1 python benchmarks/density_ablation.py [--trunk lite0] [--minutes 10] [--seeds 0 1 2]
        [--data mvtec_bottle magnetic_tile] [--variant NAME ...] [--steps N] [--forged]

Every variant looks at the features of --trunk and departs from its method's settings under it in the one thing that names
it. With --trunk none the features are learnt once for each data set and seed, in those minutes of processor time, and every
variant starts from the same ones. "untrained features" start from random weights. Rows that are there already are not
measured again.

`forged_*` are judged on good pictures that were held back and on defects forged into them (`proving.specimens`); settings
may be chosen by them. The other figures are the labelled test pictures'; nothing is chosen by them. `cpu_seconds` is what
the look at every good picture cost on one thread, `model_bytes` what the model holds.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import torch

from ablation import SETS, inspector_of, missing, pair_figures, proof_figures, show
from flawforge import fitting
from flawforge.fitting import engine
from flawforge.types import Collect, Init, Train
from record import record

RESULTS = Path(__file__).resolve().parent / "results" / "density_ablation.csv"
KEY = ("variant", "trunk", "data", "budget", "seed")
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "patchcore": ("patchcore", {}),
    "patchcore, untrained features": ("patchcore", {}),
    "patchcore, stages 1 and 2": ("patchcore", {"stages": (1, 2)}),
    "patchcore, stages 2 and 3": ("patchcore", {"stages": (2, 3)}),
    "patchcore, stages 1 to 3": ("patchcore", {"stages": (1, 2, 3)}),
    "patchcore, grid of 4": ("patchcore", {"grid": 4}),
    "patchcore, not standardised": ("patchcore", {"standardise": False}),
    "patchcore, 500 patches": ("patchcore", {"most": 500}),
    "patchcore, 2000 patches": ("patchcore", {"most": 2000, "store": 32}),
    "patchcore, 3000 patches": ("patchcore", {"most": 3000, "store": 22}),
    "patchcore, 1 % of the patches": ("patchcore", {"share": 0.01}),
    "patchcore, eq. 7": ("patchcore", {"reweight": 9}),
    "patchcore, no blur": ("patchcore", {"sigma": 0.0}),
    "patchcore, the map's maximum": ("patchcore", {"top": 0.0}),
    "padim": ("padim", {}),
    "padim, untrained features": ("padim", {}),
    "padim, grid of 4": ("padim", {"grid": 4}),
    "padim, each place its own pull": ("padim", {"shrink": "common"}),
    "padim, ridge alone": ("padim", {"shrink": "ridge"}),
    "padim, 64 numbers": ("padim", {"numbers": 64}),
    "padim, 48 numbers, grid of 4": ("padim", {"numbers": 48, "grid": 4}),
    "padim, all numbers": ("padim", {"numbers": 0}),
    "padim, no blur": ("padim", {"sigma": 0.0}),
}


def main() -> None:
    options = _options()
    root = Path(os.environ["FLAWFORGE_DATA"])
    torch.set_num_threads(1)
    for seed in options.seeds:
        for name in options.data:
            budget = f"{options.steps} steps" if options.steps else f"{options.minutes:g} minutes"
            budget = budget if options.trunk == "none" else ""
            rows = [
                dict(zip(KEY, (variant, options.trunk, name, budget, str(seed)), strict=True))
                for variant in options.variant or VARIANTS
            ]
            wanted = missing(options.out, rows)
            if not wanted:
                continue
            learnt, steps = features(root / name, seed, options) if options.trunk == "none" else (None, 0)
            for key in wanted:
                given = untrained(root / name, seed, options) if "untrained" in key["variant"] else learnt
                found = measure(root / name, key["variant"], seed, given, options)
                record(options.out, key | {"steps": steps} | found)
                show(key, row=found)


def features(folder: Path, seed: int, options: argparse.Namespace) -> tuple[Init, int]:
    """What every variant starts from without outside weights, and the steps that it took."""
    minutes = None if options.steps else options.minutes
    plan = fitting.plan(
        fitting.Request(
            folder,
            Path("unused"),
            method="patchcore",
            trunk="none",
            seed=seed,
            clock="cpu",
            steps=options.steps,
            minutes=minutes,
        )
    )
    net, _ = fitting.new_net(plan)
    stages = [stage for stage in plan.method.stages(net, plan.settings) if isinstance(stage, Train)]
    history = engine.fit(
        net,
        stages,
        fitting.batches(plan, fitting.load_pictures(plan), net, stages),
        plan.budget,
        engine.Run(seed=seed, device="cpu", precision=plan.settings.precision),
    )
    return Init(net.state_dict(), {"method": "patchcore"}), history[-1]["step"]


def untrained(folder: Path, seed: int, options: argparse.Namespace) -> Init:
    """Random weights."""
    plan = fitting.plan(fitting.Request(folder, Path("unused"), method="patchcore", seed=seed, trunk=options.trunk))
    plan = dataclasses.replace(plan, trunk=None)
    return Init(fitting.new_net(plan)[0].state_dict(), {"method": "patchcore"})


def measure(folder: Path, variant: str, seed: int, given: Init | None, options: argparse.Namespace) -> dict[str, Any]:
    """Look at the good pictures with these features, and judge: by forged defects, and by the test pictures."""
    method, changed = VARIANTS[variant]
    plan = fitting.plan(
        fitting.Request(folder, Path("unused"), method=method, seed=seed, settings=changed, trunk=options.trunk)
    )
    plan = dataclasses.replace(plan, trunk=given or plan.trunk)
    pictures, (net, _) = fitting.load_pictures(plan), fitting.new_net(plan)
    stages = plan.method.stages(net, plan.settings)
    assert all(isinstance(stage, Collect) for stage in stages)
    cpu = time.process_time()
    engine.fit(
        net,
        stages,
        fitting.batches(plan, pictures, net, stages),
        plan.budget,
        engine.Run(seed=seed, device="cpu"),
        clean=lambda: pictures.clean_batches(plan.settings.batch),
    )
    found: dict[str, Any] = {"cpu_seconds": time.process_time() - cpu}
    found["model_bytes"] = sum(each.nelement() * each.element_size() for each in net.state_dict().values())
    judge = inspector_of(net, plan)
    found |= proof_figures(judge, plan, options.proofs)
    if not options.forged:
        found |= pair_figures(judge, folder)
    return found | {"facts": "; ".join(net.facts())}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What the parts of patchcore and padim buy.")
    parser.add_argument("--data", nargs="+", default=list(SETS))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--steps", type=int, help="instead of minutes")
    parser.add_argument("--trunk", default="lite0", help="as `flawforge fit` takes it")
    parser.add_argument("--forged", action="store_true", help="judge by forged defects alone")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variant", nargs="+", choices=list(VARIANTS))
    parser.add_argument("--proofs", type=int, default=8, help="forged defects of each kind and contrast")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
