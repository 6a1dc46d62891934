"""Proof pictures: defects of controlled kind, size and contrast, forged into good pictures that the model never saw.

This is the specimen set of a demonstration test in the sense of MIL-HDBK-1823A, with forged specimens in place of made
ones. The target size `a` is the largest extent (maximum Feret diameter) of the defect, measured on the exact mask after
forging: for a scratch its length, for a stain its longer diameter. Real defects with masks are measured by the same
`defect_size`, so forged and real ones lie on one axis. What is said of forged defects is said of forged defects only.

Everything is a pure function of (good pictures, recipe): the same forgeries for any number of calls, and whatever the
order in which the good pictures are given, for they are taken in the order of their content's hash.
"""

from __future__ import annotations

import hashlib
import itertools
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from flawforge.forge import FAMILIES, FORGERS, family, forger_from
from flawforge.forge.blend import SMALLEST
from flawforge.forge.transplant import Piece, Transplant
from flawforge.pictures.listing import thinned
from flawforge.pictures.saliency import Background, background_of, saliency
from flawforge.types import ConfigError, DataError, Forger, Image, ImageError, Mask, Sample
from flawforge_runtime.files import read_regular
from flawforge_runtime.images import MAX_PIXELS, read_picture

KINDS = ("scratch", "crack", "stain", "dent", "blob", "missing")  # assumption: what a plant asks for first
CONTRASTS = (0.1, 0.3)  # of the full range: faint and plain; assumption
SMALL, LARGE = 0.012, 0.3  # of the shorter side: 3 to 77 px of 256; assumption
COUNT = 48  # forgeries per kind and contrast: 29 is the least that can show 90 % with 95 % confidence
SETTINGS: Mapping[str, Mapping[str, Any]] = {"scratch": {"count": 1}, "blob": {"count": 1}}  # one defect a picture
AS_FOUND = 1.0  # opacity of a real defect that is grafted onto a good picture; stands where a forgery has its contrast
RESIZED = (0.5, 2.0)  # factors by which a real defect is resized; assumption
TRIES = 8  # draws of a forgery that comes out too small to be there, or outside the region of interest
BACKGROUND_FROM = 16  # good pictures that the background's colours are learnt from
CACHE_BYTES = 256 << 20


@dataclass(frozen=True)
class Recipe:
    """What to forge. Defaults are stated beside the constants above.

    kinds      forgers that take size and contrast, see `measured_forgers`
    contrasts  tone changes wanted, as share of the full range, in [0.01, 1]
    sizes      smallest and largest size wanted, in px of the pictures; None = SMALL to LARGE of the shorter side
    count      forgeries per kind and contrast, their sizes spread evenly in the logarithm
    """

    kinds: tuple[str, ...] = KINDS
    contrasts: tuple[float, ...] = CONTRASTS
    sizes: tuple[float, float] | None = None
    count: int = COUNT
    seed: int = 0

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in measured_forgers():
                raise ConfigError(
                    f"'{kind}' was asked for as a proof; allowed are forgers of controlled size and contrast: "
                    f"{', '.join(measured_forgers())}."
                )
        if not self.kinds or not self.contrasts or self.count < 1:
            raise ConfigError("A proof was asked for without a kind, a contrast or a count; give at least one of each.")
        for contrast in self.contrasts:
            if not 0.01 <= contrast <= 1.0:
                raise ConfigError(f"A contrast of {contrast:g} was given; give a share of the full range from 0.01 to 1.")
        if self.sizes is not None and not 2.0 <= self.sizes[0] < self.sizes[1] <= 4096.0:
            raise ConfigError(f"Sizes from {self.sizes[0]:g} to {self.sizes[1]:g} px were given; give two from 2 to 4096.")


@dataclass(frozen=True)
class Forgery:
    """One proof picture.

    image, mask  h w 3 and h w bool: outside the mask the good picture to the bit
    contrast     as wanted, share of the full range
    size         of the mask, px of the picture, see `defect_size`
    good         index of the good picture in the sequence given
    seed         what its generator was made from
    drawn        the parameters that were drawn
    """

    image: Image
    mask: Mask
    kind: str
    contrast: float
    size: float
    good: int
    seed: tuple[int, ...]
    drawn: Mapping[str, Any]


@dataclass(frozen=True)
class _Case:
    """One forgery to be made; `place` is the rank of its good picture by hash, `level` in [0, 1) its size."""

    kind: str
    contrast: float
    level: float
    place: int
    seed: tuple[int, ...]


