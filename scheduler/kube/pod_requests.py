"""A Pod object -> what it requests.

Effective requests follow Kubernetes' own rules: containers and native sidecars (init containers
with ``restartPolicy: Always``) add up; an ordinary init container runs beside the sidecars started
before it, and the larger of the two totals counts; pod-level resources replace cpu and memory;
overhead comes on top. An extended resource that only has a limit requests that limit.

What a resize in place makes of that: :mod:`scheduler.kube.pod_resize`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from math import ceil
from types import MappingProxyType

import msgspec

from scheduler.core.errors import InvalidInput
from scheduler.core.mig import KNOWN_PROFILES
from scheduler.core.model import (
    GpuRequest,
    NodeSelection,
    PodRequest,
    SelectorTerm,
    Toleration,
)
from scheduler.kube.counted import counted_by
from scheduler.kube.device_requests import MOST_MEMORY, device_request, separate_requests
from scheduler.kube.gang_groups import Groups
from scheduler.kube.gang_membership import gang_key
from scheduler.kube.objects import (
    Affinity,
    Container,
    PodObject,
    PodSpec,
    Quantities,
    Resources,
    TolerationObject,
)
from scheduler.kube.pod_resize import (
    Resized,
    in_force,
    is_infeasible,
    larger,
    resized_containers,
)
from scheduler.kube.quantity import parse
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.selectors import requirements
from scheduler.kube.sharing.claims import Slot
from scheduler.kube.sharing.hami import hami_slots

__all__ = [
    "Charge",
    "charge_of",
    "has_ended",
    "in_full",
    "is_counted",
    "pod_request",
    "pod_uid",
]

Totals = dict[str, Fraction]
_MOST = 1 << 53
"""Requests beyond this fit nowhere; clipped, so that sums of them stay within 64 bits."""


def has_ended(pod: PodObject) -> bool:
    """Whether the pod has run to its end; its room is free from then on."""
    return pod.status is not None and pod.status.phase in ("Succeeded", "Failed")


def pod_uid(pod: PodObject) -> str:
    """The pod's uid, or ``namespace/name`` where the object has none (dry runs)."""
    return pod.metadata.uid or f"{pod.metadata.namespace or 'default'}/{pod.metadata.name}"


def pod_request(
    pod: PodObject,
    names: ResourceNames | None = None,
    groups: Groups | None = None,
) -> PodRequest:
    """What the pod asks for.

    Parameters
    ----------
    pod
        The object.
    names
        Resource names and labels.
    groups
        What is known about gangs; without it a pod is in the one that it names.

    Raises
    ------
    InvalidInput
        A quantity cannot be read, the GPU request contradicts itself, or there are more containers
        than an object of the API can hold. Names the field.
    """
    containers = len(pod.spec.containers or ()) + len(pod.spec.init_containers or ())
    if containers > _MOST_CONTAINERS:
        raise InvalidInput("spec.containers", f"{containers:,} of them are in no pod of the API")
    demand = _demand_of(_template(pod), names or _DEFAULT_NAMES)
    return _made(pod, demand, groups)


@dataclass(frozen=True, slots=True)
class Charge:
    """What a pod on a node is charged, whatever else about it cannot be read.

    Parameters
    ----------
    request
        What it asks for; without devices where it asks for them in several ways.
    parts
        These ways, each by itself; empty where the request says it all.
    problem
        Why the pod as it is would be refused; empty if it would not.
    slots
        What it asks of each device under HAMi.
    """

    request: PodRequest
    parts: tuple[GpuRequest, ...] = ()
    problem: str = ""
    slots: tuple[Slot, ...] = ()


