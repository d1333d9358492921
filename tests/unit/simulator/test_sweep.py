"""Sweeps: the same rows whoever runs them, kept as they end, and workers that die."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from scheduler.core.errors import InvalidInput
from scheduler.files import native
from scheduler.simulator.emulator import SchedulerProfile
from scheduler.simulator.generate import GeneratorConfig, generate
from scheduler.simulator.sweep.grid import part_of, read_grid
from scheduler.simulator.sweep.pools import ATTEMPTS, InThisProcess, ProcessPool, WorkerDied
from scheduler.simulator.sweep.row_file import RowFile, key_of
from scheduler.simulator.sweep.runner import Failed, Runner
from scheduler.simulator.sweep.runs import Job, row_of, told_of

CONFIG = GeneratorConfig(nodes=8, load=1.2, seed=3)


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "w.json"
    native.write(generate(CONFIG), path)
    return path


def _jobs(path: Path) -> list[Job]:
    jobs = [Job((path,), policy, seed) for policy in ("fgd", "random") for seed in (0, 1)]
    jobs.append(Job((path,), "fgd", 0, profile=SchedulerProfile()))
    timed = replace(CONFIG, durations="exponential", mean_duration_s=30.0, rate_per_s=2.0)
    jobs.append(
        Job(
            (), "priced", 4, "replay", workload_profile="learnt", generated=timed, plan_every_s=60.0
        )
    )
    return jobs


def test_rows_do_not_depend_on_who_runs_them(workload: Path) -> None:
    jobs = _jobs(workload)
    steps: list[tuple[int, int]] = []
    alone = list(Runner().in_order(row_of, jobs, lambda *step: steps.append(step)))
    with ProcessPool(2) as pool:
        together = list(Runner(pool).in_order(row_of, jobs))
        again = list(Runner(pool).in_order(row_of, jobs[::-1]))[::-1]
    figures = [json.dumps(row.figures) for row in alone]
    assert figures == [json.dumps(row.figures) for row in together]
    assert figures == [json.dumps(row.figures) for row in again]
    assert [row.key for row in alone] == [row.key for row in together]
    assert steps == [(done, 6) for done in range(7)]
    assert len({row.figures["config_hash"] for row in alone}) == 6


def test_a_row_is_the_run_and_names_no_pod(workload: Path) -> None:
    job = Job((workload,), "fgd", 0)
    told, row = told_of(job), row_of(job)
    assert told["pending_pods"] and "pending_pods" not in row
    assert {key: told[key] for key in row if key != "seconds"} == {
        key: row[key] for key in row if key != "seconds"
    }


# -- what is kept --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """Something to do in a folder, of which it leaves traces."""

    folder: str
    what: int
    kills: int = 0


def work(task: Task) -> dict[str, int]:
    """A figure; so many times before it the end of the process."""
    done = len(list(Path(task.folder).glob(f"{task.what}-*")))
    Path(task.folder, f"{task.what}-{done}").touch()
    if done < task.kills:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"square": task.what**2}


def refuse(task: Task) -> dict[str, int]:
    """Cannot be used."""
    if task.what == 1:
        raise InvalidInput("what", "is 1", "use 2")
    return {"what": task.what}


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    folder = tmp_path / "traces"
    folder.mkdir()
    return folder


def _begun(folder: Path, what: int) -> int:
    return len(list(folder.glob(f"{what}-*")))


def test_rows_are_written_as_they_end_and_not_run_again(tmp_path: Path, traces: Path) -> None:
    path = tmp_path / "rows.jsonl"
    tasks = [Task(str(traces), what) for what in range(4)]
    rows = Runner(rows=RowFile(path)).in_order(work, tasks)
    for count in (1, 2):
        next(rows)
        assert len(path.read_text().splitlines()) == count
    rows.close()
    steps: list[tuple[int, int]] = []
    kept = RowFile(path)
    assert len(kept) == 2
    found = list(Runner(rows=kept).in_order(work, tasks, lambda *step: steps.append(step)))
    assert [row.figures["square"] for row in found] == [0, 1, 4, 9]
    assert [_begun(traces, what) for what in range(4)] == [1, 1, 1, 1]
    assert steps == [(2, 4), (3, 4), (4, 4)]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["row"] for line in lines] == [{"square": what**2} for what in range(4)]
    assert lines[3]["job"] == {"folder": str(traces), "what": 3}


def test_a_line_that_was_not_written_to_its_end_is_run_again(tmp_path: Path, traces: Path) -> None:
    path = tmp_path / "rows.jsonl"
    tasks = [Task(str(traces), what) for what in range(3)]
    whole = list(Runner(rows=RowFile(path)).in_order(work, tasks))
    text = path.read_text()
    last = text.splitlines()[-1]
    for left in (1, 12, len(last)):
        path.write_text(text[: len(text) - len(last) - 1] + last[:left])
        kept = RowFile(path)
        assert len(kept) == 2
        again = list(Runner(rows=kept).in_order(work, tasks))
        assert [row.figures for row in again] == [row.figures for row in whole]
        assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == [
            row.key for row in whole
        ]


@pytest.mark.parametrize(
    "text", ["notes of mine", "{}\n", '{"key": "a", "row": 1}\n', "[]\n", '{"key": 1}\n{"key'],
)  # fmt: skip
def test_a_file_of_something_else_is_refused_and_stays(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(InvalidInput, match="not a row of a sweep"):
        RowFile(path)
    assert path.read_text() == text


def test_a_row_is_named_by_all_that_it_depends_on(workload: Path, tmp_path: Path) -> None:
    job = Job((workload,), "fgd", 0)
    copy = tmp_path / "other-name.json"
    copy.write_bytes(workload.read_bytes())
    assert key_of(row_of, job) == key_of(row_of, replace(job, files=(copy,)))
    other = tmp_path / "other.json"
    other.write_bytes(workload.read_bytes() + b"\n")
    changed = [
        replace(job, seed=1),
        replace(job, policy="priced"),
        replace(job, arrival=1.2),
        replace(job, files=(other,)),
        replace(job, profile=SchedulerProfile()),
        replace(job, generated=CONFIG),
    ]
    names = {key_of(row_of, one) for one in [job, *changed]} | {key_of(told_of, job)}
    assert len(names) == len(changed) + 2


# -- workers that die ----------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills processes")
def test_a_worker_that_dies_is_replaced_and_its_row_run_again(traces: Path) -> None:
    tasks = [Task(str(traces), what, kills=(what == 2) * (ATTEMPTS - 1)) for what in range(6)]
    with ProcessPool(2) as pool:
        rows = list(Runner(pool).in_order(work, tasks))
    assert [row.figures["square"] for row in rows] == [0, 1, 4, 9, 16, 25]
    assert [_begun(traces, what) for what in range(6)] == [1, 1, ATTEMPTS, 1, 1, 1]


def test_a_row_that_kills_every_worker_is_named_and_the_others_go_on(traces: Path) -> None:
    tasks = [Task(str(traces), what, kills=99 if what == 1 else 0) for what in range(4)]
    with ProcessPool(1) as pool:
        found = dict(Runner(pool).each(work, tasks))
    failed = found.pop(1)
    assert isinstance(failed, Failed) and isinstance(failed.error, WorkerDied)
    assert "signal 9" in str(failed.error) and failed.job["what"] == 1
    assert _begun(traces, 1) == ATTEMPTS
    assert all(not isinstance(row, Failed) for row in found.values()) and len(found) == 3


@pytest.mark.parametrize("pool", [InThisProcess(), ProcessPool(2)])
def test_what_a_job_raises_arrives_as_it_is(traces: Path, pool) -> None:
    tasks = [Task(str(traces), what) for what in range(3)]
    with pool:
        found = dict(Runner(pool).each(refuse, tasks))
        with pytest.raises(InvalidInput, match="use 2"):
            list(Runner(pool).in_order(refuse, tasks))
    failed = found.pop(1)
    assert isinstance(failed, Failed) and str(failed.error) == "what: is 1 (use 2)"
    assert len(found) == 2


def test_who_wants_no_more_rows_leaves_no_worker_behind(traces: Path) -> None:
    import multiprocessing

    with ProcessPool(2) as pool:
        rows = Runner(pool).each(work, [Task(str(traces), what) for what in range(50)])
        next(rows)
        assert len(multiprocessing.active_children()) == 2
        rows.close()
    assert not multiprocessing.active_children()
    assert len(list(traces.iterdir())) < 50


# -- grid files ----------------------------------------------------------------------------------


def _grid(folder: Path, **changed: object) -> Path:
    content = {
        "format": "snugfit-sweep/v1",
        "workloads": [
            {"files": ["w.json"]},
            {"name": "small", "generate": {"nodes": 4}},
            {"name": "fixed", "generate": {"nodes": 4, "seed": 7}},
        ],
        "policies": ["fgd", "priced"],
        "seeds": [3, 5],
        "settings": [
            {"arrival": 1.0},
            {"protocol": "replay", "rate": 2, "workload_profile": "learnt"},
        ],
    }
    path = folder / "grid.json"
    path.write_text(json.dumps({**content, **changed}))
    (folder / "w.json").write_text("{}")
    return path


def test_a_grid_stands_for_its_rows(tmp_path: Path) -> None:
    cells = read_grid(_grid(tmp_path))
    assert len(cells) == 3 * 2 * 2 * 2
    first, last = cells[0], cells[-1]
    assert (first.workload, first.settings) == ("w", "inflation")
    assert first.job == Job((tmp_path / "w.json",), "fgd", 3, arrival=1.0)
    assert (last.workload, last.settings) == ("fixed", "replay")
    assert last.job == Job(
        (), "priced", 5, "replay", workload_profile="learnt", rate=2.0,
        generated=GeneratorConfig(nodes=4, seed=7),
    )  # fmt: skip
    small = [cell.job for cell in cells if cell.workload == "small"]
    assert all(job.generated == GeneratorConfig(nodes=4, seed=job.seed) for job in small)
    parts = [part_of(cells, part, 5) for part in range(1, 6)]
    assert parts[1][0] == cells[1] and sorted(map(len, parts)) == [4, 5, 5, 5, 5]
    assert {id(cell) for part in parts for cell in part} == set(map(id, cells))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"format": "snugfit/v1"}, "format: is 'snugfit/v1' (write snugfit-sweep/v1)"),
        ({"polices": []}, "unknown field `polices`"),
        ({"policies": ["fdg"]}, "grid.json: policies: unknown policy 'fdg'"),
        ({"policies": []}, "policies: is empty"),
        ({"policies": [" "]}, "policies: is empty"),
        ({"seeds": 0}, "seeds: is 0"),
        ({"seeds": [1, 1]}, "seeds: a seed stands twice"),
        ({"seeds": [-1]}, "seeds: -1 is out of range"),
        ({"seeds": "ten"}, "seeds: Expected `int | array`"),
        ({"settings": [{"protocol": "relay"}]}, "settings[0].protocol: Invalid enum value"),
        ({"settings": [{}, {}]}, "settings[1].name: 'inflation' stands twice"),
        ({"settings": [{"policy_file": "none.json"}]}, "settings[0].policy_file:"),
        ({"settings": [{"rate": 2}]}, "settings[0].rate: changes nothing here"),
        ({"settings": [{"plan_every_s": 60}]}, "settings[0].plan_every_s: changes nothing here"),
        (
            {"settings": [{"protocol": "replay", "arrival": 1}]},
            "settings[0].arrival: changes nothing here",
        ),
        ({"settings": [{"arrival": 0}]}, "settings[0].arrival: is 0"),
        ({"settings": [{"protocol": "replay", "rate": -1}]}, "settings[0].rate: is -1"),
        (
            {"settings": [{"protocol": "replay", "plan_every_s": -1}]},
            "settings[0].plan_every_s: is -1",
        ),
        ({"workloads": [{}]}, "workloads[0]: needs either files or generate"),
        ({"workloads": [{"files": ["gone.csv"]}]}, "workloads[0].files: there is no gone.csv"),
        ({"workloads": [{"generate": {"nodes": 0}}]}, "workloads[0].generate.nodes: is 0"),
    ],
)
def test_mistakes_in_a_grid_are_named(tmp_path: Path, changed, said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_grid(_grid(tmp_path, **changed))
    assert said in str(refused.value)
