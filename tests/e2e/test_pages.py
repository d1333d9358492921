"""Pages that need a cluster, followed line by line on a real control plane."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import Block, Shell, Where, blocks, copy_of

ROOT = Path(__file__).parents[2]
WALK = ROOT / "docs" / "start" / "walk.md"
# In this order: a cluster without pods first; what one page installs, the next one removes.
PAGES = ("docs/concepts/plans.md", "docs/start/install.md", "docs/start/remove.md", "README.md")
READY = {
    "make cluster": (
        "test $(kubectl --kubeconfig .cluster/kubeconfig get nodes | grep -c ' Ready') = 4"
    ),
    "snugfit serve": "curl -fs localhost:10262/readyz",
    "kube-scheduler": "kubectl get events -A",
}
"""Command that goes on running -> what holds once it is there."""

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


@pytest.fixture
def shell(tmp_path: Path, assets: object) -> Iterator[Shell]:
    """A shell in a copy of the repository; what it has started ends with it."""
    assert shutil.which("kubectl"), "the pages call kubectl: install it, or put it on the PATH"
    folder = copy_of(ROOT, tmp_path)
    path = f"{Path(sys.executable).parent}:{Path(shutil.which('kubectl') or '').parent}"
    go = shutil.which("go")
    path += f":{Path(go).parent}" if go else ""
    found = Shell(folder, {"PATH": f"{path}:/usr/bin:/bin", "PYTHONPATH": str(folder)})
    try:
        yield found
    finally:
        found.close()


def _run(shell: Shell, block: Block) -> None:
    shell.run(block)
    if block.background:
        begins = next(command for command in READY if block.text.startswith(command))
        shell.until(READY[begins])


def test_the_walk_can_be_walked(shell: Shell) -> None:
    found = list(blocks(WALK, ROOT))
    assert len(found) >= 8 and all(block.where is Where.CONTROL_PLANE for block in found)
    for block in found:
        _run(shell, block)


def test_install_and_remove(shell: Shell) -> None:
    start, environment = list(blocks(WALK, ROOT))[:2]
    _run(shell, start)
    _run(shell, environment)
    for page in PAGES:
        ours = [b for b in blocks(ROOT / page, ROOT) if b.where is Where.CONTROL_PLANE]
        assert ours, page
        for block in ours:
            _run(shell, block)
