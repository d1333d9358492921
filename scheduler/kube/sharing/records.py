"""Which record of a pod's devices counts, and what it may say.

A pod is charged what its ``resources`` ask for: the API server has validated them, and nobody
changes them afterwards. A record in its annotations, which its owner may write too, says *which*
devices these are and nothing else.

=========================  ==========================================  ===========================
asks for                   its record                                  counts on
=========================  ==========================================  ===========================
``snugfit.io/gpu-*``       ``snugfit.io/devices``, and whose it is in  every node
                           ``snugfit.io/devices-uid``
``aliyun.com/gpu-mem``     ``ALIYUN_COM_GPU_MEM_IDX`` and ``_POD``     nodes of gpushare
``nvidia.com/gpu``         ``hami.io/vgpu-devices-allocated``          nodes that HAMi describes
=========================  ==========================================  ===========================

Any other annotation is ignored, neither believed nor doubted. A record that contradicts the request
costs what the request says, on devices that nobody can name.

Of HAMi's MIG instances the record says the size, too, which is that of a profile and not what was
asked for. On a device that is divided it is believed where it is no less than that, up to all of
the device.

Our own record is *protected* where nobody but us can have written it: we have just bound the pod,
or an admission policy keeps the annotations and the pod was created after it. Elsewhere a record
that agrees with the request is believed as far as its devices have room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto

from scheduler.core.model import DEVICE_MILLI, DeviceShare, GpuKind, GpuRequest, Node, Placement
from scheduler.kube.device_annotation import OWN
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.sharing.claims import Claim, Part, Record, Slot

__all__ = ["Reading", "Standing", "own_record", "read", "standing"]

IN_FORCE_S = 60.0
"""An admission policy is in force a few seconds after it was created; nobody says when exactly."""


class Standing(Enum):
    """How far a record is to be believed, the most trusted first."""

    PROTECTED = auto()
    UNPROTECTED = auto()
    VOID = auto()


@dataclass(frozen=True, slots=True)
class Reading:
    """What a record says beside a request on a node.

    Parameters
    ----------
    shares
        What the pod has of each device; None where the record does not say which devices.
    problem
        Why it does not, in words for the operator; empty where there is nothing to say.
    vanished
        Whether it names a device that the node does not have.
    """

    shares: tuple[DeviceShare, ...] | None
    problem: str = ""
    vanished: bool = False


def own_record(placement: Placement, names: ResourceNames) -> Record | None:
    """The record of a pod that we have bound ourselves; None where the device plugin chooses."""
    gpu = placement.pod.gpu
    if gpu.resource == names.share_memory:
        claims = tuple(Claim(str(s.index), gpu.memory_mib) for s in placement.devices)
        return Record("gpushare", claims, bound_here=True)
    if gpu.chosen_by_us:
        claims = tuple(Claim(str(s.index), s.memory_mib, milli=s.milli) for s in placement.devices)
        return Record(OWN, claims, placement.pod.uid, bound_here=True)
    return None


def standing(
    record: Record, uid: str, created: str, protected_since: float | None
) -> tuple[Standing, str]:
    """How far the record of a pod is to be believed, and why not.

    Parameters
    ----------
    record
        Any record that can be read.
    uid, created
        Of the pod, as the API server has set them.
    protected_since
        Seconds since the epoch at which the admission policy was created; None without one.
    """
    if record.bound_here:
        return Standing.PROTECTED, ""
    if record.protocol != OWN:
        return Standing.UNPROTECTED, ""
    if record.pod_uid and record.pod_uid != uid:
        return Standing.VOID, "the record of its devices was made for another pod"
    if protected_since is None or _seconds(created) < protected_since + IN_FORCE_S:
        return Standing.UNPROTECTED, ""
    if record.pod_uid:
        return Standing.PROTECTED, ""
    return Standing.VOID, "the record of its devices does not say for which pod it was made"


def _seconds(created: str) -> float:
    try:
        return datetime.fromisoformat(created).timestamp()
    except ValueError:
        return float("inf")  # nobody's word for that it is older than the policy


def read(
    record: Record,
    gpu: GpuRequest,
    slots: Sequence[Slot],
    node: Node,
    index_of: Mapping[str, int],
) -> Reading:
    """The devices that a record names, charged with what the request asks for.

    Parameters
    ----------
    record
        Of the protocol that goes with the request.
    gpu
        What the pod asks for.
    slots
        The same per device, for HAMi.
    node
        Where it is.
    index_of
        Index of each device by the name that the node's own protocol gives it; empty where no
        other protocol describes the node.
    """
    counts = {
        OWN: True,
        "HAMi": bool(index_of) and node.resource == gpu.resource and not gpu.also,
        "gpushare": node.resource == gpu.resource,
    }
    if not counts.get(record.protocol, False):
        return Reading(None)
    if record.problem:
        return Reading(None, record.problem)
    if record.protocol == "HAMi":
        return _hami(record, slots, node, index_of)
    return _own(record, gpu, node) if record.protocol == OWN else _gpushare(record, gpu, node)


def _own(record: Record, gpu: GpuRequest, node: Node) -> Reading:
    agrees = (
        len(record.claims) == gpu.count and all(c.milli == DEVICE_MILLI for c in record.claims)
        if gpu.kind is GpuKind.WHOLE
        else len(record.claims) == 1 and _agrees(record.claims[0], gpu)
    )
    if not agrees:
        return Reading(None, "the record of its devices says something else than its request")
    return _named(record, gpu, node)


def _agrees(claim: Claim, gpu: GpuRequest) -> bool:
    """Whether a claim states what a fraction asks for, as far as both state it.

    What a request leaves open followed from the device's memory, which may not have been known.
    """
    return (
        0 < claim.milli <= DEVICE_MILLI
        and (not gpu.milli or claim.milli == gpu.milli)
        and (not gpu.memory_mib or claim.memory_mib in (0, gpu.memory_mib))
    )


def _gpushare(record: Record, gpu: GpuRequest, node: Node) -> Reading:
    if [claim.memory_mib for claim in record.claims] != [gpu.memory_mib]:
        return Reading(None, "the record of its device says something else than its request")
    return _named(record, gpu, node)


def _named(record: Record, gpu: GpuRequest, node: Node) -> Reading:
    indices = sorted(int(claim.device) for claim in record.claims)
    if indices[-1] >= len(node.devices):
        return Reading(None, "it has a device that the node does not offer any more", vanished=True)
    return Reading(tuple(_share(index, gpu, node) for index in indices))


def _share(index: int, gpu: GpuRequest, node: Node) -> DeviceShare:
    """What a request takes of one device; the arithmetic of ``core.devices.fraction_need``."""
    size = node.devices[index].memory_mib
    if gpu.kind is GpuKind.WHOLE:
        return DeviceShare(index, DEVICE_MILLI, size)
    if gpu.milli:
        memory = gpu.memory_mib if gpu.memory_mib and size else size * gpu.milli // DEVICE_MILLI
        return DeviceShare(index, gpu.milli, memory)
    if not size:
        return DeviceShare(index, DEVICE_MILLI)
    milli = min(max(gpu.memory_mib * DEVICE_MILLI // size, 1), DEVICE_MILLI)
    return DeviceShare(index, milli, gpu.memory_mib)


def _hami(
    record: Record, slots: Sequence[Slot], node: Node, index_of: Mapping[str, int]
) -> Reading:
    """Every slot that is asked for needs a claim that states as much; claims beyond are ignored.

    Several slots on one device need room for all of them there.
    """
    if record.parts:
        shares = _in_turn(record.parts, node, index_of)
        if shares is not None:
            return Reading(tuple(shares[index] for index in sorted(shares)))
    taken = _matched(slots, record.claims, node, index_of)
    if taken is not None:
        return Reading(tuple(taken[index] for index in sorted(taken)))
    if any(_index(claim, index_of) < 0 for claim in record.claims):
        return Reading(None, "it has a device that the node does not offer any more")
    return Reading(None, "the record of its devices says something else than its request")


def _in_turn(
    parts: Sequence[Part], node: Node, index_of: Mapping[str, int]
) -> dict[int, DeviceShare] | None:
    """The most that is had of each device at any time, as containers run; None if one has not all.

    Init containers run one by one, beside the sidecars started before them.
    """
    throughout: dict[int, DeviceShare] = {}
    together: dict[int, DeviceShare] = {}
    most: dict[int, DeviceShare] = {}
    for part in parts:
        own = _matched(part.slots, part.claims, node, index_of)
        if own is None:
            return None
        if part.before:
            found = _sum(throughout, own, node)
        elif part.throughout:
            found = throughout = _sum(throughout, own, node) or {}
        else:
            together = _sum(together, own, node) or {}
            found = _sum(throughout, together, node)
        if found is None or (own and not found):
            return None
        for index, share in found.items():
            had = most.get(index, share)
            milli, memory = max(had.milli, share.milli), max(had.memory_mib, share.memory_mib)
            most[index] = DeviceShare(index, milli, memory)
    return most


def _sum(
    one: Mapping[int, DeviceShare], other: Mapping[int, DeviceShare], node: Node
) -> dict[int, DeviceShare] | None:
    """Both together; None where a device has less."""
    shares = dict(one)
    fits = [_take(shares, more, node.devices[i].memory_mib) for i, more in other.items()]
    return shares if all(fits) else None


def _matched(
    slots: Sequence[Slot], claims: Sequence[Claim], node: Node, index_of: Mapping[str, int]
) -> dict[int, DeviceShare] | None:
    """What the slots take of each device, each by a claim of its own; None if one has no claim."""
    left = sorted(claims, key=lambda claim: claim.memory_mib)  # an instance may be larger
    shares: dict[int, DeviceShare] = {}
    for slot in sorted(slots, key=lambda slot: (slot.memory_mib, slot.memory_percent, slot.cores)):
        for at, claim in enumerate(left):
            index = _index(claim, index_of)
            if index < 0:
                continue
            size = node.devices[index].memory_mib
            divided = claim.of_instances in index_of
            more = _had(slot, claim, index, size, divided=divided)
            if more is not None and _take(shares, more, size):
                del left[at]
                break
        else:
            return None
    return shares


def _index(claim: Claim, index_of: Mapping[str, int]) -> int:
    """Index of the device that a claim is about; -1 for one that the node does not have."""
    return index_of.get(claim.instance_of or claim.device, -1)


def _had(slot: Slot, claim: Claim, index: int, size: int, *, divided: bool) -> DeviceShare | None:
    """What a claim gives a slot of a device, None if it is not what was asked for."""
    share, asked = slot.share(index, size), slot.memory_of(size)
    if claim.cores_percent < slot.cores:
        return None
    if not divided:
        return share if claim.memory_mib == asked else None
    if not asked <= claim.memory_mib <= size:
        return None
    parts = (claim.memory_mib * DEVICE_MILLI // size if size else 0, 10 * claim.cores_percent)
    return DeviceShare(index, max(share.milli, *parts), claim.memory_mib)


def _take(shares: dict[int, DeviceShare], more: DeviceShare, size: int) -> bool:
    """Add to what the pod has of a device, which several of its containers may share.

    Not where the device has less: then the record is mistaken.
    """
    before = shares.get(more.index, DeviceShare(more.index, 0))
    milli, memory = before.milli + more.milli, before.memory_mib + more.memory_mib
    if milli > DEVICE_MILLI or memory > size:
        return False
    shares[more.index] = DeviceShare(more.index, milli, memory)
    return True
