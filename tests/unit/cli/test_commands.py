"""The command line as a user meets it: output, exit codes, messages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml

from scheduler.core.power import PowerModel
from scheduler.core.price_weights import PriceWeights
from scheduler.files import native
from scheduler.simulator.generate import GeneratorConfig, generate
from testbed.controlplane.process import free_port
from testbed.fake_api import eventually

POD_LIST = "name,cpu_milli,memory_mib,num_gpu,gpu_milli\np0,1000,1024,1,1000\np1,1000,1024,1,500\n"
NODE_LIST = "sn,cpu_milli,memory_mib,gpu,model\nn0,8000,8192,1,T4\n"


def _run(*args: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, with an environment of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "scheduler.cli.main", *args],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path.cwd()), **env},
    )
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done


@pytest.fixture
def lists(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "n.csv").write_text(NODE_LIST)
    (tmp_path / "p.csv").write_text(POD_LIST)
    return str(tmp_path / "n.csv"), str(tmp_path / "p.csv")


def test_help_lists_every_command_without_importing_them() -> None:
    done = _run("--help")
    for name in ("demo", "generate", "policies", "serve", "simulate"):
        assert name in done.stdout
    assert "Exit codes" in done.stdout


def test_policies_as_json(run) -> None:
    listed = json.loads(run("policies", "--json").out)
    assert {"fgd", "best-fit", "kube-default"} <= {p["name"] for p in listed}


def test_simulate_prints_one_object(lists: tuple[str, str], run) -> None:
    nodes, pods = lists
    done = run(
        "simulate",
        nodes,
        pods,
        "--policy",
        "best-fit",
        "--protocol",
        "as-listed",
        "--json",
    )
    (said,) = json.loads(done.out)["runs"]
    assert said["placed"] == 1 and said["pending"] == 1 and said["policy"] == "best-fit"
    assert said["capacity_gpu_milli"] == 1000 and said["requested_gpu_milli"] == 1500
    assert said["allocation_at"]["1.00"] == 100.0 and said["seed"] == 0
    assert len(said["config_hash"]) == 16 and done.err == ""


def test_simulate_prints_a_table(lists: tuple[str, str], run) -> None:
    done = run("simulate", lists[0], lists[1])
    assert "1 pod stayed pending" in done.out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("simulat",), "did you mean 'simulate'"),
        (("simulate", "--policy", "fdg"), "did you mean 'fgd'"),
        (("simulate", "--pods", "x.csv"), "name the files as CLUSTER"),
        (("simulate", "absent.csv"), "absent.csv: cannot be read"),
        (("simulate", "--planner-lines"), "use --protocol replay and --plan-every"),
        (
            (
                "simulate",
                "--colour",
            ),
            "No such option",
        ),
        (("serve",), "name a file with --kubeconfig"),
        (("serve", "--offline"), "CLUSTER: is missing"),
        (("serve", "--port", "-1", "--print-config"), "port: is -1"),
        (("generate", "--out", "x.json", "--nodes", "0"), "--nodes: is 0"),
        (("generate", "--out", "x.json", "--like", "phily"), "did you mean 'philly'"),
        (("generate", "--out", "x.json", "--durations", "like"), "there is no --like"),
        (("generate", "--out", "x.json", "--like", "seren", "--gangs", "0.1"), "--gangs changes"),
        (("generate", "--out", "x.json", "--demand", "0.9"), "stays for ever"),
        (
            ("generate", "--out", "x.json", "--like", "seren", "--demand", "-1"),
            "--demand: is -1",
        ),
        (("bench", "online"), "python -m bench NAME"),
    ],
)
def test_bad_input_is_exit_2_and_one_clear_line(args: tuple[str, ...], message: str, run) -> None:
    done = run(*args, code=2)
    assert message in done.err and "Traceback" not in done.err


def test_settings_are_shown_with_their_sources(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("threads: 9\n")
    shown = yaml.safe_load(
        _run(
            "serve", "--config", str(config), "--print-config", "--port", "7", SNUGFIT_SEED="3"
        ).stdout
    )
    assert (shown["threads"], shown["port"], shown["seed"]) == (9, 7, 3)
    _run("serve", "--print-config", code=2, SNUGFIT_SEEED="3")


def test_an_internal_fault_is_exit_3(
    tmp_path: Path, snugfit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody has foreseen is no input error; the traceback is there for who asks for it."""
    monkeypatch.setattr("scheduler.simulator.generate.generate", lambda _config: 1 // 0)
    done = snugfit("generate", "--out", tmp_path / "w.json")
    assert done.code == 3 and "internal fault: ZeroDivisionError" in done.err
    assert "Traceback" not in done.err and done.err.count("\n") == 1
    monkeypatch.setenv("SNUGFIT_DEBUG", "1")
    assert "Traceback" in snugfit("generate", "--out", tmp_path / "w.json").err


@pytest.mark.parametrize("style", ["snugfit", "kubectl"])
def test_what_is_generated_can_be_simulated(tmp_path: Path, style: str, run) -> None:
    out = tmp_path / "w.json"
    said = json.loads(
        run("generate", "--out", str(out), "--nodes", "10", "--format", style, "--json").out
    )
    assert said["nodes"] == 10 and sum(kind["pods"] for kind in said["requests"]) == said["pods"]
    (done,) = json.loads(run("simulate", str(out), "--json").out)["runs"]
    assert done["placed"] + done["pending"] == said["pods"]


def test_what_is_like_a_trace_or_a_file_is_drawn_from_it(tmp_path: Path, run) -> None:
    """And a file that was generated can be drawn from again, gangs and all."""
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    more = ("--nodes", "16", "--load", "4", "--demand", "0.9", "--json")
    run("generate", "--like", "philly", "--out", first, *more)
    said = json.loads(run("generate", "--like", first, "--out", second, *more).out)
    assert {kind["gpu"] for kind in said["requests"]} == {"1 GPU", "2 GPU", "4 GPU", "8 GPU"}
    drawn = native.read(second)
    assert {arrival.duration_s for arrival in drawn.arrivals} <= {
        arrival.duration_s for arrival in native.read(first).arrivals
    }
    assert [node.name for node in drawn.nodes] == [f"gpu-{n:05d}" for n in range(16)]


@pytest.mark.server
def test_the_demo_ends_with_a_verified_comparison(run) -> None:
    said = json.loads(run("demo", "--nodes", "60", "--json").out)
    assert said["violations"] == []
    ours, default = said["runs"][:2]
    assert (ours["name"], default["name"]) == ("snugfit (priced)", "kube-default")
    assert ours["gpu_allocated_percent"] > default["gpu_allocated_percent"]
    assert ours["latency_ms"]["filter"]["p50"] > 0
    table = run("demo", "--nodes", "20").out
    assert "points of GPU allocation" in table and "state equals a recount" in table


@pytest.mark.server
def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    import socket

    nodes = tmp_path / "n.csv"
    nodes.write_text(NODE_LIST)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = _run("serve", "--offline", str(nodes), "--port", port, code=2)
    assert f"127.0.0.1:{port}: cannot be served" in done.stderr


@pytest.mark.server
def test_a_policy_file_and_a_profile_reach_the_prices_in_force(tmp_path: Path) -> None:
    """Weights, watts and typical pods go through the planner process and come back in tables."""
    nodes, profile, policy = (tmp_path / name for name in ("n.csv", "mix.json", "policy.json"))
    nodes.write_text(NODE_LIST)
    native.write(generate(GeneratorConfig(nodes=4, seed=3)), profile)
    watts = PowerModel.from_mapping({"T4": [11, 77]})
    policy.write_text(PriceWeights(power=0.7, watts=watts).to_policy_file())
    port = str(free_port())
    files = (str(nodes), "--workload-profile", str(profile), "--policy-file", str(policy))
    command = [sys.executable, "-m", "scheduler.cli.main", "serve", "--offline", *files]
    with subprocess.Popen([*command, "--port", port], stderr=subprocess.DEVNULL) as server:
        said: dict[str, Any] = {}

        def priced() -> bool:
            try:
                with urlopen(f"http://127.0.0.1:{port}/debug/prices", timeout=5) as answer:
                    said.update(json.loads(answer.read()))
            except URLError:
                return False  # not listening yet
            return "weights" in said

        try:
            eventually(priced)
        finally:
            server.terminate()
    assert server.returncode == 0
    assert said["weights"]["power"] == 0.7
    assert said["watts"] == {"T4": [11, 77], "cpu": [15, 120]}


def test_a_profile_without_pods_is_refused(tmp_path: Path, run) -> None:
    nodes = tmp_path / "n.csv"
    nodes.write_text(NODE_LIST)
    done = run("serve", "--offline", str(nodes), "--workload-profile", str(nodes), code=2)
    assert "workload_profile_file" in done.err and "lists no pod" in done.err
