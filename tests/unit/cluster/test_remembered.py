"""What is remembered of pods: by size, however long what they say is, and nothing once they go."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from scheduler.cluster.settings import ExtenderConfig
from scheduler.core.engine import Engine
from scheduler.core.model import PodRequest, Reason
from scheduler.core.state import ClusterState
from scheduler.kube.pod_requests import pod_request
from scheduler.webhook.protocol import decode_filter
from testbed.kube_objects import node_object, pod_json, pod_object
from tests.service import Service

LONG = 100_000
WHOLE = {"nvidia.com/gpu": "1"}
GANG = "scheduling.volcano.sh/group-"


def _affinity(terms: list[dict[str, Any]]) -> dict[str, Any]:
    required = {"nodeSelectorTerms": terms}
    return {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    }


def _in(key: str, values: list[str]) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": "In", "values": values}]}


def _texts(number: int, size: int = 250) -> list[str]:
    return [f"{number}-{at}-".ljust(size, "x") for at in range(LONG // size)]


MADE: dict[str, Callable[[int], dict[str, Any]]] = {
    "values": lambda n: {"spec": _affinity([_in("kubernetes.io/hostname", _texts(n))])},
    "terms": lambda n: {"spec": _affinity([_in(text, ["a"]) for text in _texts(n)])},
    "models": lambda n: {"spec": _affinity([_in("nvidia.com/gpu.product", _texts(n))])},
    "node selector": lambda n: {"spec": {"nodeSelector": dict.fromkeys(_texts(n), "v")}},
    "tolerations": lambda n: {
        "spec": {"tolerations": [{"key": text, "operator": "Exists"} for text in _texts(n)]}
    },
    "labels": lambda n: {"labels": dict.fromkeys(_texts(n), "v")},
    "annotations": lambda n: {"annotations": dict.fromkeys(_texts(n), "v")},
    "a gang of its own": lambda n: {
        "annotations": {f"{GANG}name": f"g{n}" + "x" * LONG, f"{GANG}min-member": "2"},
        "requests": WHOLE,
    },
    "profiles": lambda n: {"requests": {f"nvidia.com/mig-{text}": "1" for text in _texts(n)}},
    "containers": lambda n: {
        "spec": {
            "containers": [
                {"name": text, "resources": {"requests": {"cpu": "1m"}}} for text in _texts(n)
            ]
        }
    },
}  # fmt: skip


def _pod(kind: str, number: int, *, node: str = "") -> dict[str, Any]:
    said = {"requests": WHOLE} | MADE[kind](number)
    return pod_json(f"p{number}", node=node, **said)


@pytest.mark.parametrize("bound", [False, True], ids=["pending", "bound"])
@pytest.mark.parametrize("kind", MADE)
def test_pods_that_say_very_much_leave_nothing_when_they_go(kind: str, bound: bool) -> None:
    engine = Engine(ClusterState())
    service = Service(engine, ExtenderConfig(), offline=False)
    sync = service.sync
    sync.node(node_object("n", gpus=8))

    def live_and_die(number: int) -> None:
        content = _pod(kind, number, node="n" if bound else "")
        sync.pod(msgspec.convert(content, type(pod_object("x"))))
        service.filter(decode_filter(msgspec.json.encode({"Pod": content, "NodeNames": ["n"]})))
        sync.pod_gone(f"uid-p{number}")

    for number in range(3):
        live_and_die(number)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(3, 13):
            live_and_die(number)
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 4 * LONG  # of ten times as much, and several copies of it
    assert sync.charges.observed().differences(engine.state, frozenset(), frozenset()) == []


def _request(kind: str) -> PodRequest:
    return pod_request(msgspec.convert(_pod(kind, 1), type(pod_object("x"))))


def test_rules_that_are_too_long_to_remember_select_nothing_and_stop_no_answer() -> None:
    engine = Engine(ClusterState())
    service = Service(engine, ExtenderConfig(), offline=False)
    service.sync.node(node_object("n", gpus=1))
    for kind in ("values", "terms", "node selector", "tolerations"):
        request = _request(kind)
        assert engine.filter(request, np.arange(1))[0] == Reason.FITS.code
        assert engine.explain(request, "n") is not Reason.FITS


def test_rules_of_ordinary_length_are_remembered_as_they_are() -> None:
    hosts = [f"node-{number:03d}.example.internal" for number in range(300)]
    spec = _affinity([_in("kubernetes.io/hostname", hosts)])
    request = pod_request(pod_object("p", spec=spec))
    assert request.selection.terms[0].expressions[0].values == tuple(hosts)


def test_very_many_models_are_any_and_very_many_profiles_fit_nowhere() -> None:
    assert _request("models").gpu.products == ()
    asked = pod_object("p", spec=_affinity([_in("nvidia.com/gpu.product", ["A", "B"])]),
                       requests=WHOLE)  # fmt: skip
    assert pod_request(asked).gpu.products == ("A", "B")
    profiles = _request("profiles").gpu.mig if MADE["profiles"](1) else ()
    assert 0 < len(profiles) <= 32
