"""Verbs under a path, as most extenders of other projects have them."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit

import pytest

from scheduler.cluster.settings import ExtenderConfig
from scheduler.core.errors import InvalidInput
from scheduler.kube.scheduler_config.checks import check
from scheduler.kube.scheduler_config.write import SchedulerSetup, kube_scheduler_config
from scheduler.kube.yaml_lines import yaml_files
from scheduler.webhook.routes import openapi_document
from scheduler.webhook.status import VERBS
from testbed.kube_objects import pod_json
from tests.builders import node
from tests.server.conftest import Running

pytestmark = pytest.mark.server


def _ask(server: Running, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("prefix", ["/scheduler", "scheduler/", "/a/b.c~d"])
def test_verbs_are_answered_under_the_prefix_and_nowhere_else(start, prefix: str) -> None:
    server = start([node("n0", gpus=1)], offline=True, url_prefix=prefix)
    base = f"/{prefix.strip('/')}"
    args = {"Pod": pod_json("p"), "NodeNames": ["n0"]}
    status, answer = _ask(server, "POST", f"{base}/filter", args)
    assert status == 200 and json.loads(answer)["NodeNames"] == ["n0"]
    assert {_ask(server, "POST", f"/{verb}", args)[0] for verb in VERBS} == {404}
    assert _ask(server, "POST", f"{base}/filter/", args)[0] == 404
    for probe in ("/healthz", "/readyz", "/activez", "/metrics", "/debug/state"):
        assert _ask(server, "GET", probe)[0] == 200
        assert _ask(server, "GET", base + probe)[0] == 404
    paths = json.loads(_ask(server, "GET", "/openapi.json")[1])["paths"]
    assert f"{base}/filter" in paths and "/filter" not in paths and "/readyz" in paths
    assert set(paths) == set(openapi_document(base)["paths"])


def test_what_goes_wrong_under_the_prefix_is_counted_by_its_verb(start) -> None:
    server = start([node("n0", gpus=1)], offline=True, url_prefix="/scheduler")
    assert _ask(server, "POST", "/scheduler/filter", [])[0] == 400
    assert _ask(server, "GET", "/scheduler/bind")[0] == 405
    exposition = _ask(server, "GET", "/metrics")[1].decode()
    for verb, code in (("filter", 400), ("bind", 405)):
        assert f'verb="{verb}"' in exposition and f'code="{code}"' in exposition


def test_the_check_and_the_server_mean_the_same_paths(start) -> None:
    """Whatever the check calls a 404 is one, and nothing else."""
    server = start([node("n0", gpus=1)], offline=True, url_prefix="/scheduler")
    args = {"Pod": pod_json("p"), "NodeNames": ["n0"]}
    for path in ("/scheduler", "/scheduler/", "", "/", "/scheduler/v1", "/schedulers", "?a=b"):
        setup = SchedulerSetup(url=f"http://127.0.0.1:10262{path}", resources=("nvidia.com/gpu",))
        traps = check(yaml_files(kube_scheduler_config(setup), "file")[0], url_prefix="/scheduler")
        asked = f"{path.rstrip('/')}/filter"  # as kube-scheduler puts it together
        status, _ = _ask(server, "POST", asked if asked.startswith("/") else f"/{asked}", args)
        assert bool(traps) is (status == 404), path


@pytest.mark.parametrize("prefix", ["/..", "/a b", "/a//b", "/debug", "offline/x", "/a?b", "/ä"])
def test_what_is_no_path_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidInput, match="url_prefix"):
        ExtenderConfig(url_prefix=prefix)


def test_no_prefix_is_the_default() -> None:
    assert ExtenderConfig().base == ExtenderConfig(url_prefix="/").base == ""
    assert "/filter" in openapi_document()["paths"]
