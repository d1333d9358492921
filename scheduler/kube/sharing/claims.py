"""What records of other systems say of devices: the words that all protocols share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.core.model import DEVICE_MILLI, Device, DeviceShare
from scheduler.core.model import GpuRequest as _Request
from scheduler.kube.objects import Metadata
from scheduler.kube.resource_names import ResourceNames

__all__ = ["Claim", "Part", "Record", "Registered", "Slot", "indices_of", "product_of"]

_INSTANCE = "["  # begins the part of a name that tells a MIG instance


@dataclass(frozen=True, slots=True)
class Claim:
    """A pod's part of one device, as recorded.

    Parameters
    ----------
    device
        How the protocol names the device.
    memory_mib, cores_percent, milli
        What it may use of it; 0 is not stated.
    """

    device: str
    memory_mib: int = 0
    cores_percent: int = 0
    milli: int = 0

    @property
    def of_instances(self) -> str:
        """What the names of the device's instances begin with, if it is divided into some."""
        return self.device.partition(_INSTANCE)[0] + _INSTANCE

    @property
    def instance_of(self) -> str:
        """The same where the claim names an instance; empty if it names a device."""
        return self.of_instances if _INSTANCE in self.device else ""


@dataclass(frozen=True, slots=True)
class Slot:
    """What a container asks for of one device under HAMi.

    Parameters
    ----------
    memory_mib, memory_percent
        Device memory, the larger of both; all of it where neither is stated.
    cores
        Percent of the device's cores; 0 is not stated.
    """

    memory_mib: int = 0
    memory_percent: int = 0
    cores: int = 0

    def memory_of(self, size_mib: int) -> int:
        """MiB of a device of this size."""
        if self.whole:
            return size_mib
        return max(self.memory_mib, size_mib * self.memory_percent // 100)

    @property
    def whole(self) -> bool:
        """Whether it has all of the device's memory."""
        return not self.memory_mib and not self.memory_percent

    def larger(self, other: Slot) -> Slot:
        """As much as either asks for."""
        cores = max(self.cores, other.cores)
        if self.whole or other.whole:
            return Slot(cores=cores)
        memory = max(self.memory_mib, other.memory_mib)
        return Slot(memory, max(self.memory_percent, other.memory_percent), cores)

    def both(self, other: Slot) -> Slot:
        """As much as both together, as far as one device has it."""
        cores = min(100, self.cores + other.cores)
        if self.whole or other.whole:
            return Slot(cores=cores)
        percent = min(100, self.memory_percent + other.memory_percent)
        return Slot(self.memory_mib + other.memory_mib, percent, cores)

    def share(self, index: int, size_mib: int) -> DeviceShare:
        """What it takes of a device: the larger of its parts of memory and of cores."""
        memory = min(self.memory_of(size_mib), size_mib)
        part = memory * DEVICE_MILLI // size_mib if size_mib else DEVICE_MILLI
        cores = min(self.cores * DEVICE_MILLI // 100, DEVICE_MILLI)
        return DeviceShare(index, max(1, part, cores), memory)

    def request(self, size_mib: int) -> _Request:
        """The same as a request, for a device of this size that nobody names."""
        share = self.share(0, size_mib)
        if share.milli >= DEVICE_MILLI:
            return _Request(count=1)
        return _Request(milli=share.milli, memory_mib=share.memory_mib)


@dataclass(frozen=True, slots=True)
class Part:
    """What one container asks for, and what is recorded of it.

    Parameters
    ----------
    slots
        One per device that it asks for.
    claims
        Devices that were recorded for it.
    before, throughout
        Whether it runs before the containers of the pod and ends; whether it is a sidecar.
    """

    slots: tuple[Slot, ...]
    claims: tuple[Claim, ...]
    before: bool = False
    throughout: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """What a pod's metadata say of its devices.

    Parameters
    ----------
    protocol
        Whose record it is.
    claims
        Parts of devices; none for a pod that reserves a device for KAI.
    pod_uid
        UID of the pod that it was made for, where it says so.
    problem
        Why it cannot be read; empty if it can.
    bound_here
        Whether this process has bound the pod, so that nobody has to be believed.
    parts
        The claims by container, where init containers have some that others may use after them.
    """

    protocol: str
    claims: tuple[Claim, ...] = ()
    pod_uid: str = ""
    problem: str = ""
    bound_here: bool = False
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Registered:
    """A device as a node's own protocol describes it.

    Parameters
    ----------
    name
        How the protocol calls it.
    device
        What it is.
    divided
        Whether the protocol divides it into MIG instances, which have names of their own.
    """

    name: str
    device: Device
    divided: bool = False


def indices_of(found: Sequence[Registered]) -> dict[str, int]:
    """Index of each device by the name that a claim may give it.

    A claim of an instance, ``uuid[1-0]``, is found by its beginning.
    """
    indices = {one.name: index for index, one in enumerate(found)}
    instances = {one.name + _INSTANCE: i for i, one in enumerate(found) if one.divided}
    return indices | instances


def product_of(metadata: Metadata, names: ResourceNames) -> str:
    """Model of a node's devices as its labels state it; empty if they do not."""
    labels = metadata.labels or {}
    return next((labels[key] for key in names.product_labels if labels.get(key)), "")
