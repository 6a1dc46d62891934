"""How few good pictures will do: results/few_shot.csv.

    FLAWFORGE_DATA=/data python benchmarks/few_shot.py [--data NAME ...] [--counts 1 2 5 10 20 50] [--method auto]
        [--minutes 2] [--seeds 0 1 2] [--out FILE]

The method learns from `count` good training pictures drawn by the seed, nothing is held back, and all labelled test pictures
are judged. A threshold needs pictures that are held back, so only figures that need none are given.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np

from flawforge import fitting
from flawforge.fitting import engine
from flawforge.pictures import dataset
from guided_ablation import judge
from record import read, record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["mvtec_bottle", "magnetic_tile"])
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 5, 10, 20, 50])
    parser.add_argument("--method", default="auto")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "few_shot.csv")
    options = parser.parse_args()
    for seed, name, count in ((s, d, c) for s in options.seeds for d in options.data for c in options.counts):
        key = (name, options.method, f"{options.minutes:g}", str(count), str(seed))
        if any(tuple(row[k] for k in ("data", "method", "minutes", "count", "seed")) == key for row in read(options.out)[1]):
            continue
        source = Path(os.environ["FLAWFORGE_DATA"]) / name
        request = fitting.Request(
            source, Path("unused"), method=options.method, minutes=options.minutes, clock="cpu", seed=seed
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
            "data": name,
            "method": options.method,
            "minutes": options.minutes,
            "count": count,
            "seed": seed,
            **judge(plan, net, source),
            "fit_seconds": time.monotonic() - start,
            "facts": "; ".join(net.facts()[:2]) if hasattr(net, "facts") else "",
        }
        record(options.out, row)
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


if __name__ == "__main__":
    main()
