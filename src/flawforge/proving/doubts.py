"""What is odd about a data set's masks, and what is done about it: pixel figures that would be wrong are not given.

Masks are exported inverted, all white or empty every day. One that marks nothing counts as none. One that marks more than
half of its picture and the picture's edge too is left out, for hardly a defect does. Where more than half of all masks mark
more than half of their pictures the whole set is taken for inverted. Who knows better says `--large-masks`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from flawforge.pictures import masks
from flawforge.types import Mask

LARGE = 0.5  # share of a picture; a mask that marks more is questioned
EDGE = 0.9  # share of a picture's edge; a large mask that marks more is taken for an inverted or a white one
REMEDY = "invert them, or say --large-masks where they are right"


@dataclass
class Doubts:
    """The masks of defective pictures, by their files.

    trusted  how many count. empty: mark nothing. large: mark more than half, and not the edge. whole: mark the edge as well.
    unread   label files that could not be read, one sentence each
    """

    large_masks: bool = False
    trusted: int = 0
    empty: list[Path] = field(default_factory=list)
    large: list[Path] = field(default_factory=list)
    whole: list[Path] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def sift(self, path: Path, mask: Mask) -> Mask | None:
        """The mask, noted where it is odd; None where it does not count."""
        if not mask.any():
            self.empty.append(path)
            return None
        if mask.mean() > LARGE:
            edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean()
            (self.whole if edge > EDGE else self.large).append(path)
            if edge > EDGE and not self.large_masks:
                return None
        self.trusted += 1
        return mask

    @property
    def inverted(self) -> bool:
        """More than half of the masks mark more than half of their pictures, and nobody said that they are right."""
        return not self.large_masks and 2 * len(self.large + self.whole) > self._marking

    @property
    def _marking(self) -> int:
        return self.trusted + (0 if self.large_masks else len(self.whole))

    def notes(self, defective: int) -> list[str]:
        """Notes for people about the masks of the defective pictures."""
        notes = []
        if missing := defective - self._marking:
            rest = "there are no pixel figures" if missing == defective else "the pixel figures are of the others"
            so = "" if self.inverted else f", so {rest}"
            notes.append(f"{missing} of {defective} defective pictures have no mask{so}")
        if self.empty:
            notes.append(f"Masks that mark nothing count as none: {_listed(self.empty)}")
        if self.unread:
            notes.append(f"Label files that cannot be read count as none: {len(self.unread)}; the first: {self.unread[0]}")
        large = self.large + self.whole
        if self.inverted:
            count = f"{len(large)} of {self._marking} masks mark more than half of their pictures"
            notes.append(f"No pixel figures are given, because {count}, as inverted ones do: {_listed(large)}; {REMEDY}")
        elif self.large_masks and large:
            notes.append(f"Masks that mark more than half of their pictures, taken as they are: {_listed(large)}")
        else:
            what = "Masks that mark more than half of their pictures"
            if self.whole:
                notes.append(
                    f"{what} and their edge, as inverted and white ones do, are left out of the pixel figures: "
                    f"{_listed(self.whole)}; {REMEDY}"
                )
            if self.large:
                notes.append(f"{what} are taken as they are, so look whether they are inverted: {_listed(self.large)}")
        return notes


def _listed(paths: list[Path]) -> str:
    return f"{len(paths)} ({masks.named(paths)})"
