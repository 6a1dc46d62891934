"""FORGERS, the table of all forgers, and look-ups by a forger's name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from flawforge.forge.corrupt import Nsa, PixelCorrupt
from flawforge.forge.lines import Crack, Scratch
from flawforge.forge.mixtures import Mix, Pipe
from flawforge.forge.paste import CutPaste, HardAugment
from flawforge.forge.pieces import Blur, Misplaced, Missing, Noise
from flawforge.forge.salient import CutSwap, RandomSwap, SaliencyPerlin
from flawforge.forge.spots import Blob, Dent, Stain
from flawforge.forge.texture import Perlin
from flawforge.forge.transplant import Transplant
from flawforge.types import ConfigError, Forger

FORGERS: dict[str, type] = {
    "perlin": Perlin,
    "saliency_perlin": SaliencyPerlin,
    "hard_augment": HardAugment,
    "pixel_corrupt": PixelCorrupt,
    "cutswap": CutSwap,
    "random_swap": RandomSwap,
    "cutpaste": CutPaste,
    "nsa": Nsa,
    "scratch": Scratch,
    "crack": Crack,
    "stain": Stain,
    "dent": Dent,
    "blob": Blob,
    "missing": Missing,
    "misplaced": Misplaced,
    "blur": Blur,
    "noise": Noise,
    "transplant": Transplant,
    "mix": Mix,
    "pipe": Pipe,
}

FAMILIES: dict[str, tuple[str, ...]] = {
    "texture": ("perlin", "saliency_perlin"),
    "paste": ("cutpaste", "hard_augment", "cutswap", "random_swap", "nsa"),
    "corruption": ("pixel_corrupt", "blur", "noise"),
    "physical": ("scratch", "crack", "stain", "dent", "blob", "missing", "misplaced"),
    "real": ("transplant",),
    "mixture": ("mix", "pipe"),
}


def forger_from(name: str, **settings: Any) -> Forger:
    """The named forger with the given fields. Raises ConfigError where a name is unknown or a value out of bounds."""
    if name not in FORGERS:
        raise ConfigError(f"forger {name!r} is unknown; it must be one of {', '.join(FORGERS)}.")
    known = [f.name for f in fields(FORGERS[name])]
    for key in settings:
        if key not in known:
            raise ConfigError(f"forger {name!r} has no setting {key!r}; it has {', '.join(known)}.")
    made: Forger = FORGERS[name](**{key: _tuples(value) for key, value in settings.items()})
    return made


def _tuples(value: Any) -> Any:
    """Lists, as TOML and JSON have them, as tuples."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def family(name: str) -> str:
    """The family of a forger, a key of FAMILIES, so that one family can be held out of training."""
    for key, members in FAMILIES.items():
        if name in members:
            return key
    raise ConfigError(f"forger {name!r} is unknown; it must be one of {', '.join(FORGERS)}.")


def names_in(forger: Any) -> tuple[str, ...]:
    """Names in FORGERS that a forger consists of: a mixture's parts, else its own; none for a forger not in the table."""
    parts = getattr(forger, "forgers", ())
    if parts:
        return tuple(dict.fromkeys(name for part in parts for name in names_in(part)))
    name = getattr(forger, "name", "")
    return (name,) if name in FORGERS else ()
