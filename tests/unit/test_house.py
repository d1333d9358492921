"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [
    p for d in ("scheduler", "testbed", "tests", "bench") for p in sorted((ROOT / d).rglob("*.py"))
]


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
    for package in (path for path in SOURCES if path.name == "__init__.py"):
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


def _calls(tree: ast.AST, *, at_import: bool = True) -> Iterator[tuple[str, ast.Call, bool]]:
    """Calls by their dotted name, and whether they run once, when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node, at_import
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _calls(node, at_import=at_import and not later)


def _types_built_late(source: str) -> list[str]:
    """What makes msgspec learn a type after the import, perhaps in several threads at once."""
    tree = ast.parse(source)
    found = [
        f"line {node.lineno}: write import msgspec, so that this can be checked"
        for node in ast.walk(tree)
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "msgspec")
        or (
            isinstance(node, ast.Import)
            and any(one.asname and one.name.split(".")[0] == "msgspec" for one in node.names)
        )
    ]
    for name, call, at_import in _calls(tree):
        where, _, what = name.rpartition(".")
        typed = any(word.arg in ("type", None) for word in call.keywords)
        late = (
            (where.startswith("msgspec") and what == "decode" and typed)
            or (where == "msgspec" and what == "convert")
            or (where.startswith("msgspec") and what.startswith("Decoder") and not at_import)
        )
        if late:
            found.append(f"line {call.lineno}: {name}")
    return found


def test_decoders_exist_before_the_first_thread() -> None:
    """A type that two threads decode for the first time at once ends the process."""
    product = [p for p in SOURCES if p.is_relative_to(ROOT / "scheduler")]
    late = {str(p): found for p in product if (found := _types_built_late(p.read_text()))}
    assert product and not late


@pytest.mark.parametrize(
    "source",
    [
        "def f(x):\n    return msgspec.json.decode(x, type=T)",
        "def f(x, **how):\n    return msgspec.msgpack.decode(x, **how)",
        "y = [msgspec.convert(x, T) for x in z]",
        "class A:\n    def __init__(self):\n        self.d = msgspec.json.Decoder(T)",
        "make = lambda: msgspec.json.Decoder[T](T)",
        "from msgspec.json import decode",
        "import msgspec as m",
    ],
)
def test_a_late_decoder_is_found(source: str) -> None:
    assert _types_built_late(source)


def test_early_decoders_and_untyped_ones_are_none_of_them() -> None:
    early = "import msgspec.json\nd = msgspec.json.Decoder(T)\ndef f(x): return d.decode(x)\n"
    assert not _types_built_late(early + "def g(x): return msgspec.json.decode(x)")


def test_every_line_of_the_command_line_goes_through_one_place() -> None:
    """Whoever prints by another way lets control characters of others reach the terminal."""
    rooms = [ROOT / "scheduler" / "cli", ROOT / "scheduler" / "simulator"]
    doors = {"output.py"}
    direct = [
        f"{path}:{call.lineno}"
        for path in SOURCES
        if any(path.is_relative_to(room) for room in rooms) and path.name not in doors
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func)
        in ("click.echo", "click.secho", "print", "sys.stdout.write", "sys.stderr.write", "Console")
    ]
    assert not direct


def test_every_file_that_a_user_names_is_read_in_one_place() -> None:
    """Elsewhere a pipe without a writer, a device or an endless file would be waited for."""
    rooms = [ROOT / "scheduler" / room for room in ("cli", "core", "simulator")]
    own = {"reading.py", "provenance.py"}  # the one place; /proc of this machine
    direct = [
        f"{path}:{call.lineno}"
        for path in SOURCES
        if any(path.is_relative_to(room) for room in rooms) and path.name not in own
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in ("read_text", "read_bytes")
    ]
    assert not direct
