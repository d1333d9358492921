"""Replay with time: pods arrive, wait, run for their duration and leave.

The queue behaves as kube-scheduler's: the active queue orders by priority, then by the time a pod
entered it; a pod that fits nowhere waits in the unschedulable pool and is tried again once a pod
has left and its backoff, which doubles from 1 s to 10 s, is over. (The flush of the pool every five
minutes is left out: between two departures room only shrinks, so it would place nothing.) A
scheduling cycle itself takes no simulated time.

Who decides in a cycle, the webhook's code or stock kube-scheduler, is in :mod:`.schedulers`. Beside
the webhook's code a pod is also tried again when the extender would requeue it: room that was kept
for a gang ends without a departure, and no event tells kube-scheduler. Priorities order the queue;
nobody is evicted for them.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from scheduler.advisor.snapshot import Snapshot
from scheduler.core.engine import Engine
from scheduler.core.errors import InvalidInput
from scheduler.core.gangs.spec import minimum_of
from scheduler.core.model import GangKey, Placement, PodRequest, Reason
from scheduler.core.power import PowerMeter, PowerModel
from scheduler.core.state import ClusterState
from scheduler.core.validator import Validator
from scheduler.core.workload_profile import WorkloadProfile
from scheduler.files.workload import Arrival, Workload, meet, place_bound
from scheduler.planner.effort import Budget
from scheduler.simulator.inflation import (
    Experiment,
    Selector,
    ValidatorMismatch,
    chooser,
    let_in,
)
from scheduler.simulator.pending import CLASSES, PendingPod, by_class, pending_pods, pod_class
from scheduler.simulator.pricing import Pricing
from scheduler.simulator.queueing import Event, Pending, Queue, backoff_s
from scheduler.simulator.schedulers import Extended, Scheduler, Stock

__all__ = ["ReplayOutcome", "Waiting", "backoff_s", "replay"]

_STOCK = "kube-default"
_MOST_LOOKS_IN_VAIN = 64
_TURN_S = 1.0  # of the thread that looks at refused pods
_PLAN_WORK = 0.2  # deterministic seconds: a plan has to be cheap to be made often


@dataclass(frozen=True, slots=True)
class Waiting:
    """How long the pods of a class waited, in seconds; ``pending`` were never placed."""

    pods: int
    pending: int
    p50_s: float
    p95_s: float
    max_s: float


@dataclass(frozen=True, slots=True)
class ReplayOutcome:
    """Result of a replay.

    Attributes
    ----------
    allocation_percent
        Time-weighted mean of allocated GPU over capacity, from the first to the last arrival.
    demand_percent
        The same for what the pods in the system ask for, running or waiting.
    waiting
        By pod class.
    gangs_whole, gangs_half, gangs_none
        Gangs of which all members ran at one time; some but never all; none.
    half_gang_gpu_hours
        GPU time held by members of gangs that were not whole at that time.
    planned
        Whether a planner planned the waiting pods from time to time.
    power_kw
        Time-weighted mean of what the nodes draw by :class:`PowerModel`.
    pending
        Pods that were never placed.
    sizes
        Pods and placed pods by :data:`CLASSES`.
    stopped
        Whether the run ended before its last event; ``pods`` are those that had arrived.
    """

    experiment: Experiment
    rate: float
    pods: int
    placed: int
    attempts: int
    plans: int
    allocation_percent: float
    demand_percent: float
    peak_percent: float
    waiting: dict[str, Waiting]
    gangs_whole: int
    gangs_half: int
    gangs_none: int
    half_gang_gpu_hours: float
    seconds: float
    planned: bool = False
    power_kw: float = 0.0
    pending: tuple[PendingPod, ...] = ()
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    stopped: bool = False

    @property
    def label(self) -> str:
        """What to call this run beside others."""
        return f"{self.experiment.policy}{' + planner' if self.planned else ''}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "policy": self.experiment.policy,
            "planned": self.planned,
            "seed": self.experiment.seed,
            "config_hash": self.experiment.config_hash,
            "protocol": "replay",
            "rate": self.rate,
            "pods": self.pods,
            "placed": self.placed,
            "pending": self.pods - self.placed,
            "sizes": self.sizes,
            "attempts": self.attempts,
            "plans": self.plans,
            "allocation_percent": round(self.allocation_percent, 4),
            "demand_percent": round(self.demand_percent, 4),
            "peak_percent": round(self.peak_percent, 4),
            "power_kw": round(self.power_kw, 4),
            "waiting": {
                name: {"pods": wait.pods, "pending": wait.pending, **_seconds_json(wait)}
                for name, wait in self.waiting.items()
            },
            "gangs": {
                "whole": self.gangs_whole,
                "half": self.gangs_half,
                "none": self.gangs_none,
                "half_gang_gpu_hours": round(self.half_gang_gpu_hours, 4),
            },
            "workload_profile": self.experiment.workload_profile,
            "stopped": self.stopped,
            "seconds": round(self.seconds, 4),
            "pending_pods": [one.to_json() for one in self.pending],
        }


def replay(
    workload: Workload,
    experiment: Experiment,
    *,
    rate: float = 1.0,
    selector: Callable[[Engine], Selector] | None = None,
    plan_every_s: float = 0.0,
    watts: PowerModel | None = None,
    progress: Callable[[int, int], None] | None = None,
    observe: Callable[[float, Engine, Sequence[PodRequest]], None] | None = None,
    stop: Callable[[], bool] | None = None,
    started: Callable[[PodRequest, float], None] | None = None,
) -> ReplayOutcome:
    """Run the workload's own arrivals and departures.

    Parameters
    ----------
    workload
        Pods without a duration run for ever; so do the pods that run already.
    experiment
        What to run.
    rate
        How many times faster pods arrive than in the source; durations stay.
    selector
        Puts an emulated scheduler in front of the engine: stock kube-scheduler, as policy
        ``kube-default`` is. Any other policy is that of the extender, which starts gangs whole.
    plan_every_s
        Let the planner plan the waiting pods as often as that, in simulated time, without moving
        running ones. Gangs are then placed by plans alone, whole. 0 turns it off.
    watts
        How much power devices draw, for the figure of power alone.
    progress
        Called with events of arrival done and in all.
    observe
        Called with the simulated time, the engine and the pods that wait, about 200 times.
    stop
        Asked before every instant whether to end here.
    started
        Called with each pod that starts and the seconds that it had waited.

    Raises
    ------
    InvalidInput
        ``rate`` is not positive.
    ValidatorMismatch
        The validator counts something else than the state.
    """
    if not 0 < rate < math.inf:
        raise InvalidInput("rate", f"is {rate}", "use a number above 0")
    if plan_every_s < 0:
        raise InvalidInput("plan_every_s", f"is {plan_every_s}", "use 0 or more seconds")
    arrivals = [replace(arrival, at_s=arrival.at_s / rate) for arrival in workload.arrivals]
    run = _Run(workload, experiment, selector, plan_every_s, watts, started)
    return run.go(arrivals, rate, progress, observe, stop or (lambda: False))


@dataclass
class _Gang:
    """Members of one gang at this moment, and what became of it."""

    running: int = 0
    milli: int = 0
    most: int = 0


@dataclass
class _Clock:
    """Integrals over simulated time between the first and the last arrival."""

    begin_s: float
    end_s: float
    now_s: float
    allocated: float = 0.0
    demanded: float = 0.0
    half_gang: float = 0.0
    drawn: float = 0.0

    def advance(self, now: float, run: _Run) -> None:
        spent = max(0.0, min(now, self.end_s) - max(self.now_s, self.begin_s))
        self.allocated += spent * run.allocated
        self.demanded += spent * run.demanded
        self.drawn += spent * run.meter.read()
        self.half_gang += (now - self.now_s) * run.half_gang_milli
        self.now_s = now


@dataclass
class _Run:
    workload: Workload
    experiment: Experiment
    selector: Callable[[Engine], Selector] | None
    plan_every_s: float
    watts: PowerModel | None = None
    started: Callable[[PodRequest, float], None] | None = None
    waits: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    gangs: dict[GangKey, _Gang] = field(default_factory=dict)

    def __post_init__(self) -> None:
        experiment = self.experiment
        profile = WorkloadProfile.from_requests(self.workload.requests)
        self.state = ClusterState(self.workload.nodes)
        self.engine = Engine(self.state, experiment.policy, profile=profile, seed=experiment.seed)
        place_bound(self.engine, self.workload)
        meet(self.engine, self.workload)
        self.pricing = Pricing(self.engine, experiment.workload_profile, experiment.weights)
        self.now = 0.0
        self.scheduler = self._scheduler()
        self.validator = None if self.workload.bound else Validator(self.workload.nodes)
        self.allocated = sum(p.gpu_milli for p in self.state.placements.values())
        self.demanded = self.allocated
        self.peak = self.allocated
        self.half_gang_milli = 0
        self.meter = PowerMeter(self.state, self.watts)
        self.arrived = self.attempts = self.plans = 0
        self.planned_s = 0.0
        self.queue = Queue([])
        # Capacity only shrinks between departures: a shape that failed since the last one fails
        # again, whatever was placed meanwhile.
        self.failed: set[Hashable] = set()
        self.company = False
        self.expires_s = self.looks_s = math.inf
        self.in_vain = 0
        self.freed = False

    def _scheduler(self) -> Scheduler:
        if self.selector is not None or self.experiment.policy == _STOCK:
            return Stock(self.engine, chooser(self.engine, self.selector))
        gangs = not self.plan_every_s
        return Extended(self.engine, self.workload, lambda: self.now, gangs=gangs)

    def go(
        self,
        arrivals: list[Arrival],
        rate: float,
        progress: Callable[[int, int], None] | None,
        observe: Callable[[float, Engine, Sequence[PodRequest]], None] | None,
        stop: Callable[[], bool],
    ) -> ReplayOutcome:
        times = [arrival.at_s for arrival in arrivals]
        begin, end = min(times, default=0.0), max(times, default=0.0)
        clock = _Clock(begin, end, begin)
        pods = [Pending(arrival, serial) for serial, arrival in enumerate(arrivals)]
        queue = self.queue = Queue(pods)
        started = time.perf_counter()
        next_sample, step = begin, (end - begin) / 200
        while queue and not stop():
            now = self.now = queue.next_s
            clock.advance(now, self)
            self._turn(pods, now)
            if self.company:
                self._ask_company(now)
            if observe and next_sample <= now <= end:
                observe(now, self.engine, [pod.request for pod in queue.pool.values()])
                next_sample = now + step
            if progress and self.arrived % 200 == 0:
                progress(self.arrived, len(pods))
        seconds = time.perf_counter() - started
        differences = self.state.check()
        if differences:
            raise ValidatorMismatch(f"the state drifted: {differences[0]}")
        clock.end_s = min(clock.end_s, clock.now_s)
        arrived = [pod for pod in pods if pod.arrival.at_s <= clock.now_s]
        return _outcome(self, arrived, clock, rate, seconds)

    # -- events ------------------------------------------------------------------------------

    def _turn(self, pods: list[Pending], now: float) -> None:
        """Everything that happens at this instant."""
        active: dict[int, Pending] = {}
        kinds = set[Event]()
        while (event := self.queue.take(now)) is not None:
            kind, serial = event
            kinds.add(kind)
            if kind == Event.DEPARTURE:
                self._depart(pods[serial].request)
            elif kind == Event.EXPIRY:
                self._expire(now)
            elif kind == Event.ARRIVAL:
                self._arrive(pods[serial])
                active[serial] = pods[serial]
            elif kind == Event.RETRY and serial in self.queue.pool and Event.DEPARTURE not in kinds:
                active[serial] = pods[serial]  # else it is requeued with the others
        departed = Event.DEPARTURE in kinds
        if departed or (self.freed and Event.ARRIVAL in kinds):
            self.freed = False
            self.failed.clear()
            active |= {pod.serial: pod for pod in self.queue.wake(now)}
        if Event.LOOK in kinds:
            active |= {pod.serial: pod for pod in self._look(now)}
        if departed or Event.ARRIVAL in kinds:
            self.in_vain = 0
        placed = len(self.state.placements)
        self._cycles(list(active.values()), now)
        if Event.PLAN in kinds:
            self._carry_out_plan(now)
        if self.queue.pool and (active or departed):
            self._plan_later(now)
        if kinds & {Event.ARRIVAL, Event.DEPARTURE} or placed < len(self.state.placements):
            self._keep_asking(now)
        self._expire_later(now)

    def _cycles(self, active: list[Pending], now: float) -> None:
        """The scheduling cycles of this instant."""
        active.sort(key=lambda pod: (-pod.request.priority, pod.tried_s, pod.serial))
        for pod in active:
            if self.plan_every_s and self._waits_for_gang(pod.request):
                self.queue.wait(pod, now)
            else:
                self._try(pod, now)

    def _arrive(self, pod: Pending) -> None:
        request = pod.request
        self.arrived += 1
        self.demanded += request.gpu.requested_milli
        pod.tried_s = pod.arrival.at_s
        if request.gang:
            self.gangs.setdefault(request.gang, _Gang())
        self._exists(request)
        self.pricing.arrives(request)

    def _exists(self, request: PodRequest) -> None:
        """A pod waits: others of its gang may fit by that."""
        self.scheduler.arrives(request)
        if request.gang:
            self.failed.discard(request.gang)
            self.queue.ask_members(request.gang, self.now)

    def _depart(self, request: PodRequest) -> None:
        placement = self.state.placements[request.uid]
        if self.engine.neighbours is not None:
            self.engine.neighbours.remove(request, self.state.row_of[placement.node])
        self.scheduler.departs(request, ended=True)
        self.pricing.departs(request)
        if self.validator:
            self.validator.release(request.uid)
        self.allocated -= placement.gpu_milli
        self.demanded -= request.gpu.requested_milli
        self._count_gang(request, -1)

    def _ask_company(self, now: float) -> None:
        """A pod that rules are about has come: those that wait for company are tried again."""
        self.company = False
        for pod in self.queue.pool.values():
            standing = self.engine.neighbours and self.engine.neighbours.of(pod.request)
            if standing and (standing.together or standing.evenly):
                self.queue.ask_again(pod, now)

    def _try(self, pod: Pending, now: float) -> None:
        request = pod.request
        self.attempts += 1
        pod.attempts += 1
        pod.tried_s = now
        kind, placement = self.scheduler.kind(request), None
        if kind is None or kind not in self.failed:
            self.pricing.refresh()
            placement = self.scheduler.schedule(request)
            self._notice_growth(now)
        if placement is None:
            if kind is not None:
                self.failed.add(kind)
            self.queue.wait(pod, now)
            return
        self._start(pod, placement, now)

    # -- what the extender holds ---------------------------------------------------------------

    def _expire(self, now: float) -> None:
        self.expires_s = math.inf
        self.scheduler.expire()
        self._notice_growth(now)

    def _expire_later(self, now: float) -> None:
        """Have an event when what is held ends next."""
        ends = self.scheduler.expires()
        if ends < self.expires_s:
            self.expires_s = max(ends, now)
            self.queue.put(self.expires_s, Event.EXPIRY)

    def _keep_asking(self, now: float) -> None:
        """Members of gangs that hold places ask at every event, as all that an extender refuses."""
        for key in self.scheduler.holding():
            self.queue.ask_members(key, now)

    def _notice_growth(self, now: float) -> None:
        """Room was made that kube-scheduler does not hear of: it asks with the next event."""
        if self.scheduler.grown:
            self.scheduler.grown = False
            self.freed = True
            self.failed.clear()
            self._look_later(now)

    def _look_later(self, now: float) -> None:
        """Have the extender look at refused pods once it would requeue those of now."""
        due = now + self.scheduler.requeue_after_s + _TURN_S
        if self.in_vain < _MOST_LOOKS_IN_VAIN and due < self.looks_s:
            self.looks_s = due
            self.queue.put(due, Event.LOOK)

    def _look(self, now: float) -> list[Pending]:
        """Waiting pods that are requeued for the extender's sake."""
        self.looks_s = math.inf
        self.in_vain += 1
        waiting = {pod.request.uid: pod for pod in self.queue.pool.values()}
        refused = {uid: (pod.request, pod.tried_s) for uid, pod in waiting.items()}
        found = self.scheduler.requeued(refused)
        if found:
            self._look_later(now)
        return [waiting[request.uid] for request in found if request.uid in waiting]

    def _waits_for_gang(self, request: PodRequest) -> bool:
        """Whether the pod may start only together with others of its gang."""
        gang = request.gang
        return gang is not None and self.gangs[gang].running < self.minimum(gang)

    def minimum(self, gang: GangKey) -> int:
        """Members of a gang that must start together."""
        return minimum_of(self.workload.gangs, gang)

    def _plan_later(self, now: float) -> None:
        if self.plan_every_s and now >= self.planned_s:
            self.planned_s = now + self.plan_every_s
            self.queue.put(self.planned_s, Event.PLAN)

    def _carry_out_plan(self, now: float) -> None:
        """Plan all waiting pods at once and start those that the plan has a node for."""
        from scheduler.planner.plan import plan

        waiting = {pod.request.uid: pod for pod in self.queue.pool.values()}
        pending = tuple(pod.request for pod in waiting.values())
        snapshot = Snapshot(self.state.snapshot(), pending, self.workload.gangs)
        problem = snapshot.problem("gpu", policy=self.experiment.policy)
        made = plan(problem, Budget(_PLAN_WORK, deterministic=True, seed=self.experiment.seed))
        self.plans += 1
        for placement in made.placements:
            pod = waiting[placement.pod.uid]
            self.attempts += 1
            self.state.apply((placement,))
            self.scheduler.placed(placement.pod)
            self._start(pod, placement, now)

    def _start(self, pod: Pending, placement: Placement, now: float) -> None:
        request = pod.request
        self.queue.leave(pod)
        if self.validator:
            self.validator.place(placement)
        else:
            let_in(self.state, placement)
        there = self.engine.neighbours
        if there is not None:
            row = self.state.row_of[placement.node]
            admitted = there.admits(request, row)
            if admitted is not Reason.FITS:
                raise ValidatorMismatch(f"{request.key} on {placement.node}: {admitted.text}")
            there.add(request, row)
            self.company |= bool(there.of(request).traits)
        self.allocated += placement.gpu_milli
        self.peak = max(self.peak, self.allocated)
        self._count_gang(request, 1)
        self.pricing.starts(request)
        waited = now - pod.arrival.at_s
        self.waits[pod_class(request)].append(waited)
        if self.started is not None:
            self.started(request, waited)
        if pod.arrival.duration_s is not None:
            self.queue.put(now + pod.arrival.duration_s, Event.DEPARTURE, pod.serial)

    def _count_gang(self, request: PodRequest, sign: int) -> None:
        key = request.gang
        if key is None:
            return
        gang = self.gangs[key]
        if 0 < gang.running < self.minimum(key):
            self.half_gang_milli -= gang.milli
        gang.running += sign
        gang.milli += sign * request.gpu.requested_milli
        gang.most = max(gang.most, gang.running)
        if 0 < gang.running < self.minimum(key):
            self.half_gang_milli += gang.milli

    def protocol(self, rate: float) -> str:
        """What was run, for the hash of the experiment."""
        planned = f" planned every {self.plan_every_s:g} s" if self.plan_every_s else ""
        return (
            f"replay x{rate:g}{' learnt' * (self.experiment.workload_profile == 'learnt')}{planned}"
        )


