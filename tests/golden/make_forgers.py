"""Write tests/golden/forgers.npz: one small forgery per forger at a fixed seed.

Run by hand when a forger is meant to change:

    .venv/bin/python tests/golden/make_forgers.py
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from flawforge.forge import FORGERS
from flawforge.types import Forged, Sample

FILE = Path(__file__).with_name("forgers.npz")


def sample() -> Sample:
    """A 48 x 56 grey part: a bright disc on a slope of tones, with grain; another like it; the disc as prior."""
    rng = np.random.default_rng(20240)
    y, x = np.mgrid[0:48, 0:56]
    disc = np.hypot(y - 24, x - 28) < 16
    pictures = [
        np.clip(50 + 100 * disc + x + rng.integers(-3, 4, disc.shape), 0, 255).astype(np.uint8)[..., None] for _ in range(2)
    ]
    return Sample(pictures[0], disc.astype(np.float32), pictures[1])


def forge(name: str) -> Forged:
    forged: Forged = FORGERS[name]()(sample(), np.random.default_rng([11, sorted(FORGERS).index(name)]))
    return forged


def main() -> None:
    kept = {"versions": np.array(f"numpy {np.__version__}, opencv {cv2.__version__}")}
    for name in sorted(FORGERS):
        forged = forge(name)
        kept[f"{name}/image"], kept[f"{name}/mask"] = forged.image[..., 0], np.packbits(forged.mask)
    np.savez_compressed(FILE, **kept)
    print(f"{FILE}: {FILE.stat().st_size} bytes, {kept['versions']}")


if __name__ == "__main__":
    main()
