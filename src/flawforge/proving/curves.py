"""One hit/miss curve of a proof: forgeries of one kind and contrast, of many sizes, and from what size on they are found."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flawforge.forge.transplant import Transplant
from flawforge.proving import hitmiss, intervals
from flawforge.proving.intervals import Estimate
from flawforge.proving.specimens import AS_FOUND
from flawforge.reporting.charts import ALL_FOUND, NOT_SHOWN, size
from flawforge.reporting.pod_words import all_found

BOOTSTRAP = 400  # replicates, where good pictures carry more than one forgery of a curve
POINTS = 25  # sizes at which a curve is written down
BINS = 6  # of sizes, for the counts beside a curve
HEAD = f"  {'kind':<12}{'contrast':>9}{'found':>9}{'95 %':>14}{'a50':>12}{'a50/95':>12}{'a90':>12}{'a90/95':>12}"
NOTHING = Estimate(None, None, None)


@dataclass(frozen=True)
class Trial:
    """One forgery judged. size in px of the picture; good is the index of its good picture; pointed: see `touches`."""

    kind: str
    contrast: float
    size: float
    good: int
    score: float
    verdict: str
    pointed: bool

    @property
    def rejected(self) -> bool:
        return self.verdict == "NG"

    @property
    def hit(self) -> bool:
        return self.rejected and self.pointed


@dataclass(frozen=True)
class KindCurve:
    """What a model finds of one kind and contrast. Sizes are in `unit`, px or mm; None = not shown by the trials.

    n, hits             forgeries judged, and found; `recall` is their share
    a50, a90            sizes found with probability 50 and 90 %; with _95 their upper 95 % bounds, by the method `a90_95_by`
    rejected            judged NG, whether the model points at the defect or not
    smallest, largest   sizes tried
    falls               larger ones are found less often
    separated           no size has both hits and misses about it, so Firth's penalty holds the curve
    contradicted        too many are missed among the largest
    why                 why there is no a90_95; "" where there is one
    points              (size, probability, low, high) along the curve
    bins                (from, to, hits, of, low, high): counts by size
    """

    kind: str
    contrast: float
    unit: str
    n: int
    a50: float | None = None
    a50_95: float | None = None
    a90: float | None = None
    a90_95: float | None = None
    a90_95_by: str | None = None
    hits: int = 0
    recall: Estimate = NOTHING
    rejected: int = 0
    smallest: float | None = None
    largest: float | None = None
    falls: bool = False
    separated: bool = False
    contradicted: bool = False
    why: str = "none could be forged"
    points: tuple[tuple[float, ...], ...] = ()
    bins: tuple[tuple[float, ...], ...] = ()

    @property
    def line(self) -> str:
        """A row of the table that HEAD is the first line of."""
        hits, share = f"{self.hits}/{self.n}", "n/a"
        if self.recall.low is not None:
            share = f"{self.recall.low:.2f} to {self.recall.high:.2f}"
        reached = "".join(f"{self._size(size):>12}" for size in (self.a50, self.a50_95, self.a90, self.a90_95))
        return f"  {self.kind:<12}{self.contrast:>9g}{hits:>9}{share:>14}{reached}"

    def _size(self, value: float | None) -> str:
        if value is None:
            return ALL_FOUND if 0 < self.n == self.hits else NOT_SHOWN
        return f"{value:.3g} {self.unit}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return values | {
            "recall": self.recall._asdict(),
            "points": [list(point) for point in self.points],
            "bins": [list(counts) for counts in self.bins],
        }


@dataclass(frozen=True)
class Tally:
    """What the trials of a whole proof say.

    curves     what is found, for each kind and contrast of the recipe
    real       what is found of real defects that were grafted onto good pictures; None = there were none to graft
    elsewhere  forgeries that were rejected without a mark at the defect, of `rejected`; real defects count in neither
    """

    curves: tuple[KindCurve, ...]
    real: KindCurve | None
    elsewhere: int
    rejected: int


def tally(
    trials: Sequence[Trial],
    kinds: Sequence[str],
    contrasts: Sequence[float],
    scale: float | None,
    seed: int,
    parts: Sequence[int],
    real: bool,
) -> Tally:
    """Count the trials of a proof. real: there were real defects to graft; the others: see `Recipe` and `kind_curve`."""

    def curve(kind: str, contrast: float) -> KindCurve:
        rows = [trial for trial in trials if (trial.kind, trial.contrast) == (kind, contrast)]
        return kind_curve(rows, kind, contrast, scale, seed, parts)

    rejects = [trial for trial in trials if trial.rejected and trial.kind != Transplant.name]
    return Tally(
        tuple(itertools.starmap(curve, itertools.product(kinds, contrasts))),
        curve(Transplant.name, AS_FOUND) if real else None,
        sum(not trial.pointed for trial in rejects),
        len(rejects),
    )


def kind_curve(
    trials: Sequence[Trial], kind: str, contrast: float, scale: float | None, seed: int, parts: Sequence[int]
) -> KindCurve:
    """The curve of the trials of one kind and contrast.

    scale  mm of one pixel; None = sizes are in px
    parts  a number for each good picture; pictures of one part have the same, and are drawn together by the bootstrap
    """
    if not trials:
        return KindCurve(kind, contrast, unit_of(scale), 0)
    sizes = np.array([trial.size for trial in trials]) * (scale or 1.0)
    hits = np.array([trial.hit for trial in trials], int)
    numbered: dict[int, int] = {}  # in the order of the trials, which that of the pictures does not change
    goods = np.array([numbered.setdefault(parts[trial.good], len(numbered)) for trial in trials])
    curve = hitmiss.fit_curve(sizes, hits)
    bound, by = curve.a90_95, "profile likelihood"
    if bound is not None and len(set(goods.tolist())) < goods.size:
        # Forgeries on one picture are not independent: the wider of the two bounds holds.
        drawn = hitmiss.bootstrap_a90(sizes, hits, goods, replicates=BOOTSTRAP, rng=np.random.default_rng(seed))
        if drawn is None or drawn > bound:
            bound, by = drawn, "bootstrap by picture"
    grid = np.geomspace(curve.low, curve.high, POINTS) if curve.high > curve.low else np.array([curve.low])
    low, high = curve.bounds(grid)
    table = np.stack([grid, curve.pod(grid), low, high], axis=1)
    return KindCurve(
        kind,
        contrast,
        unit_of(scale),
        len(trials),
        a50=curve.a50,
        a50_95=curve.a50_95,
        a90=curve.a90,
        a90_95=bound,
        a90_95_by=by,
        hits=curve.hits,
        recall=intervals.rate(curve.hits, curve.n),
        rejected=sum(trial.rejected for trial in trials),
        smallest=curve.low,
        largest=curve.high,
        falls=curve.falls,
        separated=curve.firth,
        contradicted=curve.contradicted,
        why=_why(curve, bound, unit_of(scale)),
        points=tuple(tuple(point) for point in table.tolist()),
        bins=_bins(sizes, hits),
    )


def _why(curve: hitmiss.Curve, bound: float | None, unit: str) -> str:
    """Why there is no a90/95, in words; "" where there is one."""
    if bound is not None:
        return ""
    if curve.hits == curve.n:
        return f"{all_found(curve.n, size(curve.low, unit))}; more defects are needed to show 90 %"
    if curve.falls:
        return "larger ones are found less often"
    if curve.contradicted:
        return "too many are missed among the largest"
    return "90 % is not demonstrated by the sizes and the number tried"


def _bins(sizes: NDArray[np.float64], hits: NDArray[np.int_]) -> tuple[tuple[float, ...], ...]:
    """(from, to, hits, of, low, high) each: counts by size, evenly in the logarithm, with exact 95 % intervals."""
    edges = np.geomspace(sizes.min(), sizes.max(), BINS + 1)
    place = np.clip(np.searchsorted(edges, sizes, "right") - 1, 0, BINS - 1)
    rows = []
    for one in range(BINS):
        inside = hits[place == one]
        if inside.size:
            _, low, high = intervals.rate(int(inside.sum()), inside.size)
            assert low is not None
            assert high is not None
            rows.append((float(edges[one]), float(edges[one + 1]), int(inside.sum()), inside.size, low, high))
    return tuple(rows)


def unit_of(scale: float | None) -> str:
    """What sizes are given in."""
    return "px" if scale is None else "mm"
