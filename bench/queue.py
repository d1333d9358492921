"""Who gets how much in, and who waits how long, by the size of the cluster and of its queue?

Clusters of 5 to 1,213 nodes and their pods are drawn by the seed: nodes and pods of openb, traces
`default` and `gpuspec33`, or training clusters by the published shares of Philly and Seren, in
which jobs of more than 8 GPUs are gangs (`snugfit generate --like`). Run times are those of the
source, cut at a day, so that runs end. Pods that no empty node of the drawn fleet could hold are
left out. All policies of a seed have the same nodes and pods.

A queue of n: pods arrive n at a time; the members of a gang are not parted. Load `stay`: none
leaves, and 130 % of the GPUs are requested. Other loads: pods leave, and those in the system ask
for that share of the GPUs on average, if nobody waited and nobody outlived the run.

Replay by the code of the webhook, `kube-default` as stock kube-scheduler; profile learnt. `pool` is
the same jobs on one pool without node borders or models. Allocated: percent of the GPUs, over time,
with `stay` at the end; the difference is to `priced`, paired by seed, with the half width of its
95 % interval. Waits in seconds: means over the seeds of p50 and p95, and the longest of all seeds;
a gang waits until enough of its members have started, and is not counted in the other classes.
Half: gangs of which some members started, and never enough of them ran at one time. Members of a
gang may start seconds apart, as their backoffs end: one that runs for less than that counts, too.

Seeds for choosing (0, 1, ...) and those for reporting (1000, 1001, ...) are apart. Small clusters
scatter more and get more seeds. `--part K/N` takes every N-th cluster, with all its policies.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import numpy as np

from bench.options import ListOf, data_option, openb_files, policies_option
from bench.pool import pooled
from bench.report import Report, benchmark
from scheduler.cli.units import PART
from scheduler.core.engine import Engine
from scheduler.core.errors import InvalidInput
from scheduler.core.gangs.spec import minimum_of
from scheduler.core.model import GangKey, GpuKind, PodRequest, Reason
from scheduler.core.policies.table import RIVALS
from scheduler.core.state import ClusterState
from scheduler.files.workload import Arrival, Workload
from scheduler.simulator.generate import GeneratorConfig, at_demand
from scheduler.simulator.inflation import Experiment
from scheduler.simulator.intervals import half_width
from scheduler.simulator.likeness import LIKENESSES, Likeness, generate_like, likeness_of
from scheduler.simulator.replay import replay
from scheduler.simulator.sweep.grid import part_of
from scheduler.simulator.sweep.runs import loaded

__all__ = ["POOL", "QueueJob", "command", "drawn", "run"]

POOL = "pool"
"""Beside the policies: the same jobs without node borders."""

_OURS = "priced"
_STAY = "stay"
_OPENB = "openb-"
_WORKLOADS = ("openb-default", "openb-gpuspec33", *LIKENESSES)
_LONGEST_S = 86_400.0
_STAYING_LOAD = 1.3
_RENEWALS = ((10, 30.0), (40, 15.0), (100, 8.0), (500, 4.0), (math.inf, 2.0))
"""Up to so many nodes, how often the pods of a cluster are replaced."""
_SEEDS = ((6, 8), (10, 6), (40, 4), (100, 3), (math.inf, 2))
"""Up to so many nodes, how many seeds."""
_REPORTING = 1000  # the first seed for reporting
_CLASSES = ("fraction", "1", "2-7", "8", "gang")


@dataclass(frozen=True, slots=True)
class QueueJob:
    """One run, for :func:`run`.

    Parameters
    ----------
    workload
        One of openb, then with its files, or of :data:`LIKENESSES`.
    nodes, queue
        Size of the cluster, and how many pods arrive at a time.
    load
        What pods in the system ask for, as a share of the GPUs; None if none leaves.
    policy
        Or :data:`POOL`.
    """

    workload: str
    files: tuple[Path, ...]
    nodes: int
    queue: int
    load: float | None
    policy: str
    seed: int


@benchmark("queue", grid=True)
@data_option
@click.option("--workloads", type=ListOf(str), default=",".join(_WORKLOADS), show_default=True)
@click.option(
    "--nodes",
    type=ListOf(int, 1),
    default="5,8,20,60,200,1213",
    show_default=True,
    help="Sizes of clusters.",
)
@click.option(
    "--queues",
    type=ListOf(int, 1),
    default="1,10,30,100",
    show_default=True,
    help="Pods that arrive at a time.",
)
@click.option(
    "--loads",
    type=ListOf(str),
    default="stay,0.9,1.1",
    show_default=True,
    help="stay: pods do not leave; else requested GPUs over those there are.",
)
@policies_option(",".join([_OURS, *RIVALS, "fgd"]))
@click.option("--seeds", type=click.IntRange(0, 999), default=0, help="0: by the size.")
@click.option(
    "--seeds-for",
    type=click.Choice(["choosing", "reporting"]),
    default="choosing",
    show_default=True,
    help="Settings are chosen on seeds 0.., figures reported on seeds 1000...",
)
@click.option("--part", type=PART, default="1/1", help="Only every N-th cluster, from the K-th on.")
def command(
    report: Report,
    data: Path,
    workloads: tuple[str, ...],
    nodes: tuple[int, ...],
    queues: tuple[int, ...],
    loads: tuple[str, ...],
    policies: tuple[str, ...],
    seeds: int,
    seeds_for: str,
    part: tuple[int, int],
) -> None:
    """A row per cluster, queue, load and policy."""
    report.title = f"Queues, seeds for {seeds_for}, part {part[0]}/{part[1]}"
    if _OURS not in policies:
        raise InvalidInput(
            "--policies", f"are without {_OURS}", f"others are compared with {_OURS}"
        )
    first = _REPORTING if seeds_for == "reporting" else 0
    clusters = [
        QueueJob(workload, files, size, queue, load, _OURS, seed)
        for workload, files in _sources(data, workloads)
        for size in nodes
        for queue in queues
        for load in map(_load, loads)
        for seed in range(first, first + (seeds or _by_size(_SEEDS, size)))
    ]
    jobs = [
        replace(cluster, policy=policy)
        for cluster in part_of(clusters, *part)
        for policy in (*policies, POOL)
    ]
    rows = report.sweep(run, jobs)
    compared: dict[str, Counter[str]] = defaultdict(Counter)
    for _, of_cell in groupby(jobs, key=lambda job: (job.workload, job.nodes, job.queue, job.load)):
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        cell = list(of_cell)
        for job in cell:
            found[job.policy].append(next(rows).figures)
        for policy, figures in found.items():
            row = _row(cell[0], policy, figures, found[_OURS])
            report.add(**row)
            if policy not in (_OURS, POOL):
                compared[policy][_verdict(row)] += 1
    for policy, verdicts in compared.items():
        report.facts[f"{policy} against {_OURS}"] = ", ".join(
            f"{name} {verdicts[name]}" for name in ("above", "below", "within the interval")
        )


def _load(text: str) -> float | None:
    if text == _STAY:
        return None
    try:
        load = float(text)
    except ValueError:
        load = math.nan
    if not 0 < load <= 10:
        raise InvalidInput("--loads", f"{text!r} is no share", f"write {_STAY}, 0.9, 1.1 ... 10")
    return load


def _sources(data: Path, workloads: Sequence[str]) -> list[tuple[str, tuple[Path, ...]]]:
    """Workloads with their files."""
    sources = []
    for name in workloads:
        files: tuple[Path, ...] = ()
        if name.startswith(_OPENB):
            nodes, (pods,) = openb_files(data, [name.removeprefix(_OPENB)], "--workloads")
            files = (nodes, pods)
        elif name not in LIKENESSES:
            raise InvalidInput("--workloads", f"unknown: {name}", f"use {', '.join(_WORKLOADS)}")
        sources.append((name, files))
    return sources


def _by_size(table: Sequence[tuple[float, Any]], nodes: int) -> Any:  # noqa: ANN401 - of the table
    return next(value for most, value in table if nodes <= most)


# -- one run -------------------------------------------------------------------------------------


def run(job: QueueJob) -> dict[str, Any]:
    """Figures of one run: allocation, gangs, and waits by class."""
    workload = drawn(replace(job, policy=_OURS))
    waits: dict[str, float] = {}

    def started(request: PodRequest, waited: float) -> None:
        waits[request.uid] = waited

    if job.policy == POOL:
        figures: dict[str, Any] = asdict(pooled(workload, started)) | {
            "gangs_half": 0,
            "half_gang_gpu_hours": 0.0,
        }
    else:
        outcome = replay(
            workload,
            Experiment(
                job.policy, job.seed, "replay", trace=workload.digest(), workload_profile="learnt"
            ),
            started=started,
        )
        figures = {
            name: getattr(outcome, name)
            for name in (
                "allocation_percent",
                "demand_percent",
                "peak_percent",
                "gangs_whole",
                "gangs_half",
                "gangs_none",
                "half_gang_gpu_hours",
            )
        }
    if job.load is None:
        # Nobody leaves: what counts is the end.
        asked = sum(request.gpu.requested_milli for request in workload.requests)
        figures["allocation_percent"] = figures["peak_percent"]
        figures["demand_percent"] = 100 * asked / workload.gpu_milli
    figures["pods"] = len(workload.arrivals)
    figures["waits"] = _waits(workload, waits)
    return figures


@lru_cache(maxsize=2)
def drawn(job: QueueJob) -> Workload:
    """The cluster and the pods of a run, whatever its policy."""
    config = GeneratorConfig(
        nodes=job.nodes,
        load=_STAYING_LOAD if job.load is None else _by_size(_RENEWALS, job.nodes),
        seed=job.seed,
    )
    workload = generate_like(_likeness(job), config)
    workload = replace(workload, arrivals=tuple(_held(workload)))
    if job.load is None:
        stay = tuple(replace(arrival, duration_s=None) for arrival in workload.arrivals)
        workload = replace(workload, arrivals=stay)
    else:
        workload = at_demand(workload, job.load)
    return _at_a_time(workload, job.queue)


def _likeness(job: QueueJob) -> Likeness:
    return likeness_of(loaded(*job.files)[0]) if job.files else LIKENESSES[job.workload]


def _held(workload: Workload) -> Iterator[Arrival]:
    """Arrivals that some empty node can hold, no longer than a day."""
    engine = Engine(ClusterState(workload.nodes), "first-fit")
    fits: dict[object, bool] = {}
    for arrival in workload.arrivals:
        request = arrival.request
        kind = (request.shape, request.selection)
        if kind not in fits:
            codes = engine.filter(request, selection=True)[: len(workload.nodes)]
            fits[kind] = bool((codes == Reason.FITS.code).any())
        if fits[kind]:
            assert arrival.duration_s is not None, "all sources have run times"
            yield replace(arrival, duration_s=min(arrival.duration_s, _LONGEST_S))


def _at_a_time(workload: Workload, queue: int) -> Workload:
    """Pods wait for each other until so many, or a few more of one gang, arrive together."""
    arrivals: list[Arrival] = []
    batch: list[Arrival] = []
    jobs = groupby(workload.arrivals, key=lambda one: one.request.gang or one.request.uid)
    for _, members in jobs:
        batch += members
        if len(batch) >= queue:
            arrivals += [replace(one, at_s=batch[-1].at_s) for one in batch]
            batch = []
    arrivals += [replace(one, at_s=batch[-1].at_s) for one in batch]
    return replace(workload, arrivals=tuple(arrivals))


def _waits(workload: Workload, waits: dict[str, float]) -> dict[str, dict[str, float | None]]:
    """p50, p95 and the longest wait by class; None is without end."""
    by_class: dict[str, list[float]] = defaultdict(list)
    gangs: dict[GangKey, list[float]] = defaultdict(list)
    for request in workload.requests:
        waited = waits.get(request.uid, math.inf)
        if request.gang is not None:
            gangs[request.gang].append(waited)
        elif request.gpu.kind is not GpuKind.NONE:
            by_class[_class(request)].append(waited)
    for key, members in gangs.items():
        by_class["gang"].append(sorted(members)[minimum_of(workload.gangs, key) - 1])
    return {
        name: {
            "jobs": len(by_class[name]),
            "never": sum(map(math.isinf, by_class[name])),
            **_percentiles(by_class[name]),
        }
        for name in _CLASSES
        if by_class[name]
    }


def _class(request: PodRequest) -> str:
    count = request.gpu.count
    return "fraction" if not count else "1" if count == 1 else "2-7" if count < 8 else "8"


def _percentiles(waits: Sequence[float]) -> dict[str, float | None]:
    found = np.percentile(np.array(waits), (50, 95, 100), method="higher").tolist()
    return {
        name: round(value, 3) if math.isfinite(value) else None
        for name, value in zip(("p50", "p95", "max"), found, strict=True)
    }


# -- the table -----------------------------------------------------------------------------------


def _row(
    cell: QueueJob, policy: str, runs: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    allocated = [one["allocation_percent"] for one in runs]
    differences = [
        theirs - one["allocation_percent"] for theirs, one in zip(allocated, ours, strict=True)
    ]
    row = {
        "workload": cell.workload,
        "nodes": cell.nodes,
        "queue": cell.queue,
        "load": _STAY if cell.load is None else cell.load,
        "policy": policy,
        "seeds": len(runs),
        "demand": round(fmean(one["demand_percent"] for one in runs), 1),
        "allocated": round(fmean(allocated), 2),
        "difference": round(fmean(differences), 2),
        "ci95": round(half_width(differences), 2) if len(runs) > 1 else None,
        "worst": round(min(allocated), 2),
        "half": sum(one["gangs_half"] for one in runs),
        "half_gpu_hours": round(sum(one["half_gang_gpu_hours"] for one in runs), 2),
    }
    for name in _CLASSES:
        there = [one["waits"][name] for one in runs if name in one["waits"]]
        if not there:
            continue
        if cell.load is None:
            # Who stays starts at once or never.
            jobs = sum(one["jobs"] for one in there)
            row[f"{name} placed"] = f"{jobs - sum(one['never'] for one in there)}/{jobs}"
            continue
        for part, of_seeds in (("p50", fmean), ("p95", fmean), ("max", max)):
            values = [one[part] for one in there]
            row[f"{name} {part}"] = None if None in values else round(of_seeds(values))
    return row


def _verdict(row: dict[str, Any]) -> str:
    """Whether a rival allocates more than ours, beyond the interval; one seed has none."""
    if row["ci95"] is None or abs(row["difference"]) <= row["ci95"]:
        return "within the interval"
    return "above" if row["difference"] > 0 else "below"
