"""Who may be moved, at what cost, within which budgets."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from scheduler.kube.disruption import BudgetObject, budgets_of, held_by_several, move_cost
from scheduler.kube.objects import Condition, PodObject

_OWNED = [{"kind": "ReplicaSet", "name": "rs", "controller": True}]


def _pod(name: str = "p", **metadata: Any) -> PodObject:
    content = {
        "metadata": {"name": name, "namespace": "a", "uid": name, "ownerReferences": _OWNED}
        | metadata,
        "spec": {"nodeName": "n"},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
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


def test_what_is_critical_to_the_cluster_stays_and_a_job_loses_its_work() -> None:
    critical, important = _pod(), _pod()
    critical.spec.priority, important.spec.priority = 2_000_001_000, 1_000_000_000
    assert move_cost(critical) is None and move_cost(important) == 2
    assert move_cost(_pod(ownerReferences=[{"kind": "Job", "name": "j", "controller": True}])) == 10


def _budget(
    selector: Any, allowed: int = 1, *, name: str = "pdb", policy: str | None = None, **status: int
) -> BudgetObject:
    content = {
        "metadata": {"name": name, "namespace": "a"},
        "spec": {"selector": selector, "unhealthyPodEvictionPolicy": policy},
        "status": {"disruptionsAllowed": allowed, **status},
    }
    return msgspec.convert(content, BudgetObject)


def _as(pod: PodObject, *, ready: bool, phase: str = "Running") -> PodObject:
    assert pod.status is not None
    pod.status.phase = phase
    pod.status.conditions = [Condition(type="Ready", status="True" if ready else "False")]
    return pod


@pytest.mark.parametrize(
    ("budget", "guarded"),
    [
        (_budget({}), {"ready", "sick"}),
        (_budget({}, currentHealthy=1, desiredHealthy=2), {"ready", "sick"}),
        (_budget({}, currentHealthy=2, desiredHealthy=2), {"ready"}),
        (_budget({}, policy="IfHealthyBudget"), {"ready", "sick"}),
        (_budget({}, policy="AlwaysAllow"), {"ready"}),
    ],
)
def test_pods_that_are_not_ready_go_where_the_eviction_api_lets_them(
    budget: BudgetObject, guarded: set[str]
) -> None:
    pods = [
        _as(_pod("ready"), ready=True),
        _as(_pod("sick"), ready=False),
        _as(_pod("starting"), ready=False, phase="Pending"),
        _pod("leaving", deletionTimestamp="2026-01-01T00:00:00Z"),
    ]
    (made,) = budgets_of([budget], pods)
    assert made.uids == guarded


@pytest.mark.parametrize(("seen", "allowed"), [(2, 0), (3, 1), (4, 1)])
def test_a_budget_whose_controller_is_behind_allows_nothing(seen: int, allowed: int) -> None:
    budget = _budget({}, observedGeneration=seen)
    budget.metadata.generation = 3
    (made,) = budgets_of([budget], [])
    assert made.allowed == allowed


def test_nobody_evicts_a_pod_that_several_budgets_cover() -> None:
    pods = [
        _as(_pod("web", labels={"app": "web"}), ready=True),
        _as(_pod("sick", labels={"app": "web"}), ready=False),
        _as(_pod("db", labels={"app": "db"}), ready=True),
        _as(_pod("starting", labels={"app": "web"}), ready=False, phase="Pending"),
    ]
    budgets = [
        _budget({}, name="all", policy="AlwaysAllow"),
        _budget({"matchLabels": {"app": "web"}}, name="web"),
    ]
    held = held_by_several(budgets, pods)
    assert held == {"web": ("a/all", "a/web"), "sick": ("a/all", "a/web")}


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
