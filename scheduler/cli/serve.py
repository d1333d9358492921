"""``snugfit serve``."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from scheduler.core.model import PodRequest
    from scheduler.simulator.workload import Workload

__all__ = ["command"]


@click.command("serve")
@click.option("--offline", is_flag=True, help="Serve a cluster from a file; no Kubernetes.")
@click.option(
    "--nodes",
    type=click.Path(path_type=Path),
    help="Cluster file: openb .csv, snugfit/v1 or kubectl dump .json.",
)
@click.option(
    "--mix",
    type=click.Path(path_type=Path),
    help="Typical pods: those of this snugfit/v1 or kubectl dump file, for good. Default: learnt.",
)
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="YAML settings.")
@click.option("--host", help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port; 0 takes a free one. [default: 10262]")
@click.option("--policy", help="See `snugfit policies`. [default: priced]")
@click.option("--policy-file", help="Weights of `priced`, as written by `snugfit tune`.")
@click.option("--threads", type=int, help="Worker threads. [default: 4]")
@click.option("--hold-ttl", "hold_ttl_s", type=float, help="Seconds a winner stays reserved.")
@click.option("--planner/--no-planner", default=None, help="Plan the backlog beside the webhook.")
@click.option("--log-level", help="debug, info, warning or error.")
@click.option("--print-config", is_flag=True, help="Print the effective settings and stop.")
def command(
    offline: bool,
    nodes: Path | None,
    mix: Path | None,
    config_file: Path | None,
    host: str | None,
    port: int | None,
    policy: str | None,
    policy_file: str | None,
    threads: int | None,
    hold_ttl_s: float | None,
    planner: bool | None,
    log_level: str | None,
    print_config: bool,
) -> None:
    """Run the extender webhook that kube-scheduler calls.

    Settings come from defaults, then --config, then environment (SNUGFIT_PORT ...), then flags. An
    unknown setting is an error that names the nearest valid one.

    With --offline the cluster comes from --nodes, `POST /bind` is the truth, `DELETE
    /offline/pods/{uid}` releases, and `GET /debug/state` shows everything.
    """
    from dataclasses import asdict

    from scheduler.cli.console import print_json
    from scheduler.core.engine import Engine
    from scheduler.core.errors import InvalidInput
    from scheduler.core.mix import TypicalMix
    from scheduler.core.state import ClusterState
    from scheduler.extender.app import create_app
    from scheduler.extender.config import load
    from scheduler.extender.planning import PlannerLoop
    from scheduler.extender.server import ExtenderServer
    from scheduler.extender.service import ExtenderService
    from scheduler.simulator.files import load_workload
    from scheduler.simulator.workload import place_bound

    flags = {
        "host": host,
        "port": port,
        "policy": policy,
        "policy_file": policy_file,
        "threads": threads,
        "hold_ttl_s": hold_ttl_s,
        "log_level": log_level,
        "planner": planner,
        "relearn_every": 0 if mix else None,
    }
    config = load(config_file, os.environ, flags)
    if print_config:
        print_json(asdict(config))
        return
    if not offline:
        raise InvalidInput(
            "--offline",
            "is missing; this version serves clusters from a file only",
            "use --offline --nodes FILE",
        )
    if nodes is None:
        raise InvalidInput("--nodes", "is missing", "name a cluster file")
    _log_to_stderr(config.log_level, as_json=config.log_json)
    workload = load_workload(nodes)
    # Until enough pods were seen, the pods of the file are the best guess of what will come.
    known = _pods(load_workload(mix)) if mix else _pods(workload)
    if mix and not known:
        raise InvalidInput("--mix", f"{mix} lists no pod", "name a file with typical pods")
    engine = Engine(
        ClusterState(workload.nodes),
        config.policy,
        mix=TypicalMix.from_requests(known),
        seed=config.seed,
    )
    place_bound(engine, workload)
    service = ExtenderService(engine, config, offline=True)
    loop = PlannerLoop(service, config) if config.needs_planner_process else None
    server = ExtenderServer(create_app(service, loop), config)
    if loop:
        loop.start()
    try:
        server.serve_until_signalled()
    finally:
        if loop:
            loop.stop()


def _pods(workload: Workload) -> list[PodRequest]:
    return [bound.request for bound in workload.bound] or list(workload.requests)


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
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_JsonLines() if as_json else plain)
    logging.basicConfig(level=level.upper(), handlers=[handler])
