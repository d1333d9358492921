"""Backlogs of ReplicaSets with priorities on identical nodes, and what kube-scheduler does.

The generator of the "Priority Matters" evaluation (arXiv 2511.08373): sizes, requests and
priorities of ReplicaSets are drawn from sub-seeds, and node capacity follows from the
utilisation that is asked for. Memory is in bytes throughout, since the capacities are exact.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass

from scheduler.core.engine import Engine
from scheduler.core.errors import InvalidInput
from scheduler.core.model import Node, PodRequest
from scheduler.core.state import ClusterState

__all__ = ["BacklogCase", "default_schedule", "replica_sets"]


@dataclass(frozen=True, slots=True)
class BacklogCase:
    """One cell of the grid and one seed."""

    seed: int
    nodes: int
    pods_per_node: int
    priorities: int
    utilisation: float

    def __post_init__(self) -> None:
        for name in ("nodes", "pods_per_node", "priorities"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"backlog.{name}", f"is {getattr(self, name)}", "use 1 or more")
        if self.utilisation <= 0:
            raise InvalidInput(
                "backlog.utilisation", f"is {self.utilisation}", "use a share above 0"
            )


def _generator(seed: int, label: str) -> random.Random:
    """Generator of a sub-seed: BLAKE2b over the base seed, a zero byte and the label."""
    message = seed.to_bytes(16, "big") + b"\0" + label.encode()
    digest = hashlib.blake2b(message, digest_size=16).digest()
    return random.Random(int.from_bytes(digest, "big"))  # noqa: S311 - reproducible, not secret


def replica_sets(case: BacklogCase) -> tuple[tuple[Node, ...], tuple[PodRequest, ...]]:
    """Nodes, and pods in creation order; memory in bytes.

    All ReplicaSets grow at the same time: their first replicas are created first.
    """
    wanted = case.nodes * case.pods_per_node
    sizes_from = _generator(case.seed, "rs-sizes")
    sizes: list[int] = []
    while sum(sizes) < wanted:
        sizes.append(sizes_from.randint(1, min(4, wanted - sum(sizes))))
    cpu_from, memory_from = _generator(case.seed, "rs-cpu"), _generator(case.seed, "rs-mem")
    cpus = [cpu_from.randint(100, 1000) for _ in sizes]
    memories = [memory_from.randint(100_000_000, 1_000_000_000) for _ in sizes]
    priority_from = _generator(case.seed, "base")
    ranks = [priority_from.randint(1, case.priorities) for _ in sizes]
    pods = [
        PodRequest(
            f"rs-{number:05d}-{replica}",
            "default",
            f"rs-{number:05d}-{replica}",
            cpu,
            memory,
            priority=rank,
            owner=f"rs-{number:05d}",
        )
        for replica in range(max(sizes))
        for number, (size, cpu, memory, rank) in enumerate(
            zip(sizes, cpus, memories, ranks, strict=True)
        )
        if replica < size
    ]

    def capacity(total: int, largest: int) -> int:
        asked = math.ceil(total / case.utilisation)
        return max(largest, -(-asked // case.nodes))

    cpu = capacity(sum(p.cpu_milli for p in pods), max(cpus))
    memory = capacity(sum(p.memory_bytes for p in pods), max(memories))
    nodes = tuple(
        Node(f"node-{number:05d}", cpu, memory, pods=len(pods)) for number in range(case.nodes)
    )
    return nodes, tuple(pods)


def default_schedule(
    nodes: tuple[Node, ...], pods: tuple[PodRequest, ...]
) -> tuple[ClusterState, tuple[PodRequest, ...]]:
    """What kube-scheduler's default scoring does: the state, and the pods left pending.

    Pods are taken by priority, then by creation, and none is preempted; equal scores go to the
    first node.
    """
    state = ClusterState(nodes)
    engine = Engine(state, "kube-default")
    pending = []
    for pod in sorted(pods, key=lambda pod: -pod.priority):
        row = engine.best(pod)
        if row < 0:
            pending.append(pod)
            continue
        node = state.node(row)
        engine.place_on(pod, node.name)
    return state, tuple(pending)
