"""The words of the house: nodes, devices, requests, placements, reasons.

Everything is an integer: milli-CPU, bytes of memory, MiB of device memory, milli-GPU; quantities
are rounded before they get here. Values are frozen; nothing in this module knows about Kubernetes
JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum, unique
from typing import TYPE_CHECKING

from scheduler.core.errors import InvalidInput

if TYPE_CHECKING:
    from scheduler.core.peers import Peer

__all__ = [
    "DEVICE_MILLI",
    "MAX_COUNTED",
    "MAX_CPU_MILLI",
    "MAX_DEVICES",
    "MAX_DEVICE_MEMORY_MIB",
    "MAX_MEMORY_BYTES",
    "MAX_PODS",
    "MAX_TAINTS",
    "MAX_UNITS",
    "Device",
    "DeviceGroup",
    "DeviceShare",
    "GangKey",
    "GpuKind",
    "GpuRequest",
    "Node",
    "NodeSelection",
    "Placement",
    "PodRequest",
    "Reason",
    "Release",
    "Requirement",
    "SelectorTerm",
    "Serves",
    "Shape",
    "Taint",
    "Toleration",
]

DEVICE_MILLI = 1000
"""Milli-GPU of one device."""

MAX_DEVICES = 64
"""Most devices that one node may have. No machine comes near it, and columns are as wide."""

MAX_UNITS = 1 << 14
"""Most units of one resource that one node may offer, whatever stands behind them."""

MAX_CPU_MILLI = 1 << 31
MAX_MEMORY_BYTES = 1 << 47
MAX_PODS = 1 << 20
MAX_TAINTS = 1 << 10
MAX_COUNTED = 1 << 8
MAX_DEVICE_MEMORY_MIB = 1 << 24
"""Most that one node, or one device, can be believed to have: 2 million cores, 128 TiB, 16 TiB.

