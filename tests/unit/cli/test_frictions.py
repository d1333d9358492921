"""What stood in a newcomer's way: help, tables, flags, files to write, names of models."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import pytest

from scheduler.cli.ask.models import costs_by_product
from scheduler.cli.main import cli
from scheduler.cli.output import print_table, progress
from scheduler.core.errors import InvalidInput, KubeApiError, SchedulerError
from scheduler.files import native
from scheduler.files.workload import Arrival, Workload
from scheduler.simulator import tuning
from scheduler.simulator.generate import GeneratorConfig, generate
from scheduler.simulator.sweep import runs
from tests.builders import node, pod

assert runs.row_of is tuning.row_of  # imported before anything is replaced in them

A100, A100_80, H100 = "NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-SXM4-80GB", "NVIDIA-H100-80GB-HBM3"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    native.write(generate(GeneratorConfig(nodes=4, load=1.3, seed=3)), tmp_path / "w.json")
    return tmp_path


def _commands(group: click.Group, ctx: click.Context) -> list[click.Command]:
    found = []
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        found.append(command)
        if isinstance(command, click.Group):
            found += _commands(command, ctx)
    return found


def test_the_help_groups_commands_by_what_people_want(snugfit) -> None:
    said = snugfit("--help").out
    titles = ["Ask about a cluster:", "Change a cluster:", "Run the extender:", "Study packing:"]
    places = [said.index(title) for title in titles]
    assert places == sorted(places)
    assert (
        places[0] < said.index("\n  plan ") < places[1] < said.index("\n  advertise ") < places[2]
    )
    assert places[2] < said.index("\n  serve ") < places[3] < said.index("\n  simulate ")
    lines = said.splitlines()
    for name in cli.list_commands(click.Context(cli)):
        assert any(line.startswith(f"  {name} ") for line in lines), name


def test_examples_in_a_help_stand_on_lines_of_their_own() -> None:
    root = click.Context(cli, info_name="snugfit")
    for command in _commands(cli, root):
        text = command.get_help(click.Context(command, info_name=command.name, parent=root))
        assert "\b" not in text and "\\b" not in text, command.name
        for line in text.splitlines():
            if line.strip().startswith("snugfit "):
                assert line.count("snugfit ") == 1, line


class _Terminal:
    """Standard output that is a terminal of some width."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.said = ""

    def write(self, text: str) -> int:
        self.said += text
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        return True


COLUMNS = ("line", "where", "what happens")
ROW = (12, "extenders[0].nodeCacheCapable", "whole nodes are sent with every call of the extender")


