"""`mix` and `pipe`, which combine forgers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flawforge.forge import blend
from flawforge.forge.paste import CutPaste
from flawforge.forge.texture import Perlin
from flawforge.types import ConfigError, Forged, Forger, Sample


@dataclass(frozen=True)
class Mix:
    """One of several forgers per picture, drawn by weight.

    forgers  forger instances, at least one
    weights  positive, not necessarily summing to one; () = equal weights
    """

    forgers: tuple[Forger, ...] = ()
    weights: tuple[float, ...] = ()

    name: ClassVar[str] = "mix"
    least_change: ClassVar[float] = 2 / 255

    def __post_init__(self) -> None:
        if not self.forgers:
            object.__setattr__(self, "forgers", (Perlin(), CutPaste()))
        if self.weights and (
            len(self.weights) != len(self.forgers) or not all(np.isfinite(w) and w > 0 for w in self.weights)
        ):
            raise ConfigError(
                f"mix: weights is {self.weights!r}; it must be empty or hold one positive number for each "
                f"of the {len(self.forgers)} forgers."
            )

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        weights = np.asarray(self.weights or (1.0,) * len(self.forgers), np.float64)
        pick = int(np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(), side="right"))
        return self.forgers[min(pick, len(self.forgers) - 1)](sample, rng)


@dataclass(frozen=True)
class Pipe:
    """Several forgers one after another on the same picture; the mask is where the last picture differs from the first.

    A later forger can undo a pixel by chance; such pixels leave the mask and get their exact good value back.
    """

    forgers: tuple[Forger, ...] = ()

    name: ClassVar[str] = "pipe"
    least_change: ClassVar[float] = 2 / 255

    def __post_init__(self) -> None:
        if not self.forgers:
            object.__setattr__(self, "forgers", (CutPaste(shape="scar"), Perlin()))

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Forged:
        def attempt() -> blend.Attempt:
            current, union, steps = sample, np.zeros(sample.image.shape[:2], bool), []
            for forger in self.forgers:
                forged = forger(current, rng)
                current = Sample(forged.image, sample.prior, sample.other, sample.texture)
                union |= forged.mask
                steps.append({"kind": forged.kind, **forged.drawn})
            return current.image, union, {"steps": steps}

        return blend.settle(sample, rng, self.name, self.least_change, attempt)
