"""What the real kube-scheduler says of a pod: the nodes that it lets it in, or a given one.

Two kube-schedulers without the product. One has an extender that is nobody's: it writes down which
nodes passed the in-tree filters, and refuses them all, so that a pod can be asked about without
being placed. The other places pods, each with its node in ``status.nominatedNodeName``, which
kube-scheduler tries before any other.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from testbed.controlplane import scheduling
from testbed.controlplane.api import Api, eventually
from testbed.controlplane.plane import ControlPlane
from testbed.controlplane.process import Daemon

Json = dict[str, Any]

_ASKS, _PLACES = "asks", "places"
_GATE = {"name": "e2e.example.com/waits"}
_PATIENCE_S = 60


def plain(pod: Json, name: str, scheduler: str, *, gated: bool = False) -> Json:
    """A pod of the same rules under another name, for another scheduler, on no node."""
    meta, spec = pod["metadata"], copy.deepcopy(pod["spec"])
    spec.pop("nodeName", None)
    spec.pop("priority", None)  # the API server derives it from the class
    spec["schedulerName"] = scheduler
    spec.pop("schedulingGates", None)
    if "uid" in meta:
        _without_label_keys(spec)
    if gated:
        spec["schedulingGates"] = [_GATE]
    kept = {key: meta.get(key) or {} for key in ("labels", "annotations")}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": meta.get("namespace", "default"), **kept},
        "spec": spec,
    }


def _without_label_keys(spec: Json) -> None:
    """The API server has put them into the selectors, and refuses to do it twice."""
    affinity = spec.get("affinity") or {}
    terms = [
        term
        for kind in ("podAffinity", "podAntiAffinity")
        for term in (affinity.get(kind) or {}).get(
            "requiredDuringSchedulingIgnoredDuringExecution"
        ) or ()
    ]  # fmt: skip
    for rule in (*terms, *(spec.get("topologySpreadConstraints") or ())):
        rule.pop("matchLabelKeys", None)


class Verdicts:
    """kube-scheduler's own decisions; to be entered.

    Parameters
    ----------
    plane
        Where.
    """

    def __init__(self, plane: ControlPlane) -> None:
        self._plane, self._api = plane, plane.api
        self._passed: dict[str, frozenset[str]] = {}
        handler = type("Handler", (_Recorder,), {"passed": self._passed})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._daemons: list[Daemon] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{self._server.server_port}"
        asks = scheduling.extended(url, _ASKS, packing=False, prioritizeVerb="", weight=1)
        del asks["extenders"][0]["managedResources"], asks["extenders"][0]["prioritizeVerb"]
        for config in (asks, scheduling.stock(_PLACES)):
            off = {"disabled": [{"name": "DefaultPreemption"}]}
            config["profiles"][0].setdefault("plugins", {})["postFilter"] = off
            self._daemons.append(self._plane.scheduler(config))
            self._daemons[-1].start()  # the second one uses the certificate that the first has made
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in self._daemons:
            self._plane.forget(daemon)
        self._server.shutdown()
        self._server.server_close()

    def lets_in(self, pods: Iterable[Json]) -> dict[str, frozenset[str]]:
        """Nodes that each of the pods may go to as things are, by the name of the pod."""
        self._passed.clear()
        asked = {pod["metadata"]["name"]: f"ask-{pod['metadata']['name']}" for pod in pods}
        self._api.create_all(plain(p, asked[p["metadata"]["name"]], _ASKS) for p in pods)

        def answered() -> bool:
            said = self._conditions()
            return all(said.get(name) for name in asked.values())

        eventually(answered, "kube-scheduler has an opinion of every pod", _PATIENCE_S)
        for name in asked.values():
            self._api.delete("Pod", name, "default")
        return {name: self._passed.get(ask, frozenset()) for name, ask in asked.items()}

    def waiting(self, pods: Iterable[Json]) -> None:
        """Create pods that :meth:`takes` asks about; until then they stand for nothing."""
        self._api.create_all(plain(p, p["metadata"]["name"], _PLACES, gated=True) for p in pods)

    def takes(self, name: str, node: str, annotations: dict[str, str]) -> str:
        """Place a waiting pod on this node; returns why it was not, or nothing."""
        self._api.patch(
            "Pod", name, {"status": {"nominatedNodeName": node}}, "default", subresource="status"
        )
        ungated = {"metadata": {"annotations": annotations}, "spec": {"schedulingGates": None}}
        self._api.patch("Pod", name, ungated, "default")

        def decided() -> tuple[str, str] | None:
            found = self._api.get("Pod", name, "default")
            if found["spec"].get("nodeName"):
                return found["spec"]["nodeName"], ""
            said = _refusal(found)
            return ("", said) if said else None

        where, why = eventually(decided, f"{name} is placed or refused", _PATIENCE_S, every_s=0.02)
        return "" if where == node else why or f"went to {where}"

    def _conditions(self) -> dict[str, str]:
        return {p["metadata"]["name"]: _refusal(p) for p in self._api.objects("Pod")}


def _refusal(pod: Json) -> str:
    """What kube-scheduler has written of a pod that it could not place; nothing before it tried."""
    for condition in pod["status"].get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition.get("reason") != "SchedulingGated":
            return str(condition.get("message") or condition.get("reason") or "")
    return ""


class _Recorder(BaseHTTPRequestHandler):
    """An extender that remembers whom it was asked about, and lets nobody anywhere."""

    passed: dict[str, frozenset[str]]

    def do_POST(self) -> None:
        """Answer that no node will do."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        names = asked["NodeNames"] or []
        self.passed[asked["Pod"]["metadata"]["name"]] = frozenset(names)
        body = json.dumps({"NodeNames": [], "FailedNodes": dict.fromkeys(names, "asked")}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not on the terminal."""


def cleared(api: Api) -> None:
    """No nodes, pods, claims and volumes; nobody is there who would lift their protection."""
    for kind, namespace in (
        ("Pod", "default"), ("Node", ""), ("PersistentVolumeClaim", "default"),
        ("PersistentVolume", ""),
    ):  # fmt: skip
        for obj in api.objects(kind, namespace):
            name = obj["metadata"]["name"]
            if obj["metadata"].get("finalizers"):
                api.patch(kind, name, {"metadata": {"finalizers": None}}, namespace)
        api.delete_all(kind, namespace)
