"""What is wrong with objects of a live cluster, by object: remembered, and logged once an hour."""

from __future__ import annotations

import logging

from scheduler.kube.complaints import Complaints, cut

__all__ = ["Notes"]

log = logging.getLogger(__name__)


class Notes:
    """Remembers what is wrong, as long as it is.

    Attributes
    ----------
    problems : dict of str to str
        By kind and name, such as ``Pod namespace/name``.
    """

    def __init__(self) -> None:
        self.problems: dict[str, str] = {}
        self._complaints = Complaints(log)

    def node(self, name: str, problem: str) -> None:
        """What is wrong with a node; empty for nothing."""
        self._of(f"Node {name}", problem)

    def pod(self, namespace: str, name: str, problem: str) -> None:
        """What is wrong with a pod; empty for nothing."""
        if problem or self.problems:
            self._of(f"Pod {namespace}/{name}", problem)

    def _of(self, subject: str, problem: str) -> None:
        if not problem:
            self.problems.pop(subject, None)
            return
        self.problems[subject] = cut(problem)
        self._complaints.about(subject, problem)
