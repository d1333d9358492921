"""The built book: complete, without broken links, and shown without asking anybody else."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urljoin, urlparse

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

from docs.generate.pages import ROOT
from tests.docs.conftest import Page

pytestmark = pytest.mark.timeout(1200)  # the first one builds the book

SOMEWHERE = re.compile(r"^(?:[a-z]+:)?//", re.IGNORECASE)
# The theme's script fetches these for drawings or a repository; no page has them.
ON_DEMAND = {"unpkg.com/mermaid": "mermaid", "api.github.com": "md-source"}


def _pages(site: Path) -> dict[str, Page]:
    return {
        str(path.relative_to(site)): Page(path)
        for path in sorted(site.rglob("*.html"))
        if path.name != "404.html"
    }


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    found = _pages(site)
    assert len(found) > 60
    assert not {
        name: away
        for name, page in found.items()
        if (away := [address for address in page.loads if SOMEWHERE.match(address)])
    }


def test_styles_load_nothing_from_elsewhere(site: Path) -> None:
    styles = list(site.rglob("*.css"))
    assert styles
    for style in styles:
        text = style.read_text(encoding="utf-8")
        named = re.findall(r"url\(['\"]?([^)'\"]*)", text) + re.findall(
            r"@import\s+['\"]([^'\"]*)", text
        )
        assert not [address for address in named if SOMEWHERE.match(address)], style


def test_scripts_of_the_theme_have_nothing_to_fetch(site: Path) -> None:
    """What its script would fetch on demand is for parts that no page has."""
    classes = set().union(*(page.classes for page in _pages(site).values()))
    scripts = "".join(p.read_text(encoding="utf-8") for p in site.rglob("bundle*.js"))
    fetched = {address for address in ON_DEMAND if address in scripts}
    assert scripts and fetched and not [ON_DEMAND[a] for a in fetched if ON_DEMAND[a] in classes]


def test_every_page_can_be_reached_from_the_first(site: Path) -> None:
    found = _pages(site)
    reached, waiting = {"index.html"}, ["index.html"]
    while waiting:
        name = waiting.pop()
        for address in found[name].leads:
            if SOMEWHERE.match(address) or address.startswith("mailto:"):
                continue
            path = unquote(urlparse(urljoin(f"https://book/{name}", address)).path).lstrip("/")
            path = path or "index.html"
            if path in found and path not in reached:
                reached.add(path)
                waiting.append(path)
    assert reached == set(found)


@pytest.mark.parametrize(
    "link", ["[x](missing.md)", "[x](index.md#missing)", "[x](/absolute.md)", "![x](missing.svg)"]
)
def test_a_broken_link_stops_the_build(link: str, tmp_path: Path) -> None:
    """The settings of the book, over a book of one page."""
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "index.md"
    page.write_text("# One\n", encoding="utf-8")
    _build_small(tmp_path)
    page.write_text(f"# One\n\n{link}\n", encoding="utf-8")
    with pytest.raises(Abort):
        _build_small(tmp_path)


def _build_small(folder: Path) -> None:
    build(
        load_config(
            str(ROOT / "mkdocs.yml"),
            docs_dir=str(folder / "docs"),
            site_dir=str(folder / "site"),
            theme={"name": "mkdocs"},
            hooks=[],
            nav=["index.md"],
        )
    )
