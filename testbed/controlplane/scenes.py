"""Random clusters and pods with everything that kube-scheduler may be asked to heed.

A scene is drawn by a seed, from a set of *topics*: each is one kind of thing that a node may have
or a pod may ask for, so that a disagreement can be narrowed down to the topics that it needs.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from testbed.controlplane.objects import (
    DEVICES,
    GPU,
    MEMORY,
    MILLI,
    PRODUCT,
    REPLICAS,
    SHARED,
    node,
    pod,
    priority_class,
)
from testbed.controlplane.validator import quantity, requests

Json = dict[str, Any]

WIDGET = "example.com/widget"
HUGE = "hugepages-2Mi"
SCRATCH = "ephemeral-storage"
DEVICE_MEMORY = 40_960
_HOST, _ZONE, _POOL, _RANK = "kubernetes.io/hostname", "topology.kubernetes.io/zone", "pool", "rank"
_GIB = 1 << 30
PRIORITIES = [priority_class(f"p{value}", value) for value in (1, 1000)]
"""Of all scenes."""


@dataclass
class Scene:
    """A cluster as it is found, and who waits.

    Parameters
    ----------
    nodes, running, pending
        Objects to be created; those that run have a node from the start.
    others
        Whatever else these refer to; to be created before them.
    """

    nodes: list[Json] = field(default_factory=list)
    running: list[Json] = field(default_factory=list)
    pending: list[Json] = field(default_factory=list)
    others: list[Json] = field(default_factory=list)


Topic = Callable[[random.Random, Json, Scene], None]


def draw(seed: int, topics: tuple[str, ...], *, nodes: int = 7, pods: int = 18) -> Scene:
    """A scene; the same for the same arguments.

    Parameters
    ----------
    topics
        Names of :data:`OF_NODES` and :data:`OF_PODS`.
    nodes, pods
        At most so many nodes, and pods that wait.
    """
    rng = random.Random(seed)
    scene = Scene()
    for number in range(rng.randint(3, nodes)):
        scene.nodes.append(_node(rng, f"n{number}", scene, topics))
    for number in range(rng.randint(0, 2 * len(scene.nodes))):
        _run(rng, _pod(rng, f"r{number}", scene, topics), scene)
    for number in range(rng.randint(4, pods)):
        scene.pending.append(_pod(rng, f"w{number}", scene, topics))
    return scene


def _node(rng: random.Random, name: str, scene: Scene, topics: tuple[str, ...]) -> Json:
    made = node(
        name,
        cpu=rng.choice((3, 8, 16)),
        memory_gib=rng.choice((8, 16, 64)),
        pods=rng.choice((4, 8, 110)),
        labels={
            _ZONE: rng.choice("ab"), _POOL: rng.choice(("x", "y")), _RANK: str(rng.randint(0, 9))
        },
    )  # fmt: skip
    made["spec"] = {}
    _devices(rng, made, topics)
    for topic, change in OF_NODES.items():
        if topic in topics:
            change(rng, made, scene)
    return made


def _pod(rng: random.Random, name: str, scene: Scene, topics: tuple[str, ...]) -> Json:
    made = pod(
        name,
        _requested_devices(rng, topics),
        cpu_milli=rng.choice((100, 500, 1000, 2500)),
        memory_mib=rng.choice((64, 1024, 3000)),
        labels={"app": rng.choice("abc"), "tier": rng.choice(("front", "back"))},
    )
    asked = [change for topic, change in OF_PODS.items() if topic in topics]
    for change in asked:  # of many rules together none would be left to go anywhere
        if rng.random() < min(0.3, 1.2 / len(asked)):
            change(rng, made, scene)
    return made


def _run(rng: random.Random, made: Json, scene: Scene) -> None:
    """Let a pod run, mostly where there is room for it, as a static pod may run anywhere."""
    there = list(scene.nodes)
    rng.shuffle(there)
    for one in there:
        shares = has_room(one, scene.running, made)
        if shares is not None:
            made["spec"]["nodeName"] = one["metadata"]["name"]
            if shares:
                made["metadata"]["annotations"][DEVICES] = shares
            scene.running.append(made)
            return


# -- devices -----------------------------------------------------------------------------------


def _devices(rng: random.Random, made: Json, topics: tuple[str, ...]) -> None:
    """Device groups of a node; ``groups`` lets it have several."""
    kinds = [name for name in DEVICE_KINDS if name in topics]
    several = 2 if "groups" in topics and rng.random() < 0.3 else 1
    chosen = rng.sample(kinds, min(len(kinds), several))
    if len(chosen) > 1 and "fractions" in chosen:  # whose indices would depend on the others
        chosen.remove("fractions")
    for kind in chosen:
        if rng.random() < 0.85:
            DEVICE_KINDS[kind](rng, made)
            made["metadata"]["labels"] |= {
                PRODUCT: made["metadata"]["labels"].get(PRODUCT, "NVIDIA-A100-SXM4-40GB"),
                "nvidia.com/gpu.memory": str(DEVICE_MEMORY),
            }


def _advertise(made: Json, **counts: int) -> None:
    for name, count in counts.items():
        for room in ("capacity", "allocatable"):
            made["status"][room] = made["status"][room] | {name: str(count)}


def _whole(rng: random.Random, made: Json) -> None:
    _advertise(made, **{GPU: rng.choice((1, 2, 4, 8))})


def _fractions(rng: random.Random, made: Json) -> None:
    count = rng.choice((1, 2, 4))
    _advertise(made, **{MILLI: 1000 * count, MEMORY: DEVICE_MEMORY * count})


def _mig(rng: random.Random, made: Json) -> None:
    _advertise(made, **{f"nvidia.com/mig-{p}": c * rng.choice((1, 2)) for p, c in _PROFILES})


def _shared(rng: random.Random, made: Json) -> None:
    replicas = rng.choice((2, 4))
    made["metadata"]["labels"] |= {
        REPLICAS: str(replicas), PRODUCT: "NVIDIA-A100-SXM4-40GB-SHARED"
    }  # fmt: skip
    _advertise(made, **{SHARED: rng.choice((1, 2)) * replicas})


_PROFILES = (("1g.5gb", 3), ("2g.10gb", 2))
DEVICE_KINDS: dict[str, Callable[[random.Random, Json], None]] = {
    "whole": _whole,
    "fractions": _fractions,
    "mig": _mig,
    "shared": _shared,
}


def _requested_devices(rng: random.Random, topics: tuple[str, ...]) -> dict[str, int]:
    kinds = [name for name in DEVICE_KINDS if name in topics]
    if not kinds or rng.random() < 0.15:
        return {}
    match rng.choice(kinds):
        case "whole":
            return {GPU: rng.choice((1, 1, 2, 4))}
        case "mig":
            return {f"nvidia.com/mig-{rng.choice(_PROFILES)[0]}": rng.choice((1, 1, 2))}
        case "shared":
            return {SHARED: rng.choice((1, 2))}
        case _:
            milli = rng.choice((200, 500, 700, 1000, 2000))
            if milli < 1000 and rng.random() < 0.5:
                return {MILLI: milli, MEMORY: rng.choice((5_000, 20_000, 30_000))}
            return {MILLI: milli}


def has_room(one: Json, pods: list[Json], asking: Json) -> str | None:
    """Devices that the pod could have there, as they are recorded; None without room for it.

    Everything else that is counted is looked at as well.
    """
    here = [p for p in pods if p["spec"].get("nodeName") == one["metadata"]["name"]]
    room: dict[str, Fraction] = defaultdict(Fraction)
    for name, amount in one["status"]["allocatable"].items():
        room[name] = quantity(amount)
    wanted = requests(asking)
    for other in here:
        for name, amount in requests(other).items():
            room[name] -= amount
    if room["pods"] - len(here) < 1:
        return None
    if any(room[name] < amount for name, amount in wanted.items() if amount):
        return None
    return devices_for(one, here, wanted)


def devices_for(one: Json, here: list[Json], wanted: dict[str, Fraction]) -> str | None:
    """Devices for so many thousandths and so much memory; empty if none are asked for.

    Memory that is not asked for goes with the thousandths.

    Parameters
    ----------
    here
        Pods on the node, with what is recorded of their devices.
    """
    milli, memory = int(wanted.get(MILLI, 0)), int(wanted.get(MEMORY, 0))
    if not milli and not memory:
        return ""
    count = int(quantity(one["status"]["allocatable"].get(MILLI, "0"))) // 1000
    free = {index: [1000, DEVICE_MEMORY] for index in range(count)}
    for other in here:
        for entry in filter(
            None, other["metadata"].get("annotations", {}).get(DEVICES, "").split(",")
        ):
            index, used_milli, used_memory, _ = map(int, entry.split(":"))
            free[index][0] -= used_milli
            free[index][1] -= used_memory
    memory = memory or milli * DEVICE_MEMORY // 1000
    if milli >= 1000:
        whole = [i for i, left in free.items() if left == [1000, DEVICE_MEMORY]]
        chosen = whole[: milli // 1000]
        shares = [f"{i}:1000:{DEVICE_MEMORY}:0" for i in chosen]
        return ",".join(shares) if len(chosen) == milli // 1000 else None
    fits = [i for i, (m, k) in free.items() if m >= milli and k >= memory]
    return f"{fits[0]}:{milli}:{memory}:0" if fits else None


# -- what nodes have ---------------------------------------------------------------------------


def _odd_memory(rng: random.Random, made: Json, _: Scene) -> None:
    odd = rng.choice(("16315832Ki", "8589934591", "3999999999", "4G", "15.5Gi"))
    for room in ("capacity", "allocatable"):
        made["status"][room] = made["status"][room] | {"memory": odd}


def _taints(rng: random.Random, made: Json, _: Scene) -> None:
    if rng.random() < 0.4:
        made["spec"]["taints"] = rng.sample(
            [
                {"key": "dedicated", "value": "x", "effect": "NoSchedule"},
                {"key": "dedicated", "value": "y", "effect": "NoExecute"},
                {"key": GPU, "value": "present", "effect": "NoSchedule"},
                {"key": "level", "value": "7", "effect": "NoSchedule"},
                {"key": "soft", "effect": "PreferNoSchedule"},
            ],
            rng.choice((1, 1, 2)),
        )


def _cordon(rng: random.Random, made: Json, _: Scene) -> None:
    if rng.random() < 0.2:
        made["spec"]["unschedulable"] = True


def _not_ready(rng: random.Random, made: Json, _: Scene) -> None:
    """A condition that no controller has made a taint of: kube-scheduler does not look at it."""
    if rng.random() < 0.2:
        made["status"]["conditions"] = [
            {"type": "Ready", "status": rng.choice(("False", "Unknown")), "reason": "Kubelet"}
        ]


def _counted(rng: random.Random, made: Json, _: Scene) -> None:
    if rng.random() < 0.6:
        _advertise(made, **{WIDGET: rng.randint(1, 4)})
    if rng.random() < 0.5:
        _advertise(made, **{HUGE: rng.choice((64, 128)) << 20})
    _advertise(made, **{SCRATCH: rng.choice((10, 50)) * _GIB})


def _few_pods(rng: random.Random, made: Json, _: Scene) -> None:
    for room in ("capacity", "allocatable"):
        made["status"][room] = made["status"][room] | {"pods": str(rng.choice((0, 1, 2, 4)))}


def _label_spelling(rng: random.Random, made: Json, _: Scene) -> None:
    """Products by several labels, of which each is what it is."""
    made["metadata"]["labels"] |= {
        "cloud.google.com/gke-accelerator": "nvidia-tesla-a100",
        PRODUCT: rng.choice(("NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-SXM4-40GB-SHARED", "A100")),
    }


OF_NODES: dict[str, Topic] = {
    "odd memory": _odd_memory,
    "taints": _taints,
    "cordons": _cordon,
    "not ready": _not_ready,
    "counted": _counted,
    "few pods": _few_pods,
    "product labels": _label_spelling,
}


# -- what pods ask for -------------------------------------------------------------------------


def _resources(made: Json) -> Json:
    stated: Json = made["spec"]["containers"][0]["resources"]
    return stated


def _ask(made: Json, name: str, amount: int) -> None:
    for kind in _resources(made).values():
        kind[name] = str(amount)


def _requests_counted(rng: random.Random, made: Json, _: Scene) -> None:
    name = rng.choice((WIDGET, HUGE, SCRATCH))
    if name == HUGE:
        _ask(made, "cpu", 1)  # the API server wants them to ask for one of the two
    _ask(made, name, {WIDGET: rng.randint(1, 2), HUGE: 32 << 20, SCRATCH: 9 * _GIB}[name])


def _requests_odd_memory(rng: random.Random, made: Json, _: Scene) -> None:
    _ask(made, "memory", rng.choice((1, 999_999_999, 2_147_483_647, 1_333_333_333)))


def _requests_nothing_else(_rng: random.Random, made: Json, _: Scene) -> None:
    """Neither cpu nor memory."""
    stated = _resources(made)
    for kind in stated.values():
        if not any(name.startswith("hugepages-") for name in kind):
            kind.pop("cpu", None)
            kind.pop("memory", None)


def _inits(rng: random.Random, made: Json, _: Scene) -> None:
    first = {
        "name": "first", "image": "pause:3.10",
        "resources": {"requests": {"cpu": rng.choice(("1", "3")), "memory": "2Gi"}},
    }  # fmt: skip
    if rng.random() < 0.5:
        first["restartPolicy"] = "Always"
    made["spec"]["initContainers"] = [first]


def _tolerations(rng: random.Random, made: Json, _: Scene) -> None:
    made["spec"]["tolerations"] = rng.sample(
        [
            {"operator": "Exists"},
            {"key": "dedicated", "operator": "Exists"},
            {"key": "dedicated", "value": "x", "effect": "NoSchedule"},
            {"key": "dedicated", "operator": "Equal", "value": "y", "effect": "NoExecute"},
            {"key": GPU, "operator": "Exists", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/unschedulable", "operator": "Exists"},
        ],
        rng.choice((1, 2)),
    )


def _selector(rng: random.Random, made: Json, _: Scene) -> None:
    made["spec"]["nodeSelector"] = dict(
        rng.sample([(_ZONE, rng.choice("ab")), (_POOL, rng.choice(("x", "z")))], 1)
    )


def _node_affinity(rng: random.Random, made: Json, scene: Scene) -> None:
    rules = [
        {"key": _ZONE, "operator": "In", "values": ["a"]},
        {"key": _ZONE, "operator": "NotIn", "values": ["a"]},
        {"key": _POOL, "operator": "Exists"},
        {"key": "missing", "operator": "DoesNotExist"},
        {"key": "missing", "operator": "NotIn", "values": ["a"]},
        {"key": _RANK, "operator": "Gt", "values": ["4"]},
        {"key": _RANK, "operator": "Lt", "values": ["5"]},
        {"key": PRODUCT, "operator": "In", "values": ["NVIDIA-A100-SXM4-40GB"]},
    ]
    names = [one["metadata"]["name"] for one in scene.nodes]
    terms: list[Json] = [
        {"matchExpressions": rng.sample(rules, rng.choice((1, 2)))}
        for _ in range(rng.choice((1, 2)))
    ]
    if rng.random() < 0.2:
        operator = rng.choice(("In", "NotIn"))
        field_rule = {"key": "metadata.name", "operator": operator, "values": [rng.choice(names)]}
        terms[0]["matchFields"] = [field_rule]
    _affinity(made)["nodeAffinity"] = {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}
    }


def _affinity(made: Json) -> Json:
    stated: Json = made["spec"].setdefault("affinity", {})
    return stated


def _pod_term(rng: random.Random) -> Json:
    term: Json = {
        "labelSelector": rng.choice((
            {"matchLabels": {"app": rng.choice("abc")}},
            {"matchExpressions": [{"key": "tier", "operator": "In", "values": ["front"]}]},
            {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a"]}]},
        )),
        "topologyKey": rng.choice((_HOST, _ZONE)),
    }  # fmt: skip
    if rng.random() < 0.2:
        term["namespaceSelector"] = {}
    if rng.random() < 0.2 and "tier" not in str(term["labelSelector"]):
        term["matchLabelKeys"] = ["tier"]
    return term


def _pod_affinity(rng: random.Random, made: Json, _: Scene) -> None:
    _affinity(made)["podAffinity"] = {
        "requiredDuringSchedulingIgnoredDuringExecution": [_pod_term(rng)]
    }


def _pod_anti_affinity(rng: random.Random, made: Json, _: Scene) -> None:
    _affinity(made)["podAntiAffinity"] = {
        "requiredDuringSchedulingIgnoredDuringExecution": [_pod_term(rng)]
    }


def _spread(rng: random.Random, made: Json, _: Scene) -> None:
    rule: Json = {
        "maxSkew": rng.choice((1, 1, 2)),
        "topologyKey": rng.choice((_HOST, _ZONE)),
        "whenUnsatisfiable": rng.choice(("DoNotSchedule", "DoNotSchedule", "ScheduleAnyway")),
        "labelSelector": {"matchLabels": {"app": made["metadata"]["labels"]["app"]}},
    }
    if rule["whenUnsatisfiable"] == "DoNotSchedule" and rng.random() < 0.2:
        rule["minDomains"] = rng.choice((2, 3))
    if rng.random() < 0.2:
        rule["nodeAffinityPolicy"] = "Ignore"
    if rng.random() < 0.2:
        rule["nodeTaintsPolicy"] = "Honor"
    if rng.random() < 0.2:
        rule["matchLabelKeys"] = ["tier"]
    made["spec"]["topologySpreadConstraints"] = [rule]


def _ports(rng: random.Random, made: Json, _: Scene) -> None:
    port: Json = {"containerPort": 80, "hostPort": rng.choice((8080, 9090))}
    if rng.random() < 0.3:
        port["hostIP"] = rng.choice(("127.0.0.1", "10.0.0.1", "0.0.0.0"))  # noqa: S104 - written in a pod
    if rng.random() < 0.3:
        port["protocol"] = "UDP"
    made["spec"]["containers"][0]["ports"] = [port]


def _volumes(rng: random.Random, made: Json, scene: Scene) -> None:
    """A claim of its own: bound to a volume of a place, missing, or for one pod only."""
    name = f"v-{made['metadata']['name']}"
    made["spec"]["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": name}}]
    if rng.random() < 0.15:
        return
    key, values = rng.choice((
        (_ZONE, "ab"), (_HOST, [one["metadata"]["name"] for one in scene.nodes])
    ))  # fmt: skip
    modes = [rng.choice(("ReadWriteOnce", "ReadWriteOncePod"))]
    rule = {"key": key, "operator": "In", "values": [rng.choice(values)]}
    scene.others += [
        {
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": modes, "storageClassName": "",
                "hostPath": {"path": "/data"},
                "claimRef": {"kind": "PersistentVolumeClaim", "namespace": "default", "name": name},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}},
            },
        },
        {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {
                "name": name, "namespace": "default",
                "annotations": {"pv.kubernetes.io/bind-completed": "yes"},
            },
            "spec": {
                "accessModes": modes, "storageClassName": "", "volumeName": name,
                "resources": {"requests": {"storage": "1Gi"}},
            },
        },
    ]  # fmt: skip
    if scene.running and rng.random() < 0.2:  # shared with one that runs
        with_claims = [p for p in scene.running if p["spec"].get("volumes")]
        if with_claims:
            made["spec"]["volumes"] = rng.choice(with_claims)["spec"]["volumes"]


def _priority(rng: random.Random, made: Json, _: Scene) -> None:
    made["spec"]["priorityClassName"] = rng.choice(("p1", "p1000"))


def _owners(_: random.Random, made: Json, __: Scene) -> None:
    """A controller makes it anew when it is evicted: it may be moved."""
    made["metadata"]["ownerReferences"] = [
        {
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "set", "uid": "set",
            "controller": True,
        }
    ]  # fmt: skip


OF_PODS: dict[str, Topic] = {
    "odd memory": _requests_odd_memory,
    "zero requests": _requests_nothing_else,
    "inits": _inits,
    "counted": _requests_counted,
    "taints": _tolerations,
    "cordons": _tolerations,
    "selectors": _selector,
    "node affinity": _node_affinity,
    "pod affinity": _pod_affinity,
    "pod anti-affinity": _pod_anti_affinity,
    "spread": _spread,
    "ports": _ports,
    "volumes": _volumes,
    "priorities": _priority,
    "owners": _owners,
}

TOPICS = tuple(dict.fromkeys((*DEVICE_KINDS, *OF_NODES, *OF_PODS)))
"""All of them but ``groups``: several device groups on one node."""
