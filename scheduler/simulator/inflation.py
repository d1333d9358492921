"""The inflation protocol: pods arrive one by one and never leave; how much gets allocated?

The protocol of the FGD evaluation (Weng et al., USENIX ATC'23): shuffle the trace's pods, then
append pods drawn uniformly with replacement from the trace until the next one would push the
requested milli-GPU over ``arrival`` times the capacity; a trace that starts above that is cut from
its end. Node order is shuffled too. A pod that fits somewhere is placed, any other stays pending.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from scheduler.core.engine import Engine
from scheduler.core.errors import InvalidInput, SchedulerError
from scheduler.core.model import Node, Placement, PodRequest, Reason
from scheduler.core.neighbours import Neighbours
from scheduler.core.power import PowerMeter, PowerModel
from scheduler.core.price_weights import PriceWeights
from scheduler.core.selection import admits
from scheduler.core.state import ClusterState
from scheduler.core.validator import Validator
from scheduler.core.workload_profile import WorkloadProfile
from scheduler.files.workload import Workload, meet, place_bound
from scheduler.simulator.pending import PendingPod, by_class, pending_pods
from scheduler.simulator.pricing import Pricing

__all__ = [
    "SHARES",
    "Experiment",
    "Outcome",
    "Selector",
    "Stream",
    "ValidatorMismatch",
    "as_listed",
    "chooser",
    "inflate",
    "let_in",
    "run",
]

_MOST_ARRIVAL = 100

SHARES = ("0.30", "0.40", "0.50", "0.60", "0.70", "0.80", "0.90", "1.00", "1.10", "1.20", "1.30")
"""Requested shares of the capacity at which allocation and power are noted."""


class ValidatorMismatch(SchedulerError):
    """The validator's ledger disagrees with the state. A fault of ours, never of the input."""


class Selector(Protocol):
    """Anything that picks a row for a pod, or -1, among those that let the pod in."""

    def best(self, request: PodRequest) -> int:
        """Row of the chosen node, or -1."""


def chooser(
    engine: Engine, selector: Callable[[Engine], Selector] | None
) -> Callable[[PodRequest], int]:
    """What picks the row of a pod: an emulated scheduler, or the engine on nodes that let it in."""
    return selector(engine).best if selector else partial(engine.best, selection=True)


