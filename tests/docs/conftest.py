"""The book, built once for all tests that look at it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

from docs.generate.pages import ROOT, pages

PROSE = ("start", "concepts", "internals", "reference")


class Page(HTMLParser):
    """What a page loads, and where it leads.

    Attributes
    ----------
    loads
        Addresses that a browser fetches to show the page.
    leads
        Addresses of links.
    """

    _LOADED = frozenset({"script", "img", "iframe", "source", "video", "audio", "embed"})
    _RELATIONS = frozenset(
        {"stylesheet", "preconnect", "preload", "icon", "prefetch", "dns-prefetch"}
    )

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.classes: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.classes |= set(found.get("class", "").split())
        relations = set(found.get("rel", "").split())
        if tag in self._LOADED and found.get("src"):
            self.loads.append(found["src"])
        if tag == "link" and relations & self._RELATIONS:
            self.loads.append(found.get("href", ""))
        if tag == "a":
            self.leads.append(found.get("href", ""))


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated pages and the site, made by the first worker that needs them, for all of them."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    target = shared / "book"
    with (shared / "book.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            partial = shared / "book.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            (partial / "pages.json").write_text(json.dumps(dict(pages())), encoding="utf-8")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of mkdocs and its theme, about themselves
                build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(partial / "site")))
            partial.rename(target)
    return target


@pytest.fixture(scope="session")
def made(book: Path) -> dict[str, str]:
    """The generated pages."""
    return dict(json.loads((book / "pages.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="session")
def site(book: Path) -> Path:
    """The site, built as `make docs` builds it."""
    return book / "site"


@pytest.fixture(scope="session")
def written() -> dict[str, str]:
    """Pages that people write, by their path below `docs`."""
    folder = ROOT / "docs"
    return {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*.md"))
        if "upstream" not in path.parts
    }


def sentences(text: str) -> Iterator[str]:
    """Lines of a page that are prose: no code, no tables of code."""
    inside = False
    for line in text.splitlines():
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            yield line
