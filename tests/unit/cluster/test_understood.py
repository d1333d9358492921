"""A file is understood as a live cluster of the same objects is."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from scheduler.core.model import DeviceShare
from scheduler.kube.facts import observed_node, observed_pod, understood
from scheduler.kube.pod_requests import charge_of
from scheduler.kube.resource_names import ResourceNames
from testbed.kube_objects import node_object, pod_object
from tests.unit.cluster.test_sync import FOREIGN, RECORDS, REQUESTS, SHAPES, Cluster

NAMES = ResourceNames()
WITHOUT = st.builds(
    dict,
    requests=st.sampled_from((*REQUESTS, {"volcano.sh/vgpu-number": "2"})),
    foreign=st.sampled_from(FOREIGN),
    record=st.sampled_from(RECORDS),
)


def _pod(number: int, asked: dict[str, Any]) -> Any:
    annotations = dict(asked["foreign"].get("annotations", {}))
    if asked["record"]:
        annotations["snugfit.io/devices"] = asked["record"]
    return pod_object(
        f"p{number}", node="a", requests=asked["requests"], annotations=annotations,
        labels=asked["foreign"].get("labels", {}),
        creationTimestamp=f"2026-01-01T00:00:{number * 7 % 10:02}Z",
    )  # fmt: skip


def _taken(devices: tuple[DeviceShare, ...]) -> tuple[int, list[int]]:
    return sum(share.milli for share in devices), sorted(share.slots for share in devices)


_REPLICAS = {
    "allocatable": {"nvidia.com/gpu.shared": "8"},
    "labels": {"nvidia.com/gpu.replicas": "4"},
}
_ASKED = [
    {"requests": {name: "2"}, "foreign": {}, "record": None}
    for name in ("volcano.sh/vgpu-number", "nvidia.com/gpu.shared")
]


@example(_REPLICAS, True, _ASKED)  # the first one withholds the node
@given(st.sampled_from(SHAPES), st.booleans(), st.lists(WITHOUT, max_size=6))
def test_a_file_is_understood_as_a_live_cluster_is(shape, foreign, asked) -> None:
    shared = {"allocatable": shape.get("allocatable", {}) | {"volcano.sh/vgpu-number": "10"}}
    node = node_object("a", **(shape | shared if foreign else shape))
    pods = [_pod(number, one) for number, one in enumerate(asked)]
    observed = [observed_pod(pod, charge_of(pod, NAMES), NAMES) for pod in pods]
    found = understood([observed_node(node, NAMES)], observed, NAMES)

    live = Cluster()
    for pod in reversed(pods):
        live.sync.pod(pod)
    live.sync.node(node)
    charges = live.sync.charges
    assert found.nodes == charges.nodes.all_effective()
    assert found.uncertain == charges.nodes.uncertain
    assert found.ambiguous == charges.protocols.ambiguous_nodes
    placements = live.state.placements
    assert set(found.devices) == set(placements)
    for uid, devices in found.devices.items():
        assert devices == charges.records.shares.get(uid, devices)
        assert _taken(devices) == _taken(placements[uid].devices)
    problems = {f"Pod {one.request.key}": one.problem for one in observed if one.problem}
    problems |= {f"Pod ns/{uid.removeprefix('uid-')}": why for uid, why in found.problems.items()}
    noted = {key: why for key, why in live.sync.unreadable.items() if key != "Node a"}
    assert noted == problems


def test_a_node_that_is_not_listed_holds_nothing() -> None:
    pod = observed_pod(_pod(0, {"requests": {}, "foreign": {}, "record": None}),
                       charge_of(pod_object("p0", node="a"), NAMES), NAMES)  # fmt: skip
    found = understood([], [pod], NAMES)
    assert not found.devices and not found.nodes
