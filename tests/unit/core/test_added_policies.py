"""Policies of other packages, by their entry points: packages as an installer leaves them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.files import native
from scheduler.simulator.generate import GeneratorConfig, generate

ROOT = Path(__file__).parents[3]

_MODULE = '''
"""Policies of somebody else."""
from scheduler.core.ranking import Policy, Scored, best_fit_device


def emptiest(candidates):
    """The node with most milli-GPU left."""
    return Scored(candidates.gpu_left, best_fit_device(candidates))


named = Policy("tight", "fullest first", "theirs", emptiest, tightest=True)
text = "no function"
'''


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with an installed package that names five policies."""
    (tmp_path / "theirs.py").write_text(_MODULE)
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[snugfit.policies]\nemptiest = theirs:emptiest\ntight = theirs:named\n"
        "fgd = theirs:emptiest\ntext = theirs:text\nabsent = nowhere:at_all\nother = theirs:named\n"
    )
    return tmp_path


def _snugfit(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(installed), str(ROOT)))
    return subprocess.run(
        [sys.executable, "-m", "scheduler.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_a_policy_of_another_package_places_pods(installed: Path) -> None:
    cluster = installed / "cluster.json"
    native.write(generate(GeneratorConfig(nodes=4)), cluster)
    for name in ("emptiest", "tight"):
        done = _snugfit(installed, "simulate", str(cluster), "--policy", name, "--json")
        assert done.returncode == 0, done.stderr
        assert f'"policy": "{name}"' in done.stdout


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("text", "theirs:text is not a function"),
        ("absent", "cannot be imported from nowhere:at_all: No module named 'nowhere'"),
        ("other", "calls itself 'tight'"),
        ("emptyest", "did you mean 'emptiest'?"),
    ],
)
def test_what_cannot_be_used_is_said(installed: Path, name: str, told: str) -> None:
    done = _snugfit(installed, "simulate", "--policy", name)
    assert done.returncode == 2 and told in done.stderr


def test_one_that_cannot_be_used_hides_no_other(installed: Path) -> None:
    done = _snugfit(installed, "policies", "--json")
    listed = {each["name"]: each["source"] for each in json.loads(done.stdout)}
    assert listed["emptiest"] == "theirs" and listed["tight"] == "theirs" and "priced" in listed
    assert not {"text", "absent", "other"} & listed.keys()
    assert all(f"policy {name}: " in done.stderr for name in ("text", "absent", "other"))


def test_names_of_the_table_stay_what_they_are(installed: Path) -> None:
    program = (
        "from scheduler.core.policies.table import POLICIES, policy_named\n"
        "assert policy_named('fgd') is POLICIES['fgd']\n"
        "assert policy_named('emptiest').source == 'theirs'\n"
        "assert policy_named('emptiest').summary == 'The node with most milli-GPU left.'\n"
        "assert policy_named('emptiest') is policy_named('emptiest')\n"
    )
    path = os.pathsep.join((str(installed), str(ROOT)))
    subprocess.run(
        [sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": path}
    )
