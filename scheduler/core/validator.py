"""The validator: is this set of placements possible at all?

Deliberately slow, plain Python over model objects. It shares no code with ``state``,
``feasibility`` or ``scoring``: it keeps its own ledger per node and device and knows the rules
from the model's definitions only. Which pods a node lets in at all is decided in one place for
everybody, :mod:`scheduler.core.selection`. Tests, planner and benchmarks pass their results through
the validator before a figure is printed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from scheduler.core.errors import SchedulerError
from scheduler.core.mig import MEDIA_BIT, geometry_named
from scheduler.core.model import (
    MAX_UNITS,
    DeviceShare,
    GpuRequest,
    Node,
    Placement,
    PodRequest,
    Reason,
    Serves,
)
from scheduler.core.model import Device as DeviceModel
from scheduler.core.selection import admits

__all__ = ["Validator", "Violation", "verify"]


class Violation(SchedulerError):
    """A placement breaks a rule; the text says which."""


@dataclass
class _DeviceLedger:
    milli: int = 0
    memory_mib: int = 0
    replicas: int = 0
    slots: int = 0


@dataclass
class _NodeLedger:
    node: Node
    cpu_milli: int = 0
    memory_bytes: int = 0
    pods: int = 0
    counted: Counter[str] = field(default_factory=Counter)
    devices: list[_DeviceLedger] = field(default_factory=list)
    ways: Counter[str] = field(default_factory=Counter)


class Validator:
    """Follows a decision log step by step and raises at the first impossible one.

    Parameters
    ----------
    nodes
        The cluster, empty.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._ledgers = {
            node.name: _NodeLedger(node, devices=[_DeviceLedger() for _ in node.devices])
            for node in nodes
        }
        self._placed: dict[str, Placement] = {}

    @property
    def placed(self) -> int:
        """Pods placed now."""
        return len(self._placed)

    @property
    def allocated_milli(self) -> int:
        """Milli-GPU taken now, summed over the shares of all pods."""
        return sum(share.milli for placed in self._placed.values() for share in placed.devices)

    def place(self, placement: Placement, *, running: bool = False) -> None:
        """Check and book one placement.

        Parameters
        ----------
        placement
            Pod, node and devices.
        running
            The pod runs there already, so that nobody has to let it in.

        Raises
        ------
        Violation
            It over-commits something, its devices are not what the pod asked for, or the node does
            not let the pod in.
        """
        pod = placement.pod
        if pod.uid in self._placed:
            raise Violation(f"{pod.key} is placed twice")
        ledger = self._ledgers.get(placement.node)
        if ledger is None:
            raise Violation(f"{pod.key} is on {placement.node}, which does not exist")
        admitted = Reason.FITS if running else admits(ledger.node, pod)
        if admitted is not Reason.FITS:
            raise Violation(f"{pod.key} may not go to {placement.node}: {admitted.text}")
        _check_request(pod, placement.devices, ledger.node)
        _check_way(ledger, placement)
        _charge_node(ledger, pod, 1)
        over = _overdrawn(ledger, pod)
        if over:
            _charge_node(ledger, pod, -1)
            raise Violation(f"{pod.key} over-commits {over} of {placement.node}")
        for share in placement.devices:
            _take(ledger, share, pod)
        ledger.ways[_way(placement, ledger.node)] += 1
        self._placed[pod.uid] = placement

    def release(self, uid: str) -> None:
        """Book the end of a pod; :class:`Violation` if it was not placed."""
        placement = self._placed.pop(uid, None)
        if placement is None:
            raise Violation(f"pod uid {uid} ends without having been placed")
        ledger = self._ledgers[placement.node]
        _charge_node(ledger, placement.pod, -1)
        ledger.ways[_way(placement, ledger.node)] -= 1
        for share in placement.devices:
            device = ledger.devices[share.index]
            device.milli -= share.milli
            device.memory_mib -= share.memory_mib
            model = ledger.node.devices[share.index]
            if model.mig and not (model.units and not model.mig_layout):
                device.slots &= ~share.slots
            else:
                device.replicas -= share.slots


def verify(nodes: Iterable[Node], placements: Iterable[Placement]) -> list[str]:
    """Violations of a set of placements on an empty cluster; an empty list is good."""
    validator = Validator(nodes)
    problems = []
    for placement in placements:
        try:
            validator.place(placement)
        except Violation as violation:
            problems.append(str(violation))
    return problems


def _charge_node(ledger: _NodeLedger, pod: PodRequest, sign: int) -> None:
    ledger.cpu_milli += sign * pod.cpu_milli
    ledger.memory_bytes += sign * pod.memory_bytes
    ledger.pods += sign
    for name, amount in pod.counted:
        ledger.counted[name] += sign * amount


