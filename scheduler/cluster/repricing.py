"""Mix and prices put in force: what takes long is made beside the cluster."""

from __future__ import annotations

import logging

from scheduler.cluster.ledger import Ledger
from scheduler.core.fragmentation import Fragmentation, Vocabulary
from scheduler.core.leftover_values import Prices
from scheduler.core.mix import TypicalMix
from scheduler.planner.pricing.lifecycle import MixUpdate

__all__ = ["put_mix", "put_mix_if_due", "put_prices"]

log = logging.getLogger(__name__)


def put_mix_if_due(ledger: Ledger) -> None:
    """Make the typical mix anew if it is time, also where no pod asks."""
    with ledger.locked(chore=True) as cluster:
        update = cluster.pricing.take_update()
    if update is not None:
        put_mix(ledger, update)


def put_mix(ledger: Ledger, update: MixUpdate) -> None:
    """Make a mix and its tables, and put them in force unless a later one is already."""
    mix, tables = update.make()
    with ledger.locked() as cluster:
        cluster.pricing.put_mix(update, mix, tables)


def put_prices(ledger: Ledger, prices: Prices | None, mix: TypicalMix | None = None) -> None:
    """Charge these prices from now on, with the mix that they were made for.

    Scores at them are made first, a few rows at a time so that requests get in between.
    """
    warmed = tables = None
    if prices is not None:
        with ledger.locked(chore=True) as cluster:
            known, before = Vocabulary.of(cluster.engine.state), cluster.engine.mix
        if mix is not None and mix is not before:
            tables = Fragmentation(known, mix)
        with ledger.locked(chore=True) as cluster:
            warmed = cluster.engine.warmup(prices, mix, tables)
        if warmed is not None:
            for _ in ledger.in_steps(warmed.steps()):
                pass
    with ledger.locked(chore=True) as cluster:
        cluster.pricing.put_prices(prices, mix or cluster.pricing.mix, warmed)
        if prices is not None and cluster.engine.prices() is None:
            log.warning("prices lack a class of nodes that is here; scoring as fgd")
