"""The documentation as a site: every page is in the navigation, its commands exist, and it loads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import click
import pytest

from flawforge.cli import main
from flawforge_runtime.rates import pictures_needed

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SITE = ROOT / "site"
CONFIG = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
LARGEST = 1 << 20  # bytes of a tracked file
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


def navigation() -> set[str]:
    """The pages and folders that mkdocs.yml lists; read by hand, for YAML is no dependency of ours."""
    section = CONFIG.partition("\nnav:\n")[2].partition("\n\n")[0]
    return {line.rpartition(": ")[2] for line in section.splitlines() if not line.endswith(":")}


def test_every_page_is_in_the_navigation() -> None:
    listed = navigation()
    for page in DOCS.rglob("*.md"):
        name = page.relative_to(DOCS).as_posix()
        assert name in listed or f"{page.parent.relative_to(DOCS).as_posix()}/" in listed, f"mkdocs.yml does not list {name}"


def test_everything_in_the_navigation_is_there() -> None:
    for name in navigation():
        assert (DOCS / name).exists() or (ROOT / name).is_file(), f"mkdocs.yml lists {name}"


def test_the_site_is_built_strictly_and_fetches_no_fonts() -> None:
    assert "\nstrict: true\n" in CONFIG
    assert "\n  font: false" in CONFIG
    assert not re.search(r"https?://", CONFIG)


def commands() -> list[tuple[str, str]]:
    """(page, command line) for each flawforge command that a page written by hand shows in a block."""
    found = []
    for page in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]:
        blocks = re.findall(
            r"^```sh\n(.*?)^```$|((?:^ {4}\S.*\n)+)", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )
        for fenced, indented in blocks:
            lines = (line.strip() for line in (fenced or indented).splitlines())
            name = page.relative_to(ROOT).as_posix()
            found += [(name, line) for line in lines if line.startswith("flawforge ") and "[OPTIONS]" not in line]
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_a_command_on_a_page_has_options_that_exist(
    page: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, name, *arguments = shlex.split(line.partition(">")[0], comments=True)
    if "--recipe" in arguments:  # it is the page's own, so its keys are read too
        recipe = re.findall(r"^```toml\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        (tmp_path / arguments[arguments.index("--recipe") + 1]).write_text(recipe[0], encoding="utf-8")
        monkeypatch.chdir(tmp_path)
    assert name in main.commands, page
    context = main.commands[name].make_context(name, arguments)
    assert isinstance(context, click.Context)


def test_the_pages_state_how_many_pictures_a_rate_needs() -> None:
    text = (DOCS / "how-to" / "good-pictures.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) % \| (\d+) \| (\d+) \|$", text, re.MULTILINE)
    assert len(rows) == 3
    for rate, held, total in rows:
        assert pictures_needed(int(rate) / 100) == int(held) == int(total) // 5
    assert f"{pictures_needed(0.05, 0.95)} instead of {pictures_needed(0.05)} for 5 %" in (
        DOCS / "how-to" / "thresholds.md"
    ).read_text(encoding="utf-8")


class Loaded(HTMLParser):
    """The addresses that a browser loads to show a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values: dict[str, Any] = dict(attrs)
        if tag in LOADING and values.get("rel") not in ("canonical", "next", "prev"):
            self.addresses.append(values.get(LOADING[tag]) or "")


def test_loaded_addresses_are_found() -> None:
    page = '<link rel="stylesheet" href="https://a/b.css"><a href="https://c"></a><script src="d.js"></script>'
    assert Loaded(page).addresses == ["https://a/b.css", "d.js"]


@pytest.mark.skipif(not (SITE / "index.html").is_file(), reason="the site is not built; run: make site")
def test_the_built_site_loads_nothing_from_elsewhere() -> None:
    pages = list(SITE.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        outside = [each for each in Loaded(page.read_text(encoding="utf-8")).addresses if re.match(r"(https?:)?//", each)]
        assert not outside, f"{page.relative_to(SITE)} loads {outside}"
    for sheet in SITE.rglob("*.css"):
        assert not re.search(r"(url\(|@import )[\"']?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a git checkout")
def test_no_tracked_file_is_large() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert len(files) > 100
    large = [path for path in files if path.is_file() and path.stat().st_size > LARGEST]
    assert [path.parent for path in large] == [ROOT / "src" / "flawforge" / "weights"] * len(large), large