def _overdrawn(ledger: _NodeLedger, pod: PodRequest) -> str:
    """What the pod has more of than is left; what it does not ask for may be over-full."""
    node = ledger.node
    if pod.cpu_milli and ledger.cpu_milli > node.cpu_milli:
        return "cpu"
    if pod.memory_bytes and ledger.memory_bytes > node.memory_bytes:
        return "memory"
    for name, _ in pod.counted:
        if ledger.counted[name] > node.counted.get(name, 0):
            return name
    return "pods" if ledger.pods > node.pods else ""


def _take(ledger: _NodeLedger, share: DeviceShare, pod: PodRequest) -> None:
    model, device = ledger.node.devices[share.index], ledger.devices[share.index]
    where = f"device {share.index} of {ledger.node.name}"
    if not model.healthy:
        raise Violation(f"{pod.key} is on {where}, which is unhealthy")
    if model.mig and not (model.units and not model.mig_layout):
        if device.slots & share.slots:
            raise Violation(f"{pod.key} takes MIG slots of {where} that are taken")
        device.slots |= share.slots
        return
    if model.replicas > 1 or model.shared or model.units:
        device.replicas += share.slots
        if device.replicas > model.replicas:
            raise Violation(f"{pod.key} over-commits the replicas of {where}")
        return
    device.milli += share.milli
    device.memory_mib += share.memory_mib
    if device.milli > 1000:
        raise Violation(f"{pod.key} over-commits {where}: {device.milli} milli-GPU")
    if model.memory_mib and device.memory_mib > model.memory_mib:
        raise Violation(f"{pod.key} over-commits {where}: {device.memory_mib} MiB")


def _way(placement: Placement, node: Node) -> str:
    """Who chooses the pod's devices among those that both may choose from.

    Nobody, the device plugin, or the scheduler.
    """
    gpu = placement.pod.gpu
    if not (gpu.count or gpu.milli or gpu.memory_mib or gpu.mig or gpu.replicas):
        return ""
    if not (gpu.mig or gpu.replicas or (gpu.count and gpu.resource)):
        return "chosen"
    own = _own(node)
    return "" if own and not any(share.index in own for share in placement.devices) else "plugin"


def _own(node: Node) -> list[int]:
    """Entire devices of the node's first resource of such: those that we hand out as well."""
    entire = [
        (index, device.resource or node.resource)
        for index, device in enumerate(node.devices)
        if not (device.mig or device.replicas > 1 or device.shared or device.units)
    ]
    return [index for index, resource in entire if resource == entire[0][1]]


def _check_way(ledger: _NodeLedger, placement: Placement) -> None:
    """Where devices are offered twice, the kubelet must not pick among those we have chosen."""
    pod, way, serves = placement.pod, _way(placement, ledger.node), ledger.node.serves
    other = {"plugin": "chosen", "chosen": "plugin"}.get(way, "")
    if (
        (serves is Serves.ONE_AT_A_TIME and other and ledger.ways[other])
        or (serves is Serves.WHOLE and way == "chosen")
        or (serves is Serves.FRACTIONS and way == "plugin")
    ):
        raise Violation(f"{pod.key} asks {ledger.node.name} for devices in the other way")


def _check_request(pod: PodRequest, shares: tuple[DeviceShare, ...], node: Node) -> None:
    """The devices must be what the pod asked for: kind, number, size and model."""
    gpu = pod.gpu
    indices = [share.index for share in shares]
    if len(set(indices)) != len(indices):
        raise Violation(f"{pod.key} lists a device twice")
    if any(not 0 <= index < len(node.devices) for index in indices):
        raise Violation(f"{pod.key} is on a device that {node.name} does not have")
    wants_devices = bool(gpu.count or gpu.milli or gpu.memory_mib or gpu.mig or gpu.replicas)
    if not wants_devices:
        if shares:
            raise Violation(f"{pod.key} asked for no device and got {len(shares)}")
        return
    asks = [replace(gpu, also=()), *gpu.also] if gpu.also else [gpu]
    left = list(shares)
    for ask in asks:
        ours = [share for share in left if _is_of(ask, node.devices[share.index], node)]
        left = [share for share in left if share not in ours]
        if not _answers(ask, tuple(ours), [node.devices[share.index] for share in ours]):
            raise Violation(_why(pod, ask, left or ours, node))
    if left:
        raise Violation(f"{pod.key} has devices of {node.name} that it did not ask for")


def _why(pod: PodRequest, ask: GpuRequest, shares: list[DeviceShare], node: Node) -> str:
    """What is wrong with the devices that a pod got."""
    devices = [node.devices[share.index] for share in shares]
    for device in devices:
        resource = device.resource or node.resource
        if ask.products and not ask.by_label and device.product not in ask.products:
            return f"{pod.key} is on model {device.product!r}, which it does not allow"
        if ask.resource and resource != ask.resource:
            return f"{pod.key} asked for {ask.resource} and is on {resource}"
    return f"{pod.key} did not get what it asked for on {node.name}"


