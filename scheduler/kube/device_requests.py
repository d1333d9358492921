"""What a pod asks of devices: its resources and the models that its node rules name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from functools import partial
from math import ceil

from scheduler.core.errors import InvalidInput
from scheduler.core.model import DEVICE_MILLI, MAX_UNITS, GpuRequest, NodeSelection, SelectorTerm
from scheduler.kube.resource_names import ResourceNames, plain_product, profile_of

__all__ = ["MOST_MEMORY", "device_request", "separate_requests"]

MOST_MEMORY = 1 << 30
"""Device memory beyond which a request fits nowhere, in MiB."""
_MOST_INSTANCES = 1 << 16
"""MIG instances or replicas; more than all devices of a node may be divided into."""
_QUOTED_BITS = 128


def device_request(
    totals: Mapping[str, Fraction], selection: NodeSelection, names: ResourceNames
) -> GpuRequest:
    """What these totals of all containers ask of devices.

    Raises
    ------
    InvalidInput
        They contradict each other. Names the field.
    """
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
        mebibytes = min(share * names.share_unit_mib, MOST_MEMORY)
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


def separate_requests(
    totals: Mapping[str, Fraction], selection: NodeSelection, names: ResourceNames
) -> tuple[GpuRequest, ...]:
    """Every way in which a pod asks for devices, each by itself and as large as a node may be."""
    wanted = {
        name: min(ceil(value), MOST_MEMORY)
        for name, value in totals.items()
        if value and names.stands_for_devices(name)
    }
    products = _wanted_products(selection, names.product_labels)
    asks = partial(GpuRequest, products=products, by_label=True)
    found = [
        asks(count=min(count, MAX_UNITS), resource=name) for name, count in _whole(wanted, names)
    ]
    if share := wanted.get(names.share_memory, 0) * names.share_unit_mib:
        memory = min(share, MOST_MEMORY)
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
    memory = min(memory, MOST_MEMORY)
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
