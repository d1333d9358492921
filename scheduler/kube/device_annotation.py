"""Which devices a pod has been given, as written into its annotations and read from there."""

from __future__ import annotations

from functools import lru_cache

from scheduler.core.errors import InvalidInput
from scheduler.core.model import MAX_DEVICE_MEMORY_MIB, DeviceShare, Placement
from scheduler.kube.objects import PodObject
from scheduler.kube.quantity import bounded
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.sharing.claims import Claim, Record

__all__ = ["OWN", "binding_annotations", "recorded_devices", "write_device_shares"]

OWN = "Snugfit"
"""The protocol that a record of our own belongs to."""

_MOST_INDEX = 1 << 10
_MOST_CLAIMS = 1 << 10
_SHOWN = 40
_LONGEST_KEPT = 256


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


def recorded_devices(pod: PodObject, names: ResourceNames) -> Record | None:
    """The record that :func:`binding_annotations` has left; None where there is none.

    Raises
    ------
    InvalidInput
        It cannot be read.
    """
    annotations = pod.metadata.annotations or {}
    text = annotations.get(names.devices_annotation)
    if text is None:
        return None
    owner = annotations.get(names.uid_annotation, "")
    read = _claims if len(text) <= _LONGEST_KEPT else _claims.__wrapped__
    return Record(OWN, read(text, names.devices_annotation), owner)


@lru_cache(maxsize=4096)
def _claims(text: str, annotation: str) -> tuple[Claim, ...]:
    """What the annotation says; few texts are written on many pods."""
    field = f"metadata.annotations[{annotation}]"
    claims: dict[str, Claim] = {}
    for part in text.split(",", _MOST_CLAIMS):
        numbers = part.split(":", 4)
        if not 2 <= len(numbers) <= 4:
            raise InvalidInput(
                field, f"{part[:_SHOWN]!r} is not a device share", "write index:milli:memory:slots"
            )
        index, milli = bounded(numbers[0], field, _MOST_INDEX), bounded(numbers[1], field, 1000)
        memory = bounded(numbers[2], field, MAX_DEVICE_MEMORY_MIB) if len(numbers) > 2 else 0
        if str(index) in claims:
            raise InvalidInput(field, "lists a device twice")
        claims[str(index)] = Claim(str(index), memory, milli=milli)
    return tuple(claims.values())
