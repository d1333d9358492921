"""What each gang needs, from everything that says so: workload objects, group objects and pods."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import msgspec

from scheduler.core.errors import InvalidInput
from scheduler.core.gangs.spec import GangSpec, Role
from scheduler.core.model import GangKey, PodRequest
from scheduler.kube.gang_membership import GangRef, gang_refs, shared_key
from scheduler.kube.objects import PodObject, pod_decoder
from scheduler.kube.workloads import Part, Stated

__all__ = ["Groups"]

log = logging.getLogger(__name__)

_OTHERWISE = {"jobset": "trainjob"}
"""Whose object speaks for a system's where that is not known."""


@dataclass(frozen=True, slots=True)
class _Member:
    """A pod as far as its gang goes."""

    refs: tuple[GangRef, ...]
    names: tuple[str, ...]
    gated: bool = False
    done: bool = False


class Groups:
    """Gangs by what is known of them, kept up to date object by object.

    A group object's statement wins; without one that of the workload's roles, or the largest that
    a member states. Members that disagree are one gang all the same, and are named. Where roles
    start in turn, each stage is a gang. Terminating pods are not members; one that has succeeded
    needs no place any more.

    Parameters
    ----------
    count_members
        Take a gang of which nobody states the size to be as large as there are members, where all
        of them are listed. Otherwise each of its members counts alone.
    asked_by
        What a pod asks for; with it the roles of a gang say what members to come will ask for.

    Attributes
    ----------
    version : int
        Changes with everything that objects state: what was read of pods before may be wrong.
    """

    def __init__(
        self,
        *,
        count_members: bool = False,
        asked_by: Callable[[PodObject], PodRequest] | None = None,
    ) -> None:
        self.version = 0
        self._count_members, self._asked_by = count_members, asked_by
        self._stated: dict[GangKey, Stated] = {}
        self._said: dict[GangKey, Stated] = {}
        self._members: dict[str, _Member] = {}
        self._named: dict[GangKey, set[str]] = {}
        self._in: dict[str, tuple[GangKey, str]] = {}
        self._gangs: dict[GangKey, _Gang] = {}
        self._told: set[GangKey] = set()

    # -- pods --------------------------------------------------------------------------------

    def place(self, pod: PodObject) -> tuple[GangKey | None, str]:
        """The gang and the role of a pod, whether it is known or not."""
        member = _member(pod)
        return self._place(member) if member is not None else (None, "")

    def join(self, pod: PodObject, uid: str) -> GangKey | None:
        """A pod exists; it is a member of whatever it names now, and of nothing else."""
        member = _member(pod)
        if member is not None and member == self._members.get(uid):
            return self._in[uid][0]
        self.leave(uid)
        if member is None:
            return None
        self._members[uid] = member
        for ref in member.refs:
            self._named.setdefault(shared_key(ref.key), set()).add(uid)
        return self._enter(uid, member)

    def gang_of(self, uid: str) -> GangKey | None:
        """The gang that a pod is in."""
        return self._in.get(uid, (None, ""))[0]

    def leave(self, uid: str) -> GangKey | None:
        """A pod does not exist any more; returns the gang that it was in."""
        member = self._members.pop(uid, None)
        if member is None:
            return None
        for ref in member.refs:
            named = self._named[shared_key(ref.key)]
            named.discard(uid)
            if not named:
                del self._named[shared_key(ref.key)]
        return self._exit(uid, member)

    # -- objects -----------------------------------------------------------------------------

    def state(self, stated: Mapping[GangKey, Stated]) -> list[GangKey]:
        """Objects state this; returns the keys of which that is news."""
        news = [key for key, one in stated.items() if self._said.get(key) != one]
        self._said.update(stated)
        self.version += bool(news)
        for key in news:
            parts = tuple(self._with_like(part, key.namespace) for part in stated[key].parts)
            self._stated[key] = replace(stated[key], parts=parts)
        return news

    def unstate(self, keys: Iterable[GangKey]) -> list[GangKey]:
        """Objects are gone: nobody states this any more; returns the keys that were known."""
        known = [key for key in keys if self._said.pop(key, None) is not None]
        self.version += bool(known)
        for key in known:
            del self._stated[key]
        return known

    def anew(self, stated: GangKey) -> dict[str, tuple[GangKey, str]]:
        """Work out again which pods are in which gang, once an object has changed what it states.

        Returns
        -------
        dict of str to (GangKey, str)
            By uid, gang and role of every member that the object speaks for.
        """
        system = next((s for s, other in _OTHERWISE.items() if other == stated.system), None)
        named = self._named.get(replace(stated, system=system) if system else stated, set())
        found = {}
        for uid in sorted(named):
            member = self._members[uid]
            if self._place(member) != self._in[uid]:
                self._exit(uid, member)
                self._enter(uid, member)
            found[uid] = self._in[uid]
        return found

    # -- gangs -------------------------------------------------------------------------------

    def spec(self, key: GangKey, stated: int = 0) -> GangSpec:
        """What is known of a gang.

        Parameters
        ----------
        key
            The gang, whether it has members or not.
        stated
            What one more member states that is not known yet.
        """
        gang = self._gangs.get(key, _NOBODY)
        explicit, parts = self._statement(key, gang.refs)
        if explicit and not key.stage:
            explicit = min(explicit, _largest_stage(parts) or explicit)
        parts = tuple(part for part in parts if part.stage == key.stage)
        roles = tuple(_left(part, gang.done[part.role.name]) for part in parts)
        of_roles = sum(role.minimum for role in roles)
        size = explicit or of_roles or max([*gang.sizes, stated])
        if not size and self._count_members:
            size = gang.sizes.total()
        if explicit or not of_roles:
            size = _possible(size, parts, gang)
        return GangSpec(key, max(1, size), roles, gang.gated)

    def specs(self, elsewhere: Iterable[str] = ()) -> dict[GangKey, GangSpec]:
        """All gangs that have members.

        Parameters
        ----------
        elsewhere
            Uids of pods that run on nodes that nobody knows: they are needed by nobody else.
        """
        found = {key: self.spec(key) for key in self._gangs}
        for key, role in (self._in[uid] for uid in elsewhere if uid in self._in):
            spec = found[key]
            roles = tuple(
                replace(one, minimum=max(0, one.minimum - (one.name == role))) for one in spec.roles
            )
            found[key] = replace(spec, minimum=max(1, spec.minimum - 1), roles=roles)
        return found

    def partners(self, uids: Iterable[str]) -> set[str]:
        """Uids of all who stop if one of these pods does, these included if they are members."""
        stopped = {self._in[uid][0].whole for uid in uids if uid in self._in}
        joint = {key.whole for key in self._gangs if key.whole in stopped and self.spec(key).joint}
        return {uid for uid, (key, _) in self._in.items() if joint and key.whole in joint}

    # -- inside ------------------------------------------------------------------------------

    def _place(self, member: _Member) -> tuple[GangKey, str]:
        key = member.refs[0].key
        for ref in member.refs:
            stated = self._of(ref.key)
            part = _part(stated.parts, ref, member.names) if stated else None
            if part is not None:
                return replace(key, stage=part.stage), part.role.name
        return key, member.refs[0].role

    def _with_like(self, part: Part, namespace: str) -> Part:
        """The part with what its template asks for; the pods of one that cannot be read say why."""
        if self._asked_by is None or part.template is None:
            return part
        try:
            pod = pod_decoder.decode(msgspec.json.encode(part.template))
            pod.metadata.name = pod.metadata.name or part.role.name or "member"
            pod.metadata.namespace = namespace
            like = self._asked_by(pod)
        except (msgspec.ValidationError, InvalidInput):
            return part
        return replace(part, role=replace(part.role, like=replace(like, gang=None)))

    def _of(self, key: GangKey) -> Stated | None:
        """What is stated about a gang by the object of its system."""
        whole = key.whole
        for found in (whole, shared_key(whole)):
            if found in self._stated:
                return self._stated[found]
        system = _OTHERWISE.get(key.system)
        return self._stated.get(replace(whole, system=system)) if system else None

    def _statement(self, key: GangKey, refs: Iterable[GangKey]) -> tuple[int, tuple[Part, ...]]:
        """How many must start together of all, and the roles; both as far as anybody says."""
        explicit, parts = 0, tuple[Part, ...]()
        for ref in (key, *refs):
            stated = self._of(ref)
            if stated is not None:
                explicit = explicit or stated.minimum
                parts = parts or stated.parts
        return explicit, parts

    def _enter(self, uid: str, member: _Member) -> GangKey:
        key, role = self._in[uid] = self._place(member)
        gang = self._gangs.setdefault(key, _Gang())
        gang.count(member, role, 1)
        stated = sorted(size for size in gang.sizes if size)
        if len(stated) > 1 and key not in self._told:
            self._told.add(key)
            log.warning(
                "members of gang %s state different sizes: %s; %d counts",
                key.label, ", ".join(map(str, stated)), self.spec(key).minimum,
            )  # fmt: skip
        return key

    def _exit(self, uid: str, member: _Member) -> GangKey:
        key, role = self._in.pop(uid)
        gang = self._gangs[key]
        gang.count(member, role, -1)
        if not gang.refs:
            del self._gangs[key]
            self._told.discard(key)
        return key


