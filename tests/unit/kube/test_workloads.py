"""What workload objects make of their pods: roles, stages, and how many must start together."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from scheduler.kube.gang_groups import Groups
from scheduler.kube.objects import PodObject
from scheduler.kube.pod_requests import pod_request
from scheduler.kube.workloads import statements

Pods = dict[str, dict[str, Any]]


def _object(kind: str, version: str, name: str = "job", **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "team"}
    return {"kind": kind, "apiVersion": version, "metadata": metadata, "spec": spec}


def _pod(name: str, **about: Any) -> PodObject:
    metadata = {"name": name, "namespace": "team", "uid": name}
    metadata |= {key: about.pop(key) for key in ("labels", "annotations") if key in about}
    if about.pop("going", False):
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    phase = about.pop("phase", "Pending")
    content = {"metadata": metadata, "spec": about, "status": {"phase": phase}}
    return msgspec.convert(content, PodObject)


def _groups(objects: list[dict[str, Any]], pods: list[PodObject]) -> Groups:
    groups = Groups(count_members=True)
    for one in objects:
        groups.state(statements(one))
    for pod in pods:
        groups.join(pod, pod.metadata.uid)
    return groups


def _needs(objects: list[dict[str, Any]], pods: list[PodObject]) -> dict[str, int]:
    """Members needed, by stage."""
    return {key.stage: spec.minimum for key, spec in _groups(objects, pods).specs().items()}


def _jobset(*jobs: tuple[str, int, list[str]], **spec: Any) -> dict[str, Any]:
    """Jobs by name, parallelism, and what they depend on as ``name:status``."""
    listed = []
    for name, size, after in jobs:
        depends = [dict(zip(("name", "status"), one.split(":"), strict=True)) for one in after]
        template = {"spec": {"parallelism": size, "completions": size}}
        listed.append({"name": name, "template": template, "dependsOn": depends})
    return _object("JobSet", "jobset.x-k8s.io/v1alpha2", replicatedJobs=listed, **spec)


def _of_jobset(*names: str, **about: Any) -> list[PodObject]:
    label = {"jobset.sigs.k8s.io/jobset-name": "job"}
    return [_pod(name, labels=label, **about) for name in names]


STEPS = (
    ("fetch", 1, []),
    ("convert", 1, []),
    ("train", 3, ["fetch:Complete", "convert:Complete"]),
)


def test_steps_that_others_wait_for_are_placed_one_by_one_and_the_rest_together() -> None:
    pods = _of_jobset("job-fetch-0-0", "job-convert-0-0-x7k2p", "job-train-0-0")
    assert _needs([_jobset(*STEPS)], pods) == {"fetch": 1, "convert": 1, "train": 3}


def test_a_role_is_read_from_its_label_whatever_the_pod_is_called() -> None:
    labels = {
        "jobset.sigs.k8s.io/jobset-name": "job",
        "jobset.sigs.k8s.io/replicatedjob-name": "train",
    }
    groups = _groups([_jobset(*STEPS)], [_pod("anything", labels=labels)])
    (spec,) = groups.specs().values()
    assert (spec.key.stage, spec.minimum, spec.key.label) == ("train", 3, "team/job (train)")
    assert groups.place(_pod("anything", labels=labels)) == (spec.key, "train")


def test_who_depends_on_the_same_starts_together() -> None:
    jobs = ("driver", 1, []), ("a", 2, ["driver:Ready"]), ("b", 3, ["driver:Ready"])
    pods = _of_jobset("job-driver-0-0", "job-a-0-0", "job-b-0-2")
    assert _needs([_jobset(*jobs)], pods) == {"driver": 1, "a": 5}


def test_in_order_every_replicated_job_is_a_stage() -> None:
    jobs = ("driver", 1, []), ("a", 2, []), ("b", 3, [])
    pods = _of_jobset("job-driver-0-0", "job-a-0-0", "job-b-0-2")
    in_order = _jobset(*jobs, startupPolicy={"startupPolicyOrder": "InOrder"})
    assert _needs([in_order], pods) == {"driver": 1, "a": 2, "b": 3}
    anyhow = _jobset(*jobs, startupPolicy={"startupPolicyOrder": "AnyOrder"})
    assert _needs([anyhow], pods) == {"": 6}


def test_completions_bound_the_pods_that_there_will_be_and_success_lessens_them() -> None:
    job = {"name": "w", "replicas": 2, "template": {"spec": {"parallelism": 8, "completions": 3}}}
    jobset = _object("JobSet", "jobset.x-k8s.io/v1alpha2", replicatedJobs=[job])
    assert _needs([jobset], _of_jobset("job-w-0-0")) == {"": 6}
    done = _of_jobset("job-w-0-1", "job-w-0-2", phase="Succeeded")
    assert _needs([jobset], [*_of_jobset("job-w-0-0"), *done]) == {"": 4}
    failed = _of_jobset("job-w-1-1", phase="Failed")
    assert _needs([jobset], [*_of_jobset("job-w-0-0"), *failed]) == {"": 6}


def test_of_an_indexed_job_those_count_that_have_not_succeeded() -> None:
    about = {
        "labels": {"batch.kubernetes.io/job-name": "job"},
        "annotations": {"batch.kubernetes.io/job-completion-index": "0", "snugfit.io/gang": "true"},
    }
    job = _object("Job", "batch/v1", parallelism=4, completions=6)
    pods = [_pod("job-0", **about)]
    for done, needed in ((0, 4), (2, 4), (3, 3), (6, 1)):
        ended = [_pod(f"done-{n}", phase="Succeeded", **about) for n in range(done)]
        assert _needs([job], [*pods, *ended]) == {"": needed}


def test_terminating_pods_are_no_members_and_gated_ones_are_to_come() -> None:
    pods = _of_jobset("job-w-0-0")
    pods += _of_jobset("job-w-0-1", schedulingGates=[{"name": "kueue.x-k8s.io/admission"}])
    groups = _groups([_jobset(("w", 2, []))], [*pods, *_of_jobset("old", going=True)])
    (spec,) = groups.specs().values()
    assert (spec.minimum, spec.gated) == (2, 1)
    assert groups.place(_of_jobset("old", going=True)[0]) == (None, "")
    assert groups.join(_of_jobset("job-w-0-0", going=True)[0], "job-w-0-0") is None
    assert _needs([], [*pods, *_of_jobset("old", going=True)]) == {"": 2}  # those that there are


def _kubeflow(kind: str, version: str = "kubeflow.org/v1", **spec: Any) -> dict[str, Any]:
    return _object(kind, version, **spec)


def _of_kubeflow(*names: str, **labels: str) -> list[PodObject]:
    labels = {"training.kubeflow.org/job-name": "job", **labels}
    return [_pod(name, labels=labels) for name in names]


MPI = {"Launcher": {"replicas": 1}, "Worker": {"replicas": 4}}
LATER = {"launcherCreationPolicy": "WaitForWorkersReady", "mpiReplicaSpecs": MPI}
MPI_PODS = ("job-worker-0", "job-launcher-x2bc7")


@pytest.mark.parametrize(
    ("spec", "needed"),
    [
        ({"mpiReplicaSpecs": MPI}, {"": 5}),
        (LATER, {"worker": 4, "launcher": 1}),
        ({**LATER, "runPolicy": {"schedulingPolicy": {"minAvailable": 3}}},
         {"worker": 3, "launcher": 1}),
        ({"mpiReplicaSpecs": MPI, "runPolicy": {"schedulingPolicy": {"minAvailable": 3}}}, {"": 3}),
    ],
)  # fmt: skip
def test_a_launcher_that_comes_later_is_waited_for_by_nobody(
    spec: dict[str, Any], needed: dict[str, int]
) -> None:
    mpi = _kubeflow("MPIJob", "kubeflow.org/v2beta1", **spec)
    assert _needs([mpi], _of_kubeflow(*MPI_PODS)) == needed


def test_a_pod_group_counts_only_members_of_the_stage() -> None:
    """The operator's PodGroup asks for workers and launcher; the latter waits for the former."""
    group = _object("PodGroup", "scheduling.x-k8s.io/v1alpha1", minMember=5)
    label = {"scheduling.x-k8s.io/pod-group": "job"}
    pods = _of_kubeflow(*MPI_PODS, **label)
    mpi = _kubeflow("MPIJob", "kubeflow.org/v2beta1", **LATER)
    groups = _groups([group, mpi], pods)
    found = {(key.system, key.stage): spec.minimum for key, spec in groups.specs().items()}
    assert found == {("scheduler-plugins", "worker"): 4, ("scheduler-plugins", "launcher"): 1}
    unnamed = _of_kubeflow("abc", **label)
    assert _needs([group, mpi], unnamed) == {"": 4}, "never more than start at one time"
    assert _needs([group], pods) == {"": 5}


