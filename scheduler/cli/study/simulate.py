"""``snugfit simulate``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scheduler.cli.inputs import cluster_argument
from scheduler.cli.options import (
    gone,
    inapplicable,
    json_option,
    kubeconfig_option,
    pool_options,
    seed_option,
)
from scheduler.cli.output import EXIT_INTERRUPTED, say
from scheduler.core.defaults import DEFAULT_POLICY
from scheduler.core.plural import plural

if TYPE_CHECKING:
    from scheduler.core.price_weights import PriceWeights
    from scheduler.files.workload import Workload
    from scheduler.simulator.inflation import Experiment, Outcome
    from scheduler.simulator.replay import ReplayOutcome
    from scheduler.simulator.sweep.pools import Pool
    from scheduler.simulator.sweep.runs import Job
    from scheduler.simulator.timeline import Timeline

__all__ = ["command"]

_SHOWN = 10


@click.command("simulate")
@cluster_argument(required=False)
@click.option("--policy", default=DEFAULT_POLICY, show_default=True, help="See `snugfit policies`.")
@click.option(
    "--compare",
    default="",
    metavar="POLICY,...",
    help="More policies for the same run; `rivals` for all that others would run.",
)
@seed_option
@click.option(
    "--seeds",
    type=click.IntRange(2, 1000),
    help="Runs with as many seeds from --seed on, and intervals of their means.  [default: one]",
)
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
    help="Inflation: requested GPUs / capacity at the end.",
)
@click.option("--rate", default=1.0, show_default=True, help="Replay: arrivals so much faster.")
@click.option(
    "--learn",
    is_flag=True,
    help="Learn the workload profile from the pods seen so far, as the webhook does.  "
    "[default: that of the whole workload]",
)
@click.option(
    "--policy-file",
    type=click.Path(path_type=Path),
    help="Weights of `priced`, as written by `snugfit tune`.",
)
@click.option(
    "--plan-every",
    default=0.0,
    help="Replay: let the planner plan the pending pods every so many seconds.  [default: never]",
)
@click.option(
    "--planner-lines",
    is_flag=True,
    help="With --plan-every: also without the planner, and the bound of an offline optimum.",
)
@pool_options
@click.option("--explain", is_flag=True, help="List every pod that stayed pending, and why.")
@click.option("--report", type=click.Path(path_type=Path), help="Write an HTML report.")
@kubeconfig_option
@json_option
@gone(
    "--nodes",
    "--pods",
    instead="name the files as CLUSTER: snugfit simulate nodes.csv pods.csv",
)
@gone("--mix", instead="write --learn for what was `--mix learnt`; `given` is the default")
def command(
    cluster: tuple[str, ...],
    policy: str,
    compare: str,
    seed: int,
    seeds: int | None,
    protocol: str,
    arrival: float,
    rate: float,
    learn: bool,
    policy_file: Path | None,
    plan_every: float,
    planner_lines: bool,
    processes: int | None,
    ray: str | None,
    explain: bool,
    report: Path | None,
    kubeconfig: Path | None,
    as_json: bool,
) -> None:
    """Replay a workload through the engine and report what got allocated.

    Pods arrive one by one; each goes where the policy says if it fits anywhere. Without --protocol
    replay they stay. A validator that shares no code with the engine follows every decision before
    anything is printed. Without CLUSTER the workload is the synthetic one that comes with Snugfit.
    Ctrl-C ends the present run and prints what is known. Runs with several --seeds are spread over
    processes; of these Ctrl-C keeps the ones that are done.

    \b
    snugfit simulate
    snugfit simulate --compare best-fit,kube-default --report report.html
    snugfit simulate dump.json --explain
    snugfit simulate nodes.csv pods.csv --protocol inflation --seeds 10
    snugfit simulate nodes.csv pods.csv --protocol replay --rate 300
    snugfit simulate --protocol replay --plan-every 60 --planner-lines
    """  # noqa: D301 - click looks for a real backspace
    from scheduler.cli.inputs import read_weights, said_of
    from scheduler.cli.interrupts import stop_on_interrupt
    from scheduler.cli.output import message, print_json, writable
    from scheduler.cli.pools import pool_of
    from scheduler.core.policies.table import policies_named
    from scheduler.simulator.generate import GeneratorConfig
    from scheduler.simulator.inflation import Experiment
    from scheduler.simulator.sweep.runs import Job

    policies = policies_named(f"{policy},{compare}")
    replayed = protocol == "replay"
    inapplicable(
        arrival=(protocol == "inflation", "it is for --protocol inflation"),
        rate=(replayed, "it is for --protocol replay"),
        plan_every=(replayed, "it is for --protocol replay"),
        planner_lines=(replayed and plan_every > 0, "use --protocol replay and --plan-every"),
        policy_file=("priced" in policies, "it has weights of policy priced, which is not run"),
        explain=(not as_json, "--json lists all pending pods"),
        report=(seeds is None, "it shows runs of one seed"),
        processes=(seeds is not None, "one run is done in one process; see --seeds"),
        ray=(seeds is not None, "one run is done in one process; see --seeds"),
        seeds=(
            protocol == "inflation" or "random" in policies,
            "only --protocol inflation and policy random depend on the seed",
        ),
    )
    writable(report, "--report")
    if report:
        from scheduler.simulator.report import ready_to_report

        ready_to_report()
    weights = read_weights(policy_file) if policy_file else None
    plans = (0.0, plan_every) if planner_lines else (plan_every,)
    with _workload(cluster, kubeconfig) as (files, workload):
        if seeds:
            jobs = [
                Job(
                    files,
                    name,
                    one,
                    protocol,
                    arrival,
                    workload_profile="learnt" if learn else "given",
                    weights=weights if name == "priced" else None,
                    watts=weights.watts if weights else None,
                    generated=None if files else GeneratorConfig(),
                    rate=rate,
                    plan_every_s=every,
                    bounded=planner_lines and every > 0,
                )
                for name in policies
                for every in plans
                for one in range(seed, seed + seeds)
            ]
            _swept(jobs, pool_of(processes, ray), workload, as_json=as_json)
            return
    digest = workload.digest()
    experiments = [
        Experiment(
            name,
            seed,
            protocol,
            arrival,
            digest,
            workload_profile="learnt" if learn else "given",
            weights=weights if name == "priced" else None,
        )
        for name in policies
    ]
    with stop_on_interrupt() as asked:
        runs = _Runs(workload, weights, rate, bool(report), asked.is_set)
        for experiment in experiments:
            for every in plans:
                if not (asked.is_set() and runs.done):
                    runs.add(experiment, every, bounded=planner_lines and every > 0)
    if report:
        from scheduler.simulator.report import write_report

        write_report(report, workload, runs.reported())
    if as_json:
        print_json({"runs": [run.to_json() for run in runs.done], **said_of(workload)})
    elif replayed:
        _print_replay(runs, workload, explain=explain)
    else:
        _print_allocation(runs, workload, explain=explain)
    if asked.is_set():
        left = len(experiments) * (1 + planner_lines) - len(runs.done)
        message(f"stopped by Ctrl-C in the run of {runs.done[-1].label}; runs not begun: {left}")
        raise click.exceptions.Exit(EXIT_INTERRUPTED)


# -- several seeds -------------------------------------------------------------------------------


def _swept(jobs: Sequence[Job], pool: Pool, workload: Workload, *, as_json: bool) -> None:
    """Runs with several seeds, and means over them."""
    from scheduler.cli.inputs import said_of
    from scheduler.cli.interrupts import heard_by
    from scheduler.cli.output import message, print_json, print_table, progress
    from scheduler.cli.study.means import columns, means
    from scheduler.simulator.sweep.runner import Runner
    from scheduler.simulator.sweep.runs import told_of

    done: list[dict[str, Any]] = []
    stopped = False
    try:
        title = f"{len(jobs)} runs on {workload.source}"
        with pool, progress(title) as bar, heard_by(bar) as told:
            for row in Runner(pool).in_order(told_of, jobs, told):
                row.figures["seconds"] = round(row.seconds, 4)
                done.append(row.figures)
    except KeyboardInterrupt:
        stopped = True
    found = means(done)
    if as_json:
        print_json({"runs": done, "means": found, **said_of(workload)})
    elif found:
        seeds = max(mean["seeds"] for mean in found)
        title = f"{workload.source}: mean of {seeds} seeds, ± half of the 95 % interval"
        print_table(title, *columns(found))
    if stopped:
        message(f"stopped by Ctrl-C; runs done: {len(done)} of {len(jobs)}")
        raise click.exceptions.Exit(EXIT_INTERRUPTED)


# -- runs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """A run that is over."""

    outcome: Outcome | ReplayOutcome
    timeline: Timeline | None

    @property
    def label(self) -> str:
        return getattr(self.outcome, "label", self.outcome.experiment.policy)

    def to_json(self) -> dict[str, Any]:
        content = self.outcome.to_json()
        if self.timeline and self.timeline.ceiling:
            content["offline_bound"] = self.timeline.ceiling_json()
        return content


class _Runs:
    """Does runs one after another and keeps them."""

    def __init__(
        self,
        workload: Workload,
        weights: PriceWeights | None,
        rate: float,
        timed: bool,
        stop: Callable[[], bool],
    ) -> None:
        self._workload, self._rate, self._timed, self._stop = workload, rate, timed, stop
        self._watts = weights.watts if weights else None
        self.done: list[_Run] = []

    def add(self, experiment: Experiment, plan_every_s: float, *, bounded: bool) -> None:
        from scheduler.cli.output import progress
        from scheduler.simulator.inflation import run
        from scheduler.simulator.replay import replay
        from scheduler.simulator.timeline import Timeline

        timeline = Timeline(bounded=bounded) if self._timed or bounded else None
        with progress(f"{experiment.policy} on {self._workload.source}") as bar:
            if experiment.protocol == "replay":
                outcome: Outcome | ReplayOutcome = replay(
                    self._workload,
                    experiment,
                    rate=self._rate,
                    plan_every_s=plan_every_s,
                    watts=self._watts,
                    progress=bar,
                    observe=timeline.observe_time if timeline else None,
                    stop=self._stop,
                )
            else:
                outcome = run(
                    self._workload,
                    experiment,
                    watts=self._watts,
                    progress=bar,
                    observe=timeline.observe if timeline else None,
                    stop=self._stop,
                )
        self.done.append(_Run(outcome, timeline))

    def reported(self) -> list[tuple[Outcome | ReplayOutcome, Timeline]]:
        """Runs of which there is something to draw."""
        return [(r.outcome, r.timeline) for r in self.done if r.timeline and r.timeline.samples]


@contextmanager
def _workload(
    cluster: Sequence[str], kubeconfig: Path | None
) -> Iterator[tuple[tuple[Path, ...], Workload]]:
    """The workload, and for the time of the block files that list it; none if it is synthetic."""
    from scheduler.cli.inputs import some_pending, workload_files
    from scheduler.simulator.generate import GeneratorConfig, generate

    if not cluster:
        inapplicable(kubeconfig=(False, "it is for CLUSTER `live`"))
        yield (), generate(GeneratorConfig())
        return
    with workload_files(cluster, kubeconfig) as (files, workload):
        some_pending(cluster, workload)
        yield tuple(files), workload


# -- tables --------------------------------------------------------------------------------------


def _print_allocation(runs: _Runs, workload: Workload, *, explain: bool) -> None:
    from scheduler.cli.output import print_table
    from scheduler.simulator.inflation import Outcome

    listed = [run.outcome for run in runs.done if isinstance(run.outcome, Outcome)]
    names = [outcome.experiment.policy for outcome in listed]
    shares = [outcome.allocation_at for outcome in listed]
    print_table(
        f"GPU allocated, % of capacity: {workload.source}, seed {listed[0].experiment.seed}",
        ("requested, share of capacity", *names),
        [
            *((share, *(at.get(share) for at in shares)) for share in shares[0]),
            ("end", *(outcome.allocated_percent for outcome in listed)),
            ("power at the end, kW", *(outcome.power_kw for outcome in listed)),
        ],
    )
    _print_sizes(runs)
    for outcome in listed:
        say(
            f"{outcome.experiment.policy}: {outcome.seconds:.2f} s, config "
            f"{outcome.experiment.config_hash}; every decision checked by the validator"
        )
    _print_pending(runs, explain=explain)


def _print_sizes(runs: _Runs) -> None:
    """Fewer pods placed may well be more GPU: how many of each size got a node."""
    from scheduler.cli.output import print_table

    first = runs.done[0].outcome.sizes
    rows: list[tuple[object, ...]] = [
        (
            name,
            first[name]["pods"],
            *(run.outcome.sizes.get(name, {"placed": 0})["placed"] for run in runs.done),
        )
        for name in first
    ]
    total = sum(size["pods"] for size in first.values())
    rows.append(("all", total, *(run.outcome.placed for run in runs.done)))
    print_table(
        "Pods placed, by what they ask for",
        ("size", "pods", *(run.label for run in runs.done)),
        rows,
    )


def _print_pending(runs: _Runs, *, explain: bool) -> None:
    """Pods without a node at the end, by reason; each of them if somebody wants to know."""
    for run in runs.done:
        pending = run.outcome.pending
        if not pending:
            continue
        say(f"{run.label}: {plural(len(pending), 'pod')} stayed pending")
        if explain:
            for one in pending:
                say(f"  {one.pod.key}: {one.reason}")
            continue
        reasons = Counter(one.reason for one in pending).most_common()
        for reason, count in reasons[:_SHOWN]:
            example = next(one.pod.key for one in pending if one.reason == reason)
            say(f"  {count} ({example}{', ...' if count > 1 else ''}): {reason}")
        if len(reasons) > _SHOWN:
            more = plural(len(reasons) - _SHOWN, "more reason")
            say(f"  ... and {more} (--explain lists every pod)")


def _print_replay(runs: _Runs, workload: Workload, *, explain: bool) -> None:
    from scheduler.cli.output import print_table
    from scheduler.simulator.replay import ReplayOutcome

    listed = [run.outcome for run in runs.done if isinstance(run.outcome, ReplayOutcome)]
    ceilings = [_mean_ceiling(run.timeline) for run in runs.done]
    bound = ("offline optimum, at most, % over time", ceilings)
    facts: list[tuple[str, Sequence[object]]] = [
        ("GPU allocated, % over time", [o.allocation_percent for o in listed]),
        *([bound] if any(mean is not None for mean in ceilings) else []),
        ("GPU requested, % over time", [o.demand_percent for o in listed]),
        ("GPU allocated at the peak, %", [o.peak_percent for o in listed]),
        ("power, kW over time", [o.power_kw for o in listed]),
        ("gangs whole / half / none", [_gangs(o) for o in listed]),
        ("GPU hours held by half gangs", [o.half_gang_gpu_hours for o in listed]),
    ]
    rows: list[tuple[object, ...]] = [(name, *values) for name, values in facts]
    for name in listed[0].waiting:
        waits = [o.waiting.get(name) for o in listed]
        shown = (w and f"{w.p50_s:.0f} / {w.p95_s:.0f}" for w in waits)
        rows.append((f"{name}: wait p50 / p95, s", *shown))
    print_table(
        f"Replay of {workload.source}, arrivals x {listed[0].rate:g}",
        ("", *(o.label for o in listed)),
        rows,
    )
    _print_sizes(runs)
    _print_pending(runs, explain=explain)


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
