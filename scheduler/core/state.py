"""The cluster as columns: one writer, frozen snapshots, all-or-nothing deltas.

Row *r* of every column belongs to one node. A removed node leaves an empty row behind that never
fits anything and is used again by the next new node. Every change stamps the row with a new
generation and appends it to a journal, so that whoever caches something per row can catch up at
a cost that follows what changed (:meth:`ClusterState.changed_since`).

The columns say what is left; the placements say who has it. Both are kept, and
:meth:`ClusterState.check` rebuilds the columns from the placements to compare.

A column cannot wrap: whatever a pod or a node states, it counts for 0 to 2^40 (bytes of memory: to
2^47), on withdrawal as on charge, and sums are 64 bits wide. A charge is computed before the first
number is written, and a delta that fails in any way leaves the rows as their placements alone say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from scheduler.core.columns import (
    AFFINITY_KINDS,
    COLUMNS,
    DeviceCode,
    affinity_of,
    counted,
    counted_bytes,
    counted_share,
)
from scheduler.core.counted import CountedColumns, amounts, offered_by
from scheduler.core.errors import CapacityConflict, FrozenState, UnknownNode, UnknownPod
from scheduler.core.makes import USUAL, Make, make_of, offered_twice, wants_those
from scheduler.core.mig import MigType
from scheduler.core.misfits import misfit, share_misfit
from scheduler.core.model import (
    DEVICE_MILLI,
    Device,
    DeviceShare,
    GpuKind,
    GpuRequest,
    Node,
    Placement,
    Release,
    Serves,
)
from scheduler.core.pods_by_row import PodsByRow

__all__ = ["AFFINITY_KINDS", "ClusterState", "DeviceCode", "affinity_of"]

_MIN_ROWS = 16
_JOURNAL_LIMIT = 1 << 12  # entries, or four per row: after more all rows may as well have changed


class ClusterState:
    """Mutable state of the cluster.

    Attributes
    ----------
    nodes : list of Node or None
        Node of each row; None for an empty row.
    row_of : mapping of str to int
        Row of each node by name.
    placements : mapping of str to Placement
        By pod uid.
    generation_now : int
        Stamp of the latest change.
    node_epoch : int
        Grows whenever a node is added, changed or removed (not by placements).
    device_memory_known : bool
        Whether any device has ever stated its memory; without, nothing has to look at it.
    cpu_alloc, mem_alloc, pods_alloc : (N,) int64
        Allocatable milli-CPU, bytes, pods.
    cpu_free, mem_free, pods_free : (N,) int64
        What is left; negative where a node is over-full, -1 on an empty row.
    gpu_used, gpu_left : (N,) int64, int32
        Milli-GPU taken by pods, and milli-GPU left on devices that can be handed out.
    device_count : (N,) int16
        Devices, healthy or not.
    product : (N,) int16
        Code of ``(resource, product)`` in ``products``; 0 for a node without devices.
    full_free, most_free : (N,) int16, int64
        Plain devices that are entirely free; milli-GPU free on the emptiest plain one (-1: none).
    gpu_free : (N, D) int64
        Milli-GPU left per plain device; -1 if absent, unhealthy, MIG or time-sliced. Facts may
        over-fill a device many times, hence no smaller type.
    device_mem, device_mem_free : (N, D) int64
        Device memory in MiB, 0 if unknown.
    slots_free : (N, D) int64
        Free MIG slots as a bit mask, or free replicas of a time-sliced device.
    device_code : (N, D) int16
        See :class:`DeviceCode`.
    replicas : (N, D) int16
        Replicas of a time-sliced device, else 1.
    affinity : (N, AFFINITY_KINDS) int32
        Pods on the row by kind of GPU request, see :func:`affinity_of`.
    serves : (N,) int8
        See :class:`scheduler.core.model.Serves`.
    make : (N,) int32
        Code of what is odd about the row's devices, see :mod:`scheduler.core.makes`; 0 if nothing.
    odd_known : bool
        Whether any row has ever been odd; without, nothing has to look at it.
    serves_known : bool
        Whether any node has ever restricted that; without, nothing has to look at it.
    plugin_pods, chosen_pods : (N,) int32
        Pods that have devices from the device plugin, and pods whose devices were chosen here.
    generation : (N,) int64
        Stamp of the last change to the row.
    counted : CountedColumns
        Counted resources, offered and left.
    """

    cpu_alloc: NDArray[np.int64]
    mem_alloc: NDArray[np.int64]
    pods_alloc: NDArray[np.int64]
    cpu_free: NDArray[np.int64]
    mem_free: NDArray[np.int64]
    pods_free: NDArray[np.int64]
    gpu_used: NDArray[np.int64]
    device_count: NDArray[np.int16]
    product: NDArray[np.int16]
    full_free: NDArray[np.int16]
    most_free: NDArray[np.int64]
    gpu_left: NDArray[np.int32]
    make: NDArray[np.int32]
    generation: NDArray[np.int64]
    gpu_free: NDArray[np.int64]
    device_mem_free: NDArray[np.int64]
    device_mem: NDArray[np.int64]
    slots_free: NDArray[np.int64]
    device_code: NDArray[np.int16]
    replicas: NDArray[np.int16]
    affinity: NDArray[np.int32]
    serves: NDArray[np.int8]
    plugin_pods: NDArray[np.int32]
    chosen_pods: NDArray[np.int32]

    def __init__(self, nodes: Iterable[Node] = ()) -> None:
        listed = list(nodes)
        self._frozen = False
        self._size = 0
        self._stored: dict[str, NDArray[np.signedinteger]] = {}
        self.counted = CountedColumns()
        self.nodes: list[Node | None] = []
        self._row_of: dict[str, int] = {}
        self._placements: dict[str, Placement] = {}
        self._placements_lent = False  # to a copy: to be copied before the next change
        self._pods_on = PodsByRow()
        self._empty_rows: list[int] = []
        self.products: list[tuple[str, str]] = [("", "")]
        self._product_codes: dict[tuple[str, str], int] = {("", ""): 0}
        self.mig_types: list[MigType] = []
        self.makes: list[Make] = [USUAL]
        self.odd_known = False
        self.generation_now = 0
        self.node_epoch = 0
        self.device_memory_known = False
        self.serves_known = False
        self._journal: list[int] = []
        self._journal_base = 0
        widest = max((len(node.devices) for node in listed), default=0)
        self._allocate(max(_MIN_ROWS, len(listed)), max(1, widest))
        for node in listed:
            self.add_node(node)

    # -- reading ---------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of rows, empty ones included."""
        return self._size

    @property
    def row_of(self) -> Mapping[str, int]:
        """Row by node name."""
        return MappingProxyType(self._row_of)

    @property
    def placements(self) -> Mapping[str, Placement]:
        """Placement by pod uid."""
        return MappingProxyType(self._placements)

    @property
    def frozen(self) -> bool:
        """Whether this is a snapshot."""
        return self._frozen

    def row(self, name: str) -> int:
        """Row of a node; :class:`UnknownNode` if there is none."""
        try:
            return self._row_of[name]
        except KeyError:
            raise UnknownNode(name) from None

    def node(self, row: int) -> Node:
        """The node of an occupied row; :class:`UnknownNode` if it is empty."""
        node = self.nodes[row]
        if node is None:
            raise UnknownNode(f"of row {row}")
        return node

    def rows_of(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Row of each name, -1 for unknown ones."""
        try:  # names are almost always all known, and a map without a default is twice as fast
            return np.fromiter(map(self._row_of.__getitem__, names), np.int64, len(names))
        except KeyError:
            find = self._row_of.get
            return np.array([find(name, -1) for name in names], dtype=np.int64)

    @property
    def empty_rows(self) -> list[int]:
        """Rows that no node occupies."""
        return list(self._empty_rows)

    def otherwise_served(self, row: int, gpu: GpuRequest) -> bool:
        """Whether the row's devices go to pods that ask for them in the other way."""
        serves, make = int(self.serves[row]), self.makes[self.make[row]]
        if make != USUAL and not wants_those(make, gpu):
            return False
        if serves == Serves.ONE_AT_A_TIME:
            return bool((self.plugin_pods if gpu.chosen_by_us else self.chosen_pods)[row])
        return serves == (Serves.WHOLE if gpu.chosen_by_us else Serves.FRACTIONS)

    def room_for(self, row: int, shares: Iterable[DeviceShare]) -> bool:
        """Whether these shares are left of the row's devices.

        A sick device may have pods, who had it before, but no more than it would have room for.
        """
        return all(
            self._claimed_of(row, share.index) + share.milli <= DEVICE_MILLI
            if self.device_code[row, share.index] == DeviceCode.UNHEALTHY
            else not share_misfit(self, row, share)
            for share in shares
        )

    def _claimed_of(self, row: int, index: int) -> int:
        """Milli-GPU that pods claim of a device, sick or not."""
        claims = (share for p in self._pods_on[row].values() for share in p.devices)
        return sum(share.milli for share in claims if share.index == index)

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

    def pods_on(self, row: int) -> list[Placement]:
        """Placements on a row, sorted by pod key, then uid."""
        return sorted(self._pods_on[row].values(), key=lambda p: (p.pod.key, p.pod.uid))

    def changed_since(self, position: int) -> tuple[list[int] | None, int]:
        """Rows changed since a journal position, and the position now.

        Returns
        -------
        rows
            Changed rows in order, possibly repeated; None if the journal no longer reaches back
            and everything has to be taken as changed.
        position
            What to pass next time.
        """
        now = self._journal_base + len(self._journal)
        if position < self._journal_base:
            return None, now
        return self._journal[position - self._journal_base :], now

    def mig_types_of(self, row: int) -> tuple[MigType | None, ...]:
        """MIG type of each device of a row; None for devices that are not partitioned."""
        codes = self.device_code[row, : int(self.device_count[row])].tolist()
        return tuple(
            self.mig_types[code - DeviceCode.MIG] if code >= DeviceCode.MIG else None
            for code in codes
        )

    # -- nodes -----------------------------------------------------------------------------

    def add_node(self, node: Node) -> int:
        """Add a node, or update it if its name is known; returns its row."""
        self._writable()
        if node.name in self._row_of:
            self.update_node(node)
            return self._row_of[node.name]
        if self._empty_rows:
            row = self._empty_rows.pop()
        else:
            row = self._size
            self._grow(row + 1, len(node.devices))
            self._size += 1
            self._expose()
            self.nodes.append(None)
            self._pods_on.append()
        self._row_of[node.name] = row
        try:
            self._set_node(row, node)
        except BaseException:
            del self._row_of[node.name]
            self._empty_rows.append(row)
            raise
        return row

    def update_node(self, node: Node) -> None:
        """Replace a node's description; its pods stay and may now over-fill it."""
        self._writable()
        self._set_node(self.row(node.name), node)

    def remove_node(self, name: str) -> tuple[Placement, ...]:
        """Remove a node; returns the placements that went with it."""
        self._writable()
        row = self.row(name)
        gone = tuple(self.pods_on(row))
        for placement in gone:
            self._own_placements().pop(placement.pod.uid)
        self._pods_on.empty(row)
        del self._row_of[name]
        self.nodes[row] = None
        for column, _, empty, _ in COLUMNS:
            self._stored[column][row] = empty
        self.counted.describe(row, {})
        self._empty_rows.append(row)
        self.node_epoch += 1
        self._touch(row)
        return gone

    def _set_node(self, row: int, node: Node) -> None:
        self._grow(self._size, len(node.devices))
        before = {name: column[row].copy() for name, column in self._stored.items()}
        known, self.nodes[row] = self.nodes[row], node
        try:
            self._rewrite(row)
        except BaseException:  # what cannot be described does not change the row
            self.nodes[row] = known
            for name, values in before.items():
                self._stored[name][row] = values
            there = (placement.pod for placement in self._pods_on[row].values())
            self.counted.describe(row, offered_by(known) if known else {}, there)
            raise
        self.node_epoch += 1
        self._touch(row)

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

    def product_code(self, key: tuple[str, str]) -> int:
        """Code of a resource and a model, which gets one if it has none."""
        code = self._product_codes.get(key)
        if code is None:
            code = self._product_codes[key] = len(self.products)
            self.products.append(key)
        return code

    # -- deltas ----------------------------------------------------------------------------

    def apply(
        self, delta: Iterable[Placement | Release], *, enforce: bool = True, passed: bool = False
    ) -> None:
        """Apply placements and releases in order: all of them, or none.

        Parameters
        ----------
        delta
            Steps; a release frees room for a placement that follows it.
        enforce
            With False, placements are facts: they are recorded even where they over-fill a node,
            a device is claimed twice, or a device index does not exist.
        passed
            kube-scheduler has passed the nodes: only devices are enforced.

        Raises
        ------
        CapacityConflict
            A step does not fit, or places a pod that is placed already. Nothing was written.
        UnknownNode, UnknownPod
            A step names something the state does not hold. Nothing was written.
        """
        self._writable()
        done: list[tuple[Placement, int]] = []
        try:
            for step in delta:
                if isinstance(step, Placement):
                    self._admit(step, enforce=enforce, passed=passed)
                    done.append((step, 1))
                else:
                    done.append((self._held(step.uid), -1))
                self._book(*done[-1])
            rows: dict[int, bool] = {}
            for placement, _ in done:
                row = self._row_of[placement.node]
                rows[row] = rows.get(row, False) or bool(placement.devices)
            for row in sorted(rows):
                if rows[row]:
                    self._derive(row)
        except BaseException:  # whatever it is, half a delta must not stay
            self._take_back(done)
            raise
        for row in sorted(rows):
            self._touch(row)

    def _admit(self, placement: Placement, *, enforce: bool, passed: bool) -> None:
        row = self.row(placement.node)
        held = self._placements.get(placement.pod.uid)
        if held is not None:
            raise CapacityConflict(
                placement.node, placement.pod.key, f"it is already placed on {held.node}"
            )
        if enforce and (problem := misfit(self, row, placement, devices_only=passed)):
            raise CapacityConflict(placement.node, placement.pod.key, problem)

    def _held(self, uid: str) -> Placement:
        placement = self._placements.get(uid)
        if placement is None:
            raise UnknownPod(uid)
        return placement

    def _book(self, placement: Placement, sign: int) -> None:
        """Write (or with -1 erase) one placement without checking it."""
        row = self._row_of[placement.node]
        self._charge(row, placement, sign)
        self._list(row, placement, sign)

    def _list(self, row: int, placement: Placement, sign: int) -> None:
        uid = placement.pod.uid
        if sign > 0:
            self._own_placements()[uid] = placement
            self._pods_on.add(row, placement)
        else:
            self._own_placements().pop(uid, None)
            self._pods_on.remove(row, uid)

    def _own_placements(self) -> dict[str, Placement]:
        if self._placements_lent:
            self._placements, self._placements_lent = dict(self._placements), False
        return self._placements

    def _take_back(self, done: list[tuple[Placement, int]]) -> None:
        """Undo steps, the last of which may be half written: the placements decide."""
        rows = [self._row_of[placement.node] for placement, _ in done]
        for row, (placement, sign) in zip(reversed(rows), reversed(done), strict=True):
            self._list(row, placement, -sign)
        for row in set(rows):
            self._rewrite(row)

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

    # -- copies ----------------------------------------------------------------------------

    def snapshot(self) -> ClusterState:
        """A frozen copy of everything; writing to it raises :class:`FrozenState`."""
        copy = self.fork()
        copy._frozen = True
        for column in copy._stored.values():
            column.flags.writeable = False
        copy.counted.freeze()
        copy._expose()
        return copy

    def fork(self) -> ClusterState:
        """A mutable what-if copy that shares nothing mutable with this state."""
        copy = ClusterState.__new__(ClusterState)
        copy._frozen = False
        copy._size = self._size
        copy._stored = {name: column.copy() for name, column in self._stored.items()}
        copy.nodes = list(self.nodes)
        copy._row_of = dict(self._row_of)
        copy._placements = self._placements
        copy._placements_lent = self._placements_lent = True
        copy._pods_on = self._pods_on.copy()
        copy._empty_rows = list(self._empty_rows)
        copy._adopt_vocabulary(self)
        copy.counted = self.counted.copy()
        copy.generation_now = self.generation_now
        copy.node_epoch = self.node_epoch
        # Nobody has cached anything of the copy yet: it needs no history.
        copy._journal = []
        copy._journal_base = self._journal_base + len(self._journal)
        copy._expose()
        return copy

    def excerpt_without(self, row: int, uids: AbstractSet[str]) -> ClusterState:
        """A one-row state: this row as it would be without some of its pods.

        Codes of models and MIG types are the same as here.
        """
        excerpt = ClusterState()
        excerpt._adopt_vocabulary(self)
        node = self.node(row)
        excerpt._grow(1, self.gpu_free.shape[1])
        excerpt.add_node(node)
        others = (p for p in self._pods_on[row].values() if p.pod.uid not in uids)
        excerpt.apply(others, enforce=False)
        return excerpt

    def _adopt_vocabulary(self, other: ClusterState) -> None:
        self.products = list(other.products)
        self._product_codes = dict(other._product_codes)
        self.mig_types = list(other.mig_types)
        self.makes, self.odd_known = list(other.makes), other.odd_known
        self.device_memory_known = other.device_memory_known
        self.serves_known = other.serves_known
        self.counted = other.counted.emptied(len(self._stored["gpu_free"]))

    # -- the oracle ------------------------------------------------------------------------

    def recount(self) -> ClusterState:
        """The same cluster rebuilt from its nodes and placements alone, row for row."""
        rebuilt = ClusterState()
        rebuilt._grow(self._size, self.gpu_free.shape[1])
        rebuilt._adopt_vocabulary(self)
        rebuilt._size = self._size
        rebuilt.nodes = [None] * self._size
        rebuilt._pods_on = PodsByRow({} for _ in range(self._size))
        rebuilt._empty_rows = [row for row, node in enumerate(self.nodes) if node is None]
        rebuilt._expose()
        for row, node in enumerate(self.nodes):
            if node is not None:
                rebuilt._row_of[node.name] = row
                rebuilt._set_node(row, node)
        rebuilt.apply(self._placements.values(), enforce=False)
        return rebuilt

    def check(self) -> list[str]:
        """Differences between the columns and a recount; an empty list is good."""
        rebuilt = self.recount()
        return list(self._differences(rebuilt))

    def _differences(self, other: ClusterState) -> Iterator[str]:
        for column, _, _, _ in COLUMNS:
            if column == "generation":
                continue
            mine, theirs = getattr(self, column), getattr(other, column)
            for row in np.unique(np.argwhere(mine != theirs)[:, 0]).tolist():
                node = self.nodes[row]
                name = node.name if node else f"empty row {row}"
                yield f"{name}: {column} is {mine[row]}, a recount says {theirs[row]}"
        for row in np.flatnonzero(~self.counted.same_rows(other.counted, self._size)).tolist():
            yield f"row {row}: counted resources differ from a recount"
        for row, pods in enumerate(self._pods_on):
            if pods.keys() != other._pods_on[row].keys():
                yield f"row {row}: holds other pods than a recount"

    # -- storage ---------------------------------------------------------------------------

    def _writable(self) -> None:
        if self._frozen:
            raise FrozenState

    def _touch(self, row: int) -> None:
        self.generation_now += 1
        self.generation[row] = self.generation_now
        self._journal.append(row)
        if len(self._journal) > max(_JOURNAL_LIMIT, 4 * self._size):
            drop = len(self._journal) // 2
            del self._journal[:drop]
            self._journal_base += drop

    def _allocate(self, rows: int, devices: int) -> None:
        for name, dtype, empty, axes in COLUMNS:
            shape = ((rows,), (rows, devices), (rows, AFFINITY_KINDS))[axes]
            grown = np.full(shape, empty, dtype=dtype)
            old = self._stored.get(name)
            if old is not None:
                grown[tuple(slice(0, length) for length in old.shape)] = old
            self._stored[name] = grown
        self.counted.resize(rows)
        self._expose()

    def _grow(self, rows: int, devices: int) -> None:
        have_rows, have_devices = self._stored["gpu_free"].shape
        if rows > have_rows or devices > have_devices:
            # Doubling keeps a cluster that grows node by node linear in time.
            more = have_rows if rows <= have_rows else max(rows, 2 * have_rows)
            self._allocate(more, max(devices, have_devices))

    def _expose(self) -> None:
        """Publish the live part of the stored columns as attributes (views, not copies)."""
        for name, column in self._stored.items():
            setattr(self, name, column[: self._size])
