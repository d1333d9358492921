"""Readers and writers: what is written is read back, what is wrong is named."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.core.engine import Engine
from scheduler.core.errors import InvalidInput
from scheduler.core.model import (
    Device,
    DeviceShare,
    GpuRequest,
    Node,
    NodeSelection,
    Requirement,
    SelectorTerm,
    Taint,
    Toleration,
)
from scheduler.core.selection import NOT_READY
from scheduler.core.state import ClusterState
from scheduler.files import dump_writer, kubectl_dump, native, openb
from scheduler.files.load import load_nodes, load_workload
from scheduler.files.workload import Arrival, BoundPod, Workload, place_bound
from scheduler.kube.pod_requests import charge_of
from scheduler.simulator.generate import GeneratorConfig, generate
from testbed.kube_objects import node_json, pod_json
from tests.builders import gang_key, gangs_of, node, pod

HEADER = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,creation_time,deletion_time\n"


def _pods(tmp_path: Path, *lines: str, header: str = HEADER) -> Path:
    path = tmp_path / "pods.csv"
    path.write_text(header + "\n".join(lines) + "\n")
    return path


def _nodes(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "nodes.csv"
    path.write_text("sn,cpu_milli,memory_mib,gpu,model\n" + "\n".join(lines) + "\n")
    return path


def test_openb_pods(tmp_path: Path) -> None:
    arrivals = openb.read_pods(
        _pods(tmp_path, "a,1000,2048,0,0,,5,9", "b,2000,1,1,460,,1,", "c,1,1,2,1000,T4|P100,0,3")
    )
    assert [a.request.gpu.kind.name for a in arrivals] == ["NONE", "FRACTION", "WHOLE"]
    assert arrivals[0].at_s == 5.0 and arrivals[0].duration_s == 4.0
    assert arrivals[1].duration_s is None and arrivals[2].request.gpu.products == ("P100", "T4")


def test_openb_nodes(tmp_path: Path) -> None:
    path = _nodes(tmp_path, "n0,64000,262144,2,T4", "n1,32000,1024,0,")
    found = load_nodes(path)
    assert [len(n.devices) for n in found] == [2, 0] and found[0].product == "T4"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("a,x,1,0,0,,,", r":2:cpu_milli: 'x' is not a whole number"),
        ("a,1,1,1,1500,,,", r":2:gpu_milli: is 1500"),
        ("a,1,1,2,500,,,", r":2:gpu_milli: is 500 for 2 GPUs"),
        ("a,1,1,0,0,,9,5", r":2:deletion_time: is before"),
        ("a,1,1,0,0,,soon,", r":2:creation_time: 'soon' is not a time"),
        (",1,1,0,0,,,", r":2:name: '' is empty"),
        ("a,1,1", r":2: has not as many fields"),
    ],
)
def test_openb_errors_name_file_line_and_field(tmp_path: Path, line: str, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        openb.read_pods(_pods(tmp_path, line))


def test_openb_refuses_missing_columns_and_repeated_names(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="misses the column 'num_gpu'"):
        openb.read_pods(_pods(tmp_path, "a,1,1", header="name,cpu_milli,memory_mib\n"))
    with pytest.raises(InvalidInput, match=":3:sn: 'n' is empty or repeated"):
        openb.read_nodes(_nodes(tmp_path, "n,1,1,0,", "n,1,1,0,"))
    with pytest.raises(InvalidInput, match="state the model"):
        openb.read_nodes(_nodes(tmp_path, "n,1,1,2,"))
    with pytest.raises(InvalidInput, match="cannot be read"):
        openb.read_nodes(tmp_path / "absent.csv")


_RULES = NodeSelection(
    (("zone", "z"),),
    (
        SelectorTerm((Requirement("rank", "Gt", ("3",)),)),
        SelectorTerm((), (Requirement("metadata.name", "In", ("c",)),)),
    ),
    (Toleration("gpu", "Exists"), Toleration("sla", "Lt", "9", "NoExecute")),
)


def _rich_workload() -> Workload:
    nodes = (
        node("a", devices=(Device("T4", 15_360), Device("T4", 15_360, healthy=False))),
        node("b", devices=(Device("A100-SXM4-40GB", mig="A100-40", mig_layout=(("3g.20gb", 4),)),)),
        node("c", devices=(Device("T4", 15_360, replicas=4),) * 2, taints=(Taint("gpu", "x"),)),
        node(
            "d",
            unschedulable=True,
            taints=(Taint(NOT_READY),),
            labels={"zone": "z"},
            counted={"example.com/nic": 8},
        ),
    )
    arrivals = (
        Arrival(pod("p0", milli=250, products=("T4",)), 1.5, 60.0),
        Arrival(pod("p1", count=2, resource="nvidia.com/gpu", priority=5), 2.0),
        Arrival(pod("p2", mig=(("3g.20gb", 1),), gang=gang_key("g", 3)), 3.0, 9.0),
        Arrival(
            pod(
                "p3",
                replicas=2,
                selection=_RULES,
                counted=(("example.com/nic", 2), ("hugepages-1Gi", 7)),
            ),
            4.0,
        ),
        Arrival(pod("p4", milli=100, memory_mib=2000), 5.0),
    )
    bound = (
        BoundPod(pod("r0", milli=300), "a", (DeviceShare(0, 300, 4608),)),
        BoundPod(pod("r1"), "d"),
    )
    gangs = gangs_of(*(arrival.request for arrival in arrivals))
    return Workload(nodes, arrivals, bound, "rich", gangs)


def test_our_format_round_trips(tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    native.write(_rich_workload(), path)
    assert load_workload(path) == _rich_workload()
    assert load_workload(path).digest() == _rich_workload().digest()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"format": "snugfit/v1", "node": []}', "did you mean 'nodes'"),
        ('{"format": "snugfit/v1", "pods": [{"name": "p", "cpu": 1}]}', "did you mean 'cpu"),
        ('{"format": "snugfit/v9"}', "use 'snugfit/v1'"),
        ('{"format": "snugfit/v1", "nodes": [{"name": 3}]}', "nodes"),
        ('{"format": ', "not JSON"),
        (
            '{"format": "snugfit/v1", "pods": [{"name": "p", "tolerations": [{"operator": "g"}]}]}',
            r"Equal\|Exists\|Gt\|Lt.*tolerations",
        ),
        (
            '{"format": "snugfit/v1", "pods": [{"name": "p", "tolerations": [{"keys": "k"}]}]}',
            "did you mean 'key'",
        ),
        (
            '{"format": "snugfit/v1", "pods": [{"name": "p", "node": "n", "devices": ["x"]}]}',
            "write index:milli",
        ),
    ],
)
def test_our_format_refuses_what_it_does_not_know(
    tmp_path: Path, content: str, complaint: str
) -> None:
    path = tmp_path / "w.json"
    path.write_text(content)
    with pytest.raises(InvalidInput, match=complaint):
        native.read(path)


def test_memory_may_be_stated_in_mib_and_is_written_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    odd = Node("odd", 1, 1234567891)
    native.write(Workload((odd,), (Arrival(replace(pod("p"), memory_bytes=7)),)), path)
    found = load_workload(path)
    assert found.nodes == (odd,) and found.requests[0].memory_bytes == 7
    older = '{"name": "n", "cpu_milli": 1, "memory_mib": 3}'
    path.write_text(f'{{"format": "snugfit/v1", "nodes": [{older}], "pods": [{older}]}}')
    found = load_workload(path)
    assert [found.nodes[0].memory_bytes, found.requests[0].memory_bytes] == [3 << 20] * 2


@pytest.mark.parametrize(
    ("memory", "complaint"),
    [
        ('"memory_mib": 1, "memory_bytes": 1048576', r"nodes\[0\].*memory_mib.*one of them"),
        ('"pods": 5', r"nodes\[0\].*memory_bytes.*missing"),
        (f'"memory_bytes": {1 << 48}', r"nodes\[0\].*more than any node has"),
        ('"memory_bytes": 1.5', "memory_bytes"),
    ],
)
def test_memory_of_a_node_is_stated_once(tmp_path: Path, memory: str, complaint: str) -> None:
    path = tmp_path / "w.json"
    node_text = f'{{"name": "n", "cpu_milli": 1, {memory}}}'
    path.write_text(f'{{"format": "snugfit/v1", "nodes": [{node_text}]}}')
    with pytest.raises(InvalidInput, match=complaint):
        native.read(path)


def test_a_node_that_is_not_ready_has_the_taint_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    lost = '{"name": "n", "cpu_milli": 1, "memory_mib": 1, "ready": false}'
    path.write_text('{"format": "snugfit/v1", "nodes": [' + lost + "]}")
    (found,) = load_nodes(path)
    assert found.taints == (Taint(NOT_READY),)
    native.write(Workload((found,)), path)
    assert load_nodes(path) == (found,)


def test_the_short_form_of_devices(tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    path.write_text(
        '{"format": "snugfit/v1", "nodes": [{"name": "n", "cpu_milli": 1, "memory_mib": 1,'
        ' "gpus": 2, "product": "T4", "gpu_memory_mib": 5}]}'
    )
    assert load_nodes(path)[0].devices == (Device("T4", 5),) * 2


def test_a_kubectl_dump_round_trips_what_it_can_say(tmp_path: Path) -> None:
    path, original = tmp_path / "dump.json", _rich_workload()
    dump_writer.write(original, path)
    found = load_workload(path)
    for ours, theirs in zip(found.nodes, original.nodes, strict=True):
        assert (ours.devices, ours.taints) == (theirs.devices, theirs.taints)
        assert (ours.cpu_milli, ours.memory_bytes, ours.pods) == (
            theirs.cpu_milli,
            theirs.memory_bytes,
            theirs.pods,
        )
    assert [p.gpu for p in found.requests] == [p.gpu for p in original.requests]
    assert [p.counted for p in found.requests] == [p.counted for p in original.requests]
    assert [n.counted for n in found.nodes] == [n.counted for n in original.nodes]
    assert found.requests[2].gang == original.requests[2].gang
    assert replace(found.requests[3].selection, resources=()) == _RULES
    assert found.gangs == original.gangs
    assert [(b.node, b.devices) for b in found.bound] == [
        (b.node, b.devices) for b in original.bound
    ]


XE = Device(resource="gpu.intel.com/xe")
HALF = Device("A100-SXM4-40GB", mig="A100-40", mig_layout=(("3g.20gb", 0),))
ODD = {
    "two vendors": (Device("A2", 16_000), XE, XE),
    "partly partitioned": (Device("A100-SXM4-40GB"), HALF),
    "units": (Device("T4", replicas=4, units=True),) * 2,
    "a single share": (Device("T4", shared=True),),
    "two models": (Device("A10"), Device("L4")),
}


@pytest.mark.parametrize("kind", ODD)
def test_nodes_whose_devices_are_not_all_alike_round_trip(tmp_path: Path, kind: str) -> None:
    nodes = (node("n", devices=ODD[kind]),)
    both = GpuRequest(1, resource="nvidia.com/gpu", also=(GpuRequest(2, resource=XE.resource),))
    asks = (replace(pod("both"), gpu=both),)
    original = Workload(nodes, tuple(Arrival(each, 0.0, None) for each in asks), ())
    native.write(original, tmp_path / "ours.json")
    found = native.read(tmp_path / "ours.json")
    assert [n.devices for n in found.nodes] == [ODD[kind]] and found.requests == asks
    if kind in ("units", "two models"):
        with pytest.raises(InvalidInput, match="use the snugfit/v1 format"):
            dump_writer.write(original, tmp_path / "dump.json")
        return
    dump_writer.write(original, tmp_path / "dump.json")
    found = kubectl_dump.read(tmp_path / "dump.json")
    assert found.requests[0].gpu == both
    told = [(g.resource, g.kind, g.product, len(g.devices)) for g in found.nodes[0].groups]
    assert told == [(g.resource, g.kind, g.product, len(g.devices)) for g in nodes[0].groups]


def test_ended_pods_are_left_out_and_creation_decides_the_order(tmp_path: Path) -> None:
    def item(name: str, created: str, phase: str = "Pending") -> dict:
        metadata = {"name": name, "uid": name, "creationTimestamp": created}
        return {"kind": "Pod", "metadata": metadata, "spec": {}, "status": {"phase": phase}}

    path = tmp_path / "dump.json"
    items = [
        item("late", "2026-01-01T00:01:00Z"),
        item("early", "2026-01-01T00:00:30Z"),
        item("gone", "2026-01-01T00:00:00Z", "Succeeded"),
    ]
    path.write_text(json.dumps({"items": items}))
    found = load_workload(path)
    assert [(a.request.name, a.at_s) for a in found.arrivals] == [("early", 0.0), ("late", 30.0)]


@pytest.mark.parametrize(
    ("items", "complaint"),
    [
        (
            [{"kind": "Node", "metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "x"}}}],
            r"Node n: .*cpu.*none of its devices|Node n: .*cpu.*takes nothing new",
        ),
        ([{"kind": "Pod", "metadata": {"name": 7}}], r"items\[0\]"),
        (
            [
                {
                    "kind": "Pod",
                    "metadata": {"name": "p", "namespace": "n", "creationTimestamp": "?"},
                }
            ],
            "creationTimestamp",
        ),
        (
            [
                {
                    "kind": "Pod",
                    "metadata": {"name": "p", "namespace": "n"},
                    "spec": {"overhead": {"cpu": "much"}},
                }
            ],
            "Pod n/p: spec.overhead.*it gets no node",
        ),
    ],
)
def test_a_broken_dump_names_the_item(tmp_path: Path, items: list, complaint: str) -> None:
    path = tmp_path / "dump.json"
    path.write_text(json.dumps({"items": items}))
    (misread,) = load_workload(path).not_understood
    assert re.search(complaint, misread.text)


def test_nobody_gets_room_beside_a_pod_that_cannot_be_counted(tmp_path: Path) -> None:
    """Not even where nobody asks which pods a node lets in, as behind kube-scheduler."""
    allocatable = {"cpu": "8", "memory": "8Gi", "pods": "9", "nvidia.com/gpu": "4"}
    nodes = [
        {"kind": "Node", "metadata": {"name": name}, "status": {"allocatable": allocatable}}
        for name in "ab"
    ]
    odd = {"kind": "Pod", "metadata": {"name": "r"}, "spec": {"nodeName": "a", "containers": 7}}
    path = tmp_path / "dump.json"
    path.write_text(json.dumps({"items": [*nodes, odd]}))
    workload = load_workload(path)
    engine = Engine(ClusterState(workload.nodes))
    place_bound(engine, workload)
    for request in (pod(), pod(count=1, resource="nvidia.com/gpu")):
        assert [code == 0 for code in engine.filter(request)] == [False, True]


def test_the_wrong_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"kind": "List", "items": []}')
    with pytest.raises(InvalidInput, match="stands beside a CSV"):
        load_workload(tmp_path / "x.json", tmp_path / "p.csv")
    (tmp_path / "x.txt").write_text("name,cpu\na,1\n")
    with pytest.raises(InvalidInput, match=r"neither JSON nor YAML.*kubectl get"):
        load_workload(tmp_path / "x.txt")
    (tmp_path / "bad.json").write_text("[")
    with pytest.raises(InvalidInput, match="is not JSON"):
        load_workload(tmp_path / "bad.json")
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_workload(tmp_path / "absent.json")


def test_running_pods_are_charged_with_or_without_recorded_devices() -> None:
    workload = Workload(
        (node("a", gpus=1, cpu=2000),),
        bound=(
            BoundPod(pod("r0", milli=400), "a", (DeviceShare(0, 400),)),
            BoundPod(pod("r1", milli=600, cpu=500), "a"),
            BoundPod(pod("r2", count=1, cpu=5000), "a"),
        ),
    )
    engine = Engine(ClusterState(workload.nodes))
    place_bound(engine, workload)
    # The third one does not fit, but it runs: its device is claimed twice rather than ignored.
    assert engine.state.gpu_free[0, 0] == -1000 and engine.state.cpu_free[0] == 2000 - 6500
    with pytest.raises(InvalidInput, match="list that node too"):
        place_bound(engine, Workload((), bound=(BoundPod(pod("x"), "nowhere"),)))


def test_the_generator_is_reproducible_and_hits_its_load() -> None:
    config = GeneratorConfig(nodes=50, load=0.8, seed=3, durations="lognormal", gang_share=0.3)
    first, second = generate(config), generate(config)
    assert first == second and first.digest() == second.digest()
    assert generate(GeneratorConfig(nodes=50, seed=4)).digest() != first.digest()
    requested = sum(r.gpu.requested_milli for r in first.requests)
    assert 0.8 <= requested / first.gpu_milli < 1.0
    gangs = {r.gang.name for r in first.requests if r.gang}
    assert gangs and all(
        sum(r.gang is not None and r.gang.name == g for r in first.requests) == 4 for g in gangs
    )
    assert all(a.duration_s and a.duration_s > 0 for a in first.arrivals)


@pytest.mark.parametrize("arrivals", ["poisson", "uniform", "bursts"])
def test_arrival_processes_have_the_stated_rate(arrivals: str) -> None:
    config = GeneratorConfig(
        nodes=5, pods=2000, arrivals=arrivals, rate_per_s=20.0, durations="exponential"
    )
    times = [a.at_s for a in generate(config).arrivals]
    assert times == sorted(times) and 80 < times[-1] < 120


@pytest.mark.parametrize(
    "fields",
    [{"nodes": 0}, {"load": 0.0}, {"arrivals": "x"}, {"durations": "x"}, {"gang_size": 1}],
)
def test_impossible_settings_are_named(fields: dict) -> None:
    with pytest.raises(InvalidInput, match=f"generate.{next(iter(fields))}"):
        GeneratorConfig(**fields)


def test_every_pod_of_a_dump_is_charged_once(tmp_path: Path, monkeypatch) -> None:
    records = ({}, {"snugfit.io/devices": "0:500:0:0"}, {"snugfit.io/devices": "what"})
    contradicts = {"nvidia.com/gpu": "1", "snugfit.io/gpu-milli": "500"}
    items = [node_json("n0", gpus=2)]
    for number, record in enumerate(records):
        asked = contradicts if number == 2 else {"snugfit.io/gpu-milli": "500"}
        items.append(pod_json(f"p{number}", node="n0", requests=asked, annotations=record))
    items.append(pod_json("waits", requests={"nvidia.com/gpu": "1"}))
    path = tmp_path / "cluster.json"
    kinds = ("Node", *["Pod"] * 4)
    listed = [
        {"apiVersion": "v1", "kind": kind} | item for kind, item in zip(kinds, items, strict=True)
    ]
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": listed}))
    charged: list[str] = []

    def charge(found, *rest):
        charged.append(found.metadata.name)
        return charge_of(found, *rest)

    monkeypatch.setattr(kubectl_dump, "charge_of", charge)
    read = kubectl_dump.read_dump(path)
    assert len(read.workload.bound) == 3
    assert sorted(charged) == ["p0", "p1", "p2", "waits"]
