"""Pods that were refused, and by now would fit without kube-scheduler asking again.

kube-scheduler asks about a refused pod again when something happens in the cluster. It may hear of
that before we do: then it asks too early, is refused once more, and if nothing else happens it
waits five minutes. So whoever would fit now and has not been asked about for longer than
kube-scheduler's own backoff is woken by a change of its annotations, which kube-scheduler sees as
any other change of a pending pod.

A refusal is good for one wake-up at most, and of pods that ask for the same one is woken at a time:
room for one is no reason to wake a thousand.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scheduler.core.engine import Engine
from scheduler.core.model import NodeSelection, PodRequest, Reason, Shape

__all__ = ["WAKE_ANNOTATION", "Refusals"]

WAKE_ANNOTATION = "snugfit.io/woken-at"
_MOST_LOOKS = 16

IntArray = NDArray[np.int64]
_Kind = tuple[Shape, NodeSelection]


@dataclass(slots=True)
class _Alike:
    """Pods that fit at the same time: each with the time of its refusal, longest ago first.

    In the state of ``generation`` none of them fits on ``rows``, which is None for any node.
    """

    generation: int = -1
    rows: IntArray | None = None
    pods: OrderedDict[str, tuple[PodRequest, float]] = field(default_factory=OrderedDict)


class Refusals:
    """Who was refused. Used by one thread at a time.

    Parameters
    ----------
    most
        How many are remembered; whoever was refused longest ago is forgotten first.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kind_of: OrderedDict[str, _Kind] = OrderedDict()
        self._kinds: OrderedDict[_Kind, _Alike] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kind_of)

    def add(self, request: PodRequest, at: float, generation: int, rows: IntArray | None) -> None:
        """A pod fits nowhere, at this time and in the state of this generation.

        Parameters
        ----------
        rows : (R,)
            Nodes that it was asked about: on the others kube-scheduler has reasons of its own.
            None for any node, where it was asked about one that is not known yet.
        """
        self.drop(request.uid)
        kind = (request.shape, request.selection)
        alike = self._kinds.setdefault(kind, _Alike())
        alike.pods[request.uid] = (request, at)
        alike.generation, alike.rows = generation, rows
        self._kind_of[request.uid] = kind
        if len(self._kind_of) > self._most:
            self.drop(next(iter(self._kind_of)))

    def drop(self, uid: str) -> None:
        """The pod fits, is bound or is gone."""
        kind = self._kind_of.pop(uid, None)
        if kind is not None:
            alike = self._kinds[kind]
            del alike.pods[uid]
            if not alike.pods:
                del self._kinds[kind]

    def wake(self, engine: Engine, before: float) -> list[PodRequest]:
        """Pods refused before this time that fit by now, one of a kind; they are forgotten.

        What fits is decided with selectors, taints and all, so that nobody is woken in vain. Of
        many kinds a few are looked at in each call, in turn.
        """
        generation = engine.state.generation_now
        found = []
        looks = 0
        for kind in list(self._kinds):
            alike = self._kinds[kind]
            request, at = next(iter(alike.pods.values()))
            if at >= before or alike.generation == generation:
                continue
            if looks == _MOST_LOOKS:
                break
            looks += 1
            self._kinds.move_to_end(kind)
            codes = engine.filter(request, alike.rows, selection=True)
            if (codes == Reason.FITS.code).any():
                found.append(request)
            else:
                alike.generation = generation
        for request in found:
            self.drop(request.uid)
        return found
