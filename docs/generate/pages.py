"""The table of generated pages, and of the files of the repository that are pages as they are.

``python -m docs.generate.pages DIRECTORY`` writes all of them, for a look without mkdocs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from types import MappingProxyType

from docs.generate import (
    commands,
    decisions,
    extending,
    floors,
    formats,
    gangs,
    http,
    metrics,
    outputs,
    pictures,
    reasons,
    rules,
    settings,
)

__all__ = ["INCLUDED", "PAGES", "ROOT", "pages", "relinked"]

ROOT = Path(__file__).parents[2]

PAGES: Mapping[str, Callable[[], str]] = MappingProxyType(
    {
        "concepts/extender.svg": pictures.extender,
        "concepts/prices.svg": pictures.prices,
        "reference/cli.md": commands.page,
        "reference/settings.md": settings.page,
        "reference/metrics.md": metrics.page,
        "reference/http.md": http.page,
        "reference/output.md": outputs.page,
        "reference/policy-files.md": formats.page,
        "reference/config-check.md": rules.page,
        "reference/reasons.md": reasons.page,
        "internals/floors.md": floors.page,
        "internals/floors.svg": floors.drawing,
        "internals/gang-states.md": gangs.page,
        "internals/gang-states.svg": gangs.drawing,
        "internals/extending.md": extending.page,
        "decisions/index.md": decisions.page,
    }
)
"""Path below ``docs`` -> what makes it."""

INCLUDED: Mapping[str, str] = MappingProxyType(
    {
        "SECURITY.md": "operate/security.md",
        "CHANGELOG.md": "changelog.md",
        "CONTRIBUTING.md": "internals/contributing.md",
        "deploy/README.md": "operate/deployment.md",
        "bench/README.md": "research/tables.md",
    }
)
"""File of the repository -> the page that shows it."""

_LINK = re.compile(r"(?<=\]\()([^()\s#:]*)(#[^()\s]*)?(?=\))")
_ASSETS = (".svg", ".png")


@cache
def pages() -> Mapping[str, str]:
    """Every page that is not a file below ``docs``, by its path there; made once."""
    made = {path: make() for path, make in PAGES.items()}
    for source, target in INCLUDED.items():
        made[target] = relinked((ROOT / source).read_text(encoding="utf-8"), source, target)
        for asset in _assets(source):
            file = (ROOT / source).parent / asset
            made[str(PurePosixPath(target).parent / asset)] = file.read_text(encoding="utf-8")
    return MappingProxyType(made)


def _assets(source: str) -> list[str]:
    """Drawings that a file of the repository shows, as it names them."""
    text = (ROOT / source).read_text(encoding="utf-8")
    return sorted({found[1] for found in _LINK.finditer(text) if found[1].endswith(_ASSETS)})


def relinked(text: str, source: str, target: str) -> str:
    """Turn the links of a file of the repository into links of its page.

    A link to a page leads to the page. A link to any other file of the repository becomes the
    file's path, since the site does not hold it.
    """

    def replace(found: re.Match[str]) -> str:
        path, anchor = found[1], found[2] or ""
        if not path or path.endswith(_ASSETS):
            return path + anchor
        place = normpath(str(PurePosixPath(source).parent / path))
        if source == f"docs/{target}" and place.startswith("docs/"):
            return path + anchor  # from page to page
        page = INCLUDED.get(place)
        if place.startswith("docs/") and place.endswith(".md"):
            page = place.removeprefix("docs/")
        if page is None:
            return f"repository:{place}"
        return relpath(page, str(PurePosixPath(target).parent)) + anchor

    text = _LINK.sub(replace, text)
    return re.sub(r"\[([^\]]*)\]\(repository:([^)]*)\)", _as_path, text)


def _as_path(found: re.Match[str]) -> str:
    label, path = found[1], found[2]
    return f"`{path}`" if label.strip("`") == path else f"{label} (`{path}`)"


def main() -> None:
    """Write every page below the directory that is named."""
    directory = Path(sys.argv[1])
    for path, text in pages().items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
