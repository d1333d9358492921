"""Following the admission policy that keeps records of devices to the extender."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.kube.sharing.record_policy import RECORD_POLICY
from testbed.fake_api import PODS, drop, eventually, refuse
from testbed.kube_objects import pod_json
from tests.following import MILLI

API = "/apis/admissionregistration.k8s.io/v1"
POLICIES = f"{API}/validatingadmissionpolicies"
BINDINGS = f"{API}/validatingadmissionpolicybindings"
OLD, NEW = "2029-12-01T00:00:00Z", "2030-02-01T00:00:00Z"


def _guard(api, name: str = RECORD_POLICY) -> None:
    metadata = {"name": name, "creationTimestamp": "2030-01-01T00:00:00Z"}
    everything = {
        "apiGroups": ["*"],
        "apiVersions": ["*"],
        "operations": ["*"],
        "resources": ["*/*"],
    }
    rules = {"resourceRules": [everything]}
    api.put(POLICIES, {"metadata": dict(metadata), "spec": {"matchConstraints": rules}})
    binding = {"policyName": name, "validationActions": ["Deny"]}
    api.put(BINDINGS, {"metadata": dict(metadata), "spec": binding})


def _recorded(name: str, created: str, **annotations: str) -> dict[str, Any]:
    made = pod_json(
        name,
        node="b",
        requests={MILLI: "400"},
        annotations={"snugfit.io/devices": "0:400", **annotations},
    )
    made["metadata"]["creationTimestamp"] = created
    return made


def _unguarded(following) -> int:
    with following.service.exclusive():
        return following.sync.charges.records.unprotected(following.sync.pods)


def test_without_a_policy_records_count_as_unguarded(api, follow) -> None:
    api.put(PODS, _recorded("p", NEW))
    following = follow().start()
    following.equal()
    assert _unguarded(following) == 1


@pytest.mark.parametrize("hindrance", [(), (refuse(503),), (drop, refuse(429))])
def test_a_policy_is_known_before_the_first_record_is_read(api, follow, hindrance) -> None:
    api.next("GET", POLICIES, *hindrance)
    _guard(api)
    api.put(PODS, _recorded("new", NEW, **{"snugfit.io/devices-uid": "uid-of-somebody-else"}))
    api.put(PODS, _recorded("older", OLD))
    following = follow().start()
    following.equal()
    assert _unguarded(following) == 1  # the older one


def test_a_policy_that_comes_later_is_found_and_one_that_goes_is_missed(api, follow) -> None:
    api.put(PODS, _recorded("p", NEW))
    following = follow().start()
    following.equal()
    assert _unguarded(following) == 1
    _guard(api)
    following.live.lookups[0].look()
    assert _unguarded(following) == 0
    api.next("GET", POLICIES, refuse(503))
    following.live.lookups[0].look()
    assert _unguarded(following) == 0  # not known is not gone
    api.delete(BINDINGS, RECORD_POLICY)
    following.live.lookups[0].look()
    assert _unguarded(following) == 1
    assert "record policy" in following.live.caretaker.chores


def test_who_may_not_read_the_policy_takes_records_for_unguarded(api, follow) -> None:
    _guard(api)
    api.next("GET", POLICIES, refuse(403))
    api.put(PODS, _recorded("p", NEW))
    following = follow().start()
    eventually(lambda: _unguarded(following) == 1)


@pytest.mark.parametrize("name", ["", "another"])
def test_the_name_is_a_setting(api, follow, name: str) -> None:
    _guard(api)
    api.put(PODS, _recorded("p", NEW))
    following = follow(record_policy=name).start()
    eventually(lambda: _unguarded(following) == 1)
    asked = any("validatingadmission" in call for call in api.calls)
    assert asked == bool(name)
