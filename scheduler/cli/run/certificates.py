"""``snugfit certificates``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import click

__all__ = ["command"]


@click.group("certificates")
def command() -> None:
    """Make and renew certificates; for the chart's own Jobs and containers."""


@command.command("renew")
@click.option("--namespace", required=True, help="Of the Secrets.")
@click.option("--authority", required=True, help="Secret of the authority.")
@click.option("--server", required=True, help="Secret of the extender's certificate.")
@click.option("--client", "caller", required=True, help="Secret of kube-scheduler's certificate.")
@click.option("--host", "hosts", multiple=True, required=True, help="Name of the extender.")
@click.option("--address", "addresses", multiple=True, help="IP address of the extender.")
@click.option(
    "--client-name", default="kube-scheduler", show_default=True, help="Subject of the caller."
)
@click.option("--validity-days", type=click.IntRange(1, 36500), default=365, show_default=True)
@click.option("--authority-days", type=click.IntRange(1, 36500), default=3650, show_default=True)
@click.option("--overlap-days", type=click.IntRange(1, 36500), default=30, show_default=True)
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="Default: as kubectl.")
@click.option("--context", "context_name", help="Context of the kubeconfig.")
@click.option("--in-cluster", is_flag=True, help="Use the service account of this pod.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def _renew(
    namespace: str,
    authority: str,
    server: str,
    caller: str,
    hosts: tuple[str, ...],
    addresses: tuple[str, ...],
    client_name: str,
    validity_days: int,
    authority_days: int,
    overlap_days: int,
    kubeconfig: Path | None,
    context_name: str | None,
    in_cluster: bool,
    as_json: bool,
) -> None:
    """Make and renew the certificates of topology `service`, in Secrets that exist.

    For the chart's tls.mode=generate. An authority signs both certificates; they are renewed after
    two thirds of their time. An authority that nears its end is replaced in steps: the next one is
    trusted for --overlap-days before it signs, the previous one until its last certificate has run
    out. The annotation snugfit.io/rotate on the authority's Secret begins that at once.
    """
    from scheduler.cli.output import print_json, print_table
    from scheduler.cluster.api.client import KubeClient

    with _cryptography():
        from scheduler.cluster.certificates import Leaf, Secrets, Terms, renew

    terms = Terms(
        timedelta(days=validity_days), timedelta(days=authority_days), timedelta(days=overlap_days)
    )
    client = (
        KubeClient.in_cluster()
        if in_cluster
        else KubeClient.from_kubeconfig(kubeconfig, context_name)
    )
    done = renew(
        client,
        Secrets(namespace, authority, server, caller),
        Leaf(hosts[0], hosts, addresses),
        Leaf(client_name, client=True),
        terms,
    )
    if as_json:
        print_json(done)
    else:
        print_table("Certificates", ("secret", ""), list(done.items()))


@command.command("self-signed")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--host", "hosts", multiple=True, required=True, help="Name of the server.")
@click.option("--validity-days", type=click.IntRange(1, 36500), default=3650, show_default=True)
def _self_signed(directory: Path, hosts: tuple[str, ...], validity_days: int) -> None:
    """Write tls.crt and tls.key into DIRECTORY, for a server whose callers verify nothing.

    What kube-scheduler does for its own metrics at each start: who may read is decided by the
    caller's token, and TLS keeps the token to itself.
    """
    with _cryptography():
        from scheduler.cluster.certificates import Leaf, self_signed

    for name, content in self_signed(Leaf(hosts[0], hosts), timedelta(days=validity_days)).items():
        file = directory / name
        file.touch(mode=0o600)
        file.write_bytes(content)


@contextmanager
def _cryptography() -> Iterator[None]:
    from scheduler.core.errors import InvalidInput

    try:
        yield
    except ModuleNotFoundError as error:
        raise InvalidInput(
            "certificates", f"{error.name} is not installed", "pip install 'snugfit[certificates]'"
        ) from error
