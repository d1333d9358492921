"""The planner process beside the web process: spawned, bounded, replaced when it misbehaves.

A thread of the web process watches for work, hands the planner a copy of the cluster in small
pieces (so that no request waits for one long serialisation), and adopts what comes back. The
solver is never imported here: if the planner dies or is slow, the webhook goes on with its scoring.
"""

from __future__ import annotations

import logging
import os
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scheduler.cluster.ledger import Ledger
from scheduler.cluster.repricing import put_prices
from scheduler.cluster.view import PlanningView, planning_view, prices_in_force
from scheduler.cluster.worker.process import Companion, CompanionFault, Counterpart
from scheduler.core.gangs.spec import GangSpec
from scheduler.core.mix import TypicalMix
from scheduler.core.model import GangKey, Node, Placement, PodRequest, Release
from scheduler.core.prices import PriceWeights
from scheduler.core.state import ClusterState

__all__ = ["PlannerFigures", "PlannerLoop", "decided_by"]

log = logging.getLogger(__name__)

_PIECE = 25  # what is serialised at once, without anybody else in the interpreter
_GRACE_S = 5.0
_LOOK_S = 0.05  # at 300 pods a second, fifteen are placed at old prices meanwhile
_IDLE = 4  # times as long as a pricing takes the next one waits, for mixes and nodes
_RETRY_S = 1.0
_MOST_RETRY_S = 30.0
_NICE = 10
_PRICES_LAST = 6  # times the longest wait between two pricings


@dataclass
class PlannerFigures:
    """What the planner has done so far, for metrics.

    Attributes
    ----------
    plans : Counter of str
        Plans by status, and ``crashed``, ``stuck``, ``killed``, ``failed`` attempts.
    faults : Counter of str
        Processes by why they were given up: ``crashed`` by themselves, ``stuck`` without a sign of
        life, ``killed`` past their deadline, ``failed`` by an error of ours.
    rejected : Counter of str
        Planned pods that were not adopted, by cause.
    """

    plans: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    planned: int = 0
    adopted: int = 0
    last_seconds: float = 0.0
    last_gap: float = 0.0
    last_at: float | None = None
    price_seconds: float = 0.0
    priced_at: float | None = None
    restarts: int = 0


