"""By which sharing protocols the pods of each node have their devices."""

from __future__ import annotations

from collections import Counter

from scheduler.kube.sharing.table import ambiguity

__all__ = ["ProtocolsInUse"]


class ProtocolsInUse:
    """Counts pods by node and protocol."""

    def __init__(self) -> None:
        self._of: dict[str, str] = {}
        self._on: dict[str, Counter[str]] = {}

    def put(self, node: str, uid: str, protocol: str) -> None:
        """A pod has devices of the node by this protocol."""
        self._of[uid] = protocol
        self._on.setdefault(node, Counter())[protocol] += 1

    def drop(self, node: str, uid: str) -> None:
        """The pod has none of the node's devices any more."""
        protocol = self._of.pop(uid, "")
        if not protocol:
            return
        used = self._on[node]
        used[protocol] -= 1
        if not used[protocol]:
            del used[protocol]
        if not used:
            del self._on[node]

    @property
    def ambiguous_nodes(self) -> dict[str, str]:
        """Nodes where several protocols go wrong together, or one is not read; and why."""
        return {name: why for name, used in self._on.items() if (why := ambiguity(used))}
