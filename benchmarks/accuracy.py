"""Fit and evaluate by the command line on each data set and seed; one row each, written as soon as it is known.

    FLAWFORGE_DATA=... python benchmarks/accuracy.py [--data mvtec_bottle ...] [--minutes 10] [--seeds 0 1 2]
        [--method draem ...] [--profile cpu] [--trunk lite0] [--size 256] [--clock cpu] [--set KEY=VALUE ...] [--models DIR]
        [--again] [--ray ADDRESS]

Every folder of FLAWFORGE_DATA in MVTec layout is a data set. Rows that are there already (same data set, method,
profile, trunk, minutes, size, settings and seed) are not measured again unless --again is given, so a stopped run goes on
where it was. `fit` sees train/good only; the numbers are those of the last weights, never of the best epoch.

In a row: `fit_seconds` is the whole command, import and calibration included; `ms_per_picture` the median of judging
one picture; `load` the machine's load when the fit began. Minutes are counted in processor time (--clock cpu), all
threads together, so that a busy machine changes nothing; rows without `clock` are of a time when they were not.
`trunk` names the network whose features were looked at; it is empty where no outside weights were used, and in older rows,
when there were none. `notes` are the model's own, with what a gate decided. A `fit` or `evaluate` that fails gives a row,
with its last line under `error`.

--ray gives each method, data set and seed to a Ray cluster, as `fit --products` does with products: a forecast, then a task
with one core and the forecast memory. Rows are the same; `machine` and `cores` are those of the node. The data must lie
on a disk that all nodes share.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flawforge.methods import METHODS
from flawforge.nn.efficientnet_lite import PACKAGES
from record import origin, read, record

RESULTS = Path(__file__).resolve().parent / "results" / "accuracy.csv"
KEY = ("data", "method", "profile", "trunk", "minutes", "clock", "size", "settings", "seed")
COLUMNS = {
    "image_auroc": ("image", "auroc"),
    "pixel_auroc": ("pixel", "auroc"),
    "pixel_ap": ("pixel", "ap"),
    "aupro_0.3": ("pixel", "aupro_0.3"),
    "aupro_0.05": ("pixel", "aupro_0.05"),
    "iou": ("pixel", "iou"),
    "peak_on_defect": ("pixel", "peak_on_defect"),
    "false_alarm_rate": ("operating_point", "false_alarm_rate"),
    "escape_rate": ("operating_point", "escape_rate"),
    "passed_rate": ("operating_point", "passed_rate"),
}


def main() -> int:
    options = _options()
    root = Path(os.environ.get("FLAWFORGE_DATA", ""))
    found = sorted(path.parent.parent.name for path in root.glob("*/train/good")) if str(root) != "." else []
    unknown = [name for name in options.data or found if name not in found]
    if not found or unknown:
        raise SystemExit(
            f"FLAWFORGE_DATA holds {found or 'no data sets'}, asked for were {unknown}; set it, or correct --data."
        )
    failures = 0
    for case, row in (on_ray if options.ray else one_by_one)(todo(options, options.data or found), root, options):
        record(options.out, {**dict(zip(KEY, _key(case.options, case.name, case.seed), strict=True)), **row})
        failures += "error" in row
        print(f"{case.label}: {row.get('error') or row['image_auroc']}", flush=True)
    return int(failures > 0)


class Case(NamedTuple):
    """What gives one row. options: those of the command, with one method."""

    name: str
    seed: int
    options: argparse.Namespace

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.name} {self.options.method} seed {self.seed}"


def todo(options: argparse.Namespace, names: Sequence[str]) -> list[Case]:
    """What is not measured yet."""
    ways = [argparse.Namespace(**{**vars(options), "method": method}) for method in options.method]
    every = [Case(name, seed, way) for seed in options.seeds for name in names for way in ways]
    done = set() if options.again else _done(options.out)
    for case in every:
        if _key(case.options, case.name, case.seed) in done:
            print(f"{case.label}: already measured")
    return [case for case in every if _key(case.options, case.name, case.seed) not in done]


def one_by_one(cases: Sequence[Case], root: Path, options: argparse.Namespace) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Each case with its row, measured in this process's own machine."""
    for case in cases:
        yield case, _measured(root / case.name, case)


