"""The chart's second topology: mutual TLS, one active replica by lease, certificates renewed."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
import yaml

from testbed.controlplane.api import ApiError, eventually
from testbed.controlplane.chart import CHART, REQUIRED, Helm
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.objects import fraction_node, fraction_pod, gpu_node, gpu_pod
from testbed.controlplane.plane import serves
from testbed.controlplane.process import Daemon, free_port
from tests.e2e.test_chart import NEIGHBOURS, TRIAL, Installed

pytestmark = pytest.mark.e2e

VALUES = (
    "topology=service",
    "tls.mode=generate",
    "service.clusterIP=127.0.0.1",
    "namespace.create=true",
    *NEIGHBOURS,
)


class Replica(Daemon):
    """An extender with the chart's settings, on ports of our own."""

    def __init__(self, name: str, chart: Installed, certificates: Path) -> None:
        plane = chart.cluster.plane
        self.port, self.status = free_port(), f"http://127.0.0.1:{(status := free_port())}"
        text = chart.files["extender.yaml"].replace("/etc/snugfit-tls", str(certificates))
        settings = yaml.safe_load(text) | {
            "host": "127.0.0.1",
            "port": self.port,
            "status_listen": f"127.0.0.1:{status}",
            "lease_s": 5.0,
        }
        file = plane.home / f"{name}.yaml"
        file.write_text(yaml.safe_dump(settings), encoding="utf-8")
        super().__init__(
            name,
            [
                sys.executable, "-m", "scheduler.cli.main", "serve",
                "--config", file, "--kubeconfig", chart.kubeconfig,
            ],
            plane.home,
            lambda: serves(self.status + "/readyz"),
        )  # fmt: skip
        plane.add(self)

    @property
    def active(self) -> bool:
        try:
            return serves(self.status + "/activez")
        except (URLError, OSError):
            return False

    def ask(self, context: ssl.SSLContext) -> int:
        """Status of a filter call."""
        body = json.dumps({"Pod": gpu_pod("x", 1), "NodeNames": ["whole"]}).encode()
        request = Request(
            f"https://127.0.0.1:{self.port}/filter", body, {"Content-Type": "application/json"}
        )
        try:
            with urlopen(request, timeout=10, context=context) as answer:
                return int(answer.status)
        except HTTPError as refusal:
            refusal.close()
            return refusal.code


AUTHORITY, SERVER, CLIENT = (
    f"trial-snugfit-{part}-generated" for part in ("authority", "server", "client")
)


class Certificates:
    """The chart's Job, run as a process with the rights of its account."""

    def __init__(self, cluster: Cluster, documents: list[dict[str, Any]]) -> None:
        self._api = cluster.api
        self._secrets = [d for d in documents if d["kind"] == "Secret"]
        (job,) = (d for d in documents if d["kind"] == "Job")
        pod = job["spec"]["template"]["spec"]
        token = self._api.issue_token(TRIAL, pod["serviceAccountName"])
        flags = ["--kubeconfig", str(cluster.plane.kubeconfig(token, "certificates"))]
        (container,) = pod["containers"]
        self._args = [
            part
            for arg in container["args"]
            for part in (flags if arg == "--in-cluster" else [arg])
        ]

    def create(self) -> Certificates:
        """The Secrets, empty."""
        for document in self._secrets:
            self._api.apply(document)
        return self

    def renew(self) -> None:
        """One run."""
        done = subprocess.run(
            [sys.executable, "-m", "scheduler.cli.main", *self._args],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr

    def distrust(self) -> None:
        """The authority is gone, and with it everything that it has signed."""
        path = self._api.path("v1", "Secret", TRIAL, AUTHORITY)
        change = [{"op": "remove", "path": "/data"}]
        self._api.request("PATCH", path, change, content_type="application/json-patch+json")

    def remove(self) -> None:
        """Everything."""
        for document in self._secrets:
            self._api.request("DELETE", self._api.path_of(document))


def _secret(chart: Installed, name: str, folder: Path) -> Path:
    """A secret as the kubelet would mount it."""
    data = chart.cluster.api.get("Secret", name, TRIAL)["data"]
    folder.mkdir(exist_ok=True)
    for key, value in data.items():
        (folder / key).write_bytes(base64.b64decode(value))
    return folder


def _context(client: Path | None, authority: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority / "ca.crt"))
    if client:
        context.load_cert_chain(str(client / "tls.crt"), str(client / "tls.key"))
    return context


@pytest.fixture
def helm(assets, tmp_path) -> Helm:
    return Helm(assets.program("helm"), tmp_path, assets.version)


