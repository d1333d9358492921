"""Who may be moved, at what cost, within which budgets."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from scheduler.kube.disruption import BudgetObject, budgets_of, move_cost
from scheduler.kube.objects import PodObject

_OWNED = [{"kind": "ReplicaSet", "name": "rs", "controller": True}]


def _pod(name: str = "p", **metadata: Any) -> PodObject:
    content = {
        "metadata": {"name": name, "namespace": "a", "uid": name, "ownerReferences": _OWNED}
        | metadata,
        "spec": {"nodeName": "n"},
    }
    return msgspec.convert(content, PodObject)


def test_a_controlled_pod_may_move() -> None:
    assert move_cost(_pod()) == 2


@pytest.mark.parametrize(
    "metadata",
    [
        {"ownerReferences": None},
        {"ownerReferences": [{"kind": "ReplicaSet", "name": "rs"}]},
        {"ownerReferences": [{"kind": "DaemonSet", "name": "d", "controller": True}]},
        {"ownerReferences": [{"kind": "Node", "name": "n", "controller": True}]},
        {"annotations": {"kubernetes.io/config.mirror": "x"}},
        {"annotations": {"karpenter.sh/do-not-disrupt": "true"}},
        {"annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}},
        {"deletionTimestamp": "2026-01-01T00:00:00Z"},
    ],
)
def test_who_has_to_stay(metadata: dict[str, Any]) -> None:
    assert move_cost(_pod(**metadata)) is None


@pytest.mark.parametrize(
    ("text", "cost"), [("0", 2), ("-50", 2), ("500", 7), ("999999", 12), ("dear", 2)]
)
def test_deletion_cost_makes_a_pod_dearer(text: str, cost: int) -> None:
    annotations = {"controller.kubernetes.io/pod-deletion-cost": text}
    assert move_cost(_pod(annotations=annotations)) == cost


def _budget(selector: Any, allowed: int = 1) -> BudgetObject:
    content = {
        "metadata": {"name": "pdb", "namespace": "a"},
        "spec": {"selector": selector},
        "status": {"disruptionsAllowed": allowed},
    }
    return msgspec.convert(content, BudgetObject)


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        (None, set()),
        ({}, {"x", "y"}),
        ({"matchLabels": {"app": "x"}}, {"x"}),
        (
            {"matchExpressions": [{"key": "app", "operator": "In", "values": ["y", "z"]}]},
            {"y"},
        ),
        (
            {
                "matchLabels": {"app": "x"},
                "matchExpressions": [{"key": "app", "operator": "Exists"}],
            },
            {"x"},
        ),
    ],
)
def test_budgets_select_running_pods_of_their_namespace(selector: Any, chosen: set[str]) -> None:
    pods = [_pod("x", labels={"app": "x"}), _pod("y", labels={"app": "y"})]
    pods.append(_pod("other", namespace="b", labels={"app": "x"}))
    waiting = _pod("w", labels={"app": "x"})
    waiting.spec.node_name = None
    (budget,) = budgets_of([_budget(selector, 3)], [*pods, waiting])
    assert (budget.name, budget.allowed, budget.uids) == ("a/pdb", 3, chosen)
