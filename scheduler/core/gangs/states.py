"""The life of a gang, as one table.

::

              short                 kept
   unknown ----------> refused <==========> partly reserved
      |  ^                |       short,          |
      |  | lost           |       ended, lost     |
      |  |                | planned               | planned
      |  +------------+   v                       |
      +--------> planned and holding <------------+
        planned     |         ^
                    | ended   | planned
                    v         |
               planned and resting

   full: from everywhere to whole; empty: from everywhere to unknown; lost: from whole to unknown

Places are held in two states only: by a gang that has all that it has to have, and by one that has
waited so long that it may keep what there is. Both end by themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum, unique

from scheduler.core.model import NodeSelection, Shape

__all__ = ["HOLDING", "LIFE", "PLANNED", "Event", "Gang", "Life", "Question", "Slot"]

Question = tuple[bytes, tuple[str, ...], bool]
"""What was offered, who exists, and whether what can be had may be kept."""


@unique
class Life(Enum):
    """States of a gang."""

    UNKNOWN = "unknown"
    REFUSED = "refused"
    RESERVED = "partly reserved"
    HOLDING = "planned and holding"
    RESTING = "planned and resting"
    WHOLE = "whole"


@unique
class Event(Enum):
    """What happens to it."""

    PLANNED = "as many have a place as have to start together"
    SHORT = "pods, or places for them, are missing"
    KEPT = "places are missing; it keeps those that there are"
    ENDED = "the time of what it holds is over"
    LOST = "a place, a member or what is known of it has gone or changed"
    FULL = "as many run as have to"
    EMPTY = "nobody waits any more"


LIFE: dict[tuple[Life, Event], Life] = {
    (Life.UNKNOWN, Event.PLANNED): Life.HOLDING,
    (Life.UNKNOWN, Event.SHORT): Life.REFUSED,
    (Life.UNKNOWN, Event.KEPT): Life.RESERVED,
    (Life.UNKNOWN, Event.LOST): Life.UNKNOWN,
    (Life.UNKNOWN, Event.FULL): Life.WHOLE,
    (Life.UNKNOWN, Event.EMPTY): Life.UNKNOWN,
    (Life.REFUSED, Event.PLANNED): Life.HOLDING,
    (Life.REFUSED, Event.SHORT): Life.REFUSED,
    (Life.REFUSED, Event.KEPT): Life.RESERVED,
    (Life.REFUSED, Event.LOST): Life.REFUSED,
    (Life.REFUSED, Event.FULL): Life.WHOLE,
    (Life.REFUSED, Event.EMPTY): Life.UNKNOWN,
    (Life.RESERVED, Event.PLANNED): Life.HOLDING,
    (Life.RESERVED, Event.SHORT): Life.REFUSED,
    (Life.RESERVED, Event.KEPT): Life.RESERVED,
    (Life.RESERVED, Event.ENDED): Life.REFUSED,
    (Life.RESERVED, Event.LOST): Life.REFUSED,
    (Life.RESERVED, Event.FULL): Life.WHOLE,
    (Life.RESERVED, Event.EMPTY): Life.UNKNOWN,
    (Life.HOLDING, Event.SHORT): Life.REFUSED,
    (Life.HOLDING, Event.ENDED): Life.RESTING,
    (Life.HOLDING, Event.LOST): Life.UNKNOWN,
    (Life.HOLDING, Event.FULL): Life.WHOLE,
    (Life.HOLDING, Event.EMPTY): Life.UNKNOWN,
    (Life.RESTING, Event.PLANNED): Life.HOLDING,
    (Life.RESTING, Event.SHORT): Life.REFUSED,
    (Life.RESTING, Event.LOST): Life.UNKNOWN,
    (Life.RESTING, Event.FULL): Life.WHOLE,
    (Life.RESTING, Event.EMPTY): Life.UNKNOWN,
    (Life.WHOLE, Event.LOST): Life.UNKNOWN,
}
"""What follows from what; anything else is a fault of ours."""

HOLDING = frozenset({Life.HOLDING, Life.RESERVED})
"""States in which places are held."""

PLANNED = frozenset({Life.HOLDING, Life.RESTING})
"""States in which every member that has to start has a place."""


@dataclass(slots=True)
class Slot:
    """A place of one member.

    Attributes
    ----------
    asked
        Whether somebody has asked about the member since.
    born
        Whether it exists.
    """

    node: str
    shape: Shape
    selection: NodeSelection
    asked: bool = False
    born: bool = True


@dataclass(slots=True)
class Gang:
    """What is remembered of a gang that has members who wait, until it is whole.

    Attributes
    ----------
    life
        Its state; see :data:`LIFE`.
    slots
        Places by what holds them: a member, by uid, or what stands for one that does not exist yet.
    told
        Nodes that were told, by what was offered, and by member.
    refused
        Why it was, and in what state of things.
    waiting_since
        When it was refused first.
    ask_by
        When members that nobody has asked about lose their places.
    until
        When what it holds ends if nobody asks; later with every question.
    ends
        When it ends whoever asks.
    rests_until
        When it may hold its places again.
    unborn_after
        When places may be kept again for members that do not exist.
    doubted_since
        When a member could not be bound first, because by our state the others have no room.
    doubtful
        Whether that has lasted too long: what kube-scheduler says of one member counts for that
        one only, until a member may be bound.
    """

    life: Life = Life.UNKNOWN
    slots: dict[str, Slot] = field(default_factory=dict)
    told: dict[bytes, dict[str, str]] = field(default_factory=dict)
    refused: tuple[int, Question, str] | None = None
    waiting_since: float | None = None
    ask_by: float = math.inf
    until: float = math.inf
    ends: float = math.inf
    rests_until: float = 0.0
    unborn_after: float = 0.0
    doubted_since: float | None = None
    doubtful: bool = False

    def due(self, rest_s: float) -> float:
        """When something ends of what it holds, or of a plan that nobody asks for."""
        if self.life in HOLDING:
            return min(self.ask_by, self.until, self.ends)
        return self.rests_until + rest_s if self.life is Life.RESTING else math.inf
