"""Routes -> verbs and views. Nothing here decides.

Verbs are answered before Flask sees them (:mod:`.verb_path`); everything that people and Prometheus
look at is a view of a Flask application behind that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
import yaml
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from scheduler.cluster.follow import LiveCluster
from scheduler.cluster.ledger import Ledger
from scheduler.cluster.view import PlanningView, planning_view, prices_in_force, snapshot
from scheduler.cluster.worker.planning import PlannerLoop, decided_by
from scheduler.core.errors import UnknownPod
from scheduler.core.model import GpuKind, Placement
from scheduler.core.power import SOCKET
from scheduler.core.price_tables import EFFECTIVE_SCALE, PRICE_SCALE, NodeClass, Prices
from scheduler.core.state import ClusterState
from scheduler.files import native
from scheduler.files.workload import Arrival, BoundPod, Workload
from scheduler.webhook import protocol
from scheduler.webhook.front_page import front_page
from scheduler.webhook.metrics import ExtenderMetrics
from scheduler.webhook.refusals import KIND, line
from scheduler.webhook.status import BRIEFLY, VERBS
from scheduler.webhook.verb_path import VerbPath, code_of
from scheduler.webhook.webhook import Webhook

__all__ = ["create_app", "openapi_document", "probes"]

_JSON = "application/json"


@cache
def openapi_document(base: str = "") -> dict[str, Any]:
    """The OpenAPI description of this application, whose verbs stand behind ``base``."""
    text = files("scheduler.webhook").joinpath("openapi.yaml").read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.safe_load(text)
    document["paths"] = {
        (base + path if path.removeprefix("/") in VERBS else path): described
        for path, described in document["paths"].items()
    }
    return document


def probes(webhook: Webhook) -> dict[str, Callable[[], bool]]:
    """What a probe asks, by path; answered without a lock."""
    return {
        "/healthz": lambda: True,
        "/readyz": lambda: _ready(webhook.live),
        "/activez": webhook.accepting,
    }


def create_app(webhook: Webhook) -> Flask:
    """The WSGI application of one webhook."""
    app = Flask("snugfit", static_folder=None)
    config, answers, metrics = webhook.ledger.config, webhook.verbs, webhook.metrics
    app.config["MAX_CONTENT_LENGTH"] = config.max_body_mib << 20

    def filter_(body: bytes) -> bytes:
        return _read_twice(answers.filter, body)

    def prioritize(body: bytes) -> bytes:
        return _read_twice(answers.prioritize, body)

    def bind(body: bytes) -> bytes:
        return protocol.encode_bind(answers.bind(protocol.decode_bind(body)))

    def preempt(body: bytes) -> bytes:
        return protocol.encode_preempt(answers.preempt(protocol.decode_preempt(body)))

    def dry_run(body: bytes) -> bytes:
        return _read_twice(answers.dry_run, body)

    verbs = {
        "filter": filter_,
        "prioritize": prioritize,
        "bind": bind,
        "preempt": preempt,
        "filter-dryrun": dry_run,
    }
    _add_views(app, webhook)
    _add_debug_views(app, webhook)
    _add_refusals(app, metrics)
    path = VerbPath(
        app.wsgi_app,
        verbs,
        base=config.base,
        most=config.max_body_mib << 20,
        accepting=webhook.accepting,
        metrics=metrics,
    )
    setattr(app, "wsgi_app", path)  # noqa: B010 - Flask's hook for middleware is a method
    return app


def _read_twice(answer: Callable[[protocol.FilterArgs], bytes], body: bytes) -> bytes:
    """Answer a body that may only look like kube-scheduler's own, such as one with a key twice."""
    try:
        return answer(protocol.decode_filter(body))
    except protocol.Misread:
        return answer(protocol.decode_filter(body, whole=True))


