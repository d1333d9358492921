"""What is wrong with an installation, as far as the cluster's own objects say.

Pure functions from what was read to checks; how that was read is the caller's business.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from scheduler.core.errors import InvalidInput
from scheduler.core.model import Device, GpuKind, Node, Serves
from scheduler.core.omissions import NotUnderstood
from scheduler.core.plural import plural
from scheduler.kube.device_annotation import OWN
from scheduler.kube.nodes import node_of
from scheduler.kube.objects import NodeObject, PodObject
from scheduler.kube.pod_requests import charge_of, pod_uid
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.sharing.foreign import sharing_resources, system_of, unread
from scheduler.kube.sharing.hami import HAMI_REGISTER, abandoned_register
from scheduler.kube.sharing.record_policy import RECORD_POLICY, gap
from scheduler.kube.sharing.records import Standing, standing
from scheduler.kube.sharing.table import record_of, registered

__all__ = [
    "EVICTION",
    "RIGHTS",
    "Check",
    "NodeReport",
    "Right",
    "State",
    "called",
    "calls",
    "guarded",
    "installed",
    "lacking",
    "node_reports",
    "not_understood",
    "recorded",
    "versions",
]

OLDEST_MINOR = 34
_SHOWN = 5


class State(StrEnum):
    """Result of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer."""

    question: str
    state: State
    answer: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Right:
    """One permission: ``resource`` may name a subresource.

    Parameters
    ----------
    verb, group, resource
        What may be done to what.
    name
        The only object of the kind that it is about; empty for all.
    purpose
        What does not work without it; empty where nothing does.
    """

    verb: str
    group: str
    resource: str
    name: str = ""
    purpose: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f".{self.group}" if self.group else "")


RIGHTS = (
    *(Right(verb, "", "nodes") for verb in ("list", "watch")),
    *(Right(verb, "", "pods") for verb in ("get", "list", "watch")),
    Right("create", "", "pods/binding"),
    Right("patch", "", "pods/status", purpose="refused pods that fit by now are not requeued"),
    *(Right(verb, "policy", "poddisruptionbudgets") for verb in ("list", "watch")),
    *(Right(verb, "scheduling.k8s.io", "podgroups") for verb in ("list", "watch")),
    Right(
        "list", "resource.k8s.io", "deviceclasses", purpose="nodes with devices by DRA are refused"
    ),
    *(
        Right(verb, group, resource, purpose=f"dry runs leave out what depends on {resource}")
        for group, resource in (
            ("", "namespaces"),
            ("", "persistentvolumeclaims"),
            ("", "persistentvolumes"),
            ("storage.k8s.io", "storageclasses"),
        )
        for verb in ("list", "watch")
    ),
    *(
        Right(
            "get",
            "admissionregistration.k8s.io",
            f"validatingadmission{kind}",
            RECORD_POLICY,
            "records without a UID cannot be told from forged ones",
        )
        for kind in ("policies", "policybindings")
    ),
)
"""What the extender needs."""

EVICTION = Right("create", "", "pods/eviction", purpose="what is left of a preempted gang runs on")
"""What it needs besides where its setting ``evict_gangs`` is on."""


@dataclass(frozen=True, slots=True)
class NodeReport:
    """How the GPUs of a node are understood.

    Parameters
    ----------
    node
        Its name.
    devices
        In words; empty without GPUs.
    protocols
        Ways in which it offers them.
    state, remark
        Whether that is unambiguous, and if not, why.
    """

    node: str
    devices: str
    protocols: tuple[str, ...]
    state: State
    remark: str = ""


def installed(pods: Sequence[Mapping[str, Any]], asked: str = "") -> Check:
    """Whether extenders run in the cluster.

    Parameters
    ----------
    pods
        Those with the label of an extender, as JSON.
    asked
        URL of an extender that is looked at itself, such as one outside of the cluster.
    """
    question = "is Snugfit installed?"
    if not pods and asked:
        return Check(question, State.OK, f"not as a pod of this cluster; {asked} is asked below")
    if not pods:
        answer = "not installed: no pod has the label app.kubernetes.io/component=extender"
        return Check(question, State.WARNING, answer, "helm install, see deploy/README.md")
    ready = sum(
        any(
            condition.get("type") == "Ready" and condition.get("status") == "True"
            for condition in (pod.get("status") or {}).get("conditions") or ()
        )
        for pod in pods
    )
    spaces = ", ".join(sorted({str(pod["metadata"].get("namespace")) for pod in pods}))
    answer = f"{ready} of {len(pods)} pods are ready, in {spaces}"
    if not ready:
        return Check(question, State.FAILED, answer, "see the logs of these pods")
    return Check(question, State.OK, answer)


def lacking(missing: Iterable[Right], account: str) -> Check:
    """Whether an account may do what it has to."""
    listed = list(missing)
    question = f"may {account} do what the extender does?"
    if not listed:
        return Check(question, State.OK, "yes")
    names = ", ".join(str(right) for right in listed)
    if all(right.purpose for right in listed):
        purposes = "; ".join(sorted({right.purpose for right in listed}))
        remedy = "fine if the chart's values say so; else install its roles"
        return Check(question, State.WARNING, f"all but {names}: {purposes}", remedy)
    return Check(question, State.FAILED, f"not allowed: {names}", "install the chart's roles")


def guarded(
    policy: Mapping[str, Any] | None,
    binding: Mapping[str, Any] | None,
    name: str = RECORD_POLICY,
) -> Check:
    """Whether only the extender may write records of devices.

    Parameters
    ----------
    policy, binding
        The ValidatingAdmissionPolicy and its binding as the API server has them; None where there
        is none.
    name
        Of both.
    """
    question = "who may write which devices a pod has?"
    answer = gap(policy, binding, name)
    if answer:
        remedy = "install the chart with recordPolicy.enabled=true; see SECURITY.md"
        return Check(question, State.WARNING, f"everybody who may change the pod: {answer}", remedy)
    return Check(question, State.OK, "only the users that the policy names")


def versions(server: str, schedulers: Mapping[str, str]) -> list[Check]:
    """Whether versions go together.

    Parameters
    ----------
    server
        ``gitVersion`` of the API server.
    schedulers
        Image of kube-scheduler by pod, for schedulers that run beside the extender.
    """
    minor = _minor(server)
    question = f"is Kubernetes {server} supported?"
    if minor is None:
        return [Check(question, State.WARNING, "the version cannot be read")]
    supported = minor >= OLDEST_MINOR
    checks = [
        Check(
            question,
            State.OK if supported else State.FAILED,
            "yes" if supported else f"it is older than 1.{OLDEST_MINOR}",
        )
    ]
    for pod, image in sorted(schedulers.items()):
        own = _minor(image.rpartition(":")[2])
        question = f"does {image} in {pod} go with it?"
        if own is None:
            checks.append(Check(question, State.WARNING, "its tag states no version"))
        elif minor - own in (0, 1):
            checks.append(Check(question, State.OK, "yes"))
        else:
            answer = "it is newer" if own > minor else f"it is {minor - own} minor versions older"
            remedy = f"upgrade the chart, or set scheduler.image.tag to a 1.{minor} version"
            checks.append(Check(question, State.FAILED, answer, remedy))
    return checks


def _minor(version: str) -> int | None:
    found = re.match(r"v?1\.(\d+)", version)
    return int(found[1]) if found else None


def recorded(pods: Iterable[PodObject], since: float | None, names: ResourceNames) -> Check:
    """How many running pods have devices by a record that their owners could have written.

    Parameters
    ----------
    pods
        All that run.
    since
        Since when a policy guards records, in seconds since the epoch; None where none does.
    names
        Resource names and annotations.
    """
    question = "which records of devices could their owners have written?"
    found: Counter[Standing] = Counter()
    for pod in pods:
        gpu = charge_of(pod, names).request.gpu
        record = record_of(pod, gpu, names)
        if gpu.chosen_by_us and record is not None and record.protocol == OWN:
            created = pod.metadata.creation_timestamp or ""
            found[standing(record, pod_uid(pod), created, since)[0]] += 1
    open_to_all, void = found[Standing.UNPROTECTED], found[Standing.VOID]
    answer = f"{open_to_all} unprotected of {found.total()}; {void} of other pods or of nobody"
    if not open_to_all and not void:
        return Check(question, State.OK, f"none of {found.total()}")
    remedy = "start these pods anew" if since else "serve the chart's policy (recordPolicy.enabled)"
    return Check(question, State.WARNING, answer, remedy)


def not_understood(misread: Sequence[NotUnderstood]) -> Check:
    """Whether every object is as it should be."""
    question = "which objects are not understood?"
    if not misread:
        return Check(question, State.OK, "none")
    shown = "; ".join(one.text for one in misread[:_SHOWN])
    more = f"; and {len(misread) - _SHOWN} more" if len(misread) > _SHOWN else ""
    return Check(question, State.WARNING, f"{len(misread)}: {shown}{more}", "see --json")


def node_reports(
    nodes: Iterable[NodeObject], names: ResourceNames | None = None
) -> list[NodeReport]:
    """How each node's GPUs are understood, and what is ambiguous about it."""
    names = names or ResourceNames()
    return [_report(node, names) for node in nodes]


