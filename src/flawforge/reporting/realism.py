"""How far a forgery can be told from the real surface: a two-sample test of small patches, and the gradient of its border.

0.5 means that a simple classifier cannot tell; 1.0 that it always can. Low is not good in itself: a defect that cannot be
told from the surface is no defect. The number tells how much of a forger's task is seam and texture statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge.types import Forged, Image

PATCH = 16  # px, side of a patch
PER_PICTURE = 12  # patches per picture and class
FOLDS = 4


class Realism(NamedTuple):
    """One forger's row.

    patch_auroc    cross-validated, grouped by picture: patches that touch the forgery against patches elsewhere on good
                   pictures; 0.5 = cannot be told; None = too few pictures or patches
    same_place     the same against the good picture's patches at the very same places, so that place alone tells nothing
    border_ratio   median gradient across the forgery's border over the 90th percentile of the good pictures' gradients:
                   1 = as steep as a natural edge, well above = a cut-out
    patches        number of forged patches
    """

    patch_auroc: float | None
    same_place: float | None
    border_ratio: float | None
    patches: int


def realism(pictures: Sequence[tuple[Image, Forged]], seed: int = 0) -> Realism:
    """Compare forged pictures with the good ones they were made of; (good h w c, forged) pairs of one forger."""
    rng = np.random.default_rng(seed)
    forged, same, other, group = [], [], [], []
    ratios = []
    for index, (good, forged_picture) in enumerate(pictures):
        ratio = border_ratio(good, forged_picture)
        if ratio is not None:
            ratios.append(ratio)
        for y, x in _places(forged_picture.mask, rng):
            forged.append(_features(forged_picture.image[y : y + PATCH, x : x + PATCH]))
            same.append(_features(good[y : y + PATCH, x : x + PATCH]))
            yy, xx = (int(rng.integers(0, side - PATCH + 1)) for side in good.shape[:2])
            other.append(_features(good[yy : yy + PATCH, xx : xx + PATCH]))
            group.append(index)
    ratio = float(np.median(ratios)) if ratios else None
    if len(set(group)) < FOLDS or len(group) < 24:
        return Realism(None, None, ratio, len(group))
    return Realism(_auroc(forged, other, group, seed), _auroc(forged, same, group, seed), ratio, len(group))


def border_ratio(good: Image, forged: Forged) -> float | None:
    """Median gradient on the mask's border in the forged picture over the good one's 90th percentile; None = no border."""
    mask = forged.mask.astype(np.uint8)
    border = (cv2.dilate(mask, np.ones((3, 3), np.uint8)) - cv2.erode(mask, np.ones((3, 3), np.uint8))).astype(bool)
    if not border.any():
        return None
    natural = float(np.quantile(_gradient(good), 0.9))
    return float(np.median(_gradient(forged.image)[border])) / max(natural, 1.0 / 255.0)


def _gradient(picture: Image) -> NDArray[np.float32]:
    """h w: gradient strength per pixel of the mean over channels, in units of the range."""
    scale = 255.0 if picture.dtype == np.uint8 else 1.0
    grey = np.asarray(picture.mean(axis=2) / scale, np.float32)
    x, y = (cv2.Sobel(grey, cv2.CV_32F, dx, dy, ksize=3, scale=0.125) for dx, dy in ((1, 0), (0, 1)))
    return np.asarray(cv2.magnitude(x, y))


def _places(mask: NDArray[np.bool_], rng: np.random.Generator) -> list[tuple[int, int]]:
    """Top-left corners of up to PER_PICTURE patches whose middle is a random forged pixel, shifted into the picture."""
    rows, columns = np.nonzero(mask)
    if rows.size == 0 or min(mask.shape) < PATCH:
        return []
    pick = rng.integers(0, rows.size, min(PER_PICTURE, rows.size))
    half = PATCH // 2
    return [
        (int(np.clip(rows[i] - half, 0, mask.shape[0] - PATCH)), int(np.clip(columns[i] - half, 0, mask.shape[1] - PATCH)))
        for i in pick
    ]


def _features(patch: Image) -> NDArray[np.float64]:
    """Simple statistics of a patch: tone, spread, colour, gradients, fine residue, low frequencies."""
    scale = 255.0 if patch.dtype == np.uint8 else 1.0
    values = patch.astype(np.float32) / np.float32(scale)
    grey = np.ascontiguousarray(values.mean(axis=2))
    dy, dx = np.abs(np.diff(grey, axis=0)), np.abs(np.diff(grey, axis=1))
    fine = np.abs(grey - cv2.blur(grey, (3, 3)))
    colour = values.std(axis=2)
    spectrum = np.log(np.abs(cv2.dct(grey))[:4, :4].ravel()[1:] + 1e-3)
    tones = np.quantile(grey, (0.0, 0.1, 0.5, 0.9, 1.0))
    numbers = [grey.mean(), grey.std(), colour.mean(), colour.max(), dy.mean(), dx.mean(), dy.max(), dx.max()]
    rest = [fine.mean(), fine.max(), float(np.median(fine)), *values.mean(axis=(0, 1)) - grey.mean()]
    return np.concatenate([numbers, rest, tones, spectrum]).astype(np.float64)


def _auroc(forged: list[Any], good: list[Any], group: list[int], seed: int) -> float:
    """Cross-validated AUROC of a boosted forest of small trees; a picture is never in both the fit and the test."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict

    x = np.concatenate([forged, good])
    y = np.repeat([1, 0], len(forged))
    model = HistGradientBoostingClassifier(max_iter=60, max_depth=3, random_state=seed)
    groups = np.concatenate([group, group])
    probability = cross_val_predict(model, x, y, groups=groups, cv=GroupKFold(FOLDS), method="predict_proba")[:, 1]
    return float(roc_auc_score(y, probability))
