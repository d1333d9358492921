"""Synthetic workloads: the embedded default, made without any download.

The default fleet resembles a cluster that grew over some years: many small inference nodes, some
training nodes, few of the newest kind. The default pods resemble what such clusters run: mostly
fractions and single GPUs by number, mostly 8-GPU jobs by volume. All figures are our own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from scheduler.core.errors import InvalidInput
from scheduler.core.gangs.spec import GangSpec
from scheduler.core.model import Device, GangKey, GpuRequest, Node, PodRequest
from scheduler.files.openb import PRODUCT_LABEL
from scheduler.files.workload import MOST_NODES, MOST_PODS, Arrival, Workload

__all__ = [
    "GeneratorConfig",
    "NodeShape",
    "PodShape",
    "arrival_times",
    "at_demand",
    "generate",
    "run_times",
]


@dataclass(frozen=True, slots=True)
class NodeShape:
    """One kind of node and its share of the fleet. cpu in cores, memory in GiB."""

    product: str
    gpus: int
    cores: int
    memory_gib: int
    gpu_memory_mib: int
    weight: float


@dataclass(frozen=True, slots=True)
class PodShape:
    """One kind of pod and its share of the arrivals; ``cores`` are picked with equal chance."""

    gpu: GpuRequest
    cores: tuple[int, ...]
    weight: float


NODES = (
    NodeShape("Tesla-T4", 2, 48, 192, 15_360, 30.0),
    NodeShape("NVIDIA-A10", 1, 32, 128, 23_028, 12.0),
    NodeShape("NVIDIA-L4", 4, 64, 256, 23_034, 16.0),
    NodeShape("NVIDIA-A100-SXM4-40GB", 8, 96, 768, 40_960, 22.0),
    NodeShape("NVIDIA-A100-SXM4-80GB", 8, 128, 1024, 81_920, 14.0),
    NodeShape("NVIDIA-H100-80GB-HBM3", 8, 192, 1536, 81_559, 6.0),
)

_MOST_MEMBERS = 10_000
_SMALL = ("NVIDIA-A10", "NVIDIA-L4", "Tesla-T4")
_LARGE = ("NVIDIA-A100-SXM4-80GB", "NVIDIA-H100-80GB-HBM3")

PODS = (
    PodShape(GpuRequest(), (1, 2, 4, 8, 16), 16.0),
    PodShape(GpuRequest(milli=100), (1, 2), 5.0),
    PodShape(GpuRequest(milli=250), (1, 2, 4), 9.0),
    PodShape(GpuRequest(milli=330), (2, 4), 6.0),
    PodShape(GpuRequest(milli=500), (2, 4, 6), 12.0),
    PodShape(GpuRequest(milli=700), (4, 8), 5.0),
    PodShape(GpuRequest(milli=500, products=_SMALL), (2, 4), 4.0),
    PodShape(GpuRequest(count=1), (4, 6, 8, 12), 24.0),
    PodShape(GpuRequest(count=1, products=_SMALL), (4, 8), 5.0),
    PodShape(GpuRequest(count=2), (8, 16, 24), 5.0),
    PodShape(GpuRequest(count=4), (16, 32, 48), 4.0),
    PodShape(GpuRequest(count=8), (32, 64, 88), 3.5),
    PodShape(GpuRequest(count=8, products=_LARGE), (64, 96), 1.5),
)


@dataclass(frozen=True, slots=True)
class GeneratorConfig:
    """What to generate.

    Parameters
    ----------
    nodes
        Number of nodes.
    load
        Requested milli-GPU as a share of the capacity; pods are drawn until it is reached.
    pods
        Number of pods instead of a load, if above 0.
    seed
        Decides everything; the same settings and seed give the same workload bit for bit.
    arrivals
        ``poisson``, ``uniform`` or ``bursts`` of 50 pods at a time.
    rate_per_s
        Mean arrivals per second.
    durations
        ``none`` (pods stay), ``exponential`` or ``lognormal``.
    mean_duration_s
        Mean run time.
    gang_share, gang_size
        Share of whole-GPU pods that come as gangs, and members of each.
    """

    nodes: int = 1200
    load: float = 1.1
    pods: int = 0
    seed: int = 1
    arrivals: str = "poisson"
    rate_per_s: float = 10.0
    durations: str = "none"
    mean_duration_s: float = 3600.0
    gang_share: float = 0.0
    gang_size: int = 4
    node_shapes: tuple[NodeShape, ...] = field(default=NODES)
    pod_shapes: tuple[PodShape, ...] = field(default=PODS)

    def __post_init__(self) -> None:
        checks = (
            ("nodes", 1 <= self.nodes <= MOST_NODES, f"1..{MOST_NODES}"),
            ("load", 0 < self.load <= 100, "a share of the capacity above 0"),
            ("pods", 0 <= self.pods <= MOST_PODS, f"0..{MOST_PODS}"),
            (
                "arrivals",
                self.arrivals in ("poisson", "uniform", "bursts"),
                "poisson, uniform or bursts",
            ),
            ("rate_per_s", 1e-6 <= self.rate_per_s <= 1e9, "1e-6..1e9"),
            ("seed", 0 <= self.seed < 1 << 63, "0 or more"),
            (
                "durations",
                self.durations in ("none", "exponential", "lognormal"),
                "none, exponential or lognormal",
            ),
            ("mean_duration_s", 0 < self.mean_duration_s <= 1e9, "above 0, up to 1e9"),
            ("gang_share", 0 <= self.gang_share <= 1, "0..1"),
            ("gang_size", 2 <= self.gang_size <= _MOST_MEMBERS, f"2..{_MOST_MEMBERS}"),
        )
        for name, fine, remedy in checks:
            if not fine:
                raise InvalidInput(
                    f"generate.{name}", f"is {getattr(self, name)!r}", f"use {remedy}"
                )


def generate(config: GeneratorConfig) -> Workload:
    """Make the workload."""
    rng = np.random.Generator(np.random.PCG64(config.seed))
    nodes = _nodes(config, rng)
    requests = _requests(config, rng, sum(node.gpu_milli for node in nodes))
    times = arrival_times(config, rng, len(requests))
    durations = run_times(config, rng, len(requests))
    arrivals = tuple(
        Arrival(request, at, duration)
        for request, at, duration in zip(requests, times, durations, strict=True)
    )
    keys = {request.gang for request in requests if request.gang}
    gangs = {key: GangSpec(key, config.gang_size) for key in sorted(keys, key=lambda k: k.name)}
    return Workload(nodes, arrivals, (), f"synthetic-{config.seed}", gangs)


def _nodes(config: GeneratorConfig, rng: np.random.Generator) -> tuple[Node, ...]:
    shapes = config.node_shapes
    weights = np.array([shape.weight for shape in shapes])
    drawn = rng.choice(len(shapes), size=config.nodes, p=weights / weights.sum())
    nodes = []
    for serial, index in enumerate(drawn.tolist()):
        shape = shapes[index]
        nodes.append(
            Node(
                f"gpu-{serial:05d}",
                shape.cores * 1000,
                shape.memory_gib << 30,
                devices=(Device(shape.product, shape.gpu_memory_mib),) * shape.gpus,
                labels={
                    PRODUCT_LABEL: shape.product,
                    "kubernetes.io/hostname": f"gpu-{serial:05d}",
                },
            )
        )
    return tuple(nodes)


def _requests(config: GeneratorConfig, rng: np.random.Generator, capacity: int) -> list[PodRequest]:
    shapes = config.pod_shapes
    weights = np.array([shape.weight for shape in shapes])
    chances = weights / weights.sum()
    asking = sum(c * s.gpu.requested_milli for c, s in zip(chances, shapes, strict=True))
    if not config.pods and not asking:
        raise InvalidInput(
            "generate.pod_shapes", "ask for no GPU", "state a number of pods instead"
        )
    requests: list[PodRequest] = []
    requested = 0
    while len(requests) < config.pods or (not config.pods and requested < config.load * capacity):
        shape = shapes[int(rng.choice(len(shapes), p=chances))]
        cores = int(rng.choice(shape.cores))
        gang = bool(shape.gpu.count and rng.random() < config.gang_share)
        for member in range(config.gang_size if gang else 1):
            serial = len(requests)
            key = GangKey("kubernetes", "default", f"gang-{serial - member:06d}")
            pod = PodRequest(
                f"pod-{serial:06d}",
                "default",
                f"pod-{serial:06d}",
                cores * 1000,
                cores << 32,
                shape.gpu,
            )
            requests.append(replace(pod, gang=key) if gang else pod)
            requested += shape.gpu.requested_milli
    return requests


def arrival_times(config: GeneratorConfig, rng: np.random.Generator, count: int) -> list[float]:
    """When so many arrive, in seconds, ascending."""
    match config.arrivals:
        case "poisson":
            gaps = rng.exponential(1 / config.rate_per_s, size=count)
        case "uniform":
            gaps = np.full(count, 1 / config.rate_per_s)
        case _:
            burst = 50
            gaps = np.where(np.arange(count) % burst == 0, burst / config.rate_per_s, 0.0)
    return [round(at, 3) for at in np.cumsum(gaps).tolist()]


def run_times(config: GeneratorConfig, rng: np.random.Generator, count: int) -> list[float | None]:
    """Seconds that each of so many runs; None for ever."""
    match config.durations:
        case "none":
            return [None] * count
        case "exponential":
            drawn = rng.exponential(config.mean_duration_s, size=count)
        case _:
            sigma = 1.5  # a long tail: the longest hundredth runs about thirty times the median
            drawn = rng.lognormal(np.log(config.mean_duration_s) - sigma**2 / 2, sigma, size=count)
    return [round(seconds, 3) for seconds in drawn.tolist()]


def at_demand(workload: Workload, demand: float) -> Workload:
    """The same pods, so fast that those in the system ask for a share of the GPUs on average.

    Parameters
    ----------
    workload
        Pods that leave.
    demand
        That share, if nobody waited: GPU time of all pods, over the GPUs times the time of the last
        arrival.

    Raises
    ------
    InvalidInput
        A pod with GPU stays for ever, none asks for one, or all arrive at once.
    """
    if not 0 < demand <= 100:
        raise InvalidInput("generate.demand", f"is {demand}", "use a share above 0, up to 100")
    spent = 0.0
    for arrival in workload.arrivals:
        milli = arrival.request.gpu.requested_milli
        if milli and arrival.duration_s is None:
            raise InvalidInput(
                "generate.demand",
                f"is never reached: {arrival.request.key} stays for ever",
                "state --durations",
            )
        spent += milli * (arrival.duration_s or 0.0)
    last = max((arrival.at_s for arrival in workload.arrivals), default=0.0)
    if not (spent and last and workload.gpu_milli):
        raise InvalidInput(
            "generate.demand",
            "needs GPUs, and pods that ask for them one after the other",
            "use more",
        )
    slower = spent / (workload.gpu_milli * demand) / last
    arrivals = tuple(replace(one, at_s=round(one.at_s * slower, 3)) for one in workload.arrivals)
    return replace(workload, arrivals=arrivals)
