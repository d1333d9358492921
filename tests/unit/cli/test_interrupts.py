"""Ctrl-C that comes at a bad moment."""

from __future__ import annotations

import signal

import pytest

from scheduler.cli.interrupts import heard_by


class _Finalized:
    """Whatever its finalizer raises is lost, as in many a piece of C code."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.fixture
def interruptible():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_that_was_swallowed_is_heard_of_at_the_next_step(interruptible) -> None:
    seen = []
    with heard_by(lambda done, total: seen.append((done, total))) as told:
        told(1, 9)
        _Finalized()  # dropped at once: KeyboardInterrupt ends in its finalizer
        with pytest.raises(KeyboardInterrupt):
            told(2, 9)
    assert (
        seen == [(1, 9), (2, 9)] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )


def test_ctrl_c_is_raised_at_once_where_that_is_possible(interruptible) -> None:
    with pytest.raises(KeyboardInterrupt), heard_by(lambda _done, _total: None):
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with heard_by(lambda _done, _total: None) as told:
            signal.raise_signal(signal.SIGINT)
            told(1, 1)
    finally:
        signal.signal(signal.SIGINT, before)
