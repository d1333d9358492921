"""The command line in this process."""

from __future__ import annotations

import pytest

from scheduler.cli.main import main
from tests.command_line import CommandLine, command_line


@pytest.fixture
def snugfit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs ``snugfit`` with these arguments, by its entry point."""
    return command_line(main, "snugfit", monkeypatch, capsys)
