"""Expressions of selectors as the engine compares them."""

from __future__ import annotations

from collections.abc import Iterable

from scheduler.core.model import Requirement
from scheduler.kube.objects import Expression

__all__ = ["requirements"]


def requirements(listed: Iterable[Expression] | None) -> tuple[Requirement, ...]:
    """What ``matchExpressions`` or ``matchFields`` ask for; nothing where they are absent."""
    return tuple(
        Requirement(rule.key, rule.operator, tuple(rule.values or ())) for rule in listed or ()
    )
