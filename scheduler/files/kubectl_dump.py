"""Reader of ``kubectl get nodes,pods -A -o json``, and of its other usual forms.

Pods that have ended are left out. A pod with a node runs there, by whatever scheduler; any other
arrives. Creation timestamps become arrival times, counted from the earliest one. Which devices the
running pods have is understood as beside a live cluster, by the same code.

One object that is not as it should be stops no other: what can be read of it counts, as beside a
live cluster, and it is named with what has become of it. A running pod is charged what it asks for,
whatever else of it contradicts itself; if that cannot be told, its node takes nothing new. A pod on
a node that is not listed holds nothing that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from scheduler.core.model import (
    DeviceShare,
    Node,
    PodRequest,
)
from scheduler.core.omissions import NotConsidered, NotUnderstood, left_alone
from scheduler.core.selection import IN_DOUBT
from scheduler.files.dump_objects import NO_DEVICES, DumpObjects, is_over, read_objects
from scheduler.files.dump_pods import COUNTED, DumpPods
from scheduler.files.workload import Arrival, Workload
from scheduler.kube.disruption import (
    CRITICAL,
    Budget,
    budgets_of,
    held_by_several,
)
from scheduler.kube.facts import observed_node, observed_pod, understood
from scheduler.kube.gang_groups import Groups
from scheduler.kube.objects import (
    PodObject,
)
from scheduler.kube.pod_requests import (
    Charge,
    charge_of,
    pod_uid,
)
from scheduler.kube.preferences import Preference
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.sharing.foreign import unread
from scheduler.kube.sharing.table import record_of

__all__ = ["Dump", "read", "read_dump"]

_BY_RECORD = "each counts as its own record says"
_WITHHELD = "its other devices are free"


@dataclass(frozen=True, slots=True)
class Dump:
    """A dump with what a planner needs beside nodes and pods.

    Attributes
    ----------
    workload
        Nodes, running pods, pending pods that are free to be scheduled.
    gated
        Pending pods that wait for a scheduling gate; nobody may place them yet.
    move_costs
        By uid, for the running pods that may be disturbed.
    budgets
        PodDisruptionBudgets.
    preferences
        Soft node affinity by uid, for the pending pods that state any.
    provisos
        Rules that are not looked at where pods are placed that they are about.
    patient
        Uids of pods for which nobody may be evicted.
    unmet
        Why pods have to wait wherever they go, by uid.
    """

    workload: Workload
    gated: tuple[PodRequest, ...]
    move_costs: Mapping[str, int]
    budgets: tuple[Budget, ...]
    preferences: Mapping[str, tuple[Preference, ...]] = field(default_factory=dict)
    provisos: tuple[NotConsidered, ...] = ()
    patient: frozenset[str] = frozenset()
    unmet: Mapping[str, str] = field(default_factory=dict)


def read(paths: Path | Sequence[Path], names: ResourceNames | None = None) -> Workload:
    """Nodes and pods of a dump; gated pods arrive like others. Raises as :func:`read_dump`."""
    dump = read_dump(paths, names)
    workload = _without(dump.workload, left_alone(dump.workload.not_considered))
    gated = tuple(Arrival(request) for request in dump.gated)
    return replace(workload, arrivals=workload.arrivals + gated) if gated else workload


def _without(workload: Workload, alone: Mapping[str, str]) -> Workload:
    """The workload without arrivals that are left alone; the remarks say why."""
    if not workload.not_considered:
        return workload
    arrivals = tuple(a for a in workload.arrivals if a.request.uid not in alone)
    said = tuple(f"not considered: {one.text}" for one in workload.not_considered)
    return replace(workload, arrivals=arrivals, remarks=workload.remarks + said)


def read_dump(paths: Path | Sequence[Path], names: ResourceNames | None = None) -> Dump:
    """Read a dump of nodes and pods, and of podgroups, jobs and pdb where they are listed.

    Parameters
    ----------
    paths
        Files and folders that list the cluster together: :mod:`scheduler.files.manifests`.
    names
        Resource names and labels.

    Raises
    ------
    InvalidInput
        A file cannot be read, or lists nothing of the kind.
    """
    paths = [paths] if isinstance(paths, Path) else list(paths)
    names = names or ResourceNames()
    found = read_objects(paths, names)
    alive = [pod for pod in found.pods if not is_over(pod)]
    groups = Groups(count_members=True)
    groups.state(found.groups)
    for pod in found.pods:  # one that has succeeded needs no place any more
        groups.join(pod, pod_uid(pod))
    charged = [(pod, charge_of(pod, names, groups)) for pod in alive]
    models, devices = _understood(found, charged, names)
    listed = DumpPods({model.name for model in models}, found, names)
    found.surroundings.offered = {
        name for model in models for name, amount in model.counted.items() if amount
    }
    for pod, charge in charged:
        listed.add(pod, charge, devices)
    listed.name_orphans()
    closed = tuple(
        replace(model, taints=(IN_DOUBT,), pods=0) if model.name in found.closed else model
        for model in models
    )
    around = found.surroundings
    workload = Workload(
        closed,
        listed.in_order(),
        tuple(listed.bound),
        ", ".join(path.name for path in paths),
        groups.specs(listed.orphans),
        not_understood=tuple(found.misread),
        not_considered=(*around.omissions(), *_partial(found.misread)),
    )
    budgets = tuple(budgets_of(found.budgets, alive))
    several = held_by_several(found.budgets, alive)
    stay = {*several, *around.unmet, *left_alone(workload.not_considered)}
    stay.update(b.request.uid for b in listed.bound if b.request.priority >= CRITICAL)
    stay |= groups.partners(listed.orphans)
    costs = {uid: cost for uid, cost in listed.costs.items() if uid not in stay}
    return Dump(
        workload,
        tuple(listed.gated),
        costs,
        budgets,
        listed.preferences,
        around.provisos(),
        frozenset(around.patient),
        around.unmet,
    )


def _partial(misread: Sequence[NotUnderstood]) -> tuple[NotConsidered, ...]:
    """That an answer cannot be about the whole cluster, where it cannot."""
    concerned = [one.subject for one in misread if not one.harmless]
    if not concerned:
        return ()
    pods = tuple(name.removeprefix("Pod ") for name in concerned if name.startswith("Pod "))
    return (NotConsidered("objects that are not understood", pods, "see not_understood"),)


def _understood(
    found: DumpObjects, charged: Sequence[tuple[PodObject, Charge]], names: ResourceNames
) -> tuple[tuple[Node, ...], dict[str, tuple[DeviceShare, ...]]]:
    """Nodes, and by uid the devices of pods on nodes where any pod has a record or several ways."""
    running = [(pod, charge) for pod, charge in charged if pod.spec.node_name]
    shared = {pod.spec.node_name for pod, charge in running if _recorded(pod, charge, names)}
    shared -= found.closed
    pods = {
        charge.request.uid: observed_pod(pod, charge, names)
        for pod, charge in running
        if pod.spec.node_name in shared
    }
    nodes = (observed_node(obj, names) for obj, model in found.nodes if model.name in shared)
    known = understood(nodes, pods.values(), names)
    for uid, problem in known.problems.items():
        found.note(f"Pod {pods[uid].request.key}", problem, COUNTED, harmless=True)
    for name in sorted(known.uncertain):
        found.note(f"Node {name}", "which of its devices are free cannot be told", NO_DEVICES)
    for name, why in sorted(known.ambiguous.items()):
        withheld = "records are not read" in why
        found.note(f"Node {name}", why, _WITHHELD if withheld else _BY_RECORD)
    models = tuple(known.nodes.get(model.name, model) for _, model in found.nodes)
    return models, known.devices


def _recorded(pod: PodObject, charge: Charge, names: ResourceNames) -> bool:
    """Whether more than its request decides which devices the pod has."""
    if unread(name for name, _ in charge.request.counted):
        return True
    return bool(charge.parts) or record_of(pod, charge.request.gpu, names) is not None
