"""A tenant that writes what it likes beside honest ones, on the real server.

Whatever the tenant does, no device is given twice and no node over-committed, as a validator finds
from requests and from the Bindings that were posted; whoever is honest and fits beyond doubt is
served; the server stays in step with the API, and does not grow.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from testbed import hostile
from testbed.fake_api import eventually, serving
from testbed.hostile import GUARDED, MEMORY, MILLI, TENANT, WHOLE
from testbed.hostile_cluster import HostileCluster, Pod
from testbed.live import LiveServer
from tests.depth import examples

pytestmark = pytest.mark.server

_DEVICES = {"whole-0": 2, "part-0": 3, "both-0": 2, "both-1": 3}
_MOST_ALIVE = 14
_MOST_MIB = 200  # above what it had at the start

_seeds = st.integers(0, 2**32 - 1)
_HONEST = (
    {MILLI: "300"}, {MILLI: "600"}, {MILLI: "900"}, {MILLI: "1000"}, {MILLI: "2000"},
    {WHOLE: "1"}, {WHOLE: "2"}, {MEMORY: "20000"}, {MEMORY: "30000"}, {},
)  # fmt: skip


class Tenants(RuleBasedStateMachine):
    """Any order of what the tenant, the honest and the cluster do."""

    cluster: HostileCluster
    guarded: bool
    restarts_left = 0

    def __init__(self) -> None:
        super().__init__()
        self.cluster.clear()
        self.pods = self.cluster.validator.pods
        self.numbers = 0

    # -- the tenant --------------------------------------------------------------------------

    @rule(seed=_seeds, count=st.integers(1, 3))
    def tenant_creates(self, seed: int, count: int) -> None:
        chance = random.Random(seed)
        for _ in range(count):
            self._tenant_creates(chance, chance.random() < 0.3, chance.random() < 0.4)

    def _tenant_creates(self, chance: random.Random, namesake: bool, past_schedulers: bool) -> None:
        mine = self._mine()
        if len(mine) >= _MOST_ALIVE:
            return
        if namesake and mine:
            name = chance.choice(mine)
            self.cluster.delete(name)
        else:
            self.numbers += 1
            name = f"evil-{self.numbers}"
        node = chance.choice(list(_DEVICES)) if past_schedulers else ""
        pod = self.cluster.create(
            name,
            TENANT,
            hostile.some_requests(chance),
            node=node,
            annotations=hostile.some_annotations(chance) if chance.random() < 0.5 else {},
            labels=hostile.some_labels(chance) if chance.random() < 0.4 else {},
        )
        if not node and chance.random() < 0.8:
            self._cycle(pod)

    @rule(seed=_seeds)
    def tenant_patches(self, seed: int) -> None:
        chance = random.Random(seed)
        for name in chance.sample(self._mine(), min(2, len(self._mine()))):
            written = hostile.some_annotations(chance)
            if self.guarded:  # the API server refuses such a patch
                written = {k: v for k, v in written.items() if k not in GUARDED}
            self.cluster.change(name, annotations=written)
            if chance.random() < 0.3:
                self.cluster.change(name, labels=hostile.some_labels(chance))
            if chance.random() < 0.2:
                self.cluster.strip(name, GUARDED if self.guarded else ())

    @rule(seed=_seeds, past_schedulers=st.booleans(), then=st.sampled_from(_HONEST))
    def tenant_understates(self, seed: int, past_schedulers: bool, then: dict[str, str]) -> None:
        """An ordinary pod whose record is smaller than its request, elsewhere, or none."""
        chance = random.Random(seed)
        self.numbers += 1
        asks = chance.choice(({MILLI: "900"}, {MILLI: "2000"}, {WHOLE: "1"}, {MEMORY: "30000"}))
        record = {"snugfit.io/devices": hostile.other_record(chance, int(asks.get(MILLI, "0")))}
        node = chance.choice(list(_DEVICES)) if past_schedulers else ""
        pod = self.cluster.create(
            f"evil-{self.numbers}",
            TENANT,
            asks,
            node=node,
            annotations=record if chance.random() < 0.5 else {},
        )
        self._cycle(pod)
        if pod.name in self.pods and not self.guarded:
            self.cluster.change(pod.name, annotations=record)
        self._honest_comes(then)

    @rule(seed=_seeds)
    def tenant_writes_a_status(self, seed: int) -> None:
        chance = random.Random(seed)
        if self._mine():
            self.cluster.change(chance.choice(self._mine()), status=hostile.some_status(chance))

    @rule(seed=_seeds)
    def tenant_ends(self, seed: int) -> None:
        chance = random.Random(seed)
        if self._mine():
            name = chance.choice(self._mine())
            how = chance.choice(("delete", "terminate", "Succeeded", "Failed"))
            if how == "delete":
                self.cluster.delete(name)
            elif how == "terminate":
                self.cluster.terminate(name)
            elif self.pods[name].node:
                self.cluster.finish(name, how)

    @rule(seed=_seeds)
    def tenant_tries_again(self, seed: int) -> None:
        waiting = [name for name in self._mine() if not self.pods[name].node]
        if waiting:
            self._cycle(self.pods[random.Random(seed).choice(waiting)])

    # -- the others --------------------------------------------------------------------------

    @rule(several=st.lists(st.sampled_from(_HONEST), min_size=1, max_size=4))
    def honest_come(self, several: list[dict[str, str]]) -> None:
        for asks in several:
            self._honest_comes(asks)

    def _honest_comes(self, asks: dict[str, str]) -> None:
        self.numbers += 1
        pod = self.cluster.create(f"honest-{self.numbers}", "honest", asks)
        if not self.cluster.validator.has_room_beyond_doubt(pod):
            self._cycle(pod)
            if not pod.node:
                self.cluster.delete(pod.name)
            return

        def served() -> bool:
            self._cycle(pod)
            return bool(pod.node)

        # What the tenant's pods may keep without being bound runs out by itself.
        try:
            eventually(served)
        except AssertionError:
            there = {node: self.cluster.validator.on(node) for node in _DEVICES}
            raise AssertionError(f"{pod} was never served beside {there}") from None

    @rule(seed=_seeds)
    def honest_goes(self, seed: int) -> None:
        theirs = [name for name, pod in self.pods.items() if pod.honest]
        if theirs:
            self.cluster.delete(random.Random(seed).choice(theirs))

    @precondition(lambda self: self.guarded)
    @rule(kill=st.booleans())
    def restart(self, kill: bool) -> None:
        if self.restarts_left:  # a start takes a second
            type(self).restarts_left -= 1
            self.cluster.server.stop(kill=kill)
            self.cluster.server.start()

    @rule(how=st.sampled_from(("orderly", "broken", "mid line", "expired")))
    def watches_end(self, how: str) -> None:
        if how == "expired":
            self.cluster.api.compact()
        self.cluster.api.cut("broken" if how == "expired" else how)

    # -- what holds --------------------------------------------------------------------------

    @invariant()
    def in_step(self) -> None:
        self.cluster.settle()
        detail = self.cluster.server.get("/readyz")
        assert detail["drift"] == 0, detail
        for node, said in self.cluster.state().items():
            assert all(0 <= device["free_milli"] <= 1000 for device in said["devices"]), said
            known = {pod["uid"] for pod in said["pods"] if not pod["reserved"]}
            if node in _DEVICES:
                real = {pod.uid for pod in self.cluster.validator.on(node)}
                assert known >= real, f"{node}: {real - known} are not charged"

    def teardown(self) -> None:
        self.cluster.clear()
        eventually(self._empty)
        assert self.cluster.server.get("/debug/state")["recount_differences"] == []
        grown = self.cluster.server.memory_mib() - self.memory_before
        assert grown < _MOST_MIB, f"the server has grown by {grown:.0f} MiB"
        assert "Traceback" not in self.cluster.server.text(), self.cluster.server.text()[-5000:]

    memory_before = 0.0

    def _empty(self) -> bool:
        self.cluster.settle()
        state = self.cluster.state()
        return all(not state[node]["pods"] for node in _DEVICES)

    def _mine(self) -> list[str]:
        return sorted(name for name, pod in self.pods.items() if not pod.honest)

    def _cycle(self, pod: Pod) -> None:
        wrong = self.cluster.schedule(pod)
        assert wrong == [], "\n".join(wrong)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[HostileCluster]:
    with serving() as api:
        server = LiveServer(
            api,
            tmp_path,
            policy="fgd",
            reservation_ttl_s=0.5,
            gang_ttl_s=1,
            recount_s=1,
            requeue_after_s=1,
            relearn_every=50,
        )
        try:
            yield HostileCluster(api, server, _DEVICES)
        finally:
            server.stop()


def test_a_binding_that_the_api_applies_late_is_a_binding(served: HostileCluster) -> None:
    """The bind has been given up by then: its end is not known, and asking again says "already"."""
    applies, api = threading.Event(), served.api

    def late(_handler: object) -> bool:
        applies.wait(60)
        return False

    api.script.append(("POST", "/binding", late))
    pod = served.create("p", "honest", {MILLI: "500"})
    assert served.schedule(pod) == [] and not pod.node
    applies.set()
    eventually(lambda: api.bindings)
    assert served.schedule(pod) == [] and pod.node and pod.devices
    assert len(api.bindings) == 1


@pytest.mark.hypothesis
@pytest.mark.parametrize("guarded", [False, True], ids=["policy absent", "policy enforced"])
def test_whatever_a_tenant_writes_nothing_is_given_twice(
    served: HostileCluster, guarded: bool
) -> None:
    """With the policy in force nobody but Snugfit changes records, and the process may restart."""
    machine = type(
        "Machine",
        (Tenants,),
        {
            "cluster": served,
            "guarded": guarded,
            "restarts_left": examples(1, 20),
            "memory_before": served.server.memory_mib(),
        },
    )
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples(8, 20),
            stateful_step_count=examples(30, 50),
            deadline=None,
            phases=(Phase.explicit, Phase.generate),  # each step is HTTP: no time to shrink
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