def charge_of(
    pod: PodObject,
    names: ResourceNames | None = None,
    groups: Groups | None = None,
) -> Charge:
    """What a pod is charged. Unlike :func:`pod_request` it refuses nothing.

    The API server has validated every quantity, so that a request may contradict itself or be
    larger than any node, but always says how much it asks for.
    """
    names = names or _DEFAULT_NAMES
    try:
        demand = _demand_of(_template(pod), names)
        return Charge(_made(pod, demand, groups), slots=demand.slots)
    except InvalidInput as error:
        problem = str(error)
    spec = _readable(pod.spec, names)
    totals = _effective(spec)
    selection = _selection(spec)
    ways = separate_requests(totals, selection, names)
    gpu = ways[0] if len(ways) == 1 else GpuRequest()
    gpu, rules, counted = (
        _short_request(gpu),
        _short_selection(selection),
        counted_by(totals, names),
    )
    demand = _Demand(*_cpu_and_memory(totals), gpu, rules, counted)
    slots = hami_slots(pod.spec, gpu, names)
    return Charge(_made(pod, demand, groups), ways if len(ways) > 1 else (), problem, slots)


def in_full(request: PodRequest, pod: PodObject) -> PodRequest:
    """The request with its rules, however long: a file is read once, and nobody else fills it."""
    if request.selection is not _UNREADABLY_LONG:
        return request
    return replace(request, selection=_selection(pod.spec))


def is_counted(pod: PodObject) -> bool:
    """Whether everything can be read that the pod asks for, be it a contradiction or not."""
    content = _template_decoder.decode(_template(pod))
    seen = {one.path: one.seen for one in content.resized}
    try:
        _effective(content.spec, seen, infeasible=content.infeasible)
    except InvalidInput:
        return False
    return True


def _readable(spec: PodSpec, names: ResourceNames) -> PodSpec:
    """A spec without quantities that nobody can read; of devices, as many as there may be."""

    def listed(quantities: Quantities | None) -> Quantities:
        return {n: _clipped(n, q, names) for n, q in (quantities or {}).items()}

    def resources(stated: Resources | None) -> Resources | None:
        if stated is None:
            return None
        return Resources(requests=listed(stated.requests), limits=listed(stated.limits))

    def containers(stated: Sequence[Container] | None) -> list[Container]:
        return [
            Container(
                name=c.name, resources=resources(c.resources), restart_policy=c.restart_policy
            )
            for c in stated or ()
        ]

    return PodSpec(
        containers=containers(spec.containers),
        init_containers=containers(spec.init_containers),
        overhead=listed(spec.overhead),
        resources=resources(spec.resources),
        node_selector=spec.node_selector,
        affinity=spec.affinity,
        tolerations=spec.tolerations,
    )


def _clipped(name: str, quantity: str | float, names: ResourceNames) -> str | float:
    try:
        readable = parse(quantity) >= 0
    except InvalidInput:
        readable = False
    if readable:
        return quantity
    return str(MOST_MEMORY) if names.stands_for_devices(name) else "0"


def _made(pod: PodObject, demand: _Demand, groups: Groups | None) -> PodRequest:
    gang, role = groups.place(pod) if groups is not None else (gang_key(pod), "")
    return PodRequest(
        uid=pod_uid(pod),
        namespace=pod.metadata.namespace or "default",
        name=pod.metadata.name,
        cpu_milli=demand.cpu_milli,
        memory_bytes=demand.memory_bytes,
        gpu=demand.gpu,
        priority=pod.spec.priority or 0,
        selection=demand.selection,
        gang=gang,
        owner=_owner(pod),
        counted=demand.counted,
        role=role,
    )


_DEFAULT_NAMES = ResourceNames()

_MOST_CONTAINERS = 1 << 15  # of 48 bytes at least, in an object of 1.5 MiB at most
_LONGEST_KEPT = 1 << 12  # templates beyond are read anew for every pod
_LONGEST_RULES = 1 << 14
_MOST_RULES = 128
_MOST_MODELS = 64
_MOST_PROFILES = 32
_UNREADABLY_LONG = NodeSelection(terms=(SelectorTerm(),))


