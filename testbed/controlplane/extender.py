"""The extender, started as a user starts it: ``snugfit serve`` in a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from testbed.controlplane.plane import ControlPlane, serves
from testbed.controlplane.process import Daemon, free_port

Json = dict[str, Any]


class Extender(Daemon):
    """One extender process.

    Parameters
    ----------
    plane
        The control plane that ends it at the latest.
    flags
        Of ``snugfit serve``, but for the port.
    name
        Of its log.
    port
        Where it listens; a free port by default.
    patience_s
        How long it may take to know the cluster.
    environ
        Of the process, beside what it inherits.
    """

    def __init__(
        self,
        plane: ControlPlane,
        flags: Sequence[str | Path],
        *,
        name: str = "extender",
        port: int = 0,
        patience_s: float = 60,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(
            name,
            [
                sys.executable, "-m", "scheduler.cli.main", "serve",
                "--port", str(self.port), *flags,
            ],
            plane.home,
            lambda: serves(self.url + "/readyz"),
            environ=environ,
            patience_s=patience_s,
        )  # fmt: skip
        plane.add(self)

    def get(self, path: str) -> Json:
        """JSON of one of its pages."""
        with urlopen(self.url + path, timeout=10) as answer:
            return dict(json.load(answer))

    def post(self, path: str, body: Json) -> Any:
        """JSON of a verb's answer."""
        request = Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def metrics(self) -> dict[str, float]:
        """Its metrics: ``name{labels}`` -> value."""
        with urlopen(self.url + "/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}


def offline(plane: ControlPlane, nodes: Sequence[Json], *flags: str) -> Extender:
    """An extender that serves these nodes from a file and knows no Kubernetes."""
    dump = plane.home / "nodes.json"
    dump.write_text(json.dumps({"kind": "List", "apiVersion": "v1", "items": list(nodes)}))
    return Extender(
        plane, ["--offline", dump, "--reservation-ttl", "600", *flags], name="extender-offline"
    )


def live(plane: ControlPlane, kubeconfig: Path, *flags: str, name: str = "extender") -> Extender:
    """An extender that follows the API server as the user of this kubeconfig."""
    return Extender(plane, ["--kubeconfig", kubeconfig, *flags], name=name)
