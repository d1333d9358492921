"""The API server of a large cluster, a process of its own, and an extender that follows it.

It serves pages of pods as a cluster has them (managed fields, conditions, statuses) over HTTP, all
made beforehand, and on demand a storm of watch events.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlparse

import msgspec

__all__ = ["following", "pod"]

PODS_PER_NODE = 10


def pod(number: int, nodes: int) -> dict[str, Any]:
    """A running pod of one of a few hundred templates."""
    place, serial = number % nodes, number // nodes
    template = (place % 20) * PODS_PER_NODE + serial % PODS_PER_NODE
    resources: dict[str, Any] = {"cpu": f"{100 + 50 * (template % 30)}m", "memory": "512Mi"}
    annotations = {"prometheus.io/scrape": "true"}
    if place % 2 and serial < 6:  # every other node is shared by our own protocol
        resources["snugfit.io/gpu-milli"] = "600"
        annotations["snugfit.io/devices"] = f"{serial}:600:0:0"
    elif place % 2 == 0 and serial < 4:
        resources["nvidia.com/gpu"] = "2"
    name = f"team-{template}-{number:06x}"
    labels = {"app": f"app-{template}", "pod-template-hash": f"{template:08x}"}
    when = "2026-01-01T00:00:00Z"
    managed = {
        "f:metadata": {"f:labels": {f"f:{key}": {} for key in labels}},
        "f:spec": {
            f"f:{field}": {}
            for field in (
                "containers",
                "dnsPolicy",
                "restartPolicy",
                "schedulerName",
                "tolerations",
            )
        },
        "f:status": {f'k:{{"type":"{kind}"}}': {".": {}, "f:status": {}} for kind in _CONDITIONS},
    }
    image = f"registry.local/team/app-{template}@sha256:{'0' * 64}"
    container = {
        "name": "main",
        "image": image,
        "env": [{"name": f"SETTING_{i}", "value": f"value-{i}"} for i in range(12)],
        "resources": {"requests": resources, "limits": resources},
        "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets", "readOnly": True}],
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10},
    }
    return {
        "metadata": {
            "name": name,
            "namespace": f"team-{template % 50}",
            "uid": f"{number:08x}-0000-4000-8000-{place:012x}",
            "resourceVersion": str(1000 + number),
            "creationTimestamp": when,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"team-{template}",
                 "uid": "0", "controller": True, "blockOwnerDeletion": True}
            ],
            "managedFields": [
                {"manager": manager, "operation": "Update", "time": when, "fieldsV1": managed}
                for manager in ("kube-controller-manager", "kubelet")
            ],
        },
        "spec": {
            "nodeName": f"node-{place}",
            "containers": [container],
            "volumes": [{"name": "token", "projected": {"sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}]}}],
            "tolerations": [
                {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute",
                 "tolerationSeconds": 300} for what in ("not-ready", "unreachable")
            ],
            "priority": 0,
            "schedulerName": "default-scheduler",
        },
        "status": {
            "phase": "Running",
            "conditions": [
                {"type": kind, "status": "True", "lastTransitionTime": when, "lastProbeTime": None}
                for kind in _CONDITIONS
            ],
            "podIPs": [{"ip": f"10.{place >> 8}.{place & 255}.{serial}"}],
            "containerStatuses": [
                {"name": "main", "ready": True, "started": True, "restartCount": 0, "image": image,
                 "imageID": image,
                 "containerID": "containerd://" + "0" * 64, "allocatedResources": resources,
                 "resources": {"requests": resources, "limits": resources},
                 "state": {"running": {"startedAt": when}}}
            ],
        },
    }  # fmt: skip


_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady",
               "PodScheduled")  # fmt: skip


def node(number: int) -> dict[str, Any]:
    """A node of eight devices."""
    devices = {"snugfit.io/gpu-milli": "8000"} if number % 2 else {"nvidia.com/gpu": "8"}
    amounts = {"cpu": "128", "memory": "1024Gi", "pods": "110", **devices}
    labels = {"kubernetes.io/hostname": f"node-{number}", "nvidia.com/gpu.product": "A100"}
    labels |= {f"feature.node.kubernetes.io/cpu-{i}": "true" for i in range(40)}
    return {
        "metadata": {"name": f"node-{number}", "uid": f"n{number}", "labels": labels,
                     "resourceVersion": "1"},
        "spec": {},
        "status": {
            "allocatable": amounts,
            "capacity": amounts,
            "conditions": [{"type": "Ready", "status": "True"}],
            "images": [{"names": [f"registry.local/image-{i}"], "sizeBytes": i} for i in range(50)],
        },
    }  # fmt: skip


class Api(BaseHTTPRequestHandler):
    """Lists in pages; watches that stay silent, but for pods while a rate is set.

    Attributes
    ----------
    pages
        By resource.
    nodes, pods
        How many there are.
    rate
        Pod events per second; ``GET /rate/500`` sets it.
    """

    protocol_version = "HTTP/1.1"
    pages: ClassVar[dict[str, list[bytes]]] = {}
    nodes = pods = 0
    rate: ClassVar[list[float]] = [0.0]

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        """A page, or a watch."""
        address = urlparse(self.path)
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        if query.get("watch"):
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if address.path == "/api/v1/pods":
                self._tell()
            time.sleep(600)
            return
        if address.path.startswith("/rate/"):
            self.rate[0] = float(address.path.rsplit("/", 1)[-1])
        pages = self.pages.get(address.path.rsplit("/", 1)[-1], [_page([], "")])
        body = pages[int(query.get("continue", "0"))]
        served = ("/rate/", "/api/v1/nodes", "/api/v1/pods", "/apis/policy")
        status = 200 if address.path.startswith(served) else 404
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _tell(self) -> None:
        """Half of the events are news of a pod's status, the others its end and its return."""
        chance, version, due = random.Random(0), 1_000_000, time.monotonic()
        while True:
            if not self.rate[0]:
                due = time.monotonic()
                time.sleep(0.05)
                continue
            due += 4 / self.rate[0]
            time.sleep(max(0.0, due - time.monotonic()))
            number = chance.randrange(self.pods)
            for kind in ("MODIFIED", "MODIFIED", "DELETED", "ADDED"):
                version += 1
                obj = pod(number, self.nodes)
                obj["metadata"]["resourceVersion"] = str(version)
                obj["status"]["containerStatuses"][0]["restartCount"] = version
                line = msgspec.json.encode({"type": kind, "object": obj}) + b"\n"
                self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))


