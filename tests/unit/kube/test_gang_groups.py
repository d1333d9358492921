"""The book of gangs knows, whatever came before, what one told of the outcome alone knows."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from scheduler.core.model import GangKey
from scheduler.kube.gang_groups import Groups
from scheduler.kube.objects import PodObject
from scheduler.kube.workloads import Stated, statements
from tests.depth import examples

NAMES = ("js-step-0-0", "js-train-0-0", "js-train-0-1", "js-train-0-2", "odd")


def _template(size: int) -> dict[str, Any]:
    return {"spec": {"parallelism": size, "completions": size}}


def _object(kind: str, version: str, spec: dict[str, Any]) -> dict[GangKey, Stated]:
    metadata = {"name": "js", "namespace": "ns"}
    content = {"kind": kind, "apiVersion": version, "metadata": metadata, "spec": spec}
    return statements(content)


def _jobset(size: int, *, staged: bool) -> dict[GangKey, Stated]:
    after = [{"name": "step", "status": "Complete"}] if staged else []
    jobs = [
        {"name": "step", "template": _template(1)},
        {"name": "train", "template": _template(size), "dependsOn": after},
    ]
    return _object("JobSet", "jobset.x-k8s.io/v1alpha2", {"replicatedJobs": jobs})


def _pod_group(least: int) -> dict[GangKey, Stated]:
    return _object("PodGroup", "scheduling.x-k8s.io/v1alpha1", {"minMember": least})


OBJECTS = st.one_of(
    st.builds(_jobset, st.integers(1, 4), staged=st.booleans()),
    st.builds(_pod_group, st.integers(1, 5)),
    st.builds(
        lambda nodes: _object(
            "TrainJob", "trainer.kubeflow.org/v1alpha1", {"trainer": {"numNodes": nodes}}
        ),
        st.integers(1, 3),
    ),
)


@st.composite
def pods(draw) -> PodObject:
    name = draw(st.sampled_from(NAMES))
    labels, annotations = {}, {}
    if draw(st.booleans()):
        labels["jobset.sigs.k8s.io/jobset-name"] = "js"
    if draw(st.booleans()):
        labels["scheduling.x-k8s.io/pod-group"] = "js"
    if draw(st.booleans()):
        annotations["snugfit.io/gang-size"] = str(draw(st.integers(1, 4)))
    metadata = {"name": name, "namespace": "ns", "labels": labels, "annotations": annotations}
    if draw(st.integers(0, 4)) == 0:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    spec = {"schedulingGates": [{"name": "g"}]} if draw(st.integers(0, 4)) == 0 else {}
    phase = draw(st.sampled_from(["Pending", "Running", "Succeeded", "Failed"]))
    content = {"metadata": metadata, "spec": spec, "status": {"phase": phase}}
    return msgspec.convert(content, PodObject)


class Book(RuleBasedStateMachine):
    """Pods and objects come, change and go."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = Groups(count_members=True)
        self.pods: dict[str, PodObject] = {}
        self.objects: dict[GangKey, Stated] = {}

    @rule(pod=pods())
    def pod_is(self, pod: PodObject) -> None:
        self.pods[pod.metadata.name] = pod
        key = self.groups.join(pod, pod.metadata.name)
        assert key == self.groups.gang_of(pod.metadata.name)

    @rule(name=st.sampled_from(NAMES))
    def pod_goes(self, name: str) -> None:
        self.pods.pop(name, None)
        self.groups.leave(name)

    @rule(stated=OBJECTS)
    def object_is(self, stated: dict[GangKey, Stated]) -> None:
        self.objects.update(stated)
        for key in self.groups.state(stated):
            self.groups.anew(key)

    @rule(stated=OBJECTS)
    def object_goes(self, stated: dict[GangKey, Stated]) -> None:
        for key in stated:
            self.objects.pop(key, None)
        for key in self.groups.unstate(stated):
            self.groups.anew(key)

    @invariant()
    def as_if_told_of_the_outcome_alone(self) -> None:
        fresh = Groups(count_members=True)
        fresh.state(self.objects)
        for name in sorted(self.pods, reverse=True):
            fresh.join(self.pods[name], name)
        assert self.groups.specs() == fresh.specs()
        for name, pod in self.pods.items():
            assert self.groups.gang_of(name) == fresh.gang_of(name)
            assert self.groups.place(pod) == fresh.place(pod)
            gang = self.groups.gang_of(name)
            assert gang in (None, self.groups.place(pod)[0])
        assert all(spec.minimum >= 1 for spec in fresh.specs().values())


Book.TestCase.settings = settings(max_examples=examples(30, 300), deadline=None)
TestBook = Book.TestCase
