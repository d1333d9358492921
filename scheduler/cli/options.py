"""Options that several benchmarks share, spelt once."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["clock_option", "data_option"]

data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    envvar="SNUGFIT_DATA",
    default="../shared/data",
    show_default=True,
    help="Folder with openb/. [env: SNUGFIT_DATA]",
)

clock_option = click.option(
    "--clock",
    type=click.Choice(["wall", "cpu"]),
    default="wall",
    show_default=True,
    help="cpu: count processor time, for figures from a machine that does other work.",
)
