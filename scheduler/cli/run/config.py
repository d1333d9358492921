"""``snugfit config``: kube-scheduler's side of the webhook, written and checked."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from scheduler.cli.options import inapplicable
from scheduler.cli.output import say
from scheduler.core.plural import plural

__all__ = ["command"]


@click.group("config")
def command() -> None:
    """Write, or check, the configuration by which kube-scheduler calls the extender."""


@command.command("kube-scheduler")
@click.option(
    "--topology",
    type=click.Choice(["sidecar", "service"]),
    default="sidecar",
    show_default=True,
    help="Extender beside a second scheduler, or behind a Service for the control plane's own.",
)
@click.option(
    "--profile",
    type=click.Choice(["packing", "stock"]),
    default="packing",
    show_default=True,
    help="Without in-tree scoring, or with all of it.",
)
@click.option("--scheduler-name", default="snugfit", show_default=True, help="spec.schedulerName.")
@click.option("--namespace", default="snugfit", show_default=True, help="Of lease and Service.")
@click.option("--url", default="", help="Of the extender. [default: as the Helm chart has it]")
@click.option("--url-prefix", default="", help="Path of the verbs, as for serve. [default: none]")
@click.option("--server-name", default="", help="Name in the extender's certificate.")
@click.option(
    "--tls-folder",
    default="/etc/kubernetes/snugfit",
    show_default=True,
    help="Folder of ca.crt, tls.crt and tls.key, as kube-scheduler sees it.",
)
@click.option("--resources", help="Exact names, comma separated. [default: all we understand]")
@click.option(
    "--bind/--no-bind",
    default=None,
    help="The extender binds all of these pods, or none. [default: those that need it]",
)
@click.option("--fallback", is_flag=True, help="packing: keep NodeResourcesFit as MostAllocated.")
@click.option("--weight", type=int, default=15, show_default=True, help="Of our scores.")
@click.option("--kubeconfig", default="", help="Path for kube-scheduler. [default: in-cluster]")
def kube_scheduler(
    topology: str,
    profile: str,
    scheduler_name: str,
    namespace: str,
    url: str,
    url_prefix: str,
    server_name: str,
    tls_folder: str,
    resources: str | None,
    bind: bool | None,
    fallback: bool,
    weight: int,
    kubeconfig: str,
) -> None:
    """Print a KubeSchedulerConfiguration in which every trap of the protocol is avoided.

    Each line that matters says why it is as it is. `snugfit config check` finds nothing in it.
    """
    from scheduler.kube.scheduler_config.write import (
        Profile,
        SchedulerSetup,
        Topology,
        kube_scheduler_config,
        managed_resources,
    )

    inapplicable(
        fallback=(profile == "packing", "the stock profile has all of in-tree scoring"),
        server_name=(topology == "service", "a sidecar is called on loopback, without TLS"),
        tls_folder=(topology == "service", "a sidecar is called on loopback, without TLS"),
    )
    named = tuple(part.strip() for part in resources.split(",")) if resources is not None else None
    setup = SchedulerSetup(
        topology=Topology(topology),
        profile=Profile(profile),
        scheduler_name=scheduler_name,
        namespace=namespace,
        url=url,
        url_prefix=url_prefix,
        server_name=server_name,
        tls_folder=tls_folder,
        resources=managed_resources() if named is None else named,
        bind=bind,
        fallback=fallback,
        weight=weight,
        kubeconfig=kubeconfig,
    )
    say(kube_scheduler_config(setup).rstrip("\n"), keep="\n")


@command.command("check")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--url", default="", help="Of the extender. [default: as the file has it]")
@click.option(
    "--url-prefix", default="", help="Path of the verbs, as for serve. [default: none: /filter]"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(file: Path, url: str, url_prefix: str, as_json: bool) -> None:
    """Name every trap in a KubeSchedulerConfiguration; exit code 1 if there is one.

    FILE is YAML or JSON, - for standard input. ConfigMaps that carry a configuration are read too,
    and lists of them. All of the configuration is checked for what keeps kube-scheduler from
    starting; how an extender is called is checked where it is ours. Notes alone are exit code 0. Of
    a policy file, the weights in force are shown beside those that it gives.
    """
    from scheduler.cli.output import message, print_json, print_table
    from scheduler.core.errors import InvalidInput
    from scheduler.core.price_weights import POLICY_FORMAT
    from scheduler.core.reading import read_stream, read_text, text_of
    from scheduler.kube.scheduler_config.checks import RULES, Level
    from scheduler.kube.scheduler_config.checks import check as find
    from scheduler.kube.scheduler_config.write import KIND
    from scheduler.kube.yaml_lines import yaml_files

    name = str(file)
    text = text_of(read_stream(sys.stdin.buffer, name), name) if name == "-" else read_text(file)
    if text.lstrip().startswith("{") and POLICY_FORMAT in text:
        _check_policy(text, name, as_json=as_json)
        return
    documents = yaml_files(text, name)
    # Whole manifests may be given; if nothing in them is a configuration, the first one is judged.
    meant = [each for each in documents if each.get(("kind",)) == KIND or each.unread]
    if not meant and documents[0].get(("kind",)) is None:
        for path, line in documents[0].repeated:
            raise InvalidInput(
                f"{name}:{line}", f"the key {path[-1]} stands here twice", "drop one"
            )
        raise InvalidInput(name, "is not a Kubernetes object: it has no kind", f"name a {KIND}")
    found = [
        finding
        for document in meant or documents[:1]
        for finding in find(document, url=url, url_prefix=url_prefix)
    ]
    findings = [finding for finding in found if finding.level is not Level.NOTE]
    notes = [finding for finding in found if finding.level is Level.NOTE]
    if as_json:
        print_json(
            {
                "file": name,
                "findings": [asdict(finding) for finding in findings],
                "notes": [asdict(note) for note in notes],
            }
        )
    elif findings:
        print_table(
            f"Traps in {name}: {len(findings)}",
            ("line", "where", "rule", "what happens", "remedy"),
            [(f.line, f.path, f.rule, f.problem, f.remedy) for f in findings],
        )
    else:
        message(f"{name}: no trap found ({len(RULES)} rules)")
    for note in () if as_json else notes:
        message(f"{name}:{note.line}: note: {note.path}: {note.problem} ({note.remedy})")
    if findings:
        raise click.exceptions.Exit(1)


def _check_policy(text: str, name: str, *, as_json: bool) -> None:
    """Weights as a policy file gives them, and as they are charged."""
    from scheduler.cli.output import message, print_json, print_table
    from scheduler.core.price_weights import PriceWeights

    weights = PriceWeights.from_policy_file(text, name)
    given = weights.to_json()
    in_force = {**given, **weights.rounded}
    if as_json:
        print_json({"file": name, "findings": [], "weights": given, "in_force": in_force})
        return
    print_table(
        f"Weights of {name}",
        ("weight", "given", "in force"),
        [(key, f"{value:g}", f"{in_force[key]:g}") for key, value in given.items()],
    )
    rounded = plural(len(weights.rounded), "rounded weight")
    message(f"{name}: {rounded}")
