"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [p for d in ("scheduler", "tests", "bench") for p in sorted((ROOT / d).rglob("*.py"))]


def _tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split() if (ROOT / name).exists()]


def test_files_stay_short() -> None:
    long = {str(p): n for p in SOURCES if (n := len(p.read_text().splitlines())) > 700}
    assert SOURCES and not long


def test_no_room_for_leftovers() -> None:
    assert not [p for p in SOURCES if p.stem in ("utils", "helpers", "common", "misc")]


def test_every_room_says_what_it_is() -> None:
    for package in sorted((ROOT / "scheduler").rglob("__init__.py")):
        assert package.read_text().startswith('"""'), package


def test_locks_have_hashes_and_no_address() -> None:
    for lock in (ROOT / "requirements").glob("*.lock"):
        text = lock.read_text()
        assert "--hash=sha256:" in text and "://" not in text and "index-url" not in text


def test_no_registry_address_in_the_repository() -> None:
    address = re.compile("|".join(("pypi" + r"\.org", "pythonhosted" + r"\.org", "/simple" + "/")))
    found = [p for p in _tracked() if address.search(p.read_text(errors="ignore"))]
    assert not found


def test_no_salted_hash_is_an_identity() -> None:
    """`hash()` of bytes and texts differs from process to process, and may collide."""
    calls = [
        f"{path}:{call.lineno}"
        for path in SOURCES
        if path.is_relative_to(ROOT / "scheduler")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "hash"
    ]
    assert not calls
