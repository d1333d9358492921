"""Gangs of a live cluster: who is a member, who is woken, and what is left of an evicted one."""

from __future__ import annotations

import time
from typing import Any

import pytest

from testbed.fake_api import NODES, PODS, FakeApi, eventually, refuse
from testbed.kube_objects import node_json, pod_json
from tests.following import Following

GPU = {"nvidia.com/gpu": "1"}
GONE = "2026-01-01T00:00:00Z"


def _member(name: str, size: int, **rest: Any) -> dict[str, Any]:
    labels = {"scheduling.x-k8s.io/pod-group": "g"}
    annotations = {"snugfit.io/gang-size": str(size)}
    return pod_json(name, requests=GPU, labels=labels, annotations=annotations, **rest)


def _ask(following: Following, name: str) -> dict[str, Any]:
    pod = following.api.objects[PODS][name]
    question = {"Pod": pod, "Nodes": None, "NodeNames": ["b"]}
    answer = following.web.post("/filter", json=question)
    assert answer.status_code == 200
    return answer.get_json()


def _passes(following: Following, name: str) -> bool:
    return _ask(following, name)["NodeNames"] == ["b"]


def _why(following: Following, name: str) -> str:
    return _ask(following, name)["FailedAndUnresolvableNodes"]["b"]


def _woken(api: FakeApi) -> list[str]:
    return [
        name
        for name, obj in api.objects[PODS].items()
        if "snugfit.io/woken-at" in (obj["metadata"].get("annotations") or {})
    ]


def test_members_are_woken_once_all_of_them_exist(api, follow) -> None:
    """Nothing changes in the cluster by that, and no event makes kube-scheduler ask again."""
    api.put(PODS, _member("m0", 2))
    following = follow(requeue_after_s=0.1).start()
    assert "1 of 2 pods exist" in _why(following, "m0")
    assert following.service.holds == 0
    api.put(PODS, _member("m1", 2))
    eventually(lambda: _woken(api) == ["m0"])
    assert _passes(following, "m0") and _passes(following, "m1")


@pytest.mark.parametrize(
    "rest",
    [
        {"spec": {"schedulingGates": [{"name": "quota"}]}},
        {"deletionTimestamp": GONE},
        {"spec": {"schedulerName": "somebody-else"}},
    ],
    ids=["gated", "being deleted", "of another scheduler"],
)
def test_a_pod_that_nobody_may_ask_about_is_no_member(api, follow, rest) -> None:
    api.put(PODS, _member("m0", 2, spec={"schedulerName": "ours"}))
    api.put(PODS, _member("m1", 2, **rest))
    following = follow().start()
    assert "1 of 2 pods exist" in _why(following, "m0")
    api.put(PODS, _member("m1", 2, spec={"schedulerName": "ours"}))
    eventually(lambda: _passes(following, "m0"))


def test_a_gang_that_is_restarted_is_not_bound_by_half(api, follow) -> None:
    """Its controller replaces pods that are being deleted at once; they have their devices yet."""
    for number in range(3):
        api.put(PODS, _member(f"old{number}", 3, node="b"))
    following = follow().start()
    for number in range(3):
        api.put(PODS, _member(f"old{number}", 3, node="b", deletionTimestamp=GONE))
        api.put(PODS, _member(f"new{number}", 3))
    members, gang = following.service.gangs.members, following.sync.groups.gang_of
    eventually(lambda: "uid-new2" in following.sync.pending)
    assert not members.running(gang("uid-new2"))
    assert "1 of 3 missing members" in _why(following, "new0")
    for number in range(3):
        api.delete(PODS, f"old{number}")
    eventually(lambda: _passes(following, "new0"))
    following.equal()


def test_a_pod_bound_before_its_group_was_heard_of_leaves_no_place_behind(api, follow) -> None:
    """kube-scheduler may know of a pod group before we do, and asks about a single pod then."""
    api.put(PODS, pod_json("m0", requests=GPU))
    following = follow().start()
    assert _passes(following, "m0")
    for name in ("m0", "m1"):
        api.put(PODS, _member(name, 2))
    eventually(lambda: _passes(following, "m1"))
    assert following.service.holds == 2
    for name in ("m0", "m1"):  # by kube-scheduler itself
        api.put(PODS, _member(name, 2, node="b"))
    following.equal()
    assert following.service.holds == 0


class Late:
    """A clock that may be put on."""

    by = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.by


def _bind(following: Following, name: str) -> str:
    """What is against it."""
    meta = following.api.objects[PODS][name]["metadata"]
    named = {"PodName": name, "PodNamespace": meta["namespace"], "PodUID": meta["uid"]}
    return following.web.post("/bind", json={**named, "Node": "b"}).get_json()["Error"]