def _add_views(app: Flask, webhook: Webhook) -> None:
    ledger, metrics, live = webhook.ledger, webhook.metrics, webhook.live
    front = front_page(ledger.config.base)

    @app.get("/")
    def page() -> Response:
        return Response(front, mimetype="text/html")

    @app.get("/healthz")
    def healthz() -> Response:
        return Response("ok\n", mimetype="text/plain")

    @app.get("/readyz")
    def readyz() -> Response:
        brief = request.environ.get(BRIEFLY)
        content = {"ready": _ready(live)} if brief else _readiness(ledger, live, webhook.planner)
        response = _json(content)
        response.status_code = 200 if content["ready"] else 503
        return response

    @app.get("/activez")
    def activez() -> Response:
        active = webhook.accepting()
        text = "active\n" if active else "not active\n"
        return Response(text, 200 if active else 503, mimetype="text/plain")

    @app.get("/metrics")
    def exposition() -> Response:
        return Response(metrics.exposition(), mimetype="text/plain", content_type=_EXPOSITION)

    @app.get("/openapi.json")
    def description() -> Response:
        return _json(openapi_document(ledger.config.base))

    @app.delete("/offline/pods/<path:uid>")
    def release(uid: str) -> Response:
        if webhook.offline is None:
            return _refuse(403, metrics, "the API says what runs here: delete the pod there")
        try:
            webhook.offline.release(uid)
        except UnknownPod:
            return _refuse(404, metrics, f"no pod {uid} is bound here: see /debug/state")
        return Response(status=204)


def _add_debug_views(app: Flask, webhook: Webhook) -> None:
    ledger = webhook.ledger

    @app.get("/debug/state")
    def debug_state() -> Response:
        return _json(_state_json(*snapshot(ledger)))

    @app.get("/debug/cluster")
    def debug_cluster() -> Response:
        return Response(native.encode(_cluster(planning_view(ledger))), mimetype=_JSON)

    @app.get("/debug/prices")
    def debug_prices() -> Response:
        return _json(_prices_json(prices_in_force(ledger)))

    @app.get("/debug/decisions")
    def debug_decisions() -> Response:
        limit = request.args.get("limit", default=50, type=int)
        return _json({"decisions": webhook.decisions.latest(limit)})


def _ready(live: LiveCluster | None) -> bool:
    return live is None or live.synced


def _readiness(
    ledger: Ledger, live: LiveCluster | None, planner: PlannerLoop | None
) -> dict[str, Any]:
    """A replica that waits for its turn is ready to take it: only what it knows counts here."""
    pulse = ledger.pulse()
    content: dict[str, Any] = {
        "ready": _ready(live),
        "nodes": pulse.nodes,
        "generation": pulse.generation,
    }
    if live is not None:
        content |= live.detail()
    content["decided_by"] = decided_by(ledger)
    if planner is not None:
        content["planner"] = planner.detail()
    if ledger.config.policy == "priced":
        content["prices"] = "in force" if prices_in_force(ledger) else "none: scoring as fgd"
    return content


_MOST_SHOWN = 16  # devices of a node in /debug/prices
_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


def _add_refusals(app: Flask, metrics: ExtenderMetrics) -> None:
    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Response:
        allow = getattr(error, "valid_methods", None)
        return _refuse(error.code or 500, metrics, **({"Allow": ", ".join(allow)} if allow else {}))

    @app.errorhandler(Exception)
    def fault(error: Exception) -> Response:
        code = code_of(error, request.path)
        return _refuse(code, metrics, str(error) if code == 400 else "")


def _refuse(code: int, metrics: ExtenderMetrics, text: str = "", **fields: str) -> Response:
    metrics.errors.labels("other", str(code)).inc()
    return Response(line(code, text), code, fields, content_type=KIND)


def _json(content: Any) -> Response:  # noqa: ANN401 - any JSON value
    return Response(msgspec.json.encode(content), mimetype=_JSON)


