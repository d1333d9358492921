"""What an answer could not take into account, so that nobody takes it for more than it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from scheduler.core.plural import plural

__all__ = ["NotConsidered", "NotUnderstood", "left_alone"]


@dataclass(frozen=True, slots=True)
class NotConsidered:
    """A rule that is not modelled, or cannot be for lack of objects.

    Parameters
    ----------
    rule
        What it is, in the words of Kubernetes.
    pods
        ``namespace/name`` of the pods that it concerns; empty where it concerns other objects.
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
        concerned = f" ({plural(len(self.pods), 'pod')}: {shown})" if self.pods else ""
        return f"{self.rule}{concerned}: {self.effect}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"rule": self.rule, "pods": list(self.pods), "effect": self.effect}


@dataclass(frozen=True, slots=True)
class NotUnderstood:
    """An object that is not as it should be, and what has become of it.

    Parameters
    ----------
    subject
        Kind and name, or where it stands if it says neither.
    field
        Path of what is wrong; empty where it is not one field.
    why
        What is wrong with it.
    effect
        What has been done instead.
    harmless
        Whether everything that was asked could be answered all the same.
    """

    subject: str
    field: str
    why: str
    effect: str
    harmless: bool = False

    @classmethod
    def of(
        cls, subject: str, problem: object, effect: str, *, harmless: bool = False
    ) -> NotUnderstood:
        """From an error, or its text ``field: what is wrong``."""
        field, found, why = str(problem).partition(": ")
        return cls(
            subject, field if found else "", why if found else field, effect, harmless=harmless
        )

    @property
    def text(self) -> str:
        """One line for the user."""
        where = f"{self.field}: " if self.field else ""
        return f"{self.subject}: {where}{self.why}; {self.effect}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "object": self.subject,
            "field": self.field,
            "why": self.why,
            "effect": self.effect,
        }


def left_alone(omissions: Iterable[NotConsidered]) -> dict[str, str]:
    """The rule that keeps each pod out, by uid, of the pods that are left alone."""
    return {uid: one.rule for one in omissions for uid in sorted(one.uids)}
