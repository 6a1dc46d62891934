"""Which settings of DRAEM's cpu profile learn most in the same time? One factor at a time, judged without any test picture.

    FLAWFORGE_DATA=... python benchmarks/draem_ablation.py [--data mvtec_bottle magnetic_tile] [--minutes 10 | --steps N]
        [--seeds 0 1 2] [--variant NAME ...] [--set KEY=VALUE ...]

One row per product, variant and seed in results/draem_ablation.csv; rows that are there already are not measured again.
Every variant has the same minutes of processor time, or with --steps the same number of steps. `forged_...` are figures of
the held-back good pictures and of synthetic defects in them, by forgers that training never used (paste and physical;
training uses Perlin textures).
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from pathlib import Path
from typing import Any

from ablation import budget, key_of, missing, parser, show
from flawforge import config, fitting
from judging import forged_figures
from record import record

RESULTS = Path(__file__).resolve().parent / "results" / "draem_ablation.csv"
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "learning_rate=5e-4": {"learning_rate": 5e-4},
    "learning_rate=6e-3": {"learning_rate": 6e-3},
    "batch=4": {"batch": 4},
    "forge_share=0.75": {"forge_share": 0.75},
    "reconstruct_width=8": {"reconstruct_width": 8},
    "segment_width=24": {"segment_width": 24},
}


def measure(root: Path, variant: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Fit one variant on one product and judge it on its held-back pictures."""
    settings = {**VARIANTS[variant], **config.parse_pairs(options.set)}
    with tempfile.TemporaryDirectory() as folder:
        request = fitting.Request(
            root, Path(folder) / "model", method="draem", seed=seed, settings=settings, size=options.size, **budget(options)
        )
        plan = fitting.plan(request)
        inspector = fitting.run(request, made=plan)
    training = inspector.about["training"]
    row = {"train_seconds": training["seconds"], "steps": training["steps"]}
    return row | forged_figures(inspector, plan.held, seed)


def main() -> None:
    options = parser(__doc__ or "", VARIANTS, RESULTS).parse_args()
    for seed, name in itertools.product(options.seeds, options.data):
        for key in missing(options.out, [key_of(name, variant, seed, options) for variant in options.variant]):
            row = measure(Path(os.environ["FLAWFORGE_DATA"]) / name, key["variant"], seed, options)
            record(options.out, {**key, **row})
            show(name, key["variant"], seed, row=row)


if __name__ == "__main__":
    main()