Beyond any machine, and far within the integers that are computed with.
"""


@unique
class GpuKind(IntEnum):
    """How a request takes accelerators: one way for each resource."""

    NONE = 0
    WHOLE = 1
    FRACTION = 2
    MIG = 3
    SHARED = 4


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """What a pod asks of the accelerators of one node.

    Exactly one of the four ways is used, apart from ``also``; an empty request asks for none.

    Parameters
    ----------
    count
        Whole devices, or units where the resource counts these, see :class:`Device`.
    milli
        Part of one device, 1..999 milli-GPU.
    memory_mib
        Device memory in MiB on that one device. Alone it is a fraction too: the milli-GPU then
        follow pro rata from the device's memory. With ``milli`` both bounds hold independently.
    mig
        Pairs of MIG profile name and number of instances, such as ``(("1g.5gb", 2),)``.
    replicas
        Replicas of time-sliced devices (``nvidia.com/gpu.shared``).
    products
        Allowed device models, sorted; empty allows any.
    resource
        Extended resource (``nvidia.com/gpu``); empty accepts any vendor.
    by_label
        The models come from a selector on node labels. Labels decide about nodes by themselves, as
        kube-scheduler compares them; the models only choose among the devices of a node then, and
        tell which nodes such pods are after.
    also
        What the pod asks of devices of other resources beside that, one request per resource. The
        device plugin hands all of them out.
    """

    count: int = 0
    milli: int = 0
    memory_mib: int = 0
    mig: tuple[tuple[str, int], ...] = ()
    replicas: int = 0
    products: tuple[str, ...] = ()
    resource: str = ""
    by_label: bool = field(default=False, compare=False)
    also: tuple[GpuRequest, ...] = ()
    kind: GpuKind = field(init=False, repr=False, compare=False)
    """The way this request takes devices."""

    def __post_init__(self) -> None:
        for name in ("count", "milli", "memory_mib", "replicas"):
            value = getattr(self, name)
            if value < 0:
                raise InvalidInput(f"gpu.{name}", f"is negative ({value})", "use 0 or more")
        if self.milli >= DEVICE_MILLI:
            raise InvalidInput(
                "gpu.milli",
                f"{self.milli} is not part of one device",
                "use 1..999, or count for whole devices",
            )
        ways = (
            self.count > 0,
            self.milli > 0 or self.memory_mib > 0,
            bool(self.mig),
            self.replicas > 0,
        )
        if sum(ways) > 1:
            raise InvalidInput(
                "gpu",
                "mixes whole devices, fractions, MIG profiles or shared replicas in one pod",
                "ask for one of them",
            )
        if self.count > MAX_UNITS:
            raise InvalidInput(
                "gpu.count", f"{self.count} is more than any node has", f"use up to {MAX_UNITS}"
            )
        for profile, instances in self.mig:
            if instances <= 0:
                raise InvalidInput(f"gpu.mig[{profile}]", f"asks for {instances}", "use 1 or more")
        object.__setattr__(self, "products", tuple(sorted(set(self.products))))
        object.__setattr__(self, "mig", tuple(sorted(self.mig)))
        object.__setattr__(self, "kind", self._kind())

    def _kind(self) -> GpuKind:
        if self.count:
            return GpuKind.WHOLE
        if self.milli or self.memory_mib:
            return GpuKind.FRACTION
        if self.mig:
            return GpuKind.MIG
        return GpuKind.SHARED if self.replicas else GpuKind.NONE

    @property
    def chosen_by_us(self) -> bool:
        """Whether the devices are chosen here, and not by the device plugin."""
        return self.kind is GpuKind.FRACTION or (self.kind is GpuKind.WHOLE and not self.resource)

    @property
    def requested_milli(self) -> int:
        """Milli-GPU that the request states: 1000 per whole device, ``milli`` for a fraction.

        MIG, shared and memory-only requests state no milli-GPU (their share depends on the
        device) and count as 0 here; a :class:`Placement` knows what they really took.
        """
        return self.count * DEVICE_MILLI + self.milli


@dataclass(frozen=True, slots=True)
class Shape:
    """All of a request that decides where it fits: pods of one shape are interchangeable."""

    cpu_milli: int
    memory_bytes: int
    gpu: GpuRequest = GpuRequest()
    counted: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Requirement:
    """One ``matchExpressions`` entry. ``operator`` is In, NotIn, Exists, DoesNotExist, Gt or Lt."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SelectorTerm:
    """One term of required node affinity: all expressions and all fields must match."""

    expressions: tuple[Requirement, ...] = ()
    fields: tuple[Requirement, ...] = ()


@dataclass(frozen=True, slots=True)
class Taint:
    """A node taint. ``effect`` is NoSchedule, PreferNoSchedule or NoExecute."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"


@dataclass(frozen=True, slots=True)
class Toleration:
    """A pod toleration; an empty key with operator Exists tolerates everything."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


