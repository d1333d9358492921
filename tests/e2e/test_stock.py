"""kube-scheduler alone: what the harness shows of it is what one expects of it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.controlplane import scheduling
from testbed.controlplane.api import ApiError, eventually
from testbed.controlplane.objects import (
    DEVICES,
    GPU,
    fraction_node,
    fraction_pod,
    gpu_node,
    gpu_pod,
    mig_node,
    mig_pod,
    pod,
    pod_group,
    shared_node,
    shared_pod,
)
from testbed.controlplane.validator import InvalidSchedule
from testbed.controlplane.vigil import Vigil

pytestmark = pytest.mark.e2e


def test_pods_are_bound_until_the_cluster_is_full(cluster):
    cluster.create([gpu_node(f"n{i}", 4) for i in range(3)])
    cluster.scheduler(scheduling.stock())
    with Vigil(cluster.api.as_user(cluster.api.token)) as vigil:
        cluster.create([gpu_pod(f"p{i:02}") for i in range(14)])
        bound = cluster.settle()
    assert len(bound) == 12 and vigil.events >= 26
    assert all("Insufficient nvidia.com/gpu" in why for why in cluster.pending().values())
    cluster.validator.check()


def test_every_kind_of_gpu_resource_is_counted_by_kube_scheduler(cluster):
    cluster.create(
        [
            gpu_node("whole", 2, product="Tesla-T4"),
            gpu_node("other", 2),
            mig_node("mig", {"1g.10gb": 7}, "NVIDIA-A100-SXM4-80GB"),
            shared_node("shared", 1, replicas=4),
        ]
    )
    cluster.scheduler(scheduling.stock())
    cluster.create([gpu_pod(f"t4-{i}", products=("Tesla-T4",)) for i in range(3)])
    cluster.create([mig_pod(f"mig-{i}", "1g.10gb", 2) for i in range(4)])
    cluster.create([shared_pod(f"shared-{i}", 2) for i in range(3)])
    bound = cluster.settle()
    assert sorted(bound.values()) == ["mig"] * 3 + ["shared"] * 2 + ["whole"] * 2
    cluster.validator.check()


def test_the_validator_of_a_live_cluster_sees_what_somebody_bound_behind_our_back(cluster):
    cluster.create([gpu_node("n", 1), fraction_node("f", 1)])
    cluster.create([gpu_pod("a"), gpu_pod("b"), fraction_pod("c", 700), fraction_pod("d", 700)])
    vigil = Vigil(cluster.api)
    with pytest.raises(InvalidSchedule, match="broken at some moment"), vigil:
        _overcommit_for_a_moment(cluster, vigil)
    cluster.validator.check()  # it is fine again, which is why somebody has to look all the time
    for name in "cd":
        cluster.api.bind("default", name, "f", {DEVICES: "0:700:0:0"})
    with pytest.raises(InvalidSchedule, match="1400 of 1000 milli"):
        cluster.validator.check()


def _overcommit_for_a_moment(cluster, vigil):
    for name in "ab":
        cluster.api.bind("default", name, "n")
    eventually(lambda: vigil.found, "the vigil sees it")
    cluster.api.delete("Pod", "b", "default")


def test_a_binding_carries_annotations_and_the_second_one_changes_nothing(cluster):
    cluster.create([fraction_node("f", 2), fraction_pod("p", 500)])
    cluster.api.bind("default", "p", "f", {DEVICES: "1:500:0:0"})
    with pytest.raises(ApiError) as refusal:
        cluster.api.bind("default", "p", "f", {DEVICES: "0:500:0:0"})
    assert refusal.value.status == 409
    found = cluster.api.get("Pod", "p", "default")
    assert found["metadata"]["annotations"][DEVICES] == "1:500:0:0"
    assert found["spec"]["nodeName"] == "f"


def test_gangs_are_all_or_none(cluster):
    if not cluster.plane.gangs:
        pytest.skip(f"Kubernetes {cluster.plane.assets.version} has no PodGroup v1beta1")
    cluster.create([gpu_node(f"n{i}", 1) for i in range(4)])
    cluster.scheduler(scheduling.stock())
    cluster.create([pod_group("five", 5)])
    cluster.create([gpu_pod(f"m{i}", group="five") for i in range(5)])
    assert cluster.settle() == {}
    cluster.validator.check()
    cluster.create([gpu_node("n4", 1)])
    assert sorted(cluster.all_bound(5).values()) == [f"n{i}" for i in range(5)]
    cluster.validator.check()


def test_components_are_killed_and_come_back(cluster):
    plane = cluster.plane
    cluster.create([gpu_node("n", 8)])
    scheduler = cluster.scheduler(scheduling.stock())
    cluster.create([gpu_pod("before")])
    cluster.all_bound(1)

    scheduler.kill()
    cluster.create([gpu_pod("meanwhile")])
    plane.apiserver.kill()
    plane.etcd.kill()
    assert not scheduler.running and not plane.apiserver.running
    plane.etcd.start()
    plane.apiserver.start()
    scheduler.start()
    cluster.create([gpu_pod("after")])
    assert set(cluster.all_bound(3)) == {"before", "meanwhile", "after"}
    cluster.validator.check()


def test_compaction_makes_old_versions_gone(cluster):
    cluster.create([gpu_node("n", 1)])
    _, version = cluster.api.objects_at("Node")
    cluster.create([gpu_pod(f"p{i}") for i in range(3)])
    cluster.plane.compact()
    cluster.plane.apiserver.kill()  # whose cache still knew them
    cluster.plane.apiserver.start()
    assert _outcome_of_watch(cluster.api, "Node", version) == 410


def _outcome_of_watch(api, kind, version):
    try:
        for event in api.watch(kind, version, timeout_s=30):
            return event["object"].get("code", 200)
    except ApiError as error:
        return error.status
    return 200


def test_controllers_and_kubelets_can_be_had(cluster):
    plane = cluster.plane
    cluster.start(plane.controller_manager(), plane.kwok(), plane.scheduler(scheduling.stock()))
    cluster.create([gpu_node("n", 4)])
    template = gpu_pod("x", 1, labels={"app": "web"})
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": template["spec"]},
        },
    }
    cluster.create([deployment])
    eventually(
        lambda: [p["status"]["phase"] for p in cluster.api.objects("Pod")] == ["Running"] * 3,
        "three pods run",
    )
    cluster.validator.check()
    cluster.api.delete("Deployment", "web", "default", "apps/v1")
    eventually(lambda: not cluster.api.objects("Pod"), "garbage collected")


def test_tokens_of_service_accounts_are_subject_to_rbac(cluster):
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "reader", "namespace": "default"},
    }
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "e2e-reader"},
        "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "e2e-reader"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "e2e-reader"
        },
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "default"}],
    }  # fmt: skip
    for obj in (account, role, binding):
        cluster.api.apply(obj, dry_run=True)
        cluster.api.apply(obj)
    with cluster.api.as_user(cluster.api.issue_token("default", "reader")) as reader:
        assert eventually(lambda: reader.objects("Node") == [], "may list nodes")
        with pytest.raises(ApiError) as refusal:
            reader.objects("Pod")
    assert refusal.value.status == 403


def test_nothing_is_left_running_when_the_tests_are_killed(tmp_path: Path):
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from testbed.controlplane.process import Daemon\n"
        "daemon = Daemon('sleeper', ['sleep', '600'], Path(sys.argv[1]), lambda: True)\n"
        "daemon.start()\n"
        "print(daemon.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True, cwd=root
    ) as test:
        assert test.stdout is not None
        sleeper = Path("/proc") / test.stdout.readline().strip()
        assert sleeper.exists()
        test.send_signal(signal.SIGKILL)
    eventually(lambda: not sleeper.exists(), "the sleeper is gone", patience_s=60)


def test_dry_runs_are_admitted_and_not_stored(cluster):
    cluster.api.apply(pod("dry", {GPU: 1}), dry_run=True)
    assert cluster.api.objects("Pod") == []
    with pytest.raises(ApiError) as refusal:
        cluster.api.apply(pod("dry", {GPU: -1}), dry_run=True)
    assert refusal.value.status == 422
