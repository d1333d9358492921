"""The protocol against the running server, as kube-scheduler and others use it."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.core.model import Reason
from scheduler.files.dump_writer import pod_json
from scheduler.simulator.kube_scheduler_client import SchedulingLoop
from tests.builders import node, pod
from tests.depth import examples

pytestmark = pytest.mark.server
ALL = ["t4-0", "t4-1", "t4-big", "a10"]


def _call(server, method: str, path: str, body: bytes = b"", **headers: str):
    split = urlsplit(server.url)
    connection = http.client.HTTPConnection(split.hostname, split.port, timeout=60)
    try:
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def _post(server, verb: str, content: Any) -> Any:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    status, headers, answer = _call(
        server, "POST", f"/{verb}", body, **{"Content-Type": "application/json"}
    )
    assert status == 200, (status, answer)
    assert int(headers["Content-Length"]) == len(answer) and "Transfer-Encoding" not in headers
    return json.loads(answer)


def _args(request, names=None, **rest) -> dict[str, Any]:
    return {
        "Pod": pod_json(request),
        "Nodes": None,
        "NodeNames": ALL if names is None else names,
        **rest,
    }


def _raw(requests: dict[str, Any], **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "resources": {"requests": requests}}
    return {
        "metadata": {"name": "raw", "namespace": "default", "uid": "raw"},
        "spec": {"containers": [container], **spec},
    }


class TestFilter:
    def test_every_node_passes_or_has_a_reason(self, server) -> None:
        answer = _post(server, "filter", _args(pod(count=4), [*ALL, "ghost"]))
        assert answer["NodeNames"] == ["t4-big"] and answer["Nodes"] is None
        assert answer["Error"] == "" and answer["FailedNodes"] == {}
        assert answer["FailedAndUnresolvableNodes"] == {
            "t4-0": Reason.NODE_TOO_SMALL.text,
            "t4-1": Reason.NODE_TOO_SMALL.text,
            "a10": Reason.NODE_TOO_SMALL.text,
            "ghost": Reason.NODE_UNKNOWN.text,
        }

    def test_names_are_never_repeated(self, server) -> None:
        answer = _post(server, "filter", _args(pod(count=1), ["t4-0", "t4-0", "a10"]))
        assert sorted(answer["NodeNames"]) == ["a10", "t4-0"]

    def test_whole_nodes_come_back_whole(self, server) -> None:
        items = [{"metadata": {"name": n, "annotations": {"k": n}}} for n in ("t4-0", "a10")]
        args = _args(pod(count=2), Nodes={"metadata": {}, "items": items}) | {"NodeNames": None}
        answer = _post(server, "filter", args)
        assert answer["NodeNames"] is None and answer["Nodes"]["items"] == [items[1]]

    def test_lower_case_requests_are_understood(self, server) -> None:
        answer = _post(server, "filter", {"pod": pod_json(pod(count=4)), "nodeNames": ALL})
        assert answer["NodeNames"] == ["t4-big"]

    @pytest.mark.parametrize(
        ("requests", "word"),
        [
            ({"snugfit.io/gpu-milli": "1500"}, "1500"),
            ({"snugfit.io/gpu-milli": "500", "nvidia.com/gpu": "1"}, "not by both"),
            ({"nvidia.com/gpu": "-1"}, "negative"),
            ({"cpu": "lots"}, "not a quantity"),
        ],
    )
    def test_an_unreadable_request_is_rejected_everywhere_for_one_reason(
        self, server, requests, word: str
    ) -> None:
        answer = _post(server, "filter", {"Pod": _raw(requests), "NodeNames": ALL})
        assert answer["NodeNames"] == [] and answer["Error"] == ""
        (message,) = set(answer["FailedAndUnresolvableNodes"].values())
        assert set(answer["FailedAndUnresolvableNodes"]) == set(ALL) and word in message

    def test_labels_of_models_are_left_to_kube_scheduler(self, server) -> None:
        """Nodes that are named have passed its filters, whatever our labels of them say."""
        spec = {"nodeSelector": {"nvidia.com/gpu.product": "A10"}}
        args = {"Pod": _raw({"nvidia.com/gpu": "1"}, **spec), "NodeNames": ALL}
        assert sorted(_post(server, "filter", args)["NodeNames"]) == sorted(ALL)
        assert _post(server, "filter-dryrun", args)["NodeNames"] == []

    def test_shortages_that_only_we_see_are_unresolvable(self, start) -> None:
        """Two devices half used: in-tree still counts 1000 milli free for a 600 milli pod."""
        server = start([node("n", gpus=2, cpu=8000)])
        for i in range(2):
            server.engine.place_on(pod(f"u{i}", milli=600), "n")
        answer = _post(server, "filter", _args(pod(milli=600), ["n"]))
        assert answer["FailedAndUnresolvableNodes"] == {"n": Reason.INSUFFICIENT_FRACTION.text}
        answer = _post(server, "filter", _args(pod(milli=900), ["n"]))
        assert answer["FailedNodes"] == {"n": Reason.INSUFFICIENT_FRACTION.text}
        answer = _post(server, "filter", _args(pod(cpu=7000), ["n"]))
        assert answer["FailedNodes"] == {"n": Reason.INSUFFICIENT_CPU.text}

    def test_a_large_pod_is_read(self, server) -> None:
        large = pod_json(pod("large", count=1))
        large["metadata"]["annotations"] = {"blob": "x" * 1_500_000}
        answer = _post(server, "filter", {"Pod": large, "NodeNames": ALL})
        assert len(answer["NodeNames"]) == 4


class TestPrioritize:
    def test_one_winner_and_integers_for_all(self, server) -> None:
        listed = _post(server, "prioritize", _args(pod(milli=300)))
        assert sorted(entry["Host"] for entry in listed) == sorted(ALL)
        scores = [entry["Score"] for entry in listed]
        assert scores.count(10) == 1 and all(type(s) is int and 0 <= s <= 10 for s in scores)

    def test_unknown_and_infeasible_nodes_score_nothing(self, server) -> None:
        listed = _post(server, "prioritize", _args(pod(count=4), [*ALL, "ghost"]))
        assert {e["Host"]: e["Score"] for e in listed} == {
            "t4-0": 0,
            "t4-1": 0,
            "t4-big": 10,
            "a10": 0,
            "ghost": 0,
        }
        invalid = {"Pod": _raw({"nvidia.com/gpu": "-1"}), "NodeNames": ALL}
        assert {e["Score"] for e in _post(server, "prioritize", invalid)} == {0}

    def test_repeated_and_reordered_questions_have_one_answer(self, server) -> None:
        request = pod("same", milli=300)
        first = _post(server, "prioritize", _args(request))
        second = _post(server, "prioritize", _args(request, ALL[::-1]))
        assert {e["Host"]: e["Score"] for e in first} == {e["Host"]: e["Score"] for e in second}
        assert _post(server, "filter", _args(request))["NodeNames"] == ALL

    def test_top_k_keeps_answers_small(self, start) -> None:
        server = start([node(f"n{i}", gpus=1) for i in range(8)], answer_top_k=3)
        listed = _post(server, "prioritize", _args(pod(count=1), [f"n{i}" for i in range(8)]))
        assert len(listed) == 3 and listed[0]["Score"] == 10

    def test_filter_names_the_best_and_all_to_a_pod_that_comes_back(self, start) -> None:
        names = [f"n{i}" for i in range(9)]
        nodes = [node(name, gpus=1 + i % 4) for i, name in enumerate(names)]
        asked, fitting = pod(count=2), {n for i, n in enumerate(names) if i % 4 >= 1}
        whole = start(nodes, answer_top_k=0)
        everything = _post(whole, "filter", _args(asked, names))
        assert set(everything["NodeNames"]) == fitting
        best = _post(whole, "prioritize", _args(asked, everything["NodeNames"]))[0]

        server = start(nodes, answer_top_k=3)
        answer = _post(server, "filter", _args(asked, names))
        assert len(answer["NodeNames"]) == 3 and set(answer["NodeNames"]) < fitting
        # Those left out have not failed: a reason would send preemption or an autoscaler there.
        for failed in ("FailedNodes", "FailedAndUnresolvableNodes"):
            assert answer[failed] == everything[failed]
        ranked = _post(server, "prioritize", _args(asked, answer["NodeNames"]))
        assert ranked[0] == best
        # Had it been bound it would not ask: somebody behind us wants none of the three.
        for _ in range(2):
            again = _post(server, "filter", _args(asked, names))
            assert set(again["NodeNames"]) == fitting
        other = _post(server, "filter", _args(pod("other", count=2), names))
        assert len(other["NodeNames"]) == 3


class TestHolds:
    def test_the_only_node_named_is_held(self, start) -> None:
        """kube-scheduler takes it without asking for scores."""
        server = start([node("a", gpus=1), node("b", gpus=1)], answer_top_k=1)
        first = _post(server, "filter", _args(pod("first", count=1), ["a", "b"]))["NodeNames"]
        second = _post(server, "filter", _args(pod("second", count=1), ["a", "b"]))["NodeNames"]
        assert len(first) == 1 and second and first != second

    def test_two_quick_pods_do_not_count_on_the_same_hole(self, start) -> None:
        server = start([node("n", gpus=1)], reservation_ttl_s=30)
        assert _post(server, "filter", _args(pod("first", count=1), ["n"]))["NodeNames"] == ["n"]
        refused = _post(server, "filter", _args(pod("second", count=1), ["n"]))
        # A hold is no pod that could be evicted: preemption must not be sent after it.
        assert refused["FailedAndUnresolvableNodes"] == {"n": Reason.INSUFFICIENT_DEVICES.text}
        server.skipped_s += 31
        assert _post(server, "filter", _args(pod("second", count=1), ["n"]))["NodeNames"] == ["n"]

    def test_holds_can_be_turned_off(self, start) -> None:
        server = start([node("n", gpus=1)], reservation_ttl_s=0)
        for name in ("first", "second"):
            assert _post(server, "filter", _args(pod(name, count=1), ["n"]))["NodeNames"] == ["n"]


def _bind(request, node_name: str) -> dict[str, str]:
    return {
        "PodName": request.name,
        "PodNamespace": request.namespace,
        "PodUID": request.uid,
        "Node": node_name,
    }


class TestOffline:
    def test_bind_is_the_truth_and_idempotent(self, server) -> None:
        request = pod("p", count=1)
        assert "call filter first" in _post(server, "bind", _bind(request, "a10"))["Error"]
        _post(server, "filter", _args(request))
        assert _post(server, "bind", _bind(request, "a10")) == {"Error": ""}
        assert _post(server, "bind", _bind(request, "a10")) == {"Error": ""}
        assert "already placed on a10" in _post(server, "bind", _bind(request, "t4-0"))["Error"]
        assert "not known" in _post(server, "bind", _bind(pod("q"), "a10"))["Error"]

    def test_bind_refuses_what_does_not_fit(self, server) -> None:
        request = pod("p", count=2)
        _post(server, "filter", _args(request))
        assert (
            "larger than the whole node" in _post(server, "bind", _bind(request, "t4-0"))["Error"]
        )
        assert "'mars' is not known" in _post(server, "bind", _bind(request, "mars"))["Error"]

    def test_release_gives_the_device_back(self, server) -> None:
        request = pod("p", uid="p/with slash", count=1)
        _post(server, "filter", _args(request))
        _post(server, "bind", _bind(request, "t4-0"))
        server.client.release(request.uid)
        state = server.client.get("/debug/state")
        assert all(not n["pods"] for n in state["nodes"]) and state["recount_differences"] == []
        assert _call(server, "DELETE", "/offline/pods/nobody")[0] == 404

    def test_live_mode_refuses_both(self, start) -> None:
        server = start([node("n", gpus=1)], offline=False)
        request = pod("p", count=1)
        _post(server, "filter", _args(request, ["n"]))
        assert "not configured" in _post(server, "bind", _bind(request, "n"))["Error"]
        assert _call(server, "DELETE", "/offline/pods/p")[0] == 403

    def test_state_lists_everything(self, server) -> None:
        request = pod("p", milli=300)
        _post(server, "filter", _args(request))
        _post(server, "bind", _bind(request, "t4-big"))
        nodes = {n["name"]: n for n in server.client.get("/debug/state")["nodes"]}
        big = nodes["t4-big"]
        assert big["cpu_free_milli"] == big["cpu_milli"] - 1000
        assert big["memory_mib"] << 20 == big["memory_bytes"]
        assert big["memory_free_mib"] == big["memory_mib"] - big["pods"][0]["memory_mib"]
        assert sorted(d["free_milli"] for d in big["devices"]) == [700, 1000, 1000, 1000]
        (placed,) = big["pods"]
        assert placed["uid"] == "p" and placed["devices"][0]["milli"] == 300
        assert not placed["reserved"]

    def test_a_scheduling_loop_fills_the_cluster(self, server) -> None:
        loop = SchedulingLoop(server.client, ALL, seed=1)
        placed = [loop.schedule(pod(f"p{i}", count=1)) for i in range(10)]
        assert len([n for n in placed if n]) == 8 and placed[8:] == ["", ""]


class TestPreempt:
    def _candidates(self, request, **nodes: list[str]) -> dict[str, Any]:
        meta = {
            n: {"Pods": [{"UID": u} for u in uids], "NumPDBViolations": 1}
            for n, uids in nodes.items()
        }
        return {"Pod": pod_json(request), "NodeNameToMetaVictims": meta, "NodeNameToVictims": None}

    def _victims(self, server, request, **nodes: list[str]) -> dict[str, list[str]]:
        answer = _post(server, "preempt", self._candidates(request, **nodes))
        found = answer["NodeNameToMetaVictims"]
        assert all(v["NumPDBViolations"] == 1 for v in found.values())
        return {n: [p["UID"] for p in v["Pods"]] for n, v in found.items()}

    def test_victims_that_free_the_right_device_are_kept(self, server) -> None:
        server.engine.place_on(pod("low", count=1), "t4-0")
        urgent = pod("urgent", count=1, priority=10)
        assert self._victims(server, urgent, **{"t4-0": ["low"]}) == {"t4-0": ["low"]}

    def test_victims_are_added_on_the_device_that_matters(self, start) -> None:
        """Two fractions share the device; kube-scheduler counted milli and picked one of them."""
        server = start([node("n", gpus=1)])
        for uid in ("a", "b"):
            server.engine.place_on(pod(uid, milli=500), "n")
        urgent = pod("urgent", milli=900, priority=10)
        assert self._victims(server, urgent, n=["a"]) == {"n": ["a", "b"]}

    def test_nodes_where_nothing_helps_are_left_out(self, server) -> None:
        server.engine.place_on(pod("equal", count=1, priority=10), "t4-0")
        urgent = pod("urgent", count=1, priority=10)
        assert self._victims(server, urgent, **{"t4-0": [], "ghost": ["x"]}) == {}
        picky = pod("picky", count=1, priority=99, resource="amd.com/gpu")
        assert self._victims(server, picky, **{"t4-0": ["equal"]}) == {}

    def test_empty_candidates_pass_or_get_victims(self, server) -> None:
        server.engine.place_on(pod("low", count=1), "t4-0")
        urgent = pod("urgent", count=1, priority=10)
        found = self._victims(server, urgent, **{"t4-0": [], "t4-1": []})
        assert found == {"t4-0": ["low"], "t4-1": []}

    def test_an_unreadable_preemptor_evicts_nobody(self, server) -> None:
        args = {"Pod": _raw({"nvidia.com/gpu": "-1"}), "NodeNameToMetaVictims": {"t4-0": None}}
        assert _post(server, "preempt", args) == {"NodeNameToMetaVictims": {}}


class TestDryRun:
    def test_it_leaves_no_trace(self, server) -> None:
        before = server.service.generation
        answer = _post(server, "filter-dryrun", _args(pod("p", count=4)))
        assert answer["NodeNames"] == ["t4-big"] and server.service.generation == before
        assert server.service.holds == 0
        assert "not known" in _post(server, "bind", _bind(pod("p", count=4), "t4-big"))["Error"]

    def test_nodes_that_do_not_exist_yet_are_judged_by_their_description(self, server) -> None:
        def template(name: str, gpus: int) -> dict[str, Any]:
            allocatable = {"cpu": "8", "memory": "32Gi", "pods": "110"}
            allocatable["snugfit.io/gpu-milli"] = str(gpus * 1000)
            return {"metadata": {"name": name}, "status": {"allocatable": allocatable}}

        items = [template("new-8", 8), template("new-1", 1), {"metadata": {"name": "t4-big"}}]
        args = _args(pod(count=4), Nodes={"items": items}) | {"NodeNames": None}
        answer = _post(server, "filter-dryrun", args)
        assert [n["metadata"]["name"] for n in answer["Nodes"]["items"]] == ["new-8", "t4-big"]
        assert answer["FailedAndUnresolvableNodes"] == {"new-1": Reason.NODE_TOO_SMALL.text}


class TestRefusals:
    @pytest.mark.parametrize("verb", ["filter", "prioritize", "bind", "preempt", "filter-dryrun"])
    @pytest.mark.parametrize(
        "body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 50_000, b'{"Pod": 1}']
    )
    def test_what_cannot_be_read_is_400_and_says_why(self, server, verb: str, body: bytes) -> None:
        status, headers, answer = _call(
            server, "POST", f"/{verb}", body, **{"Content-Type": "application/json"}
        )
        assert (status, headers["Content-Length"]) == (400, str(len(answer)))
        assert answer.startswith(b"body") and answer.endswith(b"\n") and answer.count(b"\n") == 1

    def test_wrong_method_type_path_and_size(self, start) -> None:
        server = start([node("n")], max_body_mib=1)
        kind = {"Content-Type": "application/json"}
        assert _call(server, "GET", "/filter")[0] == 405
        assert _call(server, "POST", "/filter", b"{}", **{"Content-Type": "text/plain"})[0] == 415
        assert _call(server, "POST", "/elsewhere", b"{}", **kind)[0] == 404
        assert self._status_for_length(server, 2 << 20) == 413
        assert _call(server, "GET", "/healthz")[::2] == (200, b"ok\n")

    def _status_for_length(self, server, length: int) -> int:
        """A server may refuse by the header alone, before the body is sent."""
        split = urlsplit(server.url)
        head = f"POST /filter HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n"
        with socket.create_connection((split.hostname, split.port), timeout=60) as sock:
            sock.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n")
            return int(sock.recv(100).split()[1])

    def test_a_refusal_keeps_the_connection(self, server) -> None:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
        connection.connect()
        first = connection.sock
        for _ in range(3):
            connection.request("POST", "/filter", b"{", {"Content-Type": "application/json"})
            assert connection.getresponse().read().startswith(b"body: ")
            assert connection.sock is first
        connection.close()

    @pytest.mark.parametrize(
        ("method", "path", "kind", "status", "told"),
        [
            ("GET", "/filter", "", 405, "see Allow"),
            ("DELETE", "/bind", "application/json", 405, "see Allow"),
            ("POST", "/healthz", "", 405, "see Allow"),
            ("POST", "/filter", "text/plain", 415, "application/json"),
            ("POST", "/filter", "", 415, "application/json"),
            ("POST", "/filter", "application/json", 400, "Pod"),
            ("POST", "/elsewhere", "application/json", 404, "GET /"),
            ("GET", "/debug", "", 404, "GET /"),
            ("DELETE", "/offline/pods/nobody", "", 404, "nobody"),
            ("GET", "http://y.example/debug/state", "", 421, "host_names"),
            ("GET", "*", "", 400, "begins with /"),
        ],
    )
    def test_every_refusal_says_in_one_line_what_would_be_right(
        self, server, method: str, path: str, kind: str, status: int, told: str
    ) -> None:
        found, headers, answer = _call(server, method, path, b"{}", **{"Content-Type": kind})
        assert found == status and headers["Content-Type"].startswith("text/plain")
        assert answer.count(b"\n") == 1 and told in answer.decode() and len(answer) < 200
        assert status != 405 or headers["Allow"]

    def test_a_replica_whose_turn_it_is_not_says_so(self, server) -> None:
        server.accepting = False
        kind = {"Content-Type": "application/json"}
        status, headers, answer = _call(server, "POST", "/filter", b"{}", **kind)
        assert (status, headers["Connection"]) == (503, "close") and b"replica" in answer

    def test_an_internal_fault_is_500_and_told_to_the_log_alone(
        self, server, monkeypatch, caplog
    ) -> None:
        def fail(*_args: object) -> None:
            raise RuntimeError("planted")

        monkeypatch.setattr(server.service.verbs, "filter", fail)
        body = json.dumps(_args(pod())).encode()
        status, _, answer = _call(
            server, "POST", "/filter", body, **{"Content-Type": "application/json"}
        )
        assert status == 500 and b"log" in answer and b"planted" not in answer
        assert "planted" in caplog.text
        monkeypatch.undo()
        assert len(_post(server, "filter", _args(pod()))["NodeNames"]) == 4

    def test_a_client_that_breaks_off_harms_nobody(self, server) -> None:
        split = urlsplit(server.url)
        for _ in range(5):
            with socket.create_connection((split.hostname, split.port)) as sock:
                sock.sendall(b"POST /filter HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        assert len(_post(server, "filter", _args(pod()))["NodeNames"]) == 4


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
pods = st.fixed_dictionaries(
    {},
    optional={
        "metadata": json_values
        | st.fixed_dictionaries({"name": st.text(max_size=5), "uid": st.text(max_size=5)}),
        "spec": json_values
        | st.fixed_dictionaries(
            {
                "containers": st.lists(
                    st.fixed_dictionaries(
                        {
                            "resources": st.fixed_dictionaries(
                                {
                                    "requests": st.dictionaries(
                                        st.sampled_from(
                                            [
                                                "cpu",
                                                "memory",
                                                "nvidia.com/gpu",
                                                "snugfit.io/gpu-milli",
                                                "nvidia.com/mig-1g.5gb",
                                            ]
                                        ),
                                        st.integers(-5, 3000)
                                        | st.text(max_size=6)
                                        | st.sampled_from(["1e400", "9" * 40, "1Ei"]),
                                    )
                                }
                            )
                        }
                    ),
                    max_size=3,
                )
            }
        ),
    },
)


@settings(
    max_examples=examples(40, 300),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    verb=st.sampled_from(["filter", "prioritize", "bind", "preempt", "filter-dryrun"]),
    content=st.one_of(
        st.binary(max_size=60),
        json_values.map(lambda v: json.dumps(v).encode()),
        st.fixed_dictionaries(
            {"Pod": pods | json_values},
            optional={
                "NodeNames": st.lists(st.sampled_from([*ALL, "ghost"]), max_size=5) | json_values,
                "Nodes": json_values,
                "NodeNameToMetaVictims": json_values,
                "PodName": json_values,
                "Node": json_values,
            },
        ).map(lambda v: json.dumps(v).encode()),
    ),
)
def test_no_body_makes_the_server_fail(server, verb: str, content: bytes) -> None:
    status, headers, answer = _call(
        server, "POST", f"/{verb}", content, **{"Content-Type": "application/json"}
    )
    assert status in (200, 400), (status, content)
    if status == 200:
        json.loads(answer)
    assert int(headers["Content-Length"]) == len(answer)


def test_views(server) -> None:
    _post(server, "filter", _args(pod("seen", count=9)))
    status, headers, text = _call(server, "GET", "/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
    exposed = text.decode()
    assert 'snugfit_verdicts_total{reason="node_too_small",verb="filter"} 4.0' in exposed
    assert 'snugfit_gpu_capacity_milli{product="T4"} 6000.0' in exposed
    assert 'snugfit_request_seconds_count{verb="filter"} 1.0' in exposed
    (decision,) = server.client.get("/debug/decisions?limit=1")["decisions"]
    assert decision["pod"] == "default/seen" and decision["reasons"] == {
        Reason.NODE_TOO_SMALL.text: 4
    }
    ready = server.client.get("/readyz")
    assert ready["ready"] and ready["nodes"] == 4
