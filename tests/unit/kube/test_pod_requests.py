"""From Pod JSON to a request: effective requests, devices, models, selection rules."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from scheduler.core.errors import InvalidInput
from scheduler.core.model import (
    MAX_COUNTED,
    DeviceShare,
    GangKey,
    GpuRequest,
    PodRequest,
    Toleration,
)
from scheduler.kube.device_annotation import write_device_shares
from scheduler.kube.objects import PodObject
from scheduler.kube.pod_requests import charge_of, pod_request
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.sharing.table import record_of

NAMES = ResourceNames()


def _pod(spec: dict[str, Any], **metadata: Any) -> PodObject:
    content = {"metadata": {"name": "p", "namespace": "ns", "uid": "u", **metadata}, "spec": spec}
    return msgspec.json.decode(msgspec.json.encode(content), type=PodObject)


def _asks(*containers: dict[str, Any], **spec: Any) -> PodRequest:
    listed = [{"resources": {"requests": requests}} for requests in containers]
    return pod_request(_pod({"containers": listed, **spec}))


def _init(requests: dict[str, Any], *, sidecar: bool = False) -> dict[str, Any]:
    policy = {"restartPolicy": "Always"} if sidecar else {}
    return {"resources": {"requests": requests}, **policy}


def test_containers_add_up() -> None:
    request = _asks({"cpu": "500m", "memory": "1Gi"}, {"cpu": "1", "memory": "1"})
    assert (request.cpu_milli, request.memory_bytes) == (1500, (1 << 30) + 1)


def test_what_is_no_device_is_counted() -> None:
    request = _asks(
        {"vpc.amazonaws.com/efa": "2", "hugepages-2Mi": "512Mi", "nvidia.com/gpu": "1"},
        {"vpc.amazonaws.com/efa": "2", "ephemeral-storage": "1G", "nvidia.com/gpumem": "3000"},
        initContainers=[_init({"ephemeral-storage": "3G", "google.com/tpu": "0"})],
        overhead={"hugepages-2Mi": "2Mi"},
    )
    assert dict(request.counted) == {
        "ephemeral-storage": 3 * 10**9,
        "hugepages-2Mi": 514 << 20,
        "vpc.amazonaws.com/efa": 4,
    }
    assert request.gpu.count == 1
    assert _asks({"cpu": "1", "requests.example.com/quota": "1", "storage": "1Gi"}).counted == ()


def test_a_pod_that_names_more_resources_than_any_node_has_keeps_too_many_of_them() -> None:
    request = _asks({f"example.com/r{number}": "1" for number in range(5000)})
    assert len(request.counted) == MAX_COUNTED + 1


def test_an_init_container_counts_if_it_is_larger() -> None:
    assert _asks({"cpu": "1"}, initContainers=[_init({"cpu": "3"})]).cpu_milli == 3000
    assert _asks({"cpu": "4"}, initContainers=[_init({"cpu": "3"})]).cpu_milli == 4000


def test_sidecars_add_to_what_runs_beside_them() -> None:
    """Sidecar 1 + init 3 beside it = 4; running: 2 + both sidecars 1.5 = 3.5."""
    inits = [
        _init({"cpu": "1"}, sidecar=True),
        _init({"cpu": "3"}),
        _init({"cpu": "500m"}, sidecar=True),
    ]
    assert _asks({"cpu": "2"}, initContainers=inits).cpu_milli == 4000
    assert _asks({"cpu": "3"}, initContainers=inits).cpu_milli == 4500


def test_an_init_container_before_a_sidecar_does_not_run_beside_it() -> None:
    inits = [_init({"cpu": "3"}), _init({"cpu": "1"}, sidecar=True)]
    assert _asks({"cpu": "1"}, initContainers=inits).cpu_milli == 3000


def test_a_sidecar_with_a_gpu_is_not_shared_with_the_containers() -> None:
    inits = [_init({"nvidia.com/gpu": 1}, sidecar=True)]
    assert _asks({"nvidia.com/gpu": 1}, initContainers=inits).gpu.count == 2


def test_overhead_and_pod_level_resources() -> None:
    request = _asks(
        {"cpu": "1", "nvidia.com/gpu": "2"},
        overhead={"cpu": "250m", "memory": "64Mi"},
        resources={"requests": {"cpu": "3", "nvidia.com/gpu": "7"}},
    )
    assert (request.cpu_milli, request.memory_bytes, request.gpu.count) == (3250, 64 << 20, 2)


def test_a_limit_stands_in_for_a_missing_request() -> None:
    pod = _pod({"containers": [{"resources": {"limits": {"nvidia.com/gpu": 2, "cpu": "1"}}}]})
    request = pod_request(pod)
    assert request.gpu.count == 2 and request.cpu_milli == 1000


@pytest.mark.parametrize(
    ("wants", "gpu"),
    [
        ({"nvidia.com/gpu": "2"}, GpuRequest(count=2, resource="nvidia.com/gpu")),
        ({"amd.com/gpu": 1}, GpuRequest(count=1, resource="amd.com/gpu")),
        ({"snugfit.io/gpu-milli": "250"}, GpuRequest(milli=250)),
        ({"snugfit.io/gpu-milli": 2000}, GpuRequest(count=2)),
        ({"snugfit.io/gpu-memory-mib": 4096}, GpuRequest(memory_mib=4096)),
        (
            {"snugfit.io/gpu-milli": "250", "snugfit.io/gpu-memory-mib": "4096"},
            GpuRequest(milli=250, memory_mib=4096),
        ),
        ({"nvidia.com/mig-1g.5gb": 2}, GpuRequest(mig=(("1g.5gb", 2),))),
        ({"nvidia.com/mig-1g.5gb.me": 1}, GpuRequest(mig=(("1g.5gb+me", 1),))),
        (
            {"nvidia.com/mig-1g.5gb": 1, "nvidia.com/mig-2g.10gb": 1},
            GpuRequest(mig=(("1g.5gb", 1), ("2g.10gb", 1))),
        ),
        ({"nvidia.com/gpu.shared": 3}, GpuRequest(replicas=3)),
        ({"nvidia.com/mig-1g.24gb.me.all": 1}, GpuRequest(mig=(("1g.24gb+me.all", 1),))),
        ({"nvidia.com/mig-1g.24gb.gfx": 1}, GpuRequest(mig=(("1g.24gb+gfx", 1),))),
        ({"nvidia.com/mig-1g.24gb-me": 1}, GpuRequest(mig=(("1g.24gb-me", 1),))),
        ({"amd.com/cpx_nps4": 2}, GpuRequest(2, resource="amd.com/cpx_nps4")),
        (
            {"nvidia.com/mig-1g.5gb.shared": 2},
            GpuRequest(2, resource="nvidia.com/mig-1g.5gb.shared"),
        ),
        (
            {"gpu.intel.com/i915": 2, "nvidia.com/gpu": 1},
            GpuRequest(
                1, resource="nvidia.com/gpu", also=(GpuRequest(2, resource="gpu.intel.com/i915"),)
            ),
        ),
        (
            {"nvidia.com/mig-1g.5gb": 1, "nvidia.com/gpu": 1, "nvidia.com/gpu.shared": 2},
            GpuRequest(
                1,
                resource="nvidia.com/gpu",
                also=(GpuRequest(mig=(("1g.5gb", 1),)), GpuRequest(replicas=2)),
            ),
        ),
        ({"nvidia.com/gpu": "0"}, GpuRequest()),
        ({"example.com/fpga": "1", "cpu": "1500m"}, GpuRequest()),
    ],
)
def test_ways_to_ask_for_devices(wants: dict[str, Any], gpu: GpuRequest) -> None:
    assert _asks(wants).gpu == gpu


@pytest.mark.parametrize(
    ("wants", "word"),
    [
        ({"snugfit.io/gpu-milli": "1500"}, "neither part of one GPU nor whole GPUs"),
        ({"snugfit.io/gpu-milli": "500", "nvidia.com/gpu": "1"}, "not by both"),
        ({"snugfit.io/gpu-milli": "500", "nvidia.com/mig-1g.5gb": "1"}, "not by both"),
        ({"snugfit.io/gpu-milli": "500", "aliyun.com/gpu-mem": "1"}, "not by both"),
        ({"snugfit.io/gpu-milli": 1000, "snugfit.io/gpu-memory-mib": 1}, "part of one GPU only"),
        ({"nvidia.com/gpu": "-1"}, "negative"),
        ({"nvidia.com/gpu": "500m"}, "not whole"),
        ({"nvidia.com/gpu": "many"}, "not a quantity"),
        ({"nvidia.com/gpu": 1 << 15}, "more than any node"),
    ],
)
def test_contradictions_are_refused(wants: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        _asks(wants)


def _affinity(*terms: list[dict[str, Any]]) -> dict[str, Any]:
    required = {"nodeSelectorTerms": [{"matchExpressions": term} for term in terms]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def _in(*values: str, key: str = "nvidia.com/gpu.product") -> dict[str, Any]:
    return {"key": key, "operator": "In", "values": list(values)}


@pytest.mark.parametrize(
    ("spec", "products"),
    [
        ({"nodeSelector": {"nvidia.com/gpu.product": "T4"}}, ("T4",)),
        ({"affinity": _affinity([_in("T4", "A10")])}, ("A10", "T4")),
        ({"affinity": _affinity([_in("T4")], [_in("A10")])}, ("A10", "T4")),
        ({"affinity": _affinity([_in("T4")], [_in("x", key="zone")])}, ()),
        ({"affinity": _affinity([_in("T4", "A10"), _in("A10", "L4")])}, ("A10",)),
        (
            {"nodeSelector": {"nvidia.com/gpu.product": "T4"}, "affinity": _affinity([_in("A10")])},
            ("T4",),
        ),
        ({"nodeSelector": {"nvidia.com/gpu.product": "Tesla-T4-SHARED"}}, ("Tesla-T4",)),
        ({"nodeSelector": {"nvidia.com/gpu.product": "A100-MIG-1g.5gb"}}, ("A100",)),
        ({"nodeSelector": {"zone": "a"}}, ()),
    ],
)
def test_models_that_a_pod_is_after(spec: dict[str, Any], products: tuple[str, ...]) -> None:
    assert _asks({"nvidia.com/gpu": 1}, **spec).gpu.products == products


def test_the_rest_of_a_pod() -> None:
    pod = _pod(
        {
            "containers": None,
            "initContainers": None,
            "tolerations": [{"operator": "Exists"}],
            "priority": 7,
            "schedulingGroup": {"podGroupName": "g"},
        },
        annotations={"snugfit.io/gang-size": "4"},
        ownerReferences=[{"kind": "Job", "name": "j", "controller": True}],
        managedFields=[{"deep": {"ignored": [1, 2]}}],
    )
    request = pod_request(pod)
    assert request.selection.tolerations == (Toleration("", "Exists"),)
    assert (request.priority, request.owner, request.key) == (7, "Job/j", "ns/p")
    assert request.gang == GangKey("kubernetes", "ns", "g")


def test_gangs_of_other_projects() -> None:
    labelled = _pod({}, labels={"scheduling.x-k8s.io/pod-group": "a"})
    annotated = _pod({}, annotations={"scheduling.k8s.io/group-name": "b"})
    assert [pod_request(p).gang.name for p in (labelled, annotated)] == ["a", "b"]


def test_a_pod_without_uid_is_known_by_its_name() -> None:
    assert pod_request(_pod({}, uid="")).uid == "ns/p"


def test_recorded_devices_round_trip() -> None:
    shares = (DeviceShare(0, 250, 4096, 0), DeviceShare(3, 125, 0, 16))
    recorded = _pod({}, annotations={NAMES.devices_annotation: write_device_shares(shares)})
    fraction = GpuRequest(milli=250)
    record = record_of(recorded, fraction, NAMES)
    assert record is not None
    assert [(c.device, c.milli, c.memory_mib) for c in record.claims] == [
        ("0", 250, 4096),
        ("3", 125, 0),
    ]
    assert record_of(_pod({}), fraction, NAMES) is None
    assert record_of(recorded, GpuRequest(), NAMES) is None, "it asks for no device"
    rubbish = _pod({}, annotations={NAMES.devices_annotation: "0:x"})
    assert "devices" in record_of(rubbish, fraction, NAMES).problem


def test_very_many_containers_add_up_exactly() -> None:
    """Of those that ask for the same each costs little; the sum is the same."""
    many = [{"cpu": "100m", "memory": "1Mi"}, {"cpu": "0.1", "nvidia.com/gpu": "0"}, {}] * 5_000
    asks = _asks(*many, {"cpu": "1n", "nvidia.com/gpu": "1"})
    assert (asks.cpu_milli, asks.memory_bytes) == (1_000_001, 5_000 << 20)
    assert asks.gpu.count == 1


@pytest.mark.parametrize("kind", ["containers", "initContainers"])
def test_the_container_that_cannot_be_read_is_named_among_many(kind: str) -> None:
    listed = [{"resources": {"limits": {"cpu": "1"}}}] * 50 + [
        {"resources": {"requests": {"cpu": "x"}}}
    ]
    with pytest.raises(InvalidInput, match=rf"spec\.{kind}\[50\]\.resources\[cpu\]"):
        pod_request(_pod({kind: listed}))


@pytest.mark.parametrize("kind", ["containers", "initContainers"])
def test_more_containers_than_an_object_can_hold_are_refused_and_charged_in_full(kind: str) -> None:
    one = {"resources": {"requests": {"cpu": "10m"}}, "restartPolicy": "Always"}
    pod = _pod({kind: [one] * 40_000})
    with pytest.raises(InvalidInput, match="40,000 of them are in no pod"):
        pod_request(pod)
    assert charge_of(pod).request.cpu_milli == 400_000
