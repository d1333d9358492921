"""The product and the real kube-scheduler agree about random clusters.

kube-scheduler decides everything but devices; these the validator's arithmetic decides here. Each
cluster is drawn by a seed, which is the test's name::

    SNUGFIT_SEEDS=1000:1300 pytest -m e2e tests/e2e/test_agreement.py
    SNUGFIT_SEEDS=1042 SNUGFIT_TOPICS=whole,taints pytest ...   # what a disagreement needs
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from scheduler.cli.ask.plan import command as plan_command
from scheduler.core.engine import Engine
from scheduler.files.load import load_dump
from scheduler.simulator.inflation import Experiment, run
from testbed.controlplane.api import Api, eventually
from testbed.controlplane.extender import Extender, live
from testbed.controlplane.objects import DEVICES, MEMORY, MILLI
from testbed.controlplane.plane import ControlPlane
from testbed.controlplane.scenes import DEVICE_KINDS, DEVICE_MEMORY, PRIORITIES, devices_for, draw
from testbed.controlplane.validator import judge, requests
from testbed.controlplane.verdicts import Verdicts, cleared
from tests.depth import DEEP, examples

pytestmark = pytest.mark.e2e

Json = dict[str, Any]


def _seeds() -> list[int]:
    stated = os.environ.get("SNUGFIT_SEEDS", "")
    if stated:
        first, _, end = stated.partition(":")
        return list(range(int(first), int(end or int(first) + 1)))
    start = random.SystemRandom().randrange(1 << 30) if DEEP else 0
    return list(range(start, start + examples(30, 300)))


_OF_NODES = (
    "groups", "odd memory", "taints", "cordons", "not ready", "few pods", "product labels",
    "zero requests", "inits", "counted", "selectors", "node affinity", "priorities", "owners",
)  # fmt: skip
_BETWEEN = ("pod affinity", "pod anti-affinity", "spread", "ports", "volumes")


def _topics(seed: int, heeded: tuple[str, ...]) -> tuple[str, ...]:
    """Some of them, so that a disagreement needs few."""
    stated = os.environ.get("SNUGFIT_TOPICS", "")
    if stated:
        return tuple(stated.split(","))
    rng = random.Random(f"topics of {seed}")
    kinds = rng.sample(tuple(DEVICE_KINDS), rng.randint(1, len(DEVICE_KINDS)))
    return (*kinds, *(topic for topic in heeded if rng.random() < 0.4))


class Stage:
    """One cluster after another on a control plane, and everybody who has a say about it."""

    def __init__(self, plane: ControlPlane, extender: Extender, verdicts: Verdicts) -> None:
        self.api: Api = plane.api
        self.home = plane.home
        self.extender, self.verdicts = extender, verdicts
        self.nodes: dict[str, Json] = {}
        self.running: list[Json] = []
        self.pending: list[Json] = []

    def set(self, seed: int, *heeded: str) -> None:
        """Make the cluster of this seed and these topics, and have the extender know it."""
        cleared(self.api)
        scene = draw(seed, _topics(seed, heeded))
        self.api.create_all(scene.others, 1)
        self.api.create_all(scene.nodes)
        self.api.create_all(scene.running)
        self.verdicts.waiting(scene.pending)
        self.nodes = {node["metadata"]["name"]: node for node in self.api.objects("Node")}
        pods = self.api.objects("Pod")
        self.running = [pod for pod in pods if pod["spec"].get("nodeName")]
        self.pending = [_free(pod) for pod in pods if not pod["spec"].get("nodeName")]
        eventually(self._known, "the extender knows the cluster")

    def _known(self) -> bool:
        state = self.extender.get("/debug/state")
        uids = {pod["uid"] for node in state["nodes"] for pod in node["pods"]}
        return {node["name"] for node in state["nodes"]} == set(self.nodes) and uids == {
            pod["metadata"]["uid"] for pod in self.running
        }

    def dump(self) -> str:
        """The cluster in a file, as ``kubectl get`` writes it."""
        kinds = (
            ("Node", "v1"), ("PersistentVolume", "v1"), ("PersistentVolumeClaim", "v1"),
            ("Namespace", "v1"), ("PriorityClass", "scheduling.k8s.io/v1"),
        )  # fmt: skip
        items = [
            one | {"kind": kind, "apiVersion": version}
            for kind, version in kinds
            for one in self.api.objects(kind, version=version)
        ]
        pods = [one | {"kind": "Pod", "apiVersion": "v1"} for one in (*self.running, *self.pending)]
        path = self.home / "dump.json"
        path.write_text(json.dumps({"kind": "List", "apiVersion": "v1", "items": items + pods}))
        return str(path)

    def has_devices(self, pod: Json, node: str) -> bool:
        """Whether the devices that the pod asks for are there; counts are kube-scheduler's."""
        here = [one for one in self.running if one["spec"]["nodeName"] == node]
        return devices_for(self.nodes[node], here, requests(pod)) is not None

    def differences(self, verb: str, asked: Mapping[str, frozenset[str]]) -> list[str]:
        """Where a verb does not say what is so, for each pod that waits.

        Parameters
        ----------
        asked
            Nodes that kube-scheduler lets a pod in, by the name of the pod. The webhook is asked
            about these, as kube-scheduler does; a dry run about all nodes.
        """
        found = []
        for pod in self.pending:
            name = pod["metadata"]["name"]
            free = frozenset(node for node in asked[name] if self.has_devices(pod, node))
            nodes = frozenset(self.nodes) if verb == "/filter-dryrun" else asked[name]
            answer = self.ask(verb, pod, nodes) if nodes else {}
            found += [f"{verb} {name}: {one['rule']}" for one in answer.get("NotConsidered", ())]
            for where, why in _said(answer).items():
                if (where in free) == bool(why):
                    asks = pod["spec"]["containers"][0]["resources"]["requests"]
                    found.append(f"{verb} {name} {asks} on {where}: {why or 'fits'}")
        return found

    def ask(self, verb: str, pod: Json, names: frozenset[str]) -> Json:
        """What a verb says of a pod and these nodes."""
        question = {"Pod": pod, "Nodes": None, "NodeNames": sorted(names)}
        answer: Json = self.extender.post(verb, question)
        return answer

    def carry_out(self, places: list[tuple[str, str, str]]) -> list[str]:
        """Have kube-scheduler place pods one by one, each on its node; what it refuses."""
        refused = []
        for name, node, devices in places:
            why = self.verdicts.takes(name, node, {DEVICES: devices} if devices else {})
            if why:
                refused.append(f"{name} on {node}: {why}")
        return refused

    def fouls(self) -> list[str]:
        """Devices that are promised twice, says the validator; not what was overfull before."""
        before = set(map(str, judge(self.nodes.values(), self.running)))
        after = judge(self.api.objects("Node"), self.api.objects("Pod"))
        return [str(one) for one in after if str(one) not in before and one.rule != "affinity"]


