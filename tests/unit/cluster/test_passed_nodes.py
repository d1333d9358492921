"""A live service that has not heard yet of what kube-scheduler knows: it does not refuse for it."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.core.model import Reason
from testbed.fake_api import NODES, PODS, eventually
from testbed.kube_objects import node_json, pod_json
from tests.following import MILLI, Following

NIC = "example.com/nic"


@pytest.fixture
def following(api, follow) -> Following:
    api.put(NODES, node_json("a", cpu="4", allocatable={MILLI: "2000", NIC: "2", "pods": "2"}))
    api.put(PODS, pod_json("ends", node="a", requests={"cpu": "3", NIC: "2"}))
    made = follow(reservation_ttl_s=60.0).start()
    made.equal()
    return made


def _filter(following: Following, pod: dict[str, Any], nodes: tuple[str, ...] = ("a",)) -> Any:
    body = {"Pod": pod, "NodeNames": list(nodes)}
    return following.web.post("/filter", json=body).get_json()


def _scores(following: Following, pod: dict[str, Any], nodes: tuple[str, ...]) -> dict[str, int]:
    body = {"Pod": pod, "NodeNames": list(nodes)}
    answer = following.web.post("/prioritize", json=body).get_json()
    return {one["Host"]: one["Score"] for one in answer}


def _bind(following: Following, name: str) -> str:
    call = {"PodName": name, "PodNamespace": "ns", "PodUID": f"uid-{name}", "Node": "a"}
    error: str = following.web.post("/bind", json=call).get_json()["Error"]
    return error


def _pending(following: Following, name: str, **requests: str) -> dict[str, Any]:
    pod = pod_json(name, requests=requests)
    following.api.put(PODS, pod)
    return pod


def test_a_pod_is_bound_where_another_has_ended_without_our_hearing_of_it(api, following) -> None:
    asks = _pending(following, "asks", cpu="3", **{NIC: "2", MILLI: "500"})
    api.muted = True
    api.delete(PODS, "ends")
    assert _filter(following, asks)["NodeNames"] == ["a"]
    assert _scores(following, asks, ("a",)) == {"a": 10}
    assert _bind(following, "asks") == ""
    with following.service.exclusive() as engine:
        row = engine.state.row("a")
        assert (engine.state.cpu_free[row], engine.state.pods_free[row]) == (-2000, 0)
        assert engine.state.counted.free[row].tolist() == [-2]
        assert engine.state.check() == []
    for path in ("/metrics", "/debug/state"):
        assert following.web.get(path).status_code == 200
    assert following.service.planning_view().nodes
    api.muted = False
    following.equal()
    with following.service.exclusive() as engine:
        assert engine.state.cpu_free[engine.state.row("a")] == 1000


def test_a_node_with_room_is_better_than_one_that_is_full_as_far_as_we_know(api, following) -> None:
    api.put(NODES, node_json("c", cpu="4", allocatable={MILLI: "2000", "pods": "2"}))
    following.equal()
    asks = pod_json("asks", requests={"cpu": "2"})
    assert _filter(following, asks, ("a", "c"))["NodeNames"] == ["a", "c"]
    first = _scores(following, asks, ("a", "c"))
    assert sorted(first) == ["a", "c"] and max(first.values()) == 10
    assert _scores(following, asks, ("c", "a")) == first


def test_devices_refuse_all_the_same(following) -> None:
    said = _filter(following, pod_json("asks", requests={"cpu": "3", MILLI: "3000"}))
    assert said["FailedAndUnresolvableNodes"] | said["FailedNodes"] == {
        "a": Reason.NODE_TOO_SMALL.text
    }


def test_a_reservation_for_another_pod_refuses_until_it_ends(api, following) -> None:
    first = _pending(following, "first", cpu="1")
    assert _filter(following, first)["NodeNames"] == ["a"]  # the only one, so it is kept for it
    second = _pending(following, "second", cpu="1")
    said = _filter(following, second)
    assert said["FailedAndUnresolvableNodes"] == {"a": Reason.INSUFFICIENT_CPU.text}
    assert following.service.missed(0.0) == []
    api.delete(PODS, "first")
    eventually(lambda: [pod.name for pod in following.service.missed(0.0)] == ["second"])
    assert following.service.missed(0.0) == []


def test_a_pod_that_was_passed_is_not_asked_to_come_again(api, following) -> None:
    asks = _pending(following, "asks", cpu="3")
    assert _filter(following, asks)["NodeNames"] == ["a"]
    following.service.missed(0.0)
    api.delete(PODS, "ends")
    following.equal()
    assert following.service.missed(0.0) == []


def test_a_dry_run_goes_by_what_is_known_here(following) -> None:
    body = {"Pod": pod_json("asks", requests={"cpu": "3"}), "NodeNames": ["a"]}
    said = following.web.post("/filter-dryrun", json=body).get_json()
    assert not said["NodeNames"]


def test_a_counted_resource_that_is_kept_for_another_pod_is_named(api, following) -> None:
    tpu = "example.com/tpu"
    api.put(NODES, node_json("c", allocatable={NIC: "4", tpu: "1"}))
    following.equal()
    assert _filter(following, _pending(following, "first", **{NIC: "3"}), ("c",))["NodeNames"]
    asks = _pending(following, "second", **{tpu: "1", NIC: "2"})
    said = _filter(following, asks, ("a", "b", "c"))
    assert said["NodeNames"] == ["a", "b"]
    assert said["FailedAndUnresolvableNodes"] == {
        "c": f"{Reason.INSUFFICIENT_RESOURCE.text}: {NIC}"
    }


def test_a_pod_that_runs_gets_nothing_whoever_asks_about_it_late(api, following) -> None:
    """Its node is not known yet; another kube-scheduler has bound it."""
    api.put(PODS, pod_json("bound", node="late", requests={MILLI: "500"}))
    eventually(lambda: "uid-bound" in following.service.sync.pods)
    late = pod_json("bound", requests={MILLI: "500"})
    assert _filter(following, late)["NodeNames"] == ["a"]
    assert _scores(following, late, ("a",)) == {"a": 10}
    assert following.service.holds == 0 and following.service.planning_view().pending == ()
    assert not _filter(following, pod_json("bound", requests={MILLI: "5000"}))["NodeNames"]
    with following.service.ledger.locked() as cluster:
        assert not len(cluster.requeue), "it is nobody to be told that it fits"
    api.put(NODES, node_json("late", cpu="4", allocatable={MILLI: "2000"}))
    eventually(lambda: len(following.service.planning_view().placements) == 2)
    following.equal()


def _gang(following: Following, size: int, **requests: str) -> list[dict[str, Any]]:
    made = [
        pod_json(
            f"m{number}",
            requests=requests,
            labels={"scheduling.x-k8s.io/pod-group": "g"},
            annotations={"snugfit.io/gang-size": str(size)},
        )
        for number in range(size)
    ]
    for each in made:
        following.api.put(PODS, each)
    eventually(lambda: {f"uid-m{n}" for n in range(size)} <= following.sync.pending.keys())
    return made


@pytest.mark.parametrize("requests", [{"cpu": "3"}, {"cpu": "8"}, {NIC: "2"}, {NIC: "7"}])
def test_a_gang_is_bound_where_others_have_ended_or_the_node_has_grown(
    api, following, requests
) -> None:
    members = _gang(following, 2, **requests, **{MILLI: "1000"})
    api.muted = True
    api.delete(PODS, "ends")
    grown = node_json("a", cpu="64", allocatable={MILLI: "2000", NIC: "64", "pods": "9"})
    api.put(NODES, grown)
    for member in members:
        said = _filter(following, member)
        assert said["NodeNames"] == ["a"], said
        assert _scores(following, member, ("a",)) == {"a": 10}
    for number in range(2):
        assert "waits for news" in _bind(following, f"m{number}")
    with following.service.exclusive() as engine:
        assert engine.state.check() == []
    api.muted = False
    eventually(lambda: _bind(following, "m0") == "")
    assert _bind(following, "m1") == ""
    following.equal()
    eventually(lambda: _left(following) == (64_000 - 2 * _milli_cpu(members[0]), 7))


def _left(following: Following) -> tuple[int, int]:
    """cpu and pods that are left of the node ``a``."""
    with following.service.exclusive() as engine:
        row = engine.state.row("a")
        return int(engine.state.cpu_free[row]), int(engine.state.pods_free[row])


def _milli_cpu(pod: dict[str, Any]) -> int:
    requests = pod["spec"]["containers"][0]["resources"]["requests"]
    return 1000 * int(requests.get("cpu", "0"))


def test_a_gang_is_refused_for_devices_however_late_the_rest_is(api, following) -> None:
    members = _gang(following, 3, cpu="3", **{MILLI: "1000"})
    api.muted = True
    api.delete(PODS, "ends")
    for member in members:
        said = _filter(following, member)["FailedAndUnresolvableNodes"]["a"]
        assert "2 of 3 missing members have a place" in said
    assert following.service.holds == 0


def test_a_gang_waits_for_what_is_reserved_for_another_pod(api, following) -> None:
    assert _filter(following, _pending(following, "first", cpu="1"))["NodeNames"] == ["a"]
    api.delete(PODS, "ends")
    following.equal()
    members = _gang(following, 2, cpu="2", **{MILLI: "1000"})
    assert "1 of 2" in _filter(following, members[0])["FailedAndUnresolvableNodes"]["a"]
    api.delete(PODS, "first")
    eventually(lambda: following.service.holds == 0)
    assert [_filter(following, member)["NodeNames"] for member in members] == [["a"], ["a"]]


def test_places_taken_on_late_news_stay_whatever_else_is_heard_of_the_node(api, following) -> None:
    """The news that come are of something else; the pod that has ended still runs for us."""
    members = _gang(following, 2, cpu="3", **{MILLI: "1000"})
    assert [_filter(following, member)["NodeNames"] for member in members] == [["a"], ["a"]]
    assert following.service.holds == 2
    before = _observed(following)
    told = node_json("a", cpu="4", allocatable={MILLI: "2000", NIC: "9", "pods": "2"})
    api.put(NODES, told)
    eventually(lambda: _observed(following) != before)
    assert following.service.holds == 2


def _observed(following: Following) -> Any:
    with following.service.ledger.locked() as cluster:
        return cluster.live.charges.nodes.observed["a"]
