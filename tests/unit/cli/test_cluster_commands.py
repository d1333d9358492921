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
    assert _run("advertise", "cpu", "--kubeconfig", kubeconfig).exit_code == 1
    assert _run("advertise", "gpu", "--kubeconfig", kubeconfig).exit_code == 0
    absent = _run("advertise", "nowhere", "--kubeconfig", kubeconfig)
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


@pytest.mark.parametrize("command", ["doctor", "advertise"])
def test_without_a_cluster_it_is_bad_input(command: str, tmp_path: Path) -> None:
    done = _run(command, "--kubeconfig", str(tmp_path / "absent"))
    assert isinstance(done.exception, InvalidInput)