@pytest.fixture
def two_nodes(api) -> FakeApi:
    """A gang on two nodes that are full by it."""
    for number, name in enumerate("xy"):
        api.put(NODES, node_json(name, gpus=1))
        api.put(PODS, _member(f"low{number}", 2, node=name, spec={"priority": -5}))
    api.put(PODS, pod_json("high", requests=GPU, spec={"priority": 5}))
    return api


def _preempt(following: Following) -> dict[str, Any]:
    candidates = {
        name: {"Pods": [{"UID": f"uid-low{number}"}], "NumPDBViolations": 0}
        for number, name in enumerate("xy")
    }
    high = following.api.objects[PODS]["high"]
    question = {"Pod": high, "NodeNameToMetaVictims": candidates}
    answer = following.web.post("/preempt", json=question).get_json()
    return {
        name: [pod["UID"] for pod in victims["Pods"]]
        for name, victims in answer["NodeNameToMetaVictims"].items()
    }


def _nominated(following: Following) -> str:
    """The node that a pod with victims is to go to, as far as is known."""
    with following.service.ledger.locked() as cluster:
        return "".join(named.nominated for named in cluster.victims._named.values())


def _detail(following: Following) -> str:
    latest = following.web.get("/debug/decisions").get_json()["decisions"]
    return next(entry["detail"] for entry in latest if entry["verb"] == "preempt")


def _nominate(api: FakeApi, name: str) -> None:
    status = {"nominatedNodeName": name}
    api.put(PODS, pod_json("high", requests=GPU, spec={"priority": 5}, status=status))


def test_the_rest_of_an_evicted_gang_is_left_to_its_controller_by_default(
    two_nodes, follow
) -> None:
    following = follow().start()
    assert _preempt(following) == {"x": ["uid-low0"], "y": ["uid-low1"]}, "no label protects"
    assert "left to their workload's controller" in _detail(following)
    assert "gangs" not in following.live.caretaker.chores


def test_the_rest_of_an_evicted_gang_is_evicted_once_kube_scheduler_has_begun(
    two_nodes, follow
) -> None:
    following = follow(evict_gangs=True).start()
    assert _preempt(following) == {"x": ["uid-low0"], "y": ["uid-low1"]}
    assert "evicted once kube-scheduler has begun" in _detail(following)
    due = following.service.due_evictions
    two_nodes.next("POST", "/pods/low1/eviction", refuse(429))  # its budget does not allow it yet
    _nominate(two_nodes, "x")
    eventually(lambda: _nominated(following) == "x")
    assert due() == []
    going = _member("low0", 2, node="x", spec={"priority": -5}, deletionTimestamp=GONE)
    two_nodes.put(PODS, going)
    eventually(lambda: "low1" not in two_nodes.objects[PODS])
    eventually(lambda: following.metric("snugfit_gang_evictions_total") == 1)
    eventually(lambda: due() == [])
    assert "low0" in two_nodes.objects[PODS], "kube-scheduler's own business"


def test_nobody_is_evicted_on_account_of_a_node_that_was_not_chosen(two_nodes, follow) -> None:
    following = follow(evict_gangs=True).start()
    _preempt(following)
    two_nodes.put(NODES, node_json("z", gpus=1))
    _nominate(two_nodes, "z")
    two_nodes.delete(PODS, "low0")  # it has ended by itself
    following.equal()
    assert following.service.due_evictions() == []
    assert "low1" in two_nodes.objects[PODS]


def test_a_member_is_not_bound_once_the_others_have_lost_their_places(api, follow) -> None:
    """kube-scheduler may bind long after it has asked: somebody else may run there by then."""
    api.put(NODES, node_json("b", gpus=2))
    for name in ("m0", "m1"):
        api.put(PODS, _member(name, 2, spec={"schedulerName": "ours"}))
    api.put(PODS, pod_json("single", requests=GPU))
    late = Late()
    following = follow(clock=late)
    following.start()
    assert _passes(following, "m0") and _passes(following, "m1")
    assert not _passes(following, "single")
    late.by = 1000.0
    assert _passes(following, "single") and not _bind(following, "single")
    assert "does not fit" in _bind(following, "m0")
    api.delete(PODS, "single")
    eventually(lambda: not _bind(following, "m0"))
    assert not _bind(following, "m1")
    following.equal()
    assert following.service.holds == 0


def test_members_that_asked_before_a_restart_are_bound(api, follow) -> None:
    for name in ("m0", "m1"):
        api.put(PODS, _member(name, 2, spec={"schedulerName": "ours"}))
    following = follow().start()
    assert [_bind(following, name) for name in ("m0", "m1")] == ["", ""]
    following.equal()
    assert following.service.holds == 0
