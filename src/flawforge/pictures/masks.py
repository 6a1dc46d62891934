"""Where a labelled picture's defect lies: which file says so, and that file as a mask.

    ground_truth/<kind>/   <stem>_mask.*, <stem>.*, <stem>_gt.*, <stem>_label.*, <stem>_seg.*, in every format that is read;
                           a folder <stem>/ of several masks, whose union counts (MVTec LOCO);
                           <stem>.json (LabelMe), or one COCO file for all
    test/<kind>/           the same files beside the pictures, bare <stem>.* and folders excepted

Where several are there, the first in this order is taken, PNG before TIFF, BMP, WebP and JPEG, and a note says so.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from flawforge.types import ImageError, Mask
from flawforge_runtime import images, tiles
from flawforge_runtime.files import read_regular

ENDINGS = ("_mask", "", "_gt", "_label", "_seg")
SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".webp", ".jpg", ".jpeg")
LIKE_GROUND_TRUTH = ("groundtruth", "gt", "mask", "masks", "label", "labels", "annotation", "annotations")
OTHER_LABELS = (".txt", ".xml")  # YOLO, Pascal VOC
NAMED = 3  # files that a note names
MOST = 1e7  # px; a polygon's point farther out is no point of a picture


@dataclass
class Found:
    """masks: {picture: its mask}. aside: files beside the pictures that are their labels. notes: for people."""

    masks: dict[Path, Path] = field(default_factory=dict)
    aside: set[Path] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def find(data: Path, kinds: Mapping[str, Sequence[Path]], good: Sequence[Path] = ()) -> Found:
    """The masks of a data set in MVTec layout.

    kinds  {kind of defect: all files in its folder of test}; good: all files in test/good
    """
    root, assigned = data / "ground_truth", Found(aside=masks_beside(good))
    shared = [path for path in _files(root) if path.suffix.lower() == ".json"]
    often = Counter(path.name for files in kinds.values() for path in files)
    several: list[Path] = []
    unused: list[Path] = []
    unread: list[Path] = []
    without = 0
    for kind, files in kinds.items():
        beside = masks_beside(files)
        pictures = [path for path in files if path.suffix.lower() in images.SUFFIXES and path not in beside]
        there = _by_key(_files(root / kind))
        near = _by_key([path for path in files if path in beside or path.suffix.lower() == ".json"])
        used = set(beside)
        for picture in pictures:
            choice = [*_named(picture.stem, there), *_named(picture.stem, near)]
            choice += [path for path in (*there.values(), *near.values()) if _lists(path, picture)]
            choice += [path for path in shared if _lists(path, picture, bare=often[picture.name] == 1)]
            choice = list(dict.fromkeys(choice))
            used |= set(choice)
            if choice:
                assigned.masks[picture] = choice[0]
            else:
                without += 1
                unread += [path for path in files if path.stem == picture.stem and path.suffix.lower() in OTHER_LABELS]
            if len(choice) > 1:
                several.append(choice[0])
        assigned.aside |= used & set(files)
        unused += [path for path in there.values() if path not in used]
    assigned.notes = _without_folder(data, list(kinds)) if without else []
    assigned.notes += _note(several, "pictures have more than one mask, of which the first by name and format was taken")
    assigned.notes += _note(
        sorted(path for path in assigned.aside if path.suffix.lower() in images.SUFFIXES),
        "pictures in test are masks of others by their names, and were not judged",
    )
    assigned.notes += _note(
        unused, "files in ground_truth fit no picture by their names (masks are named STEM_mask.png or STEM.png)"
    )
    assigned.notes += _note(
        unread,
        "label files beside pictures without a mask are of a kind that is not read, as YOLO's; draw what each holds into "
        "a PNG of its picture's size, 255 on the defect, and save it as ground_truth/KIND/STEM.png",
    )
    return assigned


def masks_beside(files: Sequence[Path]) -> set[Path]:
    """The pictures that by their names are masks of others in the same folder: 7_label.bmp beside 7.jpg."""
    pictures = [path for path in files if path.suffix.lower() in images.SUFFIXES]
    masks = {stem + ending for stem in {path.stem for path in pictures} for ending in ENDINGS if ending}
    return {path for path in pictures if path.stem in masks}


def read(source: Path, picture: Path, shape: tuple[int, int], max_pixels: int, *, shrunk: bool = False) -> Mask | None:
    """The labelled defect of `picture` as h w bool at `shape`, its map's size; None where a COCO file does not list it.

    source  a mask picture, a folder of them, a LabelMe or a COCO file
    shrunk  the map may be smaller than the picture: a pixel is True where any under it is marked
    Raises ImageError for masks of another size, and for a file that cannot be read or is none of these.
    """
    if source.is_dir():
        parts = [read(file, picture, shape, max_pixels, shrunk=shrunk) for file in _mask_pictures(source)]
        return np.logical_or.reduce([part for part in parts if part is not None]) if parts else None
    if source.suffix.lower() == ".json":
        return _drawn(source, picture, shape, shrunk)
    if shrunk:
        return tiles.mask_like(source, shape, max_pixels)
    return images.read_mask(source, shape, max_pixels=max_pixels)


def name(path: Path) -> str:
    """A file as notes name it: its folder and itself."""
    return "/".join(path.parts[-2:])


def named(paths: Sequence[Path]) -> str:
    """The first few of these files, and how many more."""
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(name(path) for path in paths[:NAMED]) + more


def _note(paths: Sequence[Path], what: str) -> list[str]:
    return [f"{len(paths)} {what}: {named(paths)}"] if paths else []


def _by_key(files: Sequence[Path]) -> dict[str, Path]:
    """{name with its suffix in lower case: path}; of two such names the first stays."""
    return {path.stem + path.suffix.lower(): path for path in reversed(files)}


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _mask_pictures(folder: Path) -> list[Path]:
    return [path for path in _files(folder) if path.is_file() and path.suffix.lower() in images.SUFFIXES]


def _named(stem: str, there: Mapping[str, Path]) -> list[Path]:
    """What may be the mask of the picture `stem`, the preferred first. there: {name with suffix in lower case: path}."""
    keys = [stem + ending + suffix for ending in ENDINGS for suffix in SUFFIXES]
    files = [there[key] for key in keys if key in there and there[key].is_file()]
    folder = there.get(stem)
    if folder is not None and folder.is_dir() and _mask_pictures(folder):
        files.append(folder)
    labelled = there.get(f"{stem}.json")
    return [*files, labelled] if labelled is not None else files


def _lists(path: Path, picture: Path, *, bare: bool = True) -> bool:
    """Whether a file is COCO's and lists the picture. bare: by its name alone, too, without the folder that it lies in."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    try:
        names = _coco_names(path, _stamp(path))
    except (ImageError, OSError):
        return False
    return f"{picture.parent.name}/{picture.name}" in names or (bare and picture.name in names)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=64)
