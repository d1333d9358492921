"""What an answer could not take into account, so that nobody takes it for more than it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["NotConsidered", "left_alone"]


@dataclass(frozen=True, slots=True)
class NotConsidered:
    """A rule that is not modelled, or cannot be for lack of objects.

    Parameters
    ----------
    rule
        What it is, in the words of Kubernetes.
    pods
        ``namespace/name`` of the pods that it concerns; empty where it concerns nodes.
    effect
        What has been done instead.
    uids
        Of the pods that are left alone for it: neither moved nor given a place.
    """

    rule: str
    pods: tuple[str, ...]
    effect: str
    uids: frozenset[str] = frozenset()

    @property
    def text(self) -> str:
        """One line for the user."""
        shown = ", ".join(self.pods[:3]) + (", ..." if len(self.pods) > 3 else "")
        concerned = f" ({len(self.pods)} pods: {shown})" if self.pods else ""
        return f"{self.rule}{concerned}: {self.effect}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"rule": self.rule, "pods": list(self.pods), "effect": self.effect}


def left_alone(omissions: Iterable[NotConsidered]) -> dict[str, str]:
    """The rule that keeps each pod out, by uid, of the pods that are left alone."""
    return {uid: one.rule for one in omissions for uid in sorted(one.uids)}
