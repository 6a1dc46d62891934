"""MkDocs hook: links from a page to files outside docs/ keep working in the site.

On a code host, a page can link to `../benchmarks/results/accuracy.csv`. A site holds only docs/, so each such file is copied
into it below repository/. CONTRIBUTING.md and CHANGELOG.md become pages.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")


def in_repository(uri: str) -> str:
    """The path in the repository of a page's address in the site."""
    return uri if uri in PAGES else f"docs/{uri}"


def in_site(path: str) -> str:
    """The address in the site of a file's path in the repository."""
    if path in PAGES:
        return path
    return path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"


def targets(uri: str, markdown: str) -> list[str]:
    """The files that a page links to, as paths in the repository."""
    folder = posixpath.dirname(in_repository(uri))
    return [posixpath.normpath(posixpath.join(folder, link[2])) for link in LINK.finditer(markdown)]


def on_files(files: Files, config: Any) -> Files:
    """Add the pages outside docs/ and every file that a page links to there."""
    for name in PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for page in list(files.documentation_pages()):
        for path in targets(page.src_uri, page.content_string):
            uri = in_site(path)
            if uri.startswith("repository/") and (ROOT / path).is_file() and not files.get_file_from_path(uri):
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point every link at where its file stands in the site."""
    uri = page.file.src_uri
    folder = posixpath.dirname(in_repository(uri))

    def moved(link: re.Match[str]) -> str:
        target = in_site(posixpath.normpath(posixpath.join(folder, link[2])))
        return f"{link[1]}{posixpath.relpath(target, posixpath.dirname(uri) or '.')}{link[3]}"

    return LINK.sub(moved, markdown)
