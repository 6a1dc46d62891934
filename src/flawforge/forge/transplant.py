"""`transplant`: regions of real defects, cut out of pictures of defective parts and blended into good ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np

from flawforge.forge import blend, shapes
from flawforge.types import ConfigError, Forged, Image, Mask, Sample

Range = float | tuple[float, float]
RING = 5  # px of its own surface that a piece is cloned with; OpenCV leaves the outer 3 of them
FADE = 3  # px outside its outline over which a piece fades into the good surface
NEAR = 3  # px: regions of a mask that are no farther apart are one piece
HOME_TURN, HOME_SHIFT = 10.0, 0.02  # degrees, and share of a side, that a piece moves at most where it stays at home


@dataclass(frozen=True)
class Piece:
    """One region of a real defect, cut out with some of the surface around it.

    pixels  h w c, c in {1, 3}, uint8 or float32 in [0, 1]
    mask    h w bool, True = defect; at least 9 pixels
    place   (y, x) of the defect's centre in its picture, as shares of the sides, in [0, 1]
    kind    the defect's name
    source  identifies the picture that it was cut from, such as the SHA-256 of its file
    """

    pixels: Image = field(repr=False, compare=False)
    mask: Mask = field(repr=False, compare=False)
    place: tuple[float, float] = (0.5, 0.5)
    kind: str = ""
    source: str = ""

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width in px of the box around the defect."""
        rows, columns = blend.bounding_box(self.mask)
        return rows.stop - rows.start, columns.stop - columns.start


def cut_out(picture: Image, mask: Mask, kind: str = "", source: str = "", margin: int = 2 * RING) -> tuple[Piece, ...]:
    """The pieces of a picture h w c by its defect mask h w; regions under 9 pixels are left out.

    Each is cut out with `margin` px around it, as far as the picture reaches; RING px are needed after resizing.
    """
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (NEAR, NEAR))
    count, labels = cv2.connectedComponents(cv2.dilate(mask.astype(np.uint8), kernel), connectivity=8)
    pieces = []
    for one in range(1, count):
        region = mask & (labels == one)
        if np.count_nonzero(region) < blend.LEAST_PIXELS:
            continue
        rows, columns = blend.bounding_box(region)
        place = (rows.start + rows.stop) / 2 / mask.shape[0], (columns.start + columns.stop) / 2 / mask.shape[1]
        box = tuple(slice(max(0, each.start - margin), each.stop + margin) for each in (rows, columns))
        pieces.append(Piece(picture[box].copy(), region[box].copy(), place, kind, source))
    return tuple(pieces)


class _Pose(NamedTuple):
    """How a piece is laid: turned by degrees, resized by a factor, mirrored; at home, or anywhere."""

    degrees: float
    factor: float
    mirrored: bool
    home: bool


@dataclass(frozen=True)
class Transplant:
    """Regions of real defects are cut out, given a new pose and blended into the good picture (cloned as in Perez 2003).

    pieces   the regions, see `cut_out`; () = an irregular region of another good picture is used, or of this one, rotated by
             180 degrees, and drawn["piece"] says so
    scale    a piece is resized by this factor
    turn     it is rotated by up to this many degrees either way, and mirrored in half of the cases
    home     share of the pieces that stay near their original place: moved by up to 2 % of the side, rotated by up to 10
             degrees, not mirrored; the others lie anywhere, or where Sample.prior is high
    opacity  of the piece, in (0, 1]; 1 = as found

    A piece that is too large for the picture is shrunk until it fits. The mask holds the pixels that changed by
    `least_change` inside the piece's own mask and 2 px around it. All amounts are assumptions.
    """

    pieces: tuple[Piece, ...] = field(default=(), repr=False)
    scale: Range = (0.7, 1.4)
    turn: float = 180.0
    home: float = 0.5
    opacity: Range = (0.6, 1.0)

    name: ClassVar[str] = "transplant"
    least_change: ClassVar[float] = 3 / 255

    def __post_init__(self) -> None:
        if not isinstance(self.pieces, tuple) or not all(isinstance(piece, Piece) for piece in self.pieces):
            raise ConfigError(
                f"{self.name}: pieces is {self.pieces!r}; it must be a tuple of pieces, as `cut_out` gives them."
            )
        if any(np.count_nonzero(piece.mask) < blend.LEAST_PIXELS for piece in self.pieces):
            raise ConfigError(f"{self.name}: pieces holds one of fewer than {blend.LEAST_PIXELS} pixels; leave it out.")
        blend.check_range(self.name, "scale", self.scale, 0.1, 10.0)
        blend.check_range(self.name, "turn", self.turn, 0.0, 180.0, "degrees", form="number")
        blend.check_range(self.name, "home", self.home, 0.0, 1.0, form="number")
        blend.check_range(self.name, "opacity", self.opacity, 0.05, 1.0)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        return blend.settle(sample, rng, self.name, self.least_change, lambda: self._attempt(sample, rng))

    def _attempt(self, sample: Sample, rng: np.random.Generator) -> blend.Attempt:
        number = int(rng.integers(len(self.pieces))) if self.pieces else None
        piece = _stand_in(sample, rng) if number is None else self.pieces[number]
        pose = self._pose(rng)
        over, mask = _posed(piece, pose, sample.image)
        centre = _centre(sample, piece, pose, mask.shape, rng)
        opacity = blend.draw(rng, self.opacity)
        candidate, allowed = _graft(sample.image, over, mask, centre, opacity)
        drawn: dict[str, Any] = {
            "piece": "stand-in" if number is None else number,
            "of": piece.kind,
            "source": piece.source,
            "centre": list(centre),
            "turn": pose.degrees,
            "scale": pose.factor,
            "mirrored": pose.mirrored,
            "home": pose.home,
            "opacity": opacity,
        }
        return candidate, allowed, drawn

    def _pose(self, rng: np.random.Generator) -> _Pose:
        home = bool(rng.random() < self.home)
        turn = min(self.turn, HOME_TURN) if home else self.turn
        return _Pose(
            float(rng.uniform(-turn, turn)), blend.draw(rng, self.scale), not home and bool(rng.random() < 0.5), home
        )


