"""``snugfit serve`` in a process of its own, following a :mod:`testbed.fake_api`."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from testbed.fake_api import FakeApi, eventually

Json = dict[str, Any]

# A line of another thread may follow at once; a port that is free to take has five digits.
_LISTENS = re.compile(r"listening on https?://[^ ]*:(\d{5})")


class LiveServer:
    """The real server: started as a user starts it, spoken to as kube-scheduler does.

    Parameters
    ----------
    api
        What it follows.
    folder
        For its kubeconfig and its log.
    settings
        Of the extender, as environment variables without their prefix.
    """

    def __init__(self, api: FakeApi, folder: Path, **settings: object) -> None:
        self.log = folder / "snugfit.log"
        self._kubeconfig = folder / "kubeconfig"
        self._kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "k", "cluster": {"server": f"http://127.0.0.1:{api.port}"}}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
        }))  # fmt: skip
        self._environment = os.environ | {
            f"SNUGFIT_{name.upper()}": str(value) for name, value in settings.items()
        }
        self._environment.pop("SNUGFIT_EXAMPLES", "")  # the product refuses what it knows not
        self.start()

    def start(self) -> None:
        """Start the process, and wait until it answers."""
        begun = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "scheduler.cli.main", "serve", "--port", "0",
                 "--kubeconfig", str(self._kubeconfig)],
                stdout=log,
                stderr=log,
                env=self._environment,
            )  # fmt: skip

        def listens() -> re.Match[str] | None:
            assert self.alive(), f"it did not start: {self.text()[-3000:]}"
            return _LISTENS.search(self.log.read_bytes()[begun:].decode(errors="replace"))

        eventually(listens, within_s=240)
        found = listens()
        assert found is not None
        self.port = int(found[1])
        eventually(self._ready, within_s=240)

    def stop(self, *, kill: bool = False) -> None:
        """End the process."""
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        self._process.wait(timeout=60)

    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def text(self) -> str:
        """The log."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def memory_mib(self) -> float:
        """Resident memory of the process."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def planners(self) -> list[int]:
        """Its planner processes."""
        found = []
        for each in Path(f"/proc/{self._process.pid}/task").iterdir():
            for pid in (each / "children").read_text().split():
                with suppress(FileNotFoundError):  # it has just ended
                    if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        found.append(int(pid))
        return found

    # -- HTTP --------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        """JSON of a page; the text of one that is none."""
        status, body = self._call("GET", path, None)
        assert status == 200, (path, status, body)
        return json.loads(body) if body[:1] in b"{[" else body.decode()

    def metric(self, name: str) -> float:
        """Sum of a metric over its labels."""
        lines = [line.rsplit(" ", 1) for line in str(self.get("/metrics")).splitlines()]
        return sum(float(value) for key, value in lines if key.split("{")[0] == name)

    def filter(self, pod: Json, nodes: list[str]) -> list[str]:
        """Nodes that pass."""
        answer = self._post("/filter", {"Pod": pod, "Nodes": None, "NodeNames": nodes})
        assert not answer.get("Error"), answer
        return list(answer["NodeNames"] or ())

    def prioritize(self, pod: Json, nodes: list[str]) -> dict[str, int]:
        """Scores by node."""
        answer = self._post("/prioritize", {"Pod": pod, "Nodes": None, "NodeNames": nodes})
        return {entry["Host"]: entry["Score"] for entry in answer}

    def bind(self, pod: Json, node: str) -> str:
        """What went wrong, if anything."""
        meta = pod["metadata"]
        content = {
            "PodName": meta["name"],
            "PodNamespace": meta["namespace"],
            "PodUID": meta["uid"],
            "Node": node,
        }
        return str(self._post("/bind", content)["Error"])

    def preempt(self, pod: Json, victims: dict[str, list[str]]) -> dict[str, list[str]]:
        """Uids of the pods to evict, by node, as an answer to kube-scheduler's own."""
        named = {
            node: {"Pods": [{"UID": uid} for uid in uids], "NumPDBViolations": 0}
            for node, uids in victims.items()
        }
        answer = self._post("/preempt", {"Pod": pod, "NodeNameToMetaVictims": named})
        chosen: Json = answer["NodeNameToMetaVictims"] or {}
        return {node: [pod["UID"] for pod in said["Pods"]] for node, said in chosen.items()}

    def _post(self, path: str, content: Json) -> Any:
        status, body = self._call("POST", path, json.dumps(content).encode())
        assert status == 200, (path, status, body, content.get("Pod", content))
        return json.loads(body)

    def _call(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _ready(self) -> bool:
        assert self.alive(), f"it has ended: {self.text()[-3000:]}"
        try:
            return self._call("GET", "/readyz", None)[0] == 200
        except OSError:
            return False
