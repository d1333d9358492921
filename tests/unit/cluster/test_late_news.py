"""A preemptor whose victims have gone, and a watch that has not said so yet: the API is asked.

kube-scheduler asks the same question before and after the last victim has gone. A refusal after it
would have others evicted elsewhere, or the pod wait for minutes.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from scheduler.cluster.bind_request import BindRequest
from scheduler.kube.objects import pod_decoder
from scheduler.webhook.protocol import PreemptArgs
from testbed.fake_api import PODS, FakeApi, drop, eventually, refuse
from testbed.kube_objects import pod_json
from tests.following import BUDGETS, MILLI, Following

DEVICES = "snugfit.io/devices"


def _running(api: FakeApi, name: str, device: int, milli: int, **more: Any) -> None:
    written = {DEVICES: f"{device}:{milli}:0:0"}
    requests = {MILLI: str(milli)}
    api.put(PODS, pod_json(name, node="a", requests=requests, annotations=written, **more))


@pytest.fixture
def urgent(api, follow) -> Following:
    """Node ``a``: 600 that stay on one device, two low pods of 500 on the other; both are named.

    The first of them has gone, and that is known.
    """
    assert BUDGETS in api.objects
    _running(api, "stays", 0, 600, spec={"priority": 10})
    _running(api, "first", 1, 500)
    _running(api, "second", 1, 500)
    api.put(PODS, _urgent())
    following = follow(reservation_ttl_s=60.0).start()
    asking = pod_decoder.decode(json.dumps(_urgent()))
    answer = following.service.preempt(PreemptArgs(asking, {"a": (("uid-first",), 0)}))
    assert set(answer["a"][0]) == {"uid-first", "uid-second"}
    api.delete(PODS, "first")
    following.equal()
    return following


def _urgent() -> dict[str, Any]:
    return pod_json("urgent", requests={MILLI: "800"}, spec={"priority": 10})


def _ask(following: Following) -> dict[str, Any]:
    body = {"Pod": _urgent(), "NodeNames": ["a"]}
    answer: dict[str, Any] = following.web.post("/filter", json=body).get_json()
    return answer


def _still_there(answer: dict[str, Any]) -> None:
    """Refused so that kube-scheduler, which sees somebody terminate there, evicts nobody else."""
    assert "a" in answer["FailedNodes"] and not answer["Error"]
    assert not answer["NodeNames"] and not answer["FailedAndUnresolvableNodes"]


def test_the_end_of_the_last_victim_is_asked_for(api, urgent) -> None:
    _still_there(_ask(urgent))
    _still_there(_ask(urgent))
    api.muted = True
    api.delete(PODS, "second")
    assert _ask(urgent)["NodeNames"] == ["a"]
    assert urgent.service.bind(BindRequest("urgent", "default", "uid-urgent", "a")) == ""
    api.muted = False
    urgent.equal()


def test_a_namesake_of_the_victim_is_not_the_victim(api, urgent) -> None:
    _still_there(_ask(urgent))
    api.muted = True
    api.delete(PODS, "second")
    namesake = pod_json("second", requests={MILLI: "500"})
    namesake["metadata"]["uid"] = "uid-another"
    api.put(PODS, namesake)
    assert _ask(urgent)["NodeNames"] == ["a"]


def test_a_victim_that_has_run_to_its_end_is_gone(api, urgent) -> None:
    _still_there(_ask(urgent))
    api.muted = True
    _running(api, "second", 1, 500, phase="Succeeded")
    assert _ask(urgent)["NodeNames"] == ["a"]


@pytest.mark.parametrize("action", [refuse(503), refuse(403), drop])
def test_while_the_api_does_not_say_the_pod_asks_again(api, urgent, action) -> None:
    _still_there(_ask(urgent))
    api.muted = True
    api.delete(PODS, "second")
    api.next("GET", "/pods/second", action)
    answer = _ask(urgent)
    assert "the end of 1 victim" in answer["Error"] and not answer["FailedNodes"]
    assert _ask(urgent)["NodeNames"] == ["a"]


def test_an_api_that_takes_its_time_holds_kube_scheduler_up_for_a_moment_only(api, urgent) -> None:
    _still_there(_ask(urgent))
    api.muted = True
    api.delete(PODS, "second")
    with api.changed:  # the answer to a reading of one object needs it
        assert "ask again" in _ask(urgent)["Error"]
    assert _ask(urgent)["NodeNames"] == ["a"]


def test_old_news_of_a_pod_that_is_gone_changes_nothing(api, urgent) -> None:
    old = pod_decoder.decode(json.dumps(api.objects[PODS]["second"]))
    api.muted = True
    api.delete(PODS, "second")
    assert _ask(urgent)["NodeNames"] == ["a"]
    with urgent.service.exclusive() as engine:
        urgent.sync.pod(old)
        assert "uid-second" not in urgent.sync.pods
        assert "uid-second" not in engine.state.placements
    api.muted = False
    urgent.equal()


def test_nobody_is_asked_about_for_a_pod_that_evicted_nobody(api, urgent) -> None:
    api.put(PODS, pod_json("other", requests={MILLI: "900"}))
    eventually(lambda: "uid-other" in urgent.sync.pending)
    body = {"Pod": pod_json("other", requests={MILLI: "900"}), "NodeNames": ["a"]}
    before = len(api.calls)
    assert urgent.web.post("/filter", json=body).get_json()["NodeNames"] == []
    assert not [call for call in api.calls[before:] if "/pods/" in call]


@pytest.mark.parametrize("another_waits", [False, True])
def test_a_pod_that_was_refused_before_a_restart_is_woken_after_it(
    api, follow, another_waits
) -> None:
    """kube-scheduler does not know that we were restarted, and nobody remembers the refusal."""
    api.put(PODS, pod_json("waits", requests={MILLI: "2000"}))
    api.put(PODS, pod_json("web"))
    if another_waits:
        api.put(PODS, pod_json("large", requests={"nvidia.com/gpu": "64"}))
    following = follow(requeue_after_s=0.1).start()
    eventually(lambda: following.metric("snugfit_requeues_total") == 1)
    annotated = {
        name
        for name, obj in api.objects[PODS].items()
        if "snugfit.io/woken-at" in (obj["metadata"].get("annotations") or {})
    }
    assert annotated == {"waits"}
