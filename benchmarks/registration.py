"""Do good parts lie alike, and do poses pay? What `fit --align auto` decides: results/registration.csv.

    FLAWFORGE_DATA=/data python benchmarks/registration.py [--data NAME ...] [--out FILE]

Good training pictures of each data set are looked at as `fit` does; then the same ones, each moved by up to 12 px of the
canvas along both sides and turned by up to 5 degrees. `said` is the note of --align on, or why it refuses.
No test picture is read.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import cv2
import numpy as np

from flawforge.pictures import dataset
from flawforge.pictures.alignment import PICTURES, register
from flawforge.types import ConfigError
from flawforge_runtime import images
from record import record

SETS = ("mvtec_bottle", "magnetic_tile", "kolektorsdd", "aws_cookies")
MOVED, TURNED = 12, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(SETS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "registration.csv")
    options = parser.parse_args()
    for name in options.data:
        entries = dataset.good_entries(dataset.read_entries(Path(os.environ["FLAWFORGE_DATA"]) / name))
        own = [images.read_picture(entry.path).pixels for entry in entries[:: max(1, len(entries) // PICTURES)][:PICTURES]]
        canvas = images.choose_canvas([(each.shape[0], each.shape[1]) for each in own], 256)
        lying = [(pixels, images.valid_mask(placed)) for pixels, placed in (images.letterbox(each, canvas) for each in own)]
        rng, moved = np.random.default_rng(0), []
        for pixels, valid in lying:
            h, w = valid.shape
            matrix = cv2.getRotationMatrix2D((w / 2, h / 2), rng.uniform(-TURNED, TURNED), 1.0)
            matrix[:, 2] += rng.uniform(-MOVED, MOVED, 2)
            moved.append((cv2.warpAffine(pixels, matrix, (w, h), borderMode=cv2.BORDER_REPLICATE), valid))
        for title, pictures in (("as they lie", lying), ("moved", moved)):
            start = time.perf_counter()
            used = register(pictures, "auto").template is not None
            seconds = time.perf_counter() - start
            try:
                said = register(pictures, "on").note
            except ConfigError as error:
                said = str(error)
            row = {
                "data": name,
                "pictures": len(pictures),
                "lie": title,
                "auto": "yes" if used else "no",
                "said": said,
                "seconds": seconds,
                "seed": 0,
            }
            record(options.out, row)
            print(row, flush=True)


if __name__ == "__main__":
    main()