def _stand_in(sample: Sample, rng: np.random.Generator) -> Piece:
    """An irregular region of the other good picture, or of this one, turned by 180 degrees; grey in a grey picture."""
    source = np.rot90(sample.image, 2) if sample.other is None else sample.other
    shape = sample.image.shape[:2]
    size = float(rng.uniform(0.1, 0.25)) * min(shape)
    centre = (float(rng.uniform(0.2, 0.8)) * shape[0], float(rng.uniform(0.2, 0.8)) * shape[1])
    box = shapes.window(shape, centre, size + 2 * RING)
    mask = shapes.blob(box, centre, max(size, 6.0), rng, 0.4, float(rng.uniform(1.0, 2.0))) > 0.0
    place = (centre[0] / shape[0], centre[1] / shape[1])
    return Piece(np.ascontiguousarray(source[box]), mask, place, "stand-in")


def _posed(piece: Piece, pose: _Pose, image: Image) -> tuple[Image, Mask]:
    """Pixels H W c (uint8) and mask H W of the piece as it will lie: RING + 2 px of surface around the mask's box."""
    pixels = blend.as_uint8(blend.as_dtype(piece.pixels, blend.as_uint8(image)))
    if image.shape[2] == 3 and blend.is_grey(image) and not blend.is_grey(pixels):
        pixels = np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    level = piece.mask.astype(np.float32)
    if pose.mirrored:
        pixels, level = pixels[:, ::-1], np.ascontiguousarray(level[:, ::-1])
    rows, columns = blend.bounding_box(level > 0.0)
    middle = ((columns.start + columns.stop - 1) / 2, (rows.start + rows.stop - 1) / 2)
    c, s = abs(np.cos(np.deg2rad(pose.degrees))), abs(np.sin(np.deg2rad(pose.degrees)))
    high, wide = rows.stop - rows.start, columns.stop - columns.start
    needed = np.array([c * high + s * wide, s * high + c * wide])  # of the turned box at factor 1
    room = np.array(image.shape[:2]) - 2.0 * (RING + 2)
    factor = min(pose.factor, float((room / needed).min()))
    size = np.minimum(np.ceil(factor * needed), room).astype(int) + 2 * (RING + 2)
    move = cv2.getRotationMatrix2D(middle, pose.degrees, factor)
    move[:, 2] += (size[::-1] - 1) / 2 - np.array(middle)
    to = (int(size[1]), int(size[0]))
    laid = cv2.warpAffine(np.ascontiguousarray(pixels), move, to, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpAffine(level, move, to, flags=cv2.INTER_LINEAR) >= 0.5
    edge = RING + 1
    mask[:edge], mask[-edge:], mask[:, :edge], mask[:, -edge:] = False, False, False, False
    return laid.reshape(*mask.shape, image.shape[2]), mask


def _centre(sample: Sample, piece: Piece, pose: _Pose, size: Sequence[int], rng: np.random.Generator) -> tuple[int, int]:
    """Top-left corner (y, x) of a window of this size inside the picture, its middle where the piece is to lie."""
    shape = sample.image.shape[:2]
    if pose.home:
        shift = rng.uniform(-HOME_SHIFT, HOME_SHIFT, 2)
        middle = ((piece.place[0] + shift[0]) * shape[0], (piece.place[1] + shift[1]) * shape[1])
    else:
        prior = sample.prior if sample.prior is None or sample.prior.ndim == 2 else sample.prior[..., 0]
        middle = shapes.place((shape[0], shape[1]), prior, rng)
    corner = [
        int(np.clip(round(at - side / 2), 0, whole - side)) for at, side, whole in zip(middle, size, shape, strict=True)
    ]
    return corner[0], corner[1]


def _graft(image: Image, over: Image, mask: Mask, corner: tuple[int, int], opacity: float) -> tuple[Image, Mask]:
    """The picture with the piece cloned into the window at `corner`, and where it may have changed."""
    window = tuple(slice(at, at + side) for at, side in zip(corner, mask.shape, strict=True))
    candidate, allowed = image.copy(), np.zeros(image.shape[:2], bool)
    if not mask.any():
        return candidate, allowed
    under = blend.as_uint8(image)[window]
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * RING + 1, 2 * RING + 1))
    cloned = blend.seamless(under, over, cv2.dilate(mask.view(np.uint8), kernel).view(bool))
    outside = cv2.distanceTransform((~mask).view(np.uint8), cv2.DIST_L2, 5)
    cover = np.float32(opacity) * np.clip(1.0 - outside / FADE, 0.0, 1.0)
    mixed = under + cover[..., None] * (cloned.astype(np.float32) - under)
    eight = np.rint(mixed).astype(np.uint8)
    candidate[window], allowed[window] = blend.as_change(image[window], eight), cover > 0.0
    return candidate, allowed
