"""One control plane for the session; each test finds it empty and leaves it empty."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.controlplane.assets import Assets, AssetsMissing, find
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.plane import ControlPlane
from testbed.controlplane.process import guardian
from testbed.controlplane.system import System

_NOT_RUN = pytest.StashKey[str]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without the programs there is nothing to run; one line says so, not one per test."""
    ours = [item for item in items if item.get_closest_marker("e2e")]
    if not ours or "not e2e" in config.getoption("markexpr"):
        return
    try:
        find()
    except AssetsMissing as error:
        config.stash[_NOT_RUN] = f"{len(ours)} END-TO-END TESTS DID NOT RUN: {error}"
        config.hook.pytest_deselected(items=ours)
        items[:] = [item for item in items if item not in ours]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """The loud line."""
    said = config.stash.get(_NOT_RUN, "")
    if said:
        terminalreporter.write_line(said, yellow=True, bold=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Show what the components logged beside a failure."""
    report = yield
    if report.failed:
        planes = {
            id(plane): plane
            for value in getattr(item, "funcargs", {}).values()
            if isinstance(
                plane := getattr(getattr(value, "cluster", value), "plane", value), ControlPlane
            )
        }
        for plane in planes.values():
            report.sections.append(("control plane", plane.tails()))
    return report


@pytest.fixture(scope="session")
def assets() -> Iterator[Assets]:
    """The programs; whatever was started with them is gone at the end."""
    yield find()
    guardian.dismiss()


@pytest.fixture(scope="session")
def plane(assets: Assets) -> Iterator[ControlPlane]:
    """etcd and kube-apiserver."""
    with ControlPlane(assets) as plane:
        yield plane


@pytest.fixture
def cluster(plane: ControlPlane) -> Iterator[Cluster]:
    """The session's control plane, without nodes and pods."""
    cluster = Cluster(plane)
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def system(cluster: Cluster) -> System:
    """The product on the empty control plane; nothing of it runs yet."""
    return System(cluster)