def _short_selection(selection: NodeSelection) -> NodeSelection:
    """The rules as they are remembered; what is too long for that selects nothing.

    kube-scheduler applies a pod's rules before it asks about it. Here they only say whether a pod
    is worth requeueing, or fits a plan: one that nobody can remember never is.
    """
    if not selection.terms and len(selection.tolerations) + len(selection.node_selector) <= 16:
        return selection
    texts = [text for pair in selection.node_selector for text in pair]
    for term in selection.terms:
        for rule in (*term.expressions, *term.fields):
            texts += (rule.key, rule.operator, *rule.values)
    for toleration in selection.tolerations:
        texts += (toleration.key, toleration.value, toleration.effect)
    rules = len(selection.terms) + len(selection.tolerations) + len(selection.node_selector)
    rules += sum(len(term.expressions) + len(term.fields) for term in selection.terms)
    short = rules <= _MOST_RULES and sum(map(len, texts)) + len(texts) <= _LONGEST_RULES
    return selection if short else _UNREADABLY_LONG


def _short_request(gpu: GpuRequest) -> GpuRequest:
    """The request as it is remembered: very many models are any, very many profiles fit nowhere.

    Profiles that some device has all stay, as a running pod is charged for them; one that none has
    is enough to fit nowhere.
    """
    if len(gpu.products) <= _MOST_MODELS and len(gpu.mig) <= _MOST_PROFILES:
        return gpu
    products = gpu.products if len(gpu.products) <= _MOST_MODELS else ()
    known = tuple(pair for pair in gpu.mig if pair[0] in KNOWN_PROFILES)
    strange = tuple(pair for pair in gpu.mig if pair[0] not in KNOWN_PROFILES)
    mig = gpu.mig if len(gpu.mig) <= _MOST_PROFILES else known + strange[:1]
    return replace(gpu, products=products, mig=mig)


@dataclass(frozen=True, slots=True)
class _Demand:
    """What pods of one template ask for."""

    cpu_milli: int
    memory_bytes: int
    gpu: GpuRequest
    selection: NodeSelection
    counted: tuple[tuple[str, int], ...] = ()
    slots: tuple[Slot, ...] = ()


class _Template(msgspec.Struct, array_like=True):
    """The part of a pod that decides what it asks for; alike for all pods of one template."""

    containers: list[Container] | None
    init_containers: list[Container] | None
    overhead: Quantities | None
    resources: Resources | None
    node_selector: dict[str, str] | None
    affinity: Affinity | None
    tolerations: list[TolerationObject] | None
    resized: list[Resized]
    infeasible: bool

    @property
    def spec(self) -> PodSpec:
        """As it stood in the pod."""
        return PodSpec(
            containers=self.containers,
            init_containers=self.init_containers,
            overhead=self.overhead,
            resources=self.resources,
            node_selector=self.node_selector,
            affinity=self.affinity,
            tolerations=self.tolerations,
        )


_template_decoder = msgspec.json.Decoder(_Template)
_encode = msgspec.json.Encoder().encode


def _template(pod: PodObject) -> bytes:
    spec = pod.spec
    resized = resized_containers(pod)
    return _encode(
        (
            spec.containers,
            spec.init_containers,
            spec.overhead,
            spec.resources,
            spec.node_selector,
            spec.affinity,
            spec.tolerations,
            resized,
            bool(resized) and is_infeasible(pod),
        )
    )


def _demand_of(template: bytes, names: ResourceNames) -> _Demand:
    """What pods of this template ask for; what is long is not kept."""
    read = _demand if len(template) <= _LONGEST_KEPT else _demand.__wrapped__
    return read(template, names)


@lru_cache(maxsize=4096)
def _demand(template: bytes, names: ResourceNames) -> _Demand:
    """Read the part of a spec that pods of one template share.

    Exact arithmetic on quantities takes most of the time of reading a pod, and a cluster's pods
    come from few templates; the values are shared between them, too.
    """
    content = _template_decoder.decode(template)
    spec, seen = content.spec, {one.path: one.seen for one in content.resized}
    totals = _effective(spec, seen, infeasible=content.infeasible)
    selection = _selection(spec)
    asked = (name for name, amount in totals.items() if amount and names.stands_for_devices(name))
    selection = replace(selection, resources=tuple(sorted(asked)))
    gpu = _short_request(device_request(totals, selection, names))
    return _Demand(
        *_cpu_and_memory(totals),
        gpu,
        _short_selection(selection),
        counted_by(totals, names),
        hami_slots(spec, gpu, names),
    )


