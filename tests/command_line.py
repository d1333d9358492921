"""A command line in this process: as a user meets it, exit code and all."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Done:
    """What a command has left behind."""

    code: object
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


CommandLine = Callable[..., Done]


def command_line(
    main: Callable[[], None],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> CommandLine:
    """Runs an entry point with the arguments that it is called with."""

    def run(*args: object) -> Done:
        monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        said = capsys.readouterr()
        return Done(left.value.code, said.out, said.err)

    return run


def is_one_line(done: Done, *words: str, by: str = "snugfit") -> None:
    """Bad input is exit code 2 and one line that names what is wrong."""
    assert done.code == 2, done
    assert done.err.count("\n") == 1 and not done.out, done
    assert done.err.startswith(f"{by}: ")
    for word in words:
        assert word in done.err, done.err
