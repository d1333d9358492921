"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
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


_MOST_LINES, _MOST_METHODS = 300, 15
_LARGE = {
    # Class: why it is larger than that. Remove the line once it is not.
    "Engine": "answers and effects over one cache of evaluations, whose parts share its journal",
    "ClusterState": "one table of columns with a journal; every method keeps the same invariants",
    "GangCoordinator": "one method per event of a gang's life and one per question about it",
    "Members": "short look-ups in the same three tables",
    "Charges": "every way of charging a pod, by one account of the devices of its node",
    "Instance": "a problem in arrays, built once and only read",
    "Search": "the moves of one search over one layout",
}


@cache
def _tree(path: Path) -> ast.Module:
    """A file, parsed once for all rules."""
    return ast.parse(path.read_text())


def _classes() -> Iterator[tuple[Path, str, int, int]]:
    """Every class of the product: file, name, lines, and methods that others may call."""
    for path in SOURCES:
        if path.is_relative_to(ROOT / "scheduler"):
            for node in ast.walk(_tree(path)):
                if isinstance(node, ast.ClassDef):
                    methods = [one.name for one in node.body if isinstance(one, ast.FunctionDef)]
                    public = sum(not name.startswith("_") for name in methods)
                    lines = (node.end_lineno or node.lineno) - node.lineno + 1
                    yield path, node.name, lines, public


def test_classes_stay_small() -> None:
    large = {
        f"{path}: {name}: {lines} lines, {public} public methods"
        for path, name, lines, public in _classes()
        if name not in _LARGE and (lines > _MOST_LINES or public > _MOST_METHODS)
    }
    assert not large


def test_the_cluster_has_no_large_class() -> None:
    """What many threads share has to be read in one go."""
    rooms = {
        name for path, name, *_ in _classes() if path.is_relative_to(ROOT / "scheduler/cluster")
    }
    assert rooms and not rooms & (set(_LARGE) - {"Charges"})


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
        for call in ast.walk(_tree(path))
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


def _types_built_late(tree: ast.Module) -> list[str]:
    """What makes msgspec learn a type after the import, perhaps in several threads at once."""
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
    late = {str(p): found for p in product if (found := _types_built_late(_tree(p)))}
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
    assert _types_built_late(ast.parse(source))


def test_early_decoders_and_untyped_ones_are_none_of_them() -> None:
    early = "import msgspec.json\nd = msgspec.json.Decoder(T)\ndef f(x): return d.decode(x)\n"
    assert not _types_built_late(ast.parse(early + "def g(x): return msgspec.json.decode(x)"))


def test_every_line_of_the_command_line_goes_through_one_place() -> None:
    """Whoever prints by another way lets control characters of others reach the terminal."""
    rooms = [ROOT / "scheduler" / "cli", ROOT / "scheduler" / "simulator"]
    doors = {"output.py"}
    direct = [
        f"{path}:{call.lineno}"
        for path in SOURCES
        if any(path.is_relative_to(room) for room in rooms) and path.name not in doors
        for call in ast.walk(_tree(path))
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
        for call in ast.walk(_tree(path))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in ("read_text", "read_bytes")
    ]
    assert not direct


_RETIRED_IN_MESSAGES = re.compile(
    # "is no number", "are none of them"; but "there is no such pod", "is no longer", "are no more"
    r"(?<!there )\b(is|are|was|were|be) (no|none)\b(?! longer| more)"
    r"|\b(whoever|whomever|by lot|referee|leftovers?|starved|woken|wakes?|dearer|typical mix)\b",
    re.IGNORECASE,
)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and " " in value


def _messages(source: str) -> Iterator[tuple[int, str]]:
    """Texts of a module that people may read: no docstrings, and {} for what is filled in."""
    tree = ast.parse(source)
    parts = {
        id(one)
        for node in ast.walk(tree)
        for one in (
            node.values
            if isinstance(node, ast.JoinedStr)
            else [node.value]
            if isinstance(node, ast.Expr)
            else []
        )
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(
                    str(one.value) if isinstance(one, ast.Constant) else "{}" for one in node.values
                ),
            )
        elif isinstance(node, ast.Constant) and id(node) not in parts and _is_text(node.value):
            yield node.lineno, str(node.value)


def _retired(source: str) -> list[str]:
    return [
        f"{line}: {text}" for line, text in _messages(source) if _RETIRED_IN_MESSAGES.search(text)
    ]


def test_messages_are_in_the_words_of_the_field() -> None:
    """See docs/glossary.md."""
    product = [p for p in SOURCES if p.is_relative_to(ROOT / "scheduler")]
    found = {str(p): texts for p in product if (texts := _retired(p.read_text()))}
    assert product and not found


@pytest.mark.parametrize(
    ("text", "retired"),
    [
        ('x = "is no number"', True),
        ('x = f"{name} is no device"', True),
        ('x = "are none of them"', True),
        ('x = "open to whoever asks"', True),
        ('x = "there is no such pod"', False),
        ('x = "is no longer served"', False),
        ('def f():\n    """Is no message."""', False),
    ],
)
def test_a_retired_word_is_found(text: str, retired: bool) -> None:
    assert bool(_retired(text)) is retired


_RETIRED_IN_NAMES = frozenset(
    [
        "mix",
        "mixes",
        "referee",
        "leftover",
        "leftovers",
        "whoever",
        "starved",
        "dear",
        "dearer",
        "curable",
    ]
)


def _names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """What a module gives a name to: classes, functions, parameters, variables, attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def _words(name: str) -> set[str]:
    return set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_"))


def test_names_are_in_the_words_of_the_field() -> None:
    sources = [p for p in SOURCES if not p.is_relative_to(ROOT / "tests")]
    found = [
        f"{path}:{line}: {name}"
        for path in sources
        for line, name in _names(ast.parse(path.read_text()))
        if _words(name) & _RETIRED_IN_NAMES
    ]
    assert sources and not found
    assert not [p for p in sources if _words(p.stem) & _RETIRED_IN_NAMES]


def test_a_retired_name_is_found() -> None:
    names = dict.fromkeys(name for _, name in _names(ast.parse("class TypicalMix:\n  mix_s = 1")))
    assert [bool(_words(name) & _RETIRED_IN_NAMES) for name in names] == [True, True]
    assert not _words("mixed_nodes") & _RETIRED_IN_NAMES


def test_names_that_pods_and_nodes_bear_do_not_change() -> None:
    """Objects of earlier versions keep them; a rollback has to find its own."""
    kept = {
        f"snugfit.io/{name}"
        for name in [
            "devices",
            "gang",
            "gang-size",
            "gpu-memory-mib",
            "gpu-milli",
            "visible-devices",
            "woken-at",
        ]
    }
    used = {
        node.value
        for path in SOURCES
        if path.is_relative_to(ROOT / "scheduler")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert kept <= used
