"""`ff.evaluate`, `ff.pod` and `ff.drift`: what a model is worth, asked from Python.

Each takes a model, as its folder or as an Inspector, and pictures, as paths or as arrays. The result is a frozen dataclass:
`lines()` is what the command of the same name prints, `as_dict()` what it writes with --json. Where the model is given as
its folder, the result is added there under its date, for the report; `save=False` leaves the folder as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from flawforge.judging import loading
from flawforge.pictures.defects import read_defects
from flawforge.pictures.listing import Entry, check_for_fit, good_entries, labelled_listing, part_of, read_entries
from flawforge.proving import drift as drifting
from flawforge.proving import evaluate as evaluating
from flawforge.proving import pod as proof
from flawforge.proving.drift import Drift
from flawforge.proving.evaluate import Evaluation
from flawforge.proving.labelled import labelled
from flawforge.proving.leakage import config_of
from flawforge.proving.pod import Proof
from flawforge.proving.specimens import COUNT
from flawforge.reporting.kept import Kept, keep
from flawforge.types import ConfigError, DataError, Image
from flawforge_runtime.feed import Source
from flawforge_runtime.inspector import Inspector

__all__ = ["drift", "evaluate", "pod"]

Model = str | Path | Inspector
Progress = Callable[[int, int], None] | None
Result = TypeVar("Result", Evaluation, Proof, Drift)


def evaluate(
    model: Model,
    data: str | Path | Iterable[Any],
    labels: Iterable[Any] | None = None,
    masks: Iterable[Any] | None = None,
    *,
    seed: int = 0,
    bootstrap: int = 500,
    large_masks: bool = False,
    save: bool = True,
    device: str = "auto",
    backend: str | None = None,
    threads: int | None = None,
    progress: Progress = None,
) -> Evaluation:
    """Judge labelled pictures and measure the model's accuracy, with 95 % intervals. Nothing is fitted on them.

    data     a folder in MVTec layout or a CSV; or pictures, as paths or h w 3 arrays in RGB order, with `labels`
    labels   one for each picture: 0 or "good"; 1, or the name of the kind of defect
    masks    one for each picture: None, a path, or h w at the picture's own size, read as a mask picture is
    save     keep the result in the model folder, for the report; an Inspector has none
    device, backend, threads  as in `load`
    seed, bootstrap, large_masks, progress, and errors: see `proving.evaluate.evaluate`
    """
    notes: Sequence[str] = ()
    if labels is not None:
        if isinstance(data, str | Path):
            raise DataError(f"Labels were given with {data}; give the pictures themselves, or leave the labels out.")
        pictures: Any = labelled(data, labels, masks)
    elif isinstance(data, str | Path):
        listing = labelled_listing(data)
        pictures, notes = listing.entries, listing.mask_notes
    else:
        pictures = tuple(data)
        if not all(isinstance(entry, Entry) for entry in pictures):
            raise DataError("Pictures were given without labels; give labels=[...], 0 for good and 1 for defective.")
    inspector, folder = _opened(model, device, backend, threads)  # after the data, whose mistakes are told at once
    result = evaluating.evaluate(
        inspector, pictures, seed=seed, bootstrap=bootstrap, large_masks=large_masks, notes=notes, progress=progress
    )

    def store(folder: Path) -> Kept:
        drawn = evaluating.draw_telling(inspector, pictures, result)
        return evaluating.save_evaluation(folder, result, drawn, data=_name(data, len(pictures)))

    return _stored(result, folder if save else None, "evaluation", store)


def pod(
    model: Model,
    good: str | Path | Iterable[Any],
    *,
    kinds: Sequence[str] = (),
    contrasts: Sequence[float] = (),
    sizes: tuple[float, float] | None = None,
    count: int = COUNT,
    scale: float | None = None,
    group_by: str | None = None,
    defects: str | Path | None = None,
    seed: int = 0,
    save: bool = True,
    device: str = "auto",
    progress: Progress = None,
) -> Proof:
    """Forge defects of known size into good pictures and measure the smallest size that the model finds (POD).

    good       a folder or CSV, whose good pictures are taken, or pictures, as paths or h w 3 arrays in RGB order. Files that
               the model was trained on are left out, so the folder that `fit` was given will do
    kinds      forgers of controlled size; () = six physical ones, without the families that the model was trained on
    contrasts  tone changes, share of the full range; () = 0.1 and 0.3
    sizes      smallest and largest defect, in px, or mm with `scale`; None = 1.2 % to 30 % of the shorter side
    count      forgeries per kind and contrast
    scale      millimetres of one pixel
    group_by   pictures of one part share what this regular expression finds in FOLDER/NAME
    defects    pictures of real defects with masks, as `fit` takes them: those that training never saw are grafted onto the
               good pictures too
    save, device  as in `evaluate`
    Errors as in `proving.pod.prove`, and `pictures.defects.read_defects`.
    """
    if isinstance(good, str | Path):
        check_for_fit(good)
        entries = read_entries(good)
        entries = good_entries(entries) or tuple(entry for entry in entries if entry.label == 0)
        pictures: list[Path | Image] = [entry.path for entry in entries]
        parts = part_of(entries, group_by)
    else:
        pictures = [Path(picture) if isinstance(picture, str) else picture for picture in good]
        parts = _parts(pictures, group_by)
    inspector, folder = _opened(model, device)
    trained_on = proof.forgers_of(config_of(inspector))
    recipe = proof.recipe_for(trained_on, kinds, contrasts, sizes, count, scale, seed)
    real = None
    if defects is not None:
        config, limit = config_of(inspector), inspector.max_pixels
        real = read_defects(defects, max_pixels=limit, depth=inspector.depth, known=config)
    result = proof.prove(inspector, pictures, recipe, scale=scale, parts=parts, defects=real, progress=progress)
    name = _name(good, len(pictures))
    return _stored(result, folder if save else None, "POD", lambda folder: proof.save_proof(folder, result, data=name))


def drift(
    model: Model,
    pictures: str | Path | Iterable[Any],
    *,
    alarm: float = 0.01,
    defects: float = drifting.DEFECTS,
    group_by: str | None = None,
    seed: int = 0,
    save: bool = True,
    device: str = "auto",
    progress: Progress = None,
) -> Drift:
    """Test whether production parts still resemble the good parts that the model was calibrated on.

    pictures  of parts in use, in their order: files and folders, or h w 3 arrays in RGB order
    alarm     probability of a false alarm, however long one watches
    defects   share of defective parts that is normal on this line
    group_by  pictures of one part share what this regular expression finds in FOLDER/NAME
    save, device  as in `evaluate`
    Errors as in `proving.drift.watch`.
    """
    inspector, folder = _opened(model, device)
    sources: list[Any] = [pictures] if isinstance(pictures, str | Path) else list(pictures)
    notes: list[str] = []
    if sources and all(isinstance(item, str | Path) for item in sources):
        sources = list(Source(map(Path, sources), say=notes.append))
    parts = _parts(sources, group_by) if group_by is not None else None
    result = drifting.watch(inspector, sources, alarm=alarm, defects=defects, parts=parts, seed=seed, progress=progress)
    result = replace(result, notes=(*notes, *result.notes))

    def store(folder: Path) -> Kept:
        return keep(folder, "drift", result.as_dict(), data=_name(pictures, len(sources)))

    return _stored(result, folder if save else None, "drift check", store)


def _opened(
    model: Model, device: str, backend: str | None = None, threads: int | None = None
) -> tuple[Inspector, Path | None]:
    """The Inspector, and its folder where the model was given as one."""
    if isinstance(model, str | Path):
        return loading.load(model, device=device, backend=backend, threads=threads), Path(model)
    return model, None


def _parts(pictures: Sequence[Any], group_by: str | None) -> dict[Path, str] | None:
    """Which part each picture shows. Raises ConfigError for arrays, which have no name."""
    if group_by is None:
        return None
    if not all(isinstance(picture, Path) for picture in pictures):
        raise ConfigError("group_by was given with arrays, which have no name; give paths, or leave it out.")
    return part_of([Entry(path) for path in pictures], group_by)


def _name(data: Any, count: int) -> str:
    """What stored results call the data: the last two parts of its path, the first of several, or how many were given."""
    first = data if isinstance(data, str | Path) else next(iter(data), None) if isinstance(data, Sequence) else None
    if not isinstance(first, str | Path):
        return f"{count} pictures given in Python"
    more = len(data) - 1 if isinstance(data, Sequence) and not isinstance(data, str) else 0
    return "/".join(Path(first).resolve().parts[-2:]) + (f" and {more} more" if more else "")


def _stored(result: Result, folder: Path | None, what: str, store: Callable[[Path], Kept]) -> Result:
    """The result, kept in the model folder; where that cannot be written to, the result says so."""
    if folder is None:
        return result
    try:
        return replace(result, saved=store(folder))
    except (PermissionError, BlockingIOError):
        return replace(result, unsaved=f"{folder} cannot be written to, so the report will not show this {what}")
