"""A run as one HTML file that opens without a network: curves, stranding, a heat map."""

from __future__ import annotations

import base64
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scheduler import __version__
from scheduler.core.cluster_metrics import CAUSES
from scheduler.core.errors import InvalidInput
from scheduler.files.workload import Workload
from scheduler.simulator.inflation import Outcome
from scheduler.simulator.replay import ReplayOutcome
from scheduler.simulator.timeline import Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ready_to_report", "write_report"]

_INSTALL = "pip install 'snugfit[report]'"
_COLOURS = {"model": "#c44e52", "cpu": "#dd8452", "memory": "#937860", "shape": "#4c72b0"}

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
 :root { color-scheme: light dark; --line: #8884; }
 body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
 h1 { font-size: 1.5rem; margin-bottom: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
 p.note { opacity: .75; margin-top: .25rem }
 table { border-collapse: collapse; width: 100% } td, th { padding: .3rem .7rem; text-align: right }
 th:first-child, td:first-child { text-align: left } tr + tr { border-top: 1px solid var(--line) }
 .plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(28rem, 1fr)); gap: 1rem }
 img { width: 100%; background: #fff; border-radius: 6px; border: 1px solid var(--line) }
 code { font-size: .9em }
</style></head><body>
<h1>{{ title }}</h1>
<p class="note">{{ nodes }} nodes, {{ gpus }} GPUs, {{ pods }} pods in the source. Every decision was replayed by a
validator that shares no code with the engine. snugfit {{ version }}</p>
<h2>Results</h2>
<table><tr>{% for name in columns %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for value in row %}<td>{{ value }}</td>{% endfor %}</tr>{% endfor %}</table>
<h2>Over the course of the run</h2><div class="plots">
{% for name, picture in curves %}<img alt="{{ name }}" src="{{ picture }}">{% endfor %}</div>
<h2>What strands the free GPUs at the end</h2><div class="plots"><img alt="stranding" src="{{ stranding }}"></div>
<h2>Devices at the end</h2>
<p class="note">One column per node, one row per device; dark is in use, light is free, grey is
no device.</p>
{% for name, picture in maps %}<h3>{{ name }}</h3><img alt="devices of {{ name }}" src="{{ picture }}">{% endfor %}
</body></html>
"""


Run = tuple[Outcome | ReplayOutcome, Timeline]


def ready_to_report() -> None:
    """Make sure, before a long run, that its report can be made.

    Raises
    ------
    InvalidInput
        The libraries for reports are not installed.
    """
    for name in ("jinja2", "matplotlib"):
        if importlib.util.find_spec(name) is None:
            raise InvalidInput("--report", f"{name} is not installed", _INSTALL)


def write_report(path: Path, workload: Workload, runs: Sequence[Run]) -> None:
    """Write the report of one or more runs on the same workload.

    Raises
    ------
    InvalidInput
        The libraries for reports are not installed, or the file cannot be written.
    """
    ready_to_report()
    import jinja2
    import matplotlib as mpl

    mpl.use("svg")
    environment = jinja2.Environment(autoescape=True)
    content = environment.from_string(_TEMPLATE).render(
        title=f"Snugfit: {workload.source}",
        nodes=len(workload.nodes),
        gpus=workload.gpu_milli // 1000,
        pods=len(workload.arrivals),
        version=__version__,
        columns=_columns(runs[0][0]),
        rows=[_row(outcome) for outcome, _ in runs],
        curves=[
            ("allocation", _curves(runs, "allocated", "GPUs allocated, %")),
            ("fragmentation", _curves(runs, "fragmented", "GPUs fragmented, %")),
        ],
        stranding=_stranding(runs),
        maps=[(_label(outcome), _heat_map(timeline)) for outcome, timeline in runs],
    )
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(str(path), f"cannot be written: {error}", "name another file") from error


def _columns(outcome: Outcome | ReplayOutcome) -> tuple[str, ...]:
    share = ("allocated, % of GPUs", "at 100 % requested")
    figures: tuple[str, ...] = (*share, "placed", "pending", "kW at the end")
    if isinstance(outcome, ReplayOutcome):
        figures = (
            "allocated over time, % of GPUs",
            "at the peak",
            "placed",
            "pending",
            "kW over time",
        )
    return ("policy", "seed", *figures, "seconds", "config")


def _row(outcome: Outcome | ReplayOutcome) -> tuple[object, ...]:
    if isinstance(outcome, ReplayOutcome):
        figures: tuple[object, ...] = (
            f"{outcome.allocation_percent:.2f}",
            f"{outcome.peak_percent:.2f}",
            outcome.placed,
            outcome.pods - outcome.placed,
            f"{outcome.power_kw:.1f}",
        )
    else:
        share = 100 * outcome.allocated_gpu_milli / (outcome.capacity_gpu_milli or 1)
        at_full = outcome.allocation_at.get("1.00")
        shown = "-" if at_full is None else f"{at_full:.2f}"
        figures = (
            f"{share:.2f}",
            shown,
            outcome.placed,
            len(outcome.pending),
            f"{outcome.power_kw:.1f}",
        )
    of = outcome.experiment
    return (_label(outcome), of.seed, *figures, f"{outcome.seconds:.2f}", of.config_hash)


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _picture(figure: Figure, kind: str = "svg") -> str:
    """The figure as a data URI. Dates are left out: the same run gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    media = "image/svg+xml" if kind == "svg" else "image/png"
    return f"data:{media};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _curves(runs: Sequence[Run], key: str, label: str) -> str:
    figure, axes = _figure(6.4, 4.0)
    for outcome, timeline in runs:
        samples = [sample.to_json() for sample in timeline.samples]
        timed = isinstance(outcome, ReplayOutcome)
        along = [sample["at"] / 3600 if timed else 100 * sample["at"] for sample in samples]
        shares = [100 * sample[key] for sample in samples]
        axes.plot(along, shares, label=_label(outcome), linewidth=2)
        if key == "allocated" and timeline.ceiling:
            _ceiling(axes, timeline.ceiling)
    if isinstance(runs[0][0], ReplayOutcome):
        axes.set_xlabel("hours")
    else:
        axes.set_xlabel("GPUs requested so far, % of capacity")
        if key == "allocated":
            axes.axline((0, 0), slope=1, color="#8888", linestyle=":", linewidth=1)
            axes.set_ylim(0, 103)
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return _picture(figure)


def _ceiling(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """What any scheduler could have in use at best: all pods at once, nobody in the way."""
    hours = [at / 3600 for at, _ in points]
    shares = [100 * share for _, share in points]
    axes.plot(hours, shares, label="offline optimum, at most", linestyle="--", linewidth=1.5)


def _label(outcome: Outcome | ReplayOutcome) -> str:
    return outcome.label if isinstance(outcome, ReplayOutcome) else outcome.experiment.policy


def _stranding(runs: Sequence[Run]) -> str:
    figure, axes = _figure(13.0, 1.2 + 0.4 * len(runs))
    names = [_label(outcome) for outcome, _ in runs]
    left = [0.0] * len(runs)
    finals = [timeline.finish() for _, timeline in runs]
    for cause in CAUSES:
        widths = [final.stranded_milli[cause] / 1000 for final in finals]
        axes.barh(names, widths, left=left, label=cause, color=_COLOURS[cause], height=0.6)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("GPUs that the typical pod cannot use, by cause")
    axes.legend(frameon=False, ncols=len(CAUSES))
    return _picture(figure)


def _heat_map(timeline: Timeline) -> str:
    import numpy as np

    rows = timeline.devices
    width = max((len(devices) for devices in rows), default=1)
    grid = np.full((width, max(1, len(rows))), np.nan)
    # Nodes with as many devices stand together, the fullest first: holes become visible.
    for column, devices in enumerate(sorted(rows, key=lambda d: (-len(d), -sum(d)))):
        grid[: len(devices), column] = sorted(devices, reverse=True)
    figure, axes = _figure(13.0, 1.0 + 0.28 * width)
    axes.set_facecolor("#d8d8d8")  # no device here
    picture = axes.imshow(
        grid / 10, aspect="auto", cmap="Blues", vmin=0, vmax=100, interpolation="nearest"
    )
    figure.colorbar(picture, label="% in use", pad=0.01)
    axes.set_xlabel("nodes")
    axes.set_ylabel("devices")
    axes.set_yticks(range(width))
    return _picture(figure, "png")
