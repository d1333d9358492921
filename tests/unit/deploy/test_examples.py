"""The examples mean what they say: read by the same code that reads pods in a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from scheduler.core.model import GpuRequest
from scheduler.kube.gang_groups import Groups
from scheduler.kube.gang_membership import gang_ref
from scheduler.kube.objects import PodObject
from scheduler.kube.pod_requests import pod_request
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.scheduler_config.write import managed_resources
from scheduler.kube.workloads import statements

EXAMPLES = Path(__file__).parents[3] / "deploy/examples"
NAMES = ResourceNames()


def _documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((EXAMPLES / f"{name}.yaml").read_text()))


def _templates(content: Any) -> Iterator[dict[str, Any]]:
    """Everything that looks like a pod, wherever it stands."""
    if isinstance(content, list):
        for item in content:
            yield from _templates(item)
    if not isinstance(content, dict):
        return
    spec = content.get("spec")
    if isinstance(spec, dict) and "containers" in spec:
        yield content
        return
    for value in content.values():
        yield from _templates(value)


def _pods(name: str, **metadata: dict[str, str]) -> list[PodObject]:
    pods = []
    for template in _templates(_documents(name)):
        pod = msgspec.convert(template, PodObject)
        for field, added in metadata.items():
            setattr(pod.metadata, field, {**(getattr(pod.metadata, field) or {}), **added})
        pods.append(pod)
    return pods


WANTED = {
    "pod": [GpuRequest(count=2, resource="nvidia.com/gpu")],
    "deployment": [GpuRequest(mig=(("1g.5gb", 1),), products=("NVIDIA-A100-SXM4-40GB",))],
    "indexed-job": [GpuRequest(count=8, resource="nvidia.com/gpu")],
    "jobset": [
        GpuRequest(count=1, resource="nvidia.com/gpu"),
        GpuRequest(count=4, resource="nvidia.com/gpu"),
    ],
    "pytorchjob": [GpuRequest(count=2, resource="nvidia.com/gpu")] * 2,
    "trainjob": [GpuRequest(count=4, resource="nvidia.com/gpu")],
    "inference": [GpuRequest(milli=500, memory_mib=20480)],
    "notebook": [GpuRequest(milli=250, memory_mib=6144)],
}


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} == set(WANTED)


@pytest.mark.parametrize("name", WANTED)
def test_an_example_asks_for_what_its_comment_says(name: str) -> None:
    assert [pod_request(pod).gpu for pod in _pods(name)] == WANTED[name]


@pytest.mark.parametrize("name", WANTED)
def test_an_example_reaches_us(name: str) -> None:
    for pod in _pods(name):
        assert pod.spec.scheduler_name == "snugfit"
        asked = {
            resource
            for container in pod.spec.containers or ()
            for resource in container.resources.limits
        }
        assert asked and asked <= set(managed_resources())


@pytest.mark.parametrize("name", ["inference", "notebook"])
def test_a_fraction_learns_its_device_from_the_annotation_that_we_write(name: str) -> None:
    for template in _templates(_documents(name)):
        (variable,) = template["spec"]["containers"][0]["env"]
        assert variable["name"] == "NVIDIA_VISIBLE_DEVICES"
        path = variable["valueFrom"]["fieldRef"]["fieldPath"]
        assert path == f"metadata.annotations['{NAMES.visible_annotation}']"


LABELS = {
    # What the controller of each kind adds to its pods.
    "indexed-job": {
        "labels": {"batch.kubernetes.io/job-name": "allreduce"},
        "annotations": {"batch.kubernetes.io/job-completion-index": "3"},
    },
    "jobset": {"labels": {"jobset.sigs.k8s.io/jobset-name": "pretrain"}},
    "pytorchjob": {"labels": {"training.kubeflow.org/job-name": "finetune"}},
    "trainjob": {"labels": {"jobset.sigs.k8s.io/jobset-name": "finetune"}},
}


@pytest.mark.parametrize("name", LABELS)
def test_a_gang_is_as_large_as_its_object_makes_it(name: str) -> None:
    refs = {gang_ref(pod) for pod in _pods(name, **LABELS[name])}
    assert len(refs) == 1
    (ref,) = refs
    assert ref is not None
    groups = Groups()
    for document in _documents(name):
        groups.state(statements(document))
    assert groups.spec(ref.key).minimum == ref.size
