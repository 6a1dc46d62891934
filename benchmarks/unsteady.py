"""Parts that shift and light that varies: is the default ever worse than a simple memory? results/unsteady.csv.

    FLAWFORGE_DATA=/data OMP_NUM_THREADS=1 python benchmarks/unsteady.py [--data NAME ...] [--ways shifted lit]
        [--variants memory default scratch] [--seeds 0] [--pictures 100] [--out FILE]

Each picture of a data set, good or defective, for fit or for test, is varied by a draw of its own, masks with it:

    steady   as it is
    shifted  moved by up to SHIFT of each side, both ways; the border's pixels are mirrored
    lit      times a gain and a gradient across the picture, in a random direction, each up to LIGHT

So all pictures vary alike, as on a line whose parts lie loose or whose lamps flicker; `robustness.py` instead varies test
pictures that the model has not seen varied. Variants: `memory` is PatchCore with the trunk, `default` the statistics of
`auto` with the trunk, `scratch` those with --trunk none. --pictures good pictures, drawn by the seed, are fitted. Test
pictures choose nothing here.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ablation import missing
from flawforge import fitting
from flawforge.pictures import dataset
from flawforge_runtime import images
from judging import figures, test_pairs
from record import record

SETS = ("mvtec_bottle", "magnetic_tile", "kolektorsdd", "aws_cookies")
WAYS = ("steady", "shifted", "lit")
SHIFT, LIGHT = 0.05, 0.2
VARIANTS: dict[str, dict[str, Any]] = {
    "memory": {"method": "patchcore"},
    "default": {"method": "auto", "settings": {"use": "statistics"}},
    "scratch": {"method": "auto", "settings": {"use": "statistics"}, "trunk": "none"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(SETS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "unsteady.csv")
    options = parser.parse_args()
    for name, seed, way in ((d, s, w) for d in options.data for s in options.seeds for w in options.ways):
        keys = [
            {"data": name, "way": way, "variant": each, "seed": str(seed), "pictures": str(options.pictures)}
            for each in options.variants
        ]
        left = missing(options.out, keys)
        if not left:
            continue
        with tempfile.TemporaryDirectory() as folder:
            root = write_varied(Path(os.environ["FLAWFORGE_DATA"]) / name, Path(folder), way, seed, options.pictures)
            for key in left:
                start = time.process_time()
                model = fitting.fit(root, seed=seed, **VARIANTS[key["variant"]])
                row = {**key, "fit_seconds": time.process_time() - start}
                row |= figures(model, test_pairs(root), every=2)
                record(options.out, row)
                print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


def write_varied(source: Path, root: Path, way: str, seed: int, pictures: int) -> Path:
    """A data set with its pictures varied, in MVTec's layout; `pictures` good ones for the fit at most."""
    entries, rng = dataset.read_entries(source), np.random.default_rng(seed)
    train = [entry for entry in entries if entry.split == "train"]
    train = [train[place] for place in sorted(rng.permutation(len(train))[:pictures])]
    test = [entry for entry in entries if entry.split == "test"]
    for number, entry in enumerate((*train, *test)):
        pixels = images.read_picture(entry.path).pixels
        mask = images.read_mask(entry.mask_path, size=pixels.shape[:2]) if entry.mask_path else None
        pixels, mask = varied(pixels, mask, way, np.random.default_rng([seed, number]))
        label = "defect" if entry.label else "good"
        _write(root / entry.split / label / f"{number:05}.png", pixels[..., ::-1])
        if entry.label:
            assert mask is not None, entry.path
            _write(root / "ground_truth" / label / f"{number:05}_mask.png", mask.astype(np.uint8) * 255)
    return root


def varied(pixels: Any, mask: Any, way: str, rng: np.random.Generator) -> tuple[Any, Any]:
    """A picture h w 3 uint8 and its mask h w, None = none, varied by one draw."""
    if way == "steady":
        return pixels, mask
    height, width = pixels.shape[:2]
    if way == "shifted":
        down, right = np.rint(rng.uniform(-SHIFT, SHIFT, 2) * (height, width)).astype(int)
        move = np.float32([[1, 0, right], [0, 1, down]])
        pixels = cv2.warpAffine(pixels, move, (width, height), borderMode=cv2.BORDER_REFLECT_101)
        if mask is not None:  # mirrored like the picture: what shows a defect is labelled so
            flat = mask.astype(np.uint8)
            mask = (
                cv2.warpAffine(flat, move, (width, height), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101) > 0
            )
        return pixels, mask
    gain, slope, angle = rng.uniform(-LIGHT, LIGHT), rng.uniform(0, LIGHT), rng.uniform(0, 2 * np.pi)
    rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    light = (1 + gain) * (1 + slope * (np.cos(angle) * columns + np.sin(angle) * rows))
    return np.rint(np.clip(pixels * light[..., None], 0, 255)).astype(np.uint8), mask


def _write(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), np.ascontiguousarray(pixels), [cv2.IMWRITE_PNG_COMPRESSION, 1]):
        raise OSError(f"{path} could not be written")


if __name__ == "__main__":
    main()
