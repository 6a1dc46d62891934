"""Hit/miss probability of detection: sizes and outcomes in, a curve with bounds, a50, a90 and a90/95 out. Arrays alone.

MIL-HDBK-1823A (2009), appendix G: logit POD(a) = b0 + b1 ln a, by maximum likelihood. Its a90/95 is the size at which
the one-sided 95 % lower bound on POD reaches 0.90. Where we differ, and why:

    bounds        profile likelihood, not Wald: they hold better for few trials (Cheng and Iles 1988; Harding and Hugo
                  2003). {b : 2 (l_max - l(b)) <= 2.706}, the 0.90 quantile of chi-squared with 1 degree of freedom, gives
                  each side of a bound on any b0 + b1 x its 95 %. The set is convex; it is traced along rays. The likelihood
                  is Firth's penalised one (Heinze and Schemper 2002): in a simulation of six settings the plain one's
                  a90/95 covered 92 to 94 % in five where 95 % is said, the penalised one's 97 to 100 %. That the
                  penalised one covers is tested (tests/test_hitmiss.py).
    separation    where no miss is larger than any hit, maximum likelihood has no answer, and the curve itself is the one of
                  Firth's penalty (Biometrika 80, 1993).
    slope >= 0    a larger defect of one kind is not harder to see. Where the trials say otherwise by more than chance (5 %)
                  the curve is marked `falls`, and it has no a90 and no a90/95.
    no promise    beyond the sizes tried: a90 and a90/95 are None ("not shown") rather than extrapolated, and where the
                  share of hits at and above a90/95 is itself below 0.90. Below the smallest size tried they are that size.

A curve that levels off below 1 breaks the model (1823A, G.3.3.1); the check against the counts is there for that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, expit

from flawforge.types import ConfigError

Floats = NDArray[np.float64]

CONFIDENCE = 0.95  # of each bound, one-sided, as in a90/95
DROP = 2.705543454095404  # chi-squared, 1 degree of freedom, at 2 * CONFIDENCE - 1 = 0.90
RAYS = 360
GOAL = 0.9


def lower_bound(hits: int, n: int, confidence: float = CONFIDENCE) -> float:
    """One-sided exact (Clopper-Pearson) lower bound on a probability after `hits` of `n`; 0 where there is no hit."""
    if not 0 <= hits <= n or n < 1:
        raise ConfigError(f"{hits} of {n} is no count of hits; give 0 <= hits <= n and n of at least 1.")
    return float(betaincinv(hits, n - hits + 1, 1.0 - confidence)) if hits else 0.0


def demonstrates(hits: int, n: int, pod: float = GOAL, confidence: float = CONFIDENCE) -> bool:
    """The pass rule at one size: `hits` of `n` show a POD of at least `pod`. 29 of 29, 45 of 46, 59 of 61 pass 90/95."""
    return lower_bound(hits, n, confidence) >= pod


@dataclass(frozen=True)
class Curve:
    """A fitted POD curve over sizes in the unit they came in.

    b0, b1     logit POD = b0 + b1 ln(size), b1 >= 0
    region     m 2: corners (b0, b1) of the 95 % one-sided confidence set
    low, high  smallest and largest size tried
    firth      the trials were separated, so the curve is the one of Firth's penalty
    falls      the trials say that larger defects are found less often
    contradicted  fewer than 0.90 of the trials at and above the fitted a90/95 are hits
    """

    b0: float
    b1: float
    region: Floats
    low: float
    high: float
    n: int
    hits: int
    firth: bool
    falls: bool
    contradicted: bool = False

    def pod(self, size: ArrayLike) -> Floats:
        """POD in (0, 1) at sizes > 0 (any shape)."""
        return np.asarray(expit(self.b0 + self.b1 * np.log(np.asarray(size, float))))

    def bounds(self, size: ArrayLike) -> tuple[Floats, Floats]:
        """One-sided 95 % lower and upper bounds on POD at sizes (k,)."""
        eta = self.region[:, :1] + self.region[:, 1:] * np.log(np.atleast_1d(np.asarray(size, float)))
        return np.asarray(expit(eta.min(axis=0))), np.asarray(expit(eta.max(axis=0)))

    def reaches(self, pod: float) -> float | None:
        """The size at which the curve reaches `pod`; None where it does not within the sizes tried."""
        if self.falls:
            return None
        return self._within(_crossing(self.b0, self.b1, pod))

    def bound_reaches(self, pod: float) -> float | None:
        """The size from which the lower bound is at least `pod`; None where it is not within the sizes tried."""
        if self.falls or self.contradicted:
            return None
        return self._within(max(_crossing(b0, b1, pod) for b0, b1 in self.region.tolist()))

    @property
    def a50(self) -> float | None:
        return self.reaches(0.5)

    @property
    def a50_95(self) -> float | None:
        return self.bound_reaches(0.5)

    @property
    def a90(self) -> float | None:
        return self.reaches(GOAL)

    @property
    def a90_95(self) -> float | None:
        return self.bound_reaches(GOAL)

    def _within(self, log_size: float) -> float | None:
        if log_size > math.log(self.high) + 1e-12:
            return None
        return min(max(math.exp(log_size), self.low), self.high) if log_size > math.log(self.low) else self.low


def fit_curve(sizes: ArrayLike, hits: ArrayLike) -> Curve:
    """Fit a hit/miss curve to sizes (n,) > 0 and hits (n,) of 0 and 1. The order of the trials does not matter.

    ConfigError for no trials, lengths that differ, sizes that are not positive or hits that are not 0 or 1.
    """
    sizes, hits = np.asarray(sizes, float), np.asarray(hits, float)
    if sizes.shape != hits.shape or sizes.ndim != 1 or sizes.size == 0:
        shapes = f"{sizes.shape} sizes and {hits.shape} outcomes"
        raise ConfigError(f"{shapes} were given; give one outcome per size, and one at least.")
    if not (np.isfinite(sizes).all() and (sizes > 0).all() and np.isin(hits, (0, 1)).all()):
        raise ConfigError("Sizes must be positive numbers and outcomes 0 or 1; correct them.")
    order = np.lexsort((hits, sizes))  # sums of floats in one order only, so that the result is the same to the bit
    sizes, hits = sizes[order], hits[order]
    x = np.log(sizes)
    shift, scale = float(x.mean()), float(x.std()) or 1.0
    z = (x - shift) / scale
    firth = _separated(z, hits)
    top, falls = _maximum(z, hits, True), False
    if top[1] < 0.0:
        flat = _flat(hits, True)
        drop = 2.0 * float((_likelihood(top[None], z, hits) - _likelihood(flat[None], z, hits))[0])
        top, falls = flat, drop > DROP
    b = top if firth else _maximum(z, hits, False)
    if b[1] < 0.0:
        b = _flat(hits, firth)
    region = np.concatenate([_region(top, z, hits), b[None]])  # with the curve itself, which it then always holds
    region = np.stack([region[:, 0] - region[:, 1] * shift / scale, region[:, 1] / scale], axis=1)
    curve = Curve(
        float(b[0] - b[1] * shift / scale),
        float(b[1] / scale),
        region,
        float(sizes[0]),
        float(sizes[-1]),
        sizes.size,
        int(hits.sum()),
        firth,
        falls,
    )
    return _checked(curve, sizes, hits)


def bootstrap_a90(
    sizes: ArrayLike, hits: ArrayLike, pictures: ArrayLike, *, replicates: int, rng: np.random.Generator
) -> float | None:
    """95 % upper bound on a90 by drawing whole pictures with replacement; None where it lies beyond the sizes tried.

    sizes, hits as `fit_curve`; pictures (n,) says which good picture carries which forgery: those of one picture are not
    independent. Every replicate is fitted with Firth's penalty, for some are separated. Replicates whose curve does not
    reach 0.90 count as larger than any size.
    """
    sizes, hits = np.asarray(sizes, float), np.asarray(hits, float)
    names, group = np.unique(np.asarray(pictures), return_inverse=True)
    drawn = rng.multinomial(names.size, np.full(names.size, 1.0 / names.size), size=replicates)
    x = np.log(sizes)
    shift, scale = float(x.mean()), float(x.std()) or 1.0
    b = _weighted((x - shift) / scale, hits, drawn[:, group].astype(float))
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.where(b[:, 0] >= math.log(9.0), -np.inf, np.inf)
        a90 = np.where(b[:, 1] > 1e-9, (math.log(9.0) - b[:, 0]) / b[:, 1], level)
    bound = float(np.quantile(a90, CONFIDENCE, method="higher")) * scale + shift
    if not bound <= float(x.max()):
        return None
    return float(np.exp(max(bound, float(x.min()))))


def _crossing(b0: float, b1: float, pod: float) -> float:
    """ln of the size where b0 + b1 ln(size) is the logit of `pod`; -inf or inf for a flat line above or below it."""
    goal = math.log(pod / (1.0 - pod))
    if b1 <= 1e-12:
        return -math.inf if b0 >= goal else math.inf
    return (goal - b0) / b1


def _checked(curve: Curve, sizes: Floats, hits: Floats) -> Curve:
    """The curve, marked where fewer than 0.90 of the trials at and above its a90/95 are hits."""
    start = curve.a90_95
    if start is None or hits[sizes >= start - 1e-9].mean() >= GOAL:
        return curve
    return Curve(**{**curve.__dict__, "contradicted": True})


def _separated(z: Floats, hits: Floats) -> bool:
    """No miss is larger than any hit, or the other way round, or there are only hits or only misses."""
    hit, miss = z[hits == 1], z[hits == 0]
    if hit.size == 0 or miss.size == 0:
        return True
    return bool(miss.max() <= hit.min() or hit.max() <= miss.min())


def _likelihood(b: Floats, z: Floats, hits: Floats) -> Floats:
    """Firth's log-likelihood (m,) of parameters b (m, 2): the plain one and half the log determinant of the information."""
    eta = b[:, :1] + b[:, 1:] * z
    lost = np.exp(-np.abs(eta))  # log(1 + e^eta), safe for any eta
    plain = eta @ hits - (np.maximum(eta, 0.0) + np.log1p(lost)).sum(axis=1)
    return np.asarray(plain + 0.5 * _log_information(lost / np.square(1.0 + lost), z))


