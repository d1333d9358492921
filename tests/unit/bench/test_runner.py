"""The runner as a user meets it: names, bad input, JSON, recorded rows, Ctrl-C."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench import catalogue
from bench.results import load
from testbed.fake_api import eventually
from tests.command_line import is_one_line

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("SNUGFIT_DATA", "../shared/data"))
EVIL = "\x1b[31mred\x07"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ok.vbp").write_text("1 10\n1\n4 3\n")
    (tmp_path / "seeds.csv").write_text("seed\n484806185843093489\n")
    return tmp_path


# -- names -------------------------------------------------------------------------------------


def test_every_benchmark_is_listed_with_its_question(bench) -> None:
    lines = bench("--list").out.splitlines()
    assert [line.split()[0] for line in lines] == list(catalogue.BENCHMARKS)
    assert all(line.endswith(("?", ".")) for line in lines)


def test_every_module_of_a_benchmark_is_in_the_catalogue() -> None:
    made = {
        path.stem
        for path in (ROOT / "bench").glob("*.py")
        if "@benchmark(" in path.read_text(encoding="utf-8")
    }
    assert made == set(catalogue.BENCHMARKS)


@pytest.mark.parametrize("name", catalogue.BENCHMARKS)
def test_help_states_the_protocol(bench, name: str) -> None:
    done = bench(name, "--help")
    assert done.code == 0 and "--json" in done.out and "--record" in done.out
    words = catalogue.protocol(name).split()
    assert " ".join(words[:4]) in " ".join(done.out.split())


def test_the_old_spelling_names_the_new_one() -> None:
    argv = [sys.executable, "-m", "scheduler.cli.main", "bench", "online"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "python -m bench NAME" in done.stderr


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("onlin",), "did you mean 'online'"),
        (("online", "--data", "/nonexistent"), "set SNUGFIT_DATA"),
        (("online", "--policies", "fdg"), "did you mean 'fgd'"),
        (("online", "--seeds", "0"), "--seeds"),
        (("webhook", "--nodes", "4,x"), "'x' is not a number; write 4,8,16"),
        (("webhook", "--nodes", "0"), "out of range"),
        (("webhook", "--rate", "-1"), "--rate"),
        (("webhook", "--policy", "fdg"), "did you mean 'fgd'"),
        (("backlog", "--seeds", "seeds.csv", "--nodes", "999999999"), "--nodes"),
        (("backlog", "--seeds", "seeds.csv", "--utilisation", "nan"), "--utilisation"),
        (("backlog", "--seeds", "seeds.csv", "--budget", "soon"), "write 500ms, 10s or 2m"),
        (("backlog", "--seeds", "missing.csv"), "missing.csv"),
        (("throughput", "--cases", "alone,quick"), "use alone, sampled, packing, stock"),
        (("queue", "--workloads", "phily"), "unknown: phily"),
        (("queue", "--workloads", "seren", "--loads", "much"), "'much' is no share"),
        (("queue", "--workloads", "seren", "--policies", "fgd"), "are without priced"),
        (("queue", "--part", "3/2"), "write 1/10 for the first of ten"),
        (("smoke", "--record", "online-fgd"), "write smoke or smoke-something"),
        (("smoke", "--record", "../smoke"), "write smoke or smoke-something"),
        (("vector", "no\x1b[31m.vbp"), "no\\x1b[31m.vbp"),
    ],
)
def test_bad_input_is_exit_2_and_names_the_remedy(folder: Path, bench, args, words: str) -> None:
    done = bench(*args)
    assert done.code == 2 and words in done.err and not done.out
    assert "internal fault" not in done.err and "\x1b" not in done.err


def test_seeds_that_are_not_numbers_are_named(folder: Path, bench) -> None:
    (folder / "seeds.csv").write_text("seed\nmany\n")
    done = bench("backlog", "--seeds", "seeds.csv")
    is_one_line(done, "seeds.csv:2: 'many' is not a seed", by="bench")


@pytest.mark.parametrize("reader", [("vector", "F"), ("vector", "ok.vbp", "--known", "F")])
@pytest.mark.parametrize("what", ["pipe", "folder", "empty", "NUL"])
def test_whatever_a_path_leads_to_is_named(folder: Path, bench, reader, what: str) -> None:
    path = folder / "F"
    match what:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case _:
            path.write_bytes({"empty": b" \n", "NUL": b"\0"}[what])
    is_one_line(bench(*reader), "F", by="bench")


def test_too_large_instances_are_refused_unread(folder: Path, bench) -> None:
    with (folder / "sparse.vbp").open("wb") as file:
        file.truncate((64 << 20) + 1)
    is_one_line(bench("vector", "sparse.vbp"), "more than 64 MiB", by="bench")


BAD = [
    ("2 10 10\n1\n-1 5 3\n", ("row 1", "negative")),
    ("2 10 10\n2\n1 5 3\n4 5 -3\n", ("row 2", "negative")),
    ("2 10 -10\n1\n1 5 3\n", ("capacity -10",)),
    ("2 10 10\n1\n1 50 3\n", ("row 1", "larger")),
    ("2 10 10\n1\n1 5 100001\n", ("100,000 items",)),
    ("2 10 10\n1\n1 5 " + "9" * 5000 + "\n", ("5000 digits",)),
    ("2 10 10\n999999999999\n1 5 3\n", ("999999999999 rows",)),
    ("99999 10 10\n1\n1 5 3\n", ("dimensions",)),
    ("2 10 10\n1\n1.5 5 3\n", ("1.5",)),
    ("2 10 10\n1\n٣ 5 3\n", ("integers",)),
]


@pytest.mark.parametrize(("content", "words"), BAD)
def test_a_bad_vector_file_is_named(folder: Path, bench, content: str, words) -> None:
    (folder / "bad.vbp").write_text(content)
    is_one_line(bench("vector", "bad.vbp"), "bad.vbp", *words, by="bench")


def test_bad_vector_files_stop_no_other(folder: Path, bench) -> None:
    names = [f"bad-{number}.vbp" for number, _ in enumerate(BAD)]
    for name, (content, _) in zip(names, BAD, strict=True):
        (folder / name).write_text(content)
    done = bench("vector", *names, "ok.vbp", "--budget", "500ms", "--json")
    assert done.code == 2 and all(f"bench: {name}: " in done.err for name in names)
    said = json.loads(done.out)
    assert [row["instance"] for row in said["rows"]] == ["ok"] and len(said["refused"]) == len(BAD)


# -- rows --------------------------------------------------------------------------------------


def test_backlog_rows(folder: Path, bench) -> None:
    grid = ["--nodes", "4", "--pods-per-node", "4", "--priorities", "2", "--utilisation", "0.9,1.0"]
    done = bench("backlog", "--seeds", "seeds.csv", *grid, "--budget", "1s", "--cases", "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert [row["utilisation"] for row in said["rows"]] == [0.9, 1.0]
    for row in said["rows"]:
        assert row["placed_by_tier"] >= row["default_by_tier"] and row["pods"] == 16
        assert all(p <= b for p, b in zip(row["placed_by_tier"], row["bound_by_tier"], strict=True))
    assert said["settings"]["nodes"] == [4] and said["settings"]["clock"] == "wall"


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "openb").exists(), reason=f"no traces at {DATA} (SNUGFIT_DATA)")
def test_offline_backlogs_of_a_trace(bench) -> None:
    options = ["--filled", "0.02", "--backlog", "30", "--seeds", "1", "--budget", "20s", "--json"]
    done = bench("offline", "--data", DATA, *options)
    assert done.code == 0, done.err
    rows = json.loads(done.out)["rows"]
    assert [row["how"] for row in rows] == ["one by one", "planned", "planned, moves"]
    assert all(row["placed"] == 30 for row in rows)
    assert rows[1]["gpus"] == rows[1]["bound"] and rows[2]["moves"] == 0


def test_rows_are_recorded_with_where_they_come_from(
    folder: Path, bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.results.FOLDER", folder)
    for budget in ("500ms", "1s", "500ms"):
        done = bench("vector", "ok.vbp", "--budget", budget, "--record", "vector-small")
        assert done.code == 0 and "recorded in" in done.err
    said = load("vector-small", folder)
    assert said["benchmark"] == "vector" and len(said["runs"]) == 2
    for run in said["runs"]:
        assert run["rows"][0]["bins"] == 2 and run["date"] and run["machine"]["cores"] > 0
        assert run["command"].startswith("python -m bench vector ok.vbp --budget ")
        assert "record" not in run["command"]


# -- Ctrl-C ------------------------------------------------------------------------------------


def _start(*args: object) -> subprocess.Popen[str]:
    # A shell hands SIGINT down as ignored to what it runs in the background, and so would we.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "bench", *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a terminal interrupts all processes of a command
        )
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_a_solver_and_prints_the_rows_that_are_complete(folder: Path) -> None:
    # Three items of nearly a third of a bin in each dimension: no packing is proved in seconds.
    dice = random.Random(2)
    rows = [" ".join(str(dice.randint(330, 340)) for _ in range(3)) + " 1" for _ in range(90)]
    for name in ("a", "b"):
        (folder / f"{name}.vbp").write_text(f"3 1000 1000 1000\n{len(rows)}\n" + "\n".join(rows))
    process = _start("vector", "ok.vbp", "a.vbp", "b.vbp", "--budget", "500s", "--json")
    try:
        eventually(lambda: _workers(process.pid))
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "stopped after" in err and "Traceback" not in err
    said = json.loads(out)
    assert said["stopped"] and len(said["rows"]) < 3
    eventually(lambda: not _members(process.pid))


def test_ctrl_c_keeps_the_runs_that_are_done(folder: Path) -> None:
    script = (
        "import pathlib, time\np = pathlib.Path('runs')\nn = len(list(p.parent.glob('run-*')))\n"
        "pathlib.Path(f'run-{n}').touch()\ntime.sleep(600 * n)\n"
    )
    command = ("--", sys.executable, "-c", script)
    process = _start("loaded", "--busy", "0", "--runs", "5", "--json", *command)
    try:
        eventually((folder / "run-1").exists)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "stopped after 1 of 5 steps" in err
    said = json.loads(out)
    assert said["facts"]["runs"] == 1 and said["facts"]["runs_left"] == 4
    assert len((folder / "loaded.jsonl").read_text().splitlines()) == 1


def _members(group: int) -> list[str]:
    """Processes of a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(stat.parent.name)
    return found


def _workers(group: int) -> list[str]:
    """Those that multiprocessing has started."""
    return [pid for pid in _members(group) if b"spawn_main" in _command(pid)]


def _command(pid: str) -> bytes:
    """Nothing for a process that has ended since it was seen."""
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
