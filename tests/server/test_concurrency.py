"""Thousands of concurrent operations against the running server: nothing is over-committed."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from scheduler.core.model import Device, DeviceShare, Placement, PodRequest
from scheduler.core.validator import verify
from scheduler.files.dump_writer import pod_json
from scheduler.simulator.kube_scheduler_client import ExtenderClient
from tests.builders import node, pod
from tests.depth import examples

pytestmark = pytest.mark.server

THREADS, OPERATIONS = 4, examples(500, 2500)
KINDS = (
    {"count": 1},
    {"count": 2},
    {"milli": 300},
    {"milli": 700},
    {"milli": 250, "memory_mib": 6000},
    {"mig": (("1g.5gb", 1),)},
    {"mig": (("3g.20gb", 1),)},
    {"replicas": 2},
    {},
)


def _nodes() -> list[Any]:
    plain = [node(f"p{i}", gpus=4, cpu=16_000, gpu_memory=16_000) for i in range(6)]
    mig = [
        node(f"m{i}", devices=(Device("A100", mig="A100-40"),) * 2, cpu=16_000) for i in range(2)
    ]
    shared = [node(f"s{i}", devices=(Device("T4", replicas=4),) * 2, cpu=16_000) for i in range(2)]
    return [*plain, *mig, *shared]


class Worker(threading.Thread):
    """One client that asks, binds and releases at random, its own pods and others'."""

    def __init__(
        self, url: str, names: list[str], number: int, bound: dict[str, PodRequest]
    ) -> None:
        super().__init__()
        self.client = ExtenderClient(url, timeout_s=60)
        self.names = names
        self.random = random.Random(number)
        self.number = number
        self.bound = bound
        self.requests: dict[str, PodRequest] = {}
        self.error: Exception | None = None
        self.refused = 0

    def run(self) -> None:
        try:
            for step in range(OPERATIONS):
                self._step(step)
        except Exception as error:  # noqa: BLE001 - reported by the test's own thread
            self.error = error
        finally:
            self.client.close()

    def _step(self, step: int) -> None:
        import msgspec

        draw = self.random.random()
        if draw < 0.25 and self.bound:
            uid = self.random.choice(sorted(self.bound) or [""])
            if self.bound.pop(uid, None) is not None:
                self.client.release(uid)
            return
        kind = self.random.choice(KINDS)
        request = pod(f"w{self.number}-{step}", cpu=self.random.choice((100, 900)), **kind)
        self.requests[request.uid] = request
        body = msgspec.json.encode(pod_json(request))
        names = self.random.sample(self.names, self.random.randint(1, len(self.names)))
        passing, failed = self.client.filter(body, names)
        assert sorted([*passing, *failed]) == sorted(names)
        if not passing or draw > 0.9:
            return
        scores = self.client.prioritize(body, passing)
        node_name = max(passing, key=lambda name: scores.get(name, 0))
        if draw > 0.8:  # a client that does not take the advice
            node_name = self.random.choice(self.names)
        if self.client.bind(request, node_name):
            self.refused += 1
        else:
            self.bound[request.uid] = request


@pytest.mark.scaled
def test_thousands_of_random_operations(start) -> None:
    nodes = _nodes()
    server = start(nodes, reservation_ttl_s=0.2, threads=8, relearn_every=100)
    bound: dict[str, PodRequest] = {}
    workers = [Worker(server.url, [n.name for n in nodes], i, bound) for i in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.error is None, worker.error
    server.skipped_s += 10  # every hold has expired
    state = server.client.get("/debug/state")
    assert state["recount_differences"] == []
    requests = {uid: r for worker in workers for uid, r in worker.requests.items()}
    placements = [
        Placement(
            requests[p["uid"]],
            n["name"],
            tuple(
                DeviceShare(d["index"], d["milli"], d["memory_mib"], d["slots"])
                for d in p["devices"]
            ),
        )
        for n in state["nodes"]
        for p in n["pods"]
    ]
    assert verify(nodes, placements) == []
    assert {p.pod.uid for p in placements} == set(bound)
    for n in state["nodes"]:
        used = sum(p["cpu_milli"] for p in n["pods"])
        assert n["cpu_free_milli"] == n["cpu_milli"] - used >= 0
    assert len(placements) > 20 and sum(w.refused for w in workers) > 20
