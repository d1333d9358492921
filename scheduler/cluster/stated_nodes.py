"""Nodes as they stand in the engine's state: as observed, or withheld while in doubt."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from scheduler.core.engine import Engine
from scheduler.core.model import Node
from scheduler.kube.dra import DynamicResources
from scheduler.kube.observed import ObservedNode, withheld

__all__ = ["StatedNodes"]

log = logging.getLogger(__name__)


class StatedNodes:
    """Nodes that exist.

    Parameters
    ----------
    engine
        In whose state they stand.

    Attributes
    ----------
    observed : dict of str to ObservedNode
        As the API has told of them, by name.
    dra : DynamicResources
        Nodes whose devices kube-scheduler hands out by itself.
    """

    def __init__(self, engine: Engine) -> None:
        self.observed: dict[str, ObservedNode] = {}
        self.dra = DynamicResources()
        self._engine = engine
        self._uncertain: dict[str, set[str]] = {}
        self._settling = ""

    def effective(self, name: str) -> Node:
        """A node as it should stand in the state."""
        node = self.dra.of(self.observed[name].node)
        return withheld(node) if name in self._uncertain else node

    def all_effective(self) -> dict[str, Node]:
        """All nodes like that, by name."""
        return {name: self.effective(name) for name in self.observed}

    def redescribe(self, names: Iterable[str]) -> None:
        """What is known of these nodes has changed, but of no device."""
        for name in names:
            self._engine.state.update_node(self.effective(name))

    def remove(self, name: str) -> bool:
        """A node does not exist any more; whether it was known."""
        known = self.observed.pop(name, None) is not None
        if known:
            self._uncertain.pop(name, None)
            self.dra.gone(name)
        return known

    # -- doubts ------------------------------------------------------------------------------

    @property
    def uncertain(self) -> frozenset[str]:
        """Nodes where nobody knows which devices are free."""
        return frozenset(self._uncertain)

    def doubt(self, name: str, uid: str, key: str, why: str) -> None:
        """Nobody knows which devices of a node are free while this pod runs.

        Parameters
        ----------
        name
            Of the node.
        uid, key
            Of the pod.
        why
            For the log.
        """
        because = self._uncertain.setdefault(name, set())
        because.add(uid)
        if len(because) == 1:
            log.warning("node %s is withheld until pod %s ends: %s", name, key, why)
            if name != self._settling:
                self.redescribe((name,))

    @contextmanager
    def settling(self, name: str) -> Iterator[None]:
        """All pods of a node are charged; doubts that come up withhold it once that is done.

        So which devices a pod has does not depend on whether it comes before the one in doubt.
        """
        self._settling = name
        try:
            yield
        finally:
            self._settling = ""
            if name in self._uncertain:
                self.redescribe((name,))

    def end_doubt(self, name: str, uid: str) -> bool:
        """The pod does not run any more; whether it was the last one in doubt."""
        because = self._uncertain.get(name, set())
        if uid not in because:
            return False
        because.discard(uid)
        if because:
            return False
        del self._uncertain[name]
        return True

    def end_doubts(self, name: str) -> None:
        """All that is known of a node's pods is told anew."""
        self._uncertain.pop(name, None)