def _log_information(w: Floats, z: Floats) -> Floats:
    """log |X' W X| of weights (m, n); the determinant of a single size is taken without its slope."""
    w0, w1, w2 = w.sum(axis=1), (w * z).sum(axis=1), (w * z * z).sum(axis=1)
    determinant = w0 * w2 - w1 * w1 if np.ptp(z) > 0 else w0
    return np.asarray(np.log(np.maximum(determinant, 1e-300)))


def _maximum(z: Floats, hits: Floats, firth: bool) -> Floats:
    """(b0, b1) where the likelihood is greatest; the slope is 0 where there is one size only."""
    if np.ptp(z) == 0:
        return _flat(hits, firth, sizes=1)
    weights = np.ones((1, z.size))
    return np.asarray(_weighted(z, hits, weights, firth)[0])


def _flat(hits: Floats, firth: bool, sizes: int = 2) -> Floats:
    """(b0, 0) where the likelihood is greatest along slope 0: there Firth's penalty is `sizes` half-trials of each kind."""
    more = 0.5 * sizes if firth else 0.0
    p = (hits.sum() + more) / (hits.size + 2 * more)
    return np.array([math.log(p / (1.0 - p)), 0.0])


def _weighted(z: Floats, hits: Floats, weights: Floats, firth: bool = True) -> Floats:
    """Newton's method for many weightings (r, n) at once: (r, 2). Steps are held to 2 in either parameter."""
    b = np.zeros((weights.shape[0], 2))
    for _ in range(100):
        p = expit(b[:, :1] + b[:, 1:] * z)
        w = weights * p * (1.0 - p)
        i00, i01, i11 = w.sum(1), (w * z).sum(1), (w * z * z).sum(1)
        determinant = np.maximum(i00 * i11 - i01 * i01, 1e-12 * np.maximum(i00 * i11, 1e-12))
        residual = weights * (hits - p)
        if firth:  # the score's correction h (1/2 - p), h the diagonal of the hat matrix
            hat = w * (i11[:, None] - 2.0 * i01[:, None] * z + i00[:, None] * z * z) / determinant[:, None]
            residual = residual + hat * (0.5 - p)
        u0, u1 = residual.sum(1), (residual * z).sum(1)
        step = np.stack([(i11 * u0 - i01 * u1) / determinant, (i00 * u1 - i01 * u0) / determinant], axis=1)
        step *= np.minimum(1.0, 2.0 / np.maximum(np.abs(step).max(axis=1, keepdims=True), 1e-12))
        b = b + step
        if float(np.abs(step).max()) < 1e-10:
            break
    return b