@pytest.mark.parametrize(
    ("spec", "needed"),
    [
        ({}, 5),
        ({"elasticPolicy": {"minReplicas": 2, "maxReplicas": 8}}, 3),
        ({"elasticPolicy": {"minReplicas": 9}}, 5),
        ({"runPolicy": {"schedulingPolicy": {"minAvailable": 2}}}, 2),
        ({"runPolicy": {"schedulingPolicy": {"minAvailable": 50}}}, 5),
        ({"runPolicy": {"schedulingPolicy": {"minAvailable": 0}}}, 5),
    ],
)
def test_an_elastic_job_needs_its_minimum(spec: dict[str, Any], needed: int) -> None:
    replicas = {"Master": {}, "Worker": {"replicas": 4}}
    job = _kubeflow("PyTorchJob", pytorchReplicaSpecs=replicas, **spec)
    assert _needs([job], _of_kubeflow("job-master-0", "job-worker-1")) == {"": needed}


@pytest.mark.parametrize(
    ("version", "spec", "needed"),
    [
        ("scheduling.k8s.io/v1alpha2", {"schedulingPolicy": {"basic": {}}}, 1),
        ("scheduling.k8s.io/v1beta1", {"schedulingPolicy": {"gang": {"minCount": 2}}}, 2),
        ("scheduling.k8s.io/v1beta1", {}, 3),
    ],
)
def test_a_native_group_says_whether_it_is_a_gang(
    version: str, spec: dict[str, Any], needed: int
) -> None:
    pods = [_pod(f"p{n}", schedulingGroup={"podGroupName": "job"}) for n in range(3)]
    assert _needs([_object("PodGroup", version, **spec)], pods) == {"": needed}


