"""What kube-scheduler really says to an extender that serves the same nodes from a file."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from testbed.controlplane import scheduling
from testbed.controlplane.api import eventually
from testbed.controlplane.extender import offline
from testbed.controlplane.objects import gpu_node, gpu_pod, pod, pod_group
from testbed.controlplane.tap import Tap

pytestmark = pytest.mark.e2e


class Line:
    """kube-scheduler, the tap, the extender, and perhaps somebody else's extender behind it.

    The extender knows the nodes, and those that are ``known`` to it alone.
    """

    def __init__(self, cluster, nodes, *, known=(), flags=(), behind="", **extender):
        self.cluster = cluster
        cluster.create(nodes)
        self.extender = offline(cluster.plane, [*nodes, *known], *flags)
        self.extender.start()
        self.tap = Tap(self.extender.url)
        self.tap.__enter__()
        config = scheduling.extended(self.tap.url, **extender)
        if behind:
            other = {"urlPrefix": behind, "filterVerb": "filter", "nodeCacheCapable": True}
            config["extenders"].append(other)
        cluster.scheduler(config)

    def verbs(self, pod=""):
        return [call.verb for call in self.tap.calls(pod=pod)]


@pytest.fixture
def line(cluster):
    started = []

    def start(nodes, **extender):
        started.append(Line(cluster, nodes, **extender))
        return started[-1]

    yield start
    for one in started:
        one.tap.__exit__()


def test_filter_then_prioritize_with_the_keys_of_the_protocol(line, cluster):
    line = line([gpu_node(f"n{i}", 4) for i in range(3)])
    cluster.create([gpu_pod("p", 2)])
    cluster.all_bound(1)
    filtered, prioritized = line.tap.calls(pod="p")
    assert (filtered.verb, prioritized.verb) == ("filter", "prioritize")
    for call in (filtered, prioritized):
        assert set(call.body) == {"Pod", "Nodes", "NodeNames"}
        assert call.body["Nodes"] is None  # an absent list is an explicit null
        assert sorted(call.body["NodeNames"]) == ["n0", "n1", "n2"]
        assert call.headers["content-type"] == "application/json"
        assert "authorization" not in call.headers
        sent = call.body["Pod"]
        if cluster.plane.assets.minor >= 36:  # from there on its informers drop them
            assert "managedFields" not in sent["metadata"]
        assert "kind" not in sent and "apiVersion" not in sent
    assert {type(entry["Score"]) for entry in prioritized.answer} == {int}


def test_the_extender_decides(line, cluster):
    # Stock scoring would spread these; packing puts the second pod beside the first.
    line([gpu_node(f"n{i}", 4) for i in range(3)])
    for name in ("a", "b", "c", "d"):
        cluster.create([gpu_pod(name, 1)])
        cluster.all_bound(1 + "abcd".index(name))
    assert len(set(cluster.bound().values())) == 1
    cluster.validator.check()


def test_one_node_left_is_not_prioritized(line, cluster):
    line = line([gpu_node("big", 8), gpu_node("small", 1)])
    cluster.create([gpu_pod("p", 4)])
    assert cluster.all_bound(1) == {"p": "big"}
    (only,) = line.tap.calls(pod="p")
    assert only.verb == "filter" and only.body["NodeNames"] == ["big"]


def test_pods_that_want_nothing_of_ours_are_not_shown(line, cluster):
    line = line([gpu_node(f"n{i}", 1) for i in range(2)])
    cluster.create([pod("plain"), gpu_pod("gpu")])
    cluster.all_bound(2)
    assert line.verbs("plain") == [] and line.verbs("gpu") == ["filter", "prioritize"]


def test_nodes_that_kube_scheduler_has_ruled_out_are_not_shown(line, cluster):
    nodes = [gpu_node(f"n{i}", 4) for i in range(3)]
    nodes[1]["spec"] = {"unschedulable": True}
    line = line(nodes)
    cluster.create([gpu_pod("p", 1)])
    cluster.all_bound(1)
    assert all("n1" not in call.body["NodeNames"] for call in line.tap.calls(pod="p"))


def test_the_whole_gang_is_tried_again_with_filter_for_every_member(line, cluster):
    if not cluster.plane.gangs:
        pytest.skip(f"Kubernetes {cluster.plane.assets.version} has no PodGroup v1beta1")
    nodes = [gpu_node(f"n{i}", 1) for i in range(4)]
    line = line(nodes, known=[gpu_node("n4", 1)])
    cluster.create([pod_group("five", 5)])
    cluster.create([gpu_pod(f"m{i}", group="five") for i in range(5)], connections=1)
    # Members of a cycle see fewer and fewer nodes though nothing was bound; the fifth is refused
    # by kube-scheduler itself, and all of it comes again.
    calls = eventually(
        lambda: c if len(c := line.tap.calls("filter")) >= 8 else None, "two rounds", patience_s=30
    )
    widths = [len(call.body["NodeNames"]) for call in calls[:8]]
    assert widths == [4, 3, 2, 1] * 2
    assert len({call.pod for call in calls[:4]}) == 4
    lone = [c.pod for c in calls[:8] if len(c.body["NodeNames"]) == 1]
    assert not set(lone) & {c.pod for c in line.tap.calls("prioritize")[:3]}
    assert cluster.bound() == {}
    cluster.create([gpu_node("n4", 1)])
    assert len(set(cluster.all_bound(5).values())) == 5
    cluster.validator.check()


def test_an_extender_that_is_down_delays_pods_and_loses_none(line, cluster):
    line = line([gpu_node(f"n{i}", 4) for i in range(2)])
    line.extender.kill()
    cluster.create([gpu_pod("p")])
    eventually(lambda: line.tap.calls("filter"), "asked")
    eventually(lambda: "p" in cluster.pending() and cluster.pending()["p"], "refused with a reason")
    line.extender.start()
    assert set(cluster.all_bound(1)) == {"p"}
    cluster.validator.check()


def test_failed_prioritize_is_swallowed_by_kube_scheduler(line, cluster):
    line = line([gpu_node(f"n{i}", 4) for i in range(2)], prioritizeVerb="nonsense")
    cluster.create([gpu_pod("p")])
    cluster.all_bound(1)
    assert [(c.verb, c.status) for c in line.tap.calls(pod="p")] == [
        ("filter", 200),
        ("nonsense", 404),
    ]


class Choosy(BaseHTTPRequestHandler):
    """Somebody else's extender: it wants none of the nodes that it was first asked about."""

    refused: ClassVar[list[str]] = []

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["NodeNames"]
        if not self.refused:
            self.refused += asked
        names = [name for name in asked if name not in self.refused]
        body = json.dumps({"NodeNames": names}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Not on the terminal."""


def test_a_pod_whose_short_list_is_refused_by_another_extender_is_told_of_all(
    line, cluster, tmp_path
):
    config = tmp_path / "config.yaml"
    config.write_text("answer_top_k: 2\n")
    Choosy.refused.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Choosy) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        try:
            behind = f"http://127.0.0.1:{other.server_port}"
            nodes = [gpu_node(f"n{i}", 4) for i in range(5)]
            line = line(nodes, flags=("--config", str(config)), behind=behind)
            cluster.create([gpu_pod("p", 1)])
            eventually(lambda: Choosy.refused, "the other extender has refused the best two")
            # Whatever happens in the cluster sends such a pod to the queue again.
            cluster.api.patch("Node", "n0", {"metadata": {"labels": {"anything": "new"}}})
            where = cluster.all_bound(1)
        finally:
            other.shutdown()
    assert len(Choosy.refused) == 2 and where["p"] not in Choosy.refused
    first, again, *_ = (call for call in line.tap.calls(pod="p") if call.verb == "filter")
    assert len(first.answer["NodeNames"]) == 2 and first.answer["FailedNodes"] == {}
    assert len(again.answer["NodeNames"]) == 5
