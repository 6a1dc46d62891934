"""The forge: seeded ways to fake a defect on a good picture. The table is in `forgers`, one file for each kind beside it."""

from flawforge.forge.forgers import FAMILIES, FORGERS, default_mixture, family, forger_from, names_in
from flawforge.forge.mixtures import Mix, Pipe

__all__ = ["FAMILIES", "FORGERS", "Mix", "Pipe", "default_mixture", "family", "forger_from", "names_in"]