def _region(b: Floats, z: Floats, hits: Floats) -> Floats:
    """Corners (m, 2) of {b : 2 (l_max - l(b)) <= DROP, b1 >= 0}: along rays from the maximum, by bisection."""
    goal = float(_likelihood(b[None], z, hits)[0]) - DROP / 2.0
    angle = np.linspace(0.0, 2.0 * np.pi, RAYS, endpoint=False)
    rays = np.stack([np.cos(angle), np.sin(angle)], axis=1) @ _root_of_inverse(b, z).T
    if np.ptp(z) == 0:
        rays[:, 1] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        wall = np.where(rays[:, 1] < 0.0, b[1] / -rays[:, 1], np.inf)  # where the slope would become negative
    low, high = np.zeros(RAYS), np.minimum(np.ones(RAYS), wall)
    for _ in range(60):
        inside = (_likelihood(b + high[:, None] * rays, z, hits) >= goal) & (high < wall)
        if not inside.any():
            break
        low = np.where(inside, high, low)
        high = np.where(inside, np.minimum(2.0 * high, wall), high)
    at_low, at_high = (_likelihood(b + r[:, None] * rays, z, hits) - goal for r in (low, high))
    for _ in range(14):  # the Illinois rule: the likelihood along a ray is nearly a parabola
        with np.errstate(divide="ignore", invalid="ignore"):
            middle = np.where(at_high < 0.0, high - at_high * (high - low) / (at_high - at_low), high)
        at = _likelihood(b + middle[:, None] * rays, z, hits) - goal
        inside = at >= 0.0
        at_high = np.where(inside, at_high / 2.0, at)
        at_low = np.where(inside, at, at_low / 2.0)
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    corners = b + low[:, None] * rays
    corners[:, 1] = np.maximum(corners[:, 1], 0.0)
    return np.asarray(corners)


def _root_of_inverse(b: Floats, z: Floats) -> Any:
    """Cholesky root of the inverse information, so that the rays look evenly round the set."""
    w = expit(b[0] + b[1] * z) * expit(-b[0] - b[1] * z)
    information = np.array([[w.sum(), (w * z).sum()], [(w * z).sum(), (w * z * z).sum()]])
    information += np.eye(2) * (1e-6 * np.trace(information) + 1e-9)
    return np.linalg.cholesky(np.linalg.inv(information))