def _page(items: list[Any], following: str) -> bytes:
    return msgspec.json.encode(
        {"metadata": {"resourceVersion": "1", "continue": following}, "items": items}
    )


def _pages(count: int, make: Callable[[int], Any]) -> list[bytes]:
    """All pages of 500, made before anybody asks: this is not what is measured."""
    starts = range(0, count, 500)
    return [
        _page(
            [make(number) for number in range(start, min(start + 500, count))],
            str(page + 1) if start + 500 < count else "",
        )
        for page, start in enumerate(starts)
    ]


def serve(nodes: int, pods: int) -> None:
    """Play the API server until killed."""
    Api.nodes, Api.pods = nodes, pods
    Api.pages["nodes"] = _pages(nodes, node)
    Api.pages["pods"] = _pages(pods, lambda number: pod(number, nodes))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.daemon_threads = True
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()


@contextmanager
def following(
    nodes: int, pods: int, *flags: str
) -> Iterator[tuple[subprocess.Popen[str], str, float]]:
    """The API server and an extender that follows it: its process, the API's URL, when it began."""
    mine = [sys.executable, "-m", __spec__.name, str(nodes), str(pods)]
    api = subprocess.Popen(mine, stdout=subprocess.PIPE, text=True)
    assert api.stdout is not None
    url = f"http://127.0.0.1:{api.stdout.readline().strip()}"
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }  # fmt: skip
        path = Path(folder) / "kubeconfig"
        path.write_text(json.dumps(config))
        began = time.monotonic()
        extender = subprocess.Popen(
            [sys.executable, "-m", "scheduler.cli.main", "serve", "--kubeconfig", str(path),
             "--port", "0", "--log-level", "info", *flags],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            yield extender, url, began
        finally:
            extender.kill()
            api.kill()


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
