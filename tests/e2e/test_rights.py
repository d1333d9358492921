"""The shipped roles allow what the product does, and nothing else."""

from __future__ import annotations

import itertools

import pytest

from testbed.controlplane.api import ApiError, eventually
from testbed.controlplane.chart import NAMESPACE
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.objects import (
    fraction_node,
    fraction_pod,
    gpu_node,
    gpu_pod,
    pod_group,
)
from testbed.controlplane.plane import ControlPlane
from testbed.controlplane.system import System

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def audited(assets):
    """What the extender's account asked for while it did everything that it does."""
    with ControlPlane(assets, audit=True) as plane:
        cluster = Cluster(plane)
        cluster.create([gpu_node("g", 8), fraction_node("f", 4)])
        system = System(cluster)
        system.add_extender(requeue_after_s=1, **_lease(system))
        system.add_scheduler()
        cluster.create([fraction_pod(f"p{i}", 500) for i in range(4)])
        cluster.create([gpu_pod(f"q{i}") for i in range(2)])
        expected = 6
        if plane.gangs:
            cluster.create([pod_group("pair", 2)])
            cluster.create([gpu_pod(f"m{i}", group="pair") for i in range(2)])
            expected += 2
        cluster.all_bound(expected)
        _leave_a_hold(system)
        _refuse_too_early(system)
        system.verify()
        account = system.shipped.service.account
        yield system, plane.audited(f"system:serviceaccount:{NAMESPACE}:{account}")


def _lease(system):
    shipped = system.shipped.service.extender_config
    return {key: value for key, value in shipped.items() if key.startswith("lease")} | {
        "lease_s": 9  # renewed every three seconds
    }


def _leave_a_hold(system):
    """Ask for a pod as kube-scheduler does, and never bind it: the extender has to look it up."""
    one = system.api.create(fraction_pod("held", 500, scheduler="nobody"))
    question = {"Pod": one, "Nodes": None, "NodeNames": ["f"]}

    def held():
        assert system.extender.post("/filter", question)["NodeNames"] == ["f"]
        return "held has a reservation on f" in system.differences(system.extender)

    eventually(held, "the pod is held, for a few seconds each time")


def _refuse_too_early(system):
    """Ask for a pod as kube-scheduler does, and never again when it fits: it has to be woken."""
    one = system.api.create(fraction_pod("early", 3000, scheduler="nobody"))
    question = {"Pod": one, "Nodes": None, "NodeNames": ["f"]}
    assert system.extender.post("/filter", question)["NodeNames"] == []
    for i in range(4):
        system.api.delete("Pod", f"p{i}", "default")
    eventually(
        lambda: system.api.get("Pod", "early", "default")["metadata"].get("annotations"),
        "the pod is woken",
    )


def _allowed(system):
    """Every (verb, group, resource) that the roles of the extender's account name."""
    rules = [
        rule
        for kind in ("ClusterRole", "Role")
        for role in system.shipped.service.of_kind(kind)
        for rule in role["rules"]
    ]
    return {
        triple
        for rule in rules
        for triple in itertools.product(rule["verbs"], rule["apiGroups"], rule["resources"])
    }


def _done(events):
    found = set()
    for event in events:
        ref = event.get("objectRef", {})
        if "resource" in ref:
            resource = "/".join(filter(None, (ref["resource"], ref.get("subresource"))))
            found.add((event["verb"], ref.get("apiGroup", ""), resource))
    return found


def test_nothing_is_missing(audited):
    _, events = audited
    assert len(events) > 10
    refused = [e["requestURI"] for e in events if e.get("responseStatus", {}).get("code") == 403]
    assert refused == []


def test_nothing_is_superfluous(audited):
    system, events = audited
    superfluous = sorted(_allowed(system) - _done(events))
    if not system.cluster.plane.gangs:  # of the version that they are meant for
        superfluous = [triple for triple in superfluous if triple[1] != "scheduling.k8s.io"]
    assert not superfluous, "\n".join(map(" ".join, superfluous))


def test_the_account_may_not_do_what_it_need_not(audited):
    system, _ = audited
    with system.api.as_user(system.shipped.service.token()) as account:
        for attempt in (
            lambda: account.delete("Pod", "p0", "default"),
            lambda: account.patch("Node", "g", {"metadata": {"labels": {"x": "y"}}}),
            lambda: account.objects("Secret"),
            lambda: account.objects("ConfigMap", NAMESPACE),
        ):
            with pytest.raises(ApiError) as refusal:
                attempt()
            assert refusal.value.status == 403
