"""Names recognised as bytes: the same rows as decoding and looking up, or no answer at all."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.cluster.verdicts import RequestedNodes
from scheduler.webhook.answers import NodeFragments
from tests.depth import examples

FORMATS = ("node-{0:05d}", "ip-10-{1}-{2}.eu-west-1.compute.internal", "gke-{2}-pool-{1}-{0:x}")


def _compact(names: list[str]) -> bytes:
    return json.dumps(names, separators=(",", ":")).encode()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("count", [1, 2, 300, 3000])
def test_every_order_and_every_part_is_recognised(form: str, count: int) -> None:
    names = [form.format(i, i // 250, i % 250) for i in range(count)]
    fragments = NodeFragments(names)
    rng = random.Random(count)
    for share in (1.0, 0.3):
        rows = rng.sample(range(count), max(1, int(share * count)))
        found = fragments.find(_compact([names[row] for row in rows]))
        assert found is not None and not found.unknown
        if len(rows) == count:
            assert found is fragments.everything
        else:
            assert found.rows.tolist() == rows


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"[]",
        b"null",
        b'["node-00001","node-0000a"]',
        b'["node-00001","node-00001"]',
        b'["node-00001", "node-00002"]',
        b'["node-00001","xode-00002"]',
        b'["a-much-longer-name-that-ends-in-node-00002"]',
        b'["node-00001","node-00002"',
        b'["node-00001""node-00002"]',
        b'["node-00001",node-00002"]',
        b'["node\\u002d00001"]',
        b'["node-00001"],"more":["node-00002"]',
        b'["00001"]',
        b'["1"]',
        b'"node-00001"',
        b'["\xff\xff-00001"]',
    ],
)
def test_what_is_not_certain_is_left_to_the_decoder(sent: bytes) -> None:
    fragments = NodeFragments([f"node-{i:05d}" for i in range(40)])
    assert fragments.find(sent) is None


def test_an_answer_that_comes_back_is_recognised_by_its_bytes() -> None:
    fragments = NodeFragments(["a", "b", "c"])  # too short for the index
    assert fragments.find(b'["c","a"]') is None
    listed = RequestedNodes(fragments.everything.rows[[2, 0]], {})
    fragments.remember(b'["c","a"]', listed)
    assert fragments.find(b'["c","a"]') is listed and fragments.find(b'["a","c"]') is None


NAMES = st.lists(st.text("abz01.-", min_size=1, max_size=45), min_size=1, max_size=30, unique=True)


@settings(max_examples=examples(100, 600), deadline=None)
@given(NAMES, st.randoms(use_true_random=False), st.booleans())
def test_it_is_never_wrong(names: list[str], rng: random.Random, strange: bool) -> None:
    """Empty rows, names of any length, names that nobody knows."""
    rows: list[str | None] = [*names, None]
    rng.shuffle(rows)
    fragments = NodeFragments(rows)
    asked = rng.sample(names, rng.randint(1, len(names)))
    if strange:
        asked[rng.randrange(len(asked))] += rng.choice("ab.")
    found = fragments.find(_compact(asked))
    wanted = {row: name for row, name in enumerate(rows) if name in asked}
    if found is not None:
        assert sorted(found.rows.tolist()) == sorted(wanted)
        assert {rows[row] for row in found.rows.tolist()} == set(asked)
        assert len(found.rows) == len(asked)
