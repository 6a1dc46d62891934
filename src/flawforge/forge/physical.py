"""The physical family as one mixture. `guided` and `auto` never train on it, so that a gate can test them with it."""

from __future__ import annotations

from flawforge.forge.lines import Crack, Scratch
from flawforge.forge.mixtures import Mix
from flawforge.forge.pieces import Misplaced, Missing
from flawforge.forge.spots import Blob, Dent, Stain

PHYSICAL = Mix((Scratch(), Crack(), Stain(), Dent(), Blob(), Missing(), Misplaced()))
