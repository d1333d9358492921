"""Profiles of the properties, and what a run leaves out."""

from __future__ import annotations

import gc

import pytest
from hypothesis import settings

from tests.depth import DEEP, stated

settings.register_profile("quick", deadline=None, derandomize=not stated(), print_blob=True)
settings.register_profile("deep", deadline=None, derandomize=False, print_blob=True)
settings.load_profile("deep" if DEEP else "quick")


def pytest_report_header(config: pytest.Config) -> str | None:
    """One line if this run leaves tests out."""
    if "not e2e" in config.getoption("markexpr"):
        return "left out: end-to-end and deep tests, which `make e2e` and `make deep` run"
    return None


def pytest_collection_finish() -> None:
    """What importing and collecting have made stays to the end: nobody need look through it again.

    Otherwise a full collection, and some tests ask for many, visits all of it each time.
    """
    gc.collect()
    gc.freeze()