class PlannerLoop:
    """Runs the planner process and adopts its plans.

    Parameters
    ----------
    ledger
        Where the backlog comes from and plans go; with budget, debounce and memory limit.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        config = self._config = ledger.config
        self._weights = config.price_weights()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="planner", daemon=True)
        self._companion: Companion | None = None
        self._busy = ""
        self._gave_up = 0  # processes in a row, since the last answer
        self._start_again_at: float | None = None  # at once by whoever asks; unasked not before
        self._sent_epoch = -1
        self._sent_nodes: Mapping[str, Node] = {}
        self._sent_placements: Mapping[str, Placement] = {}
        self._priced_mix: TypicalMix | None = None
        self._pricing_took_s = 0.0
        self._price_again_at = 0.0  # not before, since it has just failed
        self.figures = PlannerFigures()

    @property
    def pid(self) -> int | None:
        """Process id of the planner, if it runs."""
        companion = self._companion
        return companion.pid if companion is not None else None

    @property
    def state(self) -> str:
        """What the process does: ``down``, ``starting``, ``idle``, ``plan`` or ``price``."""
        companion = self._companion
        if companion is None or companion.pid is None:
            return "down"
        return (self._busy or "idle") if companion.loaded else "starting"

    def detail(self) -> dict[str, Any]:
        """For ``/readyz``: what is computed, how old what is in force is, what went wrong."""
        made = self.figures.priced_at
        return {
            "state": self.state,
            "price_age_seconds": None if made is None else round(time.monotonic() - made, 1),
            "given_up": dict(sorted(self.figures.faults.items())),
        }

    def start(self) -> None:
        """Begin planning."""
        self._thread.start()

    def stop(self) -> None:
        """End the loop and the process. Callable from any thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=_GRACE_S)
        self._end_process()

    # -- the loop ----------------------------------------------------------------------------

    def _run(self) -> None:
        seen: tuple[object, ...] | None = None
        planned_at = time.monotonic()
        while not self._stop.wait(_LOOK_S):
            try:
                self._look()
                if self._config.policy == "priced" and self._reprice_due():
                    self._reprice(planning_view(self._ledger))
                if time.monotonic() - planned_at < self._config.planner_debounce_s:
                    continue
                planned_at = time.monotonic()
                view = planning_view(self._ledger) if self._config.planner else None
                if view is not None and view.pending and view.stamp != seen:
                    seen = view.stamp
                    answer = self._ask(view, "plan", (self._config.planner_budget_s, view.gangs))
                    if answer is not None:
                        self._adopt(answer, view)
                    planned_at = time.monotonic()
            except Exception:  # the loop must outlive whatever a plan does
                log.exception("planning failed; the webhook goes on without this plan")
                self.figures.plans["failed"] += 1
                self._give_up("failed")
                self._price_later()

    def _look(self) -> None:
        """Notice that the process has ended or is stuck while nothing is asked of it."""
        companion = self._companion
        if companion is not None:
            try:
                companion.look()
            except CompanionFault as fault:
                self._lost(fault)
        elif self._start_again_at is not None and time.monotonic() >= self._start_again_at:
            self._ensure_process()

    def _reprice_due(self) -> bool:
        """Whether prices are to be made anew, and the last attempt has not just failed."""
        now = time.monotonic()
        # Nodes that come one by one are not worth a pricing each, nor is every first pod.
        pause_s = min(self._config.planner_debounce_s, _IDLE * self._pricing_took_s)
        if now < self._price_again_at:
            return False
        with self._ledger.locked(chore=True) as cluster:
            return cluster.pricing.prices_due(now, cluster.engine.state.node_epoch, pause_s)

    def _reprice(self, view: PlanningView) -> None:
        started, task = time.monotonic(), view.pricing
        answer = self._ask(view, "price", (task.mix, self._weights, task.departures))
        if answer is None or "fault" in answer:
            if answer is not None:
                log.error("prices could not be computed: %s", answer["fault"])
            self._price_later()
            return
        self.figures.price_seconds = answer["seconds"]
        made = answer["prices"]
        if made is not None:
            self.figures.priced_at = time.monotonic()
        if made is not None or task.mix is not self._priced_mix:
            # Where there are none, the last good ones stay.
            put_prices(self._ledger, made or prices_in_force(self._ledger), task.mix)
        with self._ledger.locked(chore=True) as cluster:
            cluster.pricing.priced(task, time.monotonic())
        self._pricing_took_s = time.monotonic() - started
        self._priced_mix = task.mix

    def _price_later(self) -> None:
        """Pricing has failed: neither try five times a second nor charge old prices for ever."""
        self._price_again_at = time.monotonic() + max(_RETRY_S, self._config.planner_debounce_s)
        self._drop_old_prices()

    def _drop_old_prices(self) -> None:
        """Without new prices the last good ones stay for a while; then the policy is ``fgd``."""
        made, longest = self.figures.priced_at, _PRICES_LAST * max(1.0, self._config.reprice_s)
        if made is not None and time.monotonic() - made > longest:
            log.warning("no prices for %.0f s; scoring as fgd until there are some", longest)
            put_prices(self._ledger, None)
            self.figures.priced_at = None

    def _ask(self, view: PlanningView, what: str, content: Any) -> dict[str, Any] | None:  # noqa: ANN401 - what the question takes
        """Hand the cluster over and wait for the answer; None if there was none."""
        self._busy = what
        try:
            companion = self._ensure_process()
            if view.epoch != self._sent_epoch:
                nodes = {node.name: node for node in view.nodes}
                self._send_changes(companion, "nodes", self._sent_nodes, nodes)
                self._sent_nodes, self._sent_epoch = nodes, view.epoch
            placed = {placement.pod.uid: placement for placement in view.placements}
            self._send_changes(companion, "placements", self._sent_placements, placed)
            self._sent_placements = placed
            self._send(companion, "pending", view.pending)
            companion.send((what, content))
            answer: dict[str, Any] = companion.receive(2 * self._config.planner_budget_s + _GRACE_S)
        except CompanionFault as fault:
            self._lost(fault)
            return None
        finally:
            self._busy = ""
        self._gave_up = 0
        return answer

    def _send_changes(
        self, companion: Companion, what: str, before: Mapping[str, Any], now: Mapping[str, Any]
    ) -> None:
        """Tell what has gone and what is new; the planner process remembers the rest."""
        gone = [key for key, item in before.items() if now.get(key) is not item]
        self._send(companion, f"no {what}", gone)
        new = [item for key, item in now.items() if before.get(key) is not item]
        self._send(companion, what, new)

    def _send(self, companion: Companion, what: str, items: Sequence[Any]) -> None:
        for start in range(0, len(items), _PIECE):
            companion.send((what, items[start : start + _PIECE]))

    def _adopt(self, answer: dict[str, Any], view: PlanningView) -> None:
        figures = self.figures
        if "fault" in answer:
            log.error("the planner reports a fault: %s", answer["fault"])
            figures.plans["failed"] += 1
            return
        pending = {pod.uid: pod for pod in view.pending}
        places = [(pending[uid], node) for uid, node in answer["places"] if uid in pending]
        for piece in _pieces(places):  # requests get in between
            with self._ledger.locked(chore=True) as cluster:
                cluster.expire()
                adopted, rejected = cluster.gangs.adopt(
                    piece, cluster.now, generation=view.generation
                )
            figures.adopted += adopted
            figures.rejected.update(rejected)
        figures.plans[answer["status"].lower()] += 1
        figures.planned += len(places)
        figures.last_seconds, figures.last_gap = answer["seconds"], answer["gap"]
        figures.last_at = time.monotonic()

    # -- the process -------------------------------------------------------------------------

    def _ensure_process(self) -> Companion:
        if self._companion is not None and self._companion.pid is not None:
            return self._companion
        self._end_process()
        self._start_again_at = None
        self._companion = Companion(_serve, (self._config.planner_memory_mib,), self._stop)
        self._sent_epoch = -1
        self._sent_nodes, self._sent_placements = {}, {}
        self.figures.restarts += 1
        return self._companion

    def _lost(self, fault: CompanionFault) -> None:
        if not self._stop.is_set():
            log.warning("the planner process %s; it is replaced", fault)
            if self._busy:
                self.figures.plans[fault.cause] += 1
            self._give_up(fault.cause)

    def _give_up(self, cause: str) -> None:
        """End the process. In place of a stuck one the next starts at once, else it may take long
        until somebody asks; one that dies whenever it comes up is started ever more rarely.
        """
        self.figures.faults[cause] += 1
        self._end_process()
        pause = max(_RETRY_S, self._config.planner_debounce_s)
        wait = min(max(pause, _MOST_RETRY_S), pause * 2 ** min(self._gave_up, 16))
        at_once = cause == "stuck" and not self._gave_up
        self._start_again_at = time.monotonic() + (0.0 if at_once else wait)
        self._gave_up += 1

    def _end_process(self) -> None:
        companion, self._companion = self._companion, None
        if companion is not None:
            companion.end()