class _Gang:
    """Members of one gang, counted."""

    def __init__(self) -> None:
        self.sizes: Counter[int] = Counter()  # by the size that they state, 0 for none
        self.done: Counter[str] = Counter()  # that have succeeded, by role
        self.refs: Counter[GangKey] = Counter()
        self.gated = 0

    def count(self, member: _Member, role: str, sign: int) -> None:
        """One member more or less."""
        self.refs.update({ref.key: sign for ref in member.refs})
        if member.done:
            self.done[role] += sign
        else:
            self.sizes[member.refs[0].size] += sign
            self.gated += sign * member.gated
        for counter in (self.sizes, self.done, self.refs):
            for key in [key for key, number in counter.items() if not number]:
                del counter[key]


_NOBODY = _Gang()


def _member(pod: PodObject) -> _Member | None:
    """The pod as a member; one that is going, or has failed, is none."""
    refs = gang_refs(pod)
    if not refs:
        return None
    phase = pod.status.phase if pod.status is not None else None
    if pod.metadata.deletion_timestamp is not None or phase == "Failed":
        return None
    names = (pod.metadata.name, *(o.name for o in pod.metadata.owner_references or ()))
    return _Member(tuple(refs), names, bool(pod.spec.scheduling_gates), phase == "Succeeded")


