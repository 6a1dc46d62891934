"""Pictures that the model was trained on prove nothing: they are found, left out and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flawforge.pictures import copies
from flawforge.types import DataError, Image
from flawforge_runtime.images import MAX_PIXELS


def config_of(inspector: Any) -> Mapping[str, Any]:
    """The config.json of what is judged by; empty for what was not made by `fit`."""
    content = getattr(inspector, "content", None)
    return {} if content is None else content.config


def trained_on(inspector: Any, pictures: Sequence[Any]) -> set[Path]:
    """Those of the pictures that the model was trained on, or that are copies of such; see `pictures.copies`.

    A model that tells nothing of its training has seen none of them, and no array.
    """
    limits = {"max_pixels": getattr(inspector, "max_pixels", MAX_PIXELS), "depth": getattr(inspector, "depth", None)}
    paths = [picture for picture in pictures if isinstance(picture, Path)]
    return set(copies.known(config_of(inspector)).trained_on(paths, **limits))


def unseen(pictures: Sequence[Path | Image], inspector: Any) -> tuple[list[Path | Image], int]:
    """(the pictures that training did not see, how many it did). DataError where none is left."""
    trained_pictures = trained_on(inspector, pictures)
    left = [picture for picture in pictures if not (isinstance(picture, Path) and picture in trained_pictures)]
    if len(pictures) and not left:
        raise DataError(
            f"All {len(pictures)} pictures were trained on, so they prove nothing; give pictures that are new to the model."
        )
    return left, len(pictures) - len(left)


def left_out(count: int, of: int) -> list[str]:
    """Notes for people about pictures that were trained on; none if there are no such pictures."""
    if not count:
        return []
    return [f"{count} of {of} pictures were left out, as the model was trained on them; {of - count} remain"]
