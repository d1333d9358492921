"""The planner process beside the web process: spawned, bounded, replaced when it misbehaves.

A thread of the web process watches for work, hands the planner a copy of the cluster in small
pieces (so that no request waits for one long serialisation), and adopts what comes back. The
solver is never imported here: if the planner dies or is slow, the webhook goes on with its scoring.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from scheduler.core.mix import TypicalMix
from scheduler.core.model import GangKey, Node, Placement, PodRequest, Release
from scheduler.core.prices import PriceWeights, reprice_after
from scheduler.core.state import ClusterState
from scheduler.extender.config import ExtenderConfig
from scheduler.extender.service import ExtenderService, PlanningView

__all__ = ["PlannerFigures", "PlannerLoop"]

log = logging.getLogger(__name__)

_PIECE = 25  # what is serialised at once, without anybody else in the interpreter
_GRACE_S = 5.0
_POLL_S = 0.2
_LOOK_S = 0.05  # at 300 pods a second, fifteen are placed at old prices meanwhile
_IDLE = 4  # times as long as a pricing takes the next one waits, for mixes and nodes
_RETRY_S = 1.0
_NICE = 10
_PRICES_LAST = 6  # times the longest wait between two pricings


@dataclass
class PlannerFigures:
    """What the planner has done so far, for metrics.

    Attributes
    ----------
    plans : Counter of str
        Plans by status, and ``crashed``, ``killed``, ``failed`` attempts.
    rejected : Counter of str
        Planned pods that were not adopted, by cause.
    """

    plans: Counter[str] = field(default_factory=Counter)
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
    service
        Where the backlog comes from and plans go.
    config
        Budget, debounce and memory limit.
    """

    def __init__(self, service: ExtenderService, config: ExtenderConfig) -> None:
        self._service, self._config = service, config
        self._weights = config.price_weights()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="planner", daemon=True)
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._sent_epoch = -1
        self._sent_nodes: Mapping[str, Node] = {}
        self._sent_placements: Mapping[str, Placement] = {}
        self._priced = (0.0, 0, -1)  # when, after how many bindings, for which nodes
        self._priced_mix: TypicalMix | None = None
        self._pricing_took_s = 0.0
        self._price_again_at = 0.0  # not before, since it has just failed
        self.figures = PlannerFigures()

    @property
    def pid(self) -> int | None:
        """Process id of the planner, if it runs."""
        process = self._process
        return process.pid if process is not None and process.is_alive() else None

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
                if self._config.policy == "priced" and self._reprice_due():
                    self._reprice(self._service.planning_view())
                if time.monotonic() - planned_at < self._config.planner_debounce_s:
                    continue
                planned_at = time.monotonic()
                view = self._service.planning_view() if self._config.planner else None
                if view is not None and view.pending and view.stamp != seen:
                    seen = view.stamp
                    answer = self._ask(view, "plan", self._config.planner_budget_s)
                    if answer is not None:
                        self._adopt(answer, view)
                    planned_at = time.monotonic()
            except Exception:  # the loop must outlive whatever a plan does
                log.exception("planning failed; the webhook goes on without this plan")
                self.figures.plans["failed"] += 1
                self._end_process()
                self._price_later()

    def _reprice_due(self) -> bool:
        """Whether enough has changed, or time has passed, since the prices in force were made."""
        at, bindings, epoch = self._priced
        now = self._service.bindings
        # Nodes that come one by one are not worth a pricing each, nor is every first pod.
        pause_s = min(self._config.planner_debounce_s, _IDLE * self._pricing_took_s)
        return time.monotonic() >= self._price_again_at and (
            (
                (epoch != self._service.node_epoch or self._priced_mix is not self._service.mix)
                and time.monotonic() - at >= pause_s
            )
            or abs(now - bindings)
            >= reprice_after(self._service.nodes, self._config.reprice_bindings)
            or (now != bindings and time.monotonic() - at >= self._config.reprice_s)
        )

    def _reprice(self, view: PlanningView) -> None:
        started = time.monotonic()
        answer = self._ask(view, "price", (view.mix, self._weights, view.departures))
        if answer is None or "fault" in answer:
            if answer is not None:
                log.error("prices could not be computed: %s", answer["fault"])
            self._price_later()
            return
        self.figures.price_seconds = answer["seconds"]
        made = answer["prices"]
        if made is not None:
            self.figures.priced_at = time.monotonic()
        if made is not None or view.mix is not self._priced_mix:
            # Where there are none, the last good ones stay.
            self._service.set_prices(made or self._service.prices, view.mix)
        self._priced = (time.monotonic(), view.bindings, view.epoch)
        self._pricing_took_s = time.monotonic() - started
        self._priced_mix = view.mix

    def _price_later(self) -> None:
        """Pricing has failed: neither try five times a second nor charge old prices for ever."""
        self._price_again_at = time.monotonic() + max(_RETRY_S, self._config.planner_debounce_s)
        self._drop_old_prices()

    def _drop_old_prices(self) -> None:
        """Without new prices the last good ones stay for a while; then the policy is ``fgd``."""
        made, longest = self.figures.priced_at, _PRICES_LAST * max(1.0, self._config.reprice_s)
        if made is not None and time.monotonic() - made > longest:
            log.warning("no prices for %.0f s; scoring as fgd until there are some", longest)
            self._service.set_prices(None)
            self.figures.priced_at = None

    def _ask(self, view: PlanningView, what: str, content: Any) -> dict[str, Any] | None:  # noqa: ANN401 - what the question takes
        """Hand the cluster over and wait for the answer; None if there was none."""
        pipe = self._ensure_process()
        try:
            if view.epoch != self._sent_epoch:
                nodes = {node.name: node for node in view.nodes}
                self._send_changes(pipe, "nodes", self._sent_nodes, nodes)
                self._sent_nodes, self._sent_epoch = nodes, view.epoch
            placed = {placement.pod.uid: placement for placement in view.placements}
            self._send_changes(pipe, "placements", self._sent_placements, placed)
            self._sent_placements = placed
            self._send(pipe, "pending", view.pending)
            pipe.send((what, content))
            answer = self._await(pipe)
        except (BrokenPipeError, EOFError, ConnectionResetError):
            log.warning("the planner process has died; a new one is started for the next plan")
            self.figures.plans["crashed"] += 1
            self._end_process()
            return None
        if answer is None:
            if not self._stop.is_set():
                log.warning("the planner is past its deadline and was ended")
                self.figures.plans["killed"] += 1
            self._end_process()
        return answer

    def _send_changes(
        self, pipe: Connection, what: str, before: Mapping[str, Any], now: Mapping[str, Any]
    ) -> None:
        """Tell what has gone and what is new; the planner process remembers the rest."""
        gone = [key for key, item in before.items() if now.get(key) is not item]
        self._send(pipe, f"no {what}", gone)
        self._send(pipe, what, [item for key, item in now.items() if before.get(key) is not item])

    def _send(self, pipe: Connection, what: str, items: Sequence[Any]) -> None:
        for start in range(0, len(items), _PIECE):
            pipe.send((what, items[start : start + _PIECE]))
            time.sleep(0)  # let a waiting request have the interpreter

    def _await(self, pipe: Connection) -> dict[str, Any] | None:
        deadline = time.monotonic() + 2 * self._config.planner_budget_s + _GRACE_S
        while time.monotonic() < deadline and not self._stop.is_set():
            if pipe.poll(_POLL_S):
                answer: dict[str, Any] = pipe.recv()
                return answer
        return None

    def _adopt(self, answer: dict[str, Any], view: PlanningView) -> None:
        figures = self.figures
        if "fault" in answer:
            log.error("the planner reports a fault: %s", answer["fault"])
            figures.plans["failed"] += 1
            return
        pending = {pod.uid: pod for pod in view.pending}
        places = [(pending[uid], node) for uid, node in answer["places"] if uid in pending]
        for piece in _pieces(places):  # requests get in between
            adopted, rejected = self._service.adopt(piece, view.generation)
            figures.adopted += adopted
            figures.rejected.update(rejected)
        figures.plans[answer["status"].lower()] += 1
        figures.planned += len(places)
        figures.last_seconds, figures.last_gap = answer["seconds"], answer["gap"]
        figures.last_at = time.monotonic()

    # -- the process -------------------------------------------------------------------------

    def _ensure_process(self) -> Connection:
        if self._process is not None and self._process.is_alive() and self._pipe is not None:
            return self._pipe
        self._end_process()
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self._config.planner_memory_mib), daemon=True
        )
        self._process.start()
        theirs.close()
        self._pipe, self._sent_epoch = ours, -1
        self._sent_nodes, self._sent_placements = {}, {}
        self.figures.restarts += 1
        return ours

    def _end_process(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None and self._process.is_alive():
            self._process.kill()
            self._process.join(timeout=_GRACE_S)
        self._process = self._pipe = None


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


def _serve(pipe: Connection, memory_mib: int) -> None:
    """Main of the planner process: follows the cluster piece by piece, plans and prices it.

    A piece that does not go with what is known is a fault of ours: it ends the process, and the
    next one is told everything anew.
    """
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
    os.nice(_NICE)  # a plan may take what the webhook leaves
    state = ClusterState()
    gone: set[str] = set()
    pending: list[PodRequest] = []
    with suppress(EOFError, BrokenPipeError):  # the web process has gone: so do we
        while True:
            what, content = pipe.recv()
            match what:
                case "no nodes":
                    gone.update(content)  # or changed: then it comes again, and keeps its pods
                case "nodes":
                    for node in content:
                        state.add_node(node)
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
                    pipe.send(_ANSWERS[what](state, pending, content))
                    pending = []


def _price(
    state: ClusterState, _: Sequence[PodRequest], content: tuple[TypicalMix, PriceWeights, float]
) -> dict[str, Any]:
    from scheduler.planner.prices import prices  # noqa: PLC0415 - as below

    started = time.perf_counter()
    mix, weights, departures = content
    try:
        made = prices(state, mix, weights, departures=departures)
    except Exception as error:  # noqa: BLE001 - told to the web process, which logs it
        return {"fault": f"{type(error).__name__}: {error}"}
    return {"prices": made, "seconds": time.perf_counter() - started}


def _plan(state: ClusterState, pending: Sequence[PodRequest], seconds: float) -> dict[str, Any]:
    # Imported in the planner process alone: the solver takes a third of a second and 100 MB.
    from scheduler.planner.budget import Budget  # noqa: PLC0415
    from scheduler.planner.model import Problem  # noqa: PLC0415
    from scheduler.planner.planner import plan  # noqa: PLC0415

    try:
        made = plan(Problem(state.fork(), tuple(pending)), Budget(seconds, workers=1))
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
