"""Writes the extender's settings into the schema of the chart's values (``make manifests``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scheduler.cluster.settings import RENAMED, SETTINGS

__all__ = ["CHART_DECIDES", "SCHEMA", "rules"]

SCHEMA = Path(__file__).parent / "helm" / "snugfit" / "values.schema.json"

CHART_DECIDES = {
    "host",
    "port",
    "status_listen",
    "metrics_listen",
    "metrics_cert",
    "metrics_key",
    "loopback_content",
    "tls_cert",
    "tls_key",
    "tls_client_ca",
    "kubeconfig",
    "context",
    "lease_namespace",
    "lease_name",
    "record_policy",
}
"""Settings that follow from other values of the chart."""


def rules() -> dict[str, Any]:
    """JSON schema of each setting that a user of the chart may give, and of old names.

    The schema lets old names pass, so that the chart can say the new ones.
    """
    known = {n: setting.schema() for n, setting in SETTINGS.items() if n not in CHART_DECIDES}
    return known | {old: {"description": f"Renamed: write {new}."} for old, new in RENAMED.items()}


def _write() -> None:
    schema = json.loads(SCHEMA.read_text())
    schema["properties"]["extender"]["properties"]["settings"]["properties"] = rules()
    SCHEMA.write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    _write()
