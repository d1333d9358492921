"""``snugfit serve``."""

from __future__ import annotations

import gc
import json
import logging
import os
import socket
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scheduler.cli.inputs import cluster_argument
from scheduler.cli.options import gone, inapplicable
from scheduler.cli.output import complain, printable, say
from scheduler.core.defaults import DEFAULT_POLICY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduler.cluster.api.client import KubeClient
    from scheduler.cluster.settings import ExtenderConfig

__all__ = ["command"]

_COLLECTIONS = gc.get_threshold()
_READ_BETWEEN_COLLECTIONS = 50_000  # objects made while a cluster is read; 700 are usual


@click.command("serve")
@cluster_argument(required=False)
@click.option("--kubeconfig", help="Cluster to follow. [default: the pod's service account]")
@click.option("--context", help="Context of the kubeconfig.")
@click.option("--offline", is_flag=True, help="Serve a copy of CLUSTER; nothing is written to it.")
@click.option(
    "--workload-profile",
    "workload_profile_file",
    metavar="FILE",
    help="The pods of this file are typical, for good.  [default: learnt from the pods seen]",
)
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="YAML settings.")
@click.option("--host", help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port; 0 takes a free one. [default: 10262]")
@click.option("--url-prefix", help="Path of the verbs, such as /scheduler. [default: none]")
@click.option("--policy", help=f"See `snugfit policies`. [default: {DEFAULT_POLICY}]")
@click.option("--policy-file", help="Weights of `priced`, as written by `snugfit tune`.")
@click.option("--threads", type=int, help="Worker threads. [default: 4]")
@click.option(
    "--reservation-ttl", "reservation_ttl_s", type=float, help="Seconds a winner stays reserved."
)
@click.option("--planner/--no-planner", default=None, help="Plan the backlog beside the webhook.")
@click.option("--log-level", help="debug, info, warning or error.")
@click.option(
    "--print-config",
    is_flag=True,
    help="Print the settings in force as a commented YAML file, and stop.",
)
@gone("--nodes", instead="name the file as CLUSTER: snugfit serve --offline nodes.csv")
@gone("--mix", instead="write --workload-profile FILE")
@gone("--hold-ttl", instead="write --reservation-ttl SECONDS")
def command(
    cluster: tuple[str, ...],
    kubeconfig: str | None,
    context: str | None,
    offline: bool,
    workload_profile_file: str | None,
    config_file: Path | None,
    host: str | None,
    port: int | None,
    url_prefix: str | None,
    policy: str | None,
    policy_file: str | None,
    threads: int | None,
    reservation_ttl_s: float | None,
    planner: bool | None,
    log_level: str | None,
    print_config: bool,
) -> None:
    """Run the extender webhook that kube-scheduler calls.

    Settings come from defaults, then --config, then environment (SNUGFIT_PORT ...), then flags. An
    unknown setting is an error that names the nearest valid one.

    It follows a live cluster by its API: answers begin once everything that exists is known, and
    after a restart everything is learnt again.

    With --offline the cluster is what CLUSTER lists at the start, `POST /bind` is the truth,
    `DELETE /offline/pods/{uid}` releases, and `GET /debug/state` shows everything.

    \b
    snugfit serve --kubeconfig ~/.kube/config --context test
    snugfit serve --offline dump.json --port 10262
    """  # noqa: D301 - click looks for a real backspace
    from scheduler.cluster.settings_file import as_yaml, load
    from scheduler.core.errors import InvalidInput

    flags = {
        "kubeconfig": kubeconfig,
        "context": context,
        "host": host,
        "port": port,
        "url_prefix": url_prefix,
        "policy": policy,
        "policy_file": policy_file,
        "threads": threads,
        "reservation_ttl_s": reservation_ttl_s,
        "log_level": log_level,
        "planner": planner,
        "workload_profile_file": workload_profile_file,
    }
    config = load(config_file, os.environ, flags)
    if print_config:
        say(as_yaml(config).rstrip("\n"), keep="\n")
        for text in config.price_weights().remarks():
            complain(f"{config.policy_file}: {text}")
        return
    if offline and not cluster:
        raise InvalidInput("CLUSTER", "is missing", "name the cluster to serve a copy of")
    if cluster and not offline:
        raise InvalidInput("CLUSTER", "is for --offline", "add --offline, or drop it")
    because = (not offline, "with --offline no API is followed; write CLUSTER live:CONTEXT")
    inapplicable(kubeconfig=because, context=because)
    _log_to_stderr(config.log_level, as_json=config.log_json)
    for text in config.price_weights().remarks():
        logging.getLogger(__name__).warning("%s: %s", config.policy_file, text)
    _serve(config, cluster)


def _serve(config: ExtenderConfig, cluster: Sequence[str]) -> None:
    from scheduler.cli.inputs import read_workload
    from scheduler.cluster.follow import LiveCluster
    from scheduler.cluster.ledger import Ledger
    from scheduler.cluster.worker.planning import PlannerLoop
    from scheduler.core.engine import Engine
    from scheduler.core.errors import InvalidInput
    from scheduler.core.state import ClusterState
    from scheduler.core.workload_profile import WorkloadProfile
    from scheduler.files.workload import Workload, place_bound
    from scheduler.webhook.routes import create_app, probes
    from scheduler.webhook.server import ExtenderServer
    from scheduler.webhook.webhook import Webhook

    workload = read_workload(cluster) if cluster else Workload(())
    # Until enough pods were seen, the pods of the file are the best guess of what will come.
    profile = (
        read_workload([config.workload_profile_file]) if config.workload_profile_file else workload
    )
    known = [bound.request for bound in profile.bound] or list(profile.requests)
    if config.workload_profile_file and not known:
        raise InvalidInput(
            "workload_profile_file",
            f"{config.workload_profile_file} lists no pod",
            "name a file with typical pods",
        )
    typical = WorkloadProfile.from_requests(known)
    if config.workload_profile_file:  # a statement of what is typical, however few pods it takes
        typical = replace(typical, observed=0)
    engine = Engine(
        ClusterState(workload.nodes),
        config.policy,
        profile=typical,
        seed=config.seed,
    )
    place_bound(engine, workload)
    ledger = Ledger(engine, config, live=not cluster)
    client = None if cluster else _client(config)
    live = LiveCluster(ledger, client, _identity(), on_synced=_begin_service) if client else None
    loop = PlannerLoop(ledger) if config.needs_planner_process else None
    webhook = Webhook(ledger, loop, live)
    server = ExtenderServer(create_app(webhook), config, probes(webhook), client)
    if live:
        # Nearly all that is read of a cluster at first lives long: there is little to collect.
        gc.set_threshold(_READ_BETWEEN_COLLECTIONS)
        live.start()
    if loop:
        loop.start()
    try:
        server.serve_until_signalled()
    finally:
        if loop:
            loop.stop()
        if live:
            live.stop()


def _begin_service() -> None:
    """What a cluster consists of is known.

    Without freezing it, each full collection would look at all of it again and hold up every
    request meanwhile.
    """
    gc.freeze()
    gc.set_threshold(*_COLLECTIONS)


def _client(config: ExtenderConfig) -> KubeClient:
    from scheduler.cluster.api.client import KubeClient

    if config.kubeconfig or config.context:
        path = Path(config.kubeconfig) if config.kubeconfig else None
        return KubeClient.from_kubeconfig(path, config.context)
    return KubeClient.in_cluster()


def _identity() -> str:
    """Unique per process; the host name is the pod's name in a cluster."""
    return f"{socket.gethostname()}_{uuid.uuid4()}"


class _Lines(logging.Formatter):
    """Lines in which what others have written is escaped; tracebacks keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802, ANN401 - as the library has it
        return printable(super().formatException(ei), keep="\n")


class _JsonLines(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        content = {
            "at": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content)


def _log_to_stderr(level: str, *, as_json: bool) -> None:
    handler = logging.StreamHandler()
    plain = _Lines("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_JsonLines() if as_json else plain)
    logging.basicConfig(level=level.upper(), handlers=[handler])
