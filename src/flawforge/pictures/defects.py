"""Real defects that a fit learns from (`--defects`): pictures of defective parts with masks, checked, and cut into pieces.

A few pictures are easily learnt by heart, so every third of three or more is kept from training: by those the segmenter is
judged, and `pod` measures. Which ones follows from their content, not from their names.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from flawforge.forge.blend import LEAST_PIXELS
from flawforge.forge.transplant import RING, Piece, cut_out
from flawforge.pictures import masks
from flawforge.pictures.copies import fingerprint
from flawforge.pictures.listing import defect_listing
from flawforge.types import DataError, Image, Mask
from flawforge_runtime.decode import MAX_PIXELS, read_picture

EVERY = 3  # one of so many pictures proves; assumption
LARGEST = 0.5  # share of its picture that a defect covers at most: a larger mask is most likely inverted
COVERED = 0.125  # share of a canvas pixel that a defect covers where it counts, so that thin ones stay
DIGITS = 12  # of the hashes that a model folder keeps, as of the fingerprints of its good pictures


@dataclass(frozen=True)
class Defect:
    """One picture of a defective part.

    sha256  of the picture's file
    mask    SHA-256 of the mask's size and pixels
    proves  it is kept from training
    """

    path: Path
    kind: str
    mask_path: Path
    sha256: str
    mask: str
    proves: bool = False


@dataclass(frozen=True)
class Defects:
    """What --defects gave: at least one picture, in the order of kinds and hashes; notes for people."""

    source: Path
    pictures: tuple[Defect, ...]
    max_pixels: int = MAX_PIXELS
    depth: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def trained(self) -> tuple[Defect, ...]:
        """Those that the training stages see."""
        return tuple(defect for defect in self.pictures if not defect.proves)

    @property
    def proving(self) -> tuple[Defect, ...]:
        """Those that training never sees; none of fewer than three."""
        return tuple(defect for defect in self.pictures if defect.proves)

    @property
    def identity(self) -> str:
        """SHA-256 of all pictures and masks and of what each is used for; their names and places do not count."""
        facts = [(defect.kind, defect.sha256, defect.mask, defect.proves) for defect in self.pictures]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    @property
    def counted(self) -> str:
        """How many, of which kinds, in words."""
        count = len(self.pictures)
        kinds = ", ".join(f"{kind} {number}" for kind, number in self.kinds.items())
        return f"{count} picture{'s' * (count != 1)} with real defects ({kinds})"

    def lines(self) -> list[str]:
        """For people, what a fit does with them."""
        kept = len(self.proving)
        use = f"{kept} of them kept from training to prove it" if kept else "all of them trained on"
        return [f"{self.counted}, {use}", *self.notes]

    @property
    def kinds(self) -> dict[str, int]:
        """{kind: pictures}"""
        return dict(sorted(Counter(defect.kind for defect in self.pictures).items()))

    def as_dict(self) -> dict[str, Any]:
        """For a model's config: counts, and no file that could be found again."""
        return {"pictures": len(self.pictures), "trained_on": len(self.trained), "kinds": self.kinds}

    def listed(self) -> list[dict[str, str]]:
        """Each picture by kind and name, the first DIGITS of its hash, and use; for the model's own folder only."""
        return [
            {
                "name": f"{defect.kind}/{defect.path.name}",
                "sha256": defect.sha256[:DIGITS],
                "use": "proof" if defect.proves else "training",
            }
            for defect in self.pictures
        ]

    def pieces(
        self, pictures: Sequence[Defect], canvas: tuple[int, int] | None = None, tile: int | None = None
    ) -> tuple[Piece, ...]:
        """The pieces of some of the pictures, at the size at which they lie on the canvas; None = at their own.

        tile  side in px of the squares that are judged one by one, each on the canvas
        DataError where a piece is left of none of them, for they are too small on the canvas.
        """
        found: list[Piece] = []
        for defect in pictures:
            pixels, mask = _read(defect.path, defect.mask_path, self.max_pixels, self.depth)
            factor = 1.0
            if canvas is not None:
                sides = (tile, tile) if tile else mask.shape
                factor = min(canvas[0] / sides[0], canvas[1] / sides[1])
            margin = int(np.ceil(2 * RING / min(factor, 1.0)))
            cut = cut_out(pixels, mask, defect.kind, defect.sha256[:DIGITS], margin)
            found += [piece for piece in (_resized(one, factor) for one in cut) if piece is not None]
        if pictures and not found:
            size = "" if canvas is None else f" on the canvas of {canvas[0]} x {canvas[1]} (h x w)"
            raise DataError(
                f"None of the {len(pictures)} defects of {self.source} covers {LEAST_PIXELS} pixels{size}; mark larger "
                "ones, or fit with a larger --size or with --tile."
            )
        return tuple(found)


