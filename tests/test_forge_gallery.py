"""docs/gallery shows what the forgers do today, in small files."""

from __future__ import annotations

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


def test_the_page_names_every_report_that_make_galleries_writes(maker: dict[str, Any]) -> None:
    reports = runpy.run_path(str(ROOT / "docs" / "make_reports.py"))
    assert reports["FOLDER"] == ROOT / "galleries"
    assert all(f"`{product}-auto.html`" in maker["page"]() for product in reports["PRODUCTS"])
    assert all(f"`{method}`" in maker["page"]() or method == "auto" for method in reports["METHODS"])
