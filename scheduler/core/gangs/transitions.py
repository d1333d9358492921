"""Gangs as they live: what moves them from state to state, and what ends by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator

from scheduler.core.gangs.members import Members
from scheduler.core.gangs.places import Keeper
from scheduler.core.gangs.states import HOLDING, LIFE, PLANNED, Event, Gang, Life
from scheduler.core.model import GangKey

__all__ = ["Lives"]

_MOST_GANGS = 10_000
_TERMS = 5  # a gang keeps its places for so many time limits at most, unless a member is bound


class Lives:
    """Records of gangs that have members who wait.

    Parameters
    ----------
    members
        Who there is.
    keeper
        Holds their places.
    ttl_s
        How long places are held without being asked for.

    Attributes
    ----------
    now
        The latest time heard of.
    """

    def __init__(self, members: Members, keeper: Keeper, ttl_s: float) -> None:
        self._members, self._keeper, self._ttl_s = members, keeper, ttl_s
        self._gangs: dict[GangKey, Gang] = {}
        self._timed: dict[GangKey, None] = {}  # gangs of which something ends by itself
        self._due = math.inf
        self.now = -math.inf

    def __iter__(self) -> Iterator[tuple[GangKey, Gang]]:
        return iter(self._gangs.items())

    def get(self, key: GangKey | None) -> Gang | None:
        """The gang's record, if there is one."""
        return self._gangs.get(key) if key is not None else None

    def record(self, key: GangKey) -> Gang:
        """The gang's record, made if there is none."""
        if key not in self._gangs and len(self._gangs) >= _MOST_GANGS:
            oldest = next((k for k in self._gangs if k not in self._timed), None)
            if oldest is not None:  # without places it is as new when it asks again
                del self._gangs[oldest]
        return self._gangs.setdefault(key, Gang())

    def state(self, key: GangKey) -> Life:
        """The gang's state."""
        gang = self._gangs.get(key)
        if gang is not None:
            return gang.life
        whole = self._members.running(key) and not self._members.missing(key)
        return Life.WHOLE if whole else Life.UNKNOWN

    # -- what happens ------------------------------------------------------------------------

    def move(self, key: GangKey, event: Event) -> None:
        """Change the gang's state, and give back what is not held in the new one."""
        gang = self._gangs[key]
        gang.life = LIFE[gang.life, event]
        if gang.life not in HOLDING:
            self._keeper.give_back(gang.slots)
        if gang.life not in HOLDING and gang.life is not Life.RESTING:
            gang.slots, gang.told = {}, {}
        if gang.life in PLANNED:
            gang.waiting_since = gang.refused = None
        if event in (Event.FULL, Event.EMPTY):
            del self._gangs[key]

    def begin(self, key: GangKey) -> None:
        """A reservation begins."""
        gang = self._gangs[key]
        gang.ask_by = gang.until = self.now + self._ttl_s
        gang.ends = self.now + _TERMS * self._ttl_s
        for slot in gang.slots.values():
            slot.asked = False
        self._timed[key] = None
        self._due = min(self._due, gang.ask_by)

    def asked_for(self, gang: Gang, uid: str) -> None:
        """Somebody asks about a member: all of the gang's places are held for longer."""
        if uid in gang.slots:
            gang.slots[uid].asked = True
        gang.until = self.now + self._ttl_s

    def used(self, key: GangKey, uid: str) -> None:
        """A member was bound: its place is used up, and the others have as long as at first."""
        gang = self._gangs.get(key)
        if gang is None:
            return
        if gang.slots.pop(uid, None) is not None:
            self._keeper.give_back((uid,))  # it was bound elsewhere than planned
            gang.ends = self.now + _TERMS * self._ttl_s
            if gang.life is Life.RESTING:
                self._rouse(key, gang)
        self.look(key)

    def _rouse(self, key: GangKey, gang: Gang) -> None:
        """A gang at rest gets on: its other members have to have their places now."""
        waiting = {member.uid: member for member in self._members.present(key)}
        if self._keeper.take(gang.slots, waiting):
            self.move(key, Event.PLANNED)
            self.begin(key)
        else:
            self.move(key, Event.LOST)

    def left(self, key: GangKey, uid: str) -> None:
        """A member waits no more, and was not bound."""
        gang = self._gangs.get(key)
        if gang is None:
            return
        if gang.slots.pop(uid, None) is not None:
            self._keeper.give_back((uid,))
        self.look(key)

    def look(self, key: GangKey) -> None:
        """What follows from a change of the members, or of how many there have to be."""
        gang = self._gangs.get(key)
        if gang is None:
            return
        missing = self._members.missing(key)
        if not missing or self._members.minimum(key) == 1:
            self.move(key, Event.FULL)
        elif not self._members.present(key):
            self.move(key, Event.EMPTY)
        elif (
            gang.life in PLANNED and (len(gang.slots) < missing or self._members.lacking_role(key))
        ) or (gang.life is Life.RESERVED and not self._members.enough(key)):
            self.move(key, Event.LOST)

    # -- time --------------------------------------------------------------------------------

    def ends(self) -> float:
        """A time before which :meth:`tend` ends nothing; ``inf`` if nothing ends by itself."""
        return self._due

    def tend(self, now: float) -> None:
        """End what is over by now. Costs next to nothing where nothing is."""
        self.now = max(self.now, now)
        self._keeper.tend()
        if now < self._due:
            return
        for key in list(self._timed):
            gang = self._gangs.get(key)
            if gang is not None and gang.due(self._ttl_s) <= now:
                self._end(key, gang, now)
        self._due = math.inf
        for key in list(self._timed):
            gang = self._gangs.get(key)
            due = gang.due(self._ttl_s) if gang is not None else math.inf
            if due == math.inf:
                del self._timed[key]
            self._due = min(self._due, due)

    def _end(self, key: GangKey, gang: Gang, now: float) -> None:
        if gang.life is Life.RESTING:
            self.move(key, Event.LOST)  # nobody has come for the plan
            return
        if gang.ask_by <= now:
            self._end_unasked(key, gang, now)
        if gang.life not in HOLDING or now < min(gang.until, gang.ends):
            return
        if gang.life is Life.RESERVED:
            gang.waiting_since = now  # it waits for its turn again
            self.move(key, Event.ENDED)
        else:
            self.move(key, Event.ENDED if now < gang.until else Event.LOST)
            gang.rests_until = now + self._ttl_s

    def _end_unasked(self, key: GangKey, gang: Gang, now: float) -> None:
        """Members that nobody has asked about count as absent, and lose their places."""
        gang.ask_by, reserved = math.inf, gang.life is Life.RESERVED
        unasked = [uid for uid, slot in gang.slots.items() if not slot.asked]
        for uid in unasked:
            if gang.slots.pop(uid).born:
                self._members.unasked(key, uid)
            else:
                gang.unborn_after = now + _TERMS * self._ttl_s
        self._keeper.give_back(unasked)
        if not self._members.enough(key) or (
            gang.life is Life.HOLDING and len(gang.slots) < self._members.missing(key)
        ):
            if reserved:
                gang.waiting_since = now  # it waits for its turn again
            self.move(key, Event.SHORT)
