"""A service that follows a cluster, with a fake API server for a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from scheduler.cluster.follow import LiveCluster
from scheduler.cluster.settings import ExtenderConfig
from scheduler.core.engine import Engine
from scheduler.core.state import ClusterState
from scheduler.webhook.routes import create_app
from testbed.fake_api import NODES, PODS, FakeApi, eventually
from tests.service import Service

BUDGETS = "/apis/policy/v1/poddisruptionbudgets"
MILLI = "snugfit.io/gpu-milli"


class Following:
    """A live cluster over a fake API server."""

    def __init__(
        self,
        api: FakeApi,
        identity: str = "me",
        *,
        clock: Callable[[], float] = time.monotonic,
        **settings: Any,
    ) -> None:
        self.api = api
        quiet = {"watch_groups": "", "recount_s": 0.0, "watch_read_s": 5.0, "bind_deadline_s": 60.0}
        config = ExtenderConfig(**quiet | settings)
        self.service = Service(
            Engine(ClusterState()),
            config,
            offline=False,
            clock=clock,
            live=lambda ledger: LiveCluster(ledger, api.client(), identity),
        )
        self.live = self.service.live
        self.sync = self.service.sync  # for tests that look at it between two events
        self.web = create_app(self.service.webhook).test_client()

    def start(self) -> Following:
        self.live.start()
        eventually(lambda: self.live.synced)
        return self

    def equal(self) -> None:
        """Wait until the state is what the API server has."""

        def holds() -> bool:
            with self.service.exclusive() as engine:
                known = {u: p.node for u, p in engine.state.placements.items()
                         if u not in engine.reservations}  # fmt: skip
                nodes = set(engine.state.row_of)
            exists = {
                obj["metadata"]["uid"]: obj["spec"]["nodeName"]
                for obj in self.api.objects[PODS].values()
                if obj["spec"].get("nodeName") in nodes and obj["status"]["phase"] != "Succeeded"
            }
            return nodes == set(self.api.objects[NODES]) and known == exists

        eventually(holds)
        assert self.live.recount.run() == []

    def metric(self, name: str) -> float:
        lines = self.web.get("/metrics").get_data(as_text=True).splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))
