"""A service that follows a cluster, with a fake API server for a cluster."""

from __future__ import annotations

import threading
from http import HTTPStatus
from typing import Any

import pytest

from scheduler.cluster.bind_request import BindRequest
from testbed.fake_api import LEASES, NODES, PODS, FakeApi, drop, eventually, refuse, say
from testbed.kube_objects import node_json, pod_json
from tests.builders import pod
from tests.following import BUDGETS, MILLI, Following


def _verb(following: Following, verb: str = "filter") -> int:
    body = {"Pod": pod_json("asking"), "NodeNames": ["a", "b"]}
    return following.web.post(f"/{verb}", json=body).status_code


def test_verbs_and_readiness_wait_for_the_first_sync(api, follow) -> None:
    for number in range(5):
        api.put(PODS, pod_json(f"p{number}", node="b", requests={"nvidia.com/gpu": "1"}))
    api.next("GET", PODS, refuse(503), drop)
    following = follow()
    assert following.web.get("/readyz").status_code == 503 and _verb(following) == 503
    following.start()
    assert following.web.get("/readyz").status_code == 200 and _verb(following) == 200
    following.equal()


def test_it_follows_through_turbulence(api, follow) -> None:
    following = follow().start()
    for turn in range(4):
        name = f"p{turn}"
        api.put(PODS, pod_json(name))
        api.put(PODS, pod_json(name, node="ab"[turn % 2], requests={MILLI: "100"}))
        following.equal()
        with api.changed:
            following.live.watches.interrupt()
            api.cut("broken")
            api.put(NODES, node_json(f"n{turn}", gpus=turn))
            if turn:
                api.delete(PODS, f"p{turn - 1}")
            if turn % 2:
                api.compact()
        following.equal()
    api.delete(NODES, "a")
    following.equal()
    api.put(PODS, pod_json("p3", node="b", phase="Succeeded"))
    following.equal()
    assert following.live.figures.faults == 0


def test_what_is_unreadable_in_a_list_keeps_its_room(api, follow) -> None:
    api.put(PODS, pod_json("p", node="b", requests={"nvidia.com/gpu": "4"}))
    following = follow().start()
    following.equal()
    with api.changed:
        following.live.watches.interrupt()
        broken = pod_json("p", node="b")
        broken["spec"]["containers"] = 5
        api.put(PODS, broken)
        api.put(PODS, pod_json("q", node="b"))
        api.compact()
    eventually(lambda: "uid-q" in following.sync.pods)
    with following.service.exclusive() as engine:
        assert engine.explain(pod("x", count=1), "b").name == "INSUFFICIENT_DEVICES"


def test_what_is_not_understood_is_named_with_its_effect(api, follow) -> None:
    asked = {"nvidia.com/gpu": "1", "snugfit.io/gpu-milli": "5"}
    api.put(PODS, pod_json("both", node="b", requests=asked))
    api.put(PODS, pod_json("waits", requests=asked))
    api.put(NODES, node_json("odd", gpus=1, allocatable={"nvidia.com/gpu": "-1"}))
    following = follow().start()
    with api.changed:
        following.live.watches.interrupt()
        broken = pod_json("part", node="b")
        broken["spec"]["containers"] = 5
        api.put(PODS, broken)
    eventually(lambda: following.live.detail()["unreadable_objects"] == 4)
    misread = {one["object"]: one for one in following.live.detail()["not_understood"]}
    assert set(misread) == {"Pod ns/both", "Pod ns/waits", "Pod ns/part", "Node odd"}
    assert "is charged" in misread["Pod ns/both"]["effect"]
    assert misread["Pod ns/waits"]["effect"] == "it fits nowhere"
    assert misread["Pod ns/part"]["field"] == "spec.containers"
    assert "withheld" in misread["Pod ns/part"]["effect"]
    assert "allocatable" in misread["Node odd"]["field"] and misread["Node odd"]["why"]
    api.put(PODS, pod_json("part", node="b"))
    eventually(lambda: following.live.detail()["unreadable_objects"] == 3)


