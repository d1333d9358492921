"""The validator on fabricated objects: it sees each planted fault, and nothing else."""

from __future__ import annotations

from fractions import Fraction

import pytest

from testbed.controlplane.objects import (
    DEVICES,
    GPU,
    MEMORY,
    MILLI,
    fraction_node,
    fraction_pod,
    gpu_node,
    gpu_pod,
    node,
    pod,
    pod_group,
)
from testbed.controlplane.validator import judge, quantity, requests

A100 = 81_920


def bound(pod, node="n", devices=None):
    pod["spec"]["nodeName"] = node
    if devices is not None:
        pod["metadata"]["annotations"][DEVICES] = devices
    return pod


def rules(nodes, pods, groups=(), **how):
    return [violation.rule for violation in judge(nodes, pods, groups, **how)]


def test_a_full_and_correct_cluster_breaks_no_rule():
    nodes = [gpu_node("g", 2), fraction_node("n", 3)]
    pods = [
        bound(gpu_pod("a", 1), "g"),
        bound(gpu_pod("b", 1), "g"),
        bound(fraction_pod("c", 600), devices=f"0:600:{A100 * 6 // 10}:0"),
        bound(fraction_pod("d", 400), devices=f"0:400:{A100 * 4 // 10}:0"),
        bound(fraction_pod("e", 2000), devices=f"1:1000:{A100}:0,2:1000:{A100}:0"),
    ]
    assert rules(nodes, pods) == []


@pytest.mark.parametrize(
    ("resources", "name"),
    [({GPU: 9}, GPU), ({"nvidia.com/mig-1g.10gb": 1}, "nvidia.com/mig-1g.10gb")],
)
def test_too_many_of_a_resource(resources, name):
    (found,) = judge([gpu_node("n", 8)], [bound(pod("a", resources))])
    assert found.rule == "over-commit" and name in found.text


def test_cpu_memory_and_pods_count_too():
    small = node("n", cpu=1, memory_gib=1, pods=2)
    pods = [bound(pod(f"p{i}", cpu_milli=400, memory_mib=400)) for i in range(3)]
    assert {v.text.split()[-1] for v in judge([small], pods)} == {"cpu", "memory", "pods"}


def test_finished_pods_hold_nothing_and_terminating_ones_do():
    pods = [bound(gpu_pod("done", 8)), bound(gpu_pod("going", 1))]
    pods[0]["status"] = {"phase": "Succeeded"}
    pods[1]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert rules([gpu_node("n", 1)], pods) == []
    assert rules([gpu_node("n", 1)], [*pods, bound(gpu_pod("new", 1))]) == ["over-commit"]


@pytest.mark.parametrize(
    ("shares", "rule"),
    [
        (("0:600:0:0", "0:500:0:0"), "device"),
        (("0:600:50000:0", "0:300:50000:0"), "memory"),
        (("2:600:0:0", "0:500:0:0"), "index"),
        ((None, "0:500:0:0"), "unassigned"),
        (("0-600", "0:500:0:0"), "unreadable"),
        (("0:600:0:0,1:0:0:0", "1:500:0:0"), "assignment"),
    ],
)
def test_faults_of_devices(shares, rule):
    asked = (600, 300) if rule == "memory" else (600, 500)
    pods = [
        bound(fraction_pod(name, milli), devices=text)
        for name, milli, text in zip("ab", asked, shares, strict=True)
    ]
    assert rule in rules([fraction_node("n", 2)], pods)


def test_whole_devices_are_exclusive_even_of_empty_shares():
    whole = bound(fraction_pod("whole", 1000), devices="0:1000:0:0")
    other = bound(pod("other", {MEMORY: 10}), devices="0:0:10:0")
    assert "exclusive" in rules([fraction_node("n", 2)], [whole, other])


@pytest.mark.parametrize(
    ("asked", "memory", "text"),
    [
        (500, 0, "0:400:0:0"),
        (500, 1000, "0:500:999:0"),
        (2000, 0, "0:1000:0:0,0:1000:0:0"),
        (1000, 0, "0:500:0:0,1:500:0:0"),
    ],
)
def test_devices_that_are_not_what_was_asked_for(asked, memory, text):
    found = rules([fraction_node("n", 2)], [bound(fraction_pod("a", asked, memory), devices=text)])
    assert "assignment" in found


def test_fractions_that_somebody_else_bound_are_let_through_if_told():
    pods = [bound(fraction_pod("a", 500))]
    assert rules([fraction_node("n")], pods) == ["unassigned"]
    assert rules([fraction_node("n")], pods, foreign=lambda _: True) == []


def test_devices_on_pods_that_asked_for_none_or_are_not_bound():
    waiting = fraction_pod("waiting", 500, annotations={DEVICES: "0:500:0:0"})
    plain = bound(gpu_pod("plain", 1), "g", devices="0:1000:0:0")
    assert sorted(rules([gpu_node("g"), fraction_node("n")], [waiting, plain])) == [
        "unasked",
        "unbound",
    ]


def test_a_device_sold_by_plugin_and_by_thousandths():
    both = node("n", {GPU: 2, MILLI: 2000})
    pods = [bound(gpu_pod("a", 2)), bound(fraction_pod("b", 500), devices="0:500:0:0")]
    assert rules([both], pods) == ["both-ways"]


def test_a_pod_on_a_model_that_it_did_not_name():
    pods = [bound(gpu_pod("a", 1, products=("Tesla-T4",)))]
    assert rules([gpu_node("n")], pods) == ["affinity"]
    assert rules([gpu_node("n", product="Tesla-T4")], pods) == []


def test_half_a_gang():
    members = [gpu_pod(f"m{i}", group="g") for i in range(3)]
    group = pod_group("g", 3)
    assert rules([gpu_node("n")], members, [group]) == []
    bound(members[0])
    assert rules([gpu_node("n")], members, [group]) == ["gang"]
    assert rules([gpu_node("n")], members, [group], settled=False) == []
    for member in members:
        bound(member)
    assert rules([gpu_node("n")], members, [group]) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("100m", Fraction(1, 10)),
        ("1Gi", 1 << 30),
        ("1.5k", 1500),
        ("2e3", 2000),
        ("1E", 10**18),
        (7, 7),
        ("250n", Fraction(1, 4_000_000)),
    ],
)
def test_quantities(text, value):
    assert quantity(text) == value


def test_requests_of_init_containers_sidecars_and_pods():
    def container(cpu, **more):
        return {"resources": {"requests": {"cpu": cpu}}, **more}

    spec = {
        "initContainers": [container("1", restartPolicy="Always"), container("5")],
        "containers": [container("2"), {"resources": {"limits": {GPU: "1"}}}],
        "overhead": {"cpu": "250m"},
    }
    assert requests({"spec": spec}) == {"cpu": Fraction(25, 4), GPU: 1}
    spec["resources"] = {"requests": {"cpu": "4"}}
    assert requests({"spec": spec})["cpu"] == Fraction(17, 4)