def decided_by(ledger: Ledger) -> str:
    """What scores nodes now: the policy; with ``priced`` ``prices``, or ``fgd`` without any."""
    policy = ledger.config.policy
    return policy if policy != "priced" else "prices" if prices_in_force(ledger) else "fgd"


def _pieces(places: Sequence[tuple[PodRequest, str]]) -> Iterator[list[tuple[PodRequest, str]]]:
    """The places in pieces of about ``_PIECE``, each gang in one."""
    gangs: dict[GangKey, list[tuple[PodRequest, str]]] = {}
    piece: list[tuple[PodRequest, str]] = []
    for request, node in places:
        if request.gang is not None:
            gangs.setdefault(request.gang, []).append((request, node))
        else:
            piece.append((request, node))
        if len(piece) >= _PIECE:
            yield piece
            piece = []
    for gang in gangs.values():
        piece += gang
        if len(piece) >= _PIECE:
            yield piece
            piece = []
    if piece:
        yield piece


def _serve(caller: Counterpart, memory_mib: int) -> None:
    """Main of the planner process: follows the cluster piece by piece, plans and prices it.

    A piece that does not go with what is known is a fault of ours: it ends the process, and the
    next one is told everything anew.
    """
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
    os.nice(_NICE)  # a plan may take what the webhook leaves
    state = ClusterState()
    gone: set[str] = set()
    pending: list[PodRequest] = []
    for what, content in caller.messages():
        match what:
            case "no nodes":
                gone.update(content)  # or changed: then it comes again, and keeps its pods
            case "nodes":
                for node in content:
                    state.add_node(replace(node, by_dra=()) if node.by_dra else node)
                    gone.discard(node.name)
            case "no placements":
                state.apply([Release(uid) for uid in content])
            case "placements":
                state.apply(content, enforce=False)
            case "pending":
                pending += content
            case _:
                for name in gone:
                    state.remove_node(name)
                gone.clear()
                caller.answer(_ANSWERS[what](state, pending, content))
                pending = []


def _price(
    state: ClusterState, _: Sequence[PodRequest], content: tuple[TypicalMix, PriceWeights, float]
) -> dict[str, Any]:
    from scheduler.planner.pricing.compute import prices  # noqa: PLC0415 - as below

    started = time.perf_counter()
    mix, weights, departures = content
    try:
        made = prices(state, mix, weights, departures=departures)
    except Exception as error:  # noqa: BLE001 - told to the web process, which logs it
        return {"fault": f"{type(error).__name__}: {error}"}
    return {"prices": made, "seconds": time.perf_counter() - started}


def _plan(
    state: ClusterState,
    pending: Sequence[PodRequest],
    content: tuple[float, Mapping[GangKey, GangSpec]],
) -> dict[str, Any]:
    # Imported in the planner process alone: the solver takes a third of a second and 100 MB.
    from scheduler.advisor.snapshot import Snapshot  # noqa: PLC0415
    from scheduler.planner.effort import Budget  # noqa: PLC0415
    from scheduler.planner.plan import plan  # noqa: PLC0415

    seconds, gangs = content
    try:
        problem = Snapshot(state.fork(), tuple(pending), gangs).problem()
        made = plan(problem, Budget(seconds, workers=1))
    except Exception as error:  # noqa: BLE001 - told to the web process, which logs it
        return {"fault": f"{type(error).__name__}: {error}"}
    value = sum(tier.value for tier in made.tiers)
    bound = sum(tier.bound for tier in made.tiers)
    return {
        "status": made.status.value,
        "places": [(placement.pod.uid, placement.node) for placement in made.placements],
        "seconds": made.seconds,
        "gap": (bound - value) / bound if bound else 0.0,
    }


_ANSWERS: dict[str, Callable[[ClusterState, Sequence[PodRequest], Any], dict[str, Any]]] = {
    "plan": _plan,
    "price": _price,
}
