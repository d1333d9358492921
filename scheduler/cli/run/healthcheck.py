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
    import urllib.error
    import urllib.request
    from urllib.parse import urlsplit

    from scheduler.cli.console import message
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
    try:
        scheme = urlsplit(url).scheme
    except ValueError:  # half an IPv6 address
        scheme = ""
    if scheme not in ("http", "https"):
        raise InvalidInput("--url", f"{url!r} is no URL", "write http://127.0.0.1:10262/healthz")
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:  # noqa: S310 - checked above
            message(f"{url}: {answer.status}")
    except (urllib.error.URLError, OSError) as error:
        message(f"{url}: {error}")
        raise click.exceptions.Exit(1) from error
