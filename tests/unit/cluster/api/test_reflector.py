"""List and watch: whatever breaks, it recovers by itself and ends in the truth."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from scheduler.cluster.api.reflector import Reflector, WatchTiming
from scheduler.kube.objects import PodObject, pod_decoder
from testbed.fake_api import PODS, FakeApi, drop, events, eventually, refuse, say, serving
from testbed.kube_objects import pod_json

QUICK = WatchTiming(page=2, watch_s=30, read_s=60.0, backoff_s=0.01, most_backoff_s=0.05,
                    absent_s=0.05)  # fmt: skip
# No watch ends by itself within a test.
PATIENT = WatchTiming(page=2, watch_s=3000, read_s=600.0, backoff_s=0.01, most_backoff_s=0.05)


class Known:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.pods: dict[str, str] = {}
        self.pages: list[int] = []
        self.unlisted: set[str] = set()

    def listing(self) -> None:
        self.unlisted = set(self.pods)

    def page(self, objects: Any, unread: Any = ()) -> None:
        self.pages.append(len(objects))
        for obj in objects:
            self.event("ADDED", obj)
        self.unlisted -= {obj.metadata.name for obj in [*objects, *(u.obj for u in unread)]}

    def listed(self) -> None:
        for name in self.unlisted:
            del self.pods[name]

    def event(self, kind: str, obj: PodObject) -> None:
        if kind == "DELETED":
            self.pods.pop(obj.metadata.name, None)
        elif kind != "UNREADABLE":
            self.pods[obj.metadata.name] = obj.metadata.resource_version


class Watching:
    """A reflector over a fake API server with three pods."""

    def __init__(self, api: FakeApi, timing: WatchTiming = QUICK) -> None:
        self.api, self.known = api, Known()
        self.unreadable: list[str] = []
        for name in "abc":
            self.change(name)
        self.reflector = Reflector(
            api.client(), PODS, pod_decoder, self.known, label="pods", timing=timing,
            unreadable=self.unreadable.append,
        )  # fmt: skip

    def start(self) -> None:
        self.reflector.start()
        eventually(lambda: self.reflector.figures.lists)
        self.true()

    def change(self, name: str) -> None:
        self.api.put(PODS, pod_json(name))

    def true(self) -> None:
        """Wait until what is known is what exists."""

        def holds() -> bool:
            known = dict(self.known.pods)
            exists = {
                name: obj["metadata"]["resourceVersion"]
                for name, obj in self.api.objects[PODS].items()
            }
            return known == exists

        eventually(holds)

    @property
    def restarts(self) -> dict[str, int]:
        return dict(self.reflector.figures.restarts)


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with serving() as made:
        yield made


@pytest.fixture
def watching(api) -> Iterator[Watching]:
    made = Watching(api)
    yield made
    made.reflector.stop()


def _turbulence(watching: Watching) -> None:
    """Changes of every kind, so that a lost one would show."""
    watching.change("a")
    watching.change("new")
    watching.api.delete(PODS, "b")
    watching.true()


def test_a_list_comes_in_pages_and_the_watch_goes_on_from_there(watching) -> None:
    watching.start()
    assert watching.known.pages == [2, 1]
    _turbulence(watching)
    assert watching.restarts == {} and watching.reflector.figures.lists == 1


def test_a_bookmark_moves_the_version_on_without_an_object(api, watching) -> None:
    """After it, compaction of everything before costs no new list."""
    watching.start()
    heard = watching.reflector.figures.evidence_at
    api.bookmark(PODS)
    eventually(lambda: watching.reflector.figures.evidence_at > heard)
    eventually(lambda: watching.reflector._version == str(api.version))
    api.compact()
    api.cut()
    _turbulence(watching)
    assert watching.reflector.figures.lists == 1


def test_an_orderly_end_goes_on_from_the_last_version(api, watching) -> None:
    watching.start()
    watching.change("a")
    watching.true()
    seen = api.version
    api.cut()
    eventually(lambda: api.count(f"resourceVersion={seen}"))
    _turbulence(watching)
    assert watching.reflector.figures.lists == 1


@pytest.mark.parametrize("how", ["broken", "mid line"])
def test_a_connection_that_breaks_is_taken_up_again(api, watching, how) -> None:
    watching.start()
    for _ in range(3):
        api.cut(how)
        _turbulence(watching)
        watching.change("b")
        watching.true()
    assert watching.reflector.figures.lists == 1


def test_compaction_told_by_a_status_leads_to_a_new_list(api, watching) -> None:
    watching.start()
    with api.changed:  # all of it before anybody can connect again
        api.cut()
        api.delete(PODS, "c")
        api.put(PODS, pod_json("d"))
        api.compact()
    watching.true()
    _turbulence(watching)
    assert watching.restarts["http_410"] == 1 and watching.reflector.figures.lists == 2


def test_compaction_told_by_an_event_leads_to_a_new_list(api, watching) -> None:
    watching.start()
    gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}}
    api.next("GET", "watch=1", events(gone))
    api.cut()
    _turbulence(watching)
    eventually(lambda: watching.restarts.get("expired") == 1)
    watching.true()
    assert watching.reflector.figures.lists == 2


def _change_unheard(api: FakeApi) -> None:
    """A change that only a list shows."""
    with api.changed:
        api.objects[PODS]["unheard"] = pod_json("unheard")
        api.objects[PODS]["unheard"]["metadata"]["resourceVersion"] = str(api.version)


@pytest.mark.parametrize("failure", [refuse(500), drop, say("<html>"), refuse(410)])
def test_a_list_that_was_asked_for_is_made_though_it_fails_at_first(api, failure) -> None:
    watching = Watching(api, PATIENT)
    watching.start()
    _change_unheard(api)
    api.next("GET", "limit=", failure, failure)
    watching.reflector.relist()
    watching.true()
    assert watching.reflector.figures.lists == 2 and watching.restarts["relisted"] == 1
    _turbulence(watching)
    watching.reflector.stop()


def test_a_list_that_is_asked_for_before_the_watch_has_begun_is_made(api) -> None:
    watching = Watching(api, PATIENT)

    def ask(_handler: Any) -> bool:
        """The old list has ended, and there is no stream yet that could be cut."""
        _change_unheard(api)
        watching.reflector.relist()
        return False

    api.next("GET", "watch=1", ask)
    watching.reflector.start()
    eventually(lambda: watching.reflector.figures.lists == 2)
    watching.true()
    assert watching.restarts["relisted"] == 1
    _turbulence(watching)
    watching.reflector.stop()


def test_a_list_that_expires_between_pages_begins_anew(api, watching) -> None:
    api.next("GET", "continue=", refuse(410))
    watching.start()
    assert watching.known.pages == [2, 2, 1]


def test_any_other_error_event_is_a_failure_to_be_waited_out(api, watching) -> None:
    watching.start()
    trouble = {"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "etcd"}}
    api.next("GET", "watch=1", events(trouble))
    api.cut()
    _turbulence(watching)
    assert watching.restarts["http_500"] == 1 and watching.reflector.figures.lists == 1


def test_silence_is_taken_for_a_dead_connection(api) -> None:
    """Half open: the server is gone without having said so."""
    watching = Watching(api, WatchTiming(read_s=0.3, backoff_s=0.01, most_backoff_s=0.05))
    watching.start()
    api.muted = True
    watching.change("a")
    eventually(lambda: watching.restarts.get("connection", 0) >= 1)
    api.muted = False
    watching.true()
    assert watching.reflector.figures.lists == 1
    watching.reflector.stop()


def test_too_many_requests_are_answered_by_waiting_as_long_as_asked(api, watching) -> None:
    watching.start()
    began = time.monotonic()
    api.next("GET", "watch=1", refuse(429, Retry_After="1"))
    api.cut()
    _turbulence(watching)
    assert time.monotonic() - began >= 1.0
    assert watching.restarts["http_429"] == 1


@pytest.mark.parametrize("where", ["limit=", "watch=1"])
def test_an_ailing_server_is_asked_again(api, watching, where) -> None:
    ailing = [refuse(500), refuse(503), drop, refuse(504), refuse(403)]
    api.next("GET", where, *ailing)
    watching.start()
    api.cut()
    _turbulence(watching)
    assert sum(watching.restarts.values()) >= len(ailing)


def test_an_expired_token_is_renewed(api) -> None:
    tokens = ["old"]
    api.token = "old"
    watching = Watching(api)
    watching.reflector._client = api.client(lambda: tokens[-1])
    watching.start()
    watching.change("a")
    watching.true()
    api.token = "new"
    tokens.append("new")
    api.cut()
    _turbulence(watching)
    assert watching.restarts == {}, "the client has renewed it by itself"
    api.token = "newer"  # and here the renewal comes late
    api.cut()
    eventually(lambda: watching.restarts.get("http_401", 0) >= 2)
    tokens.append("newer")
    watching.change("c")
    watching.true()
    watching.reflector.stop()


def test_a_kind_that_is_not_served_has_no_objects_until_it_is(api, watching) -> None:
    kept = api.objects.pop(PODS)
    watching.reflector.start()
    assert watching.reflector.synced.wait(60) and not watching.known.pods
    assert not watching.reflector.figures.served
    api.objects[PODS] = kept
    watching.true()
    assert watching.reflector.figures.served


@pytest.mark.parametrize("rubbish", ["<html>a proxy</html>", '{"type": 5}', "{}"])
def test_a_message_that_cannot_be_read_leads_to_a_new_list(api, watching, rubbish) -> None:
    api.next("GET", "limit=", say(rubbish))
    watching.start()
    api.next("GET", "watch=1", events(rubbish))
    api.cut()
    _turbulence(watching)
    eventually(lambda: watching.restarts.get("unreadable", 0) == 2)
    watching.true()


def test_an_object_that_cannot_be_read_is_told_of_and_stays_as_it_was(api, watching) -> None:
    watching.start()
    before = watching.known.pods["a"]
    broken = pod_json("a")
    broken["spec"]["containers"] = "not a list"
    api.put(PODS, broken)
    watching.change("b")
    eventually(lambda: watching.known.pods["b"] == str(api.version))
    assert watching.known.pods["a"] == before and "containers" in watching.unreadable[0]
    with api.changed:
        api.cut()
        watching.change("b")
        api.compact()
    eventually(lambda: watching.reflector.figures.lists == 2)
    assert watching.known.pods["a"] == before, "a new list does not end it either"
    api.delete(PODS, "a")
    watching.true()


def test_a_server_that_ends_every_watch_at_once_is_not_hammered(api, watching, monkeypatch) -> None:
    monkeypatch.setattr("scheduler.cluster.api.reflector._SHORT_S", 60.0)
    watching.start()
    api.next("GET", "watch=1", *[events()] * 5)
    api.cut()
    _turbulence(watching)
    assert watching.restarts["short"] >= 5


def test_stop_ends_it_while_it_waits_reads_or_lists(api) -> None:
    for action in (None, refuse(503, Retry_After="600")):
        watching = Watching(api)
        if action:
            api.next("GET", "limit=", action)
            watching.reflector.start()
            eventually(lambda w=watching: w.restarts)
        else:
            watching.start()
        watching.reflector.stop()
        # Well before the silence would be taken for a dead connection.
        eventually(lambda w=watching: not w.reflector._thread.is_alive(), within_s=30.0)
