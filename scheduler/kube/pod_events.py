"""What may be done when the API says that a pod is placed, leaves, ends or is nominated."""

from __future__ import annotations

from scheduler.core.model import PodRequest

__all__ = ["PodEvents"]


class PodEvents:
    """Listens to what becomes of pods; this one does nothing about it."""

    def on_pod_placed(self, request: PodRequest, *, first: bool) -> None:
        """A pod has got a node; ``first`` unless it had another one, as far as was known."""

    def on_pod_gone(self, uid: str, had: PodRequest | None) -> None:
        """A pod has ended or was deleted and never asks again; ``had`` if it had a node."""

    def on_pod_nominated(self, request: PodRequest, node: str) -> None:
        """kube-scheduler has this node in mind for a pod that has none."""

    def on_pod_leaving(self, uid: str) -> None:
        """A pod is being deleted on its node."""
