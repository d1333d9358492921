"""The bytes: every rule of the extender protocol that concerns encoding."""

from __future__ import annotations

import json

import pytest

from scheduler.core.errors import InvalidInput
from scheduler.extender import wire

POD = {"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"containers": []}}


def _body(**fields) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize("keys", [("Pod", "NodeNames"), ("pod", "nodeNames"), ("POD", "nodenames")])
def test_keys_are_read_in_any_case(keys: tuple[str, str]) -> None:
    args = wire.decode_filter(_body(**{keys[0]: POD, keys[1]: ["a", "b"], "Nodes": None}))
    assert args.pod.metadata.uid == "u" and args.names == ["a", "b"] and args.raw_nodes is None


def test_whole_nodes_are_kept_as_they_came() -> None:
    node = {"metadata": {"name": "n", "annotations": {"x": "y"}}, "status": {"unknown": [1]}}
    args = wire.decode_filter(
        _body(Pod=POD, NodeNames=None, Nodes={"metadata": {}, "items": [node]})
    )
    assert args.names == ["n"]
    assert [json.loads(bytes(raw)) for raw in args.raw_nodes or []] == [node]


def test_explicit_nulls_mean_nothing_given() -> None:
    args = wire.decode_filter(_body(Pod=POD, Nodes=None, NodeNames=None))
    assert args.names == []


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
    for decode in (wire.decode_filter, wire.decode_bind, wire.decode_preempt):
        with pytest.raises(InvalidInput):
            decode(body)


@pytest.mark.parametrize("names", ["[1]", "{}", '"a"'])
def test_node_names_are_a_list_of_strings(names: str) -> None:
    with pytest.raises(InvalidInput, match="NodeNames"):
        wire.decode_filter(b'{"Pod": {}, "NodeNames": %b}' % names.encode())


def test_filter_answers_have_go_names_and_no_error() -> None:
    answer = json.loads(wire.encode_filter(["a"], {"b": "why"}, unresolvable={"c": "never"}))
    assert answer == {
        "Nodes": None,
        "NodeNames": ["a"],
        "FailedNodes": {"b": "why"},
        "FailedAndUnresolvableNodes": {"c": "never"},
        "Error": "",
    }


def test_scores_are_integers_in_a_bare_array() -> None:
    fragments = wire.HostFragments()
    for _ in range(2):
        listed = json.loads(fragments.encode(['we"ird', "b"], [10, 0]))
        assert listed == [{"Host": 'we"ird', "Score": 10}, {"Host": "b", "Score": 0}]
    assert fragments.encode([], []) == b"[]"


def test_bind() -> None:
    args = wire.decode_bind(_body(podName="p", podNamespace="ns", podUID="u", node="n"))
    assert (args.name, args.namespace, args.uid, args.node) == ("p", "ns", "u", "n")
    assert wire.decode_bind(_body(PodName="p", Node="n")).uid == "default/p"
    assert json.loads(wire.encode_bind("no")) == {"Error": "no"}
    with pytest.raises(InvalidInput, match="Node"):
        wire.decode_bind(_body(PodName="p"))


def test_preempt_reads_both_maps_and_answers_meta_victims() -> None:
    meta = {"n": {"Pods": [{"UID": "a"}, None], "NumPDBViolations": 2}, "m": None}
    args = wire.decode_preempt(_body(Pod=POD, NodeNameToMetaVictims=meta, NodeNameToVictims=None))
    assert args.candidates == {"n": (("a",), 2), "m": ((), 0)}
    whole = {"n": {"Pods": [{"metadata": {"name": "x", "uid": "b"}}], "NumPDBViolations": 0}}
    args = wire.decode_preempt(_body(Pod=POD, NodeNameToVictims=whole))
    assert args.candidates == {"n": (("b",), 0)}
    lower = {"n": {"pods": [{"uid": "a"}], "numPDBViolations": 1}}
    args = wire.decode_preempt(_body(pod=POD, nodeNameToMetaVictims=lower))
    assert args.candidates == {"n": (("a",), 1)}
    answer = json.loads(wire.encode_preempt({"n": (["a"], 1)}))
    assert answer == {
        "NodeNameToMetaVictims": {"n": {"Pods": [{"UID": "a"}], "NumPDBViolations": 1}}
    }
