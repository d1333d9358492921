"""The running server keeps to its own description, whatever a schema-driven fuzzer sends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
)

from scheduler.webhook.routes import create_app, openapi_document
from scheduler.webhook.status import VERBS
from tests.builders import node
from tests.depth import examples
from tests.server.conftest import Running

pytestmark = pytest.mark.server
pytest_plugins = ["schemathesis.pytest.plugin"]  # makes a test of each operation

SCHEMA = schemathesis.openapi.from_dict(openapi_document())


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Running]:
    nodes = [node("n0", gpus=2), node("n1", gpus=1, product="A10")]
    server = Running(nodes, offline=True, reservation_ttl_s=1.0)
    yield server
    try:
        assert server.engine.state.check() == []
    finally:
        server.stop()


@SCHEMA.parametrize()
@settings(
    max_examples=examples(10, 60),
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
def test_answers_are_as_described(case, fuzzed: Running) -> None:
    case.call_and_validate(
        base_url=fuzzed.url,
        checks=(not_a_server_error, response_schema_conformance, content_type_conformance),
    )


def test_every_route_is_described(fuzzed: Running) -> None:
    app = create_app(fuzzed.service.webhook)
    routes = {rule.rule.replace("<path:uid>", "{uid}") for rule in app.url_map.iter_rules()}
    verbs = {f"/{verb}" for verb in VERBS}  # on a way of their own
    assert routes | verbs == set(openapi_document()["paths"]) and not routes & verbs
    assert fuzzed.client.get("/openapi.json")["openapi"] == "3.1.0"
