"""Each forger's stored forgery, so that none changes unnoticed. `tests/golden/make_forgers.py` writes it anew."""

from __future__ import annotations

import numpy as np
import pytest

from flawforge.forge import FORGERS
from golden import make_forgers


@pytest.mark.parametrize("name", sorted(FORGERS))
def test_forges_as_stored(name: str) -> None:
    """Pixels may differ by 2 grey levels in 1 of 100 (another OpenCV rounds otherwise); masks in 1 of 100."""
    stored = np.load(make_forgers.FILE)
    forged = make_forgers.forge(name)
    apart = np.abs(forged.image[..., 0].astype(int) - stored[f"{name}/image"]) > 2
    mask = np.unpackbits(stored[f"{name}/mask"], count=forged.mask.size).reshape(forged.mask.shape).astype(bool)
    where = f"{name} forges otherwise than stored with {stored['versions']}; if that is meant: tests/golden/make_forgers.py"
    assert apart.mean() <= 0.01, where
    assert (forged.mask != mask).mean() <= 0.01, where


def test_the_stored_forgeries_are_small_and_complete() -> None:
    assert make_forgers.FILE.stat().st_size < 100_000
    assert {key.split("/")[0] for key in np.load(make_forgers.FILE).files} == {*FORGERS, "versions"}