@dataclass(frozen=True, slots=True)
class Experiment:
    """What was run. Its hash names the result.

    Parameters
    ----------
    policy
        Name of a policy.
    seed
        Shuffles pods and nodes, draws the appended pods, and salts randomised policies.
    protocol
        ``inflation`` or ``as-listed``.
    arrival
        Requested milli-GPU at the end of the stream, as a share of the capacity.
    trace
        Digest of the workload.
    scheduler
        The emulated scheduler around the engine, if any.
    workload_profile
        ``given``: typical pods are those of the whole workload; ``learnt``: those seen so far.
    weights
        Of policy ``priced``; its defaults if left out.
    """

    policy: str
    seed: int
    protocol: str = "inflation"
    arrival: float = 1.3
    trace: str = ""
    scheduler: str = ""
    workload_profile: str = "given"
    weights: PriceWeights | None = None

    @property
    def config_hash(self) -> str:
        """First 16 hex digits of the SHA-256 over the canonical JSON of all fields."""
        stated = asdict(self)
        profile = stated.pop("workload_profile")
        if profile != "given":  # what is not said does not change a name that is known already
            stated["mix"] = profile  # nor does the name of the field
        if self.weights is None:
            del stated["weights"]
        canonical = json.dumps(stated, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Stream:
    """Nodes and pods in the order in which they are used."""

    nodes: tuple[Node, ...]
    requests: tuple[PodRequest, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one run; ``seconds`` is the decision loop alone, without set-up and validator.

    Power is that of :class:`PowerModel`, in kW: at the shares of ``allocation_at`` and at the end.
    ``sizes`` counts pods and placed pods by :data:`CLASSES`. A run that was ``stopped`` has tried
    only so many of them.
    """

    experiment: Experiment
    capacity_gpu_milli: int
    requested_gpu_milli: int
    allocated_gpu_milli: int
    allocation_at: dict[str, float]
    placed: int
    pending: tuple[PendingPod, ...]
    seconds: float
    power_kw_at: dict[str, float]
    power_kw: float
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    stopped: bool = False

    def to_json(self) -> dict[str, Any]:
        """The interface of ``snugfit simulate --json``."""
        return {
            "policy": self.experiment.policy,
            "seed": self.experiment.seed,
            "config_hash": self.experiment.config_hash,
            "protocol": self.experiment.protocol,
            "capacity_gpu_milli": self.capacity_gpu_milli,
            "requested_gpu_milli": self.requested_gpu_milli,
            "allocated_gpu_milli": self.allocated_gpu_milli,
            "allocation_at": self.allocation_at,
            "placed": self.placed,
            "pending": len(self.pending),
            "sizes": self.sizes,
            "power_kw_at": self.power_kw_at,
            "power_kw": self.power_kw,
            "workload_profile": self.experiment.workload_profile,
            "stopped": self.stopped,
            "seconds": round(self.seconds, 4),
            "pending_pods": [one.to_json() for one in self.pending],
        }

    @property
    def allocated_percent(self) -> float:
        """GPU allocated at the end, of the capacity."""
        return 100 * self.allocated_gpu_milli / (self.capacity_gpu_milli or 1)


def as_listed(workload: Workload) -> Stream:
    """Nodes and pods as they are."""
    return Stream(workload.nodes, workload.requests)


def inflate(workload: Workload, *, seed: int, arrival: float = 1.3) -> Stream:
    """The stream of the inflation protocol.

    Nodes and pods are shuffled, and pods drawn, by three generators of their own, so that the
    same seed gives the same node order whatever the pods.

    Raises
    ------
    InvalidInput
        ``arrival`` is not positive, or the trace asks for no GPU and could never end.
    """
    if not 0 < arrival <= _MOST_ARRIVAL:
        raise InvalidInput(
            "arrival",
            f"is {arrival}",
            f"use a share of capacity above 0, up to {_MOST_ARRIVAL}",
        )
    nodes, requests = list(workload.nodes), list(workload.requests)
    random.Random(f"nodes/{seed}").shuffle(nodes)  # noqa: S311 - reproducible, not secret
    random.Random(f"pods/{seed}").shuffle(requests)  # noqa: S311
    limit = arrival * workload.gpu_milli
    requested = sum(request.gpu.requested_milli for request in requests)
    if limit and not requested:
        raise InvalidInput("pods", "ask for no GPU", "inflation needs pods that do")
    while requests and requested > limit:
        requested -= requests.pop().gpu.requested_milli
    trace, draw = workload.requests, random.Random(f"draw/{seed}")  # noqa: S311
    while limit:
        pod = trace[draw.randrange(len(trace))]
        requested += pod.gpu.requested_milli
        if requested > limit:
            break
        serial = len(requests)
        requests.append(replace(pod, uid=f"{pod.uid}+{serial}", name=f"{pod.name}+{serial}"))
    return Stream(tuple(nodes), tuple(requests))


def run(
    workload: Workload,
    experiment: Experiment,
    *,
    selector: Callable[[Engine], Selector] | None = None,
    watts: PowerModel | None = None,
    progress: Callable[[int, int], None] | None = None,
    observe: Callable[[int, float, Engine], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Outcome:
    """Run one experiment and have the validator follow every decision.

    Parameters
    ----------
    workload
        Nodes and pods.
    experiment
        What to run.
    selector
        Puts an emulated scheduler in front of the engine.
    watts
        How much power devices draw, for the figures of power alone.
    progress
        Called now and then with pods done and pods in all.
    observe
        Called after every pod with its number, the requested share so far and the engine.
    stop
        Asked before every pod whether to end here.

    Raises
    ------
    ValidatorMismatch
        The validator counts something else than the state.
    """
    stream = _stream(workload, experiment)
    profile = WorkloadProfile.from_requests(workload.requests)
    state = ClusterState(stream.nodes)
    engine = Engine(state, experiment.policy, profile=profile, seed=experiment.seed)
    place_bound(engine, workload)
    meet(engine, workload)
    pricing = Pricing(engine, experiment.workload_profile, experiment.weights)
    choose = chooser(engine, selector)
    capacity = sum(node.gpu_milli for node in stream.nodes)
    thresholds = [(name, float(name) * capacity) for name in SHARES] if capacity else []
    allocated = sum(placement.gpu_milli for placement in state.placements.values())
    requested = placed = 0
    pending: list[PodRequest] = []
    allocation_at: dict[str, float] = {}
    power_kw_at: dict[str, float] = {}
    meter = PowerMeter(state, watts)

    def note(share: str) -> None:
        allocation_at[share] = round(100 * allocated / capacity, 4)
        power_kw_at[share] = meter.read() / 1000

    log: list[Placement] = list(state.placements.values())
    started = time.perf_counter()
    for number, request in enumerate(stream.requests):
        if stop is not None and stop():
            break
        pricing.arrives(request)
        pricing.refresh()
        requested += request.gpu.requested_milli
        row = choose(request)
        if row >= 0:
            node = state.node(row)
            placement = engine.place_on(request, node.name)
            if engine.neighbours is not None:
                engine.neighbours.add(request, row)
            pricing.starts(request)
            log.append(placement)
            allocated += placement.gpu_milli
            placed += 1
        else:
            pending.append(request)
        while thresholds and requested >= thresholds[0][1]:
            note(thresholds.pop(0)[0])
        if observe:
            observe(number, requested / capacity if capacity else 0.0, engine)
        if progress and number % 200 == 0:
            progress(number, len(stream.requests))
    seconds = time.perf_counter() - started
    # The stream ends just below the arrival it was made for; that end is its figure.
    tried = placed + len(pending)
    stopped = tried < len(stream.requests)
    if thresholds and experiment.protocol == "inflation" and not stopped:
        name, _ = thresholds[0]
        if abs(float(name) - experiment.arrival) < 1e-9:
            note(name)
    _validator(stream, workload, log, allocated, state)
    _step_by_step(state, workload, log)
    left = pending_pods(engine, pending)
    return Outcome(
        experiment,
        capacity,
        requested,
        allocated,
        allocation_at,
        placed,
        left,
        seconds,
        power_kw_at,
        meter.read() / 1000,
        by_class(stream.requests[:tried], left),
        stopped,
    )


def _stream(workload: Workload, experiment: Experiment) -> Stream:
    if experiment.protocol == "inflation":
        return inflate(workload, seed=experiment.seed, arrival=experiment.arrival)
    if experiment.protocol == "as-listed":
        return as_listed(workload)
    raise InvalidInput("protocol", f"unknown {experiment.protocol!r}", "use inflation or as-listed")


def let_in(state: ClusterState, placement: Placement) -> None:
    """Raise :class:`ValidatorMismatch` if the node of a placement does not let the pod in."""
    node = state.node(state.row(placement.node))
    admitted = admits(node, placement.pod)
    if admitted is not Reason.FITS:
        raise ValidatorMismatch(f"{placement.pod.key} on {placement.node}: {admitted.text}")


def _step_by_step(state: ClusterState, workload: Workload, log: list[Placement]) -> None:
    """Whether the rules between pods let everybody in, one after another, as the log says."""
    running = {bound.request.uid for bound in workload.bound}
    everybody = [placement.pod for placement in log]
    there = Neighbours.among(state.nodes, everybody)
    for placement in log if there is not None else ():
        assert there is not None
        row = state.row(placement.node)
        admitted = there.admits(placement.pod, row)
        if placement.pod.uid not in running and admitted is not Reason.FITS:
            raise ValidatorMismatch(f"{placement.pod.key} on {placement.node}: {admitted.text}")
        there.add(placement.pod, row)


def _validator(
    stream: Stream, workload: Workload, log: list[Placement], allocated: int, state: ClusterState
) -> None:
    """Replay the log; running pods of a dump are facts that may over-fill and are not judged.

    Of the others there, only whether their node lets them in can be stated.
    """
    if workload.bound:
        differences = state.check()
        if differences:
            raise ValidatorMismatch(f"the state drifted: {differences[0]}")
        running = {bound.request.uid for bound in workload.bound}
        for placement in log:
            if placement.pod.uid not in running:
                let_in(state, placement)
        return
    validator = Validator(stream.nodes)
    for placement in log:
        validator.place(placement)
    if validator.allocated_milli != allocated or validator.placed != len(state.placements):
        raise ValidatorMismatch(
            f"the validator counts {validator.allocated_milli} milli-GPU, the run {allocated}"
        )
