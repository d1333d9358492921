"""``snugfit simulate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from scheduler.simulator.workload import Workload

__all__ = ["command"]


@click.command("simulate")
@click.option(
    "--nodes",
    type=click.Path(path_type=Path),
    help="openb node list (.csv), snugfit/v1 file or kubectl dump (.json). Default: synthetic.",
)
@click.option("--pods", type=click.Path(path_type=Path), help="openb pod list (.csv).")
@click.option("--policy", default="fgd", show_default=True, help="See `snugfit policies`.")
@click.option("--seed", default=0, show_default=True, help="Decides everything random.")
@click.option(
    "--protocol",
    type=click.Choice(["inflation", "as-listed"]),
    default="as-listed",
    show_default=True,
    help="inflation: shuffle, then draw pods until --arrival. as-listed: file order.",
)
@click.option(
    "--arrival",
    default=1.3,
    show_default=True,
    help="Requested GPUs / capacity at the end of an inflation.",
)
@click.option("--report", type=click.Path(path_type=Path), help="Write an HTML report.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    nodes: Path | None,
    pods: Path | None,
    policy: str,
    seed: int,
    protocol: str,
    arrival: float,
    report: Path | None,
    as_json: bool,
) -> None:
    r"""Replay a workload through the engine and report what got allocated.

    Pods arrive one by one and stay. Each goes where the policy says if it fits anywhere. A referee
    that shares no code with the engine replays every decision before anything is printed.

    \b
    snugfit simulate                                       # the embedded synthetic workload
    snugfit simulate --nodes N.csv --pods P.csv --policy fgd-published --protocol inflation
    """
    from scheduler.cli.console import print_json, print_table, progress
    from scheduler.core.policies import policy_named
    from scheduler.simulator.inflation import Experiment, run
    from scheduler.simulator.timeline import Timeline

    policy_named(policy)
    workload = _workload(nodes, pods)
    experiment = Experiment(policy, seed, protocol, arrival, workload.digest())
    timeline = Timeline() if report else None
    with progress(f"{policy} on {workload.source}") as bar:
        outcome = run(
            workload, experiment, progress=bar, observe=timeline.observe if timeline else None
        )
    if report and timeline:
        from scheduler.simulator.report import write_report

        write_report(report, workload, [(outcome, timeline)])
    if as_json:
        print_json(outcome.to_json())
        return
    print_table(
        f"{policy} on {workload.source}, seed {seed} (config {experiment.config_hash})",
        ("requested share of capacity", "GPU allocated %"),
        [*outcome.allocation_at.items(), ("end", _percent(outcome))],
    )
    click.echo(
        f"{outcome.placed} pods placed, {outcome.dropped} dropped, {outcome.seconds:.2f} s; "
        "every decision checked by the referee"
    )


def _percent(outcome: object) -> float:
    from scheduler.simulator.inflation import Outcome

    assert isinstance(outcome, Outcome)
    return 100 * outcome.allocated_gpu_milli / max(1, outcome.capacity_gpu_milli)


def _workload(nodes: Path | None, pods: Path | None) -> Workload:
    from scheduler.core.errors import InvalidInput
    from scheduler.simulator.files import load_workload
    from scheduler.simulator.generate import GeneratorConfig, generate

    if nodes is None:
        if pods is not None:
            raise InvalidInput("--pods", "needs --nodes", "give both")
        return generate(GeneratorConfig())
    workload = load_workload(nodes, pods)
    if not workload.arrivals:
        raise InvalidInput(
            "--pods", "no pod arrives", "give an openb pod list, or pods in the JSON"
        )
    return workload
