"""Is this one of the pictures that a model was trained on? By the file itself, or by what it shows if it was saved anew.

A model folder keeps of each training picture the first 12 hex digits of its file's SHA-256, and a likeness: SIDE x SIDE grey
means. A picture whose likeness lies far nearer to a training picture's than training pictures lie to each other is taken
for a copy of it: re-encoded, resized or in another file format. Products whose good parts are alike to a grey level are
told apart by the file alone.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge.types import Image, ImageError
from flawforge_runtime.files import read_regular
from flawforge_runtime.images import read_picture

SIDE = 16
NEAR = 0.25  # of the usual distance between a training picture and the one nearest to it: closer than this is a copy
MOST = 1.0  # grey levels of 255; farther than this is never a copy, however unlike the training pictures are
MODEL_LIMIT = 4096  # training pictures whose likenesses are kept


def fingerprint(path: Path) -> str:
    """First 12 hex digits of the sha256 of a file. Raises OSError, also for what is no regular file."""
    return hashlib.sha256(read_regular(path)).hexdigest()[:12]


def likeness(pixels: Image) -> NDArray[np.float16]:
    """h w 3 uint8 or float32 in [0, 1] -> SIDE * SIDE means of its grey values, in levels of 255."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(small * (1.0 if grey.dtype == np.uint8 else 255.0), np.float16).ravel()


@dataclass(frozen=True)
class Known:
    """The pictures that a model was trained on.

    fingerprints  of their files
    likenesses    n SIDE*SIDE, in levels of 255; n may be smaller than the number of files, and 0
    """

    fingerprints: frozenset[str]
    likenesses: NDArray[np.float16]

    @property
    def within(self) -> float:
        """The distance (root mean square, levels) below which a picture is taken for a copy."""
        if len(self.likenesses) < 2:
            return 0.0
        nearest = [np.partition(_distances(one, self.likenesses), 1)[1] for one in self.likenesses[:256]]
        return min(MOST, NEAR * float(np.median(nearest)))

    def trained_on(self, paths: Iterable[Path], **limits: Any) -> list[Path]:
        """Those of `paths` that are among the training pictures or copies of them; an unreadable one is not.

        limits  max_pixels and depth, as `read_picture` takes them
        """
        within = self.within
        return [path for path in paths if self._is_one(path, within, limits)]

    def _is_one(self, path: Path, within: float, limits: Mapping[str, Any]) -> bool:
        try:
            if fingerprint(path) in self.fingerprints:
                return True
            if within <= 0:
                return False
            pixels = read_picture(path, **limits).pixels
        except (ImageError, OSError):  # it is named as unreadable when it is judged
            return False
        return bool(_distances(likeness(pixels), self.likenesses).min() < within)


def _distances(one: NDArray[np.float16], many: NDArray[np.float16]) -> NDArray[np.float32]:
    """Root mean square differences, n."""
    apart = many.astype(np.float32) - one.astype(np.float32)
    return np.asarray(np.sqrt(np.square(apart).mean(axis=1)), np.float32)


def pack(likenesses: Iterable[NDArray[np.float16]]) -> str:
    """For a JSON file."""
    rows = list(likenesses)[:MODEL_LIMIT]
    return base64.b64encode(np.stack(rows).astype("<f2").tobytes()).decode() if rows else ""


def known(config: Mapping[str, Any]) -> Known:
    """What a model's config tells of its training pictures, real defects too; nothing where it tells nothing."""
    training = config.get("training") or {}
    packed = np.frombuffer(base64.b64decode(training.get("likenesses") or ""), "<f2")
    names = [*(training.get("fingerprints") or ()), *(each["sha256"] for each in config.get("defects") or ())]
    return Known(frozenset(names), packed.reshape(-1, SIDE * SIDE))