def _report(node: NodeObject, names: ResourceNames) -> NodeReport:
    protocols = _protocols(node, names)
    name = node.metadata.name
    try:
        understood = node_of(node, names)
        abandoned = abandoned_register(node, names)
    except InvalidInput as error:
        return NodeReport(name, "", protocols, State.FAILED, f"gets no pods: {error}")
    words = _words(understood.devices)
    if abandoned:
        remark = (
            "HAMi's register is passed over: its device plugin offers no slots here; remove the "
            f"annotation {HAMI_REGISTER}, or bring the plugin back"
        )
        return NodeReport(name, words, protocols, State.WARNING, remark)
    if problem := _stale(node, understood, names):
        return NodeReport(name, words, protocols, State.WARNING, problem)
    if understood.serves is Serves.ONE_AT_A_TIME:
        remark = (
            "serves whole GPUs or fractions, one at a time: the kubelet could pick a device of "
            f"fractions for a whole GPU; label it {names.serves_label}, or ask for whole GPUs as "
            f"{names.milli}: 1000"
        )
        return NodeReport(name, words, protocols, State.WARNING, remark)
    system = unread(offered for offered, amount in understood.counted.items() if amount)
    if system and words:
        remark = (
            f"{system} shares its devices, and its records are not read: as many devices as its "
            "pods may be on are withheld"
        )
        return NodeReport(name, words, protocols, State.WARNING, remark)
    foreign = any(system_of(protocol) for protocol in protocols)
    counted = {understood.resource_of(device) for device in understood.devices}
    others = [p for p in protocols if counted.isdisjoint(p.split(" + "))]
    if foreign and others and len(protocols) > 1 and understood.serves is Serves.BOTH:
        remark = (
            "devices are offered in several ways that do not know of each other; we count those "
            "of one only"
        )
        return NodeReport(name, words, protocols, State.WARNING, remark)
    if protocols and not words:
        remark = f"{protocols[0]} is not understood: its devices are invisible to us"
        return NodeReport(name, words, protocols, State.WARNING, remark)
    if any(not device.product and not device.resource for device in understood.devices):
        remark = "no label states the model: figures and prices count its devices as of no model"
        return NodeReport(name, words, protocols, State.WARNING, remark)
    return NodeReport(name, words, protocols, State.OK)


