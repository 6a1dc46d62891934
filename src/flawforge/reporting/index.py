"""index.html of an inspected folder: thumbnails, the most anomalous first. Links are relative; nothing is fetched or run."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from flawforge_runtime.files import write_atomically
from flawforge_runtime.names import shown

NAME, THUMBNAILS = "index.html", "thumbnails"
SIDE = 320  # longest side in pixels of one of the two pictures of a thumbnail


@dataclass(frozen=True)
class Card:
    """One judged picture on the page.

    row      as `flawforge_runtime.feed.row_of` gives it
    picture  its thumbnail, relative to the page; "" = there is none
    overlay  its overlay at full size, relative to the page; "" = there is none
    """

    row: Mapping[str, Any]
    picture: str = ""
    overlay: str = ""


def write_index(folder: Path, cards: Sequence[Card], results: str, title: str) -> Path:
    """Write `folder`/index.html; returns its path. results: the name of the file of rows. OSError passes through."""
    judged = [card for card in cards if "error" not in card.row]
    errors = [{"error": shown(str(card.row["error"]))} for card in cards if "error" in card.row]
    judged.sort(key=lambda card: -float(card.row["pred_score"]))
    counts = [(name, sum(card.row["verdict"] == name for card in judged)) for name in ("NG", "REVIEW", "OK")]
    page = _environment().get_template("index.html.jinja")
    text = page.render(
        title=shown(title),
        counts=[*counts, *([("error", len(errors))] if errors else [])],
        model_id=judged[0].row["model_id"] if judged else "",
        when=f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M}",
        results=results,
        errors=errors,
        cards=[_card(card) for card in judged],
    )
    write_atomically(folder / NAME, text.encode(errors="backslashreplace"))
    return folder / NAME


def _card(card: Card) -> dict[str, Any]:
    row = card.row
    normalised = row.get("score_normalised")
    return {
        "verdict": row["verdict"],
        "score": f"{row['pred_score']:.4g}" + (f" ({normalised:.3f})" if normalised is not None else ""),
        "name": shown("/".join(Path(str(row["image_path"])).parts[-2:])),
        "notes": [shown(str(note)) for note in row["notes"]],
        "picture": card.picture,
        "link": card.overlay or card.picture,
    }


def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("flawforge.reporting", "templates")
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
