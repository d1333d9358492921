"""What a node advertises about its devices -> the devices.

Device plugins advertise *units*: devices, replicas of time-sliced ones, MIG instances, or whatever
a vendor's partition mode makes of a device. A node has several resources of them, each by itself:

- ``nvidia.com/gpu``: devices not in MIG mode; with the labels of MIG strategy ``single``, or of a
  GKE partition, MIG instances; with a replicas label (or that of GKE's sharing) replicas, under the
  plugin's default naming. ``nvidia.com/gpu.shared`` counts replicas in any case.
- ``nvidia.com/mig-*``: MIG instances by profile. Those that are time-sliced themselves count
  replicas, under a name of their own (``.shared``) or not.
- ``amd.com/gpu`` with the label of a partition mode, ``amd.com/cpx_nps4`` and the like: partitions.
- Other resources of devices: devices, or several units of each where a label says how many
  devices there are.

Units are traced back to devices as far as labels tell: packing, fragmentation and figures are about
devices. Where units cannot be traced, one device with a replica for each unit stands for all of
them. Nothing of this is a reason to refuse a node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice, permutations
from math import ceil

from scheduler.core.errors import InvalidInput
from scheduler.core.mig import (
    GEOMETRIES,
    MigType,
    as_advertised,
    derived_geometry,
    geometry_for,
    geometry_named,
    layout_for,
)
from scheduler.core.model import (
    DEVICE_MILLI,
    MAX_DEVICE_MEMORY_MIB,
    MAX_DEVICES,
    MAX_UNITS,
    Device,
)
from scheduler.kube.objects import Quantities
from scheduler.kube.quantity import bounded, whole
from scheduler.kube.resource_names import ResourceNames, plain_product, profile_of

__all__ = ["Advert", "devices_of"]

_MOST_PARTS = MAX_DEVICES * DEVICE_MILLI
"""Replicas, milli-GPU or instances that the devices of one node may be divided into."""
_MOST_LABELLED = 1 << 10
_MOST_PLAIN = 32
"""No machine has more devices; more units than that are parts of devices."""
_MOST_ON_ONE = 8
_TRIES = 64
_MODES = {"dpx": 2, "tpx": 3, "qpx": 4, "cpx": 8}


class Advert:
    """What a node advertises about its devices, read and bounded when it is asked for."""

    def __init__(
        self,
        path: str,
        allocatable: Quantities,
        capacity: Quantities,
        labels: Mapping[str, str],
        names: ResourceNames,
    ) -> None:
        self.path = path
        self.names = names
        self.labels = labels
        self._allocatable = allocatable
        self._capacity = capacity

    def count(self, resource: str, most: int = _MOST_PARTS) -> int:
        """Units of a resource that the node offers."""
        return self._bounded(self._allocatable, resource, most)

    def missing(self, resource: str) -> int:
        """Units that the node has but does not offer."""
        return max(0, self._bounded(self._capacity, resource) - self.count(resource))

    def _bounded(self, stated: Quantities, resource: str, most: int = _MOST_PARTS) -> int:
        amount = stated.get(resource)
        if amount is None:
            return 0
        field = f"{self.path}[{resource}]"
        found = whole(amount, field)
        if found < 0:
            raise InvalidInput(field, f"is negative ({found})")
        if found > most:
            raise InvalidInput(field, f"is more than any node has ({most})")
        return found

    def label(self, key: str, default: int, most: int) -> int:
        """A number that a label states; nonsense is named, and no reason to guess."""
        text = self.labels.get(key, "")
        return bounded(text, f"{self.path}.metadata.labels[{key}]", most) if text else default

    @property
    def families(self) -> list[str]:
        """Resources of devices that the node has, those of the first vendor first."""
        names, found = self.names, list(self.names.whole)
        found += sorted(r for r in self._allocatable if names.counts_units(r) and r not in found)
        return [r for r in found if self.count(r) or self.missing(r)]

    @property
    def instances(self) -> dict[str, int]:
        """MIG instances by the name of their resource."""
        prefix = self.names.mig_prefix
        return {
            resource: count
            for resource in self._allocatable
            if resource.startswith(prefix) and not self.names.counts_units(resource)
            if (count := self.count(resource))
        }

    def product(self, resource: str, *, alone: bool) -> str:
        """Model of the devices of a resource, without what is appended for sharing and MIG.

        A label of the vendor says it. One of the cloud does for the first vendor, and any for the
        devices of a node that has no others.
        """
        vendors = {name.partition("/")[0] for name in self.names.whole}
        vendor = resource.partition("/")[0]
        present = [key for key in self.names.product_labels if key in self.labels]
        owners = {key: key.partition("/")[0] for key in present}
        for key in present:
            if owners[key] == vendor:
                return plain_product(self.labels[key])
        for key in present:
            if alone or (resource == self.names.whole[0] and owners[key] not in vendors):
                return plain_product(self.labels[key])
        return ""

    @property
    def physical(self) -> int:
        """GPUs of the first vendor, if a label says how many; 0 if none does.

        Under MIG strategy ``single`` the vendor's label counts instances.
        """
        names = self.names
        stated = 0 if self.single else self.label(names.count_label, 0, _MOST_LABELLED)
        return stated or self.label(names.cloud_count_label, 0, _MOST_LABELLED)

    @property
    def single(self) -> str:
        """Profile of the MIG instances that the first resource counts; empty if it counts none."""
        names, label = self.names, self.labels.get(self.names.cloud_partition_label, "")
        if not label and self.labels.get(names.strategy_label) == "single":
            product = self.labels.get(names.product_labels[0], "")
            label = product.removesuffix("-SHARED").partition("-MIG-")[2]
        # Instances that are offered by profile are not counted by another resource as well.
        return profile_of(label) if label[:1].isdigit() and not self.instances else ""

    def replicas(self, resource: str) -> int:
        """Units that each device, or MIG instance, of a resource is shared as; 0 if nobody says."""
        names = self.names
        key = names.replicas_label
        if resource.startswith(names.mig_prefix):
            key = f"{resource}.replicas"
        stated = self.label(key, 0, MAX_UNITS)
        if not stated and resource in (names.whole[0], names.shared):
            stated = self.label(names.cloud_clients_label, 0, MAX_UNITS)
        return stated

    def devices_stated(self, resource: str) -> int:
        """Devices behind a resource of another vendor, if a label says how many; else 0."""
        return self.label(f"{resource.partition('/')[0]}/device.count", 0, _MOST_LABELLED)

    @property
    def memory(self) -> int:
        """MiB of a device of the first vendor (under strategy ``single``: of an instance)."""
        return self.label(self.names.memory_label, 0, MAX_DEVICE_MEMORY_MIB)


def devices_of(advert: Advert) -> tuple[tuple[Device, ...], str]:
    """Devices of a node, and the resource of those that do not name their own.

    Raises
    ------
    InvalidInput
        A number cannot be read, or is beyond what any machine has. Names the field.
    """
    families = advert.families
    first, names = advert.names.whole[0], advert.names
    renamed = advert.count(names.shared) or advert.missing(names.shared)
    if not (families or renamed or advert.instances or advert.count(names.milli)):
        return (), first  # what labels say of devices that are not there is of no interest
    makers: dict[str, list[Device]] = {}
    if first in families or renamed or advert.instances or advert.count(names.milli):
        makers[first] = _nvidia(advert, alone=families in ([], [first]))
    for family in families:
        if family != first:
            makers[family] = _others(advert, family, alone=len(families) == 1)
    found = {family: devices for family, devices in makers.items() if devices}
    own = next(iter(found), first)
    devices = tuple(
        device if family == own or device.resource else replace(device, resource=family)
        for family, made in found.items()
        for device in made
    )
    if len(devices) > MAX_DEVICES:
        raise InvalidInput(
            advert.path, f"has {len(devices)} devices", f"at most {MAX_DEVICES} are supported"
        )
    return devices, own


def _nvidia(advert: Advert, *, alone: bool) -> list[Device]:
    """Devices of the vendor whose GPUs may be partitioned, time-sliced, or cut by us."""
    names, first = advert.names, advert.names.whole[0]
    product = advert.product(first, alone=alone)
    model = Device(product, 0 if advert.single else advert.memory)
    if advert.single and (advert.count(first) or advert.count(names.shared)):
        offered = [name for name in (first, names.shared) if advert.count(name)]
        return [device for name in offered for device in _single(advert, model, name)]
    pools, counts = _pools_and_counts(advert, model)
    devices = advert.physical
    partitioned = _partitioned(counts, model, advert.memory, 0)
    plain = max(0, devices - len(partitioned)) if devices else 0
    if devices and pools and not counts:
        plain = max(0, devices - 1)  # at least one device is behind these instances
    if counts and not plain and devices:
        found: list[Device] = []  # all are partitioned: a count of whole ones is a stale one
    else:
        found = _shared(advert, model, names.shared, plain) + _whole(advert, model, plain)
    if counts and devices > len(found):
        partitioned = _partitioned(counts, model, advert.memory, devices - len(found) - len(pools))
    return found + partitioned + pools


def _whole(advert: Advert, model: Device, physical: int) -> list[Device]:
    """Devices of the first resource, or what stands behind its units."""
    names, first = advert.names, advert.names.whole[0]
    count, missing = advert.count(first), advert.missing(first)
    milli = advert.count(names.milli)
    replicas = advert.replicas(first)
    if replicas > 1 and count:
        return _sliced(model, count, missing, replicas, physical, units=True)
    per = _per_device(count + missing, physical)
    if per > 1:
        return _sliced(model, count, missing, per, physical, units=True)
    if count + missing > _MOST_PLAIN:
        return _pool(model, count)
    if advert.instances and physical:
        count, missing = min(count, physical), 0
    if milli:
        count, rest = divmod(milli, DEVICE_MILLI)
        if rest:
            raise InvalidInput(
                f"{advert.path}[{names.milli}]",
                "is not a multiple of 1000",
                "advertise whole devices",
            )
        if count > _MOST_PLAIN:
            raise InvalidInput(f"{advert.path}[{names.milli}]", "is more than any node has")
        count, missing = min(count, physical or count), 0
    return [model] * count + [replace(model, healthy=False)] * missing


def _shared(advert: Advert, model: Device, resource: str, physical: int) -> list[Device]:
    """Devices that are time-sliced under a name of its own."""
    count = advert.count(resource)
    if not count:
        return []
    stated = advert.replicas(resource) or _per_device(count, physical)
    missing = advert.missing(resource)
    if stated > 1:
        return _sliced(model, count, missing, stated, physical, units=False)
    return _pool(model, count, units=False)


def _per_device(units: int, physical: int) -> int:
    """Units per device, where there are evenly more of them than devices; else 1."""
    return units // physical if physical and units % physical == 0 and units > physical else 1


def _sliced(
    model: Device, count: int, missing: int, replicas: int, physical: int, *, units: bool
) -> list[Device]:
    """Devices of so many replicas each, if the units are a multiple; else all units together."""
    total = count + missing
    devices = total // replicas
    alike = (
        total % replicas == 0 and count % replicas == 0 and (units or 1 < replicas <= DEVICE_MILLI)
    )
    if not alike or devices > (physical or _MOST_PLAIN):
        return _pool(model, count, units=units)
    sliced = replace(model, replicas=replicas, units=units)
    sick = replace(sliced, healthy=False)
    return [sliced] * (count // replicas) + [sick] * (devices - count // replicas)


def _pool(model: Device, count: int, *, units: bool = True) -> list[Device]:
    """One that stands for all devices behind some units.

    Of shares with a name of their own, one has no more than a device may be divided into.
    """
    model = replace(model, memory_mib=0, units=units)
    if units:
        return [replace(model, replicas=min(count, MAX_UNITS))] if count else []
    parts = ceil(count / DEVICE_MILLI)
    shares = [(count + part) // parts for part in range(parts)]
    return [replace(model, replicas=each, shared=each == 1) for each in shares]


# -- MIG ---------------------------------------------------------------------------------------


def _single(advert: Advert, model: Device, resource: str) -> list[Device]:
    """MIG strategy ``single``: all devices have the same instances, and this resource counts them.

    Under the name for what is time-sliced it counts replicas of them.
    """
    renamed, profile = resource == advert.names.shared, advert.single
    count, missing = advert.count(resource), advert.missing(resource)
    replicas = max(1, advert.replicas(resource))
    geometry = _geometry([profile], model.product, 0)
    each = MigType(geometry).count(MigType(geometry).full_mask, profile) if geometry else 1
    total = count + missing
    if advert.physical and total % (advert.physical * replicas) == 0:
        each = total // (advert.physical * replicas)
    if replicas > 1 or renamed:
        return _sliced(model, count, missing, each * replicas, 0, units=not renamed)
    devices = ceil(count / each)
    if devices > _MOST_PLAIN or each > _MOST_ON_ONE:
        return _pool(model, count)  # whatever labels say of them, no devices have so many
    found = []
    for _ in range(devices):  # those without an instance to offer are none
        here = min(each, count)
        count -= here
        layout = layout_for(geometry, {profile: here}) if geometry else None
        found.append(_cut(model, geometry, layout, [profile] * here, units=True))
    return found


def _pools_and_counts(advert: Advert, model: Device) -> tuple[list[Device], dict[str, int]]:
    """Time-sliced instances of each profile, and how many there are of each other one."""
    pools: list[Device] = []
    counts: dict[str, int] = {}
    for resource, count in advert.instances.items():
        profile = profile_of(resource.removeprefix(advert.names.mig_prefix))
        if advert.replicas(resource) > 1:
            (pool,) = _pool(model, count)
            pools.append(replace(pool, mig=profile, resource=resource))
        else:
            counts[profile] = counts.get(profile, 0) + count
    return pools, counts


def _partitioned(
    counts: Mapping[str, int], model: Device, memory: int, devices: int
) -> list[Device]:
    """Devices whose fixed instances add up to these counts.

    Parameters
    ----------
    counts
        Instances by profile.
    model, memory
        Of the devices; MiB, 0 if unknown.
    devices
        How many there are; 0 for the fewest that it takes.
    """
    if not counts:
        return []
    size = memory * 8 if 0 < memory < 20_000 else memory  # some label the memory of an instance
    geometry = _geometry(list(counts), model.product, size)
    layouts = _layouts(geometry, counts, devices) if geometry else None
    if layouts is not None:
        return [_cut(model, geometry, layout, ()) for layout in layouts]
    if geometry and not devices:
        raise InvalidInput("nvidia.com/mig-*", "are more instances than any node has")
    each = _spread(counts, devices)
    return [_cut(model, "", None, profiles) for profiles in each]


def _geometry(profiles: list[str], product: str, memory: int) -> str:
    """Name of a geometry with all of these profiles; empty if none is known or can be derived."""
    table = [geometry_for(product, memory)]
    if not table[0]:
        table = list(GEOMETRIES)
    for name in table:
        known = geometry_named(name)
        if known is not None and all(known.profile(profile) for profile in profiles):
            return name
    derived = derived_geometry(profiles, product, memory)
    known = geometry_named(derived) if derived else None
    return derived if known and all(known.profile(profile) for profile in profiles) else ""


def _cut(
    model: Device,
    geometry: str,
    layout: tuple[tuple[str, int], ...] | None,
    profiles: Iterable[str],
    *,
    units: bool = False,
) -> Device:
    """A device of these instances: where they are, or, if that cannot be, in no geometry."""
    if layout is None:
        listed = list(profiles)
        geometry = as_advertised(listed)
        layout = tuple((profile, slot) for slot, profile in enumerate(listed))
    return replace(model, memory_mib=0, mig=geometry, mig_layout=layout, units=units)


def _layouts(
    geometry: str, counts: Mapping[str, int], devices: int
) -> list[tuple[tuple[str, int], ...]] | None:
    """Layouts of so many devices, or of the fewest, that have these instances; None if none do."""
    if devices and all(count % devices == 0 for count in counts.values()):
        alike = layout_for(geometry, {name: count // devices for name, count in counts.items()})
        if alike is not None:
            return [alike] * devices
    known = geometry_named(geometry)
    assert known is not None  # it has all of these profiles
    sizes = {name: profile.size for name in counts if (profile := known.profile(name))}
    orders = permutations(sorted(counts, key=lambda name: (-sizes[name], name)))
    best: list[tuple[tuple[str, int], ...]] | None = None
    for order in islice(orders, _TRIES):
        found = _filled(geometry, counts, order)
        if found is not None and (best is None or len(found) < len(best)):
            best = found
        if best is not None and len(best) <= (devices or len(best)):
            return best
    return best if not devices else None


def _filled(
    geometry: str, counts: Mapping[str, int], order: Sequence[str]
) -> list[tuple[tuple[str, int], ...]] | None:
    """Devices filled one after another, with as many instances in this order as one can have."""
    left = dict(counts)
    layouts: list[tuple[tuple[str, int], ...]] = []
    while any(left.values()):
        chosen: dict[str, int] = {}
        layout: tuple[tuple[str, int], ...] = ()
        for name in order:
            while chosen.get(name, 0) < left[name]:
                more = chosen | {name: chosen.get(name, 0) + 1}
                found = layout_for(geometry, more)
                if found is None:
                    break
                chosen, layout = more, found
        if not layout or len(layouts) >= _MOST_PLAIN:
            return None
        for name, count in chosen.items():
            left[name] -= count
        layouts.append(layout)
    return layouts


def _spread(counts: Mapping[str, int], devices: int) -> list[list[str]]:
    """Instances dealt out to devices evenly, no more on one than any device has."""
    total = sum(counts.values())
    devices = max(min(devices, total), ceil(total / _MOST_ON_ONE))
    if devices > _MOST_PLAIN:
        raise InvalidInput("nvidia.com/mig-*", "are more instances than any node has")
    found: list[list[str]] = [[] for _ in range(devices)]
    at = 0
    for name in sorted(counts):
        for _ in range(counts[name]):
            found[at % len(found)].append(name)
            at += 1
    return found


# -- other vendors -----------------------------------------------------------------------------


def _others(advert: Advert, resource: str, *, alone: bool) -> list[Device]:
    """Devices of any other resource of devices."""
    count, missing = advert.count(resource), advert.missing(resource)
    names = advert.names
    model = Device(advert.product(resource, alone=alone))
    if resource.startswith(names.mig_prefix):
        return _pool(model, count)
    per = _partitions(advert, resource, model.product)
    if not per:
        per = _per_device(count + missing, advert.devices_stated(resource))
    if per > 1:
        return _sliced(model, count, missing, per, 0, units=True)
    if count + missing > _MOST_PLAIN:
        return _pool(model, count)
    return [model] * count + [replace(model, healthy=False)] * missing


def _partitions(advert: Advert, resource: str, product: str) -> int:
    """Partitions of each device by the mode that label or resource name; 0 without one."""
    stated = advert.labels.get(advert.names.partition_label, "") if "amd" in resource else ""
    mode = (stated or resource.partition("/")[2]).lower().partition("_")[0]
    if mode == "cpx" and "MI300A" in product.upper():
        return 6
    return _MODES.get(mode, 1 if mode == "spx" else 0)
