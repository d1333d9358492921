"""etcd, kube-apiserver, and what else of a control plane a test asks for.

Everything listens on loopback, keeps its files in one temporary directory, and can be killed and
started again at any point: ports, keys and tokens stay what they were.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
import ssl
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from testbed.controlplane.api import Api, Json
from testbed.controlplane.assets import Assets
from testbed.controlplane.kwok import STAGES
from testbed.controlplane.process import Daemon, free_port

CONTROLLERS = (
    "deployment-controller",
    "replicaset-controller",
    "statefulset-controller",
    "job-controller",
    "disruption-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
)
_USERS = {
    "admin": "system:masters",
    "system:kube-scheduler": "",
    "system:kube-controller-manager": "",
}
_OPEN_PATHS = "/healthz,/readyz,/livez,/metrics"


class ControlPlane:
    """A control plane of its own.

    Parameters
    ----------
    assets
        The programs.
    durable
        Let etcd sync to disk. What it has written survives its own death without that.
    service_accounts
        Run the admission plugin of that name: every namespace then needs its default account,
        which the controller manager makes.
    audit
        Keep a log of who asked for what: :meth:`audited`.
    flags
        More flags of kube-apiserver.
    """

    def __init__(
        self,
        assets: Assets,
        *,
        durable: bool = False,
        service_accounts: bool = False,
        audit: bool = False,
        flags: Sequence[str] = (),
    ) -> None:
        self.assets = assets
        self.gangs = assets.minor >= 37  # PodGroup is v1beta1 from there on
        self.home = Path(tempfile.mkdtemp(prefix="snugfit-e2e-"))
        self.tokens = {user: secrets.token_hex(16) for user in _USERS}
        self._flags = (*(self._audit_flags() if audit else ()), *flags)
        self._durable = durable
        self._service_accounts = service_accounts
        self._etcd_port, self._peer_port, self._port = free_port(), free_port(), free_port()
        self._extra: list[Daemon] = []
        self._names = itertools.count()
        self._write_secrets()
        self.api = Api(self.url, self.home / "certs" / "apiserver.crt", self.tokens["admin"])
        self.etcd = self._etcd()
        self.apiserver = self._apiserver()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop(keep_logs=kind is not None)

    @property
    def url(self) -> str:
        """Of the API server."""
        return f"https://127.0.0.1:{self._port}"

    @property
    def daemons(self) -> tuple[Daemon, ...]:
        """Everything that was started here."""
        return (self.etcd, self.apiserver, *self._extra)

    def start(self) -> None:
        """Bring etcd and the API server up."""
        self.etcd.start()
        self.apiserver.launch()
        # The certificate has to exist before a client can be told to trust it.
        certificate = self.home / "certs" / "apiserver.crt"
        end = time.monotonic() + 30
        while not certificate.exists() and self.apiserver.running and time.monotonic() < end:
            time.sleep(0.05)
        self.apiserver.wait_ready()

    def stop(self, *, keep_logs: bool = False) -> None:
        """End everything; the logs stay where they are if they may be needed."""
        for daemon in reversed(self.daemons):
            daemon.stop()
        self.api.close()
        if not keep_logs:
            shutil.rmtree(self.home, ignore_errors=True)

    def tails(self) -> str:
        """The end of every log."""
        return "\n".join(daemon.tail() for daemon in self.daemons if daemon.log.exists())

    # -- access --------------------------------------------------------------------------------

    def kubeconfig(self, token: str, name: str = "") -> Path:
        """A kubeconfig file with this token."""
        path = self.home / f"kubeconfig-{name or next(self._names)}.yaml"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "e2e",
                    "cluster": {"server": self.url, "certificate-authority": str(self.api.ca_file)},
                }
            ],
            "users": [{"name": "e2e", "user": {"token": token}}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "e2e"}}],
            "current-context": "e2e",
        }
        # As tools replace such files: never half of one.
        partial = path.with_suffix(".partial")
        partial.write_text(yaml.safe_dump(content), encoding="utf-8")
        partial.rename(path)
        return path

    # -- more components -----------------------------------------------------------------------

    def scheduler(
        self,
        config: Json,
        *,
        name: str = "",
        kubeconfig: Path | None = None,
        gates: str = "",
        verbosity: int = 0,
    ) -> Daemon:
        """A kube-scheduler with this configuration, not started yet.

        Parameters
        ----------
        config
            A KubeSchedulerConfiguration; how to reach this API server is filled in.
        name
            Of the process, for messages.
        kubeconfig
            Whom it acts as; by default the user ``system:kube-scheduler``.
        gates
            Feature gates; by default native gangs where this version has them.
        verbosity
            Of its log.
        """
        name = name or f"kube-scheduler-{next(self._names)}"
        user = kubeconfig or self.kubeconfig(self.tokens["system:kube-scheduler"], "scheduler")
        path = self.home / f"{name}.yaml"
        content = config | {
            "clientConnection": {"qps": 5000, "burst": 5000}
            | config.get("clientConnection", {})
            | {"kubeconfig": str(user)}
        }
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        port = free_port()
        gates = gates or ("GenericWorkload=true" if self.gangs else "")
        argv = [
            self.assets.program("kube-scheduler"),
            f"--config={path}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={self.home / 'certs-schedulers'}",  # to make a key takes a second
            f"--authentication-kubeconfig={user}",
            "--authentication-skip-lookup=true",
            f"--authorization-kubeconfig={user}",
            f"--authorization-always-allow-paths={_OPEN_PATHS}",
            f"-v={verbosity}",
            *((f"--feature-gates={gates}",) if gates else ()),
        ]
        return self._add(name, argv, port)

    def controller_manager(self, controllers: Sequence[str] = CONTROLLERS) -> Daemon:
        """A kube-controller-manager with these controllers, not started yet."""
        user = self.kubeconfig(self.tokens["system:kube-controller-manager"], "controllers")
        port = free_port()
        argv: list[str | Path] = [
            self.assets.program("kube-controller-manager"),
            f"--kubeconfig={user}",
            f"--controllers={','.join(controllers)}",
            f"--service-account-private-key-file={self.home / 'accounts.key'}",
            f"--root-ca-file={self.api.ca_file}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={self.home / 'certs-controllers'}",
            f"--authentication-kubeconfig={user}",
            "--authentication-skip-lookup=true",
            f"--authorization-kubeconfig={user}",
            f"--authorization-always-allow-paths={_OPEN_PATHS}",
            "--kube-api-qps=1000",
            "--kube-api-burst=1000",
        ]
        return self._add("kube-controller-manager", argv, port, path="/healthz")

    def kwok(self, stages: Sequence[Json] = STAGES) -> Daemon:
        """KWOK in the place of all kubelets, not started yet."""
        port = free_port()
        config = self.home / "kwok.yaml"
        config.write_text(yaml.safe_dump_all(stages), encoding="utf-8")
        argv: list[str | Path] = [
            self.assets.program("kwok"),
            f"--kubeconfig={self.kubeconfig(self.tokens['admin'], 'kwok')}",
            f"--config={config}",
            "--manage-all-nodes=true",
            "--node-ip=127.0.0.1",
            f"--server-address=127.0.0.1:{port}",
        ]
        return self._add("kwok", argv, port, scheme="http", path="/healthz")

    def forget(self, daemon: Daemon) -> None:
        """End a component and drop it."""
        daemon.stop()
        if daemon in self._extra:
            self._extra.remove(daemon)

    def add(self, daemon: Daemon) -> Daemon:
        """Let this control plane end a process along with its own."""
        self._extra.append(daemon)
        return daemon

    # -- state ---------------------------------------------------------------------------------

    def wipe(self) -> None:
        """No pods, no nodes and nothing that a test has made in the default namespace."""
        self.api.delete_all("Pod", "default")
        self.api.delete_all("Node")
        self.api.delete_all("PodDisruptionBudget", "default", "policy/v1")
        for obj in self.api.objects("PriorityClass", version="scheduling.k8s.io/v1"):
            if not obj["metadata"]["name"].startswith("system-"):
                self.api.delete(
                    "PriorityClass", obj["metadata"]["name"], version="scheduling.k8s.io/v1"
                )
        if self.gangs:
            groups = self.api.objects("PodGroup", "default", "scheduling.k8s.io/v1beta1")
            for group in groups:
                self._release(group)
            self.api.delete_all("PodGroup", "default", "scheduling.k8s.io/v1beta1")

    def _release(self, group: Json) -> None:
        """A PodGroup is protected while it has pods; no controller is there to lift that."""
        if group["metadata"].get("finalizers"):
            self.api.patch(
                "PodGroup", group["metadata"]["name"], {"metadata": {"finalizers": None}},
                "default", version="scheduling.k8s.io/v1beta1",
            )  # fmt: skip

    def audited(self, user: str) -> list[Json]:
        """Requests of one user that were answered, oldest first."""
        lines = (self.home / "audit.jsonl").read_text(encoding="utf-8").splitlines()
        events = (json.loads(line) for line in lines)
        return [event for event in events if event["user"]["username"] == user]

    def _audit_flags(self) -> tuple[str, ...]:
        policy = {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [
                {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
                {"level": "None"},
            ],
        }
        path = self.home / "audit-policy.yaml"
        path.write_text(yaml.safe_dump(policy), encoding="utf-8")
        return (
            f"--audit-policy-file={path}",
            f"--audit-log-path={self.home / 'audit.jsonl'}",
        )

    def compact(self) -> None:
        """Compact etcd up to now, so that older resourceVersions are gone (410)."""
        now = self._etcd_call("kv/range", {"key": "AA==", "range_end": "AA==", "limit": 1})
        self._etcd_call("kv/compaction", {"revision": now["header"]["revision"], "physical": True})

    def _etcd_call(self, what: str, body: Json) -> Json:
        url = f"http://127.0.0.1:{self._etcd_port}/v3/{what}"
        request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urlopen(request, timeout=10) as answer:
            return dict(json.load(answer))

    # -- how the components start --------------------------------------------------------------

    def _write_secrets(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        (self.home / "accounts.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        (self.home / "accounts.pub").write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        lines = [
            f'{self.tokens[user]},{user},{number},"{groups}"'
            for number, (user, groups) in enumerate(_USERS.items())
        ]
        (self.home / "tokens.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _etcd(self) -> Daemon:
        client = f"http://127.0.0.1:{self._etcd_port}"
        peer = f"http://127.0.0.1:{self._peer_port}"
        argv = [
            self.assets.program("etcd"),
            f"--data-dir={self.home / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--log-level=warn",
            *(() if self._durable else ("--unsafe-no-fsync",)),
        ]
        return Daemon("etcd", argv, self.home, lambda: serves(f"{client}/health"))

    def _apiserver(self) -> Daemon:
        # A node gets its first taint from the API server and loses it by the lifecycle controller,
        # which does not run here.
        off = ["TaintNodesByCondition"] + ([] if self._service_accounts else ["ServiceAccount"])
        gangs = (
            "--feature-gates=GenericWorkload=true",
            "--runtime-config=scheduling.k8s.io/v1beta1=true",
        )
        argv = [
            self.assets.program("kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--cert-dir={self.home / 'certs'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={self.home / 'accounts.key'}",
            f"--service-account-key-file={self.home / 'accounts.pub'}",
            f"--token-auth-file={self.home / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/24",
            "--profiling=false",
            f"--disable-admission-plugins={','.join(off)}",
            *(gangs if self.gangs else ()),
            *self._flags,
        ]
        return Daemon("kube-apiserver", argv, self.home, self.api.ready)

    def _add(
        self, name: str, argv: Sequence[str | Path], port: int, *,
        scheme: str = "https", path: str = "/readyz",
    ) -> Daemon:  # fmt: skip
        where = f"{scheme}://127.0.0.1:{port}{path}"
        return self.add(Daemon(name, argv, self.home, lambda: serves(where)))


_UNVERIFIED = ssl.create_default_context()
_UNVERIFIED.check_hostname = False
_UNVERIFIED.verify_mode = ssl.CERT_NONE  # components make their own certificates on loopback


def serves(url: str) -> bool:
    """Whether a GET of this address is answered with 200."""
    try:
        with urlopen(url, timeout=2, context=_UNVERIFIED) as answer:
            return bool(answer.status == 200)
    except HTTPError as error:
        error.close()
        return False


@contextmanager
def running(daemon: Daemon, plane: ControlPlane) -> Iterator[Daemon]:
    """A component for the length of a block."""
    try:
        daemon.start()
        yield daemon
    finally:
        plane.forget(daemon)


def keep_logs_in(directory: Path, plane: ControlPlane) -> Path:
    """Copy the logs of a control plane to where they outlive it."""
    directory.mkdir(parents=True, exist_ok=True)
    for log in plane.home.glob("*.log"):
        shutil.copy(log, directory / f"{os.getpid()}-{log.name}")
    return directory
