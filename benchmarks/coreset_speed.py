"""How long PatchCore's memory takes to build after the features, and how well it covers them.

    OMP_NUM_THREADS=2 python benchmarks/coreset_speed.py [--pictures 800] [--size 256] [--keep 8192] [--at-once]

Rendered washers go through an untrained network (what it costs to choose patches does not depend on what they mean), its
patches through `nn.coreset.Stream` as PatchCore's do. One row in results/coreset_speed.csv: seconds of the features, of the
coreset (by the clock and of the processor), the bound on the distance from any patch to the memory that the stream added up,
the largest such distance really, and the same for the choice from all patches at once, which needs all of them in memory.
Distances are those of the 128 projected numbers. `peak_bytes` is the whole process at the end of the stream.
Exit status 1 where the coreset took longer than two minutes.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import torch

from flawforge.demo.washers import render_good
from flawforge.methods.patchcore import METHOD, PatchCore
from flawforge.nn.coreset import Stream, greedy, sketch
from flawforge.nn.nearest import nearest
from record import record

RESULTS = Path(__file__).resolve().parent / "results" / "coreset_speed.csv"
TARGET = 120.0


def main() -> int:
    options = _options()
    torch.manual_seed(options.seed)
    config = METHOD.profiles["cpu"]
    net = PatchCore(config).eval()
    projection = sketch(net.features.width)
    stream = Stream(options.keep, config.store * options.keep, projection)
    kept, features, clock, cpu = [], 0.0, 0.0, 0.0
    with torch.inference_mode():
        for i in range(options.pictures):
            image = torch.from_numpy(render_good(i, options.seed, options.size)).permute(2, 0, 1)[None].float() / 255
            start = time.perf_counter()
            patches = net.features(image).flatten(2)[0].T.contiguous()
            features += time.perf_counter() - start
            kept.append((patches @ projection).half())
            start, spent = time.perf_counter(), time.process_time()
            stream.add(patches)
            clock, cpu = clock + time.perf_counter() - start, cpu + time.process_time() - spent
        start, spent = time.perf_counter(), time.process_time()
        memory, reach = stream.finish()
        clock, cpu = clock + time.perf_counter() - start, cpu + time.process_time() - spent
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        everything = torch.cat(kept)
        radius = max(float(nearest(part.float()[None], memory @ projection)[0].max()) for part in everything.split(8192))
        row = {
            "pictures": options.pictures,
            "patches": stream.seen,
            "numbers": net.features.width,
            "keep": options.keep,
            "store": stream.capacity,
            "reductions": stream.reductions,
            "feature_seconds": features,
            "coreset_seconds": clock,
            "coreset_cpu_seconds": cpu,
            "threads": torch.get_num_threads(),
            "bound": reach,
            "radius": radius,
            "store_bytes": Stream.memory(options.keep, stream.capacity, net.features.width, projection.shape[1]),
            "peak_bytes": peak,
            "seed": options.seed,
        }
        if options.at_once:
            start = time.perf_counter()
            row["radius_at_once"] = greedy(everything.float(), options.keep).radius
            row["seconds_at_once"] = time.perf_counter() - start
    record(options.out, row)
    print(", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
    return int(clock > TARGET)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The time and the reach of PatchCore's coreset.")
    parser.add_argument("--pictures", type=int, default=800)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--keep", type=int, default=METHOD.profiles["cpu"].most)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", action="store_true", help="choose from all patches at once too, and compare")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