def _stale(node: NodeObject, understood: Node, names: ResourceNames) -> str:
    """What a node offers that none of its devices can be; empty if there is nothing."""
    offered = (node.status.allocatable if node.status else None) or {}
    if registered(node, names) is not None:
        return ""
    plain = [d for d in understood.devices if d.kind is GpuKind.WHOLE and not d.units]
    if str(offered.get(names.milli, "0")) != "0" and not plain:
        return (
            f"offers {names.milli}, and has no device that can be cut: pods that ask for it are "
            "not placed here; take it back with `snugfit advertise --undo`"
        )
    whole = names.whole[0]
    by_name = {understood.resource_of(device) for device in plain}
    units = any(d.units and understood.resource_of(d) == whole for d in understood.devices)
    if str(offered.get(whole, "0")) == "0" or units or whole in by_name:
        return ""
    if not any(device.kind is GpuKind.MIG for device in understood.devices):
        return ""
    return (
        f"offers {whole} beside MIG instances on all of its devices ({names.count_label}): that "
        "count is a stale one, and nobody gets a device for it"
    )


def _protocols(node: NodeObject, names: ResourceNames) -> tuple[str, ...]:
    status = node.status
    offered = [
        resource
        for resource, quantity in ((status.allocatable if status else None) or {}).items()
        if str(quantity) != "0"
    ]
    found = [r for r in offered if r == names.shared or names.counts_units(r)]
    if any(r.startswith(names.mig_prefix) and not names.counts_units(r) for r in offered):
        found.append(names.mig_prefix + "*")
    if names.milli in offered or names.memory in offered:
        found.append(names.milli)
    foreign = sharing_resources(offered)
    if foreign:
        found.append(" + ".join(foreign))
    return tuple(sorted(found))


