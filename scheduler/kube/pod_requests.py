"""A Pod object -> what it requests.

Effective requests follow Kubernetes' own rules: containers and native sidecars (init containers
with ``restartPolicy: Always``) add up; an ordinary init container runs beside the sidecars started
before it, and the larger of the two totals counts; pod-level resources replace cpu and memory;
overhead comes on top. An extended resource that only has a limit requests that limit.

While a pod is resized in place, each of its containers counts with the largest of what it asks for,
what the kubelet has allocated and what is in force; a resize that the kubelet has found infeasible
asks for nothing. kube-scheduler counts the same way (KEP-1287).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache, partial
from math import ceil

import msgspec

from scheduler.core.errors import InvalidInput
from scheduler.core.mig import KNOWN_PROFILES
from scheduler.core.model import (
    DEVICE_MILLI,
    MAX_UNITS,
    DeviceShare,
    GpuRequest,
    NodeSelection,
    Placement,
    PodRequest,
    SelectorTerm,
    Toleration,
)
from scheduler.kube.counted import counted_by
from scheduler.kube.gang_groups import Groups
from scheduler.kube.gang_membership import gang_key
from scheduler.kube.objects import (
    Container,
    ContainerStatus,
    PodObject,
    PodSpec,
    Quantities,
    Resources,
)
from scheduler.kube.quantity import parse
from scheduler.kube.resource_names import ResourceNames, plain_product, profile_of
from scheduler.kube.selectors import requirements

__all__ = [
    "Charge",
    "binding_annotations",
    "charge_of",
    "has_ended",
    "in_full",
    "is_counted",
    "pod_request",
    "pod_uid",
    "write_device_shares",
]

Totals = dict[str, Fraction]
_MOST = 1 << 53
"""Requests beyond this fit nowhere; clipped, so that sums of them stay within 64 bits."""
_MOST_INSTANCES = 1 << 16
"""MIG instances or replicas; more than all devices of a node may be divided into."""
_MOST_MEMORY = 1 << 30


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
        A quantity cannot be read, or the GPU request contradicts itself. Names the field.
    """
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
    """

    request: PodRequest
    parts: tuple[GpuRequest, ...] = ()
    problem: str = ""


def charge_of(
    pod: PodObject,
    names: ResourceNames | None = None,
    groups: Groups | None = None,
) -> Charge:
    """What a pod is charged. Unlike :func:`pod_request` it refuses nothing.

    The API server has validated every quantity, so that a request may contradict itself or be
    larger than any node, but always says how much it asks for.
    """
    try:
        return Charge(pod_request(pod, names, groups))
    except InvalidInput as error:
        problem = str(error)
    names = names or _DEFAULT_NAMES
    spec = _readable(pod.spec, names)
    totals = _effective(spec)
    selection = _selection(spec)
    ways = _ways(totals, selection, names)
    gpu = ways[0] if len(ways) == 1 else GpuRequest()
    demand = _Demand(*_cpu_and_memory(totals), gpu, selection, counted_by(totals, names))
    return Charge(_made(pod, demand, groups), ways if len(ways) > 1 else (), problem)


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

    def containers(stated: list[Container] | None) -> list[Container]:
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
    return str(_MOST_MEMORY) if names.stands_for_devices(name) else "0"


def _made(pod: PodObject, demand: _Demand, groups: Groups | None) -> PodRequest:
    gang, role = groups.place(pod) if groups is not None else (gang_key(pod), "")
    return PodRequest(
        uid=pod_uid(pod),
        namespace=pod.metadata.namespace or "default",
        name=pod.metadata.name,
        cpu_milli=demand.cpu_milli,
        memory_bytes=demand.memory_bytes,
        gpu=_short_request(demand.gpu),
        priority=pod.spec.priority or 0,
        selection=_short_selection(demand.selection),
        gang=gang,
        owner=_owner(pod),
        counted=demand.counted,
        role=role,
    )


_DEFAULT_NAMES = ResourceNames()

_QUOTED_BITS = 128
_LONGEST_KEPT = 1 << 12  # templates beyond are read anew for every pod
_LONGEST_RULES = 1 << 14
_MOST_RULES = 128
_MOST_MODELS = 64
_MOST_PROFILES = 32
_UNREADABLY_LONG = NodeSelection(terms=(SelectorTerm(),))


def _short_selection(selection: NodeSelection) -> NodeSelection:
    """The rules as they are remembered; what is too long for that selects nothing.

    kube-scheduler applies a pod's rules before it asks about it. Here they only say whether a pod
    is worth waking, or fits a plan: one that nobody can remember never is.
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


