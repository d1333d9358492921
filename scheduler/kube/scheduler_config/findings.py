"""What a check of a KubeSchedulerConfiguration finds: where, what happens, what to write."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from scheduler.kube.yaml_lines import Path

__all__ = ["Finding", "Level", "Trap", "items_of", "refusal"]


class Level(StrEnum):
    """What a finding means where kube-scheduler is started with the file."""

    REFUSED = "refused"
    """kube-scheduler ends at once."""
    TRAP = "trap"
    """It starts, says nothing, and places pods badly or not at all."""
    NOTE = "note"
    """Nothing is wrong here; it has to be known all the same."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding, with its line in the file."""

    rule: str
    path: str
    line: int
    problem: str
    remedy: str
    level: Level


class Trap(NamedTuple):
    """A finding as a rule states it: the place is a path of keys and indexes."""

    path: Path
    problem: str
    remedy: str
    level: Level = Level.TRAP


def refusal(path: Path, problem: str, remedy: str) -> Trap:
    """A finding that keeps kube-scheduler from starting, and says so."""
    return Trap(path, f"{problem}; kube-scheduler refuses to start", remedy, Level.REFUSED)


def items_of(listed: object) -> list[Any]:
    """A list, if it is one; whatever else stands there is kube-scheduler's to refuse."""
    return listed if isinstance(listed, list) else []
