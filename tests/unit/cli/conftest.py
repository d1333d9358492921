"""The command line in this process."""

from __future__ import annotations

import pytest

from scheduler.cli.main import main
from tests.command_line import CommandLine, Done, command_line


@pytest.fixture
def snugfit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs ``snugfit`` with these arguments, by its entry point."""
    return command_line(main, "snugfit", monkeypatch, capsys)


@pytest.fixture
def run(snugfit: CommandLine) -> CommandLine:
    """Runs ``snugfit`` with these arguments, for an exit code of 0, or ``code``, or any: None."""

    def begin(*args: object, code: int | None = 0) -> Done:
        done = snugfit(*args)
        assert code in (None, done.code), done
        return done

    return begin
