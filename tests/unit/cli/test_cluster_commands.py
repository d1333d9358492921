"""Commands for a live cluster, where there is none or it refuses."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from scheduler.cli.main import cli
from scheduler.core.errors import InvalidInput, KubeApiError
from scheduler.kube.installation import State, installed

NODES = {
    "items": [
        {
            "metadata": {"name": "gpu", "labels": {"nvidia.com/gpu.count": "2"}},
            "status": {"capacity": {"cpu": "8"}, "allocatable": {"cpu": "8"}},
        },
        {"metadata": {"name": "cpu"}, "status": {"allocatable": {"cpu": "8"}}},
    ]
}


class _Api(BaseHTTPRequestHandler):
    """The transport of an API server that lists two nodes and lets nobody write."""

    def _answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path.startswith("/api/v1/nodes"):
            self._answer(200, NODES)
        elif self.path == "/version":
            self._answer(200, {"gitVersion": "v1.36.1"})
        else:
            self._answer(200, {"items": []})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(201, {"status": {"allowed": False}})

    def do_PATCH(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(403, {"message": "nodes is forbidden"})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its signature
        """Silent."""


@pytest.fixture
def kubeconfig(tmp_path: Path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Api)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    file = tmp_path / "kubeconfig"
    file.write_text(
        yaml.safe_dump(
            {
                "clusters": [
                    {
                        "name": "c",
                        "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"},
                    }
                ],
                "users": [{"name": "u", "user": {"token": "t"}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    yield str(file)
    server.shutdown()
    server.server_close()
    thread.join()


def _run(*args: str):
    return CliRunner().invoke(cli, list(args))


def test_a_dry_run_shows_patches_and_writes_nothing(kubeconfig: str) -> None:
    done = _run("advertise", "--kubeconfig", kubeconfig, "--json")
    assert done.exit_code == 0
    gpu, cpu = json.loads(done.stdout)["nodes"]
    assert gpu["action"] == "set" and cpu["action"] == "skip"
    table = _run("advertise", "--kubeconfig", kubeconfig)
    assert table.exit_code == 0 and "Would be advertised" in table.stdout


def test_a_node_that_cannot_be_read_stops_no_other(kubeconfig: str, monkeypatch) -> None:
    bad = {"metadata": {"name": "bad", "labels": 7}, "status": {"allocatable": {"cpu": "8"}}}
    monkeypatch.setitem(NODES, "items", [bad, *NODES["items"]])
    done = _run("advertise", "--kubeconfig", kubeconfig, "--json")
    assert done.exit_code == 0 and "node bad is left out: metadata.labels" in done.stderr
    assert [one["node"] for one in json.loads(done.stdout)["nodes"]] == ["gpu", "cpu"]


def test_a_named_node_that_cannot_is_an_answer_no(kubeconfig: str) -> None:
    assert _run("advertise", "--node", "cpu", "--kubeconfig", kubeconfig).exit_code == 1
    assert _run("advertise", "live:x", "--node", "gpu", "--kubeconfig", kubeconfig).exit_code == 0
    absent = _run("advertise", "--node", "nowhere", "--kubeconfig", kubeconfig)
    assert isinstance(absent.exception, InvalidInput)


def test_a_refused_write_is_said(kubeconfig: str) -> None:
    done = _run("advertise", "--apply", "--kubeconfig", kubeconfig)
    assert isinstance(done.exception, KubeApiError) and "forbidden" in str(done.exception)


def test_doctor_fails_on_missing_rights_and_a_silent_extender(kubeconfig: str) -> None:
    flags = ("--kubeconfig", kubeconfig, "--account", "a/b", "--extender", "http://127.0.0.1:1")
    done = _run("doctor", *flags, "--json")
    assert done.exit_code == 1
    states = {check["question"]: check["state"] for check in json.loads(done.stdout)["checks"]}
    assert states["is Kubernetes v1.36.1 supported?"] == "ok"
    assert states["may a/b do what the extender does?"] == "failed"
    assert states["is the extender at http://127.0.0.1:1 ready?"] == "failed"
    table = _run("doctor", "--kubeconfig", kubeconfig)
    assert table.exit_code == 1 and "failed" in table.stdout


def test_doctor_looks_at_the_right_to_evict_where_the_setting_is_on(kubeconfig: str) -> None:
    for flags, named in (((), False), (("--evict-gangs",), True)):
        done = _run("doctor", "--kubeconfig", kubeconfig, "--json", *flags)
        assert ("create pods/eviction" in done.stdout) is named


def test_doctor_names_what_is_not_understood(kubeconfig: str, monkeypatch) -> None:
    bad = {"metadata": {"name": "bad", "labels": 7}, "status": {"allocatable": {"cpu": "8"}}}
    monkeypatch.setitem(NODES, "items", [*NODES["items"], bad])
    done = _run("doctor", "--kubeconfig", kubeconfig, "--json")
    assert done.exit_code == 1
    said = json.loads(done.stdout)
    (one,) = said["not_understood"]
    assert (one["object"], one["field"]) == ("Node bad", "metadata.labels")
    checks = {check["question"]: check for check in said["checks"]}
    assert "Node bad" in checks["which objects are not understood?"]["answer"]
    assert {report["node"]: report["state"] for report in said["nodes"]}["bad"] == "failed"


def test_doctor_says_where_nothing_is_installed(kubeconfig: str) -> None:
    done = _run("doctor", "--kubeconfig", kubeconfig, "--json")
    checks = {check["question"]: check for check in json.loads(done.stdout)["checks"]}
    found = checks["is Snugfit installed?"]
    assert found["state"] == "warning" and found["answer"].startswith("not installed")


def test_an_extender_that_is_there_counts_once_it_is_ready() -> None:
    pod = {"metadata": {"name": "e", "namespace": "snugfit"}, "spec": {"containers": []}}
    assert installed([pod]).state is State.FAILED
    outside = installed([], "http://127.0.0.1:1")
    assert outside.state is State.OK and "http://127.0.0.1:1" in outside.answer
    ready = pod | {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    assert installed([pod, ready]).answer == "1 of 2 pods are ready, in snugfit"
    assert installed([ready]).state is State.OK


def test_what_doctor_cannot_ask_is_a_failed_check(kubeconfig: str, monkeypatch) -> None:
    """Nodes may be listed, pods may not: what the nodes say is shown all the same."""
    answer = _Api.do_GET

    def refuse(self: _Api) -> None:
        if self.path.startswith("/api/v1/pods"):
            self._answer(403, {"message": "pods is forbidden"})
        else:
            answer(self)

    monkeypatch.setattr(_Api, "do_GET", refuse)
    done = _run("doctor", "--kubeconfig", kubeconfig, "--json")
    assert done.exit_code == 1 and done.exception.__class__ is SystemExit
    said = json.loads(done.stdout)
    checks = {check["question"]: check for check in said["checks"]}
    assert checks["can we list pods?"]["state"] == "failed"
    assert "pods is forbidden" in checks["can we list pods?"]["answer"]
    assert [node["node"] for node in said["nodes"]] == ["gpu", "cpu"]


def test_a_cluster_that_does_not_answer_is_a_failed_check(tmp_path: Path, kubeconfig: str) -> None:
    file = tmp_path / "gone"
    content = yaml.safe_load(Path(kubeconfig).read_text())
    content["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:1"
    file.write_text(yaml.safe_dump(content))
    done = _run("doctor", "--kubeconfig", str(file), "--json")
    (check,) = json.loads(done.stdout)["checks"]
    assert done.exit_code == 1 and check["question"] == "can we reach the API server?"
    assert "is the API server reachable from here?" in check["answer"]


def test_a_page_of_a_proxy_is_no_answer_of_the_api(kubeconfig: str, monkeypatch) -> None:
    def page(self: _Api) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"<html>")

    monkeypatch.setattr(_Api, "do_GET", page)
    done = _run("doctor", "--kubeconfig", kubeconfig, "--json")
    (check,) = json.loads(done.stdout)["checks"]
    assert check["state"] == "failed" and "cannot be read" in check["answer"]
    assert isinstance(_run("advertise", "--kubeconfig", kubeconfig).exception, KubeApiError)


@pytest.mark.parametrize("command", ["doctor", "advertise"])
@pytest.mark.parametrize(
    ("old", "new"), [(("--context", "x"), "live:CONTEXT"), (("--in-cluster",), "`live`")]
)
def test_other_ways_to_name_a_live_cluster_are_gone(command: str, old, new: str) -> None:
    done = _run(command, *old)
    assert done.exit_code == 2 and new in done.stderr
    file = _run(command, "dump.json")
    assert isinstance(file.exception, InvalidInput) and "--node" in str(file.exception)


def test_a_pod_finds_its_service_account_where_there_is_no_kubeconfig(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    done = _run("doctor")
    assert isinstance(done.exception, InvalidInput) and "service account" in str(done.exception)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    assert "kubeconfig" in str(_run("doctor").exception)


@pytest.mark.parametrize("command", ["doctor", "advertise"])
def test_without_a_cluster_it_is_bad_input(command: str, tmp_path: Path) -> None:
    done = _run(command, "--kubeconfig", str(tmp_path / "absent"))
    assert isinstance(done.exception, InvalidInput)
