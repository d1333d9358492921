"""Brings an engine's state back to the facts, where an audit has found that it differs."""

from __future__ import annotations

from collections.abc import Iterable

from scheduler.cluster.charges import Charges
from scheduler.core.engine import Engine

__all__ = ["evict_phantoms", "heal"]


def evict_phantoms(engine: Engine, charges: Charges, assumed: frozenset[str]) -> None:
    """Take out of the state what no fact speaks for: pods and nodes that do not exist.

    Parameters
    ----------
    engine, charges
        The state, and the facts.
    assumed
        Pods whose binding is under way.
    """
    for uid, placed in list(engine.state.placements.items()):
        pod = charges.pods.get(uid)
        there = pod is not None and pod.node == placed.node
        if not there and uid not in engine.reservations and uid not in assumed:
            engine.release(uid)
    for name in [name for name in engine.state.row_of if name not in charges.nodes.observed]:
        for placed in engine.state.remove_node(name):
            if placed.pod.uid in engine.reservations:
                engine.reservations.drop(placed.pod.uid)


def heal(engine: Engine, charges: Charges, names: Iterable[str]) -> None:
    """Make some nodes' rows equal the facts again; call :func:`evict_phantoms` before.

    What is reserved or being bound there is dropped or kept as when the node's devices change.
    """
    missing: dict[str, list[str]] = {name: [] for name in names if name in charges.nodes.observed}
    for uid, pod in charges.pods.items():
        if pod.node in missing and uid not in engine.state.placements:
            missing[pod.node].append(uid)
    for name, uids in missing.items():
        charges.rebuild_node(name, uids)
