"""``snugfit bench weights``: how much each weight of policy ``priced`` matters, as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import click

from scheduler.cli.options import data_option, openb_files
from scheduler.cli.provenance import provenance
from scheduler.core.errors import InvalidInput
from scheduler.core.prices import PriceWeights

__all__ = ["command"]

_ALLOCATED, _WAITING = "allocated at 100 % requested, %", "demand waiting, %"
_RATE = 44.0
_ONE_IN = 20
_FULL = "1.00"


@dataclass(frozen=True, slots=True)
class _Point:
    """One weight at one value, the others at theirs."""

    weight: str
    value: float
    built_in: bool
    figure: str
    mean: float


@click.command("weights")
@data_option
@click.option(
    "--traces", default="default,gpuspec10,gpushare40", show_default=True, help="Comma separated."
)
@click.option("--seeds", default=2, show_default=True, help="Seeds 0..n-1 of the inflation.")
@click.option("--replays", default=4, show_default=True, help="Seeds 0..n-1 of the replay.")
@click.option("--factors", default="0,0.5,2,4", show_default=True, help="Times each weight.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a picture (.svg) here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(
    data: Path,
    traces: str,
    seeds: int,
    replays: int,
    factors: str,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Change one weight at a time, the others built in.

    All but `contiguity` by inflation: GPUs allocated once all of them are requested, mean over
    traces and seeds, mix given (learnt for `unseen`). `contiguity` counts above all where pods
    leave, so that it is shown by a replay of the first trace on one node in 20, 44 times as fast:
    demand that waits, mean over time and seeds, mix learnt. What `power` saves, `snugfit bench
    power` shows.
    """
    from scheduler.cli.console import print_json, print_table

    try:
        times = sorted({*(float(text) for text in factors.split(",")), 1.0})
    except ValueError as error:
        raise InvalidInput("--factors", f"{factors!r}: {error}", "write 0,0.5,2,4") from error
    for option, count in (("--seeds", seeds), ("--replays", replays)):
        if count < 1:
            raise InvalidInput(option, f"is {count}", "use 1 or more")
    names = traces.split(",")
    nodes, pods = openb_files(data, names)
    points = [
        *_inflated(nodes, pods, seeds, times),
        *_replayed(nodes, pods[0], replays, times),
    ]
    if plot is not None:
        _draw(plot, points)
    if as_json:
        rows = [asdict(point) for point in points]
        print_json({"provenance": provenance(), "traces": names, "seeds": seeds, "rows": rows})
        return
    print_table(
        "One weight changed at a time",
        ("weight", "value", "built in", "figure", "mean"),
        [(p.weight, p.value, "*" if p.built_in else "", p.figure, f"{p.mean:.2f}") for p in points],
    )


def _changes(weight: str, times: Sequence[float]) -> list[PriceWeights]:
    """Weights with this one changed, as far as it can be, the built-in value among them."""
    built_in = PriceWeights()
    made = []
    for factor in times:
        value = getattr(built_in, weight) * factor
        if weight == "far_demand" and value < 1:
            continue  # less than what is free is not a far demand
        made.append(replace(built_in, **{weight: value}))
    return made


def _inflated(
    nodes: Path, pods: Sequence[Path], seeds: int, times: Sequence[float]
) -> list[_Point]:
    from scheduler.cli.console import progress
    from scheduler.simulator.sweep import Job, sweep

    cases = [
        (weight, ("learnt" if weight == "unseen" else "given", weights))
        for weight in PriceWeights().to_json()
        if weight not in ("contiguity", "power")
        for weights in _changes(weight, times)
    ]
    different = list(dict.fromkeys(case for _, case in cases))
    jobs = [
        Job(nodes, path, "priced", seed, arrival=1.0, mix=mix, weights=weights)
        for mix, weights in different
        for path in pods
        for seed in range(seeds)
    ]
    with progress("inflations") as bar:
        outcomes = sweep(jobs, progress=bar)
    share = len(pods) * seeds
    means = {
        case: fmean(o.allocation_at[_FULL] for o in outcomes[at * share : (at + 1) * share])
        for at, case in enumerate(different)
    }
    return [_point(weight, case[1], _ALLOCATED, means[case]) for weight, case in cases]


def _replayed(nodes: Path, pods: Path, seeds: int, times: Sequence[float]) -> list[_Point]:
    from scheduler.cli.bench_replay import ReplayJob, run
    from scheduler.cli.console import progress
    from scheduler.simulator.sweep import in_processes

    changes = _changes("contiguity", times)
    jobs = [
        ReplayJob(nodes, pods, _ONE_IN, "learnt", _RATE, "priced", seed, weights)
        for weights in changes
        for seed in range(seeds)
    ]
    with progress("replays") as bar:
        outcomes = in_processes(run, jobs, progress=bar)
    waiting = [outcome.demand_percent - outcome.allocation_percent for outcome in outcomes]
    return [
        _point("contiguity", weights, _WAITING, fmean(waiting[at * seeds : (at + 1) * seeds]))
        for at, weights in enumerate(changes)
    ]


def _point(weight: str, weights: PriceWeights, figure: str, mean: float) -> _Point:
    built_in = weights == PriceWeights()
    return _Point(weight, getattr(weights, weight), built_in, figure, round(mean, 3))


def _draw(path: Path, points: Sequence[_Point]) -> None:
    """One panel per weight; the built-in value is marked."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InvalidInput("--plot", f"needs {error.name}", "install snugfit[report]") from error
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "snugfit"  # the same figures give the same bytes
    names = list(dict.fromkeys(point.weight for point in points))
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    panels = figure.subplots(2, -(-len(names) // 2)).ravel()
    allocated = [point.mean for point in points if point.figure == _ALLOCATED]
    for axes, name in zip(panels, names, strict=False):
        mine = [point for point in points if point.weight == name]
        axes.plot([p.value for p in mine], [p.mean for p in mine], "o-", color="#4c72b0", ms=4)
        for point in mine:
            if point.built_in:
                axes.plot(point.value, point.mean, "o", color="#c44e52", ms=8)
        axes.set_title(name)
        axes.set_ylabel(mine[0].figure, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        if mine[0].figure == _ALLOCATED:
            axes.set_ylim(min(allocated) - 0.2, max(allocated) + 0.2)
        else:
            axes.set_ylim(bottom=0)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    try:
        figure.savefig(path, format="svg", metadata={"Date": None})
    except OSError as error:
        raise InvalidInput("--plot", f"{path} cannot be written: {error}") from error
