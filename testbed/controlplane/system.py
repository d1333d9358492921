"""The product under test on a real control plane: extender, kube-scheduler, and what must hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from testbed.controlplane.api import Json, eventually
from testbed.controlplane.chart import shipped
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.extender import Extender, live
from testbed.controlplane.objects import DEVICES
from testbed.controlplane.process import Daemon
from testbed.controlplane.wire import Wire

RESERVATION_TTL_S = 4


class System:
    """An extender and a kube-scheduler with the rights and the configuration that are shipped.

    The extender acts as the account of the topology ``service``, which may do nothing but what the
    extender needs; kube-scheduler as that of the topology ``sidecar``.

    Parameters
    ----------
    cluster
        Where.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.api = cluster.api
        self.shipped = shipped(cluster.plane)
        self.extenders: list[Extender] = []
        self.schedulers: list[Daemon] = []

    @property
    def extender(self) -> Extender:
        """The latest one."""
        return self.extenders[-1]

    @property
    def scheduler(self) -> Daemon:
        """The latest one."""
        return self.schedulers[-1]

    def kubeconfig(self, wire: Wire | None = None) -> Path:
        """The extender's own; through a wire, if one is given."""
        path = self.cluster.plane.kubeconfig(self.shipped.service.token())
        if wire is not None:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            content["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{wire.port}"
            path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    def wire(self) -> Wire:
        """A wire to the API server, to be entered."""
        port = urlsplit(self.api.url).port
        assert port is not None
        return Wire(port)

    def add_extender(self, *flags: str, **how: Any) -> Extender:
        """Start an extender, and wait until it knows the cluster; see :meth:`make_extender`."""
        self.make_extender(*flags, **how).start()
        return self.extender

    def make_extender(
        self,
        *flags: str,
        wire: Wire | None = None,
        kubeconfig: Path | None = None,
        **settings: object,
    ) -> Extender:
        """An extender, not started yet.

        ``settings`` change those that are shipped; a kubeconfig replaces the account's own.
        """
        name = f"extender-{len(self.extenders)}"
        content = (
            self.shipped.sidecar.extender_config
            | {"reservation_ttl_s": RESERVATION_TTL_S}
            | settings
        )
        content.pop("status_listen", None)  # two extenders on one machine cannot share that port
        path = self.cluster.plane.home / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        user = kubeconfig or self.kubeconfig(wire)
        self.extenders.append(
            live(self.cluster.plane, user, "--config", str(path), *flags, name=name)
        )
        return self.extender

    def add_scheduler(self, url: str = "", **config: object) -> Daemon:
        """Start a kube-scheduler and wait for it; see :meth:`make_scheduler`."""
        self.make_scheduler(url, **config).start()
        return self.scheduler

    def make_scheduler(self, url: str = "", **config: object) -> Daemon:
        """A kube-scheduler that asks the extender at ``url``, the latest by default.

        ``config`` changes parts of the configuration that is shipped. There is no election unless
        that is what a test is about: after a kill it would wait for the lease to run out.
        """
        content = self.shipped.sidecar.scheduler_config
        content |= {"leaderElection": {"leaderElect": False}} | config
        for extender in content["extenders"]:
            extender["urlPrefix"] = _at(extender["urlPrefix"], url or self.extender.url)
        plane = self.cluster.plane
        kubeconfig = plane.kubeconfig(self.shipped.sidecar.token())
        self.schedulers.append(plane.scheduler(content, kubeconfig=kubeconfig))
        return self.scheduler

    def start(self, *flags: str) -> System:
        """One extender, one kube-scheduler, both at once."""
        self.make_extender(*flags)
        self.make_scheduler()
        self.cluster.start(self.extender, self.scheduler)
        return self

    # -- what must hold ------------------------------------------------------------------------

    def verify(self, *, settled: bool = True, patience_s: float = 30) -> None:
        """Nothing over-committed, nothing held for nobody, the extender knows what the API knows.

        Raises
        ------
        AssertionError
            Something of that does not hold (any more, or soon).
        """
        self.cluster.validator.check(settled=settled)
        for extender in self.extenders:
            if extender.running:
                self._agrees(extender, patience_s)

    def _agrees(self, extender: Extender, patience_s: float) -> None:
        differences: list[str] = []

        def none() -> bool:
            differences[:] = self.differences(extender)
            return not differences

        try:
            eventually(none, "the extender's state is the API's", patience_s, every_s=0.3)
        except AssertionError as error:
            raise AssertionError(f"{error}\n" + "\n".join(differences[:20])) from None
        detail = extender.get("/readyz")
        assert detail["drift"] == 0 and not detail["unreadable_objects"], detail

    def differences(self, extender: Extender) -> list[str]:
        """Where the extender's own account of the cluster is not what the API says."""
        state = extender.get("/debug/state")
        found = [f"recount: {text}" for text in state["recount_differences"]]
        theirs: dict[str, tuple[str, str]] = {}
        for node in state["nodes"]:
            for pod in node["pods"]:
                theirs[pod["uid"]] = (node["name"], _recorded(pod["devices"]))
                if pod["reserved"]:
                    found.append(f"{pod['name']} has a reservation on {node['name']}")
        known = {node["name"] for node in state["nodes"]}
        exist = {node["metadata"]["name"] for node in self.api.objects("Node")}
        found += [f"node {name} is known to one side only" for name in sorted(known ^ exist)]
        real: dict[str, tuple[str, str]] = {}
        names: dict[str, str] = {}
        for pod in self.api.objects("Pod"):
            uid, spec = pod["metadata"]["uid"], pod["spec"]
            names[uid] = pod["metadata"]["name"]
            if spec.get("nodeName") in known and _alive(pod):
                text = (pod["metadata"].get("annotations") or {}).get(DEVICES, "")
                real[uid] = (spec["nodeName"], text)
        for uid in sorted({*theirs, *real}):
            mine, api = theirs.get(uid), real.get(uid)
            # Without the annotation of our own protocol the API does not say which device.
            same = mine is not None and api is not None and mine[0] == api[0]
            if not same or (api and api[1] and mine and mine[1] != api[1]):
                found.append(f"{names.get(uid, uid)}: extender {mine}, API {api}")
        return found

    def metric(self, pattern: str) -> float:
        """Sum of the latest extender's metrics whose names match."""
        return sum(v for k, v in self.extender.metrics().items() if re.search(pattern, k))

    def wait(self, fact: Callable[[], object], what: str, patience_s: float = 30) -> object:
        """See :func:`testbed.controlplane.api.eventually`."""
        return eventually(fact, what, patience_s)


def _at(shipped: str, url: str) -> str:
    """The shipped address with the host and port of another one, and its path if it has any."""
    parts, other = urlsplit(shipped), urlsplit(url)
    return parts._replace(netloc=other.netloc, path=other.path or parts.path).geturl()


def _alive(pod: Json) -> bool:
    return pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")


def _recorded(devices: list[Json]) -> str:
    return ",".join(f"{d['index']}:{d['milli']}:{d['memory_mib']}:{d['slots']}" for d in devices)
