"""MIG slot geometry: where a profile may start on a device, and what placing it destroys.

A MIG-capable device has a row of memory slots (8 on A100 and later, 4 on A30). A profile is a
run of slots that may begin only at certain positions (NVIDIA MIG user guide, "Supported MIG
Profiles"). The free slots of a device are a bit mask, bit *i* for slot *i*; bit 8 is a token for
the media engines that one ``+me`` instance per device may have.

New models come more often than tables of them. Where a model is in no table, its geometry is
derived from the names of its profiles, as long as these follow the pattern of the families known so
far (:func:`derived_geometry`). Where they do not, the instances of a device are taken as they are
(:func:`as_advertised`): how many there are of each is known, and nothing is said of slots.

Everything here is a pure function of small integers, memoised. The module knows nothing about
nodes, pods or policies.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from types import MappingProxyType

from scheduler.core.errors import InvalidInput

__all__ = [
    "GEOMETRIES",
    "KNOWN_PROFILES",
    "MEDIA_BIT",
    "RECENT_PROFILES",
    "SLOT_MASKS",
    "UNIT",
    "Geometry",
    "MigType",
    "Packing",
    "Profile",
    "as_advertised",
    "claimed_slots",
    "derived_geometry",
    "geometry_for",
    "geometry_named",
    "layout_for",
]

MEDIA_BIT = 1 << 8
SLOT_MASKS = 1 << 9
"""Free masks of a partitioned device."""
UNIT = ""
"""Profile that stands for any instance of a device of fixed instances; no pod can name it."""
_STEPS = 200
_STEPS_EACH = 4


_ATTRIBUTES = re.compile(r"([0-9]+g\.[0-9]+gb)((?:\+gfx)?(?:[+-]me|\+me\.all)?)")
_SIZE = re.compile(r"([1-8])g\.([0-9]{1,4})gb")


@dataclass(frozen=True, slots=True)
class Profile:
    """One MIG profile: ``size`` memory slots, beginning at one of ``starts``."""

    name: str
    size: int
    starts: tuple[int, ...]
    media: bool = False

    def mask_at(self, start: int) -> int:
        """Bits that an instance at ``start`` takes."""
        return (((1 << self.size) - 1) << start) | (MEDIA_BIT if self.media else 0)


@dataclass(frozen=True, slots=True)
class Geometry:
    """Slots of one device model and the profiles it can host, largest first."""

    name: str
    slots: int
    profiles: tuple[Profile, ...]

    @property
    def full_mask(self) -> int:
        """Mask of an empty device."""
        return ((1 << self.slots) - 1) | MEDIA_BIT

    def profile(self, name: str) -> Profile | None:
        """The profile with this name, or None if the geometry has no such profile.

        One with attributes (``+me``, ``+me.all``, ``+gfx``, ``-me``) has the slots of the one
        without.
        """
        found = self._listed(name)
        attributes = None if found else _ATTRIBUTES.fullmatch(name)
        plain = self._listed(attributes[1]) if attributes else None
        if attributes is None or plain is None:
            return found
        return replace(plain, name=name, media="+me" in attributes[2])

    def _listed(self, name: str) -> Profile | None:
        return next((profile for profile in self.profiles if profile.name == name), None)

    def milli(self, mask: int) -> int:
        """Milli-GPU that a set of slots stands for, rounded down."""
        return (mask & (MEDIA_BIT - 1)).bit_count() * 1000 // self.slots


def _eight_slots(name: str, gigabytes: tuple[int, int, int, int]) -> Geometry:
    """Geometry of the 8-slot families; sizes in GB of the 1, 2, 4 and 8-slot instances."""
    one, two, four, eight = gigabytes
    return Geometry(
        name,
        8,
        (
            Profile(f"7g.{eight}gb", 8, (0,)),
            Profile(f"4g.{four}gb", 4, (0,)),
            Profile(f"3g.{four}gb", 4, (0, 4)),
            Profile(f"2g.{two}gb", 2, (0, 2, 4)),
            Profile(f"1g.{two}gb", 2, (0, 2, 4, 6)),
            Profile(f"1g.{one}gb", 1, (0, 1, 2, 3, 4, 5, 6)),
            Profile(f"1g.{one}gb+me", 1, (0, 1, 2, 3, 4, 5, 6), media=True),
        ),
    )


GEOMETRIES: Mapping[str, Geometry] = MappingProxyType(
    {
        geometry.name: geometry
        for geometry in (
            Geometry(
                "A30",
                4,
                (
                    Profile("4g.24gb", 4, (0,)),
                    Profile("2g.12gb", 2, (0, 2)),
                    Profile("2g.12gb+me", 2, (0, 2), media=True),
                    Profile("1g.6gb", 1, (0, 1, 2, 3)),
                    Profile("1g.6gb+me", 1, (0, 1, 2, 3), media=True),
                ),
            ),
            _eight_slots("A100-40", (5, 10, 20, 40)),
            _eight_slots("A100-80", (10, 20, 40, 80)),
            _eight_slots("H100-80", (10, 20, 40, 80)),
            _eight_slots("H100-96", (12, 24, 48, 96)),
            _eight_slots("H200", (18, 35, 71, 141)),
            _eight_slots("B200", (23, 45, 90, 180)),
        )
    }
)
"""Slot geometry by name."""


@cache
def geometry_named(name: str) -> Geometry | None:
    """The geometry of this name, from the table or as its name says; None if there is none.

    ``8x12,24,47,94`` has eight slots and profiles of so many GB in one, two, four and eight slots;
    ``as:1g.5gb,2g.10gb`` has these two instances.
    """
    if name in GEOMETRIES:
        return GEOMETRIES[name]
    if name.startswith(_AS_THEY_ARE):
        profiles = name.removeprefix(_AS_THEY_ARE).split(",")
        starts: dict[str, list[int]] = {}
        for slot, profile in enumerate(profiles):
            starts.setdefault(profile, []).append(slot)
        listed = tuple(Profile(profile, 1, tuple(at)) for profile, at in starts.items())
        return Geometry(name, len(profiles), listed) if len(profiles) <= _MOST_INSTANCES else None
    slots, _, sizes = name.partition("x")
    if not re.fullmatch(r"[0-9]{1,4}(,[0-9]{1,4})*", sizes):
        return None
    gigabytes = tuple(map(int, sizes.split(",")))
    match slots, gigabytes:
        case "8", (one, two, four, eight):
            return _eight_slots(name, (one, two, four, eight))
        case ("4", (_, _, _)) | ("2", (_, _)):
            return _few_slots(name, gigabytes)
    return None


_AS_THEY_ARE = "as:"
_MOST_INSTANCES = 8
_FOUR_SLOTS = ("A30", "RTX-PRO", "RTX PRO")


def _few_slots(name: str, gigabytes: tuple[int, ...]) -> Geometry:
    """Geometry of the families whose slots are as many as their instances of one slot."""
    slots = 1 << (len(gigabytes) - 1)
    profiles = [
        Profile(f"{1 << step}g.{size}gb", 1 << step, tuple(range(0, slots, 1 << step)))
        for step, size in enumerate(gigabytes)
    ]
    return Geometry(name, slots, tuple(reversed(profiles)))


def as_advertised(profiles: Iterable[str]) -> str:
    """Name of the geometry of a device that has exactly these instances, at most eight."""
    return _AS_THEY_ARE + ",".join(profiles)


def derived_geometry(profiles: Iterable[str], product: str, memory_mib: int) -> str:
    """Name of the geometry that profiles of these names have by the pattern of the families.

    Parameters
    ----------
    profiles
        Names, attributes included.
    product, memory_mib
        Of the device; 0 if its memory is unknown.

    Returns
    -------
    str
        For :func:`geometry_named`; empty where the names do not follow the pattern.
    """
    sizes: dict[int, set[int]] = {}
    for name in profiles:
        attributes = _ATTRIBUTES.fullmatch(name)
        size = _SIZE.fullmatch(attributes[1] if attributes else name)
        if size is None:
            return ""
        sizes.setdefault(int(size[1]), set()).add(int(size[2]))
    if sizes.keys() - {1, 2, 3, 4, 7}:
        return ""
    total = _total_gigabytes(sizes, memory_mib)
    few = any(word in product.upper().replace("_", "-") for word in _FOUR_SLOTS)
    full = 4 * max(sizes[4]) > 3 * total if 4 in sizes and total else False
    if (few or full) and not sizes.keys() & {3, 7}:
        by_slots = {step: sizes.get(step, set()) for step in (1, 2, 4)}
    else:
        by_slots = _by_slots(sizes, total)
    if any(len(found) > 1 for found in by_slots.values()):
        return ""
    slots = max(by_slots)
    known = {step: min(found) for step, found in by_slots.items() if found}
    step, size_of = next(iter(known.items()))
    filled = [known.get(s, max(1, size_of * s // step)) for s in sorted(by_slots)]
    return f"{slots}x{','.join(map(str, filled))}"


def _total_gigabytes(sizes: Mapping[int, set[int]], memory_mib: int) -> float:
    """Memory of the device, from the largest profile that says it; 0 if none does."""
    for part, times in ((7, 1), (3, 2)):
        if part in sizes:
            return float(times * max(sizes[part]))
    if memory_mib:
        return memory_mib / 1024
    return float(2 * max(sizes[4]) if 4 in sizes else 4 * max(sizes.get(2, {0})))


def _by_slots(sizes: Mapping[int, set[int]], total: float) -> dict[int, set[int]]:
    """Sizes by slots of an 8-slot device. Only an instance of ``1g`` may have one slot or two."""
    found: dict[int, set[int]] = {1: set(), 2: set(sizes.get(2, ())), 4: set(), 8: set()}
    found[4] = sizes.get(3, set()) | sizes.get(4, set())
    found[8] |= sizes.get(7, set())
    ones = sorted(sizes.get(1, ()))
    for size in ones:
        two = size * 16 > total * 3 if total else size in found[2] or size > ones[0]
        found[2 if two else 1].add(size)
    return found


KNOWN_PROFILES = frozenset(
    profile.name for geometry in GEOMETRIES.values() for profile in geometry.profiles
)
"""Of the models in the table."""


_RECENT = (
    "8x12,24,47,94",  # H100 NVL
    "8x18,36,72,144",  # GH200 of 144 GB
    "8x23,47,93,186",  # GB200, early
    "8x24,47,95,189",  # GB200
    "8x34,67,135,269",  # B300
    "8x35,70,139,278",  # GB300
    "4x24,48,96",  # RTX PRO 6000
)
RECENT_PROFILES = frozenset(
    name
    for derived in _RECENT
    if (geometry := geometry_named(derived))
    for profile in geometry.profiles
    for name in (
        profile.name,
        *(
            f"{profile.name}{attribute}"
            for attribute in ("+gfx", "+me", "+me.all", "-me")
            if geometry.slots == 4 and (profile.size < 4 or attribute == "+gfx")
        ),
    )
)
"""Profiles of models whose geometry is derived, for lists that have to name each profile."""


def geometry_for(product: str, memory_mib: int) -> str:
    """Name of the geometry of a device model, or an empty string if it has none.

    Parameters
    ----------
    product
        Product label such as ``NVIDIA-A100-SXM4-40GB``; case and separators do not matter.
    memory_mib
        Device memory in MiB; tells the sizes of one family apart when the label does not.
    """
    name = product.upper().replace("_", "-")
    if "A30" in name.split("-") or name == "A30":
        return "A30"
    large = memory_mib > 45_000
    if "A100" in name:
        return "A100-80" if "80GB" in name or (large and "40GB" not in name) else "A100-40"
    if "H200" in name and "GH200" not in name:
        return "H200"
    if "GH200" in name or ("H100" in name and ("96GB" in name or memory_mib > 90_000)):
        return "H100-96"
    if "H100" in name:
        return "H100-80"
    if "B200" in name:
        return "B200"
    return ""


@dataclass(frozen=True, slots=True)
class Packing:
    """Where the instances of one request go, as ``(device position, slot mask)`` pairs.

    ``after`` holds the free mask of every device afterwards, ``loss`` the capability destroyed.
    """

    instances: tuple[tuple[int, int], ...]
    after: tuple[int, ...]
    loss: int


@dataclass(frozen=True, slots=True)
class MigType:
    """A geometry, and the fixed instances if an administrator has partitioned the device."""

    geometry: str
    layout: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if geometry_named(self.geometry) is None:
            raise InvalidInput(
                "device.mig",
                f"unknown geometry {self.geometry!r}",
                f"use one of {', '.join(GEOMETRIES)}, or slots and sizes such as 8x12,24,47,94",
            )
        taken = 0
        for name, start in self.layout:
            profile = self._geometry.profile(name)
            if profile is None or start not in profile.starts:
                raise InvalidInput("device.mig_layout", f"{name} cannot start at slot {start}")
            if taken & profile.mask_at(start):
                raise InvalidInput("device.mig_layout", f"{name} at {start} overlaps another")
            taken |= profile.mask_at(start)

    @property
    def _geometry(self) -> Geometry:
        found = geometry_named(self.geometry)
        assert found is not None  # checked when the type was made
        return found

    @property
    def full_mask(self) -> int:
        """Free mask of an empty device: all slots, or those of the fixed instances."""
        if not self.layout:
            return self._geometry.full_mask
        mask = 0
        for need in self.placements(UNIT):
            mask |= need
        return mask

    def milli(self, mask: int) -> int:
        """Milli-GPU that these slots stand for."""
        return self._geometry.milli(mask)

    def placements(self, profile: str) -> tuple[int, ...]:
        """Slot masks that an instance of ``profile`` may take on an empty device.

        :data:`UNIT` stands for any of the fixed instances.
        """
        if profile == UNIT or self._geometry.profile(profile):
            return _placements(self, profile)
        return ()  # names come from pods, without end: nothing is kept of them

    def count(self, mask: int, profile: str) -> int:
        """Most instances of ``profile`` that fit into the free slots ``mask``."""
        if profile == UNIT or self._geometry.profile(profile):
            return _count(self, mask, profile)
        return 0

    def usable_milli(self, mask: int, profile: str) -> int:
        """Milli-GPU of ``mask`` that instances of ``profile`` alone could take."""
        places = self.placements(profile)
        return self.count(mask, profile) * self.milli(places[0]) if places else 0

    def capability(self, mask: int) -> int:
        """How much the free slots can still become; larger profiles weigh more.

        The counts of placeable instances, read as digits of a base-9 number from the largest
        profile to the smallest: losing a place for a larger profile is worse than losing any
        number of places for smaller ones.
        """
        return _capability(self, mask)


@cache
def _placements(mig: MigType, name: str) -> tuple[int, ...]:
    geometry = geometry_named(mig.geometry)
    assert geometry is not None  # checked when the type was made
    if mig.layout:
        fixed = [(geometry.profile(profile), at) for profile, at in mig.layout
                 if name in (UNIT, profile)]  # fmt: skip
        return tuple(profile.mask_at(at) for profile, at in fixed if profile)
    profile = geometry.profile(name)
    return tuple(profile.mask_at(start) for start in profile.starts) if profile else ()


@cache
def _count(mig: MigType, mask: int, name: str) -> int:
    best = 0
    for need in _placements(mig, name):
        if mask & need == need:
            best = max(best, 1 + _count(mig, mask & ~need, name))
    return best


@cache
def _capability(mig: MigType, mask: int) -> int:
    value = 0
    geometry = geometry_named(mig.geometry)
    assert geometry is not None  # checked when the type was made
    for profile in geometry.profiles:
        value = value * 9 + _count(mig, mask, profile.name)
    return value


@lru_cache(maxsize=65_536)
def pack(
    types: tuple[MigType | None, ...], masks: tuple[int, ...], want: tuple[tuple[str, int], ...]
) -> Packing | None:
    """Place all instances of a request on the devices of one node, or None if they do not fit.

    Backtracks over devices and start positions, exactly for whatever takes few steps. Instances go
    largest first, each to the place that destroys least capability; ties go to the lower device,
    then the lower slot.

    Parameters
    ----------
    types
        Type of each device; None for a device that is not partitioned.
    masks
        Free slots of each device.
    want
        Pairs of profile name and number of instances.
    """
    sizes = {
        name: max((places[0] & (MEDIA_BIT - 1)).bit_count() for places in options)
        for name, _ in want
        if (options := [t.placements(name) for t in types if t and t.placements(name)])
    }
    if len(sizes) < len({name for name, _ in want}):
        return None
    for name, instances in want:
        fit = sum(mig.count(mask, name) for mig, mask in zip(types, masks, strict=True) if mig)
        if fit < instances:
            return None  # not even alone; spares the search its hardest cases
    free = sum((mask & (MEDIA_BIT - 1)).bit_count() for mask in masks)
    if sum(sizes[name] * instances for name, instances in want) > free:
        return None
    todo = tuple(
        name
        for name, instances in sorted(want, key=lambda pair: (-sizes[pair[0]], pair[0]))
        for _ in range(instances)
    )
    chosen = _Search(types, todo).places(masks)
    if chosen is None:
        return None
    after = list(masks)
    for device, need in chosen:
        after[device] &= ~need
    loss = sum(
        mig.capability(before) - mig.capability(now)
        for mig, before, now in zip(types, masks, after, strict=True)
        if mig is not None
    )
    return Packing(chosen, tuple(after), loss)


class _Search:
    """Places instances one after another, going back where one has no place left.

    What has failed once is not tried again, on whichever devices. Trying ends after some steps more
    than there are instances: requests that take longer are made up, and pods that nobody can
    decide about must not stop those about whom one can.
    """

    def __init__(self, types: tuple[MigType | None, ...], todo: tuple[str, ...]) -> None:
        self._types, self._todo = types, todo
        self._left = _STEPS + _STEPS_EACH * len(todo)
        self._failed: set[tuple[int, frozenset[tuple[MigType | None, int, int]]]] = set()

    def places(self, masks: tuple[int, ...], at: int = 0) -> tuple[tuple[int, int], ...] | None:
        """Devices and slot masks for the instances from this one on, or None."""
        if at == len(self._todo):
            return ()
        count = Counter(zip(self._types, masks, strict=True))
        state = (at, frozenset((mig, mask, n) for (mig, mask), n in count.items()))
        if state in self._failed:
            return None
        for _, device, need in sorted(self._options(masks, self._todo[at])):
            self._left -= 1
            if self._left < 0:
                return None
            rest = (*masks[:device], masks[device] & ~need, *masks[device + 1 :])
            tail = self.places(rest, at + 1)
            if tail is not None:
                return ((device, need), *tail)
        self._failed.add(state)
        return None

    def _options(self, masks: tuple[int, ...], name: str) -> Iterator[tuple[int, int, int]]:
        """Capability lost, device and slots of every place that an instance could take."""
        alike = set()
        for device, (mig, mask) in enumerate(zip(self._types, masks, strict=True)):
            if mig is None or (mig, mask) in alike:
                continue  # a device in the same state as an earlier one offers nothing new
            alike.add((mig, mask))
            for need in mig.placements(name):
                if mask & need == need:
                    yield mig.capability(mask) - mig.capability(mask & ~need), device, need


def claimed_slots(
    types: tuple[MigType | None, ...], masks: tuple[int, ...], want: tuple[tuple[str, int], ...]
) -> tuple[int, ...]:
    """Slots of each device that a request takes if it cannot be refused, free or not.

    Profiles that no device has are left out, and so are instances beyond the places for them. The
    others are packed if they fit. If not, each takes a free place or else the one with most free
    slots; no two of them share a place. Where that leaves some without one, and no other order is
    found that does not, these take any slots of such devices: the charge is never below what is
    asked for while there is a slot left.

    Parameters
    ----------
    types, masks, want
        As for :func:`pack`.
    """
    known = []
    for name, instances in want:
        places = sum(len(mig.placements(name)) for mig in types if mig)
        if places:
            known.append((name, min(instances, places)))
    packing = pack(types, masks, tuple(known))
    if packing is not None:
        return tuple(mask & ~after for mask, after in zip(masks, packing.after, strict=True))
    claims, missing = _crowded(types, masks, known)
    if not missing:
        return tuple(claims)
    # One after another some took the places of others; on empty devices all may have one.
    empty = tuple(mig.full_mask if mig else 0 for mig in types)
    packing = pack(types, empty, tuple(known))
    if packing is not None:
        return tuple(mask & ~after for mask, after in zip(empty, packing.after, strict=True))
    for name, instances in missing:
        _spill(types, claims, name, instances)
    return tuple(claims)


def _crowded(
    types: tuple[MigType | None, ...], masks: tuple[int, ...], want: list[tuple[str, int]]
) -> tuple[list[int], list[tuple[str, int]]]:
    """Slots of each device if instances go one after another, and those left without a place."""
    places = {name: [p for mig in types if mig for p in mig.placements(name)] for name, _ in want}
    claims = [0] * len(types)
    missing = []
    # Large ones first; of one size, first those that may start at the fewest slots.
    for name, instances in sorted(
        want, key=lambda pair: (-_slots(places[pair[0]][0]), len(places[pair[0]]), pair[0])
    ):
        for placed in range(instances):
            place = _freest_place(types, masks, claims, name)
            if place is None:
                missing.append((name, instances - placed))
                break
            device, need = place
            claims[device] |= need
    return claims, missing


def _spill(types: tuple[MigType | None, ...], claims: list[int], name: str, instances: int) -> None:
    """Claim slots for instances that have no place, wherever slots are left."""
    for device, mig in enumerate(types):
        places = mig.placements(name) if mig else ()
        if mig is None or not places:
            continue
        wanted = instances * _slots(places[0])
        left = mig.full_mask & ~claims[device] & (MEDIA_BIT - 1)
        while left and wanted:
            claims[device] |= left & -left
            left &= left - 1
            wanted -= 1
        instances = -(-wanted // _slots(places[0]))


def _freest_place(
    types: tuple[MigType | None, ...], masks: tuple[int, ...], claims: list[int], name: str
) -> tuple[int, int] | None:
    """Device and slots of the best place that the request itself has not claimed, or None."""
    best: tuple[int, int, int, int, int] | None = None
    alike = set()
    for device, (mig, mask, own) in enumerate(zip(types, masks, claims, strict=True)):
        if mig is None or (mig, mask, own) in alike:
            continue
        alike.add((mig, mask, own))
        free, left = mask & ~own, mig.full_mask & ~own
        for need in mig.placements(name):
            if _slots(need & own):
                continue
            option = (
                (need & ~free).bit_count(),
                mig.capability(free) - mig.capability(free & ~need),
                mig.capability(left) - mig.capability(left & ~need),
                device,
                need,
            )
            if best is None or option < best:
                best = option
    return None if best is None else best[3:]


def _slots(mask: int) -> int:
    return (mask & (MEDIA_BIT - 1)).bit_count()


def layout_for(geometry: str, counts: Mapping[str, int]) -> tuple[tuple[str, int], ...] | None:
    """Start positions that realise exactly these instances on one device, or None.

    Used where a node states only how many instances of each profile it has.
    """
    known = geometry_named(geometry)
    assert known is not None  # callers name one that exists
    packing = pack((MigType(geometry),), (known.full_mask,), tuple(sorted(counts.items())))
    if packing is None:
        return None
    layout = []
    wanted = [profile for name in counts if (profile := known.profile(name))]
    todo = sorted(
        (profile for profile in wanted for _ in range(counts[profile.name])),
        key=lambda profile: (-profile.size, profile.name),
    )
    for profile, (_, mask) in zip(todo, packing.instances, strict=True):
        slots = mask & (MEDIA_BIT - 1)
        layout.append((profile.name, (slots & -slots).bit_length() - 1))
    return tuple(layout)