def measured_forgers() -> tuple[str, ...]:
    """The forgers that take a size and a contrast, so that a proof can sweep them."""
    wanted = {"size", "contrast", "mm_per_pixel"}
    return tuple(name for name, kind in FORGERS.items() if wanted <= {field.name for field in fields(kind)})


def held_out_kinds(trained_on: Iterable[str], kinds: Sequence[str] = KINDS) -> tuple[str, ...]:
    """The kinds that may prove a model: none of a family that it was trained on, for that would be a circle.

    Where nothing of `kinds` is left, every measured forger of another family is taken. ConfigError where there is none.
    """
    families = {family(name) for name in trained_on}
    for some in (kinds, measured_forgers()):
        left = tuple(kind for kind in some if family(kind) not in families)
        if left:
            return left
    raise ConfigError(
        f"The model was trained on forgers of the families {', '.join(sorted(families))}, and no forger of controlled size "
        f"is outside them; name the kinds to prove with, for example --kind scratch, and read the result with care."
    )


def proof_pictures(
    goods: Sequence[Image | Path],
    recipe: Recipe | None = None,
    *,
    pieces: Sequence[Piece] = (),
    roi: Mask | None = None,
    max_pixels: int = MAX_PIXELS,
    depth: int | None = None,
) -> Iterator[Forgery]:
    """Forge the recipe into good pictures, one after another; nothing is kept but the good pictures, up to CACHE_BYTES.

    goods  h w 3 arrays (uint8 or float32 in [0, 1]) or paths, of any sizes
    pieces of real defects, at the pictures' own size: as many graftings of them follow as forgeries of one kind and
           contrast, each piece in turn, resized by RESIZED
    roi    h w bool at the pictures' own size; the middle of every defect lies inside, and its mask is cut to it

    Each good picture is used once before any is used again, within one kind and contrast. Where TRIES draws give no
    defect of at least 9 pixels, the forgery is left out, so fewer than `count` may come.
    DataError for no pictures, ImageError for one that cannot be read or is smaller than a forger takes.
    """
    recipe = recipe or Recipe()
    if not goods:
        raise DataError("No good picture was given to forge on; give at least one.")
    stock = _Stock(goods, roi, max_pixels, depth)
    real = [(Transplant.name, AS_FOUND)] if pieces else []
    for case in _cases(recipe, len(goods), real):
        forgery = _forge(stock, case, recipe.sizes, pieces)
        if forgery is not None:
            yield forgery


def defect_size(mask: Mask) -> float:
    """Target size `a`: the largest extent in px of the longest defect in a mask h w; 0 for an empty one.

    Largest extent: the greatest distance between the outer corners of two pixels (maximum Feret diameter). Parts that
    lie within a hundredth of the shorter side (3 px at least) of each other count as one defect: a scratch that lifts.
    """
    if not mask.any():
        return 0.0
    reach = max(3, round(min(mask.shape) / 100))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach | 1, reach | 1))
    count, labels = cv2.connectedComponents(cv2.dilate(mask.astype(np.uint8), kernel), connectivity=8)
    sizes = []
    rows, columns = np.nonzero(mask)
    label = labels[rows, columns]
    for one in range(1, count):
        ys, xs = rows[label == one], columns[label == one]
        corners = np.concatenate([np.stack([xs + dx, ys + dy], axis=1) for dx in (0, 1) for dy in (0, 1)])
        hull = cv2.convexHull(corners.astype(np.int32))[:, 0].astype(np.float64)
        sizes.append(float(np.sqrt(((hull[:, None] - hull[None]) ** 2).sum(axis=2).max())))
    return max(sizes)