def test_an_api_that_does_not_answer_fills_no_log(
    api, follow, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.cluster.follow._TURN_S", 0.001)
    refused = 0

    def refuse(handler: Any) -> bool:
        nonlocal refused
        refused += 1
        handler.send_error(503)
        return True

    api.script += [("GET", "/apis", refuse)] * 20
    following = follow().start()
    following.equal()
    lines = [r for r in caplog.records if "does not answer yet" in r.getMessage()]
    assert refused == 20 and len(lines) == 1


def test_one_object_that_cannot_be_applied_stops_no_other(api, follow, monkeypatch) -> None:
    """A fault of ours: told of, counted, and mended once it is gone."""
    following = follow()
    apply = following.sync.pod
    faulty = True

    def apply_or_fail(obj: Any) -> None:
        if obj.metadata.name == "p1" and faulty:
            raise ZeroDivisionError
        apply(obj)

    monkeypatch.setattr(following.sync, "pod", apply_or_fail)
    for number in range(3):
        api.put(PODS, pod_json(f"p{number}", node="b"))
    following.start()
    assert set(following.sync.pods) == {"uid-p0", "uid-p2"}
    assert following.live.figures.faults == 1 and following.metric("snugfit_watch_faults_total")
    faulty = False
    api.put(PODS, pod_json("p1", node="b"))
    following.equal()


def test_drift_is_found_told_of_and_mended(api, follow) -> None:
    api.put(PODS, pod_json("p", node="b", requests={"nvidia.com/gpu": "1"}))
    following = follow().start()
    following.equal()
    with following.service.exclusive() as engine:
        engine.release("uid-p")
    assert following.live.recount.run()
    assert following.metric("snugfit_drifts_total") == 1
    assert following.live.recount.run() == []
    following.equal()


def _answers_when_heard_of(api: FakeApi, following: Following) -> bool:
    """Whether a verb is answered just after a word of nodes and pods."""
    for path in (NODES, PODS):
        api.bookmark(path)
    return _verb(following) == 200


def test_a_stale_watch_stops_the_answers_if_that_is_configured(api, follow) -> None:
    following = follow(stale_after_s=0.4, watch_groups="podgroups.nowhere.io").start()
    assert _verb(following) in (200, 503)
    api.muted = True
    eventually(lambda: _verb(following) == 503)
    assert following.web.get("/readyz").status_code == 200, "what it knows is still known"
    api.muted = False
    eventually(lambda: _answers_when_heard_of(api, following))


def test_a_kind_that_is_not_served_makes_nothing_stale(api, follow) -> None:
    del api.objects[BUDGETS]
    following = follow(stale_after_s=0.5).start()
    eventually(lambda: following.live.watches.ages()["poddisruptionbudgets"] > 0.5)
    eventually(lambda: _answers_when_heard_of(api, following))


@pytest.mark.parametrize("late", [False, True])
def test_gangs_learn_their_size_from_group_objects(api, follow, late) -> None:
    """Served from the start, or since their operator was installed beside a running extender."""
    group = {
        "metadata": {"name": "g", "namespace": "ns"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": 3}}},
    }
    served = '{"resources": [{"name": "podgroups", "kind": "PodGroup"}]}'
    path = "/apis/scheduling.k8s.io/v1/podgroups"

    def serve() -> None:
        api.next("GET", "/apis/scheduling.k8s.io/v1", say(served))
        api.next("GET", "/apis/scheduling.k8s.io",
                 say('{"versions": [{"groupVersion": "scheduling.k8s.io/v1"}]}'))  # fmt: skip
        api.objects[path] = {}

    if not late:
        serve()
    api.put(PODS, pod_json("m", spec={"schedulingGroup": {"podGroupName": "g"}}))
    following = follow(watch_groups="podgroups.scheduling.k8s.io").start()
    if late:
        following.live.watches.look_for_gangs()
        assert set(following.live.watches.ages()) == {"nodes", "pods", "poddisruptionbudgets"}
        serve()
        following.live.watches.look_for_gangs()
        following.live.watches.look_for_gangs()

    def size() -> int:
        with following.service.ledger.locked() as cluster:
            return cluster.gangs.members.minimum(cluster.live.pending["uid-m"].gang)

    assert size() == 1
    api.put(path, group)
    eventually(lambda: size() == 3)
    api.delete(path, "g")
    eventually(lambda: size() == 1)


def test_an_expired_hold_of_a_pod_that_is_bound_is_never_freed(api, follow) -> None:
    """The watch says nothing; the pod itself is asked before its room is given away."""
    api.put(PODS, pod_json("p", requests={MILLI: "600"}))
    api.put(PODS, pod_json("q", requests={MILLI: "600"}))
    following = follow().start()
    api.muted = True
    api.put(PODS, pod_json("p", node="a", requests={MILLI: "600"}))
    with following.service.exclusive() as engine:
        waiting = dict(following.sync.pending)
        for request in waiting.values():
            engine.reserve_until(request, "a", 0.0)  # both are overdue at once
    eventually(lambda: not following.service.holds)
    with following.service.exclusive() as engine:
        assert set(engine.state.placements) == {"uid-p"}
    api.muted = False
    api.bookmark(PODS)
    following.equal()


def test_only_the_holder_of_the_lease_answers(api, follow) -> None:
    settings = {"lease_namespace": "ns", "lease_name": "snugfit", "lease_s": 60.0}
    first = follow(**settings).start()
    eventually(lambda: _verb(first) == 200)
    second = follow(identity="another", **settings).start()
    eventually(lambda: api.count(LEASES) > 2)
    second.live.lease.attempt()
    assert _verb(second) == 503 and second.web.get("/readyz").status_code == 200
    first.live.stop()
    assert _verb(first) == 503
    second.live.lease.attempt()  # its own turn would come in a third of the lease
    eventually(lambda: _verb(second) == 200)


def test_stopping_ends_every_thread_even_where_the_queue_is_full(api, follow, monkeypatch) -> None:
    monkeypatch.setattr("scheduler.cluster.inbox._MOST_QUEUED", 1)
    before = set(threading.enumerate())
    following = follow(lease_namespace="ns", lease_name="snugfit", lease_s=2.0).start()
    with following.service.exclusive():  # nothing is applied meanwhile
        for number in range(5):
            api.put(PODS, pod_json(f"p{number}"))
        eventually(lambda: following.live.inbox.full)
        following.live._stop.set()
    following.live.stop()
    ours = [
        thread
        for thread in set(threading.enumerate()) - before
        if not thread.name.startswith("Thread-")  # those serve the fake
    ]
    eventually(lambda: not any(thread.is_alive() for thread in ours))


def test_a_bind_through_the_verb_ends_on_the_pod_and_in_the_state(api, follow) -> None:
    following = follow().start()
    api.put(PODS, pod_json("p", requests={MILLI: "500"}))
    eventually(lambda: "uid-p" in following.sync.pending)
    assert following.service.bind(BindRequest("p", "ns", "uid-p", "a")) == ""
    eventually(lambda: "uid-p" in following.sync.pods)
    following.equal()
    assert following.metric('snugfit_binds_total{result="bound"}') == 1


def _ask(following: Following, name: str) -> list[str]:
    """Filter a pod as kube-scheduler does, which knows that only one node offers milli-GPU."""
    question = {"Pod": following.api.objects[PODS][name], "Nodes": None, "NodeNames": ["a"]}
    answer = following.web.post("/filter", json=question)
    assert answer.status_code == 200
    return list(answer.get_json()["NodeNames"] or [])


def test_who_comes_and_who_leaves_is_counted_from_what_the_api_says(api, follow) -> None:
    """Whoever gets a node, asked about or not, and whoever had one and goes."""
    following = follow(reservation_ttl_s=0.0).start()
    share = [following.service.planning_view().pricing.departures]
    for turn in range(3):
        name = f"p{turn}"
        api.put(PODS, pod_json(name, requests={MILLI: "100"}))
        eventually(lambda uid=f"uid-{name}": uid in following.sync.pending)
        if turn:
            assert "a" in _ask(following, name)
        api.put(PODS, pod_json(name, node="a", requests={MILLI: "100"}))
        eventually(lambda uid=f"uid-{name}": uid in following.sync.pods)
    share.append(following.service.planning_view().pricing.departures)
    assert share == [0.0, 0.0]  # nobody has left
    api.delete(PODS, "p0")
    eventually(lambda: following.service.planning_view().pricing.departures > 0)
    with_one = following.service.planning_view().pricing.departures
    assert 0 < with_one < 0.01  # one of three, but three are too few to tell
    # A pod that goes without ever having had a node is none that leaves.
    api.put(PODS, pod_json("never", requests={MILLI: "100"}))
    eventually(lambda: "uid-never" in following.sync.pending)
    _ask(following, "never")
    api.delete(PODS, "never")
    eventually(lambda: "uid-never" not in following.sync.pending)
    assert following.service.planning_view().pricing.departures == with_one


def test_a_cluster_with_running_pods_is_taken_to_hold_its_level(api, follow) -> None:
    api.put(PODS, pod_json("there", node="a", requests={MILLI: "100"}))
    assert follow().start().service.planning_view().pricing.departures == 1.0


@pytest.mark.parametrize("status", [403, 429, 503])
def test_a_pod_refused_too_early_is_woken_once(api, follow, status) -> None:
    """Also if the API server will not have it, which is told; later if it cannot now."""
    api.put(PODS, pod_json("first", node="a", requests={MILLI: "2000"}))
    for name in ("second", "third"):
        api.put(PODS, pod_json(name, requests={MILLI: "2000"}))
    following = follow(requeue_after_s=0.1, reservation_ttl_s=0.0).start()
    api.next("PATCH", "/pods/second/status", refuse(status))
    assert _ask(following, "second") == _ask(following, "third") == []
    api.delete(PODS, "first")
    tries, wakeups = (1, 1) if status == HTTPStatus.FORBIDDEN else (2, 2)
    eventually(lambda: following.metric("snugfit_requeues_total") == wakeups)
    woken = [
        name
        for name, obj in api.objects[PODS].items()
        if "snugfit.io/woken-at" in (obj["metadata"].get("annotations") or {})
    ]
    assert woken == ["second", "third"][-wakeups:]
    assert api.count("/pods/second/status") == tries
    assert _ask(following, "third") == ["a"]
    following.equal()


def _gpus_of_the_profile(following: Following) -> set[int]:
    return {shape.gpu.count for shape in following.service.profile.shapes}


def test_the_profile_starts_from_the_pods_that_run_and_follows_those_of_other_replicas(
    api, follow
) -> None:
    """After a restart, or on a replica that is never asked; pods without devices do not count."""
    api.put(PODS, pod_json("one", node="b", requests={"nvidia.com/gpu": "1"}))
    api.put(PODS, pod_json("daemon", node="b"))
    following = follow().start()
    assert _gpus_of_the_profile(following) == {1}
    assert all(shape.gpu.requested_milli for shape in following.service.profile.all_shapes)
    api.put(PODS, pod_json("two", node="b", requests={"nvidia.com/gpu": "2"}))
    eventually(lambda: _gpus_of_the_profile(following) == {1, 2})


def test_a_profile_that_is_given_stays(api, follow, tmp_path) -> None:
    api.put(PODS, pod_json("one", node="b", requests={"nvidia.com/gpu": "1"}))
    following = follow(workload_profile_file=str(tmp_path / "read by serve")).start()
    api.put(PODS, pod_json("two", node="b", requests={"nvidia.com/gpu": "2"}))
    following.equal()
    assert following.service.profile.shapes == ()  # as this engine was made
