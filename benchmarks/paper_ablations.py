"""The ablations of the four papers over a trunk: five minutes of processor time a fit, 256 x 256 pixels, three seeds.

    FLAWFORGE_DATA=... OMP_NUM_THREADS=1 python benchmarks/paper_ablations.py [--method sgsf ...] [--data NAME ...]
        [--seeds 0 1 2] [--dry-run] [--out FOLDER]

One command for all rows that the tables of docs/methods show; each script's own command is printed before it runs. Rows that
are there already are not measured again, so a stopped run goes on where it was. One seed of everything comes first, then the
next. Several runs at once need a folder --out each. Equal minutes are equal chances only on one host that does nothing else:
--dry-run names rows of a data set and seed that were measured hours apart, beside the number of fits that are missing.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ablation_tables import TABLES, Table, measured

HERE = Path(__file__).resolve().parent
BUDGET = ("--minutes", "5", "--size", "256")
MINUTES_A_FIT = 6.5  # of one core, with the pictures judged afterwards
APART = 2.0  # hours in which all variants of a data set and seed are measured, so on one host
TWO = ("mvtec_bottle", "aws_cookies")  # parts that lie alike, and parts that lie anyhow
FOUR = ("mvtec_bottle", "magnetic_tile", "kolektorsdd", "aws_cookies")


@dataclass(frozen=True)
class Ablation:
    """A script of this folder, the table of a page that its rows fill, its variants, and the data sets of each seed.

    fits  of one data set and seed; variants may share one
    """

    script: str
    table: Table
    variants: Sequence[str]
    data: Sequence[str]
    fits: int


TABLE = {table.name: table for table in TABLES}
ABLATIONS: Mapping[str, Ablation] = {
    "sgsf": Ablation(
        "sgsf_ablation.py",
        TABLE["sgsf-trunk"],
        (
            "trunk, reference",
            "trunk, both",
            "trunk, denoise",
            "trunk, no guidance",
            "trunk, reference, nothing salient",
            "draem",
        ),
        ("mvtec_bottle", "kolektorsdd"),
        6,
    ),
    "cutswap": Ablation(
        "cut_ablation.py", TABLE["cut-trunk"], ("trunk frozen", "trunk trained", "trunk trained, random places"), FOUR, 2
    ),
    "isstad": Ablation(
        "isstad_ablation.py",
        TABLE["isstad over a trunk"],
        (
            "product",
            "probability",
            "error",
            "no stage 1",
            "stage 1 guesses features",
            "encoder frozen in stage 2",
            "classifier on the last block only",
        ),
        TWO,
        5,
    ),
    "anoseg": Ablation(
        "anoseg_ablation.py",
        TABLE["anoseg over a trunk"],
        (
            "as shipped",
            "forging: plain CutPaste",
            "rebuild not masked",
            "no adversary",
            "no coordinates",
            "with the detector",
        ),
        TWO,
        6,
    ),
}


def command(ablation: Ablation, name: str, seed: int, out: Path) -> list[str]:
    """The script's command for one data set and seed."""
    own = ["--data", name, "--seeds", str(seed), *BUDGET, "--out", str(out / ablation.table.results)]
    return [sys.executable, str(HERE / ablation.script), "--variant", *ablation.variants, *own]


def there(ablation: Ablation, name: str, seed: int, out: Path) -> int:
    """How many of its variants have a row already that the page's table takes."""
    rows = measured(ablation.table, out)
    return sum(str(seed) in rows.get((variant, name), {}) for variant in ablation.variants)


def apart(ablation: Ablation, name: str, seed: int, out: Path) -> float:
    """Hours from the first to the last row of its variants that train; 0 where there are fewer than two."""
    rows = measured(ablation.table, out)
    found = [rows.get((variant, name), {}).get(str(seed)) for variant in ablation.variants]
    dates = [datetime.fromisoformat(row["date"]) for row in found if row is not None and row.get("steps") != "0"]
    return (max(dates) - min(dates)).total_seconds() / 3600 if dates else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", nargs="+", choices=list(ABLATIONS), default=list(ABLATIONS))
    parser.add_argument("--data", nargs="+", choices=FOUR, default=list(FOUR))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results files")
    parser.add_argument("--dry-run", action="store_true", help="say what is missing, and measure nothing")
    options = parser.parse_args()
    missing = 0.0
    for seed, method in itertools.product(options.seeds, options.method):
        ablation = ABLATIONS[method]
        for name in (name for name in ablation.data if name in options.data):
            found = there(ablation, name, seed, options.out)
            if options.dry_run:
                hours = apart(ablation, name, seed, options.out)
                late = f", measured {hours:.0f} hours apart: measure them again on one host" if hours > APART else ""
                print(f"{method}, {name}, seed {seed}: {found} of {len(ablation.variants)} rows{late}")
                missing += ablation.fits * (1 - found / len(ablation.variants))
            elif found < len(ablation.variants):
                told = command(ablation, name, seed, options.out)
                print(shlex.join(told), flush=True)
                subprocess.run(told, check=True)
    if options.dry_run:
        print(f"{missing:.0f} fits are missing: about {missing * MINUTES_A_FIT / 60:.1f} hours of one core")


if __name__ == "__main__":
    main()
