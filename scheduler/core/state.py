"""The cluster as columns: one writer, frozen snapshots, all-or-nothing deltas.

Row *r* of every column belongs to one node. A removed node leaves an empty row behind that never
fits anything and is used again by the next new node. Every change stamps the row with a new
generation and appends it to a journal, so that every cache per row can catch up at
a cost that follows what changed (:meth:`ClusterState.changed_since`).

The columns say what is left; the placements say which pods have the rest. Both are kept, and
:meth:`ClusterState.check` rebuilds the columns from the placements to compare.

A column cannot wrap: whatever a pod or a node states, it counts for 0 to 2^40 (bytes of memory: to
2^47), on withdrawal as on charge, and sums are 64 bits wide. A charge is computed before the first
number is written, and a delta that fails in any way leaves the rows as their placements alone say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from scheduler.core.audit import differences
from scheduler.core.columns import AFFINITY_KINDS, COLUMNS, DeviceCode, affinity_of
from scheduler.core.counted import offered_by
from scheduler.core.errors import CapacityConflict, FrozenState, UnknownNode, UnknownPod
from scheduler.core.journal import Journal
from scheduler.core.misfits import misfit, share_misfit
from scheduler.core.model import DEVICE_MILLI, DeviceShare, Node, Placement, Release
from scheduler.core.pods_by_row import PodsByRow
from scheduler.core.rows import Rows

__all__ = ["AFFINITY_KINDS", "ClusterState", "DeviceCode", "affinity_of"]

_MIN_ROWS = 16


class ClusterState(Rows):
    """Mutable state of the cluster. Its columns are those of :class:`.columns.Columns`.

    Attributes
    ----------
    row_of : mapping of str to int
        Row of each node by name.
    placements : mapping of str to Placement
        By pod uid.
    generation_now : int
        Stamp of the latest change.
    node_epoch : int
        Grows whenever a node is added, changed or removed (not by placements).
    """

    def __init__(self, nodes: Iterable[Node] = ()) -> None:
        listed = list(nodes)
        widest = max((len(node.devices) for node in listed), default=0)
        super().__init__(max(_MIN_ROWS, len(listed)), max(1, widest))
        self._frozen = False
        self._row_of: dict[str, int] = {}
        self._placements: dict[str, Placement] = {}
        self._placements_lent = False  # to a copy: to be copied before the next change
        self._empty_rows: list[int] = []
        self.generation_now = 0
        self.node_epoch = 0
        self._journal = Journal()
        for node in listed:
            self.add_node(node)

    # -- reading ---------------------------------------------------------------------------

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
        return self._journal.since(position), self._journal.position

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
        copy._journal = Journal(self._journal.position)
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
        return list(differences(self, self.recount()))

    # -- inside ----------------------------------------------------------------------------

    def _writable(self) -> None:
        if self._frozen:
            raise FrozenState

    def _touch(self, row: int) -> None:
        self.generation_now += 1
        self.generation[row] = self.generation_now
        self._journal.add(row, of=self._size)
