"""How much of a large cluster's backlog does a plan place, and how long does it take?

Generated fleets with 20 % more GPU requested than there is, a fifth of it in gangs, all pending:
`pods` and `gpu` placed against what any plan could place, and against the best policy that places
pods one by one. `order`: the first pod in the queue without a place; the later, the better.
`room`: nodes of 8 GPUs, 80 % in use in fragments, 15 jobs of 8 per 100 nodes wait; how many get a
place, with how many moves. Seconds are processor time, which on a machine that does other work as
well says more than the clock on the wall; reading files is not part of them.
"""

from __future__ import annotations

import random
import time

import click

from bench.options import ListOf
from bench.report import Report, benchmark
from scheduler.advisor.snapshot import Snapshot
from scheduler.core.model import Device, DeviceShare, GpuRequest, Node, Placement, PodRequest
from scheduler.core.state import ClusterState
from scheduler.files.workload import Workload
from scheduler.planner.effort import CLOCKS, Budget
from scheduler.planner.plan import plan
from scheduler.planner.problem import Disruption, Plan, Problem
from scheduler.simulator.generate import GeneratorConfig, generate
from scheduler.simulator.inflation import Experiment, run

__all__ = ["command"]

_SIZES = (1, 1, 1, 2, 2, 4)
_FILLED = 0.8


@benchmark("planscale")
@click.option("--sizes", type=ListOf(int), default="200,1000,2000,5000", show_default=True)
@click.option("--rooms", type=ListOf(int), default="50,200,1000,3000", show_default=True)
@click.option("--policies", type=ListOf(str), default="priced,fgd,best-fit", show_default=True)
@click.option("--limit", type=float, default=10.0, show_default=True, help="Processor seconds.")
@click.option("--seed", type=int, default=7, show_default=True)
def command(
    report: Report,
    sizes: tuple[int, ...],
    rooms: tuple[int, ...],
    policies: tuple[str, ...],
    limit: float,
    seed: int,
) -> None:
    """A row per objective and size, and per size of fragmented cluster."""
    report.title = f"Plans of large clusters within {limit:g} s"
    for nodes in sizes:
        workload = generate(GeneratorConfig(nodes=nodes, load=1.2, seed=seed, gang_share=0.2))
        rivals = [_alone(workload, policy) for policy in policies]
        snapshot = Snapshot(
            ClusterState(workload.nodes).snapshot(), workload.requests, workload.gangs
        )
        for objective in ("order", "pods", "gpu"):
            made, seconds = _planned(snapshot.problem(objective), limit)
            uids = {placement.pod.uid for placement in made.placements}
            value, first = _figures(workload, uids, objective)
            best = max((_figures(workload, each, objective) for each in rivals), default=(0, 0))
            bound = sum(tier.bound for tier in made.tiers)
            report.add(
                what=objective, nodes=nodes, pods=len(workload.requests), value=value,
                best_policy=best[0], bound=None if objective == "order" else bound,
                gap_percent=None
                if objective == "order"
                else round(100 * (bound - value) / max(1, bound), 2),
                placed=first, moves=len(made.moves), status=made.status.value,
                seconds=round(seconds, 1),
            )  # fmt: skip
    for nodes in rooms:
        waiting = nodes * 15 // 100
        made, seconds = _planned(_fragmented(nodes, waiting, seed), limit)
        served = waiting - len(made.unplaced)
        report.add(
            what="room", nodes=nodes, pods=waiting, value=served, best_policy=None,
            bound=waiting, gap_percent=round(100 * (waiting - served) / waiting, 2),
            placed=served, moves=len(made.moves), status=made.status.value,
            seconds=round(seconds, 1),
        )  # fmt: skip


def _planned(problem: Problem, limit: float) -> tuple[Plan, float]:
    started = time.process_time()
    made = plan(problem, Budget(limit, clock=CLOCKS["cpu"]))
    return made, time.process_time() - started


def _alone(workload: Workload, policy: str) -> set[str]:
    """Who gets a place where a policy places one pod after another."""
    outcome = run(workload, Experiment(policy, 0, "as-listed"))
    pending = {one.pod.uid for one in outcome.pending}
    return {pod.uid for pod in workload.requests} - pending


def _figures(workload: Workload, uids: set[str], objective: str) -> tuple[int, int]:
    """What counts, and pods placed."""
    pods = [pod for pod in workload.requests if pod.uid in uids]
    if objective == "order":
        missing = (n for n, pod in enumerate(workload.requests) if pod.uid not in uids)
        return next(missing, len(workload.requests)), len(pods)
    if objective == "gpu":
        return sum(pod.gpu.requested_milli for pod in pods), len(pods)
    return len(pods), len(pods)


def _fragmented(nodes: int, waiting: int, seed: int) -> Problem:
    """Pods run at random places; jobs that need a whole node wait."""
    rng = random.Random(f"planscale/{nodes}/{seed}")
    devices = (Device("A100", 81_920),) * 8
    listed = [Node(f"n{i:05d}", 128_000, 1000 << 30, 110, devices=devices) for i in range(nodes)]
    state, free = ClusterState(listed), [8] * nodes
    left, number = int(8 * nodes * _FILLED), 0
    while left > 0:
        size, at = rng.choice(_SIZES), rng.randrange(nodes)
        if free[at] < size:
            continue
        shares = tuple(DeviceShare(8 - free[at] + d, 1000, 81_920) for d in range(size))
        state.apply([Placement(_pod(f"r{number}", size), listed[at].name, shares)])
        free[at], left, number = free[at] - size, left - size, number + 1
    movable = {uid: Disruption() for uid in state.placements}
    pending = tuple(_pod(f"big{i}", 8) for i in range(waiting))
    return Problem(state.snapshot(), pending, movable, objective="order")


def _pod(name: str, gpus: int) -> PodRequest:
    return PodRequest(
        name, "a", name, cpu_milli=4000 * gpus, memory_bytes=8 << 30, gpu=GpuRequest(count=gpus)
    )
