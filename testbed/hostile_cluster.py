"""A cluster with a hostile tenant: the API server's, kube-scheduler's and the kubelet's part of it.

The validator in it believes nothing that a pod says. It knows what pods request, and what Snugfit
has written into the Bindings that it posted.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from testbed.fake_api import NODES, PODS, FakeApi, eventually
from testbed.hostile import MEMORY, MILLI, WHOLE
from testbed.live import LiveServer

Json = dict[str, Any]

DEVICE_MIB = 40_960
_COUNTED = (WHOLE, MILLI, MEMORY, "cpu")
_MANAGED = (WHOLE, MILLI, MEMORY)


@dataclass
class Pod:
    """A pod as the API server knows it, and what was decided about it.

    Parameters
    ----------
    name, uid
        Names are never shared by tenants here; a namesake has another uid.
    asks
        Sums of what its containers request, as the API server has accepted them.
    honest
        Whose it is.
    node
        Where it is; empty while it waits.
    devices
        Indices in the Binding that Snugfit posted; None if it posted none.
    """

    name: str
    uid: str
    asks: Mapping[str, int]
    honest: bool
    node: str = ""
    devices: tuple[int, ...] | None = None

    @property
    def device_count(self) -> int:
        """Devices that are touched by it, wherever it is."""
        milli = self.asks.get(MILLI, 0)
        part = 1 if milli % 1000 or (self.asks.get(MEMORY) and not milli) else 0
        return self.asks.get(WHOLE, 0) + milli // 1000 + part


@dataclass
class Validator:
    """Whether a placement gives away what is taken.

    Parameters
    ----------
    devices
        By node.
    pods
        By name: those that exist and have not ended.
    """

    devices: Mapping[str, int]
    pods: dict[str, Pod] = field(default_factory=dict)

    def on(self, node: str) -> list[Pod]:
        """Pods of a node."""
        return [pod for pod in self.pods.values() if pod.node == node]

    def room(self, node: str) -> dict[str, int]:
        """What kube-scheduler and the kubelet count as free on a node."""
        count, kind = self.devices[node], node.split("-", maxsplit=1)[0]
        room = {"pods": 200, "cpu": 64_000}
        room |= {WHOLE: count if kind in ("whole", "both") else 0}
        shared = count if kind in ("part", "both") else 0
        room |= {MILLI: 1000 * shared, MEMORY: DEVICE_MIB * shared}
        for pod in self.on(node):
            room["pods"] -= 1
            for name in _COUNTED:
                room[name] -= pod.asks.get(name, 0)
        return room

    def admits(self, pod: Pod, node: str) -> bool:
        """Whether the sums allow it; devices by themselves are nobody's business there."""
        room = self.room(node)
        return room["pods"] >= 1 and all(
            pod.asks.get(name, 0) <= room[name] for name in _COUNTED if pod.asks.get(name, 0)
        )

    def judge(self, pod: Pod, node: str) -> list[str]:
        """What is wrong with a placement that was just decided; the pod is not there yet."""
        there = self.on(node)
        count = self.devices[node]
        wrong = []
        if not self.admits(pod, node):
            wrong.append(f"{node} has no room for {pod}: {self.room(node)}")
        milli, memory = _device_sums(there)
        before = set(milli) | set(memory)
        if pod.devices is not None:
            wrong += self._named(pod, node)
            milli_after, memory_after = _device_sums([*there, pod])
            wrong += [
                f"{node}: device {index} has {milli_after[index]} milli, {memory_after[index]} MiB"
                for index in pod.devices
                if milli_after[index] > 1000 or memory_after[index] > DEVICE_MIB
            ]
        wholes = sum(other.asks.get(WHOLE, 0) for other in [*there, pod])
        touched = len(before | set(pod.devices or ()))
        takes = any(pod.asks.get(name, 0) for name in (WHOLE, MILLI, MEMORY))
        if (
            takes and wholes and touched and wholes + touched > count
        ):  # else others did that by hand
            wrong.append(f"{node}: {wholes} whole devices and {touched} shared ones of {count}")
        return [f"{text}, with {pod} beside {there}" for text in wrong]

    def _named(self, pod: Pod, node: str) -> list[str]:
        """Whether the devices of a Binding are what the pod asks for."""
        assert pod.devices is not None
        wanted = max(1, pod.asks.get(MILLI, 0) // 1000)
        wrong = []
        if len(set(pod.devices)) != len(pod.devices) or len(pod.devices) != wanted:
            wrong.append(f"{pod} was given {pod.devices}")
        if any(not 0 <= index < self.devices[node] for index in pod.devices):
            wrong.append(f"{pod} was given {pod.devices} of {self.devices[node]}")
        return wrong

    def has_room_beyond_doubt(self, pod: Pod) -> bool:
        """Whether a node could serve a pod even if each pod of unknown devices had its own.

        A node that offers its devices both ways serves one of the two at a time.
        """
        return any(self._plainly_fits(pod, node) for node in self.devices if self.admits(pod, node))

    def _plainly_fits(self, pod: Pod, node: str) -> bool:
        there = [other for other in self.on(node) if other.device_count]
        shares = bool(pod.asks.get(MILLI) or pod.asks.get(MEMORY))
        if any(bool(other.asks.get(WHOLE)) == shares for other in there):
            return False
        milli, memory = _device_sums(there)
        taken = len(set(milli) | set(memory))
        unknown = sum(other.device_count for other in there if other.devices is None)
        return taken + unknown + pod.device_count <= self.devices[node]


def _device_sums(pods: list[Pod]) -> tuple[Counter[int], Counter[int]]:
    """Milli and MiB by device, of the pods whose Bindings name devices."""
    milli: Counter[int] = Counter()
    memory: Counter[int] = Counter()
    for pod in pods:
        for index in pod.devices or ():
            share = pod.asks.get(MILLI, 0)
            milli[index] += min(share, 1000)
            memory[index] += pod.asks.get(MEMORY, 0)
    return milli, memory


class HostileCluster:
    """Objects, a kube-scheduler that asks the real server, and a validator.

    Parameters
    ----------
    api
        Stands for the API server.
    server
        The real extender.
    """

    def __init__(self, api: FakeApi, server: LiveServer, devices: Mapping[str, int]) -> None:
        self.api, self.server = api, server
        self.validator = Validator(dict(devices))
        self.nodes = list(devices)
        self.serial = 0
        # Pods whose bind failed without a clear end, and how many Bindings there were before.
        self._unclear: dict[str, tuple[Pod, int]] = {}
        for node, count in devices.items():
            api.put(NODES, _node(node, count))
        api.put(NODES, _node("clock", 0))
        eventually(lambda: self.state().keys() >= {*devices, "clock"})

    # -- what anybody does -------------------------------------------------------------------

    def create(
        self,
        name: str,
        namespace: str,
        requests: Mapping[str, str],
        *,
        node: str = "",
        **metadata: Any,
    ) -> Pod:
        """A new pod, which may name its node; a namesake has to be gone."""
        assert name not in self.validator.pods
        self.serial += 1
        asks = {key: _count(text) for key, text in requests.items()} | {"cpu": 1}
        pod = Pod(name, f"uid-{self.serial:06}", asks, namespace == "honest")
        obj: Json = {
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": pod.uid,
                "creationTimestamp": _time(self.serial),
                "annotations": {},
                "labels": {},
                **metadata,
            },
            "spec": {
                "containers": [{"name": "c", "resources": {"requests": {"cpu": "1m", **requests}}}],
                "schedulerName": "snugfit",
                "priority": 0,
            },
            "status": {"phase": "Pending"},
        }
        if node:
            obj["spec"]["nodeName"] = node  # past every scheduler; the kubelet looks at the sums
            if not self.validator.admits(pod, node):
                self.api.put(PODS, obj)
                self.api.delete(PODS, name)
                return pod
            pod.node = node
            obj["status"]["phase"] = "Running"
        self.api.put(PODS, obj)
        self.validator.pods[name] = pod
        return pod

    def change(self, name: str, **parts: Any) -> None:
        """Patch metadata or the status of a pod."""
        obj = json.loads(json.dumps(self.api.objects[PODS][name]))
        for part, content in parts.items():
            target = obj if part == "status" else obj["metadata"]
            target[part] = (target.get(part) or {}) | content
        self.api.put(PODS, obj)

    def strip(self, name: str, keys: tuple[str, ...] = ()) -> None:
        """Remove all annotations but these."""
        obj = json.loads(json.dumps(self.api.objects[PODS][name]))
        kept = {k: v for k, v in obj["metadata"]["annotations"].items() if k in keys}
        obj["metadata"]["annotations"] = kept
        self.api.put(PODS, obj)

    def terminate(self, name: str) -> None:
        """A deletion has begun; the pod keeps what it has."""
        obj = json.loads(json.dumps(self.api.objects[PODS][name]))
        obj["metadata"]["deletionTimestamp"] = _time(self.serial)
        self.api.put(PODS, obj)

    def delete(self, name: str) -> None:
        """It is gone."""
        self.api.delete(PODS, name)
        self._unclear.pop(self.validator.pods.pop(name).uid, None)

    def finish(self, name: str, phase: str) -> None:
        """It has ended, and stays for a while as an object; watches lose sight of it."""
        obj = json.loads(json.dumps(self.api.objects[PODS][name]))
        obj["status"] = {"phase": phase}
        self.api.put(PODS, obj)
        self.delete(name)

    def clear(self) -> None:
        """Delete every pod."""
        for name in list(self.validator.pods):
            self.delete(name)

    # -- kube-scheduler ----------------------------------------------------------------------

    def schedule(self, pod: Pod) -> list[str]:
        """One cycle of a pod: it may come out bound. What the validator says about that."""
        late = self._bound_late()
        obj = self.api.objects[PODS].get(pod.name)
        if obj is None or pod.node or obj["metadata"].get("deletionTimestamp"):
            return late
        self.settle()
        return late + self._cycle(pod, obj)

    def _cycle(self, pod: Pod, obj: Json) -> list[str]:
        nodes = [node for node in self.nodes if self.validator.admits(pod, node)]
        managed = any(key in pod.asks for key in _MANAGED)
        if managed and nodes:
            nodes = self.server.filter(obj, nodes)
        if not nodes:
            return []
        best = nodes[0]
        if managed and len(nodes) > 1:
            scores = self.server.prioritize(obj, nodes)
            best = max(nodes, key=lambda node: scores[node])
        if pod.asks.get(MILLI) or pod.asks.get(MEMORY):
            return self._bound_by_snugfit(pod, obj, best)
        wrong = self.validator.judge(pod, best)
        pod.node = best
        bound = json.loads(json.dumps(obj))
        bound["spec"]["nodeName"] = best
        self.api.put(PODS, bound)
        return wrong

    def _bound_by_snugfit(self, pod: Pod, obj: Json, node: str) -> list[str]:
        before = len(self.api.bindings)
        problem = self.server.bind(obj, node)
        posted = self._posted(pod, before)
        if problem and posted:
            return [f"{pod}: {problem}, yet a Binding was posted"]
        if problem:
            self._unclear[pod.uid] = pod, before
            return []
        assert len(posted) == 1, (pod, posted)
        return self._took_place(pod, posted[0], node)

    def _bound_late(self) -> list[str]:
        """Bindings that reached the API only after their bind had been given up."""
        wrong = []
        for pod, before in list(self._unclear.values()):
            for body in self._posted(pod, before):
                del self._unclear[pod.uid]
                wrong += self._took_place(pod, body, body["target"]["name"])
        return wrong

    def _posted(self, pod: Pod, before: int) -> list[Json]:
        return [b for b in self.api.bindings[before:] if b["metadata"]["uid"] == pod.uid]

    def _took_place(self, pod: Pod, body: Json, node: str) -> list[str]:
        """A Binding has given the pod a node and devices; what is wrong with that."""
        record = (body["metadata"].get("annotations") or {}).get("snugfit.io/devices", "")
        pod.devices = tuple(int(part.split(":")[0]) for part in record.split(",") if part)
        wrong = self.validator.judge(pod, node)
        pod.node = node
        if body["target"]["name"] != node or body["metadata"]["uid"] != pod.uid:
            wrong.append(f"{pod}: another Binding was posted: {body}")
        return wrong

    def settle(self) -> None:
        """Wait until the server has applied every event of pods up to now."""
        self.serial += 1
        uid = f"clock-{self.serial}"
        if "clock" in self.api.objects[PODS]:
            self.api.delete(PODS, "clock")
        self.api.put(PODS, {
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {"name": "clock", "namespace": "clock", "uid": uid,
                         "creationTimestamp": _time(self.serial)},
            "spec": {"nodeName": "clock", "containers": [{"name": "c"}]},
            "status": {"phase": "Running"},
        })  # fmt: skip

        def applied() -> bool:
            there = self.state().get("clock", {"pods": ()})
            return any(pod["uid"] == uid for pod in there["pods"])

        eventually(applied)

    def state(self) -> dict[str, Json]:
        """The server's own account of the cluster, by node."""
        return {node["name"]: node for node in self.server.get("/debug/state")["nodes"]}


