"""Which settings of DRAEM's cpu profile learn most from the same number of pictures? Judged without any test picture.

Each variant is trained on the good pictures of a product and judged on its held-back good pictures, half of them forged by
families that training never used (paste and physical; training uses Perlin textures). One factor changes at a time.

    FLAWFORGE_DATA=... python benchmarks/draem_ablation.py mvtec_bottle --pictures 2000
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from flawforge import fitting
from judging import forged_figures
from record import record

VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "learning_rate=5e-4": {"learning_rate": 5e-4},
    "learning_rate=6e-3": {"learning_rate": 6e-3},
    "batch=4": {"batch": 4},
    "forge_share=0.75": {"forge_share": 0.75},
    "reconstruct_width=8": {"reconstruct_width": 8},
    "segment_width=24": {"segment_width": 24},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("product")
    parser.add_argument("--pictures", type=int, default=2000, help="training pictures per variant")
    parser.add_argument("--variant", action="append", help="only these")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    source = Path(os.environ["FLAWFORGE_DATA"]) / arguments.product
    for name in arguments.variant or VARIANTS:
        batch = VARIANTS[name].get("batch", 8)
        with tempfile.TemporaryDirectory() as folder:
            request = fitting.Request(
                source,
                Path(folder) / "m",
                method="draem",
                steps=arguments.pictures // batch,
                seed=arguments.seed,
                settings=VARIANTS[name],
            )
            plan = fitting.plan(request)
            inspector = fitting.run(request, made=plan)
        found = forged_figures(inspector, plan.held, arguments.seed)
        row = {
            "product": arguments.product,
            "variant": name,
            "pictures": arguments.pictures,
            "seed": arguments.seed,
            "train_seconds": inspector.about["training"]["seconds"],
            **{k: round(v, 4) for k, v in found.items()},
        }
        print(row, flush=True)
        record(Path(__file__).parent / "results" / "draem_ablation.csv", row)


if __name__ == "__main__":
    main()
