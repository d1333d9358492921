"""Nothing is forgotten: what could not be applied is read again, and what is known is compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from scheduler.cluster.bind_request import BindRequest
from scheduler.cluster.inbox import Exists, ExistsInPart, Gone, ListBegins, ListEnds, Message
from scheduler.cluster.ledger import Cluster
from scheduler.kube.objects import PodObject
from scheduler.kube.salvage import InPart
from testbed.fake_api import NODES, PODS, FakeApi, drop, eventually, refuse, say
from testbed.kube_objects import node_json, node_object, pod_json, pod_object
from tests.builders import pod
from tests.following import BUDGETS, MILLI, Following

GPU = "nvidia.com/gpu"


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Turns and pauses are what they are, but short."""
    monkeypatch.setattr("scheduler.cluster.housekeeping._TURN_S", 0.01)
    monkeypatch.setattr("scheduler.cluster.audit._CONFIRMED_AFTER_S", 0.05)
    monkeypatch.setattr("scheduler.cluster.audit._FIRST_S", 0.02)


class _Faulty:
    """A method that fails while it is told to, whatever the exception."""

    def __init__(self, monkeypatch, owner: Any, method: str, concerns: Callable[[Any], bool]):
        self.failing: Exception | None = ZeroDivisionError("a fault of ours")
        self.failed = 0
        self._concerns, self._real = concerns, getattr(owner, method)
        monkeypatch.setattr(owner, method, self)

    def __call__(self, what: Any) -> Any:
        if self.failing is not None and self._concerns(what):
            self.failed += 1
            raise self.failing
        return self._real(what)


def _named(name: str) -> Callable[[Any], bool]:
    return lambda obj: obj.metadata.name == name


@pytest.mark.parametrize("error", [ValueError("5,000 digits"), OverflowError(), KeyError("x")])
@pytest.mark.parametrize("when", ["listed", "added", "changed"])
def test_a_pod_that_cannot_be_applied_is_read_again_until_it_can(
    api, follow, monkeypatch, error: Exception, when: str
) -> None:
    """Nobody sends it again."""
    following = follow()
    faulty = _Faulty(monkeypatch, following.sync, "pod", _named("p"))
    faulty.failing = error if when == "listed" else None
    if when != "added":
        api.put(PODS, pod_json("p", node="b", requests={GPU: "1"}))
    api.put(PODS, pod_json("q", node="b", requests={GPU: "1"}))
    following.start()
    faulty.failing = error
    if when != "listed":
        api.put(PODS, pod_json("p", node="a", uid="another", requests={MILLI: "300"}))
    eventually(lambda: faulty.failed >= 3)
    assert following.metric("snugfit_objects_in_doubt") == 1
    assert following.metric("snugfit_watch_faults_total") >= 3
    assert "uid-q" in following.sync.pods
    faulty.failing = None
    following.equal()
    eventually(lambda: following.metric("snugfit_objects_in_doubt") == 0)


def test_a_deletion_that_cannot_be_applied_is_tried_again(api, follow, monkeypatch) -> None:
    api.put(PODS, pod_json("p", node="b", requests={GPU: "1"}))
    following = follow()
    faulty = _Faulty(monkeypatch, following.sync, "pod_gone", lambda uid: uid == "uid-p")
    following.start()
    api.delete(PODS, "p")
    eventually(lambda: faulty.failed >= 3)
    assert "uid-p" in following.sync.pods
    faulty.failing = None
    following.equal()


def test_a_removal_by_a_new_list_that_cannot_be_applied_is_tried_again(
    api, follow, monkeypatch
) -> None:
    api.put(PODS, pod_json("p", node="b"))
    following = follow()
    faulty = _Faulty(monkeypatch, following.sync, "pod_gone", lambda uid: uid == "uid-p")
    following.start()
    with api.changed:
        following.live.watches.interrupt()
        api.cut("broken")
        api.delete(PODS, "p")
        api.compact()
    eventually(lambda: faulty.failed >= 3)
    faulty.failing = None
    following.equal()


