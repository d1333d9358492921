"""One way to the cluster: who may use it when, and who comes first."""

from __future__ import annotations

import threading

import pytest

from scheduler.cluster.fair_lock import FairLock
from scheduler.cluster.ledger import Ledger
from scheduler.cluster.settings import ExtenderConfig
from scheduler.core.engine import Engine
from scheduler.core.state import ClusterState
from testbed.fake_api import eventually
from tests.builders import node


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(Engine(ClusterState([node("n", gpus=1)])), ExtenderConfig())


@pytest.mark.parametrize("name", ["engine", "gangs", "pods", "requeue", "victims", "events"])
def test_a_cluster_is_of_no_use_once_its_lock_is_given_back(ledger: Ledger, name: str) -> None:
    with ledger.locked() as cluster:
        assert getattr(cluster, name) is not None
    with pytest.raises(RuntimeError, match=f"`{name}` of a cluster whose lock"):
        getattr(cluster, name)
    with ledger.locked() as other:  # not even while it is locked again
        assert other.engine is not None
        with pytest.raises(RuntimeError, match="has been given back"):
            cluster.expire()
        with pytest.raises(RuntimeError, match="has been given back"):
            cluster.now = 1.0


def test_the_lock_is_given_back_when_something_fails(ledger: Ledger) -> None:
    with pytest.raises(ZeroDivisionError), ledger.locked():
        raise ZeroDivisionError
    with ledger.locked() as cluster:
        assert cluster.engine.state.row_of == {"n": 0}


def test_a_second_entry_of_one_thread_is_an_error_and_no_deadlock(ledger: Ledger) -> None:
    with ledger.locked() as cluster:
        with pytest.raises(RuntimeError, match="this thread has the cluster"), ledger.locked():
            pass
        assert cluster.engine is not None


class Queue:
    """Threads that want a lock which this one has, in a known order."""

    def __init__(self, lock: FairLock) -> None:
        self.lock, self.order = lock, list[str]()
        self._threads: list[threading.Thread] = []
        lock.acquire()

    def join(self, name: str, *, chore: bool) -> None:
        waiting = self.lock.waiting

        def stay() -> None:
            self.lock.acquire(chore=chore)
            self.order.append(name)
            self.lock.release()

        self._threads.append(threading.Thread(target=stay, daemon=True))
        self._threads[-1].start()
        eventually(lambda: self.lock.waiting == waiting + 1)

    def served(self) -> list[str]:
        self.lock.release()
        for thread in self._threads:
            thread.join(timeout=60)
        assert self.lock.waiting == 0
        return self.order


def test_requests_come_before_chores_and_each_in_order_of_arrival() -> None:
    queue = Queue(FairLock())
    for name in ("chore 1", "request 1", "chore 2", "request 2"):
        queue.join(name, chore=name.startswith("chore"))
    assert queue.served() == ["request 1", "request 2", "chore 1", "chore 2"]


def test_no_stream_of_requests_keeps_a_chore_out() -> None:
    queue = Queue(FairLock())
    queue.join("chore", chore=True)
    for number in range(40):
        queue.join(f"request {number}", chore=False)
    order = queue.served()
    assert order.index("chore") == 16 and len(order) == 41


def test_the_lock_is_handed_to_who_waits_and_not_taken_by_who_comes() -> None:
    lock = FairLock()
    queue = Queue(lock)
    queue.join("first", chore=True)
    lock.release()
    lock.acquire()  # however fast: it has been handed over
    assert queue.order == ["first"]
    lock.release()


def test_work_in_steps_lets_requests_in_between(ledger: Ledger) -> None:
    came: list[int] = []

    def request() -> None:
        with ledger.locked():
            came.append(len(steps))

    steps: list[int] = []
    thread = threading.Thread(target=request, daemon=True)

    def work():
        for number in range(3):
            if number == 1:
                thread.start()
                eventually(lambda: ledger._lock.waiting == 1)
            steps.append(number)
            yield number

    assert list(ledger.in_steps(work())) == [0, 1, 2]
    thread.join(timeout=60)
    assert came == [2], "after the step during which it came, and before the next"
