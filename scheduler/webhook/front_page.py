"""What a person sees who opens the address of the extender in a browser."""

from __future__ import annotations

from html import escape

__all__ = ["front_page"]

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Snugfit</title>
<h1>Snugfit</h1>
<p>This is the extender that kube-scheduler asks where pods with GPUs fit. It answers:</p>
<table>
{rows}
</table>
<p>Paths with links are shown by the listener for metrics to whom the API server lets see them, and
by the others where they are private. <code>snugfit explain</code> and <code>snugfit top</code> ask
for the same and print it for people.</p>
"""
_LOOKS = {
    "/healthz": "whether the process answers",
    "/activez": "whether it is this replica that answers verbs",
    "/readyz": "whether the cluster is known, and what is not",
    "/metrics": "figures for Prometheus",
    "/openapi.json": "every path and body",
    "/debug/state": "nodes, devices, and the pods on them",
    "/debug/decisions": "the latest answers and why",
    "/debug/prices": "prices of residual capacity",
    "/debug/cluster": "the cluster as a file for the commands",
}
_VERBS = {
    "filter": "which nodes can host a pod",
    "prioritize": "the best of them",
    "bind": "place the pod",
    "preempt": "which victims make room",
    "filter-dryrun": "as filter, without a trace",
}


def front_page(base: str) -> str:
    """The page; ``base`` stands before each verb."""
    rows = [
        f"<tr><td><code>POST {escape(base)}/{verb}</code><td>{text}"
        for verb, text in _VERBS.items()
    ]
    rows += [
        f'<tr><td><a href="{path}"><code>GET {path}</code></a><td>{text}'
        for path, text in _LOOKS.items()
    ]
    return _PAGE.format(rows="\n".join(rows))
