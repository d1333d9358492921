"""How long does one thread keep the cluster to itself, in processor time?

The real verbs and ledger in one process, without HTTP; every stay in the cluster is measured by the
time that its thread computes meanwhile (`time.thread_time`), so that other work on the machine does
not count. All nodes have eight partitioned devices, in use to about a half, since partitioned
devices are the dearest ones to look at. The cases: a shape of instances that nobody has asked about
(the first question looks at every node), the same shapes again, the same after a label of one node
has changed, gangs of 64 and of 2,000 pods asked about first, a copy of the state, and figures for
`/metrics` with 130 shapes of instances in the workload profile, whose computation is outside of the
lock and is the column `beside_ms`. The target is that no stay is above 5 ms.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import combinations_with_replacement

import click
import msgspec

from bench.figures import percentiles
from bench.options import ListOf
from bench.report import Report, benchmark
from scheduler.cluster.fair_lock import FairLock
from scheduler.cluster.ledger import Ledger
from scheduler.cluster.settings import ExtenderConfig
from scheduler.cluster.view import snapshot
from scheduler.core.cluster_metrics import cluster_metrics
from scheduler.core.engine import Engine
from scheduler.core.gangs.spec import GangSpec
from scheduler.core.model import Device, GangKey, GpuRequest, Node, PodRequest
from scheduler.core.state import ClusterState
from scheduler.core.workload_profile import WorkloadProfile
from scheduler.files.dump_writer import pod_json
from scheduler.webhook.protocol import decode_filter
from scheduler.webhook.webhook import Webhook

__all__ = ["command"]

_MIG = Device("NVIDIA-A100-SXM4-40GB", 40_960, mig="A100-40")
_PROFILES = ("1g.5gb", "1g.5gb+me", "1g.10gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb")
_BUCKETS_MS = (0.5, 1.0, 2.0, 5.0, 10.0, 50.0)
_ASKED = 40
_COPIES = 20
_IN_PROFILE = 130


@dataclass
class _Measured(FairLock):
    """A lock that notes how long each stay computes, in milliseconds."""

    stays: list[float] = field(default_factory=list)
    _began: float = 0.0

    def __post_init__(self) -> None:
        super().__init__()

    def acquire(self, *, chore: bool = False) -> None:
        """Wait for it; the time that counts begins once it is there."""
        super().acquire(chore=chore)
        self._began = time.thread_time()

    def release(self) -> None:
        """Give it back."""
        self.stays.append(1e3 * (time.thread_time() - self._began))
        super().release()


@benchmark("holds")
@click.option("--nodes", type=ListOf(int, 1), default="5000", show_default=True)
@click.option("--policy", default="fgd", show_default=True, help="See `snugfit policies`.")
def command(report: Report, nodes: tuple[int, ...], policy: str) -> None:
    """A row per size and case, with how many stays were up to so many milliseconds."""
    report.title = "Stays in the cluster, processor time in ms"
    for number, size in enumerate(nodes):
        report.progress(number, len(nodes))
        for case, stays, beside in _measured(size, policy):
            p50, p99 = percentiles(stays, 50, 99)
            counts = {
                f"to_{upper:g}": sum(lower < each <= upper for each in stays)
                for lower, upper in zip((-1.0, *_BUCKETS_MS), _BUCKETS_MS, strict=False)
            }
            report.add(
                nodes=size,
                case=case,
                stays=len(stays),
                p50=p50,
                p99=p99,
                max=round(max(stays), 3),
                **counts,
                above=sum(each > _BUCKETS_MS[-1] for each in stays),
                beside_ms=round(beside, 1),
            )
            report.progress(number, len(nodes))


def _measured(size: int, policy: str) -> list[tuple[str, list[float], float]]:
    """Stays of each case in milliseconds, and the time that was computed without the lock."""
    shapes = _shapes()
    profile = WorkloadProfile.from_requests(
        [_pod(f"typical-{i}", mig) for i, mig in enumerate(shapes)]
    )
    engine = Engine(_cluster(size, shapes), policy, profile=profile)
    lock = _Measured()
    ledger = Ledger(engine, ExtenderConfig(policy=policy), lock=lock)
    verbs, names = (
        Webhook(ledger, None, None).verbs,
        [node.name for node in engine.state.nodes if node],
    )

    def ask(request: PodRequest, gangs: dict[GangKey, GangSpec] | None = None) -> None:
        body = msgspec.json.encode({"Pod": pod_json(request, gangs=gangs), "NodeNames": names})
        verbs.filter(decode_filter(body))
        verbs.prioritize(decode_filter(body))

    def case(work: Callable[[], None]) -> tuple[list[float], float]:
        lock.stays.clear()
        begun = time.thread_time()
        work()
        return list(lock.stays), 1e3 * (time.thread_time() - begun) - sum(lock.stays)

    def each(prefix: str) -> None:
        for number, mig in enumerate(shapes[:_ASKED]):
            ask(_pod(f"{prefix}-{number}", mig))

    def copies() -> None:
        for _ in range(_COPIES):
            snapshot(ledger)

    def relabelled() -> None:
        for number, mig in enumerate(shapes[:_ASKED]):
            with ledger.locked() as cluster:
                state = cluster.engine.state
                state.update_node(replace(state.node(number), labels={"step": str(number)}))
            ask(_pod(f"label-{number}", mig))

    def gang(members: int) -> None:
        key = GangKey("kubernetes", "default", f"gang-{members}")
        gangs = {key: GangSpec(key, members)}
        pods = [_pod(f"member-{members}-{i}", shapes[0], gang=key) for i in range(members)]
        with ledger.locked() as cluster:
            cluster.gangs.describe(gangs[key])
        for member in pods:
            with ledger.locked() as cluster:
                cluster.gangs.on_pod_pending(member)
        ask(pods[0], gangs)

    def figures() -> None:
        state, _ = snapshot(ledger)
        cluster_metrics(state, profile)

    cases: list[tuple[str, Callable[[], None]]] = [
        (f"{_ASKED} shapes, first question", lambda: each("first")),
        ("the same shapes again", lambda: each("again")),
        ("each after one label has changed", relabelled),
        ("gang of 64, first question", lambda: gang(64)),
        ("gang of 2,000, first question", lambda: gang(2_000)),
        ("copy of the state", copies),
        (f"figures, {len(profile.shapes)} shapes", figures),
    ]
    return [(name, *case(work)) for name, work in cases]


def _shapes() -> list[tuple[tuple[str, int], ...]]:
    """Requests for instances: one or two profiles, of each one to three."""
    found: list[tuple[tuple[str, int], ...]] = [
        ((profile, count),) for profile in _PROFILES for count in (1, 2, 3)
    ]
    for one, other in combinations_with_replacement(_PROFILES, 2):
        if one != other:
            found += [((one, a), (other, b)) for a in (1, 2, 3) for b in (1, 2)]
    return [tuple(sorted(mig)) for mig in found[:_IN_PROFILE]]


def _pod(name: str, mig: tuple[tuple[str, int], ...], gang: GangKey | None = None) -> PodRequest:
    return PodRequest(name, "default", name, 1_000, 1 << 30, GpuRequest(mig=mig), gang=gang)


def _cluster(size: int, shapes: list[tuple[tuple[str, int], ...]]) -> ClusterState:
    """Nodes that are in use, each by as many pods as chance says."""
    nodes = [Node(f"node-{i}", 128_000, 1 << 40, devices=(_MIG,) * 8) for i in range(size)]
    state, chance = ClusterState(nodes), random.Random(1)
    engine = Engine(state, "first-fit")
    for number, node in enumerate(nodes):
        alone = Engine(state.excerpt_without(number, frozenset()), "first-fit")
        for serial in range(chance.randint(0, 10)):
            request = _pod(f"running-{number}-{serial}", chance.choice(shapes[:12]))
            placed = alone.place(request)
            if placed is not None:
                engine.state.apply((placed,))
        assert node.name in state.row_of
    return state
