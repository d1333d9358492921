"""A state that an audit has found to differ is brought back to the facts."""

from __future__ import annotations

from scheduler.cluster.repair import evict_phantoms
from scheduler.cluster.settings import ExtenderConfig
from scheduler.core.engine import Engine
from scheduler.core.state import ClusterState
from testbed.kube_objects import node_object
from tests.builders import node, pod
from tests.service import Service


def test_a_reservation_goes_with_a_node_that_does_not_exist() -> None:
    service = Service(Engine(ClusterState()), ExtenderConfig(), offline=False)
    waits = pod("waits", count=1)
    with service.ledger.locked() as cluster:
        cluster.live.node(node_object("real", gpus=1))
        cluster.engine.state.add_node(node("phantom", gpus=1))
        cluster.engine.reserve_until(waits, "phantom", 60.0)
        evict_phantoms(cluster.engine, cluster.live.charges, frozenset())
        assert list(cluster.engine.state.row_of) == ["real"] and not cluster.engine.reservations
        cluster.engine.reserve_until(waits, "real", 60.0)
        assert cluster.engine.place_on(waits, "real").node == "real"
        assert cluster.engine.state.check() == []
