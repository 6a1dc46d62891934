"""Forgeries to look at: pictures, masks, a contact sheet per forger, and a JSON from which each can be made again alone."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from flawforge import __version__
from flawforge.config import checked_seed
from flawforge.forge import FORGERS, forger_from
from flawforge.pictures.dataset import Entry, good_entries, read_entries
from flawforge.pictures.listing import evenly, textures_in
from flawforge.pictures.saliency import Background, Saliency, background_of, saliency
from flawforge.reporting.realism import Realism, realism
from flawforge.types import ConfigError, DataError, Forged, Forger, Image, Mask, Sample
from flawforge_runtime.bundle import TAKEN
from flawforge_runtime.files import free, new_folder
from flawforge_runtime.images import read_picture
from flawforge_runtime.rates import percent

Forgers = Sequence[str] | Mapping[str, Forger]

CELL = 176  # px, the longer side of one picture on a contact sheet
CELLS = ("good part", "synthetic defect", "close-up", "mask", "change, stretched")
ON_SHEET = 12  # forgeries shown per sheet
PRIORS = ("spectral", "foreground", "ones", "none")
BACKGROUND_FROM = 16  # good pictures that "foreground" learns the background from


INDEX = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Synthetic defects</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 20px auto; max-width: 1900px; padding: 0 12px; }}
img {{ max-width: 100%; }} h2 {{ margin: 28px 0 0; }} p {{ margin: 0 0 6px; color: #5b6777; }}
</style></head><body>
<h1>Synthetic defects</h1>
<p>Each row shows: {cells}. Pictures and masks lie in <a href="pictures">pictures</a> and <a href="masks">masks</a>;
<a href="forgeries.json">forgeries.json</a> says how each was made.</p>
{parts}
</body></html>
"""


@dataclass(frozen=True)
class Forgeries:
    """Pictures with synthetic defects that were written to `folder`: pictures, masks and a contact sheet for each forger.

    contents  of forgeries.json: {"made_by", "seed", "realism": {forger: Realism}, "forgeries": [one row each]}
    """

    folder: Path
    contents: Mapping[str, Any] = field(repr=False)

    def lines(self) -> list[str]:
        """For people."""
        return [f"contact sheets of the synthetic defects: {self.folder / 'index.html'}"]

    def as_dict(self) -> dict[str, Any]:
        """What forgeries.json holds."""
        return dict(self.contents)


