"""What the chart ships, rendered by Helm itself and applied to the API server.

Tests run with the accounts, the roles and the configuration that users get, not with ones like
them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import yaml

from testbed.controlplane.plane import ControlPlane

Json = dict[str, Any]

REQUIRED = (
    "image.repository=registry.example.com/snugfit",
    "networkPolicy.schedulerFrom[0].ipBlock.cidr=192.0.2.0/24",
)
"""Values that have no default."""

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "snugfit"
NAMESPACE = "snugfit"


def render(plane: ControlPlane, release: str, *values: str) -> list[Json]:
    """Manifests of the chart for this version of Kubernetes; ``values`` as for ``--set``."""
    home = plane.home / "helm"
    done = subprocess.run(
        [
            plane.assets.program("helm"), "template", release, CHART,
            "--namespace", NAMESPACE,
            "--kube-version", f"v{plane.assets.version}",
            *(part for value in (*REQUIRED, *values) for part in ("--set", value)),
        ],
        env={**os.environ, "HELM_CACHE_HOME": str(home), "HELM_CONFIG_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise AssertionError(f"helm template {' '.join(values)}: {done.stderr}")
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


@dataclass(frozen=True)
class Release:
    """A release of the chart that is applied.

    Parameters
    ----------
    manifests
        All of it.
    plane
        Where.
    """

    manifests: Sequence[Json]
    plane: ControlPlane

    def of_kind(self, kind: str) -> list[Json]:
        """Manifests of this kind."""
        return [manifest for manifest in self.manifests if manifest["kind"] == kind]

    @property
    def account(self) -> str:
        """Name of the service account that the pods have."""
        (deployment,) = self.of_kind("Deployment")
        return str(deployment["spec"]["template"]["spec"]["serviceAccountName"])

    @property
    def scheduler_config(self) -> Json:
        """The KubeSchedulerConfiguration that is shipped."""
        return dict(yaml.safe_load(self._file("kube-scheduler.yaml")))

    @property
    def extender_config(self) -> Json:
        """The extender's settings that are shipped."""
        return dict(yaml.safe_load(self._file("extender.yaml")))

    def _file(self, name: str) -> str:
        (config,) = self.of_kind("ConfigMap")
        return str(config["data"][name])

    def token(self) -> str:
        """A token of the service account, as a kubelet would mount it."""
        return self.plane.api.issue_token(NAMESPACE, self.account)


def install(plane: ControlPlane, release: str, *values: str) -> Release:
    """Render, and apply in an order in which everything finds what it refers to.

    All but the Deployment: tests start its processes themselves, and where controllers run its
    pods would come along.
    """
    manifests = render(plane, release, *values)
    plane.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    first = ("Namespace", "ServiceAccount", "ClusterRole", "Role")
    for manifest in sorted(manifests, key=lambda manifest: manifest["kind"] not in first):
        if manifest["kind"] != "Deployment":
            plane.api.apply(manifest)
    return Release(manifests, plane)


@dataclass(frozen=True)
class Shipped:
    """Both topologies, applied side by side.

    Parameters
    ----------
    sidecar
        kube-scheduler and extender in one pod, with one account.
    service
        The extender on its own: its account may do what the extender needs, and nothing else.
    """

    sidecar: Release
    service: Release


# Each release keeps records to its own extender. Here they share a policy that knows both, and the
# one that tests of the chart install beside them.
_ONE_POLICY = (
    "recordPolicy.name=snugfit-device-records",
    "recordPolicy.accounts[0]=system:serviceaccount:snugfit:snugfit",
    "recordPolicy.accounts[1]=system:serviceaccount:trial:trial-snugfit",
)

_shipped: WeakKeyDictionary[ControlPlane, Shipped] = WeakKeyDictionary()


def shipped(plane: ControlPlane) -> Shipped:
    """Both topologies on this control plane, applied once."""
    if plane not in _shipped:
        _shipped[plane] = Shipped(
            install(plane, "snugfit"),
            install(plane, "snugfit-remote", "topology=service", *_ONE_POLICY),
        )
    return _shipped[plane]


class Helm:
    """Real Helm."""

    def __init__(self, program: Path, home: Path, version: str) -> None:
        self.program, self._home, self._version = program, home, version

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run one command of Helm, whatever its exit code."""
        return subprocess.run(
            [self.program, *args],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={"HOME": str(self._home), "PATH": "/usr/bin:/bin"},
        )

    def render(self, values: tuple[str, ...], release: str = "snugfit") -> list[dict[str, Any]]:
        """The manifests that the chart gives with these values."""
        done = self.run(*self._template(values, release))
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    def refusal(self, values: tuple[str, ...], required: tuple[str, ...] = REQUIRED) -> str:
        """What Helm says where the chart refuses these values."""
        done = self.run(*self._template(values, "snugfit", required))
        assert done.returncode != 0, done.stdout[:500]
        return done.stderr

    def _template(
        self, values: tuple[str, ...], release: str, required: tuple[str, ...] = REQUIRED
    ) -> list[str]:
        flags = [part for value in (*required, *values) for part in ("--set", value)]
        return [
            "template", release, str(CHART), "--namespace", release,
            "--kube-version", self._version, *flags,
        ]  # fmt: skip