class _Resized(msgspec.Struct, omit_defaults=True):
    """A container whose kubelet says something else than its spec."""

    path: str
    seen: list[Quantities]


class _Template(msgspec.Struct, omit_defaults=True):
    """The part of a pod that decides what it asks for; alike for all pods of one template."""

    spec: PodSpec
    resized: list[_Resized] = []
    infeasible: bool = False


_template_decoder = msgspec.json.Decoder(_Template)


def _template(pod: PodObject) -> bytes:
    spec = pod.spec
    resized = _all_resized(pod)
    return msgspec.json.encode(
        _Template(
            PodSpec(
                containers=spec.containers,
                init_containers=spec.init_containers,
                overhead=spec.overhead,
                resources=spec.resources,
                node_selector=spec.node_selector,
                affinity=spec.affinity,
                tolerations=spec.tolerations,
            ),
            resized,
            bool(resized) and _infeasible(pod),
        )
    )


def _all_resized(pod: PodObject) -> list[_Resized]:
    """Containers, and the pod itself, where status and spec differ: none but during a resize."""
    status = pod.status
    if status is None or not pod.spec.node_name:
        return []
    found = []
    for kind, containers, statuses in (
        ("containers", pod.spec.containers, status.container_statuses),
        ("initContainers", pod.spec.init_containers, status.init_container_statuses),
    ):
        if not statuses:
            continue
        by_name = {one.name: one for one in statuses}
        for index, container in enumerate(containers or ()):
            own = by_name.get(container.name)
            if own is None or _agree(container.resources, own):
                continue
            if (
                kind == "containers" or container.restart_policy == "Always"
            ):  # others stay as they are
                found += _differing(f"spec.{kind}[{index}]", container.resources, own)
    if pod.spec.resources is None:
        return found
    whole = ContainerStatus(allocated_resources=status.allocated_resources,
                            resources=status.resources)  # fmt: skip
    return found + _differing("spec", pod.spec.resources, whole)


def _agree(resources: Resources | None, status: ContainerStatus) -> bool:
    """Whether the kubelet says nothing that the spec does not; so it is but during a resize."""
    asked = resources.requests if resources else None
    in_force = status.resources.requests if status.resources else None
    return status.allocated_resources in (None, asked) and in_force in (None, asked)


def _differing(path: str, resources: Resources | None, status: ContainerStatus) -> list[_Resized]:
    asked = (resources.requests if resources else None) or {}
    in_force = (status.resources.requests if status.resources else None) or {}
    seen = []
    for quantities in (status.allocated_resources or {}, in_force):
        other = {n: q for n, q in quantities.items() if n in _RESIZABLE and asked.get(n) != q}
        if other:
            seen.append(other)
    return [_Resized(path, seen)] if seen else []


def _infeasible(pod: PodObject) -> bool:
    conditions = (pod.status.conditions if pod.status else None) or ()
    return any(
        c.type == "PodResizePending" and c.status == "True" and c.reason == "Infeasible"
        for c in conditions
    )


_RESIZABLE = ("cpu", "memory")


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
    totals = _effective(
        content.spec, {one.path: one.seen for one in content.resized}, infeasible=content.infeasible
    )
    selection = _selection(content.spec)
    asked = (name for name, amount in totals.items() if amount and names.stands_for_devices(name))
    selection = replace(selection, resources=tuple(sorted(asked)))
    gpu = _gpu(totals, selection, names)
    return _Demand(*_cpu_and_memory(totals), gpu, selection, counted_by(totals, names))


def _cpu_and_memory(totals: Totals) -> tuple[int, int]:
    cpu = ceil(totals.get("cpu", Fraction(0)) * 1000)
    memory = ceil(totals.get("memory", Fraction(0)))
    return min(cpu, _MOST), min(memory, _MOST)


# -- effective requests ------------------------------------------------------------------------


def _requests(resources: Resources | None, path: str) -> Totals:
    if resources is None:
        return {}
    stated: Quantities = dict(resources.limits or {})
    stated.update(resources.requests or {})
    totals = {}
    for name, text in stated.items():
        value = parse(text, f"{path}.resources[{name}]")
        if value < 0:
            raise InvalidInput(f"{path}.resources[{name}]", f"is negative ({text})")
        totals[name] = value
    return totals


def _add(left: Totals, right: Mapping[str, Fraction]) -> Totals:
    if not left or not right:  # nearly always: one container, no overhead
        return dict(left or right)
    return {name: left.get(name, Fraction(0)) + right.get(name, 0) for name in {*left, *right}}


def _larger(left: Totals, right: Totals) -> Totals:
    if not left or not right:  # nothing is negative
        return dict(left or right)
    zero = Fraction(0)
    return {name: max(left.get(name, zero), right.get(name, zero)) for name in {*left, *right}}


