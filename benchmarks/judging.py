"""What every ablation judges a fit by: labelled test pictures, and forged copies of held-back good ones.

Settings may be chosen by the forged ones; nothing may be chosen by test pictures.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flawforge.forge import FORGERS
from flawforge.pictures import dataset
from flawforge.pictures.saliency import background_of, saliency
from flawforge.proving import metrics
from flawforge.types import Sample
from flawforge_runtime import images
from flawforge_runtime.inspector import Inspector

PROOF = ("cutpaste", "nsa", "scratch", "stain", "missing", "dent")  # for methods that learn from textures
SALIENT, DRAWS = 0.8, 30


def test_pairs(root: Path) -> Iterator[tuple[Any, Any]]:
    """(picture, mask of its defects) of the labelled test pictures; good ones have an empty mask."""
    for entry in dataset.read_entries(root):
        if entry.split == "test":
            picture = images.read_picture(entry.path).pixels
            size = picture.shape[:2]
            yield picture, images.read_mask(entry.mask_path, size=size) if entry.mask_path else np.zeros(size, bool)


def figures(judge: Inspector, pairs: Iterable[tuple[Any, Any]], every: int = 1) -> dict[str, float]:
    """Of (picture, mask) pairs; a picture with an empty mask is good. No threshold is needed.

    every  pixel figures are taken at each `every`-th pixel of every `every`-th row
    `ms_per_picture` is processor time.
    """
    scores, labels, maps, masks, peaks, seconds = [], [], [], [], [], []
    for picture, mask in pairs:
        start = time.process_time()
        judged = judge.judge(images.as_picture(picture))
        seconds.append(time.process_time() - start)
        scores.append(judged.score)
        labels.append(bool(mask.any()))
        if mask.any():
            peaks.append(metrics.peak_on_defect(judged.anomaly_map, mask))
        maps.append(judged.anomaly_map[::every, ::every].copy())
        masks.append(mask[::every, ::every].copy())
    return {
        "image_auroc": metrics.auroc(scores, labels),
        "pixel_ap": metrics.pixel_average_precision(maps, masks),
        "pixel_auroc": metrics.pixel_auroc(maps, masks),
        "aupro_0.3": metrics.aupro(maps, masks, 0.3),
        "peak_on_defect": float(np.mean(peaks)),
        "ms_per_picture": 1e3 * float(np.median(seconds)),
    }


def forged_pairs(
    held: Sequence[dataset.Entry], canvas: tuple[int, int], seed: int, forgers: Sequence[str], on_part: bool = False
) -> Iterator[tuple[Any, Any]]:
    """Each held-back good picture as it is and forged, on the canvas; the forgers take turns.

    on_part  a forgery is drawn again until four fifths of it are salient: a flaw is on the part
    """
    pictures = [images.letterbox(images.read_picture(entry.path).pixels, canvas)[0] for entry in held]
    background = background_of(pictures) if on_part else None
    for index, pixels in enumerate(pictures):
        rng = np.random.default_rng([seed, index])
        salient = saliency(pixels, "foreground", background=background).map > 0.5 if on_part else None
        for _ in range(DRAWS):
            forged = FORGERS[forgers[index % len(forgers)]]()(Sample(pixels, other=pictures[index - 1]), rng)
            if salient is None or (forged.mask & salient).sum() > SALIENT * max(forged.mask.sum(), 1):
                break
        yield pixels, np.zeros(pixels.shape[:2], bool)
        yield forged.image, forged.mask


def forged_figures(
    judge: Inspector, held: Sequence[dataset.Entry], seed: int, forgers: Sequence[str] = PROOF, on_part: bool = False
) -> dict[str, float]:
    """Image AUROC, pixel AP and peak-on-defect over `forged_pairs`."""
    found = figures(judge, forged_pairs(held, judge.canvas, seed, forgers, on_part))
    names = {"image_auroc": "forged_image_auroc", "pixel_ap": "forged_pixel_ap", "peak_on_defect": "forged_peak"}
    return {new: found[old] for old, new in names.items()}


def forged_iou(judge: Inspector, held: Sequence[dataset.Entry], seed: int, forgers: Sequence[str] = PROOF) -> float:
    """IoU of the forged pixels at the model's pixel threshold, pixels of all forged pictures together (good ones left out).

    The threshold comes from the same held-back pictures, unforged.
    """
    assert judge.calibration is not None
    both = either = 0
    for picture, mask in forged_pairs(held, judge.canvas, seed, forgers):
        if mask.any():
            found = judge.judge(images.as_picture(picture)).anomaly_map > judge.calibration.pixel_threshold
            both, either = both + int((found & mask).sum()), either + int((found | mask).sum())
    return both / either
