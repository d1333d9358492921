"""How much does each weight of policy `priced` matter?

One weight is changed at a time, the others stay built in. All but `contiguity` by inflation (see
`online`): GPU allocated at 100 % requested, mean over traces and seeds, profile given (learnt for
`prior_pods`). `contiguity` counts above all where pods leave: a replay (see `replay`) of the first
trace on one node in 20, 44 times as fast; demand that waits, mean over time and seeds, profile
learnt.
What `power` saves is the question of `power`. Means of two seeds differ by 0.04 by chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import click

from bench.inflation import FULL
from bench.options import ListOf, data_option, openb_files, seeds_option, traces_option
from bench.replay import ReplayJob, run
from bench.report import Report, benchmark
from scheduler.core.errors import InvalidInput
from scheduler.core.price_weights import PriceWeights
from scheduler.simulator.sweep.row_file import Row
from scheduler.simulator.sweep.runs import Job, row_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["command"]

_ALLOCATED, _WAITING = "allocated at 100 % requested, %", "demand waiting, %"
_RATE = 44.0
_ONE_IN = 20


@dataclass(frozen=True, slots=True)
class _Point:
    """One weight at one value, the others at theirs."""

    weight: str
    value: float
    built_in: bool
    figure: str
    mean: float


@benchmark("weights", grid=True)
@data_option
@traces_option("default,gpuspec10,gpushare40")
@seeds_option(2, "Seeds 0..n-1 of the inflation.")
@click.option(
    "--replays",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Seeds 0..n-1 of the replay.",
)
@click.option(
    "--factors",
    type=ListOf(float),
    default="0,0.5,2,4",
    show_default=True,
    help="Times each weight.",
)
@click.option(
    "--plot", type=click.Path(path_type=Path), help="Draw the points into this file (.svg)."
)
def command(
    report: Report,
    data: Path,
    traces: tuple[str, ...],
    seeds: int,
    replays: int,
    factors: tuple[float, ...],
    plot: Path | None,
) -> None:
    """A row per weight and value."""
    report.title = "One weight changed at a time"
    if plot is not None:
        _library()  # missing after hours of work would be late
    times = sorted({*factors, 1.0})
    nodes, pods = openb_files(data, traces)
    work = _Work(report, nodes, tuple(pods))
    inflations = _inflations(times)
    contiguity = _changes("contiguity", times)
    report.progress(
        0, len({case for _, case in inflations}) * len(pods) * seeds + len(contiguity) * replays
    )
    work.inflate(inflations, seeds)
    work.replay(contiguity, replays)
    if plot is not None:
        _draw(plot, work.points)


def _changes(weight: str, times: Sequence[float]) -> list[PriceWeights]:
    """Weights with this one changed, as far as it can be, the built-in value among them."""
    built_in = PriceWeights()
    made = []
    for factor in times:
        value = getattr(built_in, weight) * factor
        if weight == "stranding_demand" and value < 1:
            continue  # less than what is free is not a far demand
        made.append(replace(built_in, **{weight: value}))
    return made


_Case = tuple[str, PriceWeights]
"""A profile, and weights."""


def _inflations(times: Sequence[float]) -> list[tuple[str, _Case]]:
    """What is run by inflation, and for which weight."""
    return [
        (weight, ("learnt" if weight == "prior_pods" else "given", weights))
        for weight in PriceWeights().to_json()
        if weight not in ("contiguity", "power")
        for weights in _changes(weight, times)
    ]


@dataclass
class _Work:
    """The runs, and the points that they have given."""

    report: Report
    nodes: Path
    pods: tuple[Path, ...]
    points: list[_Point] = field(default_factory=list)

    def inflate(self, cases: Sequence[tuple[str, _Case]], seeds: int) -> None:
        """Cases that are alike, as with all weights built in, run once."""
        means: dict[_Case, float] = {}
        different = dict.fromkeys(case for _, case in cases)
        jobs = [
            Job(
                (self.nodes, path),
                "priced",
                seed,
                arrival=1.0,
                workload_profile=profile,
                weights=weights,
            )
            for profile, weights in different
            for path in self.pods
            for seed in range(seeds)
        ]
        rows = self._counted(self.report.runner.in_order(row_of, jobs))
        waiting = list(cases)
        for case in different:
            group = islice(rows, len(self.pods) * seeds)
            means[case] = fmean(row.figures["allocation_at"][FULL] for row in group)
            while waiting and waiting[0][1] in means:
                weight, (profile, weights) = waiting.pop(0)
                self._add(weight, weights, _ALLOCATED, means[profile, weights])

    def replay(self, changes: Sequence[PriceWeights], seeds: int) -> None:
        """The weight that matters where pods leave."""
        jobs = [
            ReplayJob(self.nodes, self.pods[0], _ONE_IN, "learnt", _RATE, "priced", seed, weights)
            for weights in changes
            for seed in range(seeds)
        ]
        rows = self._counted(self.report.runner.in_order(run, jobs))
        for weights in changes:
            group = [row.figures for row in islice(rows, seeds)]
            waiting = fmean(one["demand_percent"] - one["allocation_percent"] for one in group)
            self._add("contiguity", weights, _WAITING, waiting)

    def _counted(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            self.report.progress(self.report.done + 1, self.report.total)
            yield row

    def _add(self, weight: str, weights: PriceWeights, figure: str, mean: float) -> None:
        built_in = weights == PriceWeights()
        point = _Point(weight, getattr(weights, weight), built_in, figure, round(mean, 3))
        self.points.append(point)
        self.report.add(**asdict(point))


def _library() -> type[Figure]:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InvalidInput("--plot", f"needs {error.name}", "install snugfit[report]") from error
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "snugfit"  # the same figures give the same bytes
    return Figure


def _draw(path: Path, points: Sequence[_Point]) -> None:
    """One panel per weight; the built-in value is marked."""
    names = list(dict.fromkeys(point.weight for point in points))
    figure = _library()(figsize=(12, 5.5), layout="constrained")
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
