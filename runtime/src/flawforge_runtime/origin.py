"""Where an Inspector was opened, so that another process can open it there: what is sent is a path, never weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from flawforge_runtime.bundle import Content
from flawforge_runtime.types import ModelError


@dataclass(frozen=True)
class Origin:
    """The model folder behind an Inspector.

    load     opens it: load(folder, **how)
    folder   absolute
    model    of the settings, the weights, the region of interest and the template; thresholds do not count
    content  as it was read; an Inspector that was given another network, region or template is not what the folder holds
    network  as it was opened
    """

    load: Callable[..., Any]
    folder: str
    how: Mapping[str, Any]
    model: str
    content: Content = field(repr=False, compare=False)
    network: Any = field(repr=False, compare=False)


def origin_of(
    load: Callable[..., Any], folder: str | Path, content: Content, network: Any, model_id: str, **how: Any
) -> Origin:
    """The Origin of what `load(folder, **how)` opened; model_id: the content's, which costs time to find."""
    marks = hashlib.sha256()
    grey = content.template.grey if content.template is not None else None
    for name, pixels in (("roi", content.roi), ("template", grey)):
        if pixels is not None:
            marks.update(f"{name} {pixels.shape}".encode() + pixels.tobytes())
    return Origin(load, str(Path(folder).absolute()), how, f"{model_id}-{marks.hexdigest()[:12]}", content, network)


def opened(load: Callable[..., Any], folder: str, how: Mapping[str, Any], model: str) -> Any:
    """What `load` gives for the folder, kept for the next that asks. Raises ModelError where it holds another model."""
    inspector = _opened(load, folder, tuple(sorted(how.items())), _stamp(folder))
    if inspector.origin.model != model:
        raise ModelError(
            f"The model folder {folder} holds another model ({inspector.origin.model}) than the inspector that was sent "
            f"({model}); give this process the folder that it was loaded from."
        )
    return inspector


@lru_cache(maxsize=2)
def _opened(load: Callable[..., Any], folder: str, how: tuple[tuple[str, Any], ...], stamp: tuple[int, int]) -> Any:
    """`stamp` is the manifest's: a model that was written anew is opened anew."""
    return load(folder, **dict(how))


def _stamp(folder: str) -> tuple[int, int]:
    try:
        status = (Path(folder) / "manifest.json").stat()
    except OSError:  # `load` says what is wrong, in one sentence
        return 0, 0
    return status.st_mtime_ns, status.st_size
