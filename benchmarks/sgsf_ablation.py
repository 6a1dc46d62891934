"""What each part of SGSF buys, one factor at a time from the cpu profile, with draem as the reference row.

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
import os
import tempfile
from pathlib import Path
from typing import Any

from flawforge import config, fitting
from flawforge.pictures import dataset
from flawforge.proving import evaluate
from judging import forged_figures
from record import read, record

RESULTS = Path(__file__).resolve().parent / "results" / "sgsf_ablation.csv"
KEY = ("data", "variant", "minutes", "steps_asked", "size", "settings", "seed")
VARIANTS: dict[str, dict[str, Any]] = {
    "draem": {},
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
    "spread 1, opacity 0.1": {"spread": 1.0, "opacity": 0.1},
}


def measure(root: Path, variant: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Fit one variant on one product and judge it twice: held-back pictures with forgeries, and the test pictures."""
    method = "draem" if variant == "draem" else "sgsf"
    chosen = {} if method == "draem" else {**VARIANTS[variant], **config.parse_pairs(options.set)}
    with tempfile.TemporaryDirectory() as folder:
        request = fitting.Request(
            root,
            Path(folder) / "model",
            method=method,
            seed=seed,
            settings=chosen,
            minutes=None if options.steps else options.minutes,
            clock="cpu",
            steps=options.steps,
            size=options.size,
        )
        plan = fitting.plan(request)
        inspector = fitting.run(request, made=plan)
    training = inspector.about["training"]
    row = {
        "train_seconds": training["seconds"],
        "steps": training["steps"],
        **forged_figures(inspector, plan.held, seed, on_part=True),
    }
    entries = [entry for entry in dataset.read_entries(root) if entry.split == "test"]
    if not options.forged_only:
        found = evaluate.evaluate(inspector, entries, bootstrap=0).as_dict()
        row["image_auroc"] = found["image"]["auroc"]["value"]
        names = ("auroc", "ap", "aupro_0.3", "peak_on_defect")
        row |= {f"pixel_{name}": found["pixel"][name]["value"] for name in names if found["pixel"]}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["mvtec_bottle", "magnetic_tile"])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variant", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other settings of sgsf in every variant")
    parser.add_argument("--forged-only", action="store_true", help="leave the test pictures alone")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    for seed in options.seeds:
        for name in options.data:
            for variant in options.variant:
                minutes = "" if options.steps else f"{options.minutes:g}"
                asked = (minutes, str(options.steps or ""), str(options.size), " ".join(sorted(options.set)))
                values = (name, variant, *asked, str(seed))
                if values in {tuple(row.get(key, "") for key in KEY) for row in read(options.out)[1]}:
                    print(f"{name}, {variant}, seed {seed}: already measured")
                    continue
                row = measure(Path(os.environ["FLAWFORGE_DATA"]) / name, variant, seed, options)
                record(options.out, {**dict(zip(KEY, values, strict=True)), **row})
                print(name, variant, seed, {k: round(float(v), 3) for k, v in row.items()}, flush=True)


if __name__ == "__main__":
    main()
