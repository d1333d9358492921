"""``config check`` against the real kube-scheduler: refused is what does not start, and no more."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from scheduler.kube.scheduler_config.checks import Finding, Level, check
from scheduler.kube.yaml_lines import yaml_files
from testbed.controlplane.assets import Assets
from testbed.controlplane.configurations import mutants, starts
from tests.configurations import HEAD, REFUSED, STARTING
from tests.depth import examples

pytestmark = pytest.mark.e2e
_MINOR = 37  # the version of which the check has the fields


@pytest.fixture
def program(assets: Assets) -> Path:
    if assets.minor != _MINOR:
        pytest.skip(f"the check knows the fields of 1.{_MINOR}")
    return assets.program("kube-scheduler")


def _refused(text: str) -> list[Finding]:
    """What ends kube-scheduler; a build of Kubernetes has no plugins of others, too."""
    return [
        finding
        for finding in check(yaml_files(text, "file")[0])
        if finding.level is Level.REFUSED
        or (finding.rule == "plugin" and finding.level is Level.NOTE)
    ]


def _late(finding: Finding) -> bool:
    """Found by kube-scheduler only when it joins the election, long after it has started."""
    return finding.path == "leaderElection.renewDeadline" and "retryPeriod" in finding.problem


@pytest.mark.parametrize("quick", [100])
def test_mutated_files(program: Path, tmp_path: Path, quick: int) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    sys.stdout.write(f"seed {seed}\n")
    outcomes = {True: 0, False: 0}
    for number, text in enumerate(mutants(seed, examples(quick, 4 * quick))):
        runs, said = starts(program, text, tmp_path)
        found = [finding for finding in _refused(text) if not _late(finding)]
        assert runs is not bool(found), f"seed {seed}, file {number}\n{text}\n{said}\n{found}"
        outcomes[runs] += 1
    assert min(outcomes.values()) > 0, outcomes


@pytest.mark.parametrize(("rule", "path", "text"), REFUSED)
def test_every_mistake_that_we_name(
    program: Path, tmp_path: Path, rule: str, path: str, text: str
) -> None:
    late = all(_late(finding) for finding in _refused(text))
    runs, said = starts(program, text, tmp_path)
    assert runs is late, f"{rule} at {path}\n{said}"


@pytest.mark.parametrize("text", STARTING)
def test_what_only_looks_mistaken(program: Path, tmp_path: Path, text: str) -> None:
    runs, said = starts(program, text, tmp_path)
    assert runs, said


def test_the_election_is_joined_late(program: Path, tmp_path: Path) -> None:
    text = HEAD + "delayCacheUntilActive: true\nleaderElection: {retryPeriod: 9s}\n"
    assert [finding.path for finding in _refused(text)] == ["leaderElection.renewDeadline"]
    runs, said = starts(program, text, tmp_path, until="joins no election")
    assert not runs and "retryPeriod" in said
