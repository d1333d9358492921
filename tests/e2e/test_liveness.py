"""Whoever fits is bound within kube-scheduler's largest back-off and a little, whatever happened.

kube-scheduler asks about a refused pod again when something happens in the cluster; what happens in
the extender alone, or reaches it later than kube-scheduler, is no event. Left alone, such a pod
waits for kube-scheduler's flush after five minutes.
"""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import pytest

from testbed.controlplane.api import Api, ApiError, Json, eventually
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.objects import (
    DEVICES,
    MILLI,
    fraction_node,
    fraction_pod,
    gpu_node,
    gpu_pod,
    pod_group,
    priority_class,
)
from testbed.controlplane.system import System
from testbed.controlplane.validator import quantity
from testbed.controlplane.wire import Wire

pytestmark = pytest.mark.e2e

_BACKOFF_S = 10.0
_BESIDE_S = 5.0
_DEVICE = 1000
_GRADES = ("low", "mid", "high")


def _patience_s() -> float:
    """The bound, as many times as there is work for each processor."""
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    return (_BACKOFF_S + _BESIDE_S) * min(4.0, max(1.0, busy))


def _alive(pod: Json) -> bool:
    return pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")


def _milli(pod: Json) -> int:
    return int(quantity(pod["spec"]["containers"][0]["resources"]["requests"][MILLI]))


