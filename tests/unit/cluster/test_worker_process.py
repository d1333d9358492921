"""A process that is spoken to: whatever becomes of it, no message to it takes for ever."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import pytest

from scheduler.cluster.worker.process import Companion, CompanionFault, Counterpart
from testbed.fake_api import eventually

LARGE = b"x" * (8 << 20)
Begin = Callable[..., Companion]


@pytest.fixture
def begin(monkeypatch) -> Iterator[Begin]:
    monkeypatch.setattr("scheduler.cluster.worker.process.SILENCE_S", 2.0)  # two signs of life
    made: list[Companion] = []

    def start(main: Callable[..., None], *arguments: Any, stopped: threading.Event | None = None):
        made.append(Companion(main, arguments, stopped or threading.Event()))
        return made[-1]

    yield start
    for companion in made:
        companion.end()
        eventually(lambda c=companion: not c._process.is_alive())


def _echo(caller: Counterpart) -> None:
    for message in caller.messages():
        caller.answer(message)


def _work(caller: Counterpart) -> None:
    """A computation of one instruction, which keeps the interpreter from every other thread."""
    for rounds in caller.messages():
        deque(repeat(None, rounds), maxlen=0)
        caller.answer("done")


def _sleep_well(caller: Counterpart) -> None:
    for _ in caller.messages():
        time.sleep(3600)


def _fail(caller: Counterpart) -> None:
    for message in caller.messages():
        raise ArithmeticError(message)


def _exit(_: Counterpart) -> None:
    os._exit(3)


def _stop(companion: Companion) -> None:
    assert companion.pid is not None
    os.kill(companion.pid, signal.SIGSTOP)


def _loaded(companion: Companion) -> Companion:
    def heard() -> bool:
        companion.look()
        return companion.loaded

    eventually(heard)
    return companion


def _cause(act: Callable[[], object]) -> str:
    with pytest.raises(CompanionFault) as found:
        act()
    return found.value.cause


def test_messages_of_any_size_arrive_whole_and_in_order(begin: Begin) -> None:
    companion = begin(_echo)
    for message in ({"a": 1}, LARGE, None, "last"):
        companion.send(message)
        assert companion.receive(60.0) == message
    companion.look()


@pytest.mark.parametrize("when", ["starting", "idle"])
@pytest.mark.parametrize("message", [b"small", LARGE])
def test_a_process_that_is_stopped_is_stuck(begin: Begin, when: str, message: bytes) -> None:
    """A small message goes into the buffer, a large one does not."""
    companion = begin(_echo)
    if when == "idle":
        _loaded(companion)
    _stop(companion)

    def ask() -> None:
        companion.send(message)
        companion.receive(600.0)

    assert _cause(ask) == "stuck"


def test_a_process_that_is_stopped_while_nothing_is_asked_is_noticed(begin: Begin) -> None:
    companion = _loaded(begin(_echo))
    _stop(companion)

    def look_for_ever() -> None:
        while True:
            companion.look()
            time.sleep(0.01)

    assert _cause(look_for_ever) == "stuck"


def test_a_process_that_is_stopped_in_the_middle_of_a_message_is_stuck(begin: Begin) -> None:
    companion = _loaded(begin(_sleep_well))
    companion.send("sleep")  # it reads no more, but lives
    sent = threading.Event()

    def stop_when_full() -> None:
        sent.wait(60)
        _stop(companion)

    stopper = threading.Thread(target=stop_when_full)
    stopper.start()
    write = companion._write

    def write_and_tell(content: memoryview) -> int:
        number = write(content)
        if not number:
            sent.set()
        return number

    companion._write = write_and_tell  # type: ignore[method-assign]
    assert _cause(lambda: companion.send(LARGE)) == "stuck"
    stopper.join()


def test_a_process_that_is_stopped_while_it_works_is_stuck(begin: Begin) -> None:
    companion = _loaded(begin(_work))
    companion.send(10**12)
    _stop(companion)
    assert _cause(lambda: companion.receive(600.0)) == "stuck"


def test_long_work_is_no_silence_even_where_no_other_thread_can_speak(
    begin: Begin, monkeypatch
) -> None:
    companion = _loaded(begin(_work))
    monkeypatch.setattr("scheduler.cluster.worker.process.SILENCE_S", 0.4)
    work, took_s = 3 * 10**8, 0.0
    while took_s <= 0.4:  # until it is work for longer than it may be silent
        companion.send(work)
        began = time.monotonic()
        assert companion.receive(600.0) == "done"
        took_s = time.monotonic() - began
        work *= 2


def test_a_process_that_lives_and_takes_nothing_is_stuck(begin: Begin, monkeypatch) -> None:
    monkeypatch.setattr("scheduler.cluster.worker.process._STALL_S", 1.0)
    companion = _loaded(begin(_sleep_well))
    companion.send("sleep")
    assert _cause(lambda: companion.send(LARGE)) == "stuck"


def test_a_process_that_lives_and_never_answers_is_past_its_deadline(begin: Begin) -> None:
    companion = begin(_sleep_well)
    companion.send("sleep")
    assert _cause(lambda: companion.receive(0.5)) == "killed"


@pytest.mark.parametrize("main", [_exit, _fail])
@pytest.mark.parametrize("message", ["small", LARGE])
def test_a_process_that_dies_is_told_from_one_that_is_stuck(begin: Begin, main, message) -> None:
    companion = begin(main)

    def ask() -> None:
        companion.send(message)
        companion.receive(600.0)

    assert _cause(ask) == "crashed"


def test_every_wait_ends_when_nobody_needs_it_any_more(begin: Begin) -> None:
    stopped = threading.Event()
    companion = _loaded(begin(_sleep_well, stopped=stopped))
    companion.send("sleep")
    threading.Timer(0.3, stopped.set).start()
    assert _cause(lambda: companion.receive(600.0)) == "killed"
    companion.end()
    assert _cause(companion.look) == "crashed" and companion.pid is None


def test_the_process_ends_with_whoever_started_it(begin: Begin) -> None:
    companion = _loaded(begin(_sleep_well))
    companion.send("sleep")
    companion._socket.close()  # as when the other process dies
    eventually(lambda: not companion._process.is_alive())
