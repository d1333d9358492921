"""``snugfit config`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from scheduler.cli.main import cli
from scheduler.core.errors import InvalidInput


def _run(*args: str, text: str | None = None):
    return CliRunner().invoke(cli, list(args), input=text)


def test_what_is_printed_passes_the_check() -> None:
    printed = _run("config", "kube-scheduler", "--topology", "service", "--profile", "stock")
    assert printed.exit_code == 0 and "# " in printed.stdout
    checked = _run("config", "check", "-", text=printed.stdout)
    assert checked.exit_code == 0 and checked.stdout == ""


def test_traps_end_in_exit_code_1_with_line_and_remedy(tmp_path: Path) -> None:
    text = _run("config", "kube-scheduler", "--resources", "nvidia.com/gpu").stdout
    file = tmp_path / "scheduler.yaml"
    file.write_text(text.replace("ignorable: false", "ignorable: true"))
    checked = _run("config", "check", str(file), "--json")
    assert checked.exit_code == 1
    (finding,) = json.loads(checked.stdout)["findings"]
    assert finding["rule"] == "ignorable" and finding["path"] == "extenders[0].ignorable"
    assert "ignorable: true" in file.read_text().splitlines()[finding["line"] - 1]
    table = _run("config", "check", str(file))
    assert table.exit_code == 1 and "ignorable" in table.stdout


def test_a_file_of_another_kind_is_named_as_such() -> None:
    checked = _run("config", "check", "-", "--json", text="kind: Pod\napiVersion: v1\n")
    assert checked.exit_code == 1
    assert json.loads(checked.stdout)["findings"][0]["rule"] in ("version", "no-extender")


def test_an_unreadable_file_is_bad_input(tmp_path: Path) -> None:
    for file, text in ((tmp_path / "absent", None), ("-", "a: [")):
        assert isinstance(_run("config", "check", str(file), text=text).exception, InvalidInput)


@pytest.mark.parametrize("bad", [("--resources", ""), ("--weight", "3"), ("--url", "ftp://x")])
def test_harmful_choices_are_bad_input(bad: tuple[str, str]) -> None:
    assert isinstance(_run("config", "kube-scheduler", *bad).exception, InvalidInput)
