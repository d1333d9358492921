"""The HTML report: one self-contained file with what was run."""

from __future__ import annotations

from pathlib import Path

import pytest

from scheduler.core.errors import InvalidInput
from scheduler.simulator.generate import GeneratorConfig, generate
from scheduler.simulator.inflation import Experiment, Outcome, run
from scheduler.simulator.report import write_report
from scheduler.simulator.timeline import Timeline

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
