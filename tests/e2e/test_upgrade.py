"""From version 0.1 to this one and back, while pods run: both read what either has recorded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml

from testbed.controlplane.api import Json, eventually
from testbed.controlplane.earlier import Earlier, EarlierMissing
from testbed.controlplane.extender import Extender
from testbed.controlplane.objects import (
    DEVICES,
    fraction_node,
    fraction_pod,
    gpu_node,
    gpu_pod,
    mig_node,
    mig_pod,
    pod_group,
)
from testbed.controlplane.system import RESERVATION_TTL_S, System
from testbed.controlplane.vigil import Vigil

pytestmark = pytest.mark.e2e

A100 = "NVIDIA-A100-SXM4-80GB"


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Earlier:
    """Version 0.1."""
    try:
        return Earlier(tmp_path_factory.mktemp("earlier"))
    except EarlierMissing as error:
        pytest.skip(f"version 0.1 cannot be had here: {error}")


@pytest.fixture
def start_earlier(system: System, earlier: Earlier) -> Callable[[str], Extender]:
    """Starts an extender of version 0.1, and waits until it knows the cluster."""

    def start(name: str) -> Extender:
        plane = system.cluster.plane
        settings = plane.home / f"{name}.yaml"
        settings.write_text(yaml.safe_dump({"hold_ttl_s": RESERVATION_TTL_S, "planner": False}))
        flags = ["--kubeconfig", system.kubeconfig(), "--config", settings]
        extender = earlier.extender(plane, flags, name)
        extender.start()
        assert any("snugfit_holds" in name for name in extender.metrics()), "this is not 0.1"
        return extender

    return start


def _wave(number: int) -> list[Json]:
    """Pods of every kind, of which four waves fill the cluster."""
    return [
        *(fraction_pod(f"half-{number}-{i}", 500) for i in range(2)),
        fraction_pod(f"memory-{number}", 300, memory_mib=20_000),
        gpu_pod(f"whole-{number}"),
        mig_pod(f"slice-{number}", "1g.10gb"),
    ]


def _records(system: System) -> dict[str, str]:
    """Pod -> the devices that its annotation names."""
    return {
        pod["metadata"]["name"]: text
        for pod in system.api.objects("Pod")
        if (text := (pod["metadata"].get("annotations") or {}).get(DEVICES))
    }


def test_an_upgrade_and_a_rollback_find_running_pods_where_they_are(system, start_earlier):
    cluster = system.cluster
    cluster.create(
        [
            gpu_node("whole", 4),
            fraction_node("part-0", 2),
            fraction_node("part-1", 4),
            mig_node("mig", {"1g.10gb": 7}, A100),
        ]
    )
    with Vigil(cluster.api.as_user(cluster.api.token)):
        first = start_earlier("extender-0.1")
        scheduler = system.add_scheduler(first.url)
        cluster.create(_wave(0))
        cluster.all_bound(5)
        by_first = _records(system)
        assert len(by_first) == 3, "fractions have records"

        later = system.add_extender()  # knows what the other has done before it is asked
        eventually(lambda: not system.differences(later), "it agrees with the records of 0.1")
        scheduler.terminate()
        first.terminate()
        scheduler = system.add_scheduler(later.url)
        group = pod_group("pair", 2)
        cluster.create([group, *_wave(1)])
        cluster.create([gpu_pod(f"pair-{i}", group="pair") for i in range(2)])
        cluster.all_bound(12)
        system.verify()

        scheduler.terminate()
        later.terminate()
        again = start_earlier("extender-0.1-again")
        assert again.get("/readyz")["drift"] == 0
        system.add_scheduler(again.url)
        cluster.create(_wave(2) + _wave(3))
        bound = cluster.settle()
        records = _records(system)
    # Nothing is given twice, and nothing is lost: only two whole devices too many were asked for.
    assert set(cluster.pending()) == {"whole-2", "whole-3"} and len(bound) == 20
    assert by_first.items() <= records.items() and len(records) == 12
    cluster.validator.check()