def _coco_names(path: Path, stamp: tuple[int, int]) -> frozenset[str]:
    """The pictures that a COCO file lists, by folder and name and by name alone; none for another file."""
    data = _parsed(path, stamp)
    if not isinstance(data, dict) or not isinstance(data.get("images"), list):
        return frozenset()
    names = [_short(str(entry.get("file_name"))) for entry in data["images"] if isinstance(entry, dict)]
    return frozenset([*names, *(name.rpartition("/")[2] for name in names)])


def _short(file_name: str) -> str:
    """The last folder and the name, with / between them."""
    return "/".join([part for part in file_name.replace("\\", "/").split("/") if part not in ("", ".", "..")][-2:])


def _without_folder(data: Path, kinds: Sequence[str]) -> list[str]:
    root = data / "ground_truth"
    if root.is_dir():
        absent = [kind for kind in kinds if not (root / kind).is_dir()]
        return [f"ground_truth has no folder {', '.join(absent)}, as the kinds in test are named"] if absent else []
    like = [
        folder.name
        for folder in _files(data)
        if folder.is_dir() and "".join(filter(str.isalpha, folder.name.lower())) in LIKE_GROUND_TRUTH
    ]
    rename = f"; if {' or '.join(like)} holds them, rename it" if like else ""
    return [f"masks are looked for in the folder ground_truth, which is not there{rename}"]


