"""What a pod is charged while it is resized in place.

Each container counts with the largest of what it asks for, what the kubelet has allocated and what
is in force; a resize that the kubelet has found infeasible asks for nothing. kube-scheduler counts
the same way (KEP-1287).
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import msgspec

from scheduler.kube.objects import ContainerStatus, PodObject, Quantities, Resources
from scheduler.kube.quantity import parse

__all__ = ["Resized", "in_force", "is_infeasible", "larger", "resized_containers"]

Totals = dict[str, Fraction]
_RESIZABLE = ("cpu", "memory")


class Resized(msgspec.Struct, omit_defaults=True):
    """A container whose kubelet says something else than its spec."""

    path: str
    seen: list[Quantities]


def resized_containers(pod: PodObject) -> list[Resized]:
    """Containers, and the pod itself, where status and spec differ: none but during a resize."""
    status = pod.status
    if status is None or not pod.spec.node_name:
        return []
    found: list[Resized] = []
    for kind, containers, statuses in (
        ("containers", pod.spec.containers, status.container_statuses),
        ("initContainers", pod.spec.init_containers, status.init_container_statuses),
    ):
        if not statuses:
            continue
        if containers and len(statuses) == 1 == len(containers):  # nearly always
            only, its = containers[0], statuses[0]
            if its.name == only.name and _agree(only.resources, its):
                continue
        by_name = {one.name: one for one in statuses}
        for index, container in enumerate(containers or ()):
            own = by_name.get(container.name)
            if own is None or _agree(container.resources, own):
                continue
            sidecar = container.restart_policy == "Always"
            if kind == "containers" or sidecar:  # other init containers stay as they are
                found += _differing(f"spec.{kind}[{index}]", container.resources, own)
    if pod.spec.resources is None:
        return found
    whole = ContainerStatus(allocated_resources=status.allocated_resources,
                            resources=status.resources)  # fmt: skip
    return found + _differing("spec", pod.spec.resources, whole)


def _agree(resources: Resources | None, status: ContainerStatus) -> bool:
    """Whether the kubelet says nothing that the spec does not; so it is but during a resize."""
    asked = resources.requests if resources else None
    applied = status.resources.requests if status.resources else None
    allocated = status.allocated_resources
    return (allocated is None or allocated == asked) and (applied is None or applied == asked)


def _differing(path: str, resources: Resources | None, status: ContainerStatus) -> list[Resized]:
    asked = (resources.requests if resources else None) or {}
    applied = (status.resources.requests if status.resources else None) or {}
    seen = []
    for quantities in (status.allocated_resources or {}, applied):
        other = {n: q for n, q in quantities.items() if n in _RESIZABLE and asked.get(n) != q}
        if other:
            seen.append(other)
    return [Resized(path, seen)] if seen else []


def is_infeasible(pod: PodObject) -> bool:
    """Whether the kubelet has found the resize that the pod is in infeasible."""
    conditions = (pod.status.conditions if pod.status else None) or ()
    return any(
        c.type == "PodResizePending" and c.status == "True" and c.reason == "Infeasible"
        for c in conditions
    )


def in_force(asked: Totals, path: str, seen: Iterable[Quantities], *, infeasible: bool) -> Totals:
    """The largest of what is asked for and what the kubelet says of the same resources."""
    found: Totals = {}
    for quantities in seen:
        read = {n: parse(q, f"status of {path}[{n}]") for n, q in quantities.items()}
        found = larger(found, read)
    if infeasible:
        return asked | found
    return {n: max(v, found.get(n, v)) for n, v in asked.items()} | {
        n: v for n, v in found.items() if n not in asked
    }


def larger(left: Totals, right: Totals) -> Totals:
    """The larger amount of each resource."""
    if not left or not right:  # nothing is negative
        return dict(left or right)
    zero = Fraction(0)
    return {name: max(left.get(name, zero), right.get(name, zero)) for name in {*left, *right}}
