"""``snugfit generate``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from scheduler.cli.options import inapplicable, json_option
from scheduler.core.plural import plural

__all__ = ["command"]

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
    type=click.Choice(["none", "exponential", "lognormal"]),
    default="none",
    show_default=True,
    help="none: pods stay.",
)
@click.option("--mean-duration", default=3600.0, show_default=True, help="Mean seconds of a run.")
@click.option("--gangs", default=0.0, show_default=True, help="Share of GPU pods in gangs.")
@click.option("--gang-size", default=4, show_default=True, help="Members of a gang.")
@json_option
def command(
    out: Path,
    style: str,
    nodes: int,
    load: float,
    pods: int,
    seed: int,
    arrivals: str,
    rate: float,
    durations: str,
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
    """  # noqa: D301 - click looks for a real backspace
    from scheduler.cli.output import print_json, print_table, writable
    from scheduler.core.errors import InvalidInput
    from scheduler.files import dump_writer, native
    from scheduler.simulator.generate import GeneratorConfig, generate

    inapplicable(
        load=(not pods, "--pods says how many there are"),
        mean_duration=(durations != "none", "pods stay, unless --durations says otherwise"),
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
            durations=durations,
            mean_duration_s=mean_duration,
            gang_share=gangs,
            gang_size=gang_size,
        )
    except InvalidInput as error:
        name = error.field.partition(".")[2]
        option = _OPTIONS.get(name, f"--{name}")
        raise InvalidInput(option, error.problem, error.remedy) from None
    workload = generate(config)
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


def _requested(gpu: object) -> str:
    from scheduler.core.model import GpuRequest

    assert isinstance(gpu, GpuRequest)
    if gpu.count:
        return f"{gpu.count} GPU" + (" of some models" if gpu.products else "")
    if gpu.milli:
        return "part of a GPU" + (" of some models" if gpu.products else "")
    return "none"