def read_defects(
    data: str | Path,
    good: Iterable[Path] = (),
    *,
    max_pixels: int = MAX_PIXELS,
    depth: int | None = None,
    known: Mapping[str, Any] | None = None,
) -> Defects | None:
    """The real defects in `data`, see `defect_listing`; None where all its pictures are labelled good.

    good   good pictures of the same fit, none of which may be among them
    known  the config of a model that was fitted: those that it was trained on are left out, and noted

    Raises DataError for a picture without a mask, an empty mask or one of more than half of the picture, a good picture,
    and where the model was trained on all; ImageError for a picture that cannot be read, or a mask of another size.
    """
    data = Path(data)
    listing = defect_listing(data)
    if not listing.entries:
        return None
    bare = [entry.path for entry in listing.entries if entry.mask_path is None]
    if bare:
        notes = "".join(f" ({note})" for note in listing.mask_notes[:1])
        raise DataError(
            f"{len(bare)} of {len(listing.entries)} pictures of --defects {data} have no mask, the first is "
            f"{bare[0]}{notes}; draw one that is white on the defect, or leave these pictures out."
        )
    goods = {fingerprint(path): path for path in good}
    seen: dict[str, Defect] = {}
    twice = 0
    for entry in listing.entries:
        assert entry.mask_path is not None, "a picture without a mask was refused above"
        defect = _checked(entry.path, entry.kind, entry.mask_path, max_pixels, depth)
        if (same := goods.get(defect.sha256[:DIGITS])) is not None:
            raise DataError(
                f"{entry.path} of --defects is the good picture {same}; remove it from the one or from the other."
            )
        twice += defect.sha256 in seen
        seen.setdefault(defect.sha256, defect)
    listed = (known or {}).get("defects") or ()
    learnt = {entry["sha256"] for entry in listed if entry["use"] == "training"}
    left = [defect for defect in seen.values() if defect.sha256[:DIGITS] not in learnt]
    if not left:
        raise DataError(
            f"The model was trained on all {len(seen)} pictures of --defects {data}, so they prove nothing; give pictures "
            "that are new to it."
        )
    notes_told = [f"copies of pictures with real defects that were left out: {twice}"] if twice else []
    if len(left) < len(seen):
        told = f"{len(seen) - len(left)} of {len(seen)} pictures with real defects were left out"
        notes_told.append(f"{told}, as the model was trained on them")
    ordered = sorted(left, key=lambda defect: (defect.kind, defect.sha256))
    dealt = [dataclasses.replace(defect, proves=place % EVERY == EVERY - 1) for place, defect in enumerate(ordered)]
    return Defects(data, tuple(dealt), max_pixels, depth, tuple(notes_told))


def _checked(path: Path, kind: str, mask_path: Path, max_pixels: int, depth: int | None) -> Defect:
    _, mask = _read(path, mask_path, max_pixels, depth)
    share = float(mask.mean())
    if not mask.any():
        raise DataError(f"The mask {mask_path} of {path} marks nothing; paint the defect white, or leave the picture out.")
    if share > LARGEST:
        raise DataError(
            f"The mask {mask_path} marks {share:.0%} of {path}, and at most {LARGEST:.0%} can be a defect; paint the defect "
            "white and all else black."
        )
    pixels = hashlib.sha256(repr(mask.shape).encode() + np.packbits(mask).tobytes()).hexdigest()
    return Defect(path, kind, mask_path, hashlib.sha256(path.read_bytes()).hexdigest(), pixels)


def _read(path: Path, mask_path: Path, max_pixels: int, depth: int | None) -> tuple[Image, Mask]:
    """Picture h w 3 and mask h w; a mask that a COCO file does not list is empty."""
    picture = read_picture(path, max_pixels=max_pixels, depth=depth)
    shape = picture.pixels.shape[:2]
    mask = masks.read(mask_path, path, (shape[0], shape[1]), max_pixels)
    return picture.pixels, np.zeros(shape, bool) if mask is None else mask


def _resized(piece: Piece, factor: float) -> Piece | None:
    """The piece at another size; None where too little of it is left."""
    if factor == 1.0:
        return piece
    height, width = (max(1, round(side * factor)) for side in piece.mask.shape)
    how = cv2.INTER_AREA if factor < 1.0 else cv2.INTER_LINEAR
    mask = cv2.resize(piece.mask.astype(np.float32), (width, height), interpolation=how) >= COVERED
    if np.count_nonzero(mask) < LEAST_PIXELS:
        return None
    pixels = cv2.resize(piece.pixels, (width, height), interpolation=how).reshape(height, width, -1)
    return dataclasses.replace(piece, pixels=pixels, mask=mask)