def _prices_json(prices: Prices | None) -> dict[str, Any]:
    """Tables thinned out, in milli-GPU; every row of a table is 16 rows of the one in force."""
    if prices is None:
        return {"prices": None}
    worth = prices.worth[:, ::16, ::10] / PRICE_SCALE
    power = prices.weights.watts
    boards = {name: power.of(name) for name in {each.product for each in prices.classes} - {""}}
    return {
        "generation": prices.generation,
        "served_milli_gpu": prices.objective,
        "groups": prices.groups,
        "kinds": prices.shapes,
        "weights": prices.weights.to_json(),
        # Idle and busy watts by product, null where its power is not known.
        "watts": {
            SOCKET: power.socket.to_json(),
            **{name: known and known.to_json() for name, known in sorted(boards.items())},
        },
        "device_milli_by_100_free": (prices.effective[::100] / EFFECTIVE_SCALE).tolist(),
        "worth_milli_gpu": {
            "milli_cpu_step": 16 * prices.cpu_step,
            "milli_gpu_step": 10 * prices.gpu_step,
            "by_model": {
                str(each): table.tolist() for each, table in zip(prices.classes, worth, strict=True)
            },
        },
        # By free slots of a partitioned device, slot 0 first; the media engines count as slot 8.
        "slots_milli_gpu": {
            str(NodeClass("", "", mig)): {
                f"{mask:09b}"[::-1]: int(value) / EFFECTIVE_SCALE
                for mask, value in enumerate(effective.tolist())
                if value and mask & mig.full_mask == mask
            }
            for mig, effective in prices.slots.items()
        },
        # Beside as many cores as the largest node has.
        "sets_milli_gpu_by_free_devices": {
            str(each): (table[-1, : _MOST_SHOWN + 1] / PRICE_SCALE).tolist()
            for each, table in zip(prices.classes, prices.sets, strict=True)
        },
    }


def _cluster(view: PlanningView) -> Workload:
    """Nodes, running pods and those that have asked lately, for ``CLUSTER`` of a command."""
    return Workload(
        tuple(view.nodes),
        tuple(Arrival(request) for request in view.pending),
        tuple(BoundPod(p.pod, p.node, p.devices) for p in view.placements),
        "extender",
        view.gangs,
    )


def _state_json(state: ClusterState, reserved: frozenset[str]) -> dict[str, Any]:
    return {
        "generation": state.generation_now,
        "recount_differences": state.check(),
        "nodes": [
            {
                "name": node.name,
                "product": node.product,
                "cpu_milli": node.cpu_milli,
                "cpu_free_milli": int(state.cpu_free[row]),
                "memory_bytes": node.memory_bytes,
                "memory_free_bytes": int(state.mem_free[row]),
                "memory_mib": node.memory_bytes >> 20,
                "memory_free_mib": int(state.mem_free[row]) >> 20,
                "pods_free": int(state.pods_free[row]),
                "devices": _devices_json(state, row),
                "pods": [_pod_json(placement, reserved) for placement in state.pods_on(row)],
            }
            for row, node in enumerate(state.nodes)
            if node is not None
        ],
    }


def _devices_json(state: ClusterState, row: int) -> list[dict[str, Any]]:
    node = state.node(row)
    devices = []
    for index, device in enumerate(node.devices):
        kind = {GpuKind.MIG: "mig", GpuKind.SHARED: "shared"}.get(device.kind, "plain")
        devices.append(
            {
                "index": index,
                "kind": kind if device.healthy else "unhealthy",
                "resource": node.resource_of(device),
                "units": device.units,
                "free_milli": max(0, int(state.gpu_free[row, index])),
                "free_slots": int(state.slots_free[row, index]),
                "memory_mib": device.memory_mib,
                "free_memory_mib": int(state.device_mem_free[row, index]),
            }
        )
    return devices


def _pod_json(placement: Placement, reserved: frozenset[str]) -> dict[str, Any]:
    pod = placement.pod
    return {
        "uid": pod.uid,
        "namespace": pod.namespace,
        "name": pod.name,
        "cpu_milli": pod.cpu_milli,
        "memory_bytes": pod.memory_bytes,
        "memory_mib": pod.memory_bytes >> 20,
        "devices": [
            {"index": s.index, "milli": s.milli, "memory_mib": s.memory_mib, "slots": s.slots}
            for s in placement.devices
        ],
        "reserved": pod.uid in reserved,
    }