def test_nodes_and_budgets_are_read_again_too(api, follow, monkeypatch) -> None:
    following = follow()
    faulty = _Faulty(monkeypatch, following.sync, "node", _named("late"))
    following.start()
    budgets = following.live.watches.get("poddisruptionbudgets").kind
    keep, budgets.apply = budgets.apply, _fail
    api.put(NODES, node_json("late", gpus=2))
    api.put(BUDGETS, {"metadata": {"name": "pdb", "namespace": "ns"}})
    eventually(lambda: faulty.failed >= 2 and following.metric("snugfit_objects_in_doubt") == 2)
    faulty.failing, budgets.apply = None, keep
    following.equal()
    eventually(lambda: "ns/pdb" in following.sync.budgets)


def _fail(*_: object) -> None:
    raise ArithmeticError


@pytest.mark.parametrize("trouble", [refuse(503), refuse(403), drop, say("<html>a proxy</html>")])
def test_an_api_that_does_not_answer_puts_it_off(api, follow, monkeypatch, trouble) -> None:
    following = follow()
    faulty = _Faulty(monkeypatch, following.sync, "pod", _named("p"))
    following.start()
    api.next("GET", "metadata.name", *[trouble] * 3)
    api.put(PODS, pod_json("p", node="b", requests={GPU: "1"}))
    eventually(lambda: api.count("metadata.name") >= 3)
    faulty.failing = None
    following.equal()


def test_an_answer_that_is_older_than_an_event_counts_for_nothing(api, follow, monkeypatch) -> None:
    """The pod was read, then it is deleted, then the answer arrives."""
    following = follow()
    faulty = _Faulty(monkeypatch, following.sync, "pod", _named("p"))
    following.start()

    def answer_late(handler: Any) -> bool:
        old = {"metadata": {}, "items": [dict(api.objects[PODS]["p"])]}
        faulty.failing = None
        api.delete(PODS, "p")
        eventually(lambda: following.metric("snugfit_objects_in_doubt") == 0)
        handler.answer(old)
        return True

    api.next("GET", "metadata.name", answer_late)
    api.put(PODS, pod_json("p", node="b", requests={GPU: "1"}))
    eventually(lambda: not api.script and "p" not in api.objects[PODS])
    rereads = following.live.figures.rereads
    eventually(lambda: following.live.figures.rereads > rereads or rereads)
    following.equal()
    assert not following.sync.pods


def test_a_message_that_nobody_can_assign_leads_to_a_new_list(api, follow) -> None:
    following = follow().start()
    kind = following.live.watches.get("pods").kind
    identity, kind.identity = kind.identity, _fail
    api.put(PODS, pod_json("p", node="b"))
    eventually(lambda: following.metric("snugfit_watch_faults_total"))
    kind.identity = identity
    following.equal()
    assert following.live.watches.restarts()["pods", "relisted"] >= 1


# -- what nobody has noticed -----------------------------------------------------------------------


def _forget(following: Following) -> None:
    following.sync.pod_gone("uid-p")


def _invent(following: Following) -> None:
    following.sync.pod(pod_object("ghost", node="b", requests={GPU: "2"}))


def _move(following: Following) -> None:
    following.sync.pod_gone("uid-p")
    following.sync.pod(pod_object("p", node="a", requests={GPU: "1"}))


def _shrink(following: Following) -> None:
    following.sync.pod(pod_object("p", node="b", requests={"cpu": "1"}))


def _lose_the_node(following: Following) -> None:
    following.sync.node_gone("b")


def _invent_a_node(following: Following) -> None:
    following.sync.node(node_object("ghost", gpus=4))


