"""Workloads like those that somebody runs: drawn from published shares, or from a file.

Training clusters (``philly``, ``seren``). Source: the figures of Hu et al., "Characterization of
Large Language Model Development in the Datacenter", NSDI'24, as published with AcmeTrace: shares of
jobs and of GPU time by the GPUs of a job, mean, median and longest run time of the cluster. Philly
is Microsoft's cluster of 2017, Seren one of the Shanghai AI Laboratory with 286 nodes of 8 A100.

- A job of up to 8 GPUs is one pod. A larger one is a gang of pods of 8 GPUs that starts whole.
- The mean run time of a size follows from its two shares and the cluster's mean. Run times of a
  size are lognormal; one spread for all sizes makes the median over all jobs the published one.
- Sizes whose share of the jobs rounds to 0.00 % are left out (few jobs; an eighth of the GPU time
  of Seren), and so are, for each fleet, jobs of more GPUs than it has.
- Nobody published cpu and memory by size. They are assumed, by the GPU, such that GPUs run out
  first, as they do in such clusters.

A file gives its nodes, pods and run times as they are: each is as likely as any other. A gang of it
is drawn whole.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from scheduler.core.errors import InvalidInput
from scheduler.core.gangs.spec import GangSpec, minimum_of
from scheduler.core.model import Device, GangKey, GpuRequest, Node, NodeSelection, PodRequest
from scheduler.files.openb import PRODUCT_LABEL
from scheduler.files.workload import MOST_PODS, Arrival, Workload
from scheduler.simulator.generate import GeneratorConfig, arrival_times, run_times

__all__ = ["LIKENESSES", "Job", "Likeness", "RunTime", "generate_like", "likeness_of"]

_HOSTNAME = "kubernetes.io/hostname"
_NODE_GPUS = 8


@dataclass(frozen=True, slots=True)
class RunTime:
    """Lognormal seconds: their median, the deviation of their logarithm, and the longest."""

    median_s: float
    sigma: float
    longest_s: float

    def draw(self, rng: np.random.Generator) -> float:
        """One of them."""
        drawn = self.median_s * math.exp(self.sigma * rng.standard_normal())
        return round(min(drawn, self.longest_s), 3)


@dataclass(frozen=True, slots=True)
class Job:
    """Pods that arrive and leave together.

    Parameters
    ----------
    pods
        What each asks for; their names are not used.
    weight
        Share of the jobs, of any sum.
    minimum
        How many must start together; 1 if each is on its own.
    run_time
        Or so many seconds; None if it stays.
    """

    pods: tuple[PodRequest, ...]
    weight: float = 1.0
    minimum: int = 1
    run_time: RunTime | float | None = None

    @property
    def gpu_milli(self) -> int:
        """What all of it asks for."""
        return sum(pod.gpu.requested_milli for pod in self.pods)

    def draw_run_time(self, rng: np.random.Generator) -> float | None:
        """Seconds that one such job runs."""
        return self.run_time.draw(rng) if isinstance(self.run_time, RunTime) else self.run_time


@dataclass(frozen=True, slots=True)
class Likeness:
    """What to draw from.

    Parameters
    ----------
    name
        For the source of what is made.
    nodes
        Each as likely as any other.
    jobs
        By their weights.
    remarks
        What of its source is not drawn.
    """

    name: str
    nodes: tuple[Node, ...]
    jobs: tuple[Job, ...]
    remarks: tuple[str, ...] = ()


def _training(
    name: str,
    product: str,
    memory_mib: int,
    cores: int,
    memory_gib: int,
    sigma: float,
    longest_s: float,
    sizes: Sequence[tuple[int, float, float]],
) -> Likeness:
    """A training cluster of like nodes.

    Parameters
    ----------
    name, product, memory_mib
        Of the cluster; of its GPUs.
    cores, memory_gib
        Of a node.
    sigma, longest_s
        Of run times.
    sizes
        GPUs of a job, share of the jobs in percent, median run time in seconds.
    """
    node = Node(
        name,
        cores * 1000,
        memory_gib << 30,
        devices=(Device(product, memory_mib),) * _NODE_GPUS,
        labels={PRODUCT_LABEL: product},
    )
    # An eighth of the node is left to the system, whatever its pods are.
    cpu, memory = cores * 1000 * 7 // 64, (memory_gib << 30) * 7 // 64
    jobs = []
    for gpus, weight, median_s in sizes:
        members = max(1, gpus // _NODE_GPUS)
        each = gpus // members
        pod = PodRequest("-", "default", "-", cpu * each, memory * each, GpuRequest(count=each))
        jobs.append(
            Job((pod,) * members, weight, members, RunTime(median_s, sigma, longest_s)),
        )
    return Likeness(name, (node,), tuple(jobs))


LIKENESSES: Mapping[str, Likeness] = MappingProxyType(
    {
        "philly": _training(
            "philly",
            "Tesla-P100-PCIE-16GB",
            16_280,
            64,
            512,
            2.389,
            4.2e6,
            (
                (1, 82.42, 700),
                (2, 2.06, 2534),
                (4, 7.56, 2182),
                (8, 6.86, 3195),
                (16, 0.90, 2239),
                (32, 0.17, 1635),
            ),
        ),
        "seren": _training(
            "seren",
            "NVIDIA-A100-SXM4-80GB",
            81_920,
            128,
            1024,
            2.138,
            1.2e6,
            (
                (1, 54.03, 100),
                (2, 11.39, 79),
                (3, 0.13, 105),
                (4, 2.39, 239),
                (8, 28.81, 169),
                (16, 1.11, 282),
                (32, 0.96, 783),
                (48, 0.07, 146),
                (64, 0.43, 1237),
                (128, 0.24, 1727),
                (256, 0.18, 1124),
                (512, 0.13, 340),
                (768, 0.08, 1038),
                (1024, 0.06, 837),
            ),
        ),
    }
)
"""Training clusters by published shares: GPUs of a job, percent of the jobs, median seconds."""


def likeness_of(workload: Workload) -> Likeness:
    """The nodes, pods and run times of a workload, to draw others from.

    Pods that run already count as any other. What ties a pod to certain others, volumes or nodes
    means nothing where these are others: pods that name their node are left out, rules between pods
    and volumes are not drawn. The remarks say of how many.

    Raises
    ------
    InvalidInput
        It has no node, or no pod to draw from.
    """
    everybody = [(arrival.request, arrival.duration_s) for arrival in workload.arrivals]
    everybody += [(bound.request, None) for bound in workload.bound]
    drawn = [(pod, seconds) for pod, seconds in everybody if not _names_its_node(pod)]
    for what, there in (("node", workload.nodes), ("pod", drawn)):
        if not there:
            raise InvalidInput(workload.source, f"has no {what} to draw from", "name another file")
    together: dict[object, list[tuple[PodRequest, float | None]]] = defaultdict(list)
    for serial, (pod, seconds) in enumerate(drawn):
        together[pod.gang or serial].append((pod, seconds))
    jobs = []
    for key, members in together.items():
        minimum = minimum_of(workload.gangs, key) if isinstance(key, GangKey) else 1
        # A gang that is not all there could never start.
        minimum = min(minimum, len(members))
        times = [seconds for _, seconds in members]
        longest = None if None in times else max(s for s in times if s is not None)
        jobs.append(Job(tuple(_plain(pod) for pod, _ in members), 1.0, minimum, longest))
    said = []
    if len(drawn) < len(everybody):
        said.append(f"pods that name their node are not drawn: {len(everybody) - len(drawn)}")
    tied = sum(bool(pod.peer or pod.selection.volumes) for pod, _ in drawn)
    if tied:
        said.append(f"rules between pods and volumes are not drawn, of pods: {tied}")
    nodes = tuple(_anonymous(node) for node in workload.nodes)
    return Likeness(workload.source, nodes, tuple(jobs), tuple(said))


def _names_its_node(pod: PodRequest) -> bool:
    selection = pod.selection
    keys = {key for key, _ in selection.node_selector}
    for term in selection.terms:
        keys |= {rule.key for rule in term.expressions}
    return _HOSTNAME in keys or any(term.fields for term in selection.terms)


def _plain(pod: PodRequest) -> PodRequest:
    """What a pod asks for, without who it is."""
    selection: NodeSelection = replace(pod.selection, volumes=())
    return replace(pod, selection=selection, gang=None, owner="", peer=None, role="")


def _anonymous(node: Node) -> Node:
    devices = tuple(replace(device, uuid="") for device in node.devices)
    return replace(node, devices=devices)


def generate_like(
    likeness: Likeness, config: GeneratorConfig, *, own_run_times: bool = True
) -> Workload:
    """Draw a workload.

    Parameters
    ----------
    likeness
        What to draw from.
    config
        How much of it, and when. Its shapes and gangs are not used: the likeness has its own.
        Pods of a job arrive at the same time.
    own_run_times
        Whether jobs run as long as those of the likeness, instead of what ``config`` says.

    Raises
    ------
    InvalidInput
        There is no job that the drawn fleet could hold, or the load would take too many pods.
    """
    rng = np.random.Generator(np.random.PCG64(config.seed))
    picked = rng.integers(len(likeness.nodes), size=config.nodes).tolist()
    nodes = tuple(_named(likeness.nodes[index], n) for n, index in enumerate(picked))
    jobs = _jobs(likeness, config, rng, sum(node.gpu_milli for node in nodes))
    times = arrival_times(config, rng, len(jobs))
    if own_run_times:
        seconds = [job.draw_run_time(rng) for job in jobs]
    else:
        seconds = run_times(config, rng, len(jobs))
    arrivals: list[Arrival] = []
    gangs: dict[GangKey, GangSpec] = {}
    for number, (job, at_s, duration_s) in enumerate(zip(jobs, times, seconds, strict=True)):
        key = GangKey("kubernetes", "default", f"job-{number:06d}") if job.minimum > 1 else None
        if key is not None:
            gangs[key] = GangSpec(key, job.minimum)
        for member, pod in enumerate(job.pods):
            name = f"job-{number:06d}" + (f"-{member}" if len(job.pods) > 1 else "")
            request = replace(pod, uid=name, namespace="default", name=name, gang=key)
            arrivals.append(Arrival(request, at_s, duration_s))
    source = f"like-{likeness.name}-{config.seed}"
    return Workload(nodes, tuple(arrivals), (), source, gangs, likeness.remarks)


def _named(node: Node, serial: int) -> Node:
    name = f"gpu-{serial:05d}"
    return replace(node, name=name, labels={**node.labels, _HOSTNAME: name})


def _jobs(
    likeness: Likeness, config: GeneratorConfig, rng: np.random.Generator, capacity: int
) -> list[Job]:
    """Jobs until there are as many pods, or as much is requested, as was asked for."""
    held = [job for job in likeness.jobs if job.gpu_milli <= capacity]
    if not held:
        raise InvalidInput(
            "generate.nodes", f"make {capacity // 1000} GPUs, less than any job", "use more nodes"
        )
    if not config.pods and not any(job.gpu_milli for job in held):
        raise InvalidInput(
            "generate.load",
            "cannot be reached: no pod that the fleet can hold asks for a GPU",
            "state a number of pods instead",
        )
    shares = np.cumsum([job.weight for job in held])
    jobs: list[Job] = []
    pods = requested = 0
    while pods < config.pods or (not config.pods and requested < config.load * capacity):
        at = int(np.searchsorted(shares, rng.random() * shares[-1], side="right"))
        job = held[min(at, len(held) - 1)]
        jobs.append(job)
        pods += len(job.pods)
        requested += job.gpu_milli
        if pods > MOST_PODS:
            raise InvalidInput(
                "generate.load", f"takes more than {MOST_PODS:,} pods", "use less, or fewer nodes"
            )
    return jobs