@pytest.mark.parametrize("listed", ["podGroups", "podGroupTemplates"])
@pytest.mark.parametrize("policy", ["policy", "schedulingPolicy"])
def test_so_does_a_workload_for_each_of_its_groups(listed: str, policy: str) -> None:
    groups = [
        {"name": "free", policy: {"basic": {}}},
        {"name": "gang", policy: {"gang": {"minCount": 2}}},
    ]
    workload = _object("Workload", "scheduling.k8s.io/v1alpha1", **{listed: groups})
    found = {}
    for name in ("free", "gang"):
        refs = [{"name": "job", "podGroup": name, "podGroupReplicaKey": str(n)} for n in range(2)]
        pods = [_pod(f"{name}{n}", workloadRef=refs[n % 2]) for n in range(6)]
        specs = _groups([workload], pods).specs()
        found |= {key.name: spec.minimum for key, spec in specs.items()}
    assert found == {"job/free/0": 1, "job/free/1": 1, "job/gang/0": 2, "job/gang/1": 2}


def _of_leader_worker_set(name: str, group: int, **labels: str) -> PodObject:
    key = "leaderworkerset.sigs.k8s.io"
    labels = {f"{key}/name": "job", f"{key}/group-index": str(group), **labels}
    return _pod(name, labels=labels, annotations={f"{key}/size": "4"})


