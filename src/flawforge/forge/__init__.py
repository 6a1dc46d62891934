"""The forge: seeded ways to fake a defect on a good picture. Names live in `forgers`; this file loads nothing else."""

import sys

from flawforge import Forge
from flawforge.forge.forgers import FAMILIES, FORGERS, Mix, Pipe, default_mixture, family, forger_from, names_in

__all__ = ["FAMILIES", "FORGERS", "Mix", "Pipe", "default_mixture", "family", "forger_from", "names_in"]

sys.modules[__name__].__class__ = Forge  # so that `ff.forge(...)` works although this package has the name
