"""How few good pictures will do: results/few_shot.csv.

    FLAWFORGE_DATA=/data python benchmarks/few_shot.py [--data NAME ...] [--counts 1 2 5 10 20 50] [--method auto]
        [--minutes 2] [--set KEY=VALUE ...] [--seeds 0 1 2] [--out FILE]

The method learns from `count` good training pictures drawn by the seed, nothing is held back, and all labelled test pictures
are judged. A threshold needs pictures that are held back, so only figures that need none are given. Rows with `trunk`
empty are of models without outside weights.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np

from ablation import missing
from flawforge import fitting
from flawforge.config import parse_pairs
from flawforge.fitting import engine
from flawforge.methods import METHODS
from flawforge.pictures import dataset
from guided_ablation import judge
from record import record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["mvtec_bottle", "magnetic_tile"])
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 5, 10, 20, 50])
    parser.add_argument("--method", default="auto")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "few_shot.csv")
    options = parser.parse_args()
    for seed, name, count in ((s, d, c) for s in options.seeds for d in options.data for c in options.counts):
        key = {
            "data": name,
            "method": options.method,
            "minutes": f"{options.minutes:g}",
            "count": str(count),
            "seed": str(seed),
        }
        key |= {"settings": " ".join(options.set), "trunk": getattr(METHODS[options.method].profiles["cpu"], "backbone", "")}
        if not missing(options.out, [key]):
            continue
        source = Path(os.environ["FLAWFORGE_DATA"]) / name
        request = fitting.Request(
            source,
            Path("unused"),
            method=options.method,
            minutes=options.minutes,
            clock="cpu",
            seed=seed,
            settings=parse_pairs(options.set),
        )
        plan = fitting.plan(request)
        whole = (*plan.train, *plan.held)
        drawn = sorted(np.random.default_rng(seed).permutation(len(whole))[:count].tolist())
        pictures = dataset.GoodPictures([whole[i] for i in drawn], plan.canvas)
        net, _ = fitting.new_net(plan)
        stages = fitting.stages_of(plan, net, pictures)
        start = time.monotonic()
        engine.fit(
            net,
            stages,
            fitting.batches(plan, pictures, net, stages),
            plan.budget,
            engine.Run(seed=seed, device="cpu", precision=plan.settings.precision),
            clean=lambda pictures=pictures, plan=plan: pictures.clean_batches(plan.settings.batch),
        )
        row = {
            **key,
            **judge(plan, net, source),
            "fit_seconds": time.monotonic() - start,
            "facts": "; ".join(net.facts()[:2]) if hasattr(net, "facts") else "",
        }
        record(options.out, row)
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


if __name__ == "__main__":
    main()
