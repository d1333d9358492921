"""Rows as their nodes and placements say: every column of a row is written here.

A charge is computed before the first number is written, and a row can always be written again from
its node and its placements alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from scheduler.core.columns import (
    COLUMNS,
    Columns,
    DeviceCode,
    affinity_of,
    counted,
    counted_bytes,
    counted_share,
)
from scheduler.core.counted import CountedColumns, amounts, offered_by
from scheduler.core.errors import UnknownNode
from scheduler.core.makes import USUAL, Make, make_of, offered_twice, wants_those
from scheduler.core.mig import MigType
from scheduler.core.model import (
    DEVICE_MILLI,
    Device,
    DeviceShare,
    GpuKind,
    GpuRequest,
    Node,
    Placement,
    Serves,
)
from scheduler.core.pods_by_row import PodsByRow

__all__ = ["Rows"]


class Rows(Columns):
    """Nodes and placements by row, and the columns that follow from them.

    Attributes
    ----------
    nodes : list of Node or None
        Node of each row; None for an empty row.
    products : list of (resource, product)
        What the codes in ``product`` stand for.
    mig_types, makes
        What the codes in ``device_code`` and ``make`` stand for.
    counted : CountedColumns
        Counted resources, offered and left.
    device_memory_known : bool
        Whether any device has ever stated its memory; without, nothing has to look at it.
    odd_known : bool
        Whether any row has ever been odd; without, nothing has to look at it.
    serves_known : bool
        Whether any node has ever restricted that; without, nothing has to look at it.
    """

    def __init__(self, rows: int = 0, devices: int = 1) -> None:
        self.counted = CountedColumns()
        super().__init__(rows, devices)
        self.nodes: list[Node | None] = []
        self._pods_on = PodsByRow()
        self.products: list[tuple[str, str]] = [("", "")]
        self._product_codes: dict[tuple[str, str], int] = {("", ""): 0}
        self.mig_types: list[MigType] = []
        self.makes: list[Make] = [USUAL]
        self.odd_known = False
        self.device_memory_known = False
        self.serves_known = False

    # -- reading ---------------------------------------------------------------------------

    def node(self, row: int) -> Node:
        """The node of an occupied row; :class:`UnknownNode` if it is empty."""
        node = self.nodes[row]
        if node is None:
            raise UnknownNode(f"of row {row}")
        return node

    def pods_on(self, row: int) -> list[Placement]:
        """Placements on a row, sorted by pod key, then uid."""
        return sorted(self._pods_on[row].values(), key=lambda p: (p.pod.key, p.pod.uid))

    def mig_types_of(self, row: int) -> tuple[MigType | None, ...]:
        """MIG type of each device of a row; None for devices that are not partitioned."""
        codes = self.device_code[row, : int(self.device_count[row])].tolist()
        return tuple(
            self.mig_types[code - DeviceCode.MIG] if code >= DeviceCode.MIG else None
            for code in codes
        )

    def otherwise_served(self, row: int, gpu: GpuRequest) -> bool:
        """Whether the row's devices go to pods that ask for them in the other way."""
        serves, make = int(self.serves[row]), self.makes[self.make[row]]
        if make != USUAL and not wants_those(make, gpu):
            return False
        if serves == Serves.ONE_AT_A_TIME:
            return bool((self.plugin_pods if gpu.chosen_by_us else self.chosen_pods)[row])
        return serves == (Serves.WHOLE if gpu.chosen_by_us else Serves.FRACTIONS)

    def overdrawn(self, row: int) -> bool:
        """Whether a device of the row is claimed beyond what it has, or a MIG slot twice."""
        code = self.device_code[row]
        milli = (code == DeviceCode.PLAIN) & (self.gpu_free[row] < 0)
        memory = (code == DeviceCode.PLAIN) & (self.device_mem_free[row] < 0)
        replicas = (code == DeviceCode.SHARED) & (self.slots_free[row] < 0)
        if (milli | memory | replicas).any():
            return True
        return bool((code >= DeviceCode.MIG).any()) and self._slots_shared(row)

    def _slots_shared(self, row: int) -> bool:
        """Whether two pods of the row claim one MIG slot."""
        taken = [0] * int(self.device_count[row])
        for placement in self._pods_on[row].values():
            for share in placement.devices:
                index = share.index
                if 0 <= index < len(taken) and self.device_code[row, index] >= DeviceCode.MIG:
                    if taken[index] & share.slots:
                        return True
                    taken[index] |= share.slots
        return False

    def product_code(self, key: tuple[str, str]) -> int:
        """Code of a resource and a model, which gets one if it has none."""
        code = self._product_codes.get(key)
        if code is None:
            code = self._product_codes[key] = len(self.products)
            self.products.append(key)
        return code

    # -- writing ---------------------------------------------------------------------------

    def _rewrite(self, row: int) -> None:
        """Write every column of a row from its node and its placements."""
        node = self.node(row)
        stamp = self.generation[row]
        for column, _, empty, _ in COLUMNS:
            self._stored[column][row] = empty
        self.generation[row] = stamp
        self.cpu_alloc[row] = self.cpu_free[row] = counted(node.cpu_milli)
        self.mem_alloc[row] = self.mem_free[row] = counted_bytes(node.memory_bytes)
        self.pods_alloc[row] = self.pods_free[row] = counted(node.pods)
        self.counted.describe(row, offered_by(node))
        self.device_count[row] = len(node.devices)
        self.serves[row] = node.serves
        self.serves_known |= node.serves is not Serves.BOTH
        if node.devices:
            self.product[row] = self.product_code((node.resource_of(node.devices[0]), node.product))
        self._set_make(row, make_of(node))
        for index, device in enumerate(node.devices):
            self._set_device(row, index, device)
        for placement in self._pods_on[row].values():
            self._charge(row, placement, 1)
        self._derive(row)

    def _set_device(self, row: int, index: int, device: Device) -> None:
        memory = counted(device.memory_mib)
        self.device_mem[row, index] = self.device_mem_free[row, index] = memory
        self.replicas[row, index] = device.replicas
        self.device_memory_known |= device.memory_mib > 0
        if not device.healthy:
            self.device_code[row, index] = DeviceCode.UNHEALTHY
        elif device.kind is GpuKind.MIG:
            mig = MigType(device.mig, device.mig_layout)
            if mig not in self.mig_types:
                self.mig_types.append(mig)
            self.device_code[row, index] = DeviceCode.MIG + self.mig_types.index(mig)
            self.slots_free[row, index] = mig.full_mask
        elif device.kind is GpuKind.SHARED:
            self.device_code[row, index] = DeviceCode.SHARED
            self.slots_free[row, index] = device.replicas
        else:
            self.device_code[row, index] = DeviceCode.PLAIN
            self.gpu_free[row, index] = DEVICE_MILLI

    def _set_make(self, row: int, make: Make) -> None:
        if make != USUAL:
            self.odd_known = True
            if make not in self.makes:
                self.makes.append(make)
                for part in make:
                    self.product_code((part.resource, part.product))
            self.make[row] = self.makes.index(make)

    def _charge(self, row: int, placement: Placement, sign: int) -> None:
        pod = placement.pod
        kind = affinity_of(pod.gpu)
        cpu, memory = sign * counted(pod.cpu_milli), sign * counted_bytes(pod.memory_bytes)
        shares = [counted_share(share) for share in placement.devices]
        taken = amounts(pod) if pod.counted else ()
        # Nothing has been written up to here, and from here on nothing can be too large.
        self.cpu_free[row] -= cpu
        self.mem_free[row] -= memory
        self.pods_free[row] -= sign
        if taken:
            self.counted.charge(row, taken, sign)
        if kind >= 0:
            self.affinity[row, kind] += sign
        if pod.gpu.chosen_by_us:
            self.chosen_pods[row] += sign
        elif shares and (not self.make[row] or self._twice(row, shares)):
            self.plugin_pods[row] += sign
        count = int(self.device_count[row])
        for share in shares:
            self.gpu_used[row] += sign * share.milli
            if not 0 <= share.index < count:
                continue  # a device that vanished: its pods still count in gpu_used
            code = int(self.device_code[row, share.index])
            if code == DeviceCode.PLAIN:
                self.gpu_free[row, share.index] -= sign * share.milli
                self.device_mem_free[row, share.index] -= sign * share.memory_mib
            elif code == DeviceCode.SHARED:
                self.slots_free[row, share.index] -= sign * counted(share.slots)
            elif code >= DeviceCode.MIG:
                self._charge_slots(row, pod.uid, share, sign)

    def _twice(self, row: int, shares: Iterable[DeviceShare]) -> bool:
        """Whether some of these devices of an odd row may be offered in two ways."""
        twice = offered_twice(self.makes[self.make[row]])
        return any(share.index in twice for share in shares)

    def _charge_slots(self, row: int, uid: str, share: DeviceShare, sign: int) -> None:
        """Take or return MIG slots; on return, slots that another pod also claims stay taken."""
        free = int(self.slots_free[row, share.index])
        if sign > 0:
            self.slots_free[row, share.index] = free & ~share.slots
            return
        code = int(self.device_code[row, share.index])
        returned = share.slots & self.mig_types[code - DeviceCode.MIG].full_mask
        for other in self._pods_on[row].values():
            for claim in other.devices:
                if claim.index == share.index and other.pod.uid != uid:
                    returned &= ~claim.slots
        self.slots_free[row, share.index] = free | returned

    def _derive(self, row: int) -> None:
        """Refresh the columns that follow from the devices of one row."""
        count = int(self.device_count[row])
        free = self.gpu_free[row, :count].tolist()
        self.full_free[row] = free.count(DEVICE_MILLI)
        self.most_free[row] = max(free, default=-1)
        left = sum(value for value in free if value > 0)
        if (self.device_code[row, :count] >= DeviceCode.SHARED).any():
            left += sum(self._slots_milli(row, index) for index in range(count))
        self.gpu_left[row] = left

    def _slots_milli(self, row: int, index: int) -> int:
        code = int(self.device_code[row, index])
        slots = int(self.slots_free[row, index])
        if code >= DeviceCode.MIG:
            return self.mig_types[code - DeviceCode.MIG].milli(slots)
        if code == DeviceCode.SHARED:
            return max(0, slots) * DEVICE_MILLI // int(self.replicas[row, index])
        return 0

    def _adopt_vocabulary(self, other: Rows) -> None:
        self.products = list(other.products)
        self._product_codes = dict(other._product_codes)
        self.mig_types = list(other.mig_types)
        self.makes, self.odd_known = list(other.makes), other.odd_known
        self.device_memory_known = other.device_memory_known
        self.serves_known = other.serves_known
        self.counted = other.counted.emptied(len(self._stored["gpu_free"]))

    def _allocate(self, rows: int, devices: int) -> None:
        super()._allocate(rows, devices)
        self.counted.resize(rows)