def _outcome(
    run: _Run, pods: list[Pending], clock: _Clock, rate: float, seconds: float
) -> ReplayOutcome:
    """The figures of a run, of the pods that had arrived."""
    capacity = run.workload.gpu_milli or 1
    span = clock.end_s - clock.begin_s
    pending = pending_pods(run.engine, (p.request for p in run.queue.pool.values()))
    without = Counter(pod_class(one.pod) for one in pending)
    whole = sum(gang.most >= run.minimum(key) for key, gang in run.gangs.items())
    none = sum(gang.most == 0 for gang in run.gangs.values())
    return ReplayOutcome(
        replace(run.experiment, protocol=run.protocol(rate)),
        rate,
        len(pods),
        len(pods) - len(run.queue.pool),
        run.attempts,
        run.plans,
        100 * (clock.allocated / span if span else run.allocated) / capacity,
        100 * (clock.demanded / span if span else run.demanded) / capacity,
        100 * run.peak / capacity,
        {
            name: _waiting(run.waits.get(name, []), without[name])
            for name in CLASSES
            if run.waits.get(name) or without[name]
        },
        whole,
        len(run.gangs) - whole - none,
        none,
        clock.half_gang / 3_600_000,
        seconds,
        run.plan_every_s > 0,
        (clock.drawn / span if span else run.meter.read()) / 1000,
        pending,
        by_class((pod.request for pod in pods), pending),
        bool(run.queue),
    )


def _seconds_json(wait: Waiting) -> dict[str, float | None]:
    """Seconds; null where it is without end."""
    times = {"p50_s": wait.p50_s, "p95_s": wait.p95_s, "max_s": wait.max_s}
    return {key: round(s, 3) if s < float("inf") else None for key, s in times.items()}


def _waiting(times: list[float], pending: int) -> Waiting:
    """Percentiles over all pods; those never placed count as waiting without end."""
    waits = np.array([*times, *[np.inf] * pending])
    # "higher" is the wait of a pod: between it and one without end there is nothing to interpolate.
    p50, p95, most = np.percentile(waits, (50, 95, 100), method="higher").tolist()
    return Waiting(len(waits), pending, p50, p95, most)