def _words(devices: tuple[Device, ...]) -> str:
    kinds = Counter(_kind(device) for device in devices)
    return ", ".join(f"{count} x {kind}" for kind, count in kinds.items())


def _kind(device: Device) -> str:
    parts = [device.product or "unknown model"]
    if device.memory_mib:
        parts.append(f"{device.memory_mib / 1024:.0f} GiB")
    if device.resource:
        parts.append(f"({device.resource})")
    if device.mig_layout:
        parts.append("MIG " + "+".join(profile for profile, _ in device.mig_layout))
    elif device.mig:
        parts.append(f"MIG {device.mig}")
    if device.shared:
        parts.append("1 replica")
    if device.replicas > 1:
        parts.append(f"{device.replicas} {'units' if device.units else 'replicas'}")
    if not device.healthy:
        parts.append("unhealthy")
    return " ".join(parts)


def calls(exposition: str) -> dict[str, float]:
    """Calls and errors in a metrics page: by verb, and by ``verb code``."""
    found: dict[str, float] = {}
    for line in exposition.splitlines():
        match = re.match(
            r'snugfit_request_(?:seconds_count\{verb="(?P<verb>[^"]+)"\}'
            r"|errors_total\{(?P<labels>[^}]*)\}) (?P<value>\S+)",
            line,
        )
        if match is None:
            continue
        key = match["verb"]
        if key is None:
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match["labels"]))
            key = f"{labels.get('verb', '')} {labels.get('code', '')}"
        found[key] = found.get(key, 0.0) + float(match["value"])
    return found


def called(
    counts: Mapping[str, float], pods: Iterable[PodObject], scheduler: str, resources: set[str]
) -> list[Check]:
    """Whether kube-scheduler really asks the extender.

    Parameters
    ----------
    counts
        Of :func:`calls`.
    pods
        Pods of the cluster.
    scheduler
        Name that pods give as ``spec.schedulerName``.
    resources
        Names that bring a pod to the extender.
    """
    ours = [
        pod
        for pod in pods
        if pod.spec.scheduler_name == scheduler and _requests_any(pod, resources)
    ]
    question = f"does kube-scheduler call us for pods of {scheduler}?"
    asked = counts.get("filter", 0)
    placed = sum(bool(pod.spec.node_name) for pod in ours)
    if asked:
        checks = [Check(question, State.OK, f"filter was called {plural(round(asked), 'time')}")]
    elif placed:
        checks = [
            Check(
                question,
                State.FAILED,
                f"no, and yet placed: {plural(placed, 'such pod')} (perhaps before it was started)",
                "check managedResources and urlPrefix: snugfit config check",
            )
        ]
    elif ours:
        checks = [
            Check(
                question,
                State.FAILED,
                f"no, and pending: {plural(len(ours), 'such pod')}",
                "does kube-scheduler hold its lease, and does any node pass its own filters?",
            )
        ]
    else:
        checks = [Check(question, State.WARNING, "nobody knows: no pod has asked for it yet")]
    refused = {key: n for key, n in counts.items() if " " in key and n and key.split()[0] in _VERBS}
    if refused:
        said = ", ".join(f"{key}: {n:.0f}" for key, n in sorted(refused.items()))
        checks.append(
            Check("are calls answered?", State.WARNING, f"refused {said}", "see the extender's log")
        )
    return checks


_VERBS = frozenset({"filter", "prioritize", "bind", "preempt"})


def _requests_any(pod: PodObject, resources: set[str]) -> bool:
    containers = [*(pod.spec.containers or ()), *(pod.spec.init_containers or ())]
    stated: list[Mapping[str, Any] | None] = []
    for container in containers:
        if container.resources is not None:
            stated += [container.resources.requests, container.resources.limits]
    return any(resources & set(part or {}) for part in stated)
