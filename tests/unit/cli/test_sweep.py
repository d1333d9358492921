"""``snugfit sweep`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from scheduler.files import native
from scheduler.simulator.generate import GeneratorConfig, generate

GRID = {
    "format": "snugfit-sweep/v1",
    "workloads": [
        {"name": "file", "files": ["w.json"]},
        {"name": "made", "generate": {"nodes": 5, "load": 1.2}},
    ],
    "policies": ["fgd", "first-fit"],
    "seeds": 2,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    native.write(generate(GeneratorConfig(nodes=4, load=1.3, seed=3)), tmp_path / "w.json")
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(GRID))
    return tmp_path


def test_a_tenth_first_and_then_the_rest(folder: Path, snugfit) -> None:
    args = ("sweep", "grid.yaml", "--rows", "rows.jsonl", "--processes", "1", "--json")
    part = json.loads(snugfit(*args, "--part", "1/4").out)
    assert (part["rows"], part["done"], part["known_before"]) == (2, 2, 0)
    refused = snugfit(*args)
    assert refused.code == 2 and "has 2 rows already (--resume goes on" in refused.err
    whole = json.loads(snugfit(*args, "--resume").out)
    assert (whole["rows"], whole["done"], whole["known_before"]) == (8, 8, 2)
    lines = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert len(lines) == len({line["key"] for line in lines}) == 8
    again = json.loads(snugfit(*args, "--resume").out)
    assert again["known_before"] == 8 and again["means"] == whole["means"]
    ran = json.loads(
        snugfit(
            "simulate", "w.json", "--policy", "fgd", "--protocol", "inflation", "--seeds", "2",
            "--processes", "1", "--json",
        ).out
    )  # fmt: skip
    (expected,) = ran["means"]
    (mine,) = [m for m in whole["means"] if (m["workload"], m["policy"]) == ("file", "fgd")]
    assert {key: mine[key] for key in expected} == expected


def test_a_table_has_a_row_per_workload_settings_and_policy(folder: Path, snugfit) -> None:
    done = snugfit("sweep", "grid.yaml", "--processes", "2")
    assert done.code == 0
    body = [line for line in done.out.splitlines() if line.count(" ± ") == 3]
    assert len(body) == 4 and "made" in body[-1] and "first-fit" in body[-1]


def test_a_row_that_fails_is_named_and_the_others_are_there(folder: Path, snugfit) -> None:
    (folder / "w.json").write_text('{"format": "snugfit/v1", "nodes": 3}')
    done = snugfit("sweep", "grid.yaml", "--processes", "1", "--json")
    said = json.loads(done.out)
    assert done.code == 1 and said["done"] == 4 and len(said["failed"]) == 4
    assert "failed: file, inflation, fgd, seed 0: " in done.err and "nodes" in done.err
    assert said["failed"][0]["job"]["files"] == ["w.json"]


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("--resume",), "--resume: needs the rows"),
        (("--part", "0/3"), "write 1/10"),
        (("--part", "4/3"), "write 1/10"),
        (("--processes", "2", "--ray", "auto"), "--processes: changes nothing here"),
    ],
)
def test_mistakes_are_named(folder: Path, snugfit, args, why: str) -> None:
    done = snugfit("sweep", "grid.yaml", *args)
    assert done.code == 2 and why in done.err and done.err.count("\n") == 1