def _is_of(ask: GpuRequest, device: DeviceModel, node: Node) -> bool:
    """Whether a device is one that this part of a request may have."""
    resource = device.resource or node.resource
    pooled = device.units and not device.mig_layout
    by_replicas = device.replicas > 1 or device.shared
    plain = not (device.mig or by_replicas or device.units)
    if ask.resource and resource != ask.resource:
        return False
    if ask.mig:
        names = {profile for profile, _ in ask.mig}
        fits = device.mig in names if pooled else bool(device.mig) and not device.units
    elif ask.replicas:
        fits = by_replicas and not device.units
    elif ask.count and ask.resource:
        fits = plain or device.units
    else:
        fits = any(device is node.devices[index] for index in _own(node))
    if not fits or not ask.products:
        return fits
    blind = replace(ask, products=())
    liked = {d.product for d in node.devices if _is_of(blind, d, node)} & set(ask.products)
    return device.product in liked or (ask.by_label and not liked)


def _answers(gpu: GpuRequest, shares: tuple[DeviceShare, ...], devices: list[DeviceModel]) -> bool:
    if gpu.mig:
        return _answers_mig(gpu, shares, devices)
    if gpu.replicas:
        return sum(share.slots for share in shares) == gpu.replicas and all(
            (device.replicas > 1 or device.shared) and share.slots > 0
            for device, share in zip(devices, shares, strict=True)
        )
    if any(device.units for device in devices):
        return _answers_units(gpu, shares, devices)
    if any(device.mig or device.replicas > 1 or device.shared for device in devices):
        return False
    if gpu.count:
        return len(shares) == gpu.count and all(share.milli == 1000 for share in shares)
    if len(shares) != 1:
        return False
    share, device = shares[0], devices[0]
    if gpu.milli and share.milli != gpu.milli:
        return False
    return not (gpu.memory_mib and device.memory_mib and share.memory_mib < gpu.memory_mib)


def _answers_units(
    gpu: GpuRequest, shares: tuple[DeviceShare, ...], devices: list[DeviceModel]
) -> bool:
    """Whether as many replicas or entire instances were taken as units were asked for."""
    got = 0
    for share, device in zip(shares, devices, strict=True):
        if not device.mig_layout:
            got += max(share.slots, 0) if device.units else -MAX_UNITS
            continue
        masks = [_mask(device.mig, profile, start) for profile, start in device.mig_layout]
        taken = [mask for mask in masks if share.slots & mask == mask]
        if sum(taken) != share.slots:
            return False
        got += len(taken)
    return got == gpu.count


def _mask(geometry: str, profile: str, start: int) -> int:
    known = geometry_named(geometry)
    found = known.profile(profile) if known else None
    if found is None:
        return 0
    return (((1 << found.size) - 1) << start) | (MEDIA_BIT if found.media else 0)


def _answers_mig(
    gpu: GpuRequest, shares: tuple[DeviceShare, ...], devices: list[DeviceModel]
) -> bool:
    """Whether the slots taken can be cut into exactly the instances asked for."""
    if any(not device.mig for device in devices):
        return False
    counts = dict(gpu.mig)
    cut: list[tuple[DeviceShare, DeviceModel]] = []
    for share, device in zip(shares, devices, strict=True):
        if device.units and not device.mig_layout:  # replicas of instances of one profile
            counts[device.mig] = counts.get(device.mig, 0) - max(share.slots, 0)
        else:
            cut.append((share, device))
    if any(instances < 0 for instances in counts.values()):
        return False
    wanted = [profile for profile, instances in sorted(counts.items()) for _ in range(instances)]
    taken = tuple(share.slots for share, _ in cut)
    models = [device for _, device in cut]
    return _cut(taken, tuple(device.mig for device in models), models, tuple(wanted))


def _cut(
    taken: tuple[int, ...],
    geometries: tuple[str, ...],
    devices: list[DeviceModel],
    wanted: tuple[str, ...],
) -> bool:
    if not wanted:
        return not any(taken)
    for position, name in enumerate(geometries):
        geometry = geometry_named(name)
        profile = geometry.profile(wanted[0]) if geometry else None
        if profile is None:
            continue
        layout = devices[position].mig_layout
        starts = [s for p, s in layout if p == profile.name] if layout else list(profile.starts)
        for start in starts:
            need = _mask(name, profile.name, start)
            if taken[position] & need == need:
                rest = (*taken[:position], taken[position] & ~need, *taken[position + 1 :])
                if _cut(rest, geometries, devices, wanted[1:]):
                    return True
    return False
