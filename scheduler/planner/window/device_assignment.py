"""Which devices of one row the pods get that a window has decided to put there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from scheduler.core.devices import replica_counts
from scheduler.core.mig import MigType
from scheduler.core.model import DEVICE_MILLI, DeviceShare, GpuKind, Placement, PodRequest
from scheduler.core.state import DeviceCode
from scheduler.planner.instance import Instance

__all__ = ["DeviceAssigner"]


class DeviceAssigner:
    """Hands out the devices of one row to the pods that come."""

    def __init__(self, instance: Instance, row: int, settled: Sequence[Placement]) -> None:
        self._instance, self._row = instance, row
        state = instance.state
        taken = {share.index for placement in settled for share in placement.devices}
        free = instance.base.milli[row].tolist()
        self._whole = [
            index
            for index, milli in enumerate(free)
            if milli == DEVICE_MILLI and index not in taken
        ]
        self._memory: list[int] = state.device_mem[row].tolist()
        codes = state.device_code[row].tolist()
        slots = instance.base.slots[row].tolist()
        self._replicas = [
            max(0, count) if code == DeviceCode.SHARED else 0
            for count, code in zip(slots, codes, strict=True)
        ]
        self._types: tuple[MigType | None, ...] = state.mig_types_of(row)
        self._cuts: dict[str, list[tuple[int, int]]] = {}

    def allow_whole(self, devices: set[int]) -> None:
        """Only these devices may be taken whole; the others host fractions."""
        self._whole = [index for index in self._whole if index in devices]

    def allow_instances(self, chosen: Sequence[tuple[str, int, int]]) -> None:
        """MIG instances that were cut: profile, device, slot mask."""
        self._cuts = defaultdict(list)
        for profile, device, mask in sorted(chosen):
            self._cuts[profile].append((device, mask))

    def take(self, pod: PodRequest, kind: int, device: int) -> tuple[DeviceShare, ...]:
        """Shares of one more pod; the model has made sure that they are there."""
        gpu = pod.gpu
        match gpu.kind:
            case GpuKind.NONE:
                return ()
            case GpuKind.WHOLE:
                chosen, self._whole = self._whole[: gpu.count], self._whole[gpu.count :]
                return tuple(
                    DeviceShare(index, DEVICE_MILLI, self._memory[index]) for index in chosen
                )
            case GpuKind.FRACTION:
                milli, memory = self._instance.fraction(kind, self._row)
                return (DeviceShare(device, milli, memory),)
            case GpuKind.SHARED:
                return self._take_replicas(gpu.replicas)
            case GpuKind.MIG:
                return self._take_instances(pod)

    def _take_replicas(self, wanted: int) -> tuple[DeviceShare, ...]:
        counts = replica_counts(tuple(self._replicas), wanted)
        assert counts is not None  # the sum was bounded by the model
        state = self._instance.state
        shares = []
        for index, count in counts:
            self._replicas[index] -= count
            milli = count * DEVICE_MILLI // int(state.replicas[self._row, index])
            shares.append(DeviceShare(index, milli, 0, count))
        return tuple(shares)

    def _take_instances(self, pod: PodRequest) -> tuple[DeviceShare, ...]:
        masks: dict[int, int] = defaultdict(int)
        for profile, count in pod.gpu.mig:
            for _ in range(count):
                device, mask = self._cuts[profile].pop()
                masks[device] |= mask
        shares = []
        for device, mask in sorted(masks.items()):
            mig = self._types[device]
            assert mig is not None  # cuts were made on MIG devices
            shares.append(DeviceShare(device, mig.milli(mask), 0, mask))
        return tuple(shares)
