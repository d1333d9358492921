"""Pods of a dump by their state: running, gated, arriving, or on a node that is not listed."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime

from scheduler.core.model import DeviceShare, PodRequest
from scheduler.files.dump_objects import CLOSED, WAITS, DumpObjects, subject_of
from scheduler.files.workload import Arrival, BoundPod
from scheduler.kube.complaints import cut
from scheduler.kube.disruption import move_cost
from scheduler.kube.objects import PodObject
from scheduler.kube.pod_requests import Charge, in_full, is_counted, pod_uid
from scheduler.kube.preferences import Preference, node_preferences
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.sharing.foreign import awaited_scheduler

__all__ = ["COUNTED", "DumpPods"]

COUNTED = "it runs, and is charged what it asks for"
_SHOWN = 5


class DumpPods:
    """Pods of a dump, each as what it is: running, gated or arriving."""

    def __init__(self, nodes: AbstractSet[str], found: DumpObjects, names: ResourceNames) -> None:
        self._nodes, self._found, self._names = nodes, found, names
        self._arriving: list[tuple[float | None, PodRequest]] = []
        self._times: list[float | None] = []
        self._orphans: list[PodObject] = []
        self.bound: list[BoundPod] = []
        self.gated: list[PodRequest] = []
        self.costs: dict[str, int] = {}
        self.preferences: dict[str, tuple[Preference, ...]] = {}

    def add(
        self,
        pod: PodObject,
        charge: Charge,
        devices: Mapping[str, tuple[DeviceShare, ...]],
    ) -> None:
        """One more pod; what is wrong with it is noted."""
        node = pod.spec.node_name
        if node and node not in self._nodes:
            self._orphans.append(pod)
            return
        if charge.problem and not node:
            self._found.note(subject_of(pod), charge.problem, WAITS)
            return
        if charge.problem and node:
            counted = is_counted(pod)
            self._found.note(subject_of(pod), charge.problem, COUNTED if counted else CLOSED,
                             harmless=counted)  # fmt: skip
            if not counted:
                self._found.closed.add(node)
        created = self._created(pod)
        request = self._found.surroundings.ruled(in_full(charge.request, pod))
        elsewhere = awaited_scheduler(pod, self._names)
        if elsewhere and not node:
            rule = f"shares of devices that {elsewhere} hands out by its own scheduler"
            self._found.surroundings.leave(request, rule)
        if node:
            cost = None if elsewhere else move_cost(pod)
            self.bound.append(BoundPod(request, node, devices.get(request.uid)))
            if cost is not None and not self._found.unguarded & {"", request.namespace}:
                self.costs[request.uid] = cost
        elif pod.spec.scheduling_gates:
            self.gated.append(request)
        else:
            wishes = node_preferences(pod)
            self._arriving.append((created, request))
            if wishes:
                self.preferences[request.uid] = wishes
        self._times.append(created)

    def _created(self, pod: PodObject) -> float | None:
        text = pod.metadata.creation_timestamp
        if not text:
            return None
        try:
            return datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError, OSError):
            why = f"metadata.creationTimestamp: {cut(repr(text))} is not a time"
            self._found.note(subject_of(pod), why, "it counts as the oldest", harmless=True)
            return None

    @property
    def orphans(self) -> list[str]:
        """Uids of pods on nodes that are not listed."""
        return [pod_uid(pod) for pod in self._orphans]

    def name_orphans(self) -> None:
        """Note pods on nodes that are not listed, all together: there may be very many."""
        if not self._orphans:
            return
        shown = ", ".join(
            f"{p.metadata.namespace}/{p.metadata.name}" for p in self._orphans[:_SHOWN]
        )
        more = len(self._orphans) - _SHOWN
        nodes = sorted({pod.spec.node_name or "" for pod in self._orphans})
        named = ", ".join(map(repr, nodes[:_SHOWN])) + (", ..." if len(nodes) > _SHOWN else "")
        self._found.note(
            f"Pod {shown}" + (f" and {more} more" if more > 0 else ""),
            f"spec.nodeName: no Node is listed for {cut(named)}",
            "left out: nothing that is listed is held",
            harmless=True,
        )

    def in_order(self) -> tuple[Arrival, ...]:
        """Arriving pods by creation, counted from the earliest of all pods."""
        first = min((time for time in self._times if time is not None), default=0.0)
        arrivals = [
            Arrival(request, 0.0 if created is None else created - first)
            for created, request in self._arriving
        ]
        return tuple(sorted(arrivals, key=lambda arrival: arrival.at_s))
