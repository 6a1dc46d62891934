"""Gaussians fitted in closed form, their leave-one-out likelihood, and the tail of the distances of good pictures.

    here                    source
    `posterior`             normal-inverse-Wishart: Gelman et al., Bayesian Data Analysis (3rd ed.), section 3.6
    `leave_out`             leave-one-out covariance by the matrix inversion lemma: Hoffbeck & Landgrebe, PAMI 18 (1996);
                            Theiler, "The incredible shrinking covariance estimator", SPIE 8391 (2012), for one sample.
                            Leaving out a picture removes a block of positions, so the lemma is used at rank block^2
    `tail_of`, `pareto`     excesses over a high threshold follow a generalised Pareto law: Pickands, Annals of Statistics
                            (1975); fitted by probability-weighted moments: Hosking & Wallis, Technometrics 29 (1987)

Letters in shapes: k blocks of neighbouring positions, b positions in a block, d features, m pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

TAUS = (0.1, 4.0, 32.0, 256.0)  # prior strength of a mean, in pictures
KAPPAS = (1.0, 8.0, 64.0, 512.0)  # prior strength of a covariance, in multiples of d samples
PRIORS = (*((tau, kappa) for tau in TAUS for kappa in KAPPAS), (math.inf, math.inf))  # the last: one Gaussian for all
KNOTS = (0.99, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)  # empirical tail probabilities; beyond the last, a Pareto tail


def whitener(covariance: Tensor) -> Tensor:
    """Covariance d d -> its symmetric inverse square root d d; small eigenvalues are floored."""
    values, vectors = torch.linalg.eigh(covariance)
    floor = 1e-3 * float(values.clamp_min(0).mean()) + 1e-6
    return vectors @ torch.diag((values.clamp_min(0) + floor).rsqrt()) @ vectors.T


def ridged(covariance: Tensor) -> Tensor:
    """d d -> the same plus a millionth of its mean variance on the diagonal, so that rounding cannot make it singular."""
    return covariance + torch.diag((1e-6 * covariance.diagonal().mean() + 1e-12).expand(len(covariance)))


def posterior(count: Tensor, total: Tensor, outer: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """Normal-inverse-Wishart posterior of whitened data about a prior mean of zero, before the prior scale.

    count k b; total k d b; outer k d d (over the block); tau k or 1. Returns means k d b, scale matrices k d d.
    """
    strength = count + tau[:, None]
    mean = total / strength[:, None]
    return mean, outer - torch.einsum("kdb,keb,kb->kde", mean, mean, strength)


def freedom(count: Tensor, tau: Tensor) -> Tensor:
    """Degrees of freedom: samples minus those used up by the means, summed over the block: ... b, tau ... 1 -> ..."""
    return (count - count / (count + tau)).sum(dim=-1)


def leave_out(gram: Tensor, weight: Tensor, count: Tensor, tau: Tensor, kappa: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squared Mahalanobis distances of one picture's positions under the Gaussians of a block fitted without that picture.

    With residuals R (d b) to the posterior means and L the posterior scale matrix of all pictures, leaving one out gives
    L' = L - R C R', C = diag(strength / (strength - 1)), and R' L'^-1 R = (I - G C)^-1 G for the gram matrix G = R' L^-1 R
    (matrix inversion lemma), so that no matrix of the features' size is inverted again.

    gram ... b b; weight ... b, 1 = the picture has this position; count ... b; tau ... 1; kappa ... Returns distances ... b,
    log det L'/L ..., and the degrees of freedom left ...
    """
    strength = count + tau
    c = weight * strength / (strength - 1).clamp_min(1e-6)
    # Of one good picture alone nothing is left but the prior, and rounding can make the difference singular.
    whole = (1 + 64 * torch.finfo(gram.dtype).eps) * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    inside = whole - gram * c[..., None, :]
    solved = torch.linalg.solve(inside, gram)
    left = kappa + freedom(count - weight, tau)
    ratio = torch.where(weight > 0, c, torch.ones_like(c))
    distance = left[..., None] * ratio.square() * solved.diagonal(dim1=-2, dim2=-1)
    return distance.clamp_min(0), torch.linalg.slogdet(inside)[1], left


