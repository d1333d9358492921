"""The real server, in this process, on a free port of loopback."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from scheduler.cluster.settings import ExtenderConfig
from scheduler.cluster.worker.planning import PlannerLoop
from scheduler.core.engine import Engine
from scheduler.core.model import Node
from scheduler.core.state import ClusterState
from scheduler.core.workload_profile import WorkloadProfile
from scheduler.simulator.kube_scheduler_client import ExtenderClient
from scheduler.webhook.access import Api
from scheduler.webhook.routes import create_app, probes
from scheduler.webhook.server import ExtenderServer
from tests.builders import node, pod
from tests.service import Service


class Running:
    """A server that answers, and what stands behind it."""

    def __init__(
        self, nodes: list[Node], *, offline: bool, api: Api | None = None, **settings: object
    ) -> None:
        self.skipped_s = 0.0
        self.config = ExtenderConfig(port=0, **settings)
        engine = Engine(
            ClusterState(nodes),
            self.config.policy,
            profile=WorkloadProfile.from_requests([pod(count=1)]),
        )
        self.engine = engine
        self.accepting = True
        self.service = Service(
            engine,
            self.config,
            offline=offline,
            clock=self.clock,
            planner=PlannerLoop if self.config.planner else lambda _: None,
            accepting=lambda: self.accepting,
        )
        self.planner, webhook = self.service.planner, self.service.webhook
        self.server = ExtenderServer(create_app(webhook), self.config, probes(webhook), api)
        if self.planner:
            self.planner.start()
        self.url = self.server.url
        self.thread = threading.Thread(target=self.server.serve, daemon=True)
        self.thread.start()
        self.client = ExtenderClient(self.url, timeout_s=60)

    def clock(self) -> float:
        """Real time, and what the test has skipped."""
        return time.monotonic() + self.skipped_s

    def stop(self) -> None:
        self.client.close()
        if self.planner:
            self.planner.stop()
        self.server.stop()
        self.thread.join(timeout=60)
        assert not self.thread.is_alive()


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """Start servers over given nodes; they are stopped after the test."""
    running: list[Running] = []

    def begin(nodes: list[Node], *, offline: bool = True, **settings: object) -> Running:
        running.append(Running(nodes, offline=offline, **settings))
        return running[-1]

    yield begin
    for one in running:
        one.stop()


@pytest.fixture
def server(start) -> Running:
    """Four nodes: two small ones, a large one, one of another model."""
    return start(
        [
            node("t4-0", gpus=1),
            node("t4-1", gpus=1),
            node("t4-big", gpus=4),
            node("a10", gpus=2, product="A10"),
        ]
    )
