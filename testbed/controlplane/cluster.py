"""One test's view of a control plane: empty at its start, empty and quiet at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from testbed.controlplane.api import Json, eventually
from testbed.controlplane.plane import ControlPlane
from testbed.controlplane.process import Daemon
from testbed.controlplane.validator import Validator


class Cluster:
    """Starts components, feeds objects, waits for what comes of them.

    Parameters
    ----------
    plane
        The control plane behind it.
    foreign
        Pods that somebody else binds: see :func:`testbed.controlplane.validator.judge`.
    """

    def __init__(
        self, plane: ControlPlane, foreign: Callable[[Json], bool] = lambda _: False
    ) -> None:
        self.plane = plane
        self.api = plane.api
        self.validator = Validator(plane.api, gangs=plane.gangs, foreign=foreign)
        self._before = set(map(id, plane.daemons))

    def close(self) -> None:
        """End what this test has started, and remove what it has made."""
        for daemon in plane_extras(self.plane, self._before):
            self.plane.forget(daemon)
        self.plane.wipe()

    def start(self, *daemons: Daemon) -> None:
        """Start several at once, and wait for all of them."""
        for daemon in daemons:
            daemon.launch()
        for daemon in daemons:
            daemon.wait_ready()

    def scheduler(self, config: Json, *, kubeconfig: Path | None = None, name: str = "") -> Daemon:
        """A kube-scheduler that serves."""
        daemon = self.plane.scheduler(config, kubeconfig=kubeconfig, name=name)
        daemon.start()
        return daemon

    def create(self, objects: Iterable[Json], connections: int = 8) -> None:
        """POST objects over several connections; one connection keeps their order."""
        self.api.create_all(objects, connections)

    def bound(self) -> dict[str, str]:
        """Pod -> node, of those that have one."""
        return {pod: node for pod, node in self.api.placements().items() if node}

    def pending(self) -> dict[str, str]:
        """Pod -> why kube-scheduler says that it is pending; empty while it has said nothing."""
        found = {}
        for pod in self.api.objects("Pod"):
            ended = pod["status"].get("phase") in ("Succeeded", "Failed")
            if not pod["spec"].get("nodeName") and not ended:
                conditions = pod["status"].get("conditions") or ()
                said = [c for c in conditions if c["type"] == "PodScheduled"]
                found[pod["metadata"]["name"]] = said[0].get("message", "") if said else ""
        return found

    def all_bound(self, count: int, patience_s: float = 60) -> dict[str, str]:
        """Wait until so many pods are bound.

        Returns
        -------
        dict
            Pod -> node.
        """

        def enough() -> dict[str, str] | None:
            bound = self.bound()
            return bound if len(bound) >= count else None

        try:
            return dict(eventually(enough, f"{count} pods bound", patience_s))
        except AssertionError as error:
            raise AssertionError(f"{error}; pending by now: {self.pending()}") from None

    def settle(self, patience_s: float = 60, quiet_s: float = 1.0) -> dict[str, str]:
        """Wait until every pod is bound or was refused, and nothing has changed for a while.

        Returns
        -------
        dict
            Pod -> node, of those bound.
        """
        last: object = None
        since = time.monotonic()

        def quiet() -> bool:
            nonlocal last, since
            pending = self.pending()
            now = (len(self.bound()), sorted(pending))
            if now != last or not all(pending.values()):
                last, since = now, time.monotonic()
            return time.monotonic() - since >= quiet_s

        eventually(quiet, "every pod bound or refused", patience_s)
        return self.bound()


def plane_extras(plane: ControlPlane, before: set[int]) -> list[Daemon]:
    """Components that were added since."""
    return [daemon for daemon in reversed(plane.daemons) if id(daemon) not in before]