def _cpu_and_memory(totals: Totals) -> tuple[int, int]:
    cpu = ceil(totals.get("cpu", Fraction(0)) * 1000)
    memory = ceil(totals.get("memory", Fraction(0)))
    return min(cpu, _MOST), min(memory, _MOST)


# -- effective requests ------------------------------------------------------------------------


def _requests(resources: Resources | None, path: str) -> Totals:
    if resources is None:
        return {}
    return {name: _amount(name, text, path) for name, text in _stated(resources).items()}


def _stated(resources: Resources) -> Quantities:
    return {**(resources.limits or {}), **(resources.requests or {})}


def _amount(name: str, text: str | float, path: str) -> Fraction:
    value = parse(text, f"{path}.resources[{name}]")
    if value < 0:
        raise InvalidInput(f"{path}.resources[{name}]", f"is negative ({text})")
    return value


def _sum(containers: Iterable[tuple[str, Container]]) -> Totals:
    """What these containers ask for in all; of many that ask for the same each costs little."""
    counts: dict[tuple[str, str | float], int] = {}
    amounts: dict[tuple[str, str | float], Fraction] = {}
    for path, container in containers:
        for stated in _stated(container.resources).items() if container.resources else ():
            if stated not in amounts:
                amounts[stated] = _amount(*stated, path)
            counts[stated] = counts.get(stated, 0) + 1
    totals: Totals = {}
    for stated, count in counts.items():
        totals[stated[0]] = totals.get(stated[0], Fraction(0)) + count * amounts[stated]
    return totals


def _add(left: Totals, right: Mapping[str, Fraction]) -> Totals:
    if not left or not right:  # nearly always: one container, no overhead
        return dict(left or right)
    return {name: left.get(name, Fraction(0)) + right.get(name, 0) for name in {*left, *right}}


def _effective(
    spec: PodSpec,
    seen: Mapping[str, list[Quantities]] = MappingProxyType({}),
    *,
    infeasible: bool = False,
) -> Totals:
    def requests(resources: Resources | None, path: str) -> Totals:
        own = _requests(resources, path)
        return in_force(own, path, seen[path], infeasible=infeasible) if path in seen else own

    every = _paths("containers", spec.containers)
    running = _sum((path, one) for path, one in every if path not in seen)
    for path, container in every if seen else ():
        if path in seen:
            running = _add(running, requests(container.resources, path))
    sidecars: Totals = {}
    starting: Totals = {}
    for path, container in _paths("initContainers", spec.init_containers):
        own = requests(container.resources, path)
        if container.restart_policy == "Always":
            sidecars = _add(sidecars, own)
            starting = larger(starting, sidecars)
        else:
            starting = larger(starting, _add(sidecars, own))
    totals = larger(_add(running, sidecars), starting)
    for name, value in requests(spec.resources, "spec").items():
        if name in ("cpu", "memory") or name.startswith("hugepages-"):
            totals[name] = value
    overhead = {n: parse(q, f"spec.overhead[{n}]") for n, q in (spec.overhead or {}).items()}
    return _add(totals, overhead)


def _paths(kind: str, containers: Sequence[Container] | None) -> list[tuple[str, Container]]:
    return [(f"spec.{kind}[{index}]", one) for index, one in enumerate(containers or ())]


def _selection(spec: PodSpec) -> NodeSelection:
    terms: list[SelectorTerm] = []
    required = (
        spec.affinity and spec.affinity.node_affinity and spec.affinity.node_affinity.required
    )
    for term in (required.node_selector_terms or ()) if required else ():
        expressions, fields = requirements(term.match_expressions), requirements(term.match_fields)
        terms.append(SelectorTerm(expressions, fields))
    if required and not terms:
        terms.append(SelectorTerm())  # affinity without any term selects nothing
    return NodeSelection(
        tuple(sorted((spec.node_selector or {}).items())),
        tuple(terms),
        tuple(
            Toleration(t.key or "", t.operator or "Equal", t.value or "", t.effect or "")
            for t in spec.tolerations or ()
        ),
    )


def _owner(pod: PodObject) -> str:
    for owner in pod.metadata.owner_references or ():
        if owner.controller:
            return f"{owner.kind}/{owner.name}"
    return ""
