"""``snugfit healthcheck``."""

from __future__ import annotations

import os

import click

__all__ = ["command"]


@click.command("healthcheck")
@click.option(
    "--url", help="What to ask. [default: /healthz of the settings' status_listen or port]"
)
@click.option("--timeout", "timeout_s", type=float, default=3.0, show_default=True, help="Seconds.")
def command(url: str | None, timeout_s: float) -> None:
    """Ask a running extender whether it is well; exit code 1 if not. For container engines."""
    from scheduler.cli.fetch import fetch
    from scheduler.cli.output import message
    from scheduler.cluster.settings_file import load
    from scheduler.core.errors import InvalidInput
    from scheduler.webhook.status import split_address

    if url is None:
        config = load(None, os.environ, {})
        if config.tls_cert and not config.status_listen:
            raise InvalidInput(
                "status_listen", "is not set, and TLS wants a certificate of us", "set it to :10263"
            )
        port = split_address(config.status_listen)[1] if config.status_listen else config.port
        url = f"http://127.0.0.1:{port}/healthz"
    status, body = fetch(url, field="--url", timeout_s=timeout_s)
    message(f"{url}: {status or body.decode(errors='replace')}")
    if not 200 <= status < 300:
        raise click.exceptions.Exit(1)
