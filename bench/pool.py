"""The jobs of a workload on one pool without node borders: what no placement has to do with."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from scheduler.core.model import PodRequest
from scheduler.files.workload import Arrival, Workload

__all__ = ["Pooled", "pooled"]


@dataclass(frozen=True, slots=True)
class Pooled:
    """As the figures of the same names of a replay, in percent; ``gangs_none`` never started."""

    allocation_percent: float
    demand_percent: float
    peak_percent: float
    gangs_whole: int
    gangs_none: int


@dataclass(frozen=True, slots=True)
class _Job:
    """Pods that start together."""

    arrivals: tuple[Arrival, ...]

    @property
    def asks(self) -> tuple[int, int, int]:
        """Cpu in milli, memory in bytes, milli-GPU."""
        pods = [arrival.request for arrival in self.arrivals]
        return (
            sum(pod.cpu_milli for pod in pods),
            sum(pod.memory_bytes for pod in pods),
            sum(pod.gpu.requested_milli for pod in pods),
        )


def pooled(workload: Workload, started: Callable[[PodRequest, float], None]) -> Pooled:
    """Run the jobs as soon as cpu, memory and GPUs of all nodes together have room for them.

    Jobs are tried in the order of their arrival whenever one arrives or leaves, and any that fits
    starts, as in a replay; which models a pod may use is left out. Gangs start whole. A pod that
    no pool of this size has room for never starts.

    Parameters
    ----------
    workload
        Without pods that run already.
    started
        Called with each pod that starts and the seconds that it had waited.
    """
    jobs = _jobs(workload)
    asks = [job.asks for job in jobs]
    free = (
        sum(node.cpu_milli for node in workload.nodes),
        sum(node.memory_bytes for node in workload.nodes),
        workload.gpu_milli,
    )
    events = [(job.arrivals[0].at_s, 1, number) for number, job in enumerate(jobs)]
    heapq.heapify(events)  # those that leave make room before others arrive
    times = [arrival.at_s for arrival in workload.arrivals]
    begin, end = min(times, default=0.0), max(times, default=0.0)
    capacity = workload.gpu_milli or 1
    before = begin
    demanded = allocated = peak = 0
    areas = [0.0, 0.0]
    waiting: dict[int, None] = {}
    whole = 0
    while events:
        now = events[0][0]
        spent = max(0.0, min(now, end) - max(before, begin))
        areas[0] += spent * allocated
        areas[1] += spent * demanded
        before = now
        arrived: list[int] = []
        left = False
        while events and events[0][0] == now:
            _, arrives, number = heapq.heappop(events)
            if arrives:
                demanded += asks[number][2]
                arrived.append(number)
                waiting[number] = None
            else:
                left = True
                demanded -= asks[number][2]
                allocated -= asks[number][2]
                free = _sum(free, asks[number])
        # Between two that leave room only shrinks: only those that have come can start.
        for number in list(waiting) if left else arrived:
            after = _sum(free, asks[number], -1)
            if min(after) < 0:
                continue
            free = after
            del waiting[number]
            allocated += asks[number][2]
            whole += jobs[number].arrivals[0].request.gang is not None
            for arrival in jobs[number].arrivals:
                started(arrival.request, now - arrival.at_s)
            seconds = jobs[number].arrivals[0].duration_s
            if seconds is not None:
                heapq.heappush(events, (now + seconds, 0, number))
        peak = max(peak, allocated)
    span = end - begin
    gangs = sum(job.arrivals[0].request.gang is not None for job in jobs)
    return Pooled(
        100 * (areas[0] / span if span else allocated) / capacity,
        100 * (areas[1] / span if span else demanded) / capacity,
        100 * peak / capacity,
        whole,
        gangs - whole,
    )


def _sum(
    free: tuple[int, int, int], asks: tuple[int, int, int], sign: int = 1
) -> tuple[int, int, int]:
    return (free[0] + sign * asks[0], free[1] + sign * asks[1], free[2] + sign * asks[2])


def _jobs(workload: Workload) -> list[_Job]:
    together: dict[Hashable, list[Arrival]] = defaultdict(list)
    for serial, arrival in enumerate(workload.arrivals):
        together[arrival.request.gang or serial].append(arrival)
    return [_Job(tuple(arrivals)) for arrivals in together.values()]