def _said(answer: Json) -> dict[str, str]:
    """Nodes of an answer, with the reason where the pod is not let in."""
    refused = (answer.get(key) or {} for key in ("FailedNodes", "FailedAndUnresolvableNodes"))
    return dict.fromkeys(answer.get("NodeNames") or (), "") | {
        name: why for some in refused for name, why in some.items()
    }


def _free(pod: Json) -> Json:
    """As its owner has created it: what holds it back is the harness's."""
    spec = {key: value for key, value in pod["spec"].items() if key != "schedulingGates"}
    return pod | {"spec": spec, "status": {"phase": "Pending"}}


@pytest.fixture(scope="module")
def stage(plane: ControlPlane) -> Iterator[Stage]:
    config = plane.home / "agreement.yaml"
    config.write_text(yaml.safe_dump({"reservation_ttl_s": 0, "planner": False}), encoding="utf-8")
    user = plane.kubeconfig(plane.tokens["admin"], "agreement")
    extender = live(plane, user, "--config", str(config), name="extender-agreement")
    plane.api.create_all(PRIORITIES)
    with Verdicts(plane) as verdicts:
        extender.start()
        yield Stage(plane, extender, verdicts)
        plane.forget(extender)
        cleared(plane.api)
        plane.wipe()


@pytest.mark.parametrize("seed", _seeds())
def test_who_may_go_where(stage: Stage, seed: int) -> None:
    """Live and in a dry run, for each pod by itself."""
    stage.set(seed, *_OF_NODES)
    in_tree = stage.verdicts.lets_in(stage.pending)
    found = [*stage.differences("/filter", in_tree), *stage.differences("/filter-dryrun", in_tree)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("seed", _seeds())
def test_who_may_join_whom(stage: Stage, seed: int) -> None:
    """In a dry run, with rules between pods, ports and volumes, which kube-scheduler decides."""
    stage.set(seed, *_OF_NODES, *_BETWEEN)
    in_tree = stage.verdicts.lets_in(stage.pending)
    found: list[str] = []

    def agrees() -> bool:  # claims and volumes are told of by watches of their own
        found[:] = stage.differences("/filter-dryrun", in_tree)
        return not found

    try:
        eventually(agrees, "dry runs agree with kube-scheduler", patience_s=10)
    except AssertionError:
        pytest.fail("\n".join(found))


def _planned(stage: Stage) -> list[tuple[str, str, str]]:
    done = CliRunner().invoke(
        plan_command,
        [stage.dump(), "--budget", "1s", "--json"],
        catch_exceptions=False,
    )
    made = json.loads(done.stdout)
    for move in made["moves"]:
        stage.api.delete("Pod", move["name"], move["namespace"])
    moved = {move["name"]: move["to"] for move in made["moves"] if move["to"]}
    stage.verdicts.waiting(pod for pod in stage.running if pod["metadata"]["name"] in moved)
    asked = {pod["metadata"]["name"]: requests(pod) for pod in (*stage.running, *stage.pending)}
    return [
        (place["name"], place["node"], _shares(asked[place["name"]], place["devices"]))
        for place in made["placements"]
    ]


def _simulated(stage: Stage) -> list[tuple[str, str, str]]:
    places: dict[str, tuple[str, str, str]] = {}
    workload = load_dump(Path(stage.dump())).workload
    names = {pod["metadata"]["name"]: requests(pod) for pod in stage.pending}

    def watch(_: int, __: float, engine: Engine) -> None:
        for placed in engine.state.placements.values():
            name = placed.pod.name
            if name in names and name not in places:
                devices = [share.index for share in placed.devices]
                places[name] = name, placed.node, _shares(names[name], devices)

    run(workload, Experiment("best-fit", 0, "as-listed", 0.0, workload.digest()), observe=watch)
    return list(places.values())


def _shares(wanted: Json, devices: list[int]) -> str:
    """A record of devices in thousandths; nothing for others."""
    milli = int(wanted.get(MILLI, 0))
    memory = int(wanted.get(MEMORY, 0)) or milli * DEVICE_MEMORY // 1000
    if milli >= 1000:
        return ",".join(f"{index}:1000:{DEVICE_MEMORY}:0" for index in devices)
    return f"{devices[0]}:{milli}:{memory}:0" if milli else ""


@pytest.mark.parametrize("seed", _seeds())
def test_what_is_promised_is_accepted(stage: Stage, seed: int) -> None:
    """By a plan where the seed is even, by a simulation where it is odd."""
    stage.set(seed, *_OF_NODES, *_BETWEEN)
    made = (_planned, _simulated)[seed % 2](stage)
    refused = stage.carry_out(made)
    assert not refused, "\n".join(refused)
    fouls = stage.fouls()
    assert not fouls, "\n".join(fouls)
