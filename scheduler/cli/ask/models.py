"""Device models as people name them: ``H100`` for what a label calls NVIDIA-H100-80GB-HBM3."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from scheduler.core.errors import InvalidInput, nearest

__all__ = ["costs_by_product"]


def costs_by_product(
    costs: Mapping[str, int], products: Collection[str], field: str
) -> dict[str, int]:
    """Costs by the names that the nodes use.

    Parameters
    ----------
    costs
        By model. A name stands for all products that have each of its words; of several names
        that stand for a product, the one with most words counts.
    products
        Models of the cluster.
    field
        Where the costs are stated, for errors.

    Raises
    ------
    InvalidInput
        A name stands for nothing that is there, or two names are equally good.
    """
    named: dict[str, list[str]] = {product: [] for product in products}
    for name in costs:
        words = _words(name)
        meant = [name] if name in named else [p for p in named if words and words <= _words(p)]
        if not meant:
            remedy = f"did you mean {nearest(name, named)!r}?" if named else "no node has devices"
            raise InvalidInput(f"{field}: {name}", "is the model of no device here", remedy)
        for product in meant:
            named[product].append(name)
    found = {}
    for product, names in named.items():
        if not names:
            continue
        best = max(names, key=lambda name: (name == product, len(_words(name))))
        rivals = [n for n in names if n != best and len(_words(n)) == len(_words(best))]
        if rivals and best != product and costs[rivals[0]] != costs[best]:
            problem = f"stands for {product}, and so does {rivals[0]}"
            raise InvalidInput(f"{field}: {best}", problem, "name it whole")
        found[product] = costs[best]
    return found


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", name.lower()))