@pytest.mark.parametrize("width", [30, 50, 80, 200])
def test_tables_break_no_word_however_narrow_the_terminal(monkeypatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", "24")  # of a dumb terminal both count, or neither
    monkeypatch.setenv("TERM", "dumb")
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    print_table("Traps", COLUMNS, [ROW])
    for word in ("extenders[0].nodeCacheCapable", "extender", "12"):
        assert word in terminal.said, terminal.said
    if width >= 50:
        assert max(map(len, terminal.said.splitlines())) <= width


def test_a_table_in_a_pipe_is_as_wide_as_it_needs_to_be(monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    print_table("Traps", COLUMNS, [ROW])
    assert "whole nodes are sent with every call of the extender" in capsys.readouterr().out


def test_progress_is_shown_where_output_is_no_terminal(capsys) -> None:
    with progress("replay", every_s=0.0) as bar:
        bar(200, 57_000)
    with progress("quick") as bar:
        bar(1, 2)
    assert capsys.readouterr().err == "replay: 200 of 57,000\n"


def test_progress_says_how_long_the_rest_takes(capsys, monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with progress("sweep", every_s=10.0) as bar:
        bar(40, 100)  # rows of an earlier run took no time of this one
        now[0] += 30.0
        bar(50, 100)
    assert capsys.readouterr().err == "sweep: 50 of 100, 0:02:30 left\n"


@pytest.mark.parametrize(
    "args",
    [
        ("simulate", "w.json", "--report"),
        ("tune", "w.json", "--out"),
        ("tune", "w.json", "--journal"),
        ("generate", "--nodes", "3", "--out"),
    ],
)
@pytest.mark.parametrize("path", ["absent/file", "."])
def test_files_that_cannot_be_written_are_refused_before_the_work(
    small: Path, snugfit, monkeypatch, args, path: str
) -> None:
    for work in ("inflation.run", "tuning.row_of", "generate.generate"):
        monkeypatch.setattr(f"scheduler.simulator.{work}", lambda *_, **__: pytest.fail("too late"))
    done = snugfit(*args, path)
    assert done.code == 2 and done.err.startswith(f"snugfit: {args[-1]} {path}: cannot be "), done


def test_libraries_of_reports_are_looked_for_before_the_work(
    small: Path, snugfit, monkeypatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("scheduler.simulator.inflation.run", lambda *_, **__: pytest.fail("late"))
    done = snugfit("simulate", "w.json", "--report", "r.html")
    assert done.code == 2 and "pip install 'snugfit[report]'" in done.err


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("simulate", "w.json", "--arrival", "1.0"), "--arrival changes nothing here"),
        (("simulate", "w.json", "--rate", "2"), "--protocol replay"),
        (("simulate", "w.json", "--plan-every", "2"), "--protocol replay"),
        (("simulate", "w.json", "--policy", "fgd", "--policy-file", "p"), "priced"),
        (("simulate", "w.json", "--seeds", "3"), "depend on the seed"),
        (("simulate", "w.json", "--processes", "3"), "see --seeds"),
        (("simulate", "--kubeconfig", "x"), "CLUSTER `live`"),
        (("generate", "--out", "x", "--pods", "3", "--load", "2"), "--pods says"),
        (("generate", "--out", "x", "--gang-size", "3"), "--gangs"),
        (("generate", "--out", "x", "--mean-duration", "3"), "--durations"),
        (("demo", "--pods", "3", "--load", "2"), "--pods says"),
        (("config", "kube-scheduler", "--profile", "stock", "--fallback"), "stock"),
        (("config", "kube-scheduler", "--server-name", "x"), "sidecar"),
        (("doctor", "--scheduler-name", "x"), "--extender"),
        (("serve", "--offline", "w.json", "--context", "x"), "live:CONTEXT"),
    ],
)
def test_options_that_change_nothing_are_refused(small: Path, snugfit, args, why: str) -> None:
    done = snugfit(*args)
    assert done.code == 2 and "changes nothing here" in done.err and why in done.err, done
    assert done.err.count("\n") == 1


def test_mistakes_of_a_generator_name_the_option(small: Path, snugfit) -> None:
    assert snugfit("generate", "--out", "x", "--gangs", "5").err.startswith(
        "snugfit: --gangs: is 5"
    )
    assert snugfit("generate", "--out", "x", "--rate", "0").err.startswith("snugfit: --rate: is 0")


@pytest.mark.parametrize("processes", ["1", "2"])
def test_mistakes_of_a_search_are_no_faults_of_ours(small: Path, snugfit, processes: str) -> None:
    native.write(Workload((node("n"),), (Arrival(pod()),)), small / "cpu.json")
    done = snugfit("tune", "cpu.json", "--processes", processes)
    assert done.code == 2 and "no node has a GPU" in done.err
    native.write(Workload((node("n", gpus=1),), (Arrival(pod()),)), small / "no.json")
    done = snugfit("tune", "no.json", "--processes", processes)
    assert done.code == 2 and "ask for no GPU" in done.err, done


def test_errors_come_back_from_other_processes_as_they_are() -> None:
    import pickle

    for error in (InvalidInput("a.b", "is 3", "use 4"), KubeApiError("GET /", 403, "no")):
        again = pickle.loads(pickle.dumps(error))
        assert isinstance(again, SchedulerError) and str(again) == str(error)
        assert again.__dict__ == error.__dict__


def test_short_names_of_models() -> None:
    here = {A100, A100_80, H100, "T4"}
    found = costs_by_product({"A100": 5, "h100": 10, "T4": 1}, here, "costs")
    assert found == {A100: 5, A100_80: 5, H100: 10, "T4": 1}
    found = costs_by_product({"A100": 5, "A100-80GB": 7}, here, "costs")
    assert found == {A100: 5, A100_80: 7}
    for wrong, why in (({"A10": 1}, "did you mean"), ({"A100": 1, "SXM4": 2}, "name it whole")):
        with pytest.raises(InvalidInput, match=why):
            costs_by_product(wrong, here, "costs")
    with pytest.raises(InvalidInput, match="no node has devices"):
        costs_by_product({"A100": 1}, (), "costs")


def test_costs_by_short_names_keep_pods_off_expensive_models(small: Path, snugfit) -> None:
    nodes = (node("dear", gpus=1, product=H100), node("cheap", gpus=1, product=A100))
    native.write(Workload(nodes, (Arrival(pod("p", count=1)),)), small / "two.json")
    for name, expected in (("H100", "cheap"), ("A100", "dear")):
        (small / "costs.json").write_text(json.dumps({name: 10}))
        done = snugfit("plan", "two.json", "--model-costs", "costs.json", "--json")
        assert json.loads(done.out)["placements"][0]["node"] == expected
    (small / "costs.json").write_text('{"H200": 10}')
    done = snugfit("plan", "two.json", "--model-costs", "costs.json")
    assert done.code == 2 and "is the model of no device here" in done.err


def test_a_topology_that_no_node_has_is_refused(small: Path, snugfit) -> None:
    racks = Workload((node("n", gpus=1, labels={"topology/rack": "a"}),), (Arrival(pod("p")),))
    native.write(racks, small / "racks.json")
    assert snugfit("plan", "racks.json", "--topology", "topology/rack").code == 0
    done = snugfit("plan", "racks.json", "--topology", "topology/rak")
    assert done.code == 2 and "did you mean 'topology/rack'" in done.err


# -- simulate ----------------------------------------------------------------------------------


def test_pods_that_stayed_pending_are_listed_with_the_reason(small: Path, snugfit) -> None:
    pods = (pod("big", count=4), pod("fits", count=1), pod("late", count=2))
    native.write(Workload((node("n", gpus=2),), tuple(map(Arrival, pods))), small / "p.json")
    done = snugfit("simulate", "p.json", "--policy", "best-fit", "--explain")
    assert "best-fit: 2 pods stayed pending" in done.out
    assert "default/big: 1 of 1 nodes: pod is larger than the whole node" in done.out
    assert "default/late: 1 of 1 nodes: insufficient whole GPUs" in done.out
    (run,) = json.loads(snugfit("simulate", "p.json", "--policy", "best-fit", "--json").out)["runs"]
    assert [one["name"] for one in run["pending_pods"]] == ["big", "late"]
    assert run["sizes"] == {
        "1 GPU": {"pods": 1, "placed": 1},
        "2-7 GPUs": {"pods": 2, "placed": 0},
    }


def test_a_comparison_is_a_list_of_runs_of_one_shape(small: Path, snugfit) -> None:
    done = snugfit("simulate", "w.json", "--policy", "fgd", "--compare", "best-fit", "--json")
    said = json.loads(done.out)
    first, second = said["runs"]
    assert first.keys() == second.keys()
    assert [first["policy"], second["policy"]] == ["fgd", "best-fit"]
    table = snugfit("simulate", "w.json", "--policy", "fgd", "--compare", "best-fit").out
    assert "Pods placed, by what they ask for" in table


def test_several_seeds_have_intervals(small: Path, snugfit) -> None:
    args = ("simulate", "w.json", "--policy", "fgd", "--protocol", "inflation", "--seeds", "3")
    said = json.loads(snugfit(*args, "--json").out)
    assert [run["seed"] for run in said["runs"]] == [0, 1, 2]
    (mean,) = said["means"]
    values = [run["allocated_gpu_milli"] / run["capacity_gpu_milli"] for run in said["runs"]]
    assert mean["seeds"] == 3 and mean["allocated_percent"]["half_width"] >= 0
    assert mean["allocated_percent"]["mean"] == pytest.approx(100 * sum(values) / 3, abs=1e-3)
    assert "±" in snugfit(*args).out


def test_a_bound_begins_where_the_better_policy_ends(small: Path, snugfit) -> None:
    said = json.loads(snugfit("bound", "w.json", "--budget", "1s", "--json").out)
    ran = snugfit("simulate", "w.json", "--compare", "best-fit", "--json").out
    best = max(run["allocated_gpu_milli"] for run in json.loads(ran)["runs"])
    assert said["planned_gpu_milli"] >= best and said["begun_with"] in ("priced", "best-fit")


def test_a_bound_without_time_for_policies_begins_with_a_draft(small: Path, snugfit) -> None:
    said = json.loads(snugfit("bound", "w.json", "--budget", "1ms", "--json").out)
    assert said["begun_with"] == "draft"
    assert 0 < said["planned_gpu_milli"] <= said["bound_gpu_milli"]


def test_the_first_pod_of_the_examples_can_be_pulled() -> None:
    import yaml

    folder = Path(__file__).parents[3] / "deploy" / "examples"
    images = {
        container["image"]
        for container in yaml.safe_load((folder / "pod.yaml").read_text())["spec"]["containers"]
    }
    assert images and all("my-" not in image and ":latest" not in image for image in images)
