"""The bytes: every rule of the extender protocol that concerns encoding."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from scheduler.cluster.verdicts import RequestedNodes
from scheduler.core.errors import InvalidInput
from scheduler.core.model import Reason
from scheduler.webhook import answers, protocol

POD = {"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"containers": []}}


def _body(**fields) -> bytes:
    return json.dumps(fields).encode()


def _fully(decode, body: bytes) -> None:
    """Decode, and read the pod that a filter call decodes only when it has to."""
    decoded = decode(body)
    if isinstance(decoded, protocol.FilterArgs):
        decoded.pod_object()


@pytest.mark.parametrize("keys", [("Pod", "NodeNames"), ("pod", "nodeNames"), ("POD", "nodenames")])
def test_keys_are_read_in_any_case(keys: tuple[str, str]) -> None:
    args = protocol.decode_filter(_body(**{keys[0]: POD, keys[1]: ["a", "b"], "Nodes": None}))
    assert args.pod_object().metadata.uid == "u"
    assert args.node_names() == ["a", "b"] and args.raw_nodes is None


def test_whole_nodes_are_kept_as_they_came() -> None:
    node = {"metadata": {"name": "n", "annotations": {"x": "y"}}, "status": {"unknown": [1]}}
    args = protocol.decode_filter(
        _body(Pod=POD, NodeNames=None, Nodes={"metadata": {}, "items": [node]})
    )
    assert args.node_names() == ["n"]
    assert [json.loads(bytes(raw)) for raw in args.raw_nodes or []] == [node]


def test_explicit_nulls_mean_nothing_given() -> None:
    args = protocol.decode_filter(_body(Pod=POD, Nodes=None, NodeNames=None))
    assert args.node_names() == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"NodeNames": []}',
        b'{"Pod": 3, "NodeNames": []}',
        b'{"Pod": {"metadata": {"name": 3}}, "NodeNames": []}',
        b"\xff\xfe",
        b'{"Pod": {"metadata": {"name": "\xff"}}, "NodeNames": []}',
        b"[" * 100_000,
        b'{"Pod":' * 50_000,
    ],
)
def test_what_cannot_be_read_is_refused(body: bytes) -> None:
    for decode in (protocol.decode_filter, protocol.decode_bind, protocol.decode_preempt):
        with pytest.raises(InvalidInput):
            _fully(decode, body)


@pytest.mark.parametrize("names", ["[1]", "{}", '"a"'])
def test_node_names_are_a_list_of_strings(names: str) -> None:
    with pytest.raises(InvalidInput, match="NodeNames"):
        protocol.decode_filter(b'{"Pod": {}, "NodeNames": %b}' % names.encode()).node_names()


def _verdicts(
    names: list[str], codes: list[int], preemptible: list[bool], **rest
) -> answers.Verdicts:
    return answers.Verdicts(
        _listed(names), np.array(codes, dtype=np.int8), np.array(preemptible), **rest
    )


def _listed(names: list[str]) -> RequestedNodes:
    rows = np.array([{"a": 0, "b": 1, 'we"ird': 2}.get(name, -1) for name in names], dtype=np.int64)
    return RequestedNodes(rows, {i: name for i, name in enumerate(names) if rows[i] < 0})


FRAGMENTS = answers.NodeFragments(["a", "b", 'we"ird', None])


def test_filter_answers_have_go_names_and_no_error() -> None:
    cpu, model = Reason.INSUFFICIENT_CPU, Reason.MODEL_NOT_ALLOWED
    codes = [0, cpu.code, model.code, Reason.NODE_UNKNOWN.code]
    verdicts = _verdicts(["a", "b", 'we"ird', "ghost"], codes, [False, True, False, False])
    answer, listed = answers.encode_filter(verdicts, FRAGMENTS)
    assert json.loads(answer) == {
        "Nodes": None,
        "NodeNames": ["a"],
        "FailedNodes": {"b": cpu.text},
        "FailedAndUnresolvableNodes": {'we"ird': model.text, "ghost": Reason.NODE_UNKNOWN.text},
        "Error": "",
    }
    assert listed == b'["a"]'


def test_a_message_of_its_own_replaces_the_reason() -> None:
    for number in range(40):
        verdicts = _verdicts(["a"], [Reason.REQUEST_INVALID.code], [False], message=f"why {number}")
        answer = json.loads(answers.encode_filter(verdicts, FRAGMENTS)[0])
        assert answer["FailedAndUnresolvableNodes"] == {"a": f"why {number}"}


def test_whole_nodes_go_back_as_they_came() -> None:
    raw = [msgspec.Raw(b'{"metadata":{"name":"a"},"x":1}'), msgspec.Raw(b"{}")]
    verdicts = _verdicts(["a", "b"], [0, Reason.INSUFFICIENT_CPU.code], [False, True])
    answer = json.loads(answers.encode_filter(verdicts, FRAGMENTS, raw)[0])
    assert answer["NodeNames"] is None
    assert answer["Nodes"]["items"] == [{"metadata": {"name": "a"}, "x": 1}]


def test_scores_are_integers_in_a_bare_array() -> None:
    ranking = answers.Ranking(_listed(['we"ird', "b", "ghost"]), np.array([10, 0, 3]))
    for _ in range(2):
        listed = json.loads(answers.encode_ranking(ranking, FRAGMENTS))
        assert sorted(listed, key=lambda entry: entry["Score"]) == [
            {"Host": "b", "Score": 0},
            {"Host": "ghost", "Score": 3},
            {"Host": 'we"ird', "Score": 10},
        ]
    empty = answers.Ranking(_listed([]), np.zeros(0, np.int64))
    assert answers.encode_ranking(empty, FRAGMENTS) == b"[]"
    nobody = answers.Ranking(_listed(["x"]), np.array([0]))
    assert json.loads(answers.encode_ranking(nobody, answers.NodeFragments([]))) == [
        {"Host": "x", "Score": 0}
    ]


def test_bind() -> None:
    args = protocol.decode_bind(_body(podName="p", podNamespace="ns", podUID="u", node="n"))
    assert (args.name, args.namespace, args.uid, args.node) == ("p", "ns", "u", "n")
    assert protocol.decode_bind(_body(PodName="p", Node="n")).uid == "default/p"
    assert json.loads(protocol.encode_bind("no")) == {"Error": "no"}
    with pytest.raises(InvalidInput, match="Node"):
        protocol.decode_bind(_body(PodName="p"))


def test_preempt_reads_both_maps_and_answers_meta_victims() -> None:
    meta = {"n": {"Pods": [{"UID": "a"}, None], "NumPDBViolations": 2}, "m": None}
    body = _body(Pod=POD, NodeNameToMetaVictims=meta, NodeNameToVictims=None)
    args = protocol.decode_preempt(body)
    assert args.candidates == {"n": (("a",), 2), "m": ((), 0)}
    whole = {"n": {"Pods": [{"metadata": {"name": "x", "uid": "b"}}], "NumPDBViolations": 0}}
    args = protocol.decode_preempt(_body(Pod=POD, NodeNameToVictims=whole))
    assert args.candidates == {"n": (("b",), 0)}
    lower = {"n": {"pods": [{"uid": "a"}], "numPDBViolations": 1}}
    args = protocol.decode_preempt(_body(pod=POD, nodeNameToMetaVictims=lower))
    assert args.candidates == {"n": (("a",), 1)}
    answer = json.loads(protocol.encode_preempt({"n": (["a"], 1)}))
    assert answer == {
        "NodeNameToMetaVictims": {"n": {"Pods": [{"UID": "a"}], "NumPDBViolations": 1}}
    }
