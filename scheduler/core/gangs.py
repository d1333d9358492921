"""What is known about a gang besides its name: how many members must start together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scheduler.core.model import GangKey

__all__ = ["GangSpec", "Role", "minimum_of"]


@dataclass(frozen=True, slots=True)
class Role:
    """Members of one kind.

    Parameters
    ----------
    name
        As the workload object calls it.
    replicas
        How many there are once all of them exist.
    minimum
        How many must start together with the rest of the gang.
    after
        Names of the roles after which these start.
    later
        Whether they are created once others run, so that the first members do not wait for them.
    """

    name: str
    replicas: int
    minimum: int
    after: tuple[str, ...] = ()
    later: bool = False


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
    """

    key: GangKey
    minimum: int = 1
    roles: tuple[Role, ...] = ()


def minimum_of(specs: Mapping[GangKey, GangSpec], key: GangKey) -> int:
    """Members that must start together; 1 where nobody says, so that each counts alone."""
    spec = specs.get(key)
    return spec.minimum if spec is not None else 1
