"""The client: what becomes of every kind of answer, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kubernetes.client import Configuration

from scheduler.cluster.api.client import KubeClient
from scheduler.cluster.api.discovery import find
from scheduler.core.errors import InvalidInput, KubeApiError
from scheduler.kube.objects import node_decoder
from testbed.fake_api import NODES, FakeApi, drop, refuse, say, serving
from testbed.kube_objects import node_json


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with serving() as made:
        made.put(NODES, node_json("a"))
        yield made


def test_an_object_is_read(api) -> None:
    assert api.client().read(f"{NODES}/a", node_decoder).metadata.name == "a"


@pytest.mark.parametrize(
    ("action", "status", "after_s"),
    [(refuse(404), 404, 0), (refuse(429, Retry_After="7"), 429, 7), (refuse(503), 503, 0),
     (refuse(429, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"), 429, 0),
     (drop, 0, 0), (say("<html>"), 0, 0), (say('{"metadata": 5}'), 0, 0)],
)  # fmt: skip
def test_what_is_no_success_is_one_kind_of_error(api, action, status, after_s) -> None:
    api.next("GET", NODES, action)
    with pytest.raises(KubeApiError) as raised:
        api.client().read(f"{NODES}/a", node_decoder)
    assert (raised.value.status, raised.value.retry_after_s) == (status, after_s)


def test_an_expired_token_is_renewed_once(api) -> None:
    api.token, tokens = "new", ["old"]
    client = api.client(lambda: tokens[-1])
    with pytest.raises(KubeApiError) as raised:
        client.get(f"{NODES}/a")
    assert raised.value.status == 401 and api.count(NODES) == 2
    tokens.append("new")
    assert client.get(f"{NODES}/a")
    assert api.count(NODES) == 4


def test_credentials_that_cannot_be_renewed_are_an_error_of_the_call(api) -> None:
    """A file that is being replaced must not end the thread that has called."""
    loads = []

    def load() -> Configuration:
        loads.append(1)
        if len(loads) > 1:
            raise InvalidInput("kubeconfig", "is half written", "wait")
        return Configuration(host=f"http://127.0.0.1:{api.port}")

    api.token = "anything"
    with pytest.raises(KubeApiError) as raised:
        KubeClient(load).get(f"{NODES}/a")
    assert raised.value.status == 401


def test_nobody_listens(api) -> None:
    client = api.client()
    api.stop()
    with pytest.raises(KubeApiError) as raised:
        client.get(f"{NODES}/a")
    assert raised.value.status == 0


def test_a_resource_is_found_in_the_version_that_has_it(api) -> None:
    """One version is named and not served, as between two releases; the other has it."""
    group = '{"versions": [{"groupVersion": "g.io/v2"}, {"groupVersion": "g.io/v1"}]}'
    listed = '{"resources": [{"name": "podgroups", "kind": "PodGroup"}]}'
    api.next("GET", "/apis/g.io/v2", refuse(404))
    api.next("GET", "/apis/g.io/v1", say(listed))
    api.next("GET", "/apis/g.io", say(group))
    found = find(api.client(), "podgroups.g.io")
    assert found is not None and found.path == "/apis/g.io/v1/podgroups"
    assert find(api.client(), "podgroups.nowhere.io") is None
    with pytest.raises(InvalidInput):
        find(api.client(), "podgroups")