def likelihoods(samples: Tensor, weights: Tensor, count: Tensor, total: Tensor, outer: Tensor) -> Tensor:
    """Log-likelihood of left-out pictures, summed by block, under each of PRIORS but the last; constants dropped.

    samples m k d b whitened, weights m k b; count k b, total k d b, outer k d d over all good pictures. Returns priors k.
    """
    d, kind = samples.shape[2], samples.dtype
    rows = []
    for tau in (torch.tensor([share], dtype=count.dtype, device=count.device) for share in TAUS):
        mean, scale = posterior(count, total, outer, tau)
        values, vectors = torch.linalg.eigh(scale)
        turned = vectors.transpose(-1, -2).to(kind) @ ((samples - mean.to(kind)) * weights[:, :, None])
        for kappa in (torch.tensor(d * share, dtype=count.dtype, device=count.device) for share in KAPPAS):
            spread = values.clamp_min(0) + kappa
            scaled = turned * spread.rsqrt().to(kind)[..., None]
            gram = scaled.transpose(-1, -2) @ scaled
            distance, gone, left = leave_out(gram, weights, count.to(kind), tau.to(kind), kappa.to(kind))
            determinant = spread.log().sum(dim=-1).to(kind) + gone - d * left.log()
            rows.append((-0.5 * (distance + determinant[..., None]) * weights).sum(dim=(0, 2)))
    return torch.stack(rows)


def shared_likelihood(
    samples: Tensor,
    weights: Tensor,
    pictures: Sequence[tuple[Tensor, Tensor, Tensor]],
    whole: tuple[Tensor, Tensor, Tensor],
    white: Tensor,
) -> Tensor:
    """As `likelihoods`, under one Gaussian for all positions -> k."""
    total = torch.zeros(weights.shape[1], dtype=samples.dtype, device=samples.device)
    middle = whole[1] / whole[0].clamp_min(1)  # what the samples are measured from
    for x, w, own in zip(samples, weights, pictures, strict=True):
        n, s, outer = (a - b for a, b in zip(whole, own, strict=True))
        if n < 1:  # it is the only picture, and nothing is left to judge it by
            return total - math.inf
        mean = s / n
        covariance = white @ (outer / n - torch.outer(mean, mean)) @ white.T
        root = torch.linalg.cholesky(ridged(covariance)).to(x.dtype)
        flat = (x - (white @ (mean - middle)).to(x.dtype)[:, None]).permute(1, 0, 2).flatten(1)
        distance = torch.linalg.solve_triangular(root, flat, upper=False).square().sum(dim=0).reshape(w.shape)
        total += (-0.5 * (distance + 2 * root.diagonal().log().sum()) * w).sum(dim=1)
    return total


def tail_of(ordered: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ascending samples -> (knots, slopes of -log p between them, (scale, shape) of the Pareto tail beyond the last).

    The shape is clamped to [0.01, 0.5]: below 0 the tail would be bounded, and large defects would tie.
    """
    n = len(ordered)
    if n == 0:
        ordered, n = torch.zeros(1, dtype=torch.float64), 1
    knots = ordered[[min(n - 1, int(n * (1 - p))) for p in KNOTS]].clone()
    for i in range(1, len(knots)):  # equal samples (constant pictures) still leave an increasing curve
        knots[i] = max(float(knots[i]), float(knots[i - 1]) + 1e-2)
    nats = -torch.tensor(KNOTS, dtype=torch.float64).log()
    beyond = ordered[ordered > knots[-1]] - knots[-1]
    scale, shape = pareto(beyond) if len(beyond) >= 10 else (float(knots[-1] - knots[-2]) / math.log(2), 0.1)
    return knots, nats.diff() / knots.diff(), torch.tensor([scale, shape])


def pareto(excess: Tensor) -> tuple[float, float]:
    """(scale, shape) of the generalised Pareto law by probability-weighted moments (Hosking & Wallis 1987, eq. 4).

    excess: ascending, all above 0.
    """
    n = len(excess)
    above = 1 - (torch.arange(1, n + 1, dtype=torch.float64) - 0.35) / n
    first, second = float(excess.mean()), float((above * excess).mean())
    gap = max(first - 2 * second, 1e-9)
    shape = min(max(2 - first / gap, 0.01), 0.5)
    return max(first * (1 - shape), 1e-6), shape


def shrinkage(covariance: Tensor, free: Tensor) -> Tensor:
    """Shrinkage weights towards the identity, k in [0, 1], of sample covariances k d d with `free` (k) degrees of freedom.

    (1 - w) S + w I has the least expected squared error for Gaussian samples (Fisher & Sun, Computational Statistics & Data
    Analysis 55 (2011), the identity as target): w = E|S - C|^2 / E|S - I|^2 for the true covariance C, estimated from S.
    E|S - C|^2 = (tr C^2 + tr^2 C) / n, and tr C^2 has the unbiased estimate n^2 / ((n - 1)(n + 2)) (tr S^2 - tr^2 S / n).
    With fewer than two degrees of freedom the weight is 1.
    """
    d, n = covariance.shape[-1], free.clamp_min(2)
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(dim=-1) / d
    square = covariance.square().sum(dim=(-2, -1)) / d
    second = (n**2 / ((n - 1) * (n + 2)) * (square - d * trace.square() / n)).clamp_min(0)
    error = (second + d * trace.square()) / n
    weight = error / (error + second - 2 * trace + 1).clamp_min(1e-12)
    return torch.where(free < 2, torch.ones_like(weight), weight.clamp(0, 1))