class Judge:
    """Says from the API alone who is pending although it fits, or could evict somebody."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def overdue(self) -> list[str]:
        pods = [pod for pod in self._api.objects("Pod") if _alive(pod)]
        on: dict[str, list[Json]] = defaultdict(list)
        for pod in pods:
            on[pod["spec"].get("nodeName") or ""].append(pod)
        nodes = [n for n in self._api.objects("Node") if not n["spec"].get("unschedulable")]
        return [
            f"{pod['metadata']['name']} on {node['metadata']['name']}"
            for pod in on[""]
            for node in nodes
            if self._has_a_place(pod, node, on[node["metadata"]["name"]])
        ]

    @staticmethod
    def _has_a_place(pod: Json, node: Json, there: list[Json]) -> bool:
        devices = int(quantity(node["status"]["allocatable"][MILLI])) // _DEVICE
        wanted, grade = _milli(pod), pod["spec"].get("priority", 0)
        if _fits(wanted, devices, there):
            return True
        # kube-scheduler evicts only where the node's sum is short.
        short = _DEVICE * devices - sum(map(_milli, there)) < wanted
        staying = [one for one in there if one["spec"].get("priority", 0) >= grade]
        return short and len(staying) < len(there) and _fits(wanted, devices, staying)


def _fits(wanted: int, devices: int, there: list[Json]) -> bool:
    used = [0] * devices
    for one in there:
        text = one["metadata"]["annotations"][DEVICES]
        for share in text.split(","):
            index, milli = share.split(":")[:2]
            used[int(index)] += int(milli)
    return any(each + wanted <= _DEVICE for each in used)


class Events:
    """One thing after the other that happens in a cluster; most of them give room to somebody."""

    def __init__(self, cluster: Cluster, wire: Wire, chance: random.Random) -> None:
        self._api, self._cluster, self._wire, self._chance = cluster.api, cluster, wire, chance
        self._made = 0
        self._nodes = 0
        self.told: list[str] = []

    def happens(self) -> None:
        choices = (
            self.pod, self.pod, self.pod, self.deletion, self.deletion, self.finish, self.node,
            self.cordon, self.passer_by, self.silence, self.flow, self.pause,
        )  # fmt: skip
        what = self._chance.choice(choices)
        self.told.append(what.__name__)
        what()

    def pod(self) -> None:
        chance = self._chance
        size, grade = chance.choice((300, 500, 800, 1000)), chance.choice(_GRADES)
        self._cluster.create([self._new(size, grade, chance.choice((0, 0, 60)))])

    def node(self) -> None:
        if self._nodes < 3:
            self._nodes += 1
            self._cluster.create([fraction_node(f"n{self._nodes}", 2)])

    def cordon(self) -> None:
        node = self._chance.choice(self._api.objects("Node"))
        change = None if node["spec"].get("unschedulable") else True
        name = node["metadata"]["name"]
        self._api.patch("Node", name, {"spec": {"unschedulable": change}})

    def deletion(self) -> None:
        """At once, or gracefully; then the pod ends with the round."""
        bound = self._bound()
        if bound:
            name = self._chance.choice(bound)["metadata"]["name"]
            if self._chance.random() < 0.5:
                self._api.delete("Pod", name, "default")
            else:
                self._api.request("DELETE", self._api.path("v1", "Pod", "default", name))

    def finish(self) -> None:
        bound = self._bound()
        if bound:
            name = self._chance.choice(bound)["metadata"]["name"]
            ended = {"status": {"phase": "Succeeded"}}
            try:
                self._api.patch("Pod", name, ended, "default", subresource="status")
            except ApiError as error:
                if error.status != 404:  # evicted in the meantime
                    raise

    def passer_by(self) -> None:
        """A pod that is deleted while it is being scheduled, and perhaps held."""
        made = self._new(1000, "low", 0)
        self._cluster.create([made])
        self._api.delete("Pod", made["metadata"]["name"], "default")

    def silence(self) -> None:
        """The extender hears of nothing for a while; kube-scheduler does."""
        self._wire.silence()

    def flow(self) -> None:
        self._wire.resume()

    def pause(self) -> None:
        time.sleep(self._chance.uniform(0.0, 1.5))

    def settle(self) -> None:
        """Whoever terminates has ended, and everything is heard of."""
        self._wire.resume()
        for pod in self._api.objects("Pod"):
            if pod["metadata"].get("deletionTimestamp"):
                self._api.delete("Pod", pod["metadata"]["name"], "default")

    def _new(self, size: int, grade: str, grace_s: int) -> Json:
        self._made += 1
        name = f"p{self._made}"
        return fraction_pod(name, size, priority_class=grade, grace_s=grace_s)

    def _bound(self) -> list[Json]:
        return [p for p in self._api.objects("Pod") if p["spec"].get("nodeName") and _alive(p)]


@pytest.fixture
def wired(cluster: Cluster, system: System) -> Iterator[Callable[[], Wire]]:
    """Starts the product with a wire between the extender and the API."""
    with system.wire() as wire:

        def start() -> Wire:
            cluster.create([priority_class(name, 10 * n) for n, name in enumerate(_GRADES)])
            system.add_extender(wire=wire)
            system.add_scheduler()
            return wire

        yield start


@pytest.mark.parametrize("seed", range(2))
def test_whoever_fits_is_bound_after_any_order_of_events(cluster, system, wired, seed):
    chance = random.Random(seed)
    cluster.create([fraction_node("n0", 2)])
    events = Events(cluster, wired(), chance)
    judge = Judge(cluster.api)
    for _ in range(3):
        for _ in range(chance.randint(5, 10)):
            events.happens()
        # Pods end for others to take their place meanwhile, and nobody is there to end them.
        overdue = judge.overdue()

        def nobody() -> bool:
            events.settle()
            overdue[:] = judge.overdue()  # noqa: B023 - called within this turn
            return not overdue  # noqa: B023

        try:
            eventually(nobody, "nobody is pending who fits", _patience_s(), every_s=0.3)
        except AssertionError as error:
            raise AssertionError(f"{error}: {overdue} after {events.told}") from None
    system.verify()


def test_several_pods_refused_by_a_late_watch_are_all_woken(cluster, system, wired):
    """Room for all of them comes at once; one wake-up a second would take too long."""
    cluster.create([gpu_node("n", 8)])
    wire = wired()
    cluster.create([gpu_pod("first", 8)])
    cluster.all_bound(1)
    cluster.create([gpu_pod(f"p{i}") for i in range(8)])
    assert set(cluster.settle()) == {"first"}
    _late(system, cluster, wire, lambda: cluster.api.delete("Pod", "first", "default"))
    assert set(cluster.all_bound(8, _patience_s())) == {f"p{i}" for i in range(8)}
    system.verify()


def test_a_node_that_the_extender_hears_of_late(cluster, system, wired):
    cluster.create([gpu_node("n", 1)])
    wire = wired()
    cluster.create([gpu_pod("first"), gpu_pod("second")])
    cluster.all_bound(1)
    cluster.settle()
    _late(system, cluster, wire, lambda: cluster.create([gpu_node("m", 1)]))
    assert set(cluster.all_bound(2, _patience_s())) == {"first", "second"}
    system.verify()


def test_a_gang_whose_room_the_extender_hears_of_late(cluster, system, wired):
    if not cluster.plane.gangs:
        pytest.skip("this Kubernetes has no native gangs")
    cluster.create([gpu_node("n", 2)])
    wire = wired()
    cluster.create([gpu_pod("first", 2)])
    cluster.all_bound(1)
    cluster.create([pod_group("g", 2), *(gpu_pod(f"m{i}", group="g") for i in range(2))])
    assert set(cluster.settle()) == {"first"}
    _late(system, cluster, wire, lambda: cluster.api.delete("Pod", "first", "default"))
    assert set(cluster.all_bound(2, _patience_s())) == {"m0", "m1"}
    system.verify()


def _late(system: System, cluster: Cluster, wire: Wire, happens: Callable[[], object]) -> None:
    """Something happens that the extender hears of only after kube-scheduler has asked in vain."""

    def asked() -> int:
        decisions = system.extender.get("/debug/decisions?limit=1000")["decisions"]
        return sum(decision["verb"] == "filter" for decision in decisions)

    before = asked()
    wire.silence()
    happens()
    waiting = len(cluster.pending())
    eventually(lambda: asked() >= before + waiting, "kube-scheduler asks about all that wait")
    wire.resume()
