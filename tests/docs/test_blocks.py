"""Every shell block of the README and of the book does what its page says."""

from __future__ import annotations

import re
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from docs.generate.pages import ROOT
from tests.docs.blocks import Block, Shell, Where, blocks, copy_of, same

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("start/*.md"))]
PAGES += sorted((ROOT / "docs").glob("concepts/*.md"))
ALL = [block for page in PAGES for block in blocks(page, ROOT)]
HERE = sorted({block.page for block in ALL if block.where is Where.HERE})


@pytest.mark.parametrize("page", HERE)
def test_a_page_can_be_followed(page: str, tmp_path: Path) -> None:
    folder = copy_of(ROOT, tmp_path)
    port = str(_free_port())
    environ = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(folder)}
    shell = Shell(folder, {**environ, "SNUGFIT_PORT": port})
    try:
        for block in ALL:
            if block.page == page and block.where is Where.HERE:
                shell.run(replace(block, text=block.text.replace(":10262", f":{port}")))
                if block.background:
                    shell.until(f"curl -fs localhost:{port}/readyz")
    finally:
        shell.close()


def _free_port() -> int:
    """Pages name the default port; others may have it on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("block", [b for b in ALL if b.where is Where.CI], ids=str)
def test_what_takes_minutes_is_run_by_ci(block: Block) -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = [line.split("#")[0].strip() for line in block.text.splitlines()]
    assert commands and all(command in script.splitlines() for command in commands)


@pytest.mark.parametrize("block", [b for b in ALL if b.where is Where.CONTAINERS], ids=str)
def test_what_needs_containers_names_files_that_are_there(block: Block) -> None:
    assert all(line.startswith("docker ") for line in block.text.splitlines())
    named = re.findall(r"-f (\S+)", block.text)
    assert all((ROOT / path).exists() for path in named)


def test_pages_have_blocks_of_every_kind() -> None:
    assert {block.where for block in ALL} == set(Where)
    assert sum(block.output is not None for block in ALL) >= 4


@pytest.mark.parametrize(
    ("shown", "printed", "equal"),
    [
        ("a b\n", "a b  \n", True),
        ("took <number> s", "took 0.25 s", True),
        ("took <number> s", "took long s", False),
        ("gpu-0   Ready   <time>", "gpu-0  Ready  12s", True),
        ("one", "one\ntwo", False),
        ("exact  blanks", "exact blanks", False),
    ],
)
def test_a_difference_is_noticed(shown: str, printed: str, equal: bool) -> None:
    assert same(shown, printed) is equal


def test_a_failing_block_fails(tmp_path: Path) -> None:
    def block(text: str, output: str | None = None, code: int = 0) -> Block:
        return Block("page", 1, text, Where.HERE, False, output, code)

    shell = Shell(tmp_path, {})
    shell.run(block("export KEPT=1"))
    shell.run(block("echo $KEPT", "1\n"))
    shell.run(block("exit 3", code=3))
    with pytest.raises(AssertionError, match="exit code 2"):
        shell.run(block("false || exit 2\necho never"))
    with pytest.raises(AssertionError, match="prints"):
        shell.run(block("echo other", "one"))
