"""The variables and constraints of one row: what fits there, and on which devices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ortools.sat.python import cp_model

from scheduler.core.model import DEVICE_MILLI, GpuKind, PodRequest
from scheduler.planner.instance import Instance
from scheduler.planner.odd import OddRow

__all__ = ["Expr", "RowVariables", "Var", "constrain_row"]

Var = cp_model.IntVar
Expr = cp_model.LinearExpr | int

Pool = Mapping[int, Sequence[PodRequest]]
"""Pods of a window by kind."""


@dataclass
class RowVariables:
    """Variables of one row.

    Attributes
    ----------
    counts
        Pods of each kind on the row.
    fractions
        Pods of a kind with a fraction of a device, by kind and device.
    whole
        Whether a device is taken whole, where fractions might be put on it too.
    instances
        Whether a MIG instance is made, by profile, device and mask of memory slots.
    kept, kept_fractions, kept_counts
        Running pods that stay exactly where they are: by uid, by kind and device, by kind.
    odd
        The model of devices that are not all alike.
    """

    counts: dict[int, Var] = field(default_factory=dict)
    fractions: dict[tuple[int, int], Var] = field(default_factory=dict)
    whole: dict[int, Var] = field(default_factory=dict)
    instances: dict[tuple[str, int, int], Var] = field(default_factory=dict)
    kept: dict[str, Var] = field(default_factory=dict)
    kept_fractions: dict[tuple[int, int], Var] = field(default_factory=dict)
    kept_counts: dict[int, Var] = field(default_factory=dict)
    odd: OddRow | None = None


def constrain_row(
    model: cp_model.CpModel, instance: Instance, row: int, pool: Pool
) -> RowVariables:
    """Add the variables of a row to the model, and what they have to obey.

    Parameters
    ----------
    model
        Is extended.
    instance
        What is known of rows and kinds.
    row
        The row, as it is without any pod in play.
    pool
        Pods that may be put there.
    """
    made = RowVariables()
    for kind in pool:
        most = min(int(instance.most[kind, row]), len(pool[kind]))
        if most > 0:
            made.counts[kind] = model.new_int_var(0, most, "")
    base = instance.base
    shapes = {kind: instance.kinds[kind].shape for kind in made.counts}
    for axis in instance.axes:
        # A row that is over-full without any pod in play hosts none that asks for this.
        taken = [n * made.counts[kind] for kind, n in axis.needs(shapes).items() if n]
        model.add(sum(taken) <= max(0, int(axis.room[row])))
    if instance.odd[row]:
        asks = {kind: instance.asks(kind, row) for kind in made.counts}
        made.odd = OddRow(model, instance.state, row, instance.by_device, asks, made.counts)
        return made
    by_way: dict[GpuKind, list[int]] = defaultdict(list)
    for kind, shape in shapes.items():
        by_way[shape.gpu.kind].append(kind)
    if by_way[GpuKind.FRACTION]:
        _constrain_devices(
            model, instance, row, pool, made, by_way[GpuKind.FRACTION], by_way[GpuKind.WHOLE]
        )
    elif by_way[GpuKind.WHOLE]:
        used = sum(
            instance.kinds[k].shape.gpu.count * made.counts[k] for k in by_way[GpuKind.WHOLE]
        )
        model.add(used <= int(base.whole[row]))
    if by_way[GpuKind.SHARED]:
        used = sum(
            instance.kinds[k].shape.gpu.replicas * made.counts[k] for k in by_way[GpuKind.SHARED]
        )
        model.add(used <= int(base.replicas[row]))
    if by_way[GpuKind.MIG]:
        _constrain_instances(model, instance, row, made, by_way[GpuKind.MIG])
    return made


def _constrain_devices(
    model: cp_model.CpModel,
    instance: Instance,
    row: int,
    pool: Pool,
    made: RowVariables,
    fractions: list[int],
    whole: list[int],
) -> None:
    """Which device hosts which fraction, and which is taken whole."""
    free = instance.base.milli[row].tolist()
    memory = instance.base.memory[row].tolist()
    sizes = instance.state.device_mem[row].tolist()
    needs = {kind: instance.fraction(kind, row) for kind in fractions}
    for device, milli in enumerate(free):
        if milli <= 0:
            continue
        if milli == DEVICE_MILLI and whole:
            made.whole[device] = model.new_bool_var("")
        for kind in fractions:
            most = min(milli // needs[kind][0], len(pool[kind]))
            if most:
                made.fractions[kind, device] = model.new_int_var(0, most, "")
        used = sum(
            needs[kind][0] * made.fractions[kind, device]
            for kind in fractions
            if (kind, device) in made.fractions
        )
        taken = made.whole.get(device, 0)
        model.add(used + DEVICE_MILLI * taken <= milli)
        if sizes[device] and any(needs[kind][1] for kind in fractions):
            model.add(
                sum(
                    needs[kind][1] * made.fractions[kind, device]
                    for kind in fractions
                    if (kind, device) in made.fractions
                )
                <= max(0, memory[device])
            )
    for kind in fractions:
        on = [var for (k, _), var in made.fractions.items() if k == kind]
        model.add(sum(on) == made.counts[kind])
    if whole:
        used = sum(instance.kinds[k].shape.gpu.count * made.counts[k] for k in whole)
        model.add(sum(made.whole.values()) == used)


def _constrain_instances(
    model: cp_model.CpModel, instance: Instance, row: int, made: RowVariables, kinds: list[int]
) -> None:
    """Where on which device the instances of each profile go."""
    need: dict[str, list[Expr]] = defaultdict(list)
    for kind in kinds:
        for profile, count in instance.kinds[kind].shape.gpu.mig:
            need[profile].append(count * made.counts[kind])
    slots = instance.base.slots[row].tolist()
    for device, mig in enumerate(instance.state.mig_types_of(row)):
        if mig is None:
            continue
        by_slot: dict[int, list[Var]] = defaultdict(list)
        for profile in need:
            for mask in mig.placements(profile):
                if slots[device] & mask == mask:
                    var = model.new_bool_var("")
                    made.instances[profile, device, mask] = var
                    for bit in range(mask.bit_length()):
                        if mask >> bit & 1:
                            by_slot[bit].append(var)
        for on_slot in by_slot.values():
            model.add_at_most_one(on_slot)
    for profile, wanted in need.items():
        there = [var for (name, _, _), var in made.instances.items() if name == profile]
        model.add(sum(there) == sum(wanted))
