"""How far each forger's patches can be told from the good surface, on real data sets: see `flawforge.reporting.realism`.

    FLAWFORGE_DATA=... python benchmarks/forge_realism.py [--pictures 60] [--data mvtec_bottle magnetic_tile ...]

Good training pictures alone, one forgery each, at their own size but at most 512 px on the longer side; the prior is
"foreground". One row per data set and forger: patch_auroc (against patches elsewhere), same_place (against the good
picture's patches at the same places), border_ratio. 0.5 = cannot be told. No figure here is a verdict: a defect that nothing
can tell is no defect.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from flawforge.forge import FAMILIES, FORGERS
from flawforge.pictures.dataset import good_entries, read_entries
from flawforge.pictures.saliency import background_of, saliency
from flawforge.reporting.realism import realism
from flawforge.types import Sample
from flawforge_runtime.images import read_picture
from record import record

LONGEST = 512
DATA = ("mvtec_bottle", "magnetic_tile", "kolektorsdd", "aws_cookies")
RESULTS = Path(__file__).resolve().parent / "results" / "forge_realism.csv"


def main() -> int:
    options = _options()
    root = os.environ.get("FLAWFORGE_DATA")
    if not root:
        raise SystemExit("FLAWFORGE_DATA is not set; it must name the folder that holds the data sets.")
    family = {name: key for key, names in FAMILIES.items() for name in names}
    for data in options.data:
        samples = samples_of(Path(root) / data, options.pictures)
        for name in options.forger or FORGERS:
            pairs = []
            for i, sample in enumerate(samples):
                pairs.append((sample.image, FORGERS[name]()(sample, np.random.default_rng([options.seed, i]))))
            row = realism(pairs, options.seed)
            facts = {"data": data, "forger": name, "family": family[name], "pictures": len(pairs), "seed": options.seed}
            record(options.out, {**facts, **row._asdict()})
            print(data, name, *(f"{k} {v:.3g}" for k, v in row._asdict().items() if v is not None), flush=True)
    return 0


def samples_of(folder: Path, count: int) -> list[Sample]:
    """Up to `count` good pictures, evenly over the training split, each with the next of its size as `other`."""
    entries = good_entries(read_entries(folder))
    chosen = entries[:: max(1, len(entries) // count)][:count]
    pictures = [_bounded(read_picture(entry.path).pixels) for entry in chosen]
    background = background_of(pictures[:16])
    samples = []
    for i, picture in enumerate(pictures):
        following = (pictures[(i + k) % len(pictures)] for k in range(1, len(pictures)))
        other = next((p for p in following if p.shape == picture.shape), None)
        samples.append(Sample(picture, saliency(picture, "foreground", background=background).map, other))
    return samples


def _bounded(pixels: Any) -> Any:
    h, w = pixels.shape[:2]
    scale = min(1.0, LONGEST / max(h, w))
    return cv2.resize(pixels, (round(w * scale), round(h * scale)), interpolation=cv2.INTER_AREA) if scale < 1.0 else pixels


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Realism of every forger on real pictures.")
    parser.add_argument("--data", nargs="+", default=list(DATA))
    parser.add_argument("--forger", nargs="*")
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