@pytest.mark.parametrize("harm", [_forget, _invent, _move, _shrink, _lose_the_node, _invent_a_node])
def test_what_is_not_known_as_the_api_has_it_is_found_and_mended(
    api, follow, harm: Callable[[Following], None]
) -> None:
    """The recount, which compares with what is known, sees nothing of it."""
    api.put(PODS, pod_json("p", node="b", requests={GPU: "1"}))
    api.put(PODS, pod_json("q", node="b", requests={GPU: "1"}))
    following = follow(audit_s=0.0).start()
    following.equal()
    with following.service.exclusive():
        harm(following)
    assert following.live.recount.run() == []
    assert following.live.audit.audit() >= 1
    eventually(lambda: following.metric("snugfit_audit_drifts_total") == 1)
    following.equal()
    assert following.live.audit.audit() == 0
    with following.service.exclusive() as engine:
        assert engine.state.placements["uid-p"].pod.gpu.count == 1


def test_an_event_that_was_lost_is_found(api, follow, monkeypatch) -> None:
    """As if the API server had not sent it: an addition, a change and a deletion."""
    for name in ("changed", "deleted"):
        api.put(PODS, pod_json(name, node="b", requests={GPU: "1"}))
    following = follow(audit_s=0.05).start()
    following.equal()
    live = following.live
    apply, lost = live.applier.apply, []

    def lose(cluster: Cluster, message: Message) -> None:
        if message.watched.label == "pods" and isinstance(message, Exists | Gone):
            lost.append(message.obj.metadata.name)
        else:
            apply(cluster, message)

    monkeypatch.setattr(live.applier, "apply", lose)
    api.put(PODS, pod_json("added", node="b", requests={GPU: "1"}))
    api.put(PODS, pod_json("changed", node="b", phase="Succeeded"))
    api.delete(PODS, "deleted")
    eventually(lambda: {"added", "changed", "deleted"} <= set(lost))
    following.equal()
    eventually(lambda: following.metric("snugfit_audit_drifts_total") == 3)


def test_events_under_way_are_no_drift(api, follow) -> None:
    """The cluster changes all the time while it is compared."""
    following = follow(audit_s=0.01).start()
    for turn in range(60):
        name = f"p{turn % 7}"
        if name in api.objects[PODS] and turn % 3:
            api.delete(PODS, name)
        else:
            uid = f"uid-{turn}"
            api.put(PODS, pod_json(name, uid=uid))
            api.put(PODS, pod_json(name, uid=uid, node="ab"[turn % 2], requests={MILLI: "10"}))
        if turn % 10 == 0:
            api.put(NODES, node_json(f"n{turn}", gpus=1))
    audits = following.live.figures.audits
    eventually(lambda: following.live.figures.audits >= audits + 3)
    following.equal()
    assert following.metric("snugfit_audit_drifts_total") == 0


def test_a_binding_of_ours_that_the_watch_has_not_told_of_is_no_drift(api, follow) -> None:
    following = follow().start()
    api.put(PODS, pod_json("p", requests={MILLI: "500"}))
    eventually(lambda: "uid-p" in following.sync.pending)
    assert following.service.bind(BindRequest("p", "ns", "uid-p", "a")) == ""
    following.live.audit.audit()
    following.equal()
    eventually(lambda: following.metric("snugfit_objects_in_doubt") == 0)
    assert following.metric("snugfit_audit_drifts_total") == 0


def test_only_the_replica_that_answers_compares(api, follow) -> None:
    settings = {"lease_namespace": "ns", "lease_name": "snugfit", "lease_s": 60.0}
    first = follow(audit_s=0.02, **settings).start()
    eventually(lambda: first.live.lease.held)
    second = follow(identity="another", audit_s=0.02, **settings).start()
    eventually(lambda: first.live.figures.audits >= 5)
    assert second.live.figures.audits == 0


def test_an_audit_that_the_api_refuses_is_counted_and_comes_again(api, follow) -> None:
    api.put(PODS, pod_json("p", node="b"))
    following = follow(audit_s=0.02).start()
    api.next("GET", f"{PODS}?limit", refuse(500), drop, refuse(403))
    eventually(lambda: following.metric('snugfit_chore_faults_total{chore="audit"}') == 3)
    audits = following.live.figures.audits
    eventually(lambda: following.live.figures.audits > audits)


