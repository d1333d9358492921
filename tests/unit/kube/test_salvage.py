"""What can be read of an object that cannot be read."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.kube.disruption import budget_decoder
from scheduler.kube.objects import group_decoder, node_decoder, pod_decoder
from scheduler.kube.salvage import salvage
from testbed.kube_objects import node_json, pod_json

DECODERS = (pod_decoder, node_decoder, group_decoder, budget_decoder)


def _pod(**spec: object) -> bytes:
    return msgspec.json.encode(pod_json("p", node="b", requests={"nvidia.com/gpu": "2"}, spec=spec))


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"tolerations": 5},
        {"tolerations": [{"key": 5}, 7, {"key": "a", "operator": {}}]},
        {"overhead": {"cpu": []}},
        {"initContainers": [{"name": "i", "resources": {"requests": {"cpu": {}}}}]},
        {"priority": "high", "affinity": 3, "nodeSelector": [1]},
    ],
)
def test_what_it_asks_for_and_where_it_runs_is_read(spec: dict[str, object]) -> None:
    part = salvage(pod_decoder, _pod(**spec))
    assert part is not None and bool(part.missing) == bool(spec)
    assert not part.lacks("spec.containers", "spec.nodeName", "metadata")
    obj = part.obj
    assert obj.metadata.uid == "uid-p" and obj.spec.node_name == "b"
    [container] = obj.spec.containers or ()
    assert container.resources and (container.resources.requests or {})["nvidia.com/gpu"] == "2"


def test_one_item_and_one_entry_that_cannot_be_read_are_left_out_alone() -> None:
    good = {"name": "g", "resources": {"requests": {"cpu": "1"}}}
    half = {"name": 5, "resources": {"requests": {"cpu": "2", "memory": []}}}
    part = salvage(pod_decoder, _pod(containers=[good, half, "none"]))
    assert part is not None and part.obj.spec.containers is not None
    first, second = part.obj.spec.containers
    assert (
        part.lacks("spec.containers")
        and part.lacks("spec")
        and part.lacks("spec.containers.1.resources.requests.memory.value")
    )
    assert not part.lacks("spec.containersOfAnotherKind", "status")
    assert first.name == "g" and second.name == ""
    assert second.resources and second.resources.requests == {"cpu": "2"}


@pytest.mark.parametrize("raw", [b"", b"[]", b"5", b'"x"', b"{", b"\xff\xfe", b'{"a": "\xff"}'])
def test_what_is_no_object_is_none(raw: bytes) -> None:
    assert all(salvage(decoder, raw) is None for decoder in DECODERS)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), 1 << 63) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.data(), _JSON)
def test_it_never_fails_and_keeps_what_is_beside_the_damage(data: st.DataObject, odd) -> None:
    """One value anywhere is replaced by anything."""
    pod_or_node = (
        (pod_decoder, pod_json("p", node="b", labels={"a": "b"})),
        (node_decoder, node_json("n", gpus=2)),
    )
    decoder, tree = data.draw(st.sampled_from(pod_or_node))
    tree = msgspec.json.decode(msgspec.json.encode(tree))
    at, path = tree, []
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        path.append(key)
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
            at[key] = odd
            break
        at = at[key]
    raw = msgspec.json.encode(tree)
    part = salvage(decoder, raw)
    assert part is not None
    obj = part.obj
    if path[0] != "metadata":
        assert obj.metadata.name in ("p", "n") and obj.metadata.uid
    elif path[:2] not in (["metadata"], ["metadata", "name"]):
        assert obj.metadata.name in ("p", "n")


@pytest.mark.parametrize("decoder", DECODERS)
def test_deep_and_wide_objects_take_no_long_time(decoder) -> None:
    deep = b"[" * 5000 + b"]" * 5000
    nested = b'{"a": ' * 900 + b"1" + b"}" * 900
    for raw in (
        b'{"metadata": {"name": 5, "labels": ' + nested + b"}}",
        b'{"spec": ' + deep + b"}",
        b'{"metadata": ' + b'{"a": ' * 900 + b"1" + b"}" * 901,
    ):
        found = salvage(decoder, raw)
        assert found is None or found.obj.metadata.name == ""
