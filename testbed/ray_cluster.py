"""A Ray cluster of several nodes on this machine: ``python -m testbed.ray_cluster NODES``.

Each node has one core. Prints the address as soon as all nodes are there; for each line on standard
input the youngest node is killed, and ``killed`` is printed. Ends with its standard input.
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster

__all__ = ["main"]

_ONE_CORE = {"num_cpus": 1, "include_dashboard": False}


def main(nodes: int) -> None:
    """Run the cluster."""
    cluster = Cluster(initialize_head=True, head_node_args=_ONE_CORE)
    others = [cluster.add_node(num_cpus=1) for _ in range(nodes - 1)]
    cluster.wait_for_nodes()
    try:
        _tell(cluster.address)
        for _ in sys.stdin:
            cluster.remove_node(others.pop(), allow_graceful=False)
            _tell("killed")
    finally:
        cluster.shutdown()


def _tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
