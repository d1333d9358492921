"""The validator: from the API alone, is anything promised twice?

It reads nodes, pods and pod groups as plain JSON and derives everything again in the slowest and
plainest way. It shares no code with the product, on purpose: an error has to be made twice, in two
different ways, to go unnoticed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from testbed.controlplane.api import Api

Json = dict[str, Any]

DEVICE = 1000
WHOLE = "nvidia.com/gpu"
MILLI = "snugfit.io/gpu-milli"
MEMORY = "snugfit.io/gpu-memory-mib"
ANNOTATION = "snugfit.io/devices"
DEVICE_MEMORY_LABEL = "nvidia.com/gpu.memory"
GROUPS = "scheduling.k8s.io/v1beta1"

_ENTRY = re.compile(r"(\d+):(\d+):(\d+):(\d+)")
_QUANTITY = re.compile(r"([+-]?[0-9.]+)(?:[eE]([+-]?[0-9]+)|([numkMGTPE]|[KMGTPE]i)?)")
_SUFFIX = {
    **{sign: Fraction(1000) ** power for power, sign in enumerate("num", start=-3)},
    **{sign: Fraction(1000) ** power for power, sign in enumerate("kMGTPE", start=1)},
    **{f"{sign}i": Fraction(1024) ** power for power, sign in enumerate("KMGTPE", start=1)},
}


@dataclass(frozen=True)
class Violation:
    """Something that must not be.

    Parameters
    ----------
    rule
        Short name of the rule.
    where
        Node, pod or gang.
    text
        What is wrong, with the numbers.
    """

    rule: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"[{self.rule}] {self.where}: {self.text}"


class InvalidSchedule(AssertionError):
    """The state of the API breaks rules; lists how."""


def judge(
    nodes: Iterable[Json],
    pods: Iterable[Json],
    groups: Iterable[Json] = (),
    *,
    settled: bool = True,
    foreign: Callable[[Json], bool] = lambda _: False,
) -> list[Violation]:
    """Every broken rule.

    Parameters
    ----------
    nodes, pods, groups
        Objects of the API.
    settled
        Whether gangs have to be complete. While bindings are under way they may be half bound.
    foreign
        Pods that somebody else bound: their fractions have no devices recorded.
    """
    pods = list(pods)
    by_node: dict[str, list[Json]] = defaultdict(list)
    for pod in pods:
        if pod["spec"].get("nodeName") and not _finished(pod):
            by_node[pod["spec"]["nodeName"]].append(pod)
    found: list[Violation] = []
    for node in nodes:
        here = by_node.get(node["metadata"]["name"], [])
        found += _counts(node, here)
        found += _selection(node, here)
        found += _devices(node, here, foreign)
    for pod in pods:
        found += _unasked(pod)
    if settled:
        found += _gangs(pods, groups)
    return found


class Validator:
    """The validator of a live cluster.

    Parameters
    ----------
    api
        How to read it.
    gangs
        Whether the server knows PodGroups.
    foreign
        See :func:`judge`.
    """

    def __init__(
        self, api: Api, *, gangs: bool, foreign: Callable[[Json], bool] = lambda _: False
    ) -> None:
        self._api = api
        self._gangs = gangs
        self._foreign = foreign

    def violations(self, *, settled: bool = True) -> list[Violation]:
        """Every broken rule, as of now."""
        # Pods first: a pod bound after its node was listed is then not seen at all, while one that
        # is seen has a node that was there before.
        pods = self._api.objects("Pod")
        nodes = self._api.objects("Node")
        groups = self._api.objects("PodGroup", version=GROUPS) if self._gangs else []
        return judge(nodes, pods, groups, settled=settled, foreign=self._foreign)

    def check(self, *, settled: bool = True) -> None:
        """Refuse any broken rule.

        Raises
        ------
        InvalidSchedule
            There are some; the message lists the first twenty.
        """
        found = self.violations(settled=settled)
        if found:
            shown = "\n".join(map(str, found[:20]))
            raise InvalidSchedule(f"{len(found)} broken rules\n{shown}")


# -- quantities and requests -------------------------------------------------------------------


def quantity(text: object) -> Fraction:
    """A Kubernetes quantity as an exact number.

    Raises
    ------
    ValueError
        It is none.
    """
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError(f"{text!r} is not a quantity")
    number, exponent, suffix = match.groups()
    scale = Fraction(10) ** int(exponent) if exponent else _SUFFIX.get(suffix, Fraction(1))
    return Fraction(number) * scale


def requests(pod: Json) -> dict[str, Fraction]:
    """What a pod asks for in all, by the rules of the Kubernetes documentation."""
    spec = pod["spec"]
    lasting: dict[str, Fraction] = defaultdict(Fraction)
    peak: dict[str, Fraction] = defaultdict(Fraction)
    for container in spec.get("initContainers") or ():
        wanted = _container(container)
        if container.get("restartPolicy") == "Always":
            for name, amount in wanted.items():
                lasting[name] += amount
            wanted = {}
        for name in {*wanted, *lasting}:
            peak[name] = max(peak[name], lasting[name] + wanted.get(name, 0))
    for container in spec["containers"]:
        for name, amount in _container(container).items():
            lasting[name] += amount
    total = {name: max(lasting[name], peak[name]) for name in {*lasting, *peak}}
    total |= _container(spec)  # pod-level resources replace the sum of the containers
    for name, text in (spec.get("overhead") or {}).items():
        total[name] = total.get(name, Fraction(0)) + quantity(text)
    return total


def _container(container: Json) -> dict[str, Fraction]:
    stated = container.get("resources") or {}
    both = {**(stated.get("limits") or {}), **(stated.get("requests") or {})}
    return {name: quantity(text) for name, text in both.items()}


def _finished(pod: Json) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _name(pod: Json) -> str:
    return f"{pod['metadata'].get('namespace', 'default')}/{pod['metadata']['name']}"


# -- rules of a node ---------------------------------------------------------------------------


def _counts(node: Json, pods: list[Json]) -> list[Violation]:
    """Sums of every resource, and the number of pods."""
    room = {name: quantity(q) for name, q in node["status"].get("allocatable", {}).items()}
    used: dict[str, Fraction] = defaultdict(Fraction)
    for pod in pods:
        used["pods"] += 1
        for name, amount in requests(pod).items():
            used[name] += amount
    return [
        Violation("over-commit", node["metadata"]["name"],
                  f"{float(used[name]):g} of {float(room.get(name, 0)):g} {name}")
        for name in sorted(used)
        if used[name] > room.get(name, 0)
    ]  # fmt: skip


def _selection(node: Json, pods: list[Json]) -> list[Violation]:
    """Node selectors and required node affinity, as far as labels go."""
    labels = node["metadata"].get("labels") or {}
    return [
        Violation("affinity", _name(pod), f"is not meant for {node['metadata']['name']}")
        for pod in pods
        if not _wanted_here(pod["spec"], labels)
    ]


def _wanted_here(spec: Json, labels: Mapping[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if not required:
        return True
    return any(
        all(_holds(rule, labels) for rule in term.get("matchExpressions") or ())
        for term in required["nodeSelectorTerms"]
    )


def _holds(rule: Json, labels: Mapping[str, str]) -> bool:
    value, values = labels.get(rule["key"]), rule.get("values") or []
    match rule["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return value is not None and int(value) > int(values[0])
        case _:
            return value is not None and int(value) < int(values[0])


# -- rules of devices --------------------------------------------------------------------------


@dataclass
class _Device:
    milli: int = 0
    memory: int = 0
    pods: int = 0
    whole: str = ""


def _devices(node: Json, pods: list[Json], foreign: Callable[[Json], bool]) -> list[Violation]:
    """Every device by itself: shares, memory, exclusiveness, against what the pods asked for."""
    name = node["metadata"]["name"]
    room = {key: quantity(text) for key, text in node["status"].get("allocatable", {}).items()}
    count = int(room.get(MILLI, 0)) // DEVICE
    size = int((node["metadata"].get("labels") or {}).get(DEVICE_MEMORY_LABEL, 0))
    devices: dict[int, _Device] = defaultdict(_Device)
    found: list[Violation] = []
    for pod in pods:
        wanted = requests(pod)
        if not (wanted.get(MILLI) or wanted.get(MEMORY)) or foreign(pod):
            continue
        shares, wrong = _shares(pod)
        found += wrong
        if shares is None:
            continue
        found += _misplaced(pod, wanted, shares)
        for index, milli, memory, _ in shares:
            device = devices[index]
            device.milli += milli
            device.memory += memory
            device.pods += 1
            if milli >= DEVICE:
                device.whole = _name(pod)
    for index, device in sorted(devices.items()):
        where = f"{name} device {index}"
        if index >= count:
            found.append(Violation("index", where, f"the node has {count} devices"))
        if device.milli > DEVICE:
            found.append(Violation("device", where, f"{device.milli} of {DEVICE} milli"))
        if size and device.memory > size:
            found.append(Violation("memory", where, f"{device.memory} of {size} MiB"))
        if device.whole and device.pods > 1:
            found.append(Violation("exclusive", where, f"shared beside {device.whole}"))
    found += _both_ways(node, pods, devices)
    return found


def _both_ways(node: Json, pods: list[Json], devices: Mapping[int, _Device]) -> list[Violation]:
    """Devices that the device plugin counts as well as we do must not be sold twice."""
    counted = int(quantity(node["status"].get("allocatable", {}).get(WHOLE, 0)))
    whole = int(sum(requests(pod).get(WHOLE, Fraction(0)) for pod in pods))
    if whole and devices and whole + len(devices) > counted:
        text = f"{whole} whole and {len(devices)} shared of {counted} devices"
        return [Violation("both-ways", node["metadata"]["name"], text)]
    return []


Share = tuple[int, int, int, int]


def _shares(pod: Json) -> tuple[list[Share] | None, list[Violation]]:
    text = (pod["metadata"].get("annotations") or {}).get(ANNOTATION)
    if text is None:
        return None, [Violation("unassigned", _name(pod), "is bound and has no device")]
    shares: list[Share] = []
    for part in text.split(","):
        match = _ENTRY.fullmatch(part)
        if match is None:
            return None, [Violation("unreadable", _name(pod), f"{ANNOTATION} is {text!r}")]
        index, milli, memory, slots = map(int, match.groups())
        shares.append((index, milli, memory, slots))
    return shares, []


def _misplaced(pod: Json, wanted: Mapping[str, Fraction], shares: list[Share]) -> list[Violation]:
    """Whether the devices recorded are what the pod asked for."""
    requested_milli, requested_memory = int(wanted.get(MILLI, 0)), int(wanted.get(MEMORY, 0))
    milli, memory = sum(share[1] for share in shares), sum(share[2] for share in shares)
    found = []
    if requested_milli and milli != requested_milli:
        found.append(f"has {milli} milli, asked for {requested_milli}")
    if requested_memory and memory != requested_memory:
        found.append(f"has {memory} MiB, asked for {requested_memory}")
    if any(share[1] <= 0 for share in shares):
        found.append("has an empty share of a device")
    if len({share[0] for share in shares}) != len(shares):
        found.append("has the same device twice")
    if len(shares) != max(1, requested_milli // DEVICE):
        found.append(f"has {len(shares)} devices, asked for {max(1, requested_milli // DEVICE)}")
    return [Violation("assignment", _name(pod), text) for text in found]


def _unasked(pod: Json) -> list[Violation]:
    """Devices go only onto bound pods that ask for them by our own protocol."""
    if ANNOTATION not in (pod["metadata"].get("annotations") or {}):
        return []
    wanted = requests(pod)
    if not wanted.get(MILLI) and not wanted.get(MEMORY):
        return [Violation("unasked", _name(pod), "has devices and asked for none")]
    if not pod["spec"].get("nodeName"):
        return [Violation("unbound", _name(pod), "has devices and no node")]
    return []


# -- rules of gangs ----------------------------------------------------------------------------


def _gangs(pods: list[Json], groups: Iterable[Json]) -> list[Violation]:
    """All or none: at least the minimum is bound, or nobody is."""
    bound: dict[tuple[str, str], int] = defaultdict(int)
    for pod in pods:
        group = (pod["spec"].get("schedulingGroup") or {}).get("podGroupName")
        if group and pod["spec"].get("nodeName"):
            bound[pod["metadata"].get("namespace", "default"), group] += 1
    found = []
    for group in groups:
        key = group["metadata"].get("namespace", "default"), group["metadata"]["name"]
        policy = group["spec"].get("schedulingPolicy") or {}
        least = (policy.get("gang") or {}).get("minCount", 0)
        if 0 < bound[key] < least:
            found.append(Violation("gang", "/".join(key), f"{bound[key]} of {least} are bound"))
    return found
