"""The demo end to end, in processes of its own: what it says, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scheduler.core.errors import SchedulerError
from scheduler.core.policies.table import RIVALS
from scheduler.files import native
from scheduler.simulator.generate import GeneratorConfig, generate
from scheduler.simulator.kube_scheduler_client import ExtenderClient, ProtocolError
from scheduler.simulator.server_process import running_server

pytestmark = pytest.mark.server


def _begin(*options: str) -> subprocess.Popen[str]:
    # A shell hands SIGINT down as ignored to what it runs in the background, and so would we.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "scheduler.cli.main", "demo", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd())},
            start_new_session=True,  # so that a signal reaches the demo alone
        )
    finally:
        signal.signal(signal.SIGINT, before)


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]


def _listens(pid: int) -> bool:
    """Whether the process holds a listening TCP socket by now."""
    sockets = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    listening = {f"socket:[{line.split()[9]}]" for line in sockets if line.split()[3] == "0A"}
    try:
        return any(fd.readlink().name in listening for fd in Path(f"/proc/{pid}/fd").iterdir())
    except FileNotFoundError:  # it closed a file meanwhile; asked again soon
        return False


def _listening_child(demo: subprocess.Popen[str]) -> int:
    """The server of the demo, as soon as it listens."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert demo.poll() is None, demo.communicate()
        for child in _children(demo.pid):
            if _listens(child):
                return child
        time.sleep(0.05)
    raise AssertionError("the demo started no server")


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_two_runs_place_the_same_pods() -> None:
    """Latencies differ, everything else follows from the seed."""
    said = []
    for _ in range(2):
        demo = _begin("--nodes", "30", "--pods", "80", "--seed", "3", "--json")
        out, errors = demo.communicate(timeout=120)
        assert demo.returncode == 0, errors
        said.append(json.loads(out))
        runs = said[-1]["runs"]
        assert [run["name"] for run in runs] == ["snugfit (priced)", *RIVALS]
        for run in runs:
            assert run["pods_placed"] + run["pods_pending"] == 80
            run.pop("latency_ms")
    assert said[0] == said[1] and said[0]["violations"] == []


def test_the_default_and_the_best_rival_are_named_at_the_end() -> None:
    demo = _begin("--nodes", "20", "--policy", "best-fit")
    out, errors = demo.communicate(timeout=120)
    assert demo.returncode == 0, errors
    table, (*_, validator, default, best) = out, out.splitlines()
    assert "snugfit (best-fit)" in table and "over-committed" in validator
    assert "over kube-scheduler's default" in default and "over the best rival (" in best
    assert all(name in table for name in RIVALS)


def test_a_misspelt_policy_starts_nothing() -> None:
    demo = _begin("--policy", "fdg")
    out, errors = demo.communicate(timeout=60)
    assert (demo.returncode, out) == (2, "") and "did you mean 'fgd'" in errors


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds the server through /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_server_does_not_outlive_the_demo(number: signal.Signals, code: int) -> None:
    demo = _begin("--nodes", "1200")
    try:
        server = _listening_child(demo)
        demo.send_signal(number)
        _, errors = demo.communicate(timeout=60)
    finally:
        demo.kill()
    assert demo.returncode == code and "Traceback" not in errors
    assert _gone(server)


def test_a_server_that_cannot_start_is_explained(tmp_path: Path) -> None:
    with (
        pytest.raises(SchedulerError, match="cannot be read"),
        running_server(tmp_path / "no.json"),
    ):
        pass


def test_a_server_that_is_gone_is_a_protocol_error(tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.json"
    native.write(generate(GeneratorConfig(nodes=2)), cluster)
    with running_server(cluster) as url:
        client = ExtenderClient(url, timeout_s=60)
        assert len(client.get("/debug/state")["nodes"]) == 2
    with pytest.raises(ProtocolError, match="got no answer"):
        client.get("/debug/state")
    client.close()


@pytest.mark.parametrize(
    ("answer", "scores"),
    [
        (b'[{"Host":"a","Score":3},{"Host":"a","Score":4}]', {"a": 7}),
        (b'[{"host":"a","score":3},{"HOST":"b","Score":0}]', {"a": 3, "b": 0}),
        (b'[{"Host":"a"},{"Host":"b","Score":null}]', {"a": 0, "b": 0}),
        (b"null", {}),
        (b"[]", {}),
        (b"{}", None),
        (b'[{"Host":"a","Score":7.5}]', None),
        (b'[{"host":"a","score":"5"}]', None),
        (b'[{"host":"a","score":false}]', None),
    ],
)
def test_scores_are_read_as_go_reads_them(answer: bytes, scores: dict[str, int] | None) -> None:
    """The answers are raw bytes from a socket: our own server never sends most of them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = ExtenderClient(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=60)
        client._connect()
        peer, _ = listener.accept()
        with peer:
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n"
            peer.sendall(head.encode() + answer)
            if scores is None:
                with pytest.raises(ProtocolError, match="no host priority list"):
                    client.prioritize(b"{}", ["a", "b"])
            else:
                assert client.prioritize(b"{}", ["a", "b"]) == scores
        client.close()
