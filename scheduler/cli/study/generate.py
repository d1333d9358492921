"""``snugfit generate``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scheduler.cli.options import inapplicable, json_option
from scheduler.core.plural import plural

if TYPE_CHECKING:
    from scheduler.files.workload import Workload
    from scheduler.simulator.generate import GeneratorConfig

__all__ = ["command"]

_OPENB = "openb"
_OPTIONS = {
    "rate_per_s": "--rate",
    "mean_duration_s": "--mean-duration",
    "gang_share": "--gangs",
    "gang_size": "--gang-size",
}
"""Options that have other names than the settings of the generator."""


@click.command("generate")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write.")
@click.option(
    "--format",
    "style",
    type=click.Choice(["snugfit", "kubectl"]),
    default="snugfit",
    show_default=True,
    help="Our own format, or like `kubectl get nodes,pods -A -o json`.",
)
@click.option(
    "--like",
    metavar="philly|seren|openb|FILE",
    default="",
    help="Nodes and pods in the shares of a public trace, or drawn from those of a file.",
)
@click.option("--nodes", default=1200, show_default=True, help="Number of nodes.")
@click.option("--load", default=1.1, show_default=True, help="Requested GPUs / capacity.")
@click.option("--pods", default=0, help="Number of pods, instead of a load.")
@click.option("--seed", default=1, show_default=True, help="Decides everything random.")
@click.option(
    "--arrivals",
    type=click.Choice(["poisson", "uniform", "bursts"]),
    default="poisson",
    show_default=True,
    help="bursts: 50 pods at a time.",
)
@click.option("--rate", default=10.0, show_default=True, help="Mean arrivals per second.")
@click.option(
    "--durations",
    type=click.Choice(["none", "exponential", "lognormal", "like"]),
    default=None,
    help="none: pods stay. like: those of --like, of philly and seren by the size of the job.  "
    "[default: like where --like has any, else none]",
)
@click.option(
    "--demand",
    type=float,
    default=0.0,
    help="GPUs that pods in the system ask for / capacity, if nobody waited; instead of --rate.",
)
@click.option("--mean-duration", default=3600.0, show_default=True, help="Mean seconds of a run.")
@click.option("--gangs", default=0.0, show_default=True, help="Share of GPU pods in gangs.")
@click.option("--gang-size", default=4, show_default=True, help="Members of a gang.")
@json_option
def command(
    out: Path,
    style: str,
    like: str,
    nodes: int,
    load: float,
    pods: int,
    seed: int,
    arrivals: str,
    rate: float,
    durations: str | None,
    demand: float,
    mean_duration: float,
    gangs: float,
    gang_size: int,
    as_json: bool,
) -> None:
    """Write a synthetic workload: a mixed GPU fleet and the pods that arrive.

    The same options and seed give the same file bit for bit.

    \b
    snugfit generate --out workload.json
    snugfit simulate workload.json
    snugfit serve --offline workload.json

    \b
    snugfit generate --like philly --nodes 32 --load 40 --demand 0.9 --out training.json
    snugfit simulate --protocol replay training.json
    """  # noqa: D301 - click looks for a real backspace
    from scheduler.cli.output import complain, one_line, print_json, print_table, writable
    from scheduler.core.errors import InvalidInput
    from scheduler.files import dump_writer, native
    from scheduler.simulator.generate import GeneratorConfig, at_demand

    drawn = like not in ("", _OPENB)
    durations = durations or ("like" if drawn else "none")
    if durations == "like" and not drawn:
        known = f"--like {_OPENB} has none" if like else "there is no --like"
        raise InvalidInput("--durations", f"is 'like', but {known}", "use none or lognormal")
    inapplicable(
        load=(not pods, "--pods says how many there are"),
        rate=(not demand, "--demand says how fast pods arrive"),
        mean_duration=(
            durations not in ("none", "like"),
            "pods stay or run as in --like, unless --durations says otherwise",
        ),
        gangs=(not drawn, "--like says which jobs are gangs"),
        gang_size=(gangs > 0, "there is no gang, unless --gangs says how many"),
    )
    writable(out, "--out")
    try:
        config = GeneratorConfig(
            nodes=nodes,
            load=load,
            pods=pods,
            seed=seed,
            arrivals=arrivals,
            rate_per_s=rate,
            durations="none" if durations == "like" else durations,
            mean_duration_s=mean_duration,
            gang_share=gangs,
            gang_size=gang_size,
        )
        workload = _made(like, config, own_run_times=durations == "like")
        if demand:
            workload = at_demand(workload, demand)
    except InvalidInput as error:
        if not error.field.startswith("generate."):
            raise
        name = error.field.partition(".")[2]
        option = _OPTIONS.get(name, f"--{name}")
        raise InvalidInput(option, error.problem, error.remedy) from None
    for text in workload.remarks:
        complain(one_line(f"{like}: {text}"))
    (native if style == "snugfit" else dump_writer).write(workload, out)
    fleet = Counter((node.product, len(node.devices)) for node in workload.nodes)
    kinds = Counter(_requested(request.gpu) for request in workload.requests)
    gpus = workload.gpu_milli // 1000
    summary = {
        "file": str(out),
        "nodes": len(workload.nodes),
        "gpus": gpus,
        "pods": len(workload.arrivals),
        "digest": workload.digest(),
        "fleet": [{"product": p, "gpus": g, "nodes": n} for (p, g), n in sorted(fleet.items())],
        "requests": [{"gpu": kind, "pods": n} for kind, n in kinds.most_common()],
    }
    if as_json:
        print_json(summary)
        return
    print_table(
        f"{plural(len(workload.nodes), 'node')}, {plural(gpus, 'GPU')}",
        ("model", "GPUs per node", "nodes"),
        [(product, gpus, count) for (product, gpus), count in sorted(fleet.items())],
    )
    print_table(plural(len(workload.arrivals), "pod"), ("GPU request", "pods"), kinds.most_common())


def _made(like: str, config: GeneratorConfig, *, own_run_times: bool) -> Workload:
    """The workload, in the shares that ``like`` names."""
    from dataclasses import replace

    from scheduler.cli.inputs import read_workload
    from scheduler.core.errors import InvalidInput, nearest
    from scheduler.simulator.fleets import OPENB_NODES, OPENB_PODS
    from scheduler.simulator.generate import generate
    from scheduler.simulator.likeness import LIKENESSES, generate_like, likeness_of

    if not like:
        return generate(config)
    if like == _OPENB:
        return generate(replace(config, node_shapes=OPENB_NODES, pod_shapes=OPENB_PODS))
    likeness = LIKENESSES.get(like)
    if likeness is None:
        if not Path(like).exists():
            names = (*LIKENESSES, _OPENB)
            remedy = f"did you mean {nearest(like, names)!r}? Others are files"
            raise InvalidInput("--like", f"{like!r} is neither a trace nor a file", remedy)
        likeness = likeness_of(read_workload([like]))
    return generate_like(likeness, config, own_run_times=own_run_times)


def _requested(gpu: object) -> str:
    from scheduler.core.model import GpuRequest

    assert isinstance(gpu, GpuRequest)
    if gpu.count:
        return f"{gpu.count} GPU" + (" of some models" if gpu.products else "")
    if gpu.milli:
        return "part of a GPU" + (" of some models" if gpu.products else "")
    return "none"
