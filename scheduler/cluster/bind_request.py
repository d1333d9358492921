"""What is asked when a pod is to be bound."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BindRequest"]


@dataclass(frozen=True, slots=True)
class BindRequest:
    """A pod, by name and uid, and the node that it is to be bound to."""

    name: str
    namespace: str
    uid: str
    node: str

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"