def forge(
    data: str | Path | Iterable[str | Path],
    out: str | Path,
    forgers: Forgers | None = None,
    *,
    count: int = 16,
    seed: int = 0,
    prior: str = "foreground",
    textures: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Forgeries:
    """Forge defects into good pictures and write them to the new folder `out`, with a contact sheet for each forger.

    data      a folder or CSV, whose good pictures are taken, or paths of good pictures
    textures  folder of pictures to forge textures from
    The rest and the errors: see `forge_preview`.
    """
    pictures: Sequence[Path | Entry]
    pictures = good_entries(read_entries(data)) if isinstance(data, str | Path) else [Path(path) for path in data]
    texture_files = textures_in(None if textures is None else Path(textures))
    out = Path(out)
    contents = forge_preview(
        pictures, out, forgers, count=count, seed=seed, prior=prior, textures=texture_files, progress=progress
    )
    return Forgeries(out, contents)


def forge_preview(
    pictures: Sequence[Path | Entry],
    out: Path,
    forgers: Forgers | None = None,
    *,
    count: int = 16,
    seed: int = 0,
    prior: str = "foreground",
    textures: Sequence[Path] = (),
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Forge `count` pictures with each forger and write them under the new folder `out`; returns what forgeries.json holds.

    pictures  good pictures, as paths or entries; taken in turn
    forgers   names from FORGERS, or {name: forger} with settings of one's own; None = all
    prior     where `Sample.prior` comes from: "foreground", "spectral", "ones", or "none"
    textures  texture pictures for the forgers that take one; taken in turn
    progress  called with each forger's name before its turn

    out/pictures/<forger>_<i>.png, out/masks/<forger>_<i>.png (255 = forged), out/<forger>.jpg (contact sheet),
    out/index.html (all sheets), out/forgeries.json.
    Everything is written to a temporary folder first. Raises ConfigError for an unknown forger, prior
    or count, or where `out` exists; DataError for no pictures; ImageError for one that cannot be read.
    """
    chosen = _chosen(forgers)
    seed = checked_seed(seed)
    if count < 1:
        raise ConfigError(f"count is {count}; it must be at least 1.")
    if prior not in PRIORS:
        raise ConfigError(f"prior is {prior!r}; it must be one of {', '.join(PRIORS)}.")
    paths = [p.path if isinstance(p, Entry) else Path(p) for p in pictures]
    if not paths:
        raise DataError("no good picture was given to forge on; give a folder with at least one.")
    if not free(out):
        raise ConfigError(TAKEN.format(folder=out))
    background = _background(paths) if prior == "foreground" else None
    read, saliencies = reader(), dict[tuple[str, str], Saliency]()
    rows: list[dict[str, Any]] = []
    table: dict[str, Realism] = {}
    with new_folder(out) as draft:
        for folder in ("pictures", "masks"):
            (draft / folder).mkdir()
        for place, (name, forger) in enumerate(chosen.items()):
            if progress is not None:
                progress(name)
            pairs = []
            for i in range(count):
                row = _plan(name, forger, paths, textures, prior, background, (seed, place, i))
                good, forged = _forge(row, read, saliencies)
                row.update(_written(draft, f"{name}_{i:03d}", forged))
                rows.append(row)
                pairs.append((good, forged))
            figures = realism(pairs, seed)
            table[name] = figures
            sheet = contact_sheet(name, pairs[:ON_SHEET], figures)
            _save(draft / f"{name}.jpg", sheet)
        written: dict[str, Any] = {
            "made_by": f"flawforge {__version__}",
            "seed": seed,
            "realism": {name: row._asdict() for name, row in table.items()},
        }
        written["forgeries"] = rows
        (draft / "index.html").write_text(_index(table), encoding="utf-8")
        (draft / "forgeries.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return written


def _index(table: Mapping[str, Realism]) -> str:
    """A page of all contact sheets, beside them."""
    parts = [
        f'<h2>{html.escape(name)}</h2><img src="{html.escape(name)}.jpg" '  # the sheet itself says how real they look
        f'alt="{html.escape("; ".join(filter(None, (f"synthetic defects of {name}", realism_words(row)))))}">'
        for name, row in table.items()
    ]
    return INDEX.format(parts="\n".join(parts), cells=", ".join(CELLS))


def remake(row: Mapping[str, Any]) -> Forged:
    """Make one forgery again from its row of forgeries.json; the source picture must still lie where it did."""
    return _forge(row, reader(), {})[1]


def describe(forger: Forger) -> dict[str, Any]:
    """{"name", "fields"} of a forger, JSON-able, nested where a forger holds others; `rebuild` is its inverse."""
    if not is_dataclass(forger) or not hasattr(forger, "name"):
        raise ConfigError(f"{forger!r} is no forger of FORGERS; only those can be written down and made again.")
    values = {f.name: getattr(forger, f.name) for f in fields(forger)}
    if values.get("pieces"):
        raise ConfigError(f"{forger.name} was given pieces of real defects, which cannot be written down; leave them out.")
    if "forgers" in values:
        values["forgers"] = [describe(inner) for inner in values["forgers"]]
    return {"name": forger.name, "fields": values}


def rebuild(described: Mapping[str, Any]) -> Forger:
    """The forger that `describe` wrote down."""
    values = {key: value for key, value in described["fields"].items() if key != "forgers"}
    if "forgers" in described["fields"]:
        values["forgers"] = tuple(rebuild(inner) for inner in described["fields"]["forgers"])
    return forger_from(described["name"], **values)


def _chosen(forgers: Forgers | None) -> dict[str, Forger]:
    if isinstance(forgers, Mapping):
        return dict(forgers)
    return {name: forger_from(name) for name in (forgers or FORGERS)}


def _background(paths: Sequence[Path]) -> Background:
    return background_of(read_picture(path).pixels for path in evenly(paths, BACKGROUND_FROM))


def _plan(
    name: str,
    forger: Forger,
    paths: Sequence[Path],
    textures: Sequence[Path],
    prior: str,
    background: Background | None,
    seed: tuple[int, int, int],
) -> dict[str, Any]:
    """Everything that one forgery depends on."""
    i = seed[2]
    known = None if background is None else [background.centres.tolist(), background.reach.tolist()]
    return {
        "forger": describe(forger),
        "called": name,
        "source": str(paths[i % len(paths)].resolve()),
        "other": str(paths[(i + 1) % len(paths)].resolve()) if len(paths) > 1 else None,
        "texture": str(textures[i % len(textures)].resolve()) if textures else None,
        "prior": {"kind": prior, "background": known},
        "seed": list(seed),
    }


def reader(budget: int = 256 << 20) -> Callable[[str], Image]:
    """A function path -> pixels that keeps pictures up to `budget` bytes, so that one is not decoded once per forger."""
    cache: dict[str, Image] = {}

    def read(path: str) -> Image:
        if path in cache:
            return cache[path]
        pixels = read_picture(Path(path)).pixels
        if pixels.nbytes + sum(p.nbytes for p in cache.values()) <= budget:
            cache[path] = pixels
        return pixels

    return read


def _forge(
    row: Mapping[str, Any], read: Callable[[str], Image], known: dict[tuple[str, str], Saliency]
) -> tuple[Image, Forged]:
    """The good picture and its forgery, from a planned row alone; `known` keeps saliencies by (source, kind)."""
    good = read(row["source"])
    other = None if row["other"] is None else _alike(read(row["other"]), good)
    texture = None if row["texture"] is None else read(row["texture"])
    key = (row["source"], row["prior"]["kind"])
    if key[1] != "none" and key not in known:
        colours = row["prior"]["background"]
        background = None if colours is None else Background(*(np.asarray(part, np.float32) for part in colours))
        known[key] = saliency(good, key[1], background=background)
    prior, note = known.get(key, (None, "none"))
    forged = rebuild(row["forger"])(Sample(good, prior, other, texture), np.random.default_rng(row["seed"]))
    return good, Forged(forged.image, forged.mask, forged.kind, {**forged.drawn, "saliency": note})


def _alike(other: Image, good: Image) -> Image:
    """The other picture in the size and dtype of the good one."""
    if other.shape != good.shape:
        other = cv2.resize(other, (good.shape[1], good.shape[0]), interpolation=cv2.INTER_AREA).reshape(good.shape)
    if other.dtype == good.dtype:
        return other
    if good.dtype == np.uint8:
        return np.asarray(np.rint(other * 255.0), np.uint8)
    return np.asarray(other.astype(np.float32) / np.float32(255.0))


def _written(draft: Path, stem: str, forged: Forged) -> dict[str, Any]:
    _save(draft / "pictures" / f"{stem}.png", _eight(forged.image))
    _save(draft / "masks" / f"{stem}.png", forged.mask.astype(np.uint8) * np.uint8(255))
    return {
        "picture": f"pictures/{stem}.png",
        "mask": f"masks/{stem}.png",
        "kind": forged.kind,
        "forged_pixels": int(np.count_nonzero(forged.mask)),
        "drawn": dict(forged.drawn),
    }


def _save(path: Path, array: Image) -> None:
    """h w or h w 3 uint8, by the suffix. Not flushed one by one: the folder takes its name only when all are written."""
    encoded = cv2.imencode(path.suffix, array if array.ndim == 2 else cv2.cvtColor(array, cv2.COLOR_RGB2BGR))[1]
    path.write_bytes(encoded.tobytes())


def contact_sheet(name: str, pairs: Sequence[tuple[Image, Forged]], row: Realism | None = None, columns: int = 2) -> Image:
    """CELLS of each pair, two synthetic defects a row, with headings over every column and captions; h w 3 uint8."""
    tiles = [_tile(good, forged, i) for i, (good, forged) in enumerate(pairs)]
    height = max(tile.shape[0] for tile in tiles)
    width = max(tile.shape[1] for tile in tiles)
    columns = min(columns, len(tiles))
    lines = -(-len(tiles) // columns)
    head = 44
    sheet = np.full((head + lines * (height + 8), columns * (width + 12) + 4, 3), 255, np.uint8)
    _write(sheet, name, (8, 18), 0.55)
    for column in range(columns):
        cell = (width - 4 * 2) // len(CELLS) + 2
        for i, word in enumerate(CELLS):
            _write(sheet, word, (4 + column * (width + 12) + i * cell, 38), 0.42)
    if row is not None and row.patch_auroc is not None:
        _write(sheet, realism_words(row), (min(200, sheet.shape[1] // 3), 18), 0.42)
    for i, tile in enumerate(tiles):
        top, left = head + (i // columns) * (height + 8), 4 + (i % columns) * (width + 12)
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet


def realism_words(row: Realism) -> str:
    """How real the defects look, for people; "" where too few were drawn to say."""
    if row.patch_auroc is None:
        return ""
    text = f"a classifier tells them from good patches with AUROC {row.patch_auroc:.2f} (0.50 = it cannot)"
    return text if row.border_ratio is None else f"{text}; edges {row.border_ratio:.2f} times as strong as natural ones"


def _tile(good: Image, forged: Forged, index: int) -> Image:
    h, w = good.shape[:2]
    scale = CELL / max(h, w)
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    before, after = _eight(good), _eight(forged.image)
    change = np.abs(after.astype(np.int16) - before).max(axis=2)
    change = np.rint(change * (255.0 / max(int(change.max()), 1))).astype(np.uint8)  # the largest change is white
    mask = forged.mask.astype(np.uint8) * np.uint8(255)
    cells = [_shown(p, size) for p in (before, after, _close_up(after, forged.mask), mask, change)]
    gap = np.full((size[1], 2, 3), 255, np.uint8)
    parts: list[Image] = []
    for cell in cells:
        parts += [cell if cell.ndim == 3 else cv2.cvtColor(cell, cv2.COLOR_GRAY2RGB), gap]
    strip = np.concatenate(parts[:-1], axis=1)
    caption = np.full((18, strip.shape[1], 3), 255, np.uint8)
    _write(caption, f"{index}: {caption_of(forged)}", (1, 14), 0.42)
    return np.concatenate([strip, caption], axis=0)


def _shown(picture: Image, size: tuple[int, int]) -> Image:
    filters = cv2.INTER_AREA if picture.shape[0] > size[1] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size, interpolation=filters))


def _close_up(picture: Image, mask: Mask) -> Image:
    """The part of the picture around the forgery, in the picture's proportions; the forgery fills about half of it."""
    h, w = mask.shape
    x, y, bw, bh = cv2.boundingRect(mask.view(np.uint8))
    share = min(1.0, max(2.0 * bh / h, 2.0 * bw / w, 48.0 / max(h, w)))
    ch, cw = max(1, round(h * share)), max(1, round(w * share))
    top = int(np.clip(y + bh // 2 - ch // 2, 0, h - ch))
    left = int(np.clip(x + bw // 2 - cw // 2, 0, w - cw))
    return picture[top : top + ch, left : left + cw]


def caption_of(forged: Forged) -> str:
    """The drawn values that a person looks for first."""
    drawn = forged.drawn
    words = [f"area {np.count_nonzero(forged.mask)} px"]
    if "size_px" in drawn:
        sharp = f"sharpness {drawn['sharpness']:.2f}"
        words.append(f"size {drawn['size_px']:.0f} px, contrast {percent(drawn['contrast'])}, {sharp}")
    for key in ("opacity", "threshold"):
        if key in drawn:
            words.append(f"{key} {drawn[key]:.2f}")
    for key in ("source", "shape", "change", "fill", "prior", "other", "fallback"):
        if key in drawn:
            words.append(str(drawn[key]))
    return ", ".join(words)


def _eight(picture: Image) -> Image:
    eight = picture if picture.dtype == np.uint8 else np.rint(picture * 255.0).astype(np.uint8)
    return np.repeat(eight, 3, axis=2) if eight.shape[2] == 1 else eight


def _write(canvas: Image, text: str, at: tuple[int, int], size: float) -> None:
    cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, (20, 20, 20), 1, cv2.LINE_AA)
