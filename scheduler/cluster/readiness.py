"""What is known of a live cluster and how well, for people who look at a replica."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scheduler.cluster.ledger import Cluster
from scheduler.cluster.watches import Watches
from scheduler.core.omissions import NotUnderstood
from scheduler.kube.complaints import cut
from scheduler.kube.misread import in_part, named

__all__ = ["knowledge", "read_in_part"]

_MOST_NAMED = 10
_IN_PART = (("Node", "nodes"), ("Pod", "pods"), ("PodDisruptionBudget", "poddisruptionbudgets"))
"""Kinds of which more than the name counts where only a part could be read, as they are watched."""


def knowledge(cluster: Cluster, watches: Watches) -> Mapping[str, Any]:
    """What is not understood, and where nobody knows what is free; as ``/readyz`` shows it."""
    misread, charges = _not_understood(cluster, watches), cluster.live.charges
    ambiguous, by_dra = charges.protocols.ambiguous_nodes, charges.nodes.dra.nodes
    return {
        "unreadable_objects": len(misread),
        "not_understood": [one.to_json() for one in misread[:_MOST_NAMED]],
        "nodes_with_unknown_devices": sorted(charges.nodes.uncertain)[:_MOST_NAMED],
        "records_of_devices": {
            "guarded_by_policy": charges.records.protected,
            "unprotected": charges.records.unprotected(charges.pods),
        },
        "ambiguous_nodes": dict(sorted(ambiguous.items())[:_MOST_NAMED]),
        "nodes_with_devices_by_dra": dict(sorted(by_dra.items())[:_MOST_NAMED]),
    }


def read_in_part(watches: Watches) -> dict[str, int]:
    """Objects of which only a part could be read, by kind. With the cluster's lock held."""
    return {
        name: len(watched.unreadable)
        for name, label in _IN_PART
        if (watched := watches.get(label)) is not None
    }


def _not_understood(cluster: Cluster, watches: Watches) -> list[NotUnderstood]:
    """Objects that are not as they should be."""
    running = (pod.request.key for pod in cluster.live.pods.values())
    found = named(cluster.live.unreadable, running)
    for kind, label in _IN_PART:
        watched = watches.get(label)
        if watched is not None:
            found += [
                in_part(kind, key, cut(watched.missing.get(identity, "")))
                for identity, key in watched.unreadable.items()
            ]
    return found
