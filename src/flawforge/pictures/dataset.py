"""A data set's good pictures: split, and served as batches that are a pure function of (seed, step).

listing.py says which pictures there are and check.py looks at them; their names can be had from here as well.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from flawforge.forge.blend import SMALLEST
from flawforge.pictures.check import DataReport, check_data, in_threads
from flawforge.pictures.duplicates import join
from flawforge.pictures.listing import Entry, Listing, good_entries, read_entries, read_listing
from flawforge.pictures.tolerance import COPIES, vary
from flawforge.types import Batch, ConfigError, DataError, Forger, Image, ImageError, Mask, Sample
from flawforge_runtime import poses
from flawforge_runtime.decode import MAX_PIXELS, as_picture, read_picture
from flawforge_runtime.images import Placement, inner_of, letterbox, mask_on_canvas, pad, to_planes, valid_mask
from flawforge_runtime.maps import posed, shown
from flawforge_runtime.poses import Pose, Template

__all__ = [
    "DataReport",
    "Entry",
    "GoodPictures",
    "Listing",
    "check_data",
    "good_entries",
    "read_entries",
    "read_listing",
    "split_holdout",
    "units",
]

CACHE_BYTES = 2 << 30
REDRAWS = 8  # of a forgery that falls outside the region of interest, before the picture is left good


def split_holdout(
    entries: Sequence[Entry], groups: Sequence[Sequence[Path]], holdout: float | str, seed: int
) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """(train, held) of good entries, both in the given order; a group of near-duplicates never crosses.

    Where a CSV sets split "calibration", those are held (with their groups) and `holdout` is ignored. A float in (0, 1)
    is the share to hold, met as nearly as the groups permit, at least one picture, drawn by seed; a string is a glob on
    the file name. DataError where either side would be empty, ConfigError for a share outside (0, 1).
    """
    entries = tuple(entries)
    if len(entries) < 2:
        raise DataError(
            f"{len(entries)} good pictures were given, at least 2 are needed (one to train on, one to hold back); "
            f"add pictures."
        )
    together = _together(entries, groups)
    named = {index for index, entry in enumerate(entries) if entry.split == "calibration"}
    if not named and isinstance(holdout, str):
        named = {index for index, entry in enumerate(entries) if fnmatch.fnmatchcase(entry.path.name, holdout)}
        if not named:
            raise DataError(
                f"no file name among {len(entries)} good pictures matches the hold-out pattern {holdout!r}, "
                f"at least one must; change --holdout."
            )
    if named:
        held = {index for group in together if named & set(group) for index in group}
        if len(held) == len(entries):
            raise DataError(
                f"all {len(entries)} good pictures are held back, by name or as near-duplicates of those; "
                f"leave some to train on."
            )
    else:
        held = _draw(together, len(entries), float(holdout), seed)
    train = tuple(entry for index, entry in enumerate(entries) if index not in held)
    return train, tuple(entry for index, entry in enumerate(entries) if index in held)


def units(entries: Sequence[Entry], groups: Sequence[Sequence[Path]]) -> list[list[Path]]:
    """The paths that must stay together: every entry in exactly one unit, most units of one."""
    return [[entries[index].path for index in unit] for unit in _together(entries, groups)]


def _together(entries: Sequence[Entry], groups: Sequence[Sequence[Path]]) -> list[list[int]]:
    """Every entry's index in exactly one group; most groups are of one."""
    index_of = {entry.path: index for index, entry in enumerate(entries)}
    known = [[index_of[path] for path in group if path in index_of] for group in groups]
    joined = join(len(entries), [(group[0], other) for group in known for other in group[1:]])
    grouped = {index for group in joined for index in group}
    return sorted(joined + [[index] for index in range(len(entries)) if index not in grouped])


def _draw(together: Sequence[Sequence[int]], count: int, share: float, seed: int) -> set[int]:
    """Whole groups, drawn by seed, whose sizes add up as nearly to share * count as any choice of groups could.

    Subset sums as bits of one integer: bit s of reach[k] says that the first k groups in drawn order can hold s pictures.
    """
    if not 0.0 < share < 1.0:
        raise ConfigError(f"the hold-out share is {share}, allowed is above 0 and below 1; change --holdout.")
    if len(together) == 1:
        raise DataError(
            f"all {count} good pictures look like shots of one part, so none can be held back fairly; "
            f"add pictures of other parts, or name the ones to hold back with --holdout PATTERN."
        )
    order = [together[place] for place in np.random.default_rng(seed).permutation(len(together))]
    reach = [1]
    for group in order:
        reach.append(reach[-1] | reach[-1] << len(group))
    left = min((size for size in range(1, count) if reach[-1] >> size & 1), key=lambda size: abs(size - share * count))
    held: set[int] = set()
    for before, group in zip(reversed(reach[:-1]), reversed(order), strict=True):
        if not before >> left & 1:
            held |= set(group)
            left -= len(group)
    return held


