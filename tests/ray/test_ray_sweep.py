"""Sweeps on a real Ray cluster: the same rows as on processes, also if a node is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from scheduler.core.errors import InvalidInput
from scheduler.files import native
from scheduler.simulator.generate import GeneratorConfig, generate
from scheduler.simulator.sweep import ray_pool
from scheduler.simulator.sweep.pools import ATTEMPTS, WorkerDied
from scheduler.simulator.sweep.ray_pool import RayPool
from scheduler.simulator.sweep.runner import Failed, Runner
from testbed.fake_api import eventually
from tests.unit.simulator.test_sweep import Task, refuse, work

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed; `make ray` does"),
    # Of Ray and what it imports.
    pytest.mark.filterwarnings("ignore"),
]

ROOT = Path(__file__).parents[2]
ENV = {
    "PATH": os.environ["PATH"],
    "HOME": os.environ.get("HOME", "/"),
    "PYTHONPATH": str(ROOT),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
GRID = {
    "format": "snugfit-sweep/v1",
    "workloads": [
        {"name": "file", "files": ["w.json"]},
        {"name": "made", "generate": {"nodes": 150, "load": 1.2}},
    ],
    "policies": ["fgd", "priced", "random"],
    "seeds": 3,
}


class Cluster:
    """Two nodes with a core each."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "testbed.ray_cluster", "2"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=ENV,
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._say, self._said = self._process.stdin, self._process.stdout
        self.address = self._answer(":")

    def kill_a_node(self) -> None:
        self._say.write("\n")
        self._say.flush()
        self._answer("killed")

    def _answer(self, word: str) -> str:
        for line in self._said:  # Ray says things of its own
            if word in line and " " not in line.strip():
                return line.strip()
        raise AssertionError("the cluster has ended")

    def end(self) -> None:
        self._say.close()
        self._process.wait(timeout=60)
        self._said.close()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.end()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    native.write(generate(GeneratorConfig(nodes=120, load=1.3, seed=3)), tmp_path / "w.json")
    (tmp_path / "grid.json").write_text(json.dumps(GRID))
    return tmp_path


def _sweep(folder: Path, rows: str, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable, "-m", "scheduler.cli.main", "sweep", "grid.json", "--rows", rows,
            "--json", *args,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=ENV,
        start_new_session=True,
    )  # fmt: skip


def _rows(path: Path) -> dict[str, object]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = {line["key"]: (line["job"], line["row"]) for line in lines}
    assert len(found) == len(lines)
    return found


def _count(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_rows_are_those_of_processes_though_a_node_is_killed(
    cluster: Cluster, folder: Path
) -> None:
    running = _sweep(folder, "ray.jsonl", "--ray", cluster.address)
    path = folder / "ray.jsonl"
    eventually(lambda: _count(path) >= 4 or running.poll() is not None, within_s=120)
    before = _count(path)
    cluster.kill_a_node()
    out, err = running.communicate(timeout=240)
    assert running.returncode == 0, err
    said = json.loads(out)
    assert 4 <= before < said["done"] == 18 and not said["failed"]
    alone = _sweep(folder, "alone.jsonl", "--processes", "2")
    expected, err = alone.communicate(timeout=240)
    assert alone.returncode == 0, err
    assert _rows(path) == _rows(folder / "alone.jsonl")
    assert json.loads(expected)["means"] == said["means"]


def test_ctrl_c_keeps_what_a_cluster_has_done(cluster: Cluster, folder: Path) -> None:
    # Rows that take seconds each: not all of them can be there when the first ones are.
    slow = {"name": "made", "generate": {"nodes": 500, "load": 1.2}}
    (folder / "grid.json").write_text(json.dumps(GRID | {"workloads": [slow]}))
    running = _sweep(folder, "ray.jsonl", "--ray", cluster.address)
    path = folder / "ray.jsonl"
    eventually(lambda: _count(path) >= 2 or running.poll() is not None, within_s=120)
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 130 and "Traceback" not in err, err
    said = json.loads(out)
    assert said["stopped"] and 2 <= said["done"] == _count(path) < 9
    again = _sweep(folder, "ray.jsonl", "--ray", cluster.address, "--resume")
    out, err = again.communicate(timeout=240)
    assert again.returncode == 0, err
    assert json.loads(out)["known_before"] == said["done"] and len(_rows(path)) == 9


def test_workers_that_die_and_jobs_that_fail(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [
        Task(str(tmp_path), 0, kills=ATTEMPTS - 1),
        Task(str(tmp_path), 1, kills=99),
        Task(str(tmp_path), 2),
    ]
    with RayPool(cluster.address) as pool:
        found = dict(Runner(pool).each(work, tasks))
        refused = dict(Runner(pool).each(refuse, tasks))
        monkeypatch.setattr(ray_pool, "__version__", "0.0.1")
        strange = dict(Runner(pool).each(refuse, tasks))
    failed = found[1]
    assert isinstance(failed, Failed) and isinstance(failed.error, WorkerDied)
    assert not isinstance(found[0], Failed) and not isinstance(found[2], Failed)
    counts = [len(list(tmp_path.glob(f"{what}-*"))) for what in range(3)]
    assert counts == [ATTEMPTS, ATTEMPTS, 1]
    assert isinstance(refused[1], Failed) and str(refused[1].error) == "what: is 1 (use 2)"
    assert all(
        isinstance(row, Failed)
        and isinstance(row.error, InvalidInput)
        and "0.0.1" in str(row.error)
        for row in strange.values()
    )


def test_a_cluster_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"--ray: 127\.0\.0\.1:9: .*refused"):
        RayPool("127.0.0.1:9").__enter__()