def _effective(
    spec: PodSpec,
    seen: Mapping[str, list[Quantities]] | None = None,
    *,
    infeasible: bool = False,
) -> Totals:
    def requests(resources: Resources | None, path: str) -> Totals:
        own = _requests(resources, path)
        return _in_force(own, path, (seen or {}).get(path, ()), infeasible=infeasible)

    running: Totals = {}
    for path, container in _paths("containers", spec.containers):
        running = _add(running, requests(container.resources, path))
    sidecars: Totals = {}
    starting: Totals = {}
    for path, container in _paths("initContainers", spec.init_containers):
        own = requests(container.resources, path)
        if container.restart_policy == "Always":
            sidecars = _add(sidecars, own)
            starting = _larger(starting, sidecars)
        else:
            starting = _larger(starting, _add(sidecars, own))
    totals = _larger(_add(running, sidecars), starting)
    for name, value in requests(spec.resources, "spec").items():
        if name in ("cpu", "memory") or name.startswith("hugepages-"):
            totals[name] = value
    overhead = {n: parse(q, f"spec.overhead[{n}]") for n, q in (spec.overhead or {}).items()}
    return _add(totals, overhead)


def _in_force(asked: Totals, path: str, seen: Iterable[Quantities], *, infeasible: bool) -> Totals:
    """The largest of what is asked for and what the kubelet says of the same resources."""
    found: Totals = {}
    for quantities in seen:
        read = {n: parse(q, f"status of {path}[{n}]") for n, q in quantities.items()}
        found = _larger(found, read)
    if infeasible:
        return asked | found
    return {n: max(v, found.get(n, v)) for n, v in asked.items()} | {
        n: v for n, v in found.items() if n not in asked
    }


def _paths(kind: str, containers: list[Container] | None) -> Iterable[tuple[str, Container]]:
    for index, container in enumerate(containers or ()):
        yield f"spec.{kind}[{index}]", container


# -- devices -----------------------------------------------------------------------------------


def _gpu(totals: Totals, selection: NodeSelection, names: ResourceNames) -> GpuRequest:
    wanted = {name: _count(name, value) for name, value in totals.items() if value}
    products = _wanted_products(selection, names.product_labels)
    asks = partial(GpuRequest, products=products, by_label=True)
    mig, shared = _instances(wanted, names), min(wanted.get(names.shared, 0), _MOST_INSTANCES)
    milli, memory = wanted.get(names.milli, 0), wanted.get(names.memory, 0)
    share = wanted.get(names.share_memory, 0)
    plugin = [asks(count=count, resource=name) for name, count in _whole(wanted, names)]
    plugin += [asks(mig=mig)] if mig else []
    plugin += [asks(replicas=shared)] if shared else []
    ours = [name for name, asked in ((names.share_memory, share), (names.milli, milli or memory))
            if asked]  # fmt: skip
    if len(ours) > 1 or (ours and plugin):
        ways = [*ours, *(gpu.resource or names.mig_prefix + "*" for gpu in plugin)]
        raise InvalidInput(
            "spec.containers",
            f"ask for {' and '.join(sorted(ways))}",
            "devices are chosen by the scheduler or by the device plugin, not by both",
        )
    if plugin:  # each is of devices of its own, and kube-scheduler counts each by itself
        first, *others = plugin
        return replace(first, also=tuple(others)) if others else first
    if share:
        mebibytes = min(share * names.share_unit_mib, _MOST_MEMORY)
        return asks(memory_mib=mebibytes, resource=names.share_memory)
    if milli or memory:
        return _fraction(milli, memory, products, names)
    return GpuRequest()


def _whole(wanted: Mapping[str, int], names: ResourceNames) -> list[tuple[str, int]]:
    """Resources that count units of devices, and how many, those of the first vendor first."""
    listed = [name for name in names.whole if wanted.get(name)]
    listed += sorted(
        n for n, c in wanted.items() if c and n not in listed and names.counts_units(n)
    )
    return [(name, wanted[name]) for name in listed]


