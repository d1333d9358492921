"""The state compared with the facts, and mended where it differs."""

from __future__ import annotations

import logging

from scheduler.cluster.housekeeping import RepeatLimit
from scheduler.cluster.ledger import Ledger
from scheduler.cluster.live_figures import LiveFigures
from scheduler.cluster.repair import evict_phantoms, heal

__all__ = ["Recount"]

log = logging.getLogger(__name__)

_MOST_AT_ONCE = 32
_LOGGED_DIFFERENCES = 5
_REPORT_EVERY_S = 3600.0


class Recount:
    """Compares and mends.

    Parameters
    ----------
    ledger
        Of a live cluster.
    figures
        Counts what is found.
    """

    def __init__(self, ledger: Ledger, figures: LiveFigures) -> None:
        self._ledger, self._figures = ledger, figures
        self._reported = RepeatLimit(_REPORT_EVERY_S)

    def run(self) -> list[str]:
        """Compare the state with the facts, beside the cluster, and mend it if it differs."""
        with self._ledger.locked(chore=True) as cluster:
            observed = cluster.live.charges.observed()
            snapshot = cluster.engine.state.snapshot()
            held, assumed = frozenset(cluster.engine.reservations), frozenset(cluster.pods.assumed)
        found = observed.differences(snapshot, held, assumed)
        self._figures.recounts += 1
        self._figures.drift = len(found)
        if found:
            self._figures.drifted += 1
            log.error(
                "the state differs from the facts: %s", "; ".join(found[:_LOGGED_DIFFERENCES])
            )
            self._heal()
        return found

    def _heal(self) -> None:
        """Bring the state back to the facts, a few nodes at a time so that requests get through."""
        with self._ledger.locked(chore=True) as cluster:
            assumed = frozenset(cluster.pods.assumed)
            evict_phantoms(cluster.engine, cluster.live.charges, assumed)
            names = cluster.live.node_names()
        for start in range(0, len(names), _MOST_AT_ONCE):
            some = names[start : start + _MOST_AT_ONCE]
            try:
                with self._ledger.locked(chore=True) as cluster:
                    heal(cluster.engine, cluster.live.charges, some)
            except Exception:  # noqa: BLE001 - only one of them is to blame, and it is told of
                for name in some:
                    self._heal_alone(name)

    def _heal_alone(self, name: str) -> None:
        try:
            with self._ledger.locked(chore=True) as cluster:
                heal(cluster.engine, cluster.live.charges, [name])
        except Exception:  # tried again after the next recount
            self._figures.chore_faults["recount"] += 1
            if self._reported.now(("heal", name)):
                log.exception("node %s cannot be healed", name)
