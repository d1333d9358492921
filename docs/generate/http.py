"""The HTTP API: its description, and bodies that a server has really been sent and answered."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from docs.generate.markdown import block, code, table
from docs.generate.running import EXAMPLE, Answer, ask, server
from scheduler.webhook.routes import openapi_document

__all__ = ["page"]

Json = dict[str, Any]

_HEAD = """# HTTP API

What `snugfit serve` answers. The table and the text come from the OpenAPI description that the server
holds itself to (`GET /openapi.json`); a fuzzer compares the two. Each example was sent to a server
over the cluster of `docs/examples/cluster.json` when this page was built, in the order of the page.

Keys of a request are read in any case. "Does not fit" is a verdict and therefore status 200. A request
that cannot be understood is refused with a status of 4xx. With the setting
[`url_prefix`](settings.md#url_prefix) the `POST` verbs are answered below that path and nowhere else.

"""

_LONGEST = 1500


def _pod(name: str, gpus: int) -> Json:
    limits = {"nvidia.com/gpu": str(gpus)}
    container = {
        "name": "main",
        "resources": {"requests": {"cpu": "8", **limits}, "limits": limits},
    }
    return {
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-of-{name}"},
        "spec": {"containers": [container]},
    }


_ARGS: Json = {"Pod": _pod("notebook", 1), "NodeNames": ["a", "b"]}
_BODIES: Mapping[str, Json] = {
    "/filter": _ARGS,
    "/prioritize": _ARGS,
    "/bind": {
        "PodName": "notebook", "PodNamespace": "default", "PodUID": "uid-of-notebook", "Node": "a"
    },
    "/filter-dryrun": {"Pod": _pod("trainer", 2), "NodeNames": ["a", "b"]},
    "/preempt": {
        "Pod": _pod("trainer", 2),
        "NodeNameToMetaVictims": {"b": {"Pods": [{"UID": "default/r1"}], "NumPDBViolations": 0}},
    },
}  # fmt: skip
_PATHS = {
    "/offline/pods/{uid}": "/offline/pods/uid-of-notebook",
    "/debug/decisions": "/debug/decisions?limit=1",
}
_NOT_SHOWN = {"/openapi.json": "the description itself"}


def _operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def page() -> str:
    """A table of all routes, and an example of each."""
    document = openapi_document()
    operations = sorted(_operations(document), key=_order)
    rows = ((code(f"{m} {p}"), o["summary"]) for p, m, o in operations)
    with server("--offline", str(EXAMPLE), "--policy", "fgd", "--no-planner") as url:
        sections = [_section(url, *each, document) for each in operations]
        refused = ask(url, "POST", "/filter", b'{"Pod": ')
    sections.append("## A refusal\n\nA body that cannot be read:\n\n" + _shown(refused))
    return _HEAD + table(("route", "what it does"), rows) + "\n\n" + "\n\n".join(sections) + "\n"


def _order(operation: tuple[str, str, Json]) -> int:
    """Verbs in the order in which kube-scheduler calls them; a release at the end."""
    path, method, _ = operation
    listed = list(_BODIES)
    return listed.index(path) if path in listed else 100 if method == "DELETE" else 50


def _section(url: str, path: str, method: str, operation: Json, document: Json) -> str:
    parts = [f"## `{method} {path}`", f"{operation['summary']}."]
    body = _BODIES.get(path)
    if method == "POST":
        if body is None:
            raise LookupError(f"no example body for {path}")
        parts += ["Request:", block(json.dumps(body, indent=2), "json")]
    if path in _NOT_SHOWN:
        return "\n\n".join([*parts, f"Answer: {_NOT_SHOWN[path]}."])
    sent = None if body is None else json.dumps(body).encode()
    answer = ask(url, method, _PATHS.get(path, path), sent)
    expected = {int(status) for status in operation["responses"] if status.isdigit()}
    if answer[0] not in expected:
        raise RuntimeError(f"{method} {path}: {answer}")
    described = _meaning(operation, answer[0], document)
    return "\n\n".join([*parts, f"Answer: {described}", _shown(answer)])


def _meaning(operation: Json, status: int, document: Json) -> str:
    found: Json = operation["responses"][str(status)]
    while "$ref" in found:
        target: Any = document
        for key in found["$ref"].removeprefix("#/").split("/"):
            target = target[key]
        found = target
    return str(found["description"]).rstrip(".") + "."


def _shown(answer: Answer) -> str:
    status, kind, body = answer
    language = "text"
    if kind == "application/json" and body:
        body, language = json.dumps(json.loads(body), indent=2), "json"
    if len(body) > _LONGEST:
        cut = body.rfind("\n", 0, _LONGEST)
        body = body[:cut] + "\n…"
        language = "text"
    head = f"Status {status}"
    return (
        f"{head}, without a body." if not body else f"{head}, `{kind}`:\n\n{block(body, language)}"
    )
