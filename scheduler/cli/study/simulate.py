"""``snugfit simulate``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scheduler.cli.terminal import say
from scheduler.core.defaults import DEFAULT_POLICY

if TYPE_CHECKING:
    from scheduler.core.power import PowerModel
    from scheduler.files.workload import Workload
    from scheduler.simulator.inflation import Experiment, Outcome
    from scheduler.simulator.replay import ReplayOutcome
    from scheduler.simulator.timeline import Timeline

    Run = tuple[Outcome | ReplayOutcome, Timeline | None]

__all__ = ["command"]


@click.command("simulate")
@click.option(
    "--nodes",
    type=click.Path(path_type=Path),
    help="openb node list (.csv), snugfit/v1 file, or Kubernetes objects (JSON, YAML, a folder). "
    "Default: synthetic.",
)
@click.option(
    "--pods", type=click.Path(path_type=Path), help="openb pod list (.csv), or more objects."
)
@click.option("--policy", default=DEFAULT_POLICY, show_default=True, help="See `snugfit policies`.")
@click.option("--compare", default="", help="More policies for the same run, comma-separated.")
@click.option("--seed", default=0, show_default=True, help="Decides everything random.")
@click.option(
    "--protocol",
    type=click.Choice(["inflation", "as-listed", "replay"]),
    default="as-listed",
    show_default=True,
    help="inflation: shuffle, then draw pods until --arrival. as-listed: file order. "
    "replay: pods arrive, wait and leave at their own times.",
)
@click.option(
    "--arrival",
    default=1.3,
    show_default=True,
    help="Requested GPUs / capacity at the end of an inflation.",
)
@click.option("--rate", default=1.0, show_default=True, help="Replay: arrivals so much faster.")
@click.option(
    "--mix",
    type=click.Choice(["given", "learnt"]),
    default="given",
    show_default=True,
    help="Typical pods are those of the whole workload, or learnt from pods seen so far.",
)
@click.option("--learn", is_flag=True, help="The same as --mix learnt.")
@click.option(
    "--policy-file",
    type=click.Path(path_type=Path),
    help="Weights of `priced`, as written by `snugfit tune`.",
)
@click.option(
    "--plan-every",
    default=0.0,
    help="Replay: let the planner plan the waiting pods every so many seconds.  [default: never]",
)
@click.option(
    "--planner-lines",
    is_flag=True,
    help="With --plan-every: also without the planner, and the bound of an offline optimum.",
)
@click.option("--report", type=click.Path(path_type=Path), help="Write an HTML report.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(
    nodes: Path | None,
    pods: Path | None,
    policy: str,
    compare: str,
    seed: int,
    protocol: str,
    arrival: float,
    rate: float,
    mix: str,
    learn: bool,
    policy_file: Path | None,
    plan_every: float,
    planner_lines: bool,
    report: Path | None,
    as_json: bool,
) -> None:
    """Replay a workload through the engine and report what got allocated.

    Pods arrive one by one; each goes where the policy says if it fits anywhere. Without --protocol
    replay they stay. A validator that shares no code with the engine follows every decision before
    anything is printed.

    \b
    snugfit simulate                                       # the embedded synthetic workload
    snugfit simulate --compare best-fit,kube-default --report report.html
    snugfit simulate --nodes N.csv --pods P.csv --policy fgd-published --protocol inflation
    snugfit simulate --nodes N.csv --pods P.csv --protocol replay --rate 300
    snugfit simulate --protocol replay --plan-every 60 --planner-lines --report report.html
    """  # noqa: D301 - click looks for a real backspace
    from scheduler.cli.console import print_json
    from scheduler.cli.inputs import read_weights, said_of
    from scheduler.core.errors import InvalidInput
    from scheduler.core.policies.table import policy_named
    from scheduler.simulator.inflation import Experiment

    policies = [policy, *(name.strip() for name in compare.split(",") if name.strip())]
    for name in policies:
        policy_named(name)
    workload = _workload(nodes, pods)
    digest = workload.digest()
    weights = read_weights(policy_file) if policy_file else None
    experiments = [
        Experiment(
            name,
            seed,
            protocol,
            arrival,
            digest,
            mix="learnt" if learn else mix,
            weights=weights if name == "priced" else None,
        )
        for name in policies
    ]
    if planner_lines and not (protocol == "replay" and plan_every > 0):
        raise InvalidInput(
            "--planner-lines", "compares nothing", "use --protocol replay and --plan-every"
        )
    every = [0.0, plan_every] if planner_lines else [plan_every]
    runs = [
        _run(
            workload,
            experiment,
            (rate, k),
            report,
            watts=weights.watts if weights else None,
            bounded=planner_lines and k > 0,
        )
        for experiment in experiments
        for k in every
    ]
    if report:
        from scheduler.simulator.report import write_report

        write_report(report, workload, [(o, t) for o, t in runs if t])
    outcomes = [outcome for outcome, _ in runs]
    if as_json:
        first, *others = (_json(*each) for each in runs)
        compared = {"compared": others} if others else {}
        print_json({**first, **compared, **said_of(workload)})
    elif protocol == "replay":
        _print_replay(workload, runs)
    else:
        _print_allocation(workload, outcomes)


def _json(outcome: Outcome | ReplayOutcome, timeline: Timeline | None) -> dict[str, Any]:
    content = outcome.to_json()
    if timeline and timeline.ceiling:
        content["offline_bound"] = [
            {"at_s": round(at, 3), "percent": round(100 * share, 4)}
            for at, share in timeline.ceiling
        ]
    return content


def _run(
    workload: Workload,
    experiment: Experiment,
    timing: tuple[float, float],
    report: Path | None,
    *,
    watts: PowerModel | None,
    bounded: bool,
) -> Run:
    from scheduler.cli.console import progress
    from scheduler.simulator.inflation import run
    from scheduler.simulator.replay import replay
    from scheduler.simulator.timeline import Timeline

    timeline = Timeline(bounded=bounded) if report or bounded else None
    with progress(f"{experiment.policy} on {workload.source}") as bar:
        if experiment.protocol == "replay":
            observe = timeline.observe_time if timeline else None
            rate, plan_every = timing
            outcome: Outcome | ReplayOutcome = replay(
                workload,
                experiment,
                rate=rate,
                plan_every_s=plan_every,
                watts=watts,
                progress=bar,
                observe=observe,
            )
        else:
            observe_share = timeline.observe if timeline else None
            outcome = run(workload, experiment, watts=watts, progress=bar, observe=observe_share)
    return outcome, timeline


def _print_allocation(workload: Workload, outcomes: Sequence[Outcome | ReplayOutcome]) -> None:
    from scheduler.cli.console import print_table
    from scheduler.simulator.inflation import Outcome

    listed = [outcome for outcome in outcomes if isinstance(outcome, Outcome)]
    shares = [o.allocation_at for o in listed]
    rows = [(share, *(at.get(share) for at in shares)) for share in shares[0]]
    end = [100 * o.allocated_gpu_milli / max(1, o.capacity_gpu_milli) for o in listed]
    config = ", ".join(o.experiment.config_hash for o in listed)
    print_table(
        f"GPU allocated %, {workload.source}, seed {listed[0].experiment.seed} (config {config})",
        ("requested share of capacity", *(o.experiment.policy for o in listed)),
        [*rows, ("end", *end), ("power at the end, kW", *(o.power_kw for o in listed))],
    )
    for o in listed:
        say(
            f"{o.experiment.policy}: {o.placed} pods placed, {o.dropped} dropped, "
            f"{o.seconds:.2f} s; every decision checked by the validator"
        )


def _print_replay(workload: Workload, runs: Sequence[Run]) -> None:
    from scheduler.cli.console import print_table
    from scheduler.simulator.replay import ReplayOutcome

    listed = [outcome for outcome, _ in runs if isinstance(outcome, ReplayOutcome)]
    ceilings = [_mean_ceiling(timeline) for _, timeline in runs]
    bound = ("offline optimum, at most, % over time", ceilings)
    facts: list[tuple[str, Sequence[object]]] = [
        ("GPU allocated, % over time", [o.allocation_percent for o in listed]),
        *([bound] if any(mean is not None for mean in ceilings) else []),
        ("GPU asked for, % over time", [o.demand_percent for o in listed]),
        ("GPU allocated at the peak, %", [o.peak_percent for o in listed]),
        ("power, kW over time", [o.power_kw for o in listed]),
        ("pods placed", [o.placed for o in listed]),
        ("pods starved", [o.pods - o.placed for o in listed]),
        ("gangs whole / half / none", [_gangs(o) for o in listed]),
        ("GPU hours held by half gangs", [o.half_gang_gpu_hours for o in listed]),
    ]
    rows: list[tuple[object, ...]] = [(name, *values) for name, values in facts]
    for name in listed[0].waiting:
        waits = [o.waiting[name] for o in listed]
        rows.append(
            (f"{name}: wait p50 / p95, s", *(f"{w.p50_s:.0f} / {w.p95_s:.0f}" for w in waits))
        )
    print_table(
        f"Replay of {workload.source}, arrivals x {listed[0].rate:g}",
        ("", *(o.label for o in listed)),
        rows,
    )


def _mean_ceiling(timeline: Timeline | None) -> float | None:
    """Mean over time of the offline bound, in percent; the larger end of each interval counts."""
    points = timeline.ceiling if timeline else []
    span = points[-1][0] - points[0][0] if points else 0.0
    if not span:
        return None
    total = sum((end - at) * max(a, b) for (at, a), (end, b) in pairwise(points))
    return 100 * total / span


def _gangs(outcome: ReplayOutcome) -> str:
    return f"{outcome.gangs_whole} / {outcome.gangs_half} / {outcome.gangs_none}"


def _workload(nodes: Path | None, pods: Path | None) -> Workload:
    from scheduler.cli.inputs import read_workload
    from scheduler.core.errors import InvalidInput
    from scheduler.simulator.generate import GeneratorConfig, generate

    if nodes is None:
        if pods is not None:
            raise InvalidInput("--pods", "needs --nodes", "give both")
        return generate(GeneratorConfig())
    workload = read_workload(nodes, pods)
    if not workload.arrivals:
        raise InvalidInput(
            "--pods", "no pod arrives", "give an openb pod list, or pods in the JSON"
        )
    return workload
