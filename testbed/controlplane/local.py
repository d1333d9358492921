"""A cluster of GPU nodes on this machine, to try things on: ``make cluster``.

etcd, kube-apiserver, kube-controller-manager and KWOK, which plays the kubelets of four nodes with
eight GPUs each. kube-scheduler is left to whoever tries Snugfit: its program is in ``bin``. Nothing
needs a container, root, or a GPU; containers of pods are not really run.

The directory named as the only argument gets ``kubeconfig`` and ``bin``. Ctrl-C ends the cluster
and forgets everything that was in it.
"""

from __future__ import annotations

import shutil
import signal
import sys
import threading
from pathlib import Path

from testbed.controlplane import objects
from testbed.controlplane.assets import find
from testbed.controlplane.plane import ControlPlane

__all__ = ["NODES", "main", "serve"]

NODES = 4
_PROGRAMS = ("kube-scheduler", "helm")


def serve(directory: Path, stop: threading.Event) -> None:
    """Run a cluster until the event is set.

    Parameters
    ----------
    directory
        Gets the kubeconfig and the programs; what is there already is replaced.
    stop
        Ends it.
    """
    with ControlPlane(find()) as plane:
        for daemon in (plane.controller_manager(), plane.kwok()):
            daemon.start()
        plane.api.create_all(objects.gpu_node(f"gpu-{index}") for index in range(NODES))
        programs = directory / "bin"
        shutil.rmtree(programs, ignore_errors=True)
        programs.mkdir(parents=True)
        for name in _PROGRAMS:
            (programs / name).symlink_to(plane.assets.program(name))
        user = plane.kubeconfig(plane.tokens["admin"], "admin")
        shutil.copyfile(user, directory / "kubeconfig")
        sys.stdout.write(
            f"{NODES} nodes with 8 GPUs each; Ctrl-C ends the cluster. In another terminal:\n\n"
            f"export KUBECONFIG={directory}/kubeconfig PATH={programs}:$PATH\n"
        )
        sys.stdout.flush()
        stop.wait()
    shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    """Serve until a signal."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    serve(Path(sys.argv[1]).resolve(), stop)


if __name__ == "__main__":
    main()