@pytest.mark.parametrize(
    ("policy", "needed"),
    [("LeaderCreated", {"": 4}), ("LeaderReady", {"leader": 1, "worker": 3})],
)
def test_workers_of_a_leader_that_has_to_be_ready_come_later(
    policy: str, needed: dict[str, int]
) -> None:
    version = "leaderworkerset.x-k8s.io/v1"
    template = {"size": 4}
    lws = _object(
        "LeaderWorkerSet", version, leaderWorkerTemplate=template, startupPolicy=policy, replicas=2
    )
    index = "leaderworkerset.sigs.k8s.io/worker-index"
    by_label = [_of_leader_worker_set(f"p{n}", 1, **{index: str(n)}) for n in range(2)]
    assert _needs([lws], by_label) == needed
    by_name = [_of_leader_worker_set("job-0", 0), _of_leader_worker_set("job-0-2", 0)]
    assert _needs([lws], by_name) == needed


def _of_volcano(name: str, task: str) -> PodObject:
    annotations = {"scheduling.k8s.io/group-name": "job-5f2c", "volcano.sh/task-spec": task}
    return _pod(name, labels={"volcano.sh/job-name": "job"}, annotations=annotations)


TASKS = [{"name": "ps", "replicas": 2, "minAvailable": 1}, {"name": "worker", "replicas": 4}]
VOLCANO_PODS = [_of_volcano("job-ps-0", "ps"), _of_volcano("job-worker-0", "worker")]


@pytest.mark.parametrize(
    ("least", "needed", "roles"),
    [(None, 5, {"ps": 1, "worker": 4}), (6, 6, {"ps": 1, "worker": 4}), (3, 3, {})],
)
def test_tasks_state_minima_of_their_own(
    least: int | None, needed: int, roles: dict[str, int]
) -> None:
    """As long as they do not add up to more than the job's: then any members will do."""
    job = _object("Job", "batch.volcano.sh/v1alpha1", tasks=TASKS, minAvailable=least)
    (spec,) = _groups([job], VOLCANO_PODS).specs().values()
    assert spec.key.system == "volcano" and spec.minimum == needed
    assert {role.name: role.minimum for role in spec.roles if role.minimum} == roles


def test_so_does_a_pod_group_for_them() -> None:
    group = _object(
        "PodGroup", "scheduling.volcano.sh/v1beta1", "job-5f2c", minMember=5,
        minTaskMember={"ps": 1, "worker": 4},
    )  # fmt: skip
    (spec,) = _groups([group], VOLCANO_PODS).specs().values()
    assert spec.minimum == 5 and [role.minimum for role in spec.roles] == [1, 4]
    group = _object(
        "PodGroup", "scheduling.run.ai/v2alpha2", minMember=3,
        subGroups=[{"name": "Leader", "minMember": 1}, {"name": "rest", "minMember": 2}],
    )  # fmt: skip
    about = {"annotations": {"pod-group-name": "job"}}
    pods = [_pod("p", labels={"kai.scheduler/subgroup-name": "Leader"}, **about)]
    (spec,) = _groups([group], pods).specs().values()
    assert spec.minimum == 3 and [role.name for role in spec.roles] == ["leader", "rest"]


def test_a_train_job_says_what_its_job_set_would_until_that_is_known() -> None:
    job = _object(
        "TrainJob", "trainer.kubeflow.org/v1alpha1", trainer={"numNodes": 2},
        initializer={"dataset": {"storageUri": "hf://some/data"}},
    )  # fmt: skip
    pods = _of_jobset("job-dataset-initializer-0-0", "job-node-0-0")
    assert _needs([job], pods) == {"dataset-initializer": 1, "node": 2}
    assert _needs([job, _jobset(*STEPS[:2], ("node", 7, ["fetch:Complete"]))], pods[1:]) == {
        "node": 7
    }


def test_a_group_that_kueue_admits_fast_is_none() -> None:
    annotations = {"kueue.x-k8s.io/pod-group-total-count": "4"}
    label = {"kueue.x-k8s.io/pod-group-name": "g"}
    assert _needs([], [_pod("p", labels=label, annotations=annotations)]) == {"": 4}
    annotations["kueue.x-k8s.io/pod-group-fast-admission"] = "true"
    assert _needs([], [_pod("p", labels=label, annotations=annotations)]) == {}


