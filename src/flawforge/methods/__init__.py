"""METHODS: a plain table of every method, one paper and one file each; our own first."""

from flawforge.methods import anoseg, auto, cutpaste, cutswap, draem, guided, isstad, padim, patchcore, patchstats, sgsf
from flawforge.types import Method

_ALL = (
    auto.METHOD,
    guided.METHOD,
    patchstats.METHOD,
    anoseg.METHOD,
    cutpaste.METHOD,
    cutswap.METHOD,
    draem.METHOD,
    isstad.METHOD,
    padim.METHOD,
    patchcore.METHOD,
    sgsf.METHOD,
)
METHODS: dict[str, Method] = {method.name: method for method in _ALL}
