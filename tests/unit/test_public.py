"""What researchers import: complete, typed, cheap, and true to its own examples."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import scheduler
from scheduler.files import dump_writer, native
from tests.builders import node, pod

ROOT = Path(scheduler.__file__).parent


def test_its_examples_are_true() -> None:
    found = doctest.testmod(scheduler, raise_on_error=True)
    assert found.attempted > 10 and found.failed == 0


def test_every_public_name_is_there_and_documented() -> None:
    assert sorted(scheduler.__all__) == dir(scheduler)
    for name in scheduler.__all__:
        thing = getattr(scheduler, name)
        if callable(thing):
            assert (thing.__doc__ or "").strip(), name
    with pytest.raises(AttributeError, match="nonsense"):
        _ = scheduler.nonsense


def test_importing_it_imports_nothing_heavy() -> None:
    heavy = "('numpy', 'ortools', 'flask', 'kubernetes')"
    code = f"import scheduler, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_it_is_typed(tmp_path: Path) -> None:
    """A checker knows the type of what a user gets, and refuses what is wrong."""
    assert (ROOT / "py.typed").exists()
    user = tmp_path / "user.py"
    user.write_text(
        "import scheduler\n"
        "workload = scheduler.generate(scheduler.GeneratorConfig(nodes=3))\n"
        "reveal_type(scheduler.simulate(workload).allocated_gpu_milli)\n"
        "reveal_type(scheduler.plan(scheduler.Snapshot.of_empty_cluster(workload).problem(),"
        " scheduler.Budget(1.0)))\n"
        "scheduler.simulate(3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "", str(user)],
        capture_output=True,
        text=True,
        check=False,
        env={"MYPYPATH": str(ROOT.parent), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT.parent)},
        cwd=tmp_path,
    )
    said = done.stdout
    assert 'Revealed type is "builtins.int"' in said or 'Revealed type is "int"' in said, said
    assert "scheduler.planner.problem.Plan" in said and said.count("error:") == 1, said
    assert "arg-type" in said


def test_files_are_read_as_by_the_commands(tmp_path: Path) -> None:
    from scheduler.files.workload import Arrival, BoundPod, Workload

    running = BoundPod(pod("r", count=1), "n", None)
    workload = Workload((node("n", gpus=2),), (Arrival(pod("p", count=1)),), (running,))
    native.write(workload, tmp_path / "w.json")
    dump_writer.write(workload, tmp_path / "dump.json")
    for name in ("w.json", "dump.json"):
        assert len(scheduler.read_workload(tmp_path / name).requests) == 1
        cluster = scheduler.read_cluster(tmp_path / name)
        assert len(cluster.pending) == 1 and len(cluster.state.placements) == 1
    assert scheduler.replay(workload, "best-fit").placed == 1
    with pytest.raises(scheduler.InvalidInput, match="fgd"):
        scheduler.simulate(workload, "fdg")