def test_one_replica_acts_and_another_takes_over(helm, cluster, tmp_path) -> None:
    documents = helm.render(VALUES, TRIAL)
    chart = Installed(cluster, documents)
    certificates = Certificates(cluster, documents).create()
    try:
        certificates.renew()
        server = _secret(chart, SERVER, tmp_path / "server")
        client = _secret(chart, CLIENT, tmp_path / "client")
        known = _context(client, server)
        cluster.create([gpu_node("whole", 8), fraction_node("parts", 1)])
        replicas = [Replica(name, chart, server) for name in ("one", "two")]
        cluster.start(*replicas)
        eventually(lambda: sum(r.active for r in replicas) == 1, "one replica is active", 30)
        acting, waiting = sorted(replicas, key=lambda replica: not replica.active)
        assert (acting.ask(known), waiting.ask(known)) == (200, 503)
        with pytest.raises((URLError, OSError)):
            acting.ask(_context(None, server))  # a caller without a certificate

        # The Service would lead to the replica that is ready; here an address stands for that.
        def configured(replica: Replica) -> dict[str, Any]:
            text = chart.files["kube-scheduler.yaml"]
            text = text.replace("/etc/kubernetes/snugfit", str(client))
            return yaml.safe_load(text.replace("127.0.0.1:10262", f"127.0.0.1:{replica.port}"))

        first = cluster.scheduler(configured(acting))
        cluster.create(
            [gpu_pod("a", 1, scheduler="snugfit"), fraction_pod("f", 300, scheduler="snugfit")]
        )
        assert cluster.all_bound(2)["f"] == "parts"
        first.kill()
        acting.kill()
        eventually(lambda: waiting.active, "the other replica takes over", 60)
        assert waiting.ask(known) == 200
        cluster.scheduler(configured(waiting))
        cluster.create(
            [gpu_pod("b", 1, scheduler="snugfit"), fraction_pod("g", 600, scheduler="snugfit")]
        )
        assert cluster.all_bound(4)["g"] == "parts"

        # Renewed under its feet, by an authority that it has not seen: the old client is out.
        certificates.distrust()
        certificates.renew()
        _secret(chart, SERVER, server)
        fresh = _secret(chart, CLIENT, tmp_path / "fresh")

        def accepts_the_new_one() -> bool:
            try:
                return waiting.ask(_context(fresh, server)) == 200
            except (URLError, OSError):
                return False

        eventually(accepts_the_new_one, "the new certificate is accepted", 30)
        with pytest.raises((URLError, OSError)):
            waiting.ask(_context(client, server))
    finally:
        certificates.remove()
        chart.remove()


def test_the_job_may_touch_its_own_secrets_only(helm, cluster) -> None:
    documents = helm.render(VALUES, TRIAL)
    chart = Installed(cluster, documents)
    certificates = Certificates(cluster, documents).create()
    try:
        account = _of_kind(documents, "Job")[0]["spec"]["template"]["spec"]["serviceAccountName"]
        with cluster.api.as_user(cluster.api.issue_token(TRIAL, account)) as job:
            assert job.get("Secret", AUTHORITY, TRIAL)["metadata"]["name"] == AUTHORITY
            other = {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "x", "namespace": TRIAL},
            }
            for refused in (
                lambda: job.objects("Secret", TRIAL),
                lambda: job.get("Secret", "x", TRIAL),
                lambda: job.create(other),
                lambda: job.request("DELETE", job.path("v1", "Secret", TRIAL, SERVER)),
                lambda: job.objects("Pod", TRIAL),
            ):
                with pytest.raises(ApiError) as error:
                    refused()
                assert error.value.status == 403
    finally:
        certificates.remove()
        chart.remove()


def test_an_upgrade_leaves_keys_alone_and_a_removal_takes_them(helm, cluster) -> None:
    """Helm itself, with what it stores: no key is in there, and it knows of none."""
    api = cluster.api
    administrator = str(cluster.plane.kubeconfig(api.token, "helm"))

    def run(*args: str) -> str:
        done = helm.run(*args, "--namespace", TRIAL, "--kubeconfig", administrator)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    def values(*more: str) -> list[str]:
        chosen = (*REQUIRED, *VALUES, address, "namespace.create=false", *more)
        return [part for value in chosen for part in ("--set", value)]

    def held() -> dict[str, Any]:
        return {name: api.get("Secret", name, TRIAL).get("data") for name in names}

    names, address = (AUTHORITY, SERVER, CLIENT), "service.clusterIP=10.96.0.77"
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TRIAL}})
    run("install", "trial", str(CHART), *values())
    try:
        assert set(held().values()) == {None}
        certificates = Certificates(cluster, helm.render((*VALUES, address), TRIAL))
        certificates.renew()
        before = held()
        assert all(before.values())
        run("upgrade", "trial", str(CHART), *values("replicas=3"))
        assert held() == before
        run("rollback", "trial", "1")
        assert held() == before
        certificates.renew()
        assert held() == before
        assert "PRIVATE KEY" not in run("get", "all", "trial")
    finally:
        run("uninstall", "trial")
    assert not {secret["metadata"]["name"] for secret in api.objects("Secret", TRIAL)} & set(names)


def _of_kind(documents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Those of one kind."""
    return [document for document in documents if document["kind"] == kind]
