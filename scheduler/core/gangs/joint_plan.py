"""Plans of gangs: who needs a place, whether that can be at all, and where each one goes."""

from __future__ import annotations

from collections.abc import Iterator

from scheduler.core.capacity import TOO_LARGE, lacking, overmuch, reservable, room, shortage
from scheduler.core.engine import Engine
from scheduler.core.gangs.drafts import BEING_PLANNED, Draft, Offer, Wanted, places
from scheduler.core.gangs.future_members import allows, is_born, stand_ins
from scheduler.core.gangs.members import Members
from scheduler.core.gangs.places import Keeper
from scheduler.core.gangs.states import HOLDING, PLANNED, Event, Gang, Life, Question, Slot
from scheduler.core.gangs.transitions import Lives
from scheduler.core.model import GangKey, PodRequest, Reason
from scheduler.core.plural import plural

__all__ = ["Planning"]

_MOST_PLACES = 4096
_GLANCE = 16  # gangs beyond this are looked at as a whole before places are tried
_MOST_UNLIKE = 4  # shapes of one gang that are tried at once; each is scored afresh
_PIECE = 16  # places per step
_DRAFT_LASTS_S = 10.0


class Planning:
    """Makes plans.

    Parameters
    ----------
    engine, members, keeper, lives
        What there is.
    reserve_after_s
        How long a gang waits before it may keep the places that it can get, one gang at a time;
        0 never.
    at_once
        Places that may be planned while somebody waits; None for any number.
    unborn_share
        Share of the cluster that the gangs of one namespace may hold for members to come.
    """

    def __init__(
        self,
        engine: Engine,
        members: Members,
        keeper: Keeper,
        lives: Lives,
        *,
        reserve_after_s: float,
        at_once: int | None,
        unborn_share: float,
    ) -> None:
        self._engine, self._members = engine, members
        self._keeper, self._lives = keeper, lives
        self._reserve_after_s, self._at_once = reserve_after_s, at_once
        self._unborn_share = unborn_share
        self._draft: Draft | None = None
        self._serial = 0

    def plan(self, key: GangKey, offer: Offer) -> str:
        """Hold a place for every member that exists; returns why that is impossible, or nothing.

        The gang's record exists, and has no plan.
        """
        gang = self._lives.record(key)
        wanted = self._wanted(key, gang, offer)
        if isinstance(wanted, str):
            return wanted
        if self._too_many_at_once(wanted):
            return BEING_PLANNED
        for member, node in places(self._engine, wanted, offer):
            if self._keeper.hold(member, node, passed=offer.is_late(self._engine, node, member)):
                note(gang, member, node)
        return self._concluded(key, gang, wanted, offer.request)

    def _wanted(self, key: GangKey, gang: Gang, offer: Offer) -> Wanted | str:
        """Who needs a place, or why there is none for so many: all that is known without trying."""
        members, state, request = self._members, self._engine.state, offer.request
        missing, minimum = members.missing(key), members.minimum(key)
        if not members.enough(key):
            members.ungate(key)
        present = members.present(key)
        reserve = self._may_reserve(key, gang, request)
        question = (offer.question, tuple(member.uid for member in present), reserve)
        if gang.refused and gang.refused[:2] == (state.generation_now, question):
            return gang.refused[2]
        for member in present:  # who was held alone gets a place of its gang's instead
            if member.uid not in gang.slots and member.uid in self._engine.reservations:
                self._keeper.give_back((member.uid,))
        if missing > _MOST_PLACES:
            return self._refuse(key, question, f"{TOO_LARGE}: {_MOST_PLACES} members at most")
        present += self._unborn(key, gang, request, minimum - members.existing(key))
        if len(present) < missing:
            text = lacking(members.existing(key), minimum, members.absent(key))
            return self._refuse(key, question, text)
        if role := members.lacking_role(key):
            text = f"{Reason.GANG_DOES_NOT_FIT.text}: {role}"
            return self._refuse(key, question, text)
        present.sort(key=lambda member: (member.uid != request.uid, member.uid not in gang.slots))
        first, rest = members.parted(key, present[:_MOST_PLACES])
        wanted = Wanted(
            [member for member in first if member.uid not in gang.slots],
            [member for member in rest if member.uid not in gang.slots],
            question,
            missing,
            minimum,
            reserve,
        )
        over = "" if reserve else self._too_little(wanted, offer)
        if not over and missing > _GLANCE:
            over = overmuch(
                self._engine, [*first, request], missing, now_too=not reserve, late=offer.late
            )
        return self._refuse(key, question, over) if over else wanted

    def _too_little(self, wanted: Wanted, offer: Offer) -> str:
        """Why there is no room for members that are all alike; empty if they are not.

        No need to try what cannot be: trying makes every other shape catch up.
        """
        request = offer.request
        kind = (request.shape, request.selection)
        if any((member.shape, member.selection) != kind for member in wanted.needed):
            return ""
        needed = len(wanted.needed)
        if offer.alone and len(offer.late):
            found = room(self._engine, request, offer.known, needed)
            found += room(self._engine, request, offer.late, 1, late=offer.late)
        else:
            found = room(self._engine, request, offer.known, needed, late=offer.late)
        have = wanted.missing - needed
        return shortage(request, have + found, wanted.missing) if found < needed else ""

    def _unborn(
        self, key: GangKey, gang: Gang, request: PodRequest, short: int
    ) -> list[PodRequest]:
        """What stands for members that do not exist yet, as far as places are kept for such."""
        if not 0 < short <= _MOST_PLACES or not self._unborn_share:
            return []
        if self._lives.now < gang.unborn_after:
            return []
        held = (
            slot.shape
            for other, record in self._lives
            if other.namespace == key.namespace and other != key
            for slot in record.slots.values()
            if not slot.born
        )
        spec = self._members.specs([key])[key]
        to_come = stand_ins(spec, self._members.present(key), request, short, self._serial)
        if not allows(self._engine.state, self._unborn_share, held, to_come):
            return []
        self._serial += short
        return to_come

    def _concluded(self, key: GangKey, gang: Gang, wanted: Wanted, request: PodRequest) -> str:
        """What follows from the places that were found; returns what is missing, or nothing."""
        without = sum(member.uid not in gang.slots for member in wanted.needed)
        if not without:
            self._lives.move(key, Event.PLANNED)
            self._lives.begin(key)
            return ""
        found = wanted.missing - without
        text = shortage(request, found, wanted.missing)
        if not found or not wanted.reserve:
            return self._refuse(key, wanted.question, text)
        begins = gang.life is not Life.RESERVED
        self._lives.move(key, Event.KEPT)
        if begins:
            self._lives.begin(key)
        text += f"; reserved: {plural(found, 'place')}"
        # Releasing reservations has changed the state; what counts is that nothing else has.
        gang.refused = (self._engine.state.generation_now, wanted.question, text)
        return text

    def _refuse(self, key: GangKey, question: Question, text: str) -> str:
        """Hold nothing, and remember why as long as nothing changes."""
        gang = self._lives.record(key)
        if gang.waiting_since is None:
            gang.waiting_since = self._lives.now
        self._lives.move(key, Event.SHORT)
        gang.refused = (self._engine.state.generation_now, question, text)
        return text

    def _too_many_at_once(self, wanted: Wanted) -> bool:
        most, everybody = self._at_once, wanted.everybody
        if most is None:
            return False
        return len(everybody) > most or len({m.shape for m in everybody}) > _MOST_UNLIKE

    def _may_reserve(self, key: GangKey, gang: Gang, request: PodRequest) -> bool:
        """Whether this gang has waited long enough, is the only one, and could ever fit."""
        if gang.life is Life.RESERVED:
            return True
        since, after_s = gang.waiting_since, self._reserve_after_s
        if not after_s or since is None or self._lives.now - since < after_s:
            return False
        if any(other.life is Life.RESERVED for _, other in self._lives):
            return False
        return reservable(self._engine.state, request.shape) >= self._members.missing(key)

    # -- large gangs -------------------------------------------------------------------------

    def draft(self, key: GangKey, offer: Offer) -> Draft | None:
        """A plan to be made outside of the lock; None if none is needed, or another is being made.

        The gang's record exists, and has no plan.
        """
        gang, open_draft = self._lives.record(key), self._draft
        if open_draft is not None and not open_draft.done:
            if open_draft.taken or (
                open_draft.key != key and open_draft.touched + _DRAFT_LASTS_S > self._lives.now
            ):
                return None
            if open_draft.key == key and open_draft.wanted.minimum == self._members.minimum(key):
                open_draft.taken = True
                return open_draft
        wanted = self._wanted(key, gang, offer)
        if isinstance(wanted, str) or not self._too_many_at_once(wanted):
            return None
        self._draft = Draft(self._engine.twin(), key, wanted, offer, list(gang.slots))
        self._draft.taken = True
        return self._draft

    def put_down(self, draft: Draft, now: float, *, for_good: bool = False) -> None:
        """Whoever was at the draft has no more time for it, or it came to nothing."""
        draft.taken, draft.touched = False, now
        if for_good and self._draft is draft:
            self._draft = None

    def take_over(self, draft: Draft, now: float) -> Iterator[None]:
        """Hold the places of a finished draft, all or none, some per step."""
        gang, held = self._lives.get(draft.key), list[tuple[PodRequest, str]]()
        try:
            fits = True
            for member, node in draft.places:
                late = draft.offer.is_late(self._engine, node, member)
                if not self._keeper.hold(member, node, passed=late):
                    fits = False
                    break
                held.append((member, node))
                if len(held) % _PIECE == 0:
                    yield
            self.put_down(draft, now, for_good=True)
            if gang is not None and self._lives.get(draft.key) is gang:
                self._take(draft, gang, held if fits else [])
        finally:
            known = self._lives.get(draft.key)
            kept = known.slots if known is not None and known.life in HOLDING else {}
            self._keeper.give_back(member.uid for member, _ in held if member.uid not in kept)

    def _take(self, draft: Draft, gang: Gang, held: list[tuple[PodRequest, str]]) -> None:
        """The gang takes these places, unless it is another by now, or has a plan."""
        key, wanted = draft.key, draft.wanted
        if gang.life in PLANNED or wanted.minimum != self._members.minimum(key):
            return
        if tuple(gang.slots) != draft.kept or not held:
            self._lives.move(key, Event.LOST)  # planned anew by whoever asks next
            return
        reserved = self._engine.reservations
        waiting = {member.uid for member in self._members.present(key)}
        for member, node in held:
            if member.uid in reserved and (member.uid in waiting or not is_born(member)):
                note(gang, member, node)
        self._concluded(key, gang, wanted, draft.offer.request)


def note(gang: Gang, member: PodRequest, node: str) -> None:
    """A place of the gang's is held for this member."""
    born = is_born(member)
    gang.slots[member.uid] = Slot(node, member.shape, member.selection, born=born)
