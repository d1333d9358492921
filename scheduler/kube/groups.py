"""How many members each gang needs, from everything that says so: group objects and pods."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping

from scheduler.core.gangs import GangSpec
from scheduler.core.model import GangKey
from scheduler.kube.gangs import gang_ref, shared_key
from scheduler.kube.objects import PodObject

__all__ = ["Groups"]

log = logging.getLogger(__name__)


class Groups:
    """Gangs by what is known of them, kept up to date object by object.

    A group object's statement wins; without one the largest that a member states. Members that
    disagree are one gang all the same, and are named.

    Parameters
    ----------
    count_members
        Take a gang of which nobody states the size to be as large as there are members, where all
        of them are listed. Otherwise each of its members counts alone.
    """

    def __init__(self, *, count_members: bool = False) -> None:
        self._count_members = count_members
        self._by_group: dict[GangKey, int] = {}
        self._of_group: dict[GangKey, set[GangKey]] = {}
        self._by_pod: dict[str, tuple[GangKey, int]] = {}
        self._sizes: dict[GangKey, Counter[int]] = {}
        self._told: set[GangKey] = set()

    def key(self, pod: PodObject) -> GangKey | None:
        """The gang of a pod, whether it is known or not."""
        ref = gang_ref(pod)
        return ref.key if ref is not None else None

    def join(self, pod: PodObject, uid: str) -> GangKey | None:
        """A pod exists; it is a member of whatever it names now, and of nothing else."""
        ref = gang_ref(pod)
        now = (ref.key, ref.size) if ref is not None else None
        if now == self._by_pod.get(uid):
            return now[0] if now else None
        self.leave(uid)
        if now is None:
            return None
        key, size = now
        self._by_pod[uid] = now
        sizes = self._sizes.setdefault(key, Counter())
        sizes[size] += 1
        self._of_group.setdefault(shared_key(key), set()).add(key)
        if sum(size > 0 for size in sizes) > 1 and key not in self._told:
            self._told.add(key)
            log.warning(
                "members of gang %s state different sizes: %s; %d counts",
                key.label, ", ".join(map(str, sorted(filter(None, sizes)))), self.spec(key).minimum,
            )  # fmt: skip
        return key

    def gang_of(self, uid: str) -> GangKey | None:
        """The gang that a pod is in."""
        return self._by_pod.get(uid, (None, 0))[0]

    def leave(self, uid: str) -> GangKey | None:
        """A pod does not exist any more; returns the gang that it was in."""
        key, size = self._by_pod.pop(uid, (None, 0))
        if key is None:
            return None
        sizes = self._sizes[key]
        sizes[size] -= 1
        if not sizes[size]:
            del sizes[size]
        if not sizes:
            del self._sizes[key]
            self._told.discard(key)
            group = shared_key(key)
            self._of_group[group].discard(key)
            if not self._of_group[group]:
                del self._of_group[group]
        return key

    def state(self, sizes: Mapping[GangKey, int]) -> list[GangKey]:
        """Group objects state these sizes; returns the groups of which that is news."""
        news = [key for key, size in sizes.items() if self._by_group.get(key) != size]
        self._by_group.update(sizes)
        return news

    def unstate(self, keys: Iterable[GangKey]) -> list[GangKey]:
        """Group objects are gone: nobody states these sizes any more; returns those known."""
        return [key for key in keys if self._by_group.pop(key, None) is not None]

    def gangs(self, group: GangKey) -> list[GangKey]:
        """Gangs with members whose size this group states."""
        return sorted(self._of_group.get(group, ()), key=lambda key: key.name)

    def spec(self, key: GangKey, stated: int = 0) -> GangSpec:
        """What is known of a gang.

        Parameters
        ----------
        key
            The gang, whether it has members or not.
        stated
            What one more member states that is not known yet.
        """
        by_group = self._by_group.get(key) or self._by_group.get(shared_key(key))
        sizes = self._sizes.get(key, Counter())
        size = by_group or max([*sizes, stated])
        if not size and self._count_members:
            size = sizes.total()
        return GangSpec(key, max(1, size))

    def specs(self) -> dict[GangKey, GangSpec]:
        """All gangs that have members."""
        return {key: self.spec(key) for key in self._sizes}
