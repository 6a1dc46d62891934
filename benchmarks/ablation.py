"""What the ablations share: options, the rows that are still missing, and what a fitted net is judged by.

Every variant of an ablation has the same budget; rows that are in the results file are not measured again, so a run that
was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flawforge import fitting
from flawforge.fitting import engine
from flawforge.judging import loading
from flawforge.pictures import dataset
from flawforge.proving import evaluate, specimens
from flawforge_runtime import images
from flawforge_runtime.inspector import Inspector
from judging import figures, test_pairs
from record import read

KEY = ("data", "variant", "minutes", "steps_asked", "size", "settings", "seed")
SETS = ("mvtec_bottle", "magnetic_tile")


def parser(about: str, variants: Iterable[str], results: Path, seeds: Sequence[int] = (0, 1, 2)) -> argparse.ArgumentParser:
    """The options that every ablation has; an ablation may add its own."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", nargs="+", default=list(SETS))
    made.add_argument("--minutes", type=float, default=10.0, help="of processor time, all threads together")
    made.add_argument("--steps", type=int, help="instead of minutes")
    made.add_argument("--size", type=int, default=256)
    made.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    made.add_argument("--variant", nargs="+", choices=list(variants), default=list(variants))
    made.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="changed in every variant")
    made.add_argument("--out", type=Path, default=results)
    return made


def key_of(name: str, variant: str, seed: int, options: argparse.Namespace) -> dict[str, str]:
    """What tells the row of one fit from the others, see KEY."""
    minutes = "" if options.steps else f"{options.minutes:g}"
    settings = " ".join(sorted(options.set))
    values = (name, variant, minutes, str(options.steps or ""), str(options.size), settings, str(seed))
    return dict(zip(KEY, values, strict=True))


def missing(out: Path, keys: Iterable[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """The keys that no row of the results file has yet; the others are named."""
    rows, left = read(out)[1], []
    for key in keys:
        if any(all(row.get(name, "") == value for name, value in key.items()) for row in rows):
            print(f"{', '.join(filter(None, key.values()))}: already measured")
        else:
            left.append(key)
    return left


def budget(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of a request that say how long."""
    return {"steps": options.steps} if options.steps else {"minutes": options.minutes, "clock": "cpu"}


def show(*names: Any, row: Mapping[str, Any]) -> None:
    """Print a row, with three digits."""
    print(*names, {key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()}, flush=True)


def trained(
    net: Any, plan: fitting.Plan, pictures: dataset.GoodPictures, stages: Sequence[Any], seed: int
) -> list[dict[str, Any]]:
    """Train the net through these stages as `fit` does, and nothing around it; the history."""
    return engine.fit(
        net,
        stages,
        fitting.batches(plan, pictures, net, stages),
        plan.budget,
        engine.Run(seed=seed, device="cpu", precision=plan.settings.precision),
        clean=lambda: pictures.clean_batches(plan.settings.batch),
    )


def inspector_of(net: Any, plan: fitting.Plan) -> Inspector:
    """Without thresholds: figures over all thresholds need none."""
    return Inspector(loading.numpy_network(net, torch.device("cpu")), plan.canvas, plan.method.score(plan.settings))


def proof_figures(judge: Inspector, plan: fitting.Plan, count: int) -> dict[str, float]:
    """`forged_*`: on the held-back good pictures, and defects forged into them, `count` of each kind and contrast."""
    paths = [entry.path for entry in plan.held]
    goods = [images.read_picture(path).pixels for path in paths]
    forged = specimens.proof_pictures(paths, specimens.Recipe(count=count))
    blank = [(good, np.zeros(good.shape[:2], bool)) for good in goods]
    found = figures(judge, [*blank, *((each.image, each.mask) for each in forged)], every=2)
    return {f"forged_{name}": value for name, value in found.items() if name != "ms_per_picture"}


def pair_figures(judge: Inspector, root: Path) -> dict[str, float]:
    """On the labelled test pictures, pixel figures at every second pixel of every second row."""
    return figures(judge, test_pairs(root), every=2)


def test_figures(model: Inspector, root: Path) -> dict[str, Any]:
    """On the labelled test pictures, of a model with thresholds; masks that do not count are left out."""
    entries = [entry for entry in dataset.read_entries(root) if entry.split == "test"]
    found = evaluate.evaluate(model, entries, bootstrap=0)
    row: dict[str, Any] = {"image_auroc": found.image["auroc"].value}
    names = ("auroc", "ap", "aupro_0.3", "peak_on_defect")
    return row | {f"pixel_{name}": found.pixel[name].value for name in names if found.pixel is not None}
