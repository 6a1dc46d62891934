"""docs/gallery shows what the forgers do today, in small files."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from flawforge.forge import FORGERS
from flawforge_runtime.images import read_picture

ROOT = Path(__file__).resolve().parent.parent
STALE = "is not what the code draws; run: .venv/bin/python docs/make_gallery.py"


@pytest.fixture(scope="module")
def maker() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "make_gallery.py"))


@pytest.mark.parametrize("name", sorted(FORGERS))
def test_the_sheet_is_what_the_forger_draws(name: str, maker: dict[str, Any]) -> None:
    file = maker["FOLDER"] / f"{name}.jpg"
    assert file.stat().st_size < 60_000
    stored, fresh = read_picture(file).pixels.astype(np.float32), maker["sheet"](name).astype(np.float32)
    assert stored.shape == fresh.shape, f"{file} {STALE}"
    apart = cv2.blur(np.abs(stored - fresh).max(axis=2), (8, 8))  # a moved scratch is small; JPEG's loss is small everywhere
    assert apart.max() < 60.0, f"{file} {STALE}"


def test_the_page_shows_every_forger(maker: dict[str, Any]) -> None:
    page = (maker["FOLDER"] / "README.md").read_text(encoding="utf-8")
    assert page == maker["page"](), f"docs/gallery/README.md {STALE}"
    assert all(f"({name}.jpg)" in page for name in FORGERS)


def test_the_reports_are_there_small_and_fetch_nothing(maker: dict[str, Any]) -> None:
    folder = maker["FOLDER"] / "reports"
    named = sorted(folder / f"{name}-{method}.html" for name in maker["REPORTS"] for method in maker["METHODS"])
    assert sorted(folder.iterdir()) == named
    pages = [maker["FOLDER"] / "report.html", *named]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert len(text) < 1_000_000, page
        assert text.index("May I use this?") < text.index("What it can see: forged defects") < text.index("Parts in use")
        assert not re.search(r"""(src|href)=(?!["'](data:|#))|url\(|<script""", text), page