def on_ray(cases: Sequence[Case], root: Path, options: argparse.Namespace) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Each case with its row, measured on a cluster, in the order in which they come."""
    from flawforge.config import parse_pairs
    from flawforge.scale import cluster, products

    asked, named = [], {case.label: case for case in cases}
    for case in cases:
        told = {name: getattr(case.options, name) for name in ("method", "profile", "trunk", "minutes", "clock", "size")}
        told |= {"seed": case.seed, "settings": parse_pairs(case.options.set)}
        asked.append(products.Product(case.label, (root / case.name).absolute(), told))
    with cluster.joined(options.ray) as ray:
        for module in ("record", __name__):  # the nodes have no benchmarks
            ray.cloudpickle.register_pickle_by_value(sys.modules[module])
        for product, answer, _ in products.forecast_and_run(ray, asked, _on_a_node, named):
            yield named[product.name], {"error": answer.error} if isinstance(answer, products.Row) else answer


def _on_a_node(product: Any, cases: Mapping[str, Case], memory: int) -> dict[str, Any]:
    origins = origin()
    return _measured(product.data, cases[product.name]) | {name: origins[name] for name in ("machine", "cores")}


def _measured(data: Path, case: Case) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        return measure(data, case.seed, case.options, Path(case.options.models or temporary))


def measure(data: Path, seed: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Fit, evaluate, and give the measured columns of one row."""
    model = folder / f"{data.name}_{options.method}_{seed}"
    fit = ["flawforge", "fit", str(data), "-o", str(model), "--method", options.method, "--profile", options.profile]
    fit += ["--minutes", f"{options.minutes:g}", "--clock", options.clock, "--size", str(options.size), "--seed", str(seed)]
    fit += ["--trunk", options.trunk] if options.trunk else []
    fit += [word for pair in options.set for word in ("--set", pair)]
    results = folder / f"{model.name}.json"
    evaluate = ["flawforge", "evaluate", str(model), str(data), "--json", str(results)]
    row: dict[str, Any] = {"load": round(os.getloadavg()[0], 1)}
    row["command"] = shlex.join([*fit, "&&", *evaluate]).replace("'&&'", "&&").replace(f"{folder}/", "")
    for name, command in (("fit_seconds", fit), ("evaluate_seconds", evaluate)):
        start = time.perf_counter()
        done = subprocess.run(_ours(command), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, check=False)
        row[name] = time.perf_counter() - start
        if done.returncode:
            return {**row, "error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    row |= columns(json.loads(results.read_text(encoding="utf-8")))
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    training = config["training"]
    row |= {"n_train": training["pictures"], "n_held": training["held_back"], "steps": training["steps"]}
    return {**row, "notes": "; ".join(config["notes"])}


def columns(result: dict[str, Any]) -> dict[str, Any]:
    """The row's columns from the JSON of `evaluate`: each value and its 95 % interval."""
    row: dict[str, Any] = {}
    for name, (group, metric) in COLUMNS.items():
        estimate = (result[group] or {}).get(metric) or {}
        row |= {name: estimate.get("value"), f"{name}_low": estimate.get("low"), f"{name}_high": estimate.get("high")}
    point = result["operating_point"]
    return {
        **row,
        "promised_false_alarm": point["promised_false_alarm"],
        "n_good": result["counts"]["good"],
        "n_defective": result["counts"]["defective"],
        "ms_per_picture": 1000 * result["seconds"]["per_picture"],
    }


def _ours(command: list[str]) -> list[str]:
    """The same command by the interpreter that runs this script, whatever the path holds."""
    return [sys.executable, "-c", "from flawforge.cli import main; main()", *command[1:]]


def _key(options: argparse.Namespace, name: str, seed: int) -> tuple[str, ...]:
    settings = " ".join(sorted(options.set))
    return (
        name,
        options.method,
        options.profile,
        _trunk(options),
        f"{options.minutes:g}",
        options.clock,
        str(options.size),
        settings,
        str(seed),
    )


def _trunk(options: argparse.Namespace) -> str:
    """Where features from outside come from; "" = from nowhere."""
    if options.trunk:
        return "" if options.trunk == "none" else str(options.trunk)
    form = getattr(METHODS[options.method].profiles[options.profile], "backbone", "")
    return form if form in PACKAGES else ""


def _done(path: Path) -> set[tuple[str, ...]]:
    rows = [{**row, "clock": row.get("clock") or "wall"} for row in read(path)[1] if not row.get("error")]
    return {tuple(row.get(name, "") for name in KEY) for row in rows}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Accuracy on real pictures, by the command line.")
    parser.add_argument("--data", nargs="+", metavar="NAME", help="data sets; all of FLAWFORGE_DATA where not given")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--method", nargs="+", default=["draem"])
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--trunk", default="", help="as `flawforge fit` takes it; the method's own where not given")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--models", help="folder to keep the models in; a temporary one where not given")
    parser.add_argument("--again", action="store_true", help="measure rows again that are already there")
    parser.add_argument("--ray", metavar="ADDRESS", help="a Ray cluster, or local for one on this machine")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