def test_members_find_their_stage_when_the_object_comes_and_lose_it_when_it_goes() -> None:
    pods = _of_jobset("job-fetch-0-0", "job-train-0-0")
    groups = _groups([], pods)
    assert {key.stage: spec.minimum for key, spec in groups.specs().items()} == {"": 2}
    (key,) = groups.state(statements(_jobset(*STEPS)))
    found = groups.anew(key)
    assert {uid: gang.stage for uid, (gang, _) in found.items()} == {
        "job-fetch-0-0": "fetch",
        "job-train-0-0": "train",
    }
    assert groups.spec(found["job-train-0-0"][0]).minimum == 3
    assert groups.unstate([key]) == [key]
    assert {gang.stage for gang, _ in groups.anew(key).values()} == {""}
    for pod in pods:
        groups.leave(pod.metadata.uid)
    assert groups.specs() == {} and groups.anew(key) == {}


def test_what_is_not_of_the_shape_of_its_kind_states_nothing_or_is_an_error() -> None:
    assert statements(_jobset()) == {}
    assert statements(_object("JobSet", "jobset.x-k8s.io/v1alpha2")) == {}
    huge = _object("Job", "batch/v1", parallelism=10**30)
    (stated,) = statements(huge).values()
    assert stated.parts[0].role.replicas == 10**9


@pytest.mark.parametrize(
    ("kind", "version", "spec", "gpus"),
    [
        ("JobSet", "jobset.x-k8s.io/v1alpha2",
         lambda of: {"replicatedJobs": [
             {"name": "a", "template": {"spec": {"template": of(1)}}},
             {"name": "b", "template": {"spec": {"template": of(8)}}},
         ]}, {"a": 1, "b": 8}),
        ("Job", "batch/v1", lambda of: {"template": of(2)}, {"": 2}),
        ("MPIJob", "kubeflow.org/v2beta1",
         lambda of: {"mpiReplicaSpecs": {"Launcher": {"template": of(0)}, "Worker": {}}},
         {"launcher": 0, "worker": None}),
        ("LeaderWorkerSet", "leaderworkerset.x-k8s.io/v1",
         lambda of: {"leaderWorkerTemplate": {"size": 2, "workerTemplate": of(4)}},
         {"leader": 4, "worker": 4}),
        ("Job", "batch.volcano.sh/v1alpha1",
         lambda of: {"tasks": [{"name": "t", "template": of(3)}]}, {"t": 3}),
        ("Job", "batch/v1", lambda _: {"template": {"spec": {"containers": "none"}}}, {"": None}),
    ],
)  # fmt: skip
def test_what_members_to_come_will_ask_for_stands_in_their_template(
    kind: str, version: str, spec: Any, gpus: dict[str, int | None]
) -> None:
    def of(count: int) -> dict[str, Any]:
        wants = {"requests": {"nvidia.com/gpu": str(count)}} if count else {}
        return {"spec": {"containers": [{"resources": wants}]}}

    groups = Groups(asked_by=pod_request)
    (key,) = groups.state(statements(_object(kind, version, **spec(of))))
    found = {role.name: role.like for role in groups.spec(key).roles}
    assert {name: like and like.gpu.count for name, like in found.items()} == gpus
    assert all(
        like is None or (like.namespace, like.gang) == ("team", None) for like in found.values()
    )
    assert groups.state(statements(_object(kind, version, **spec(of)))) == []


def test_members_on_nodes_that_nobody_lists_need_no_place_and_keep_their_partners_in_place() -> (
    None
):
    jobset = _jobset(("driver", 1, []), ("w", 3, []))
    groups = _groups([jobset], _of_jobset("job-driver-0-0", "job-w-0-0", "job-w-0-1", "job-w-0-2"))
    (spec,) = groups.specs(["job-driver-0-0", "job-w-0-0", "no member"]).values()
    assert spec.minimum == 2 and [role.minimum for role in spec.roles] == [0, 2]
    assert groups.partners(["job-w-0-0"]) == {"job-driver-0-0", *(f"job-w-0-{n}" for n in range(3))}
    assert groups.partners(["no member"]) == groups.partners([]) == set()