class GoodPictures:
    """Good pictures on one canvas, held in memory up to a limit, and the batches forged from them.

    `batch` is a pure function of its arguments: the same bits for any number of threads or processes, in any order.

    entries  the pictures that could be read, in the order given
    skipped  (path, sentence) of those that could not
    canvas   (H, W)
    deep     True where a picture has more than 8 bits; then all are float32, else uint8
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        canvas: tuple[int, int],
        *,
        roi: Mask | None = None,
        textures: Sequence[Path | Image] = (),
        prior: Callable[[Image], NDArray[np.float32]] | None = None,
        cache_bytes: int = CACHE_BYTES,
        max_pixels: int = MAX_PIXELS,
        depth: int | None = None,
        threads: int = 2,
        tolerate: Sequence[str] = (),
        template: Template | None = None,
        seed: int = 0,
    ) -> None:
        """Read all entries once.

        roi          h w bool at the pictures' own size (or their proportions); True = look here
        textures     paths or h w 3 arrays of any size, read when first drawn, shrunk to about the canvas
        prior        picture h w 3 -> saliency h w in [0, 1], asked once per picture when it is first forged; None = no prior
        cache_bytes  the most to hold; pictures beyond it are decoded again whenever they are drawn
        tolerate     kinds of variation that good parts may show (tolerance.KINDS): every picture then has tolerance.COPIES
                     varied copies, the same ones for the same seed
        template     what every part is laid like, where its pose is found (flawforge_runtime.poses)

        DataError where no picture is left or the roi is empty; ImageError where the roi's proportions do not fit.
        """
        self.canvas = canvas
        self._max_pixels, self._depth = max_pixels, depth
        self._tolerate, self._seed, self._template = tuple(tolerate), seed, template
        self._cache: list[Image | None] = []
        self._placements: list[Placement] = []
        self._poses: list[Pose | None] = []
        self._valid: dict[tuple[Placement, Pose | None], Mask] = {}
        self._inner: dict[tuple[Placement, Pose | None], NDArray[np.float32]] = {}
        self._textures = tuple(textures)
        self._texture_cache: dict[int, Image | None] = {}
        self._prior = prior
        self._prior_cache: dict[int, NDArray[np.float32]] = {}
        self._priors: Callable[[int], Sequence[NDArray[np.float32]] | None] | None = None
        readable: list[Entry] = []
        skipped: list[tuple[Path, str]] = []
        self.deep, room = False, cache_bytes
        for entry, result in zip(entries, in_threads(self._read, entries, threads), strict=True):
            if isinstance(result, str):
                skipped.append((entry.path, result))
                continue
            pixels, placement, pose = result
            pixels.flags.writeable = False  # forgers see the very array that is kept
            readable.append(entry)
            room -= pixels.nbytes
            self.deep = self.deep or pixels.dtype != np.uint8
            self._cache.append(pixels if room >= 0 else None)
            self._placements.append(placement)
            self._poses.append(pose)
            if (placement, pose) not in self._valid:
                visible = shown(placement, pose)
                self._inner[placement, pose] = inner_of(visible)
                self._valid[placement, pose] = _look_here(roi, placement, visible)
        self.entries, self.skipped = tuple(readable), tuple(skipped)
        if not readable:
            raise DataError(
                f"none of the {len(entries)} good pictures can be read"
                + (f", the first because {skipped[0][1]}" if skipped else "; give at least one.")
            )

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def copies(self) -> int:
        """How often each picture is looked at: once, and once for each varied copy."""
        return 1 + (COPIES if self._tolerate else 0)

    def picture(self, index: int, copy: int = 0) -> Image:
        """H W 3 on the canvas, uint8, or float32 where any of the pictures has more than 8 bits; copy 0 is as it is."""
        pixels = self._cache[index]
        if pixels is None:
            pixels, placement = self._letterboxed(self.entries[index].path)
            pixels = posed(pixels, placement, self._poses[index])
        pixels = _held(pixels, self.deep)
        if not copy:
            return pixels
        placement = self._placements[index]
        rng = np.random.default_rng([self._seed, index, copy])
        return pad(vary(np.ascontiguousarray(pixels[placement.inner]), self._tolerate, rng), placement)

    def valid(self, index: int) -> Mask:
        """H W bool: inside the picture and the region of interest."""
        return self._valid[self._placements[index], self._poses[index]]

    def batch(
        self,
        forger: Forger,
        seed: int,
        step: int,
        size: int,
        forge_share: float = 0.5,
        out: Batch | None = None,
        among: Sequence[int] | None = None,
        first: int = 0,
    ) -> Batch:
        """`size` pictures drawn with replacement, each forged with probability `forge_share`; numpy, as types.Batch.

        Picture i of the batch depends on (seed, step, i) alone. Where the forged mask misses the region of interest
        altogether the forger draws again, at most REDRAWS times; outside `valid` nothing is ever forged.
        `among`: places of the pictures that may be drawn, or pasted from; None = all.
        `first`: 0, or the number of pictures of a larger batch that stand before these.
        `out`, a batch of the same size that is no longer needed, is overwritten and returned: it saves the allocation.
        """
        batch = self._empty(size) if out is None else out
        drawn = range(len(self)) if among is None else among
        for place in range(size):
            rng = np.random.default_rng([seed, step, first + place])
            at = int(rng.integers(len(drawn)))
            index = drawn[at]
            other = drawn[(at + 1 + int(rng.integers(len(drawn) - 1))) % len(drawn)] if len(drawn) > 1 else None
            texture = int(rng.integers(len(self._textures))) if self._textures else None
            forge = rng.random() < forge_share
            copy = int(rng.integers(self.copies)) if self._tolerate else 0
            image = self.picture(index, copy)
            forgery = self._forge(forger, rng, (index, copy), image, other, texture) if forge else None
            self._fill(batch, place, index, image, forgery)
        return batch

    def clean_batches(self, size: int) -> Iterator[Batch]:
        """Every picture once, in order, unforged: forged equals clean, the mask is empty; the last may be smaller.

        Varied copies follow, under their picture's index.
        """
        for start in range(0, self.copies * len(self), size):
            places = range(start, min(start + size, self.copies * len(self)))
            batch = self._empty(len(places))
            for place, drawn in enumerate(places):
                copy, index = divmod(drawn, len(self))
                self._fill(batch, place, index, self.picture(index, copy), None)
            yield batch

    def _letterboxed(self, path: Path) -> tuple[Image, Placement]:
        return letterbox(read_picture(path, max_pixels=self._max_pixels, depth=self._depth).pixels, self.canvas)

    def _read(self, entry: Entry) -> tuple[Image, Placement, Pose | None] | str:
        try:
            pixels, placement = self._letterboxed(entry.path)
        except (ImageError, OSError) as error:
            return str(error)
        pose = poses.find(pixels, valid_mask(placement), self._template) if self._template else None
        return posed(pixels, placement, pose), placement, pose

    def _forge(
        self,
        forger: Forger,
        rng: np.random.Generator,
        which: tuple[int, int],
        picture: Image,
        other: int | None,
        texture: int | None,
    ) -> tuple[Image, Mask, int] | None:
        """A forged canvas, its mask and its class; None where the picture is left good. `which`: its index and its copy.

        Forged on the placed part alone; the border is laid round it again, as it would be round a real flaw.
        """
        index = which[0]
        placement = self._placements[index]
        # A sliver of a picture is too small for a forger; then the border is forged along and laid anew below.
        small = min(placement.height, placement.width) < SMALLEST
        part = np.s_[:, :] if small else placement.inner
        valid = self.valid(index)[part]
        image = np.ascontiguousarray(picture[part])
        sample = Sample(
            image=image,
            prior=self._prior_of(which, image, part),
            other=None if other is None else np.ascontiguousarray(self.picture(other)[part]),
            texture=None if texture is None else self._texture(texture),
        )
        for _ in range(REDRAWS):
            forged = forger(sample, rng)
            mask = forged.mask & valid
            if mask.any():
                break
            if not forged.mask.any():
                return None
        else:
            return None
        whole = np.zeros(self.canvas, dtype=bool)
        whole[part] = mask
        cut = np.count_nonzero(mask) < np.count_nonzero(forged.mask)
        image = np.where(mask[..., None], forged.image, sample.image) if cut else forged.image
        kind = int(forged.drawn.get("class", 1))
        return pad(np.ascontiguousarray(image[placement.inner]) if small else image, placement), whole, kind

    def follow(self, priors: Callable[[int], Sequence[NDArray[np.float32]] | None]) -> None:
        """From now on the forger sees what `priors` says of the picture with this number: maps of the whole canvas, or None.

        The number is its place in `clean_batches`, where varied copies follow the pictures. While a stage trains the answer
        must stay the same, else batches were no longer a pure function.
        """
        self._priors = priors

    def _prior_of(self, which: tuple[int, int], image: Image, part: tuple[slice, slice]) -> NDArray[np.float32] | None:
        """h w, or h w k, of this part of the canvas. Varied copies have their own, which is not kept: there are many."""
        index, copy = which
        if self._priors is not None:
            maps = self._priors(copy * len(self) + index)
            if maps is None:
                return None
            size = self.canvas[::-1]
            return np.stack(
                [cv2.resize(saliency_map, size, interpolation=cv2.INTER_LINEAR)[part] for saliency_map in maps], axis=2
            )
        if self._prior is None:
            return None
        if copy:
            return self._prior(image)
        if index not in self._prior_cache:  # two threads may both compute it: the same map twice
            self._prior_cache[index] = self._prior(image)
        return self._prior_cache[index]

    def _texture(self, drawn: int) -> Image:
        """The texture drawn, or the next one that can be read. DataError where none can."""
        count = len(self._textures)
        for index in ((drawn + step) % count for step in range(count)):
            if index not in self._texture_cache:
                self._texture_cache[index] = self._read_texture(self._textures[index])
            pixels = self._texture_cache[index]
            if pixels is not None:
                return _held(pixels, self.deep)
        raise DataError(f"none of the {count} textures can be read, the first is {self._textures[0]}; replace them.")

    def _read_texture(self, source: Path | Image) -> Image | None:
        """uint8 (float32 only where the pictures are), its short side no longer than the canvas's long side."""
        try:
            pixels = as_picture(source, max_pixels=self._max_pixels).pixels
        except ImageError:
            return None
        height, width = pixels.shape[:2]
        scale = max(self.canvas) / min(height, width)
        if scale < 1.0:
            small = (max(1, round(width * scale)), max(1, round(height * scale)))
            pixels = np.asarray(cv2.resize(pixels, small, interpolation=cv2.INTER_AREA))
        if not self.deep and pixels.dtype != np.uint8:
            pixels = np.rint(pixels * 255.0).astype(np.uint8)
        return pixels

    def _empty(self, size: int) -> Batch:
        three, one = (size, 3, *self.canvas), (size, 1, *self.canvas)
        forged, clean, mask, valid = (np.empty(shape, dtype=np.float32) for shape in (three, three, one, one))
        index, kind = (np.zeros(size, dtype=np.int64) for _ in range(2))
        return Batch(forged, clean, mask, valid, index, kind, np.zeros((size, 4), dtype=np.float32))

    def _fill(self, batch: Batch, place: int, index: int, image: Image, forged: tuple[Image, Mask, int] | None) -> None:
        to_planes(image, batch.clean[place])
        batch.valid[place, 0] = self.valid(index)
        batch.index[place] = index
        batch.inner[place] = self._inner[self._placements[index], self._poses[index]]
        batch.kind[place] = 0 if forged is None else forged[2]
        if forged is None:
            batch.forged[place] = batch.clean[place]
            batch.mask[place] = 0.0
        else:
            to_planes(forged[0], batch.forged[place])
            batch.mask[place, 0] = forged[1]


def _held(pixels: Image, deep: bool) -> Image:
    return pixels.astype(np.float32) / np.float32(255.0) if deep and pixels.dtype == np.uint8 else pixels


def _look_here(roi: Mask | None, placement: Placement, valid: Mask) -> Mask:
    if roi is None:
        return valid
    valid &= mask_on_canvas(roi, placement)
    if not valid.any():
        raise DataError("the region of interest is empty on the working canvas; mark where to look with white pixels.")
    return valid
