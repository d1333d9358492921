"""The HTML report: one self-contained file with what was run."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.core.errors import InvalidInput
from scheduler.planner.bounds.offline_optimum import most_gpu
from scheduler.simulator.generate import GeneratorConfig, generate
from scheduler.simulator.inflation import Experiment, Outcome, run
from scheduler.simulator.replay import replay
from scheduler.simulator.report import write_report
from scheduler.simulator.timeline import Timeline
from tests.builders import node, pod

WORKLOAD = generate(GeneratorConfig(nodes=20, load=0.9, seed=5))


def _run(policy: str) -> tuple[Outcome, Timeline]:
    timeline = Timeline()
    return run(WORKLOAD, Experiment(policy, 1, "as-listed"), observe=timeline.observe), timeline


def test_the_timeline_ends_where_the_run_ends() -> None:
    outcome, timeline = _run("best-fit")
    assert timeline.finish().allocated_milli == outcome.allocated_gpu_milli
    assert sum(map(sum, timeline.devices)) == outcome.allocated_gpu_milli
    shares = [sample.to_json()["allocated"] for sample in timeline.samples]
    assert shares == sorted(shares) and len(shares) > 20


def test_the_report_is_one_file_without_links(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    runs = [_run("best-fit"), _run("kube-default")]
    write_report(path, WORKLOAD, runs)
    text = path.read_text()
    assert "http" + "://" not in text.replace("http://www.w3.org", "")
    assert text.count("data:image/svg+xml") == 3 and text.count("data:image/png") == 2
    for outcome, _ in runs:
        assert outcome.experiment.config_hash in text
    first = path.read_bytes()
    write_report(path, WORKLOAD, runs)
    assert len(path.read_bytes()) == len(first)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_report(tmp_path, WORKLOAD, [_run("best-fit")])


def test_online_planned_and_the_offline_optimum_are_lines_of_one_plot(tmp_path: Path) -> None:
    """A gang and singles that come in a bad order; the bound is above both runs, all the time."""
    workload = generate(GeneratorConfig(nodes=12, load=1.2, seed=5))
    runs = []
    for every in (0.0, 0.5):
        timeline = Timeline(bounded=every > 0)
        outcome = replay(
            workload, Experiment("fgd", 1), plan_every_s=every, observe=timeline.observe_time
        )
        runs.append((outcome, timeline))
    (online, bare), (planned, bounded) = runs
    assert (online.label, planned.label) == ("fgd", "fgd + planner")
    assert not bare.ceiling and len(bounded.ceiling) > 5
    allocated = {sample.at: sample.to_json()["allocated"] for sample in bounded.samples}
    assert all(allocated[at] <= most + 1e-9 for at, most in bounded.ceiling)
    path = tmp_path / "report.html"
    write_report(path, workload, runs)
    text = path.read_text()
    assert "<td>fgd + planner</td>" in text and text.count("data:image/svg+xml") == 3


def test_the_offline_optimum_counts_what_no_node_can_hold() -> None:
    """Of 3 x 5 GPUs two nodes of 8 hold 2; pooled, 16 devices hold 3."""
    nodes = [node(f"n{i}", gpus=8) for i in range(2)]
    assert most_gpu(nodes, [pod(f"p{i}", count=5) for i in range(3)]) == 10_000
    assert most_gpu(nodes, []) == 0
