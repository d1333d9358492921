"""The runner of the benchmarks in this process."""

from __future__ import annotations

import pytest

from bench.runner import main
from tests.command_line import CommandLine, command_line


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs ``python -m bench`` with these arguments, by its entry point."""
    return command_line(main, "bench", monkeypatch, capsys)
