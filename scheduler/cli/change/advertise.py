"""``snugfit advertise``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from scheduler.cli.inputs import live_argument, live_client
from scheduler.cli.options import connection_gone, kubeconfig_option
from scheduler.core.plural import plural

__all__ = ["command"]


@click.command("advertise")
@live_argument
@click.option("--node", "nodes", multiple=True, metavar="NAME", help="Only this one; repeatable.")
@click.option(
    "--selector", default="", help="Only nodes with these labels, as kubectl writes them."
)
@click.option("--apply", "apply_it", is_flag=True, help="Write. Without it nothing is changed.")
@click.option("--undo", is_flag=True, help="Take back what was advertised.")
@kubeconfig_option
@click.option("--json", "as_json", is_flag=True, help="Print the JSON patches.")
@connection_gone
def command(
    cluster: tuple[str, ...],
    nodes: tuple[str, ...],
    selector: str,
    apply_it: bool,
    undo: bool,
    kubeconfig: Path | None,
    as_json: bool,
) -> None:
    """Let nodes advertise snugfit.io/gpu-milli: 1000 for each of their GPUs.

    Shows what would be written to the status of nodes; --apply writes it, --undo takes it back.
    Nodes whose units are not devices (MIG instances, time-sliced replicas, partitions) are left
    alone. CLUSTER is live, or live:CONTEXT. Exit code 1 if a node that was named cannot advertise.

    \b
    snugfit advertise
    snugfit advertise live:prod --node gpu-1 --apply
    """  # noqa: D301 - click looks for a real backspace
    from scheduler.cli.output import complain, message, one_line, print_json, print_table
    from scheduler.cluster.api.paging import list_in_part
    from scheduler.core.errors import InvalidInput
    from scheduler.kube.advertise import Action, adverts, withdrawals
    from scheduler.kube.objects import node_decoder

    client = live_client(cluster, kubeconfig)
    listed = list_in_part(client, "/api/v1/nodes", node_decoder, selector)
    for part in listed:
        if part.missing:
            name = part.obj.metadata.name
            complain(one_line(f"node {name} is left out: {', '.join(part.missing)} cannot be read"))
    found = [part.obj for part in listed if not part.missing]
    if missing := set(nodes) - {node.metadata.name for node in found}:
        raise InvalidInput("--node", f"there is no {min(missing)!r}", "see kubectl get nodes")
    if nodes:
        found = [node for node in found if node.metadata.name in nodes]
    plan = withdrawals(found) if undo else adverts(found)
    for advert in plan if apply_it else ():
        if advert.patch:
            client.patch_node_status(advert.node, list(advert.patch))
    if as_json:
        print_json({"applied": apply_it, "nodes": [asdict(advert) for advert in plan]})
    else:
        print_table(
            "Advertised" if apply_it else "Would be advertised",
            ("node", "action", "GPUs", "note"),
            [(a.node, a.action.value, a.gpus, a.note) for a in plan],
        )
        changes = sum(bool(advert.patch) for advert in plan)
        if changes and not apply_it:
            message(
                f"{plural(changes, 'node')} would change; --apply writes it, --undo is the way back"
            )
    if nodes and any(advert.action is Action.SKIP for advert in plan):
        raise click.exceptions.Exit(1)
