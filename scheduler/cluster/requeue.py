"""Pods that were refused, and by now would fit without kube-scheduler asking again.

kube-scheduler asks about a refused pod again when something happens in the cluster. It may hear of
that before we do: then it asks too early, is refused once more, and if nothing else happens it
waits five minutes. So a pod that would fit now and has not been asked about for longer than
kube-scheduler's own backoff is requeued: its annotations are changed, which kube-scheduler sees as
any other change of a pending pod.

A pod that a reservation kept from evicting others is requeued once it may evict: a reservation is
not a pod, and ends without a word to kube-scheduler.

A refused pod is requeued once at most, and of pods with equal requests as many are requeued at a
time as there is room for: room for one is no reason to requeue a thousand. Members of a gang are
requeued together, once there is room for as many as it needs. Those that were refused because
others did not exist are requeued once these do, room or not: what they were told is not true any
more, and kube-scheduler would go on saying it for five minutes.

A restart forgets which pods were refused, and a replica that takes over never knew. So when looks
begin, or begin again after a pause, every pending pod counts as refused at that moment.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scheduler.cluster.preemption import preemptible
from scheduler.core.capacity import room
from scheduler.core.engine import Engine
from scheduler.core.gangs.coordinator import GangCoordinator
from scheduler.core.model import GangKey, GpuKind, NodeSelection, PodRequest, Reason, Shape

__all__ = ["REQUEUE_ANNOTATION", "RefusedPods"]

REQUEUE_ANNOTATION = "snugfit.io/woken-at"
_MOST_LOOKS = 32
_MOST_REQUEUED = 16
_PAUSE_S = 8.0
_STEP = 200

IntArray = NDArray[np.int64]
_NO_ROWS: IntArray = np.zeros(0, dtype=np.int64)
_Rules = tuple[Shape, NodeSelection]
_Kind = tuple[_Rules, GangKey | None, bytes, bool]
"""Shape, rules, gang, the nodes asked about as a bit per row, and whether others count as well."""


@dataclass(slots=True)
class _Alike:
    """Pods that fit at the same time: each with the time of its refusal, longest ago first.

    In the state of ``generation`` none of them fits. Reservations alone kept some of them from
    evicting on the rows ``kept``. ``lacking`` are those whose gang lacked members.
    """

    kind: _Kind
    generation: int = -1
    kept: frozenset[int] = frozenset()
    lacking: set[str] = field(default_factory=set)
    pods: OrderedDict[str, tuple[PodRequest, float]] = field(default_factory=OrderedDict)

    def waiting(self, before: float) -> list[PodRequest]:
        """Those refused before this time."""
        return [pod for pod, at in self.pods.values() if at < before]


class RefusedPods:
    """Pods that were refused. Used by one thread at a time.

    Parameters
    ----------
    most
        How many are remembered; the one that was refused longest ago is forgotten first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kind_of: OrderedDict[str, _Kind] = OrderedDict()
        self._kinds: OrderedDict[_Kind, _Alike] = OrderedDict()
        self._of_gang: dict[GangKey, set[_Kind]] = {}
        self._looked_at = -math.inf

    def __len__(self) -> int:
        return len(self._kind_of)

    def __contains__(self, uid: object) -> bool:
        return uid in self._kind_of

    def add(
        self,
        request: PodRequest,
        at: float,
        generation: int,
        rows: IntArray,
        kept: IntArray | None = None,
        *,
        anywhere: bool = False,
        gang: GangKey | None = None,
        lacking: bool = False,
    ) -> None:
        """A pod fits nowhere, at this time and in the state of this generation.

        Parameters
        ----------
        rows : (R,)
            Nodes that it was asked about; below 0 for one that is not known yet.
        anywhere
            Others count as well, as far as what is known of them lets the pod in. If not,
            kube-scheduler has had reasons of its own against them.
        kept : (K,)
            Nodes where reservations alone kept it from evicting others.
        gang
            Its gang, where it fits together with the rest of that or not at all.
        lacking
            Not enough members of the gang exist.
        """
        self.drop(request.uid)
        asked = _bits(rows[rows >= 0])
        kind: _Kind = ((request.shape, request.selection), gang, asked, anywhere)
        alike = self._kinds.setdefault(kind, _Alike(kind))
        alike.pods[request.uid] = (request, at)
        alike.generation = generation
        alike.kept = frozenset(kept.tolist()) if kept is not None else frozenset()
        if lacking:
            alike.lacking.add(request.uid)
        self._kind_of[request.uid] = alike.kind  # one copy of the bits for all of them
        if gang is not None:
            self._of_gang.setdefault(gang, set()).add(alike.kind)
        if len(self._kind_of) > self._most:
            self.drop(next(iter(self._kind_of)))

    def drop(self, uid: str) -> None:
        """The pod fits, is bound or is gone."""
        kind = self._kind_of.pop(uid, None)
        if kind is not None:
            alike = self._kinds[kind]
            del alike.pods[uid]
            alike.lacking.discard(uid)
            if not alike.pods:
                del self._kinds[kind]
                self._forget(kind)

    def _forget(self, kind: _Kind) -> None:
        gang = kind[1]
        if gang is not None:
            self._of_gang[gang].discard(kind)
            if not self._of_gang[gang]:
                del self._of_gang[gang]

    def stir(self, gang: GangKey) -> None:
        """A gang's members may fit by now although nothing has changed in the state."""
        for kind in self._of_gang.get(gang, ()):
            self._kinds[kind].generation = -1

    def take_over(
        self,
        pending: Mapping[str, PodRequest],
        now: float,
        gathered: Callable[[PodRequest], bool] = lambda _request: False,
    ) -> Iterator[list[PodRequest]]:
        """Take pods with devices for refused now if there was no look for some time.

        Parameters
        ----------
        pending
            Pods without a node, by uid.
        now
            Time of this look.
        gathered
            Whether a pod fits together with the rest of its gang or not at all.
        """
        resumed, self._looked_at = now - self._looked_at >= _PAUSE_S, now
        if not resumed:
            return
        for number, request in enumerate(list(pending.values())):
            if request.uid not in self._kind_of and request.gpu.kind is not GpuKind.NONE:
                gang = request.gang if gathered(request) else None
                self.add(request, now, -1, _NO_ROWS, anywhere=True, gang=gang)
            if number % _STEP == _STEP - 1:
                yield []

    def due(
        self, engine: Engine, gangs: GangCoordinator | None, before: float
    ) -> Iterator[list[PodRequest]]:
        """Pods refused before this time that fit by now; they are forgotten.

        Nodes that the pod was asked about have let it in, whatever is known of their taints and
        labels here, perhaps too late. Of many kinds so many are looked at in each call, in turn;
        of pods with equal requests, wherever, as many are requeued in each as there is room for,
        and a few at most.

        Parameters
        ----------
        engine
            Says what fits.
        gangs
            Says whether a gang may; None to take its members one by one.
        before
            Time of the refusal.

        Yields
        ------
        list of PodRequest
            Per kind looked at, those to be requeued: which have waited longest, or the members of a
            gang. In between others may use the engine, and this.
        """
        looks, requeued = 0, Counter[_Rules]()
        for kind in list(self._kinds):
            alike, generation = self._kinds.get(kind), engine.state.generation_now
            if alike is None:
                continue
            request, at = next(iter(alike.pods.values()))
            if at >= before or alike.generation == generation:
                continue
            together = gangs if gangs and gangs.is_incomplete_gang(request) else None
            if together and not together.has_enough_members(request):
                alike.generation = generation  # until it is stirred
                continue
            if looks == _MOST_LOOKS:
                return
            looks += 1
            self._kinds.move_to_end(kind)
            rows = _open_rows(engine, request, kind)
            if together:
                may_fit = together.could_fit(request, rows)
                found = [
                    pod for pod, _ in alike.pods.values() if may_fit or pod.uid in alike.lacking
                ]
                places = len(found)
            else:
                places = room(engine, request, rows, _MOST_REQUEUED)
                found = alike.waiting(before)[: max(0, places - requeued[kind[0]])]
                if not places and _may_evict(engine, request, alike.kept):
                    found = [request]
            if not found and not places:
                alike.generation = generation
            requeued[kind[0]] += len(found)
            for pod in found:
                self.drop(pod.uid)
            yield found


def _may_evict(engine: Engine, request: PodRequest, kept: frozenset[int]) -> bool:
    """Whether pods may be evicted for this one by now, where reservations kept it from that."""
    rows = np.array([row for row in sorted(kept) if row < len(engine.state)], dtype=np.int64)
    if not len(rows):
        return False
    codes = engine.filter(request, rows)
    return any(
        placement.pod.priority < request.priority
        for row in rows[preemptible(engine, request, rows, codes)].tolist()
        for placement in engine.state.pods_on(row)
    )


def _bits(rows: IntArray) -> bytes:
    """A set of rows, whatever their order; not empty."""
    asked = np.zeros(int(rows.max(initial=0)) + 1, dtype=bool)
    asked[rows] = True
    return np.packbits(asked).tobytes()


def _open_rows(engine: Engine, request: PodRequest, kind: _Kind) -> IntArray:
    """Rows that let the pod in: those asked about, as far as there are so many, and such others."""
    *_, bits, anywhere = kind
    rows = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=len(engine.state)).astype(bool)
    if anywhere:
        rows |= engine.filter(request, selection=True) == Reason.FITS.code
    return np.flatnonzero(rows)
