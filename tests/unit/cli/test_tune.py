"""``snugfit tune`` and the policy file it writes, as a user meets them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from scheduler.core.power import PowerModel
from scheduler.core.price_weights import PriceWeights
from scheduler.files import native
from scheduler.simulator.generate import GeneratorConfig, generate


def test_a_policy_file_is_written_and_can_be_used(tmp_path: Path, run) -> None:
    trace, out = tmp_path / "small.json", tmp_path / "policy.json"
    native.write(generate(GeneratorConfig(nodes=6, load=1.0, seed=3)), trace)
    args = (str(trace), "--train", "1", "--holdout", "1", "--rounds", "1")
    code = 0 if _accepted(trace) else 1
    done = run("tune", *args, "--processes", "1", "--out", str(out), "--json", code=code)
    said = json.loads(done.out)
    weights = PriceWeights.from_policy_file(out.read_text())
    assert said["weights"] == weights.to_json()
    told = done.err.splitlines()  # a slow machine tells how far it is
    assert all(re.fullmatch(r"tune: \d+ of \d+", line) for line in told), told
    assert said["holdout_percent"] >= said["holdout_percent_before"]
    assert (weights != PriceWeights()) == (code == 0)
    ran = run(
        "simulate",
        str(trace),
        "--policy",
        "priced",
        "--policy-file",
        str(out),
        "--learn",
        "--json",
    )
    assert json.loads(ran.out)["runs"][0]["workload_profile"] == "learnt"
    shown = run("serve", "--policy-file", str(out), "--print-config")
    assert yaml.safe_load(shown.out)["policy"] == "priced"


def _accepted(trace: Path) -> bool:
    from scheduler.simulator.sweep.runs import Job
    from scheduler.simulator.tuning import tune

    job = Job((trace,), "priced", 0, arrival=1.0)
    return tune(job, train=[0], holdout=[1], rounds=1).chosen > 0


def test_a_search_keeps_what_power_is_charged_at(tmp_path: Path, run) -> None:
    trace, given = tmp_path / "small.json", tmp_path / "given.json"
    native.write(generate(GeneratorConfig(nodes=4, load=1.0, seed=3)), trace)
    watts = PowerModel.from_mapping({"T4": [12, 75]})
    given.write_text(PriceWeights(power=2.0, watts=watts).to_policy_file())
    # In place: what is found is written over what it began with.
    args = (str(trace), "--train", "1", "--holdout", "1", "--rounds", "1")
    files = ("--policy-file", str(given), "--out", str(given))
    done = run("tune", *args, *files, "--processes", "1", "--json", code=None)
    assert done.code in (0, 1)
    found = PriceWeights.from_policy_file(given.read_text())
    assert found.power == 2.0 and found.watts == watts


def test_simulated_power_falls_with_its_weight(tmp_path: Path, run) -> None:
    trace, policy = tmp_path / "small.json", tmp_path / "policy.json"
    native.write(generate(GeneratorConfig(nodes=120, load=0.3, seed=3)), trace)
    drawn, allocated = [], []
    for power in (0.0, 0.3):
        policy.write_text(PriceWeights(power=power).to_policy_file())
        ran = run("simulate", str(trace), "--policy-file", str(policy), "--json")
        (said,) = json.loads(ran.out)["runs"]
        allocated.append(said["allocated_gpu_milli"])
        drawn.append(said["power_kw"])
    assert 0 < drawn[1] < 0.9 * drawn[0] and allocated[1] == allocated[0] > 0


def test_mistakes_are_named(tmp_path: Path, run) -> None:
    done = run("tune", str(tmp_path / "absent.json"), code=2)
    assert "absent.json" in done.err
    (tmp_path / "policy.json").write_text("{}")
    done = run("simulate", "--policy-file", str(tmp_path / "policy.json"), code=2)
    assert "format" in done.err
