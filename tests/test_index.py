"""index.html of an inspected folder: order, names that come from outside, and links that stay in the folder."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from flawforge.cli import judge
from flawforge.reporting.index import Card, write_index


def row(name: str, score: float, verdict: str, *notes: str) -> dict[str, Any]:
    return {
        "image_path": name,
        "pred_score": score,
        "score_normalised": score / 10,
        "verdict": verdict,
        "notes": list(notes),
        "model_id": "0123",
    }


class Tags(HTMLParser):
    """Start tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_most_anomalous_comes_first_and_nothing_leads_out(tmp_path: Path) -> None:
    cards = [
        Card(row("parts/low.png", 1.0, "OK"), "thumbnails/000001.jpg"),
        Card(row("parts/<img src=x>\n.png", 9.0, "NG", "not like <b>any</b>"), "thumbnails/000002.jpg", "overlays/NG-a.jpg"),
        Card({"image_path": "bad.png", "error": "bad.png is <i>empty</i>."}),
        Card(row("parts/no_picture.png", 5.0, "REVIEW")),
    ]
    path = write_index(tmp_path, cards, "results.csv", "m: <script>")
    text = path.read_text(encoding="utf-8")
    places = [text.index(words) for words in ("bad.png is", "9 (0.900)", "5 (0.500)", "1 (0.100)")]
    assert places == sorted(places)
    assert "1 NG" in text
    assert "1 not judged" in text
    tags = Tags(text).found
    assert not {tag for tag, _ in tags} & {"script", "i", "iframe"}
    links = [value for _, attributes in tags for key, value in attributes.items() if key in ("href", "src")]
    assert links == [
        "results.csv",
        "overlays/NG-a.jpg",
        "thumbnails/000002.jpg",
        "thumbnails/000001.jpg",
        "thumbnails/000001.jpg",
    ]
    assert not re.search(r"https?:|url\(|@import", text)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in tags


def test_a_long_name_is_broken_and_the_title_holds_names_and_no_whole_paths(tmp_path: Path) -> None:
    """At 390 px a path in one piece made the page scroll sideways."""
    text = write_index(tmp_path, [Card(row("a.png", 1.0, "OK"))], "results.csv", "m").read_text(encoding="utf-8")
    assert re.search(r"h1 \{[^}]*overflow-wrap: anywhere", text)
    assert judge._title(Path("/models/washer"), (Path("/data/a/dent"), "-")) == "washer: dent, -"
    assert judge._title(Path("/models/washer"), tuple(map(Path, "abcdef"))) == "washer: a, b, c, d, e, ..."


def test_nothing_judged_is_a_page_too(tmp_path: Path) -> None:
    text = write_index(tmp_path, [Card({"image_path": "a", "error": "a is empty."})], "results.jsonl", "m").read_text()
    assert "a is empty." in text
    assert "<figure>" not in text
