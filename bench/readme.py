"""Make bench/README.md from the protocols and from bench/results."""

import click

command = click.Command("readme")
