"""Judging on Ray: two workers against one, one worker against the plain process; what grows how; 1,000 nodes, simulated.

    FLAWFORGE_DATA=... python benchmarks/scale.py speed --model EXPORT [--pictures FOLDER ...]
    FLAWFORGE_DATA=... python benchmarks/scale.py points --model EXPORT --pictures FOLDER --fits FOLDER [--axes pictures ...]
    python benchmarks/scale.py simulate [--nodes 1 10 100 1000]

`speed` judges all pictures of the data sets (of FLAWFORGE_DATA where no folder is given) three times, one after the other on
the same machine: without Ray in one process with one thread, which prints JSON lines and draws nothing, with one worker and
with two. `two_to_one` and `one_to_plain` are of the seconds of the command less those of a start with one picture, which is
recorded beside them: that is what a long run has of it. `points` is scale_points.py, `simulate` scale_simulation.py;
docs/cost-of-scale.md is written from their rows. `load` is the machine's load: no claim rests on rows of a busy machine.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flawforge_runtime.feed import Source
from record import record
from scale_points import points, timed
from scale_simulation import simulate

HERE = Path(__file__).resolve().parent / "results"
AXES = ("pictures", "side", "good", "fit side", "products", "commit")


def main() -> int:
    options = _options()
    file = {"speed": "scale.csv", "points": "scale_points.csv", "simulate": "scale_simulation.csv"}[options.what]
    out = options.out or HERE / file
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        for row in _rows(options, place):
            record(out, row)
            print(row, flush=True)
    return 0


def _rows(options: argparse.Namespace, place: Path) -> Iterator[dict[str, Any]]:
    if options.what == "simulate":
        return simulate(options.nodes, options.out_points or HERE / "scale_points.csv")
    if options.model is None:
        raise SystemExit("--model is missing; give an export.")
    pictures = list(Source([Path(folder) for folder in options.pictures or _data()]))
    if options.what == "speed":
        return speed(options, pictures, place)
    good = list(Source([Path(folder) for folder in options.fits])) if options.fits else []
    if not good and {"good", "fit side", "products"} & set(options.axes):
        raise SystemExit("--fits is missing; give a folder of good pictures.")
    return points(options, pictures, good, place)


def speed(options: argparse.Namespace, pictures: Sequence[Path], place: Path) -> Iterator[dict[str, Any]]:
    """One row with the seconds of each way, and their ratios."""
    load = round(os.getloadavg()[0], 1)
    ways = {"plain": [], "one": ["--ray", "local", "--ray-workers", "1"], "two": ["--ray", "local", "--ray-workers", "2"]}
    starts = {name: timed(options.model, pictures[:1], how, place).seconds for name, how in ways.items()}
    whole = {name: timed(options.model, pictures, how, place).seconds for name, how in ways.items()}
    judging = {name: max(whole[name] - starts[name], 1e-9) for name in ways}
    row: dict[str, Any] = {"what": "speed", "pictures": len(pictures), "load": load}
    row |= {f"{name}_seconds": seconds for name, seconds in whole.items()} | {
        f"{name}_start": s for name, s in starts.items()
    }
    yield row | {"two_to_one": judging["one"] / judging["two"], "one_to_plain": judging["plain"] / judging["one"]}


def _data() -> list[str]:
    root = Path(os.environ.get("FLAWFORGE_DATA", ""))
    found = sorted(str(path.parent.parent) for path in root.glob("*/train/good")) if str(root) != "." else []
    if not found:
        raise SystemExit("FLAWFORGE_DATA names no folder with data sets; set it, or give --pictures.")
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed and cost of judging on Ray.")
    parser.add_argument("what", choices=("speed", "points", "simulate"))
    parser.add_argument("--model", type=Path, help="an export")
    parser.add_argument("--pictures", nargs="+", metavar="FOLDER", help="to judge")
    parser.add_argument("--fits", nargs="+", metavar="FOLDER", help="good pictures to fit")
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--counts", type=int, nargs="+", default=[50, 100, 200, 400])
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512, 1024, 2048])
    parser.add_argument("--good", type=int, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--products", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 64, 256, 1024, 4096])
    parser.add_argument("--method", default="patchcore")
    parser.add_argument("--minutes", type=float, default=0.1, help="of training in a fit, for methods that train")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--out-points", type=Path, help="where `points` wrote; for simulate")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
