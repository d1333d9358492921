"""Places of gangs, held in the engine: taken, moved to where they are offered, given back.

A member's place is a hold of the member itself. So it never counts against the member, becomes its
placement when it is bound, and ends with it; nothing that stands for it can outlive it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from scheduler.core.engine import Engine
from scheduler.core.errors import CapacityConflict, UnknownNode
from scheduler.core.gangs.drafts import Offer
from scheduler.core.gangs.states import Gang, Slot
from scheduler.core.model import PodRequest

__all__ = ["Keeper"]

_MOST_OFFERS = 64
_MANY = 4  # times as many places as are planned at once are too many to move for one answer


class Keeper:
    """Holds places through an engine.

    Parameters
    ----------
    engine
        Holds are placed through it.
    at_once
        Places that may be planned while somebody waits; None for any number.
    """

    def __init__(self, engine: Engine, at_once: int | None) -> None:
        self._engine = engine
        self._most = _MANY * at_once if at_once is not None else None
        self._ending: dict[str, None] = {}

    def hold(self, request: PodRequest, node: str, *, passed: bool = False) -> bool:
        """Hold a place for a pod, instead of one that it has; False where there is none.

        Where there is none, it keeps what it has. Where the node was passed by kube-scheduler, what
        that counts is no reason unless it is reserved for others.
        """
        held = self._engine.reservations.get(request.uid)
        if held is not None and held.placement.pod.shape != request.shape:
            self._engine.reservations.drop(request.uid)
        try:
            self._engine.reserve_until(request, node, math.inf, passed=passed)
        except (CapacityConflict, UnknownNode):
            return False
        self._ending.pop(request.uid, None)
        return True

    def give_back(self, uids: Iterable[str]) -> None:
        """Of very many places some at once, the others one after another; see :meth:`tend`."""
        held = [uid for uid in uids if uid in self._engine.reservations]
        at_once = len(held) if self._most is None else self._most
        for uid in held[:at_once]:
            self._engine.reservations.drop(uid)
        for uid in held[at_once:]:
            self._engine.reservations.end(uid)
            self._ending[uid] = None

    def tend(self) -> None:
        """Give back some of those that are left over."""
        for uid in list(self._ending)[: self._most]:
            del self._ending[uid]
            held = self._engine.reservations.get(uid)
            if held is not None and held.until == -math.inf:  # else it is held anew
                self._engine.reservations.drop(uid)

    def ending(self, uid: str) -> bool:
        """Whether the pod's place is being given back."""
        return uid in self._ending

    def many(self, slots: Mapping[str, Slot]) -> bool:
        """Whether there are too many places to move all of them for one answer."""
        return self._most is not None and len(slots) > self._most

    def kept(self, slots: Mapping[str, Slot]) -> bool:
        """Whether all of these places are still held."""
        reserved, nodes = self._engine.reservations, self._engine.state.row_of
        return all(uid in reserved and slot.node in nodes for uid, slot in slots.items())

    def take(
        self,
        slots: Mapping[str, Slot],
        members: Mapping[str, PodRequest],
        offer: Offer | None = None,
    ) -> bool:
        """Hold all of these places, or none; as an answer to an offer, if there is one."""
        if self.many(slots):
            return False
        for uid, slot in slots.items():
            member = members.get(uid)
            if (
                member is None
                or member.shape != slot.shape
                or not self._hold_for(offer, member, slot.node)
            ):
                self.give_back(slots)
                return False
        return True

    def _hold_for(self, offer: Offer | None, member: PodRequest, node: str) -> bool:
        late = offer is not None and offer.is_late(self._engine, node, member)
        return self.hold(member, node, passed=late)

    def settle(self, gang: Gang, offer: Offer) -> None:
        """Move a member's place to a node that was offered, to the same one for the same offer."""
        state, request, rows = self._engine.state, offer.request, offer.rows
        slot = gang.slots[request.uid]
        told = gang.told.setdefault(offer.name, {})
        if any(told.get(uid, at.node) != at.node for uid, at in gang.slots.items()):
            self._return_to(gang, told, offer)
        if state.row(slot.node) not in rows:
            self._exchange(gang, offer)
        if state.row(slot.node) not in rows:
            node = offer.best(self._engine, request)
            if not node or not self._hold_for(offer, request, node):
                return  # it stays where it is; nothing that was offered has room
            slot.node = node
        told[request.uid] = slot.node
        if len(gang.told) > _MOST_OFFERS:
            del gang.told[next(iter(gang.told))]

    def _exchange(self, gang: Gang, offer: Offer) -> None:
        """Change places with a member that asks for the same and has not been asked about."""
        state, request, rows = self._engine.state, offer.request, offer.rows
        mine = gang.slots[request.uid]
        for uid, slot in gang.slots.items():
            if (
                not slot.asked
                and (slot.shape, slot.selection) == (request.shape, request.selection)
                and state.row(slot.node) in rows
            ):
                other = self._engine.reservations[uid].placement.pod
                self.give_back((uid, request.uid))
                mine.node, slot.node = slot.node, mine.node
                # Nothing else has changed: both fit, by whatever they fitted before.
                self.hold(request, mine.node, passed=True)
                self.hold(other, slot.node, passed=True)
                return

    def _return_to(self, gang: Gang, told: dict[str, str], offer: Offer) -> None:
        """Have members where they were told to go for this offer, the others out of the way.

        Should that be impossible by now, all stay where they are and may be told something else.
        """
        if self.many(gang.slots):
            told.clear()
            return
        before = {uid: slot.node for uid, slot in gang.slots.items()}
        members = {uid: self._engine.reservations[uid].placement.pod for uid in gang.slots}
        self.give_back(gang.slots)
        for uid in sorted(gang.slots, key=lambda uid: uid not in told):
            slot, member = gang.slots[uid], members[uid]
            wanted = told.get(uid, slot.node)
            late = wanted == slot.node or offer.is_late(self._engine, wanted, member)
            if self.hold(member, wanted, passed=late):
                slot.node = wanted
                continue
            node = "" if uid in told else offer.best(self._engine, member)
            if not node or not self._hold_for(offer, member, node):
                break
            slot.node = node
        else:
            return
        told.clear()
        self.give_back(gang.slots)
        for uid, node_name in before.items():
            gang.slots[uid].node = node_name
            # Nothing else has changed: it fits, by whatever it fitted before.
            self.hold(members[uid], node_name, passed=True)