# -- what cannot be read ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("tolerations", 5),
        ("affinity", "anti"),
        ("priority", "high"),
        ("schedulingGates", {"a": []}),
        ("workloadRef", 10**30),
    ],
)
def test_a_pod_that_can_be_read_in_part_is_charged_by_that_part(
    api: FakeApi, follow, part: str, value: object
) -> None:
    """Also after a restart; and its deletion is understood."""
    odd = pod_json("odd", node="b", requests={GPU: "3"})
    odd["spec"][part] = value
    for _ in range(2):
        api.put(PODS, odd)
        following = follow().start()
        eventually(lambda f=following: "uid-odd" in f.sync.pods)
        with following.service.exclusive() as engine:
            assert engine.state.placements["uid-odd"].pod.gpu.count == 3
        assert following.metric('snugfit_unreadable_objects{kind="Pod"}') == 1
        api.delete(PODS, "odd")
        following.equal()
        assert following.metric('snugfit_unreadable_objects{kind="Pod"}') == 0
        following.live.stop()


def test_a_pod_that_becomes_readable_is_in_no_doubt_any_more(api, follow) -> None:
    odd: dict[str, Any] = pod_json("odd", node="b", requests={GPU: "3"})
    odd["metadata"]["ownerReferences"] = "nobody"
    api.put(PODS, odd)
    following = follow().start()
    eventually(lambda: following.metric("snugfit_objects_in_doubt") == 1)
    api.objects[PODS]["odd"]["metadata"]["ownerReferences"] = []  # and no event tells of it
    eventually(lambda: following.metric("snugfit_objects_in_doubt") == 0)
    following.equal()


def test_an_object_without_a_name_ends_nothing_that_is_known(api, follow) -> None:
    api.put(PODS, pod_json("p", node="b"))
    following = follow().start()
    pods = following.live.watches.get("pods")
    with following.service.ledger.locked() as cluster:
        for message in (
            ListBegins(pods),
            ExistsInPart(pods, InPart(PodObject(), ("metadata.name",))),
            ListEnds(pods),
        ):
            following.live.applier.apply(cluster, message)
    assert "uid-p" in following.sync.pods


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("spec", {"containers": 5}),
        ("spec", {"containers": [{"name": "c", "resources": {"limits": {GPU: []}}}]}),
        ("spec", {"initContainers": [{"resources": 7}]}),
        ("spec", {"overhead": "much"}),
        ("metadata", {"annotations": {"a": {}}}),
    ],
)
def test_where_nobody_knows_what_a_pod_asks_for_devices_are_withheld(
    api, follow, where: str, what: dict[str, Any]
) -> None:
    """From the start on; until it can be read, or is gone."""
    odd = pod_json("odd", node="b")
    odd[where] |= what
    api.put(PODS, odd)
    api.put(PODS, pod_json("fine", node="b", requests={GPU: "1"}))
    following = follow().start()
    eventually(lambda: "uid-odd" in following.sync.pods)

    def fits(name: str = "b") -> bool:
        with following.service.exclusive() as engine:
            asked = {"count": 1} if name == "b" else {"milli": 100}
            return engine.explain(pod("x", cpu=1, memory=1, **asked), name).name == "FITS"

    assert not fits() and fits("a")
    with following.service.exclusive() as engine:
        assert engine.explain(pod("x", cpu=1, memory=1), "b").name == "FITS", "cpu is no device"
    assert following.metric("snugfit_uncertain_nodes") == 1
    assert following.live.recount.run() == []
    api.put(NODES, node_json("b", gpus=4, labels={"changed": "yes"}))
    api.put(PODS, pod_json("odd", node="b", requests={GPU: "2"}))
    eventually(fits)
    following.equal()
    api.put(PODS, odd | {"metadata": odd["metadata"] | {"uid": "uid-again"}})
    eventually(lambda: not fits())
    api.delete(PODS, "odd")
    eventually(fits)
    following.equal()
