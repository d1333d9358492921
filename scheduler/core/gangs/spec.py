"""What is known about a gang besides its name: how many members must start together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scheduler.core.model import GangKey, PodRequest

__all__ = ["GangSpec", "Role", "least_of_roles", "minimum_of"]


@dataclass(frozen=True, slots=True)
class Role:
    """Members of one kind.

    Parameters
    ----------
    name
        As the workload object calls it.
    replicas
        How many there are once all of them exist; 0 if unknown.
    minimum
        How many of these must be among those that start together; 0 if any others will do.
    after
        Names of the roles after which these start.
    later
        Whether they are created once others run, so that the first members do not wait for them.
    like
        What each of them will ask for, where the workload object says so.
    """

    name: str
    replicas: int
    minimum: int
    after: tuple[str, ...] = ()
    later: bool = False
    like: PodRequest | None = None


@dataclass(frozen=True, slots=True)
class GangSpec:
    """A gang's size, as data: it may change while the gang is the same.

    Parameters
    ----------
    key
        Which gang.
    minimum
        Members that must start together. Those beyond it are pods of their own once it is met; a
        gang of 1 holds nobody back.
    roles
        Kinds of members, where the workload object is known.
    gated
        Members that wait for a scheduling gate: they do not exist yet, as far as placing goes.
    """

    key: GangKey
    minimum: int = 1
    roles: tuple[Role, ...] = ()
    gated: int = 0

    @property
    def joint(self) -> bool:
        """Whether its members run together: whoever stops one of them stops all."""
        return self.minimum > 1 or bool(self.key.stage)


def minimum_of(specs: Mapping[GangKey, GangSpec], key: GangKey) -> int:
    """Members that must start together; 1 where nobody says, so that each counts alone."""
    spec = specs.get(key)
    return spec.minimum if spec is not None else 1


def least_of_roles(
    specs: Mapping[GangKey, GangSpec], pods: Iterable[PodRequest]
) -> dict[GangKey, dict[str, int]]:
    """Members of each role that a gang needs, besides as many as it needs in all.

    Parameters
    ----------
    specs
        What is known about gangs.
    pods
        Every pod, waiting or running. Where the role of a member is not known, any will do.
    """
    stated = {
        key: {role.name: role.minimum for role in spec.roles if role.minimum}
        for key, spec in specs.items()
        if len(spec.roles) > 1
    }
    members: dict[GangKey, set[str]] = defaultdict(set)
    for pod in pods if stated else ():
        if pod.gang in stated:
            members[pod.gang].add(pod.role)
    return {
        key: least
        for key, least in stated.items()
        if least and members[key] <= {role.name for role in specs[key].roles}
    }
