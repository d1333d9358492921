"""``snugfit generate``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

__all__ = ["command"]


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
    "--arrivals", default="poisson", show_default=True, help="poisson, uniform or bursts."
)
@click.option("--rate", default=10.0, show_default=True, help="Mean arrivals per second.")
@click.option(
    "--durations", default="none", show_default=True, help="none, exponential or lognormal."
)
@click.option("--mean-duration", default=3600.0, show_default=True, help="Mean seconds of a run.")
@click.option("--gangs", default=0.0, show_default=True, help="Share of GPU pods in gangs.")
@click.option("--gang-size", default=4, show_default=True, help="Members of a gang.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
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

    The same options and seed give the same file bit for bit. Read it with `snugfit simulate
    --nodes FILE` or `snugfit serve --offline --nodes FILE`.
    """
    from scheduler.cli.console import print_json, print_table
    from scheduler.files import dump_writer, native
    from scheduler.simulator.generate import GeneratorConfig, generate

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
    workload = generate(config)
    (native if style == "snugfit" else dump_writer).write(workload, out)
    fleet = Counter((node.product, len(node.devices)) for node in workload.nodes)
    kinds = Counter(_asked(request.gpu) for request in workload.requests)
    summary = {
        "file": str(out),
        "nodes": len(workload.nodes),
        "gpus": workload.gpu_milli // 1000,
        "pods": len(workload.arrivals),
        "digest": workload.digest(),
        "fleet": [{"product": p, "gpus": g, "nodes": n} for (p, g), n in sorted(fleet.items())],
        "requests": [{"gpu": kind, "pods": n} for kind, n in kinds.most_common()],
    }
    if as_json:
        print_json(summary)
        return
    print_table(
        f"{len(workload.nodes)} nodes, {summary['gpus']} GPUs",
        ("model", "GPUs per node", "nodes"),
        [(product, gpus, count) for (product, gpus), count in sorted(fleet.items())],
    )
    print_table(f"{len(workload.arrivals)} pods", ("GPU request", "pods"), kinds.most_common())


def _asked(gpu: object) -> str:
    from scheduler.core.model import GpuRequest

    assert isinstance(gpu, GpuRequest)
    if gpu.count:
        return f"{gpu.count} GPU" + (" of some models" if gpu.products else "")
    if gpu.milli:
        return "part of a GPU" + (" of some models" if gpu.products else "")
    return "none"