@dataclass(frozen=True, slots=True)
class NodeSelection:
    """Node selection rules of a pod: nodeSelector, required node affinity, tolerations.

    ``terms`` are alternatives (any may match); an empty tuple means no affinity. ``volumes`` says
    where each volume of the pod can be had, as alternatives, too, where somebody has looked it up:
    for plans, simulations and dry runs. ``resources`` are the names by which devices are asked for,
    where they have any.
    """

    node_selector: tuple[tuple[str, str], ...] = ()
    terms: tuple[SelectorTerm, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    volumes: tuple[tuple[SelectorTerm, ...], ...] = field(default=(), repr=False)
    resources: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class GangKey:
    """The gang a pod belongs to: whose convention names it, and how.

    How many members it needs is not part of its identity: see
    :class:`scheduler.core.gangs.spec.GangSpec`. ``stage`` is empty where all of it starts
    together; else those of one stage do.
    """

    system: str
    namespace: str
    name: str
    stage: str = ""

    @property
    def label(self) -> str:
        """``namespace/name``, and the stage, for people."""
        return f"{self.namespace}/{self.name}" + (f" ({self.stage})" if self.stage else "")

    @property
    def whole(self) -> GangKey:
        """The gang with all its stages."""
        return replace(self, stage="") if self.stage else self


@dataclass(frozen=True, slots=True)
class PodRequest:
    """A pod as the engine sees it.

    ``uid`` identifies the pod; a new pod with an old name has a new uid. ``role`` is what it is in
    its gang, where that is known; ``owner`` names the controller, for reports only. ``counted`` are
    amounts of counted resources by name, see :class:`scheduler.core.counted.CountedColumns`; none
    is 0.
    """

    uid: str
    namespace: str
    name: str
    cpu_milli: int = 0
    memory_bytes: int = 0
    gpu: GpuRequest = GpuRequest()
    priority: int = 0
    selection: NodeSelection = NodeSelection()
    gang: GangKey | None = None
    owner: str = ""
    peer: Peer | None = field(default=None, repr=False)
    counted: tuple[tuple[str, int], ...] = ()
    role: str = ""
    shape: Shape = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.uid:
            raise InvalidInput("pod.uid", "is empty", "every pod needs a unique uid")
        for name in ("cpu_milli", "memory_bytes"):
            if getattr(self, name) < 0:
                raise InvalidInput(f"pod.{name}", f"is negative ({getattr(self, name)})")
        if self.counted:
            object.__setattr__(self, "counted", _counted_requests(self.counted))
        shape = Shape(self.cpu_milli, self.memory_bytes, self.gpu, self.counted)
        object.__setattr__(self, "shape", shape)

    @property
    def key(self) -> str:
        """``namespace/name``, as kubectl prints it."""
        return f"{self.namespace}/{self.name}"


def _counted_requests(counted: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    """Amounts that are asked for, in one order."""
    for name, amount in counted:
        if amount < 0:
            raise InvalidInput(f"pod.counted[{name}]", f"is negative ({amount})")
    return tuple(sorted((name, amount) for name, amount in counted if amount))


@dataclass(frozen=True, slots=True)
class Device:
    """One schedulable accelerator.

    Parameters
    ----------
    product
        Model, such as ``NVIDIA-A100-SXM4-40GB``.
    memory_mib
        Device memory; 0 if unknown, and then memory is not a bound.
    uuid
        Vendor's identifier if known.
    healthy
        An unhealthy device hosts nothing new.
    mig
        Name of a geometry of :mod:`scheduler.core.mig` if the device is partitioned, else empty.
    mig_layout
        Fixed instances ``(profile, start slot)`` made by an administrator; empty if instances may
        be created freely.
    replicas
        Time-sliced replicas; 1 means that the device is not time-sliced.
    resource
        Name under which the node advertises it; empty for the node's own ``resource``.
    units
        Whether the resource counts the replicas, or the fixed MIG instances, rather than the
        device: a pod that asks for whole devices of it gets one of these. Where nobody knows the
        devices behind the units of a node, one with a replica for each unit stands for all of them.
        With replicas, ``mig`` names the profile of the instances that they share, if there are
        instances.
    shared
        Whether what is handed out are replicas although there is but one.
    """

    product: str = ""
    memory_mib: int = 0
    uuid: str = ""
    healthy: bool = True
    mig: str = ""
    mig_layout: tuple[tuple[str, int], ...] = ()
    replicas: int = 1
    resource: str = ""
    units: bool = False
    shared: bool = False

    def __post_init__(self) -> None:
        if self.memory_mib < 0:
            raise InvalidInput("device.memory_mib", f"is negative ({self.memory_mib})")
        if self.memory_mib > MAX_DEVICE_MEMORY_MIB:
            raise InvalidInput(
                "device.memory_mib", f"is more than any device has ({MAX_DEVICE_MEMORY_MIB})"
            )
        most = MAX_UNITS if self.units else DEVICE_MILLI
        if not 1 <= self.replicas <= most:
            raise InvalidInput("device.replicas", f"is {self.replicas}", f"use 1..{most}")
        if self.mig and (self.replicas > 1 or self.shared) and not self.units:
            raise InvalidInput("device", "is both partitioned by MIG and time-sliced")

    @property
    def kind(self) -> GpuKind:
        """How it is handed out: WHOLE (and in fractions), by MIG instances, or SHARED."""
        if self.replicas > 1 or self.shared or (self.units and not self.mig_layout):
            return GpuKind.SHARED
        return GpuKind.MIG if self.mig else GpuKind.WHOLE


@dataclass(frozen=True, slots=True)
class DeviceGroup:
    """Devices of a node that are alike in all that matters to a request.

    Parameters
    ----------
    resource, product, memory_mib
        Those of each device.
    kind, units
        How they are handed out, see :class:`Device`.
    devices
        Their indices.
    """

    resource: str
    product: str
    memory_mib: int
    kind: GpuKind
    units: bool
    devices: tuple[int, ...]


_MOST_OF_A_NODE = (
    ("cpu_milli", MAX_CPU_MILLI),
    ("memory_bytes", MAX_MEMORY_BYTES),
    ("pods", MAX_PODS),
)


@unique
class Serves(IntEnum):
    """Who may have a node's devices, where both the device plugin and we hand them out.

    The kubelet picks the device of a pod that asks the device plugin; it does not know which ones
    we have given away in parts.
    """

    BOTH = 0
    """Nothing offers the devices twice."""

    ONE_AT_A_TIME = 1
    """As long as pods of one kind have devices, pods of the other kind get none."""

    WHOLE = 2
    """Pods that ask the device plugin alone."""

    FRACTIONS = 3
    """Pods whose devices we choose alone."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node and what it can give: allocatable, not capacity.

    ``offers`` are the names by which its devices are to be asked for; none where a file has none.
    """

    name: str
    cpu_milli: int
    memory_bytes: int
    pods: int = 110
    devices: tuple[Device, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    resource: str = "nvidia.com/gpu"
    serves: Serves = Serves.BOTH
    counted: Mapping[str, int] = field(default_factory=dict)
    by_dra: tuple[str, ...] = ()
    """Resources that kube-scheduler hands out there by itself (DRA): they are not ours to count."""
    offers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name:
            raise InvalidInput("node.name", "is empty")
        for name, most in _MOST_OF_A_NODE:
            value = getattr(self, name)
            if value < 0:
                raise InvalidInput(f"node[{self.name}].{name}", f"is negative ({value})")
            if value > most:
                raise InvalidInput(
                    f"node[{self.name}].{name}", f"is more than any node has ({most})"
                )
        if len(self.taints) > MAX_TAINTS:
            raise InvalidInput(
                f"node[{self.name}].taints",
                f"has {len(self.taints)} taints",
                f"at most {MAX_TAINTS} are supported",
            )
        if len(self.counted) > MAX_COUNTED:
            raise InvalidInput(
                f"node[{self.name}].counted",
                f"names {len(self.counted)} resources",
                f"at most {MAX_COUNTED} are supported",
            )
        for name, amount in self.counted.items():
            if amount < 0:
                raise InvalidInput(f"node[{self.name}].counted[{name}]", f"is negative ({amount})")
        if len(self.devices) > MAX_DEVICES:
            raise InvalidInput(
                f"node[{self.name}].devices",
                f"has {len(self.devices)} devices",
                f"at most {MAX_DEVICES} are supported",
            )

    @property
    def product(self) -> str:
        """Model of the node's first device; empty without devices."""
        return self.devices[0].product if self.devices else ""

    def resource_of(self, device: Device) -> str:
        """Name under which the node advertises one of its devices."""
        return device.resource or self.resource

    @property
    def resources(self) -> frozenset[str]:
        """Names under which it advertises its devices."""
        return frozenset((self.resource, *(d.resource for d in self.devices if d.resource)))

    @property
    def groups(self) -> tuple[DeviceGroup, ...]:
        """Its devices, alike ones together, in the order of their first ones."""
        found: dict[tuple[str, str, int, GpuKind, bool], list[int]] = {}
        for index, d in enumerate(self.devices):
            key = (self.resource_of(d), d.product, d.memory_mib, d.kind, d.units)
            found.setdefault(key, []).append(index)
        return tuple(DeviceGroup(*key, tuple(indices)) for key, indices in found.items())

    @property
    def gpu_milli(self) -> int:
        """Capacity of all devices, healthy or not, in milli-GPU."""
        return len(self.devices) * DEVICE_MILLI


@dataclass(frozen=True, slots=True)
class DeviceShare:
    """What one pod takes of one device.

    ``slots`` is a bit mask of MIG memory slots on a partitioned device, and a number of replicas
    on a time-sliced one. ``milli`` is always the share of the device, for accounting.
    """

    index: int
    milli: int
    memory_mib: int = 0
    slots: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """A pod on a node with its devices. With :class:`Release` the only thing that changes state."""

    pod: PodRequest
    node: str
    devices: tuple[DeviceShare, ...] = ()

    @property
    def gpu_milli(self) -> int:
        """Milli-GPU taken in all."""
        return sum(share.milli for share in self.devices)


@dataclass(frozen=True, slots=True)
class Release:
    """The inverse of the placement of this pod."""

    uid: str


@unique
class Reason(Enum):
    """Why a node cannot host a pod. One fixed vocabulary for verdicts, metrics and messages.

    Each member is ``(code, resolvable, text)``. ``code`` is what arrays hold; a lower code is
    reported first. ``resolvable`` says whether evicting pods from the node could help. ``text`` is
    the one line that users see: it never names a node, so that kube-scheduler's histogram of
    messages stays short.
    """

    FITS = (0, True, "fits")
    NODE_UNKNOWN = (1, False, "node not yet known to the extender")
    REQUEST_INVALID = (2, False, "GPU request is unreadable or contradictory")
    NODE_NOT_READY = (3, False, "node is not ready")
    NODE_UNSCHEDULABLE = (4, False, "node is unschedulable")
    NODE_TAINTED = (5, False, "node has a taint that the pod does not tolerate")
    NODE_NOT_SELECTED = (6, False, "node does not match the pod's node selector or affinity")
    MODEL_NOT_ALLOWED = (7, False, "GPU model is not among the allowed ones")
    NODE_TOO_SMALL = (8, False, "pod is larger than the whole node")
    DEVICE_KIND_MISSING = (9, False, "node has no device of the requested kind")
    DEVICE_UNHEALTHY = (10, False, "too few healthy devices")
    INSUFFICIENT_DEVICES = (11, True, "insufficient whole GPUs")
    INSUFFICIENT_FRACTION = (12, True, "no single GPU has the requested fraction free")
    INSUFFICIENT_DEVICE_MEMORY = (13, True, "no single GPU has the requested memory free")
    INSUFFICIENT_MIG_SLOTS = (14, True, "no free MIG slot for the requested profile")
    INSUFFICIENT_REPLICAS = (15, True, "insufficient time-sliced GPU replicas")
    INSUFFICIENT_CPU = (16, True, "insufficient cpu")
    INSUFFICIENT_MEMORY = (17, True, "insufficient memory")
    INSUFFICIENT_PODS = (18, True, "too many pods on the node")
    PLANNED_ELSEWHERE = (19, False, "planned elsewhere")
    GANG_DOES_NOT_FIT = (20, False, "gang does not fit")
    GPUS_SERVED_OTHERWISE = (21, True, "node serves whole GPUs or fractions, not both at a time")
    VOLUME_ELSEWHERE = (22, False, "volume of the pod cannot be had on the node")
    TOPOLOGY_LABEL_MISSING = (23, False, "node lacks a topology label that the pod's rules need")
    POD_ANTI_AFFINITY = (24, True, "pod anti-affinity forbids it beside pods that are there")
    POD_AFFINITY_UNMET = (25, True, "pod affinity finds no match")
    SPREAD_EXCEEDED = (26, True, "topology spread constraint would be broken")
    HOST_PORT_TAKEN = (27, True, "host port is taken")
    VOLUME_IN_USE = (28, True, "volume is in use by another pod")
    RESOURCE_MISSING = (29, False, "node lacks an extended resource, hugepages or storage")
    INSUFFICIENT_RESOURCE = (30, True, "insufficient extended resource, hugepages or storage")
    NODE_IN_DOUBT = (31, False, "what the node has, or what runs there, cannot be understood")

    def __init__(self, code: int, resolvable: bool, text: str) -> None:
        self.code = code
        self.resolvable = resolvable
        self.text = text

    @classmethod
    def of(cls, code: int) -> Reason:
        """The reason with this code."""
        return _BY_CODE[code]


_BY_CODE: tuple[Reason, ...] = tuple(sorted(Reason, key=lambda reason: reason.code))