@lru_cache(maxsize=4)
def _parsed(path: Path, stamp: tuple[int, int]) -> Any:
    """A JSON file; `stamp` as `_stamp` gives it, so that a new file is read anew."""
    try:
        return json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ImageError(f"{path} is no JSON that can be read ({error}); write it again, or give masks as PNG.") from None


def _drawn(source: Path, picture: Path, shape: tuple[int, int], shrunk: bool) -> Mask | None:
    """A label file's shapes as a mask, drawn as LabelMe's own converter draws them: outlines belong to the defect."""
    try:
        data = _parsed(source, _stamp(source))
        drawn = _labelme(data) if "shapes" in data else _coco(data, picture)
        if drawn is None:
            return None
        (height, width), outlines = drawn
        factor = -(-max(height, width) // max(shape)) if shrunk else 1
        if (-(-height // factor), -(-width // factor)) != shape:
            raise ImageError(
                f"{source} is for a picture of {height} x {width} (h x w) and {picture} has {shape[0]} x {shape[1]}; "
                "label the picture that is judged."
            )
        canvas = Image.new("1", (shape[1], shape[0]))
        for kind, points in outlines:
            flat = [(float(x) / factor, float(y) / factor) for x, y in points]
            if not all(abs(value) <= MOST for point in flat for value in point):
                raise ValueError("a point lies far outside every picture")
            _draw(ImageDraw.Draw(canvas), kind, flat)
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ImageError(f"The labels {source} cannot be read as LabelMe's or COCO's ({reason}); give a PNG.") from None
    return np.array(canvas, dtype=bool)


def _draw(pen: ImageDraw.ImageDraw, kind: str, points: list[tuple[float, float]]) -> None:
    if kind == "circle":
        (x, y), (at_x, at_y) = points
        reach = float(np.hypot(at_x - x, at_y - y))
        pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=1, outline=1)
    elif kind == "rectangle":
        (x, y), (at_x, at_y) = points
        pen.rectangle((min(x, at_x), min(y, at_y), max(x, at_x), max(y, at_y)), fill=1, outline=1)
    elif len(points) < 3:
        raise ValueError(f"a polygon of {len(points)} points")
    else:
        pen.polygon(points, fill=1, outline=1)


Outlines = tuple[tuple[int, int], list[tuple[str, list[Any]]]]


def _labelme(data: Mapping[str, Any]) -> Outlines:
    shapes = [(shape.get("shape_type") or "polygon", shape["points"]) for shape in data["shapes"]]
    odd = Counter(kind for kind, _ in shapes if kind not in ("polygon", "rectangle", "circle"))
    if odd:
        raise ValueError(f"it holds {', '.join(odd)}, and only polygons, rectangles and circles are read")
    return (int(data["imageHeight"]), int(data["imageWidth"])), shapes


def _coco(data: Mapping[str, Any], picture: Path) -> Outlines | None:
    """None where the file does not list the picture, by folder and name or else by name."""
    listed = [(_short(str(entry["file_name"])), entry) for entry in data["images"]]
    own = [entry for name, entry in listed if name == f"{picture.parent.name}/{picture.name}"]
    own = own or [entry for name, entry in listed if name.rpartition("/")[2] == picture.name]
    if not own:
        return None
    if len(own) > 1:
        raise ValueError(f"it lists {picture.name} {len(own)} times")
    outlines: list[tuple[str, list[Any]]] = []
    for annotation in data["annotations"]:
        if annotation["image_id"] == own[0]["id"]:
            if not isinstance(annotation.get("segmentation"), list) or not annotation["segmentation"]:
                raise ValueError("it holds a box or a run length instead of a polygon")
            outlines += [("polygon", list(zip(flat[::2], flat[1::2], strict=True))) for flat in annotation["segmentation"]]
    return (int(own[0]["height"]), int(own[0]["width"])), outlines
