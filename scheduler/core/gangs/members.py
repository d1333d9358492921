"""Which members of each gang run, and which exist and wait.

A member exists once it is seen or asks, as long as somebody may ask about it: not while it has
scheduling gates or is being deleted, and only if its scheduler is one that asks us. One that nobody
has asked about for as long as a place was kept for it counts as absent until somebody does.

kube-scheduler asks about a member of a native pod group only once enough of them have no gates. If
some that are needed still have, as far as is known here, that is old news.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from scheduler.core.gangs.spec import GangSpec, minimum_of
from scheduler.core.model import GangKey, Placement, PodRequest

__all__ = ["Members"]

_NATIVE = "kubernetes"


_NONE: Counter[str] = Counter()


class Members:
    """Members by gang: no more of them than there are pods.

    Parameters
    ----------
    placements
        Pods that are placed already.
    """

    def __init__(self, placements: Iterable[Placement]) -> None:
        self._specs: dict[GangKey, GangSpec] = {}
        self._key_of: dict[str, GangKey] = {}
        self._known: Counter[GangKey] = Counter()
        self._stages: dict[GangKey, set[GangKey]] = {}  # by the gang with all of them
        self._running: dict[GangKey, set[str]] = {}
        self._waiting: dict[GangKey, dict[str, PodRequest]] = {}
        self._absent: dict[GangKey, set[str]] = {}
        self._gated: dict[GangKey, dict[str, PodRequest]] = {}
        self._leaving: set[str] = set()
        self._role_of: dict[str, str] = {}
        self._never_asked: set[str] = set()  # in the time that a place was kept
        self._asking: set[str] = set()
        self._unheard: dict[str, dict[str, PodRequest]] = {}  # by scheduler
        for placement in placements:
            if placement.pod.gang:
                self.runs(placement.pod.gang, placement.pod.uid, placement.pod.role)

    # -- what a gang needs -------------------------------------------------------------------

    def describe(self, spec: GangSpec) -> bool:
        """What is known about a gang from now on; True if that is news."""
        news = minimum_of(self._specs, spec.key) != spec.minimum
        self._specs[spec.key] = spec
        return news

    def specs(self, keys: Iterable[GangKey]) -> dict[GangKey, GangSpec]:
        """What is known about these gangs."""
        return {key: self._specs[key] for key in keys if key in self._specs}

    def gathered(self, request: PodRequest) -> bool:
        """Whether the pod is a member of a gang that starts together."""
        return request.gang is not None and self.minimum(request.gang) > 1

    def minimum(self, key: GangKey) -> int:
        """How many members must start together."""
        return minimum_of(self._specs, key)

    def missing(self, key: GangKey) -> int:
        """How many do not run that have to."""
        running = self._running.get(key, ())
        least = self._least(key)
        of_roles = sum((least - self._roles(running)).values()) if least else 0
        return max(0, of_roles, self.minimum(key) - len(running))

    def parted(
        self, key: GangKey, present: list[PodRequest]
    ) -> tuple[list[PodRequest], list[PodRequest]]:
        """Who of these has to start, as many of each role as that needs, and who may besides."""
        missing, least = self.missing(key), self._least(key)
        if not least:
            return present[:missing], present[missing:]
        open_roles = least - self._roles(self._running.get(key, ()))
        needed, others = list[PodRequest](), list[PodRequest]()
        for member in present:
            (needed if open_roles[member.role] > 0 else others).append(member)
            open_roles[member.role] -= 1
        more = max(0, missing - len(needed))
        return needed + others[:more], others[more:]

    def lacking_role(self, key: GangKey) -> str:
        """A role of which fewer exist than have to start, in words; empty if there is none."""
        least = self._least(key)
        if not least:
            return ""
        waiting = (member.uid for member in self.present(key))
        there = self._roles([*self._running.get(key, ()), *waiting])
        for role, number in least.items():
            if there[role] < number:
                return f"{there[role]} of {number} pods of role {role} exist"
        return ""

    def _least(self, key: GangKey) -> Counter[str]:
        """Members of each role that have to start; empty where any will do."""
        spec = self._specs.get(key)
        if spec is None or all(role.replicas == role.minimum for role in spec.roles):
            return _NONE  # as many as there are: nobody stands in for another
        stated = Counter({role.name: role.minimum for role in spec.roles if role.minimum})
        names = {role.name for role in spec.roles}
        members = [*self._running.get(key, ()), *self._waiting.get(key, ())]
        unclear = any(self._role_of.get(uid, "") not in names for uid in members)
        few = len(names) < 2 or sum(stated.values()) > spec.minimum
        return _NONE if few or unclear else stated

    def _roles(self, uids: Iterable[str]) -> Counter[str]:
        return Counter(self._role_of.get(uid, "") for uid in uids)

    # -- who there is ------------------------------------------------------------------------

    def gang_of(self, uid: str) -> GangKey | None:
        """The gang that a pod is known to be in."""
        return self._key_of.get(uid)

    def running(self, key: GangKey) -> frozenset[str]:
        """Uids of the gang's members that are placed for good and are there to stay."""
        return frozenset(self._running.get(key, ()))

    def partners(self, key: GangKey) -> frozenset[str]:
        """Uids of members that run and stop if one of them does, whatever stage they are of.

        Empty where each of them is by itself.
        """
        stages = self._stages.get(key.whole, set())
        if not any(stage.stage or self.minimum(stage) > 1 for stage in stages):
            return frozenset()
        return frozenset().union(*(self._running.get(stage, ()) for stage in stages))

    def present(self, key: GangKey) -> list[PodRequest]:
        """Members that exist and wait."""
        waiting, absent = self._waiting.get(key, {}), self._absent.get(key)
        if not absent:
            return list(waiting.values())
        return [request for uid, request in waiting.items() if uid not in absent]

    def existing(self, key: GangKey) -> int:
        """How many members there are, running and waiting."""
        waiting = len(self._waiting.get(key, ())) - len(self._absent.get(key, ()))
        return len(self._running.get(key, ())) + waiting

    def absent(self, key: GangKey) -> int:
        """How many are there that nobody asks about."""
        return len(self._absent.get(key, ()))

    def enough(self, key: GangKey) -> bool:
        """Whether as many exist as have to start together, of each role."""
        return self.existing(key) >= self.minimum(key) and not self.lacking_role(key)

    def unheard(self, uid: str) -> str:
        """The scheduler of a member that waits for one that has not asked us yet, or nothing."""
        return next((name for name, late in self._unheard.items() if uid in late), "")

    # -- what happens ------------------------------------------------------------------------

    def hears(self, scheduler: str) -> list[GangKey]:
        """A scheduler asks us; returns gangs of which more members exist by that."""
        self._asking.add(scheduler)
        late = self._unheard.pop(scheduler, {})
        for request in late.values():
            self._wait(self._key_of[request.uid], request)
        return list(dict.fromkeys(self._key_of[uid] for uid in late))

    def expect(self, key: GangKey, request: PodRequest, scheduler: str = "") -> None:
        """A member is seen to exist and wait, for this scheduler; any for an empty name."""
        uid = request.uid
        self._joins(key, uid)
        if uid in self._leaving or uid in self._running.get(key, ()):
            return
        known = uid in self._waiting.get(key, ())
        if scheduler and scheduler not in self._asking and not known:
            self._unheard.setdefault(scheduler, {})[uid] = request
        else:
            self._wait(key, request)

    def asks(self, key: GangKey, request: PodRequest) -> None:
        """A member is asked about: whatever was thought of it, it exists."""
        self.expect(key, request)
        self._is_there(key, request.uid)
        self._never_asked.discard(request.uid)

    def gates(self, key: GangKey, request: PodRequest) -> None:
        """A member is seen to have scheduling gates: nobody may ask about it yet."""
        uid = request.uid
        self._joins(key, uid)
        self._waits_no_more(key, uid)
        if uid not in self._leaving and uid not in self._running.get(key, ()):
            self._gated.setdefault(key, {})[uid] = request

    def ungate(self, key: GangKey) -> None:
        """Members of a native pod group are asked about: as many as it needs have no gates."""
        if key.system == _NATIVE:
            for uid, request in list(self._gated.get(key, {}).items()):
                if uid not in self._never_asked:
                    self._wait(key, request)

    def unasked(self, key: GangKey, uid: str) -> None:
        """Nobody has asked about a member for long: it is absent until somebody does."""
        if uid in self._waiting.get(key, ()):
            self._absent.setdefault(key, set()).add(uid)
            self._never_asked.add(uid)

    def runs(self, key: GangKey, uid: str, role: str = "") -> None:
        """A member is placed for good; one that is being deleted does not count."""
        self._joins(key, uid)
        self._waits_no_more(key, uid)
        self._role_of[uid] = role
        if uid not in self._leaving:
            self._running.setdefault(key, set()).add(uid)

    def runs_not(self, key: GangKey, uid: str) -> None:
        """A member was placed for good, and that came to nothing."""
        running = self._running.get(key)
        if running is not None:
            running.discard(uid)
            if not running:
                del self._running[key]

    def leaves(self, key: GangKey, uid: str) -> None:
        """A member is being deleted: it runs on for a while, and counts no more."""
        self._joins(key, uid)
        self._waits_no_more(key, uid)
        self.runs_not(key, uid)
        self._leaving.add(uid)

    def moves(self, key: GangKey | None, request: PodRequest) -> None:
        """A member is one of another gang than was known, or of none, and otherwise as it was."""
        uid = request.uid
        before, leaves = self._key_of.get(uid), uid in self._leaving
        runs = before in self._running and uid in self._running[before]
        scheduler = self.unheard(uid)
        self.gone(uid)
        if key is None:
            return
        if leaves:
            self.leaves(key, uid)
        elif runs:
            self.runs(key, uid, request.role)
        else:
            self.expect(key, request, scheduler)

    def gone(self, uid: str) -> GangKey | None:
        """A member has ended or was deleted; returns the gang that it was in."""
        key = self._key_of.pop(uid, None)
        if key is None:
            return None
        self._waits_no_more(key, uid)
        self.runs_not(key, uid)
        self._leaving.discard(uid)
        self._role_of.pop(uid, None)
        self._never_asked.discard(uid)
        self._known[key] -= 1
        if not self._known[key]:
            del self._known[key]
            self._specs.pop(key, None)
            self._stages[key.whole].discard(key)
            if not self._stages[key.whole]:
                del self._stages[key.whole]
        return key

    # -- inside ------------------------------------------------------------------------------

    def _joins(self, key: GangKey, uid: str) -> None:
        """The pod is a member of this gang, and of no other."""
        known = self._key_of.get(uid)
        if known == key:
            return
        if known is not None:
            self.gone(uid)
        self._key_of[uid] = key
        self._known[key] += 1
        self._stages.setdefault(key.whole, set()).add(key)

    def _wait(self, key: GangKey, request: PodRequest) -> None:
        self._forget_unheard(request.uid)
        self._ungated(key, request.uid)
        self._waiting.setdefault(key, {})[request.uid] = request
        self._role_of[request.uid] = request.role

    def _ungated(self, key: GangKey, uid: str) -> None:
        gated = self._gated.get(key)
        if gated is not None:
            gated.pop(uid, None)
            if not gated:
                del self._gated[key]

    def _waits_no_more(self, key: GangKey, uid: str) -> None:
        self._forget_unheard(uid)
        self._ungated(key, uid)
        self._is_there(key, uid)
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.pop(uid, None)
            if not waiting:
                del self._waiting[key]

    def _is_there(self, key: GangKey, uid: str) -> None:
        absent = self._absent.get(key)
        if absent is not None:
            absent.discard(uid)
            if not absent:
                del self._absent[key]

    def _forget_unheard(self, uid: str) -> None:
        for scheduler, late in list(self._unheard.items()):
            if late.pop(uid, None) is not None and not late:
                del self._unheard[scheduler]
