"""The group object of a gang becomes known while kube-scheduler asks about its members."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from scheduler.cluster.settings import ExtenderConfig
from scheduler.core.engine import Engine
from scheduler.core.state import ClusterState
from scheduler.kube.objects import PodObject
from scheduler.kube.observed import ObservedNode
from scheduler.kube.workloads import statements
from scheduler.webhook.protocol import decode_filter
from tests.builders import node
from tests.service import Service

GROUP = {
    "apiVersion": "scheduling.k8s.io/v1beta1",
    "kind": "PodGroup",
    "metadata": {"name": "pair", "namespace": "default"},
    "spec": {"schedulingPolicy": {"gang": {"minCount": 2}}},
}


def _pod(name: str, node_name: str = "") -> dict[str, Any]:
    bound = {"nodeName": node_name} if node_name else {}
    return {
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {
            "schedulingGroup": {"podGroupName": "pair"},
            "containers": [{"resources": {"requests": {"nvidia.com/gpu": "1"}}}],
            **bound,
        },
    }


class Late:
    """A service that knows two members; of their group it hears when :meth:`group` is called."""

    def __init__(self, gpus: int) -> None:
        self.engine = Engine(ClusterState(), "best-fit")
        self.service = Service(self.engine, ExtenderConfig(), offline=False, clock=lambda: 0.0)
        self.sync = self.service.sync
        self.sync.charges.put_node(ObservedNode(node("a", gpus=gpus)))
        for name in ("m0", "m1"):
            self.watch(name)

    def group(self) -> None:
        with self.service.exclusive():
            assert self.sync.group(statements(GROUP))

    def ask(self, name: str) -> None:
        args = decode_filter(msgspec.json.encode({"Pod": _pod(name), "NodeNames": ["a"]}))
        assert msgspec.json.decode(self.service.filter(args))["NodeNames"] == ["a"]

    def bind(self, name: str) -> None:
        request = self.service.seen(name)
        assert request is not None
        self.service.reserve(request, "a")

    def watch(self, name: str, node_name: str = "") -> None:
        self.sync.pod(msgspec.convert(_pod(name, node_name), PodObject))


_ASKED = ("ask m0", "ask m1", "bind m0", "bind m1"), ("ask m1", "ask m0", "bind m0", "bind m1")
_ORDERS = [(*steps[:at], "group", *steps[at:]) for steps in _ASKED for at in range(5)]


@pytest.mark.parametrize("gpus", [2, 8])
@pytest.mark.parametrize("order", _ORDERS)
@pytest.mark.parametrize("late_news", [False, True])
def test_whenever_that_is_nothing_is_held_for_a_gang_that_is_whole(
    gpus: int, order: tuple[str, ...], late_news: bool
) -> None:
    late = Late(gpus)
    for step in order:
        verb, _, name = step.partition(" ")
        getattr(late, verb)(*filter(None, [name]))
        if verb == "bind" and not late_news:
            late.watch(name, "a")
    for name in ("m0", "m1"):
        late.watch(name, "a")
    assert late.service.holds == 0 and late.service.gang_counts()["planned"] == 0
    assert sorted(late.engine.state.placements) == ["m0", "m1"]
    assert late.engine.state.check() == []
