"""Forgers: synthetic defects on good pictures, reproducible from a seed: the table `forgers`, and one file for each kind."""

import sys

from flawforge import Forge
from flawforge.forge.forgers import FAMILIES, FORGERS, family, forger_from, names_in
from flawforge.forge.mixtures import Mix, Pipe

__all__ = ["FAMILIES", "FORGERS", "Mix", "Pipe", "family", "forger_from", "names_in"]

sys.modules[__name__].__class__ = Forge  # so that `ff.forge(...)` works although this package has the name
