"""The command line in this process: as a user meets it, exit code and all."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from scheduler.cli.main import main


@dataclass(frozen=True)
class Done:
    """What a command has left behind."""

    code: object
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


Snugfit = Callable[..., Done]


@pytest.fixture
def snugfit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Snugfit:
    """Runs ``snugfit`` with these arguments, by its entry point."""

    def run(*args: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["snugfit", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        return Done(left.value.code, said.out, said.err)

    return run