def _ways(totals: Totals, selection: NodeSelection, names: ResourceNames) -> tuple[GpuRequest, ...]:
    """Every way in which a pod asks for devices, each by itself and as large as a node may be."""
    wanted = {
        name: min(ceil(value), _MOST_MEMORY)
        for name, value in totals.items()
        if value and names.stands_for_devices(name)
    }
    products = _wanted_products(selection, names.product_labels)
    asks = partial(GpuRequest, products=products, by_label=True)
    found = [
        asks(count=min(count, MAX_UNITS), resource=name) for name, count in _whole(wanted, names)
    ]
    if share := wanted.get(names.share_memory, 0) * names.share_unit_mib:
        memory = min(share, _MOST_MEMORY)
        found.append(asks(memory_mib=memory, resource=names.share_memory))
    count, rest = divmod(wanted.get(names.milli, 0), DEVICE_MILLI)
    if count:
        found.append(asks(count=min(count, MAX_UNITS)))
    if rest or names.memory in wanted:
        memory = wanted.get(names.memory, 0)
        found.append(asks(milli=rest, memory_mib=memory))
    if mig := _instances(wanted, names):
        found.append(asks(mig=mig))
    if replicas := min(wanted.get(names.shared, 0), _MOST_INSTANCES):
        found.append(asks(replicas=replicas))
    return tuple(found)


def _instances(wanted: Mapping[str, int], names: ResourceNames) -> tuple[tuple[str, int], ...]:
    """MIG instances by profile. Several resources may stand for one: their counts add up."""
    found: dict[str, int] = {}
    for name, count in wanted.items():
        if name.startswith(names.mig_prefix) and not names.counts_units(name):
            profile = profile_of(name.removeprefix(names.mig_prefix))
            found[profile] = found.get(profile, 0) + count
    return tuple((profile, min(count, _MOST_INSTANCES)) for profile, count in found.items())


def _count(name: str, value: Fraction) -> int:
    if "/" not in name:
        return 0  # cpu, memory and their like are no device counts
    if value.denominator != 1:
        raise InvalidInput(f"spec.containers[{name}]", f"is not whole ({_quoted(value)})")
    return int(value)


def _quoted(value: Fraction) -> str:
    """A value in messages: a float has not the range for all, and all digits are too many."""
    bits = value.numerator.bit_length() + value.denominator.bit_length()
    return str(float(value)) if bits <= _QUOTED_BITS else f"a fraction of {bits} bits"


def _fraction(
    milli: int, memory: int, products: tuple[str, ...], names: ResourceNames
) -> GpuRequest:
    count, rest = divmod(milli, DEVICE_MILLI)
    if count and rest:
        raise InvalidInput(
            names.milli,
            f"{milli} is neither part of one GPU nor whole GPUs",
            "use 1..999 or a multiple of 1000",
        )
    if count and memory:
        raise InvalidInput(names.memory, "goes with a part of one GPU only", f"drop {names.memory}")
    memory = min(memory, _MOST_MEMORY)
    return GpuRequest(count=count, milli=rest, memory_mib=memory, products=products, by_label=True)


def _wanted_products(selection: NodeSelection, labels: tuple[str, ...]) -> tuple[str, ...]:
    """Models that the selection rules name, empty if they name none.

    They say what a pod is after and refuse no node: labels are compared as they are, and a node may
    carry several that name its model. Terms are alternatives: they tell something only if each of
    them does, and then their union. Within a term, and between nodeSelector and affinity, all
    rules hold; where these name nothing in common, as under keys of different vendors, what the
    first of them says counts.
    """
    sets = [{value} for key, value in selection.node_selector if key in labels]
    if selection.terms:
        per_term = [_term_products(term, labels) for term in selection.terms]
        if all(found is not None for found in per_term):
            sets.append(set().union(*(found or set() for found in per_term)))
    if not sets:
        return ()
    return tuple(sorted({plain_product(v) for v in set.intersection(*sets) or sets[0]}))


def _term_products(term: SelectorTerm, labels: tuple[str, ...]) -> set[str] | None:
    found: set[str] | None = None
    for rule in term.expressions:
        if rule.key in labels and rule.operator == "In":
            found = set(rule.values) if found is None else found & set(rule.values)
    return found


# -- the rest ----------------------------------------------------------------------------------


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


def write_device_shares(shares: tuple[DeviceShare, ...]) -> str:
    """Text of the devices annotation: ``index:milli:memory:slots`` per device, comma separated."""
    return ",".join(f"{s.index}:{s.milli}:{s.memory_mib}:{s.slots}" for s in shares)


def binding_annotations(placement: Placement, names: ResourceNames) -> dict[str, str]:
    """What a Binding has to record: empty where the device plugin chooses the devices.

    Requests of our own protocol get their devices from us. ``visible_annotation`` is what the
    container's ``NVIDIA_VISIBLE_DEVICES`` takes through the downward API.
    """
    if not placement.pod.gpu.chosen_by_us:
        return {}
    return {
        names.devices_annotation: write_device_shares(placement.devices),
        names.visible_annotation: ",".join(str(share.index) for share in placement.devices),
        names.uid_annotation: placement.pod.uid,
    }
