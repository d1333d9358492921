"""Answers that are rewritten say what answers written anew would say."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from scheduler.cluster.verdicts import RequestedNodes, Verdicts
from scheduler.core.model import Reason
from scheduler.webhook.answers import NodeFragments, encode_filter

CODES = [0, 0, 0, Reason.INSUFFICIENT_CPU.code, Reason.INSUFFICIENT_DEVICES.code]
CODES += [Reason.MODEL_NOT_ALLOWED.code]
NAMES = [f"node-{i:04d}" for i in range(1000)]


def _meaning(answer: bytes, listed: bytes) -> dict:
    content = json.loads(answer)
    assert content["Nodes"] is None and content["Error"] == ""
    assert json.loads(listed) == content["NodeNames"]
    content["NodeNames"] = sorted(content["NodeNames"])
    return content


def _both_ways(fragments: NodeFragments, codes, preemptible, question: object) -> dict:
    nodes = fragments.everything
    kept = encode_filter(Verdicts(nodes, codes, preemptible), fragments, question=question)
    anew = encode_filter(Verdicts(RequestedNodes(nodes.rows, {}), codes, preemptible), fragments)
    assert _meaning(*kept) == _meaning(*anew)
    return _meaning(*kept)


@pytest.mark.parametrize("seed", range(5))
def test_a_few_changes_many_changes_and_none(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fragments = NodeFragments([*NAMES[:500], None, *NAMES[500:]])
    codes = {question: rng.choice(CODES, 1000).astype(np.int8) for question in ("one", "two")}
    preemptible = rng.random(1000) < 0.5
    for changes in (0, 1, 3, 900, 2, 0, 1, 400, 1, 1):
        for question, mine in codes.items():
            at = rng.integers(0, 1000, changes)
            mine[at] = rng.choice(CODES, changes)
            preemptible[at] = ~preemptible[at]
            said = _both_ways(fragments, mine.copy(), preemptible.copy(), question)
            assert len(said["NodeNames"]) == int((mine == 0).sum())


def test_nodes_that_pass_unnamed_are_left_out() -> None:
    rng = np.random.default_rng(3)
    fragments = NodeFragments(NAMES)
    nodes = fragments.everything
    codes = rng.choice(CODES, 1000).astype(np.int8)
    preemptible = rng.random(1000) < 0.5
    in_full = json.loads(encode_filter(Verdicts(nodes, codes, preemptible), fragments)[0])
    for _ in range(5):  # the later answers are the first one, rewritten
        named = np.sort(rng.choice(np.flatnonzero(codes == 0), 20, replace=False))
        verdicts = Verdicts(nodes, codes, preemptible, named=named)
        said = _meaning(*encode_filter(verdicts, fragments, question="one"))
        assert said["NodeNames"] == [NAMES[i] for i in named]
        for failed in ("FailedNodes", "FailedAndUnresolvableNodes"):
            assert said[failed] == in_full[failed]


def test_an_unchanged_rejection_is_not_written_again() -> None:
    fragments = NodeFragments(NAMES)
    codes = np.full(1000, Reason.INSUFFICIENT_DEVICES.code, dtype=np.int8)
    verdicts = Verdicts(fragments.everything, codes, np.ones(1000, dtype=bool))
    first, _ = encode_filter(verdicts, fragments, question="shape")
    assert encode_filter(verdicts, fragments, question="shape")[0] is first
    assert encode_filter(verdicts, fragments, question="another")[0] is not first
    own = Verdicts(fragments.everything, codes, verdicts.preemptible, "for a reason of its own")
    assert b"of its own" in encode_filter(own, fragments, question="shape")[0]


def test_what_is_kept_is_bounded() -> None:
    fragments = NodeFragments(NAMES)
    rng = random.Random(1)
    codes = np.zeros(1000, dtype=np.int8)
    verdicts = Verdicts(fragments.everything, codes, np.zeros(1000, dtype=bool))
    for _ in range(500):
        encode_filter(verdicts, fragments, question=rng.random())
    assert len(fragments._kept) <= 64
