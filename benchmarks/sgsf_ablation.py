"""What each part of SGSF buys, one factor at a time from the cpu profile or its form of --trunk none; draem for comparison.

    FLAWFORGE_DATA=... python benchmarks/sgsf_ablation.py [--data mvtec_bottle magnetic_tile] [--minutes 10 | --steps N]
        [--seeds 0 1 2] [--variant NAME ...] [--set KEY=VALUE ...]

One row per product, variant and seed in results/sgsf_ablation.csv, written as soon as it is known; rows that are there
already are not measured again, so a stopped run goes on where it was. Every variant has the same minutes of processor time,
all threads together, or with --steps the same number of steps; a busy machine changes neither.

`forged_...`: on the held-back good pictures and forged copies of them, by families that training never used (paste and
physical; training uses Perlin textures); settings may be chosen by these. A flaw is on the part: a forgery is drawn again
until four fifths of it are salient. The other figures are those of the labelled test pictures; nothing may be chosen by
them.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from pathlib import Path
from typing import Any

from ablation import budget, key_of, missing, parser, show, test_figures
from flawforge import config, fitting
from judging import forged_figures
from record import record

RESULTS = Path(__file__).resolve().parent / "results" / "sgsf_ablation.csv"
# Of the form without outside weights, --trunk none; the rows of before there was another have these names.
SCRATCH: dict[str, dict[str, Any]] = {
    "reference": {},
    "denoise": {"guidance": "denoise"},
    "no guidance": {"guidance": "none"},
    "denoise, never shown": {"guidance": "denoise", "show": "never"},
    "nothing salient": {"masks": "everywhere"},
    "plain perlin": {"masks": "perlin"},
    "rule otsu": {"rule": "otsu"},
    "rule quantile": {"rule": "quantile"},
    "rule uniform": {"rule": "uniform"},
    "n = 1": {"contrast": 1},
    "n = 5": {"contrast": 5},
    "detach": {"detach": True},
    "never shown": {"show": "never"},
    "always shown": {"show": "always"},
    "not residual": {"residual": False},
    "both": {"guidance": "both"},
    "spread 1, opacity 0.1": {"spread": 1.0, "opacity": 0.1},
}
# The default was "trunk, both" when those below it were measured.
TRUNK: dict[str, dict[str, Any]] = {
    "trunk, reference": {},
    "trunk, denoise": {"guidance": "denoise"},
    "trunk, no guidance": {"guidance": "none"},
    "trunk, reference, nothing salient": {"masks": "everywhere"},
    "trunk, both": {"guidance": "both"},
    "trunk, nothing salient": {"guidance": "both", "masks": "everywhere"},
    "trunk, prior 0.5": {"guidance": "both", "prior": 0.5},
    "trunk, prior 0.01": {"guidance": "both", "prior": 0.01},
    "trunk, batch 4": {"guidance": "both", "batch": 4},
    "trunk, batch 2": {"guidance": "both", "batch": 2},
}
DRAEM: dict[str, dict[str, Any]] = {
    "draem": {},
    "draem, prior 0.1": {"prior": 0.1},
    "draem, prior 0.01": {"prior": 0.01},
    "draem, batch 4": {"batch": 4},
    "draem, batch 2": {"batch": 2},
}
VARIANTS = DRAEM | SCRATCH | TRUNK


def measure(root: Path, variant: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Fit one variant on one product and judge it twice: held-back pictures with forgeries, and the test pictures."""
    method = "draem" if variant in DRAEM else "sgsf"
    chosen = VARIANTS[variant] | ({} if method == "draem" else config.parse_pairs(options.set))
    with tempfile.TemporaryDirectory() as folder:
        asked = {"method": method, "seed": seed, "settings": chosen, "size": options.size, **budget(options)}
        if method == "sgsf" and variant not in TRUNK:
            asked["trunk"] = "none"
        kept = f"{root.name}_{variant}_{seed}".replace(", ", "_").replace(" ", "_")
        request = fitting.Request(root, options.models / kept if options.models else Path(folder) / "model", **asked)
        plan = fitting.plan(request)
        inspector = fitting.run(request, made=plan)
    training = inspector.about["training"]
    row = {
        "train_seconds": training["seconds"],
        "steps": training["steps"],
        **forged_figures(inspector, plan.held, seed, on_part=True),
    }
    if not options.forged_only:
        row |= test_figures(inspector, root)
    return row


def main() -> None:
    asked = parser(__doc__ or "", VARIANTS, RESULTS)
    asked.add_argument("--forged-only", action="store_true", help="leave the test pictures alone")
    asked.add_argument("--models", type=Path, help="folder to keep the models in; a temporary one where not given")
    options = asked.parse_args()
    for seed, name in itertools.product(options.seeds, options.data):
        for key in missing(options.out, [key_of(name, variant, seed, options) for variant in options.variant]):
            row = measure(Path(os.environ["FLAWFORGE_DATA"]) / name, key["variant"], seed, options)
            record(options.out, {**key, **row})
            show(name, key["variant"], seed, row=row)


if __name__ == "__main__":
    main()
