"""Since when an admission policy keeps records of devices to the extender."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from scheduler.cluster.api.record_policy import read_policy
from scheduler.core.errors import KubeApiError
from scheduler.kube.sharing.record_policy import RECORD_POLICY, guarded_since
from testbed.fake_api import FakeApi

API = "/apis/admissionregistration.k8s.io/v1"
POLICIES, BINDINGS = (
    f"{API}/validatingadmissionpolicies",
    f"{API}/validatingadmissionpolicybindings",
)


def _policy(created: object = "2030-01-01T00:00:00Z", **spec: object) -> dict[str, Any]:
    rules = [
        {"operations": ["UPDATE"], "resources": ["pods", "pods/*"]},
        {"operations": ["CREATE"], "resources": ["bindings", "pods/binding"]},
    ]
    rules = [rule | {"apiGroups": [""], "apiVersions": ["v1"]} for rule in rules]
    return {
        "metadata": {"name": RECORD_POLICY, "creationTimestamp": created},
        "spec": {"failurePolicy": "Fail", "matchConstraints": {"resourceRules": rules}} | spec,
    }


def _binding(created: object = "2030-01-02T00:00:00Z", **spec: object) -> dict[str, Any]:
    return {
        "metadata": {"name": RECORD_POLICY, "creationTimestamp": created},
        "spec": {"policyName": RECORD_POLICY, "validationActions": ["Deny"]} | spec,
    }


SINCE = datetime(2030, 1, 2, tzinfo=UTC).timestamp()


@pytest.fixture
def api() -> Iterator[FakeApi]:
    made = FakeApi()
    yield made
    made.stop()


def test_records_are_guarded_once_policy_and_binding_are_there(api: FakeApi) -> None:
    assert guarded_since(*read_policy(api.client())) is None
    api.put(POLICIES, _policy())
    assert guarded_since(*read_policy(api.client())) is None
    api.put(BINDINGS, _binding())
    assert guarded_since(*read_policy(api.client())) == SINCE
    assert guarded_since(*read_policy(api.client(), "another"), "another") is None


def test_the_later_of_both_counts() -> None:
    assert guarded_since(_policy(), _binding()) == SINCE
    assert guarded_since(_policy("2030-01-02T00:00:00Z"), _binding("2029-01-01T00:00:00Z")) == SINCE


def test_a_policy_that_was_changed_guards_since_its_latest_change() -> None:
    """It may have had a gap before; what controllers write into its status is no change."""
    changed = _policy()
    changed["metadata"] |= {
        "generation": 2,
        "managedFields": [
            {"time": "2031-01-01T00:00:00Z"},
            {"time": "2032-01-01T00:00:00Z", "subresource": "status"},
        ],
    }
    since = guarded_since(changed, _binding())
    assert since == datetime.fromisoformat("2031-01-01T00:00:00Z").timestamp()
    del changed["metadata"]["managedFields"]
    assert guarded_since(changed, _binding()) is None, "nobody can say"


@pytest.mark.parametrize(
    ("policy", "binding"),
    [
        (_policy(failurePolicy="Ignore"), _binding()),
        (_policy(matchConstraints={}), _binding()),
        (_policy(), _binding(validationActions=["Audit"])),
        (_policy(), _binding(matchResources={"namespaceSelector": {"matchLabels": {"a": "b"}}})),
        (_policy("yesterday"), _binding()),
        (_policy(None), _binding()),
        ({**_policy(), "metadata": {"name": RECORD_POLICY}}, _binding()),
    ],
)
def test_what_leaves_a_gap_or_no_time_guards_nothing(
    policy: dict[str, Any], binding: dict[str, Any]
) -> None:
    assert guarded_since(policy, binding) is None


def test_a_refusal_is_no_answer(api: FakeApi) -> None:
    def refuse(handler: object) -> bool:
        handler.answer({"code": 403, "message": "no"}, 403)  # type: ignore[attr-defined]
        return True

    api.next("GET", POLICIES, refuse)
    with pytest.raises(KubeApiError) as refused:
        read_policy(api.client())
    assert refused.value.status == 403