def _cases(recipe: Recipe, goods: int, more: Sequence[tuple[str, float]] = ()) -> Iterator[_Case]:
    """more: kinds and contrasts that follow those of the recipe."""
    for kind, contrast in (*itertools.product(recipe.kinds, recipe.contrasts), *more):
        # The name's checksum, so that a curve does not change with the other kinds that are asked for.
        key = (recipe.seed, zlib.crc32(kind.encode()), round(contrast * 1e6))
        rng = np.random.default_rng(key)
        rounds = [rng.permutation(goods) for _ in range(-(-recipe.count // goods))]
        places = np.concatenate(rounds)[: recipe.count]
        levels = (np.arange(recipe.count) + rng.random(recipe.count)) / recipe.count
        for i in range(recipe.count):
            yield _Case(kind, contrast, float(levels[i]), int(places[i]), (*key, i))


class _Stock:
    """Good pictures by the rank of their content's hash, with the prior that says where the part is."""

    def __init__(self, goods: Sequence[Image | Path], roi: Mask | None, max_pixels: int, depth: int | None) -> None:
        self._goods, self._roi, self._max_pixels, self._depth = goods, roi, max_pixels, depth
        self._order = sorted(range(len(goods)), key=lambda index: (_digest(goods[index]), index))
        self._kept: dict[int, tuple[Image, Any]] = {}
        self._room = CACHE_BYTES
        self._background = self._learn_background()

    def index(self, place: int) -> int:
        return self._order[place]

    def sample(self, place: int) -> Sample:
        if place not in self._kept:
            picture = self._read(place)
            prior = saliency(picture, "foreground", background=self._background).map
            if self._roi is not None:
                prior = np.where(self.roi(picture), prior, np.float32(0.0))
            if picture.nbytes + prior.nbytes > self._room:
                return Sample(picture, prior)
            self._room -= picture.nbytes + prior.nbytes
            self._kept[place] = picture, prior
        return Sample(*self._kept[place])

    def roi(self, picture: Image) -> Mask:
        """The region of interest at the picture's size; all True without one."""
        size = picture.shape[:2]
        if self._roi is None:
            return np.ones(size, bool)
        return np.asarray(cv2.resize(self._roi.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST) > 0)

    def _read(self, place: int) -> Image:
        good = self._goods[self._order[place]]
        limits = {"max_pixels": self._max_pixels, "depth": self._depth}
        picture = read_picture(good, **limits).pixels if isinstance(good, Path) else good  # type: ignore[arg-type]
        if min(picture.shape[:2]) < SMALLEST:
            raise ImageError(
                f"A good picture is {picture.shape[1]} x {picture.shape[0]} pixels; forging takes at least {SMALLEST} x "
                f"{SMALLEST}: give larger pictures."
            )
        return picture

    def _learn_background(self) -> Background:
        return background_of(self._read(place) for place in thinned(range(len(self._order)), BACKGROUND_FROM))


def _digest(good: Image | Path) -> bytes:
    if isinstance(good, Path):
        try:
            return hashlib.sha256(read_regular(good)).digest()
        except OSError as error:
            raise ImageError(f"{good} cannot be read ({error.strerror}); check the path.") from None
    return hashlib.sha256(np.ascontiguousarray(good).tobytes()).digest()


def _forge(stock: _Stock, case: _Case, sizes: tuple[float, float] | None, pieces: Sequence[Piece]) -> Forgery | None:
    sample = stock.sample(case.place)
    side = min(sample.image.shape[:2])
    if case.kind == Transplant.name:
        piece = pieces[case.seed[-1] % len(pieces)]
        low, high = RESIZED
        wanted = low * (high / low) ** case.level
        forger: Forger = Transplant((piece,), scale=wanted, opacity=AS_FOUND)
    else:
        low, high = sizes or (max(2.0, SMALL * side), LARGE * side)
        wanted = low * (high / low) ** case.level
        forger = forger_from(case.kind, size=wanted, contrast=case.contrast, **SETTINGS.get(case.kind, {}))
    rng = np.random.default_rng(case.seed)
    inside = stock.roi(sample.image)
    for _ in range(TRIES):
        forged = forger(sample, rng)
        if "fallback" in forged.drawn:
            continue
        mask = forged.mask & inside
        middle = _middle(forged.mask)
        if np.count_nonzero(mask) < 9 or not inside[middle]:
            continue
        image = np.where(mask[..., None], forged.image, sample.image)
        drawn = {**forged.drawn, "wanted": wanted}
        return Forgery(image, mask, case.kind, case.contrast, defect_size(mask), stock.index(case.place), case.seed, drawn)
    return None


def _middle(mask: Mask) -> tuple[int, int]:
    rows, columns = np.nonzero(mask)
    return int(np.median(rows)), int(np.median(columns))


def families_of(kinds: Iterable[str]) -> tuple[str, ...]:
    """The families of some forgers, in FAMILIES' order."""
    named = {family(kind) for kind in kinds}
    return tuple(name for name in FAMILIES if name in named)
