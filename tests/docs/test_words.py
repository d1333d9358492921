"""The glossary is the judge of words."""

from __future__ import annotations

import re

import pytest

from docs.generate.pages import ROOT
from tests.docs.conftest import sentences

pytestmark = pytest.mark.timeout(1200)  # the first one builds the book

GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
TERMS = re.findall(r"^## (.+)$", GLOSSARY, re.MULTILINE)
# Words for which the glossary has another one.
REPLACED = {
    r"whoever": "name the actor",
    r"typical mix": "workload profile",
    r"referee": "validator",
    r"leftovers?": "residual capacity",
    r"dear(er|est)?": "expensive",
    r"by lot": "at random",
    r"woken|wake-up": "requeued",
    r"starve[ds]?": "pending",
}
HANDS = ("index.md", "start/", "concepts/", "internals/", "glossary.md")


def test_terms_stand_in_order_and_once() -> None:
    assert len(TERMS) > 30
    assert sorted(TERMS, key=str.lower) == TERMS and len(set(TERMS)) == len(TERMS)


def _anchor(term: str) -> str:
    return term.lower().replace(" ", "-")


@pytest.mark.parametrize("term", TERMS)
def test_a_term_is_explained_and_used(
    term: str, written: dict[str, str], made: dict[str, str]
) -> None:
    entry = GLOSSARY.split(f"## {term}\n", 1)[1].split("\n## ")[0].strip()
    assert entry.endswith(".") and len(entry.split()) >= 5
    others = {name: text for name, text in {**made, **written}.items() if name != "glossary.md"}
    stem = re.escape(term.lower().removesuffix("y").removesuffix("e"))
    assert any(re.search(rf"\b{stem}", text.lower()) for text in others.values())


def test_glossary_links_lead_to_terms(written: dict[str, str]) -> None:
    named = {a for text in written.values() for a in re.findall(r"glossary\.md#([\w-]+)\)", text)}
    inside = set(re.findall(r"\]\(#([\w-]+)\)", GLOSSARY))
    assert named and named | inside <= set(map(_anchor, TERMS))


@pytest.mark.parametrize("word", REPLACED)
def test_a_replaced_word_is_not_used(word: str, written: dict[str, str]) -> None:
    pattern = re.compile(rf"\b(?:{word})\b", re.IGNORECASE)
    found = [
        (page, line)
        for page, text in written.items()
        if page.startswith(HANDS)
        for line in sentences(text)
        if pattern.search(re.sub(r"`[^`]*`", "", line))
    ]
    assert not found, f"write {REPLACED[word]}"


def test_pages_keep_to_their_width(written: dict[str, str]) -> None:
    """Lines of prose are at most 120 characters; rows of tables cannot be broken."""
    long = {
        (page, number)
        for page, text in written.items()
        for number, line in enumerate(text.splitlines(), start=1)
        if len(line) > 120 and not line.startswith("|")
    }
    assert not long