def _node(name: str, devices: int) -> Json:
    amounts = {"cpu": "64", "memory": "256Gi", "pods": "200"}
    kind = name.split("-", maxsplit=1)[0]
    if kind in ("whole", "both"):
        amounts[WHOLE] = str(devices)
    if kind in ("part", "both"):
        amounts[MILLI] = str(1000 * devices)
        amounts[MEMORY] = str(DEVICE_MIB * devices)
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "uid": f"node-{name}",
            "labels": {
                "kubernetes.io/hostname": name,
                "nvidia.com/gpu.product": "NVIDIA-A100",
                "nvidia.com/gpu.memory": str(DEVICE_MIB),
            },
        },
        "spec": {},
        "status": {
            "allocatable": amounts,
            "capacity": amounts,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def _count(text: str) -> int:
    """A quantity as the API server counts it, rounded up."""
    for suffix, scale in (("k", 10**3), ("M", 10**6), ("E", 10**18), ("Gi", 2**30)):
        if text.endswith(suffix):
            return math.ceil(float(text.removesuffix(suffix)) * scale)
    return int(text)


def _time(serial: int) -> str:
    minutes, seconds = divmod(serial, 60)
    hours, minutes = divmod(minutes, 60)
    return f"2026-01-{1 + hours // 24:02}T{hours % 24:02}:{minutes:02}:{seconds:02}Z"
