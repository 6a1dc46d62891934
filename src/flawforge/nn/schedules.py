"""Learning-rate schedules: progress through the budget, in [0, 1] -> factor of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


def cosine_schedule(progress: float, warm_up: float = 0.03) -> float:
    """Linear warm-up over the share `warm_up`, then a cosine to zero at the end of the budget (assumption)."""
    if progress < warm_up:
        return max(progress / warm_up, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * min((progress - warm_up) / (1 - warm_up), 1.0)))


def drops(factor: float, places: Sequence[float]) -> Callable[[float], float]:
    """A step schedule: multiplied by `factor` at each of `places`, progress in [0, 1]."""
    return lambda progress: factor ** sum(progress >= place for place in places)
