"""CLUSTER ``extender:URL``: commands about what a running extender knows."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from scheduler.cli.main import cli
from scheduler.core.errors import InvalidInput
from scheduler.files.dump_writer import pod_json
from tests.builders import node, pod

pytestmark = pytest.mark.server


def test_what_a_running_extender_knows(start) -> None:
    server = start([node("n", gpus=2)])
    waiting = json.dumps(pod_json(pod("w", count=1))).encode()
    assert server.client.filter(waiting, ["n"])[0] == ["n"]
    args = ["plan", f"extender:{server.url}", "--budget", "500ms", "--json"]
    done = CliRunner().invoke(cli, args)
    assert done.exit_code == 0, done
    said = json.loads(done.stdout)
    assert [one["name"] for one in said["placements"]] == ["w"]
    assert said["status"] == "PROVED_IN_PART"  # it knows no budgets and no owners
    assert "nobody is moved" in said["not_considered"][0]["effect"]


@pytest.mark.parametrize(
    ("url", "complaint"),
    [("http://127.0.0.1:1", "answered nothing.*port-forward"), ("nonsense", "is not a URL")],
)
def test_an_extender_that_does_not_answer(url: str, complaint: str) -> None:
    done = CliRunner().invoke(cli, ["plan", f"extender:{url}"])
    assert isinstance(done.exception, InvalidInput)
    with pytest.raises(InvalidInput, match=complaint):
        raise done.exception