def _part(parts: tuple[Part, ...], ref: GangRef, names: Iterable[str]) -> Part | None:
    """The role of a pod: as it says, else the only one, else by its name or its owner's."""
    by_name = {part.role.name: part for part in parts}
    if ref.role in by_name or len(parts) <= 1:
        return by_name.get(ref.role) or next(iter(parts), None)
    start = ref.key.name.replace("/", "-").lower()
    if ref.key.system == "leaderworkerset":
        index = [name for name in names if name.lower().startswith(start)]
        return by_name.get("leader" if start in map(str.lower, index) else "worker")
    for name in names:
        rest = name.lower().removeprefix(f"{start}-")
        found = [role for role in by_name if role and f"{rest}-".startswith(f"{role}-")]
        if found:
            return by_name[max(found, key=len)]
    return None


def _left(part: Part, done: int) -> Role:
    """What a role still needs."""
    role = part.role
    if not part.total:
        return role
    left = max(0, part.total - done)
    return replace(role, replicas=min(role.replicas, left), minimum=min(role.minimum, left))


def _possible(size: int, parts: tuple[Part, ...], gang: _Gang) -> int:
    """The size, as far as there will be so many members that have not succeeded."""
    done = gang.done.total()
    if not parts or not all(part.total for part in parts):
        return min(size, max(size, gang.sizes.total() + done) - done)
    return min(size, sum(_left(part, gang.done[part.role.name]).replicas for part in parts))


def _largest_stage(parts: tuple[Part, ...]) -> int:
    """Members of the largest stage; 0 where all start together."""
    stages: Counter[str] = Counter()
    for part in parts:
        if part.stage:
            stages[part.stage] += part.role.replicas
    return max(stages.values(), default=0)
