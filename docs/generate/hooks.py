"""What mkdocs calls: it adds the generated pages, and lists the decisions in the navigation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parents[2]))  # mkdocs loads this file by its path

from docs.generate.decisions import files as decision_files
from docs.generate.pages import pages, relinked

_DECISIONS = "Decisions"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List every decision below its heading."""
    listed: list[Any] = ["decisions/index.md"]
    listed += [f"decisions/{path.name}" for path in decision_files()]
    config.nav = [
        {_DECISIONS: listed} if isinstance(entry, dict) and _DECISIONS in entry else entry
        for entry in config.nav or []
    ]
    return config


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turn links to files of the repository into links to the pages that show them."""
    return relinked(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the code."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files
