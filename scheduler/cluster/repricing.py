"""Profile and prices put in force: what takes long is made beside the cluster."""

from __future__ import annotations

import logging

from scheduler.cluster.ledger import Ledger
from scheduler.core.fragmentation import Fragmentation, Vocabulary
from scheduler.core.price_tables import Prices
from scheduler.core.workload_profile import WorkloadProfile
from scheduler.planner.pricing.lifecycle import ProfileUpdate

__all__ = ["put_prices", "put_profile", "put_profile_if_due"]

log = logging.getLogger(__name__)


def put_profile_if_due(ledger: Ledger) -> None:
    """Make the workload profile anew if it is time, also where no pod asks."""
    with ledger.locked(chore=True) as cluster:
        update = cluster.pricing.take_update()
    if update is not None:
        put_profile(ledger, update)


def put_profile(ledger: Ledger, update: ProfileUpdate) -> None:
    """Make a profile and its tables, and put them in force unless a later one is already."""
    profile, tables = update.make()
    with ledger.locked() as cluster:
        cluster.pricing.put_profile(update, profile, tables)


def put_prices(
    ledger: Ledger, prices: Prices | None, profile: WorkloadProfile | None = None
) -> None:
    """Charge these prices from now on, with the profile that they were made for.

    Scores at them are made first, a few rows at a time so that requests get in between.
    """
    warmed = tables = None
    if prices is not None:
        with ledger.locked(chore=True) as cluster:
            known, before = Vocabulary.of(cluster.engine.state), cluster.engine.profile
        if profile is not None and profile is not before:
            tables = Fragmentation(known, profile)
        with ledger.locked(chore=True) as cluster:
            warmed = cluster.engine.warmup(prices, profile, tables)
        if warmed is not None:
            for _ in ledger.in_steps(warmed.steps()):
                pass
    with ledger.locked(chore=True) as cluster:
        cluster.pricing.put_prices(prices, profile or cluster.pricing.profile, warmed)
        if prices is not None and cluster.engine.prices() is None:
            log.warning("prices lack a class of nodes that is here; scoring as fgd")
