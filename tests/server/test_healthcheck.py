"""``snugfit healthcheck``, as a container engine runs it."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from scheduler.cli.main import cli
from scheduler.core.errors import InvalidInput
from tests.builders import node

pytestmark = pytest.mark.server


def _check(*args: str, **environ: str):
    return CliRunner().invoke(cli, ["healthcheck", *args], env=environ)


def test_a_running_extender_is_well_and_an_absent_one_is_not(start) -> None:
    server = start([node(gpus=1)], status_listen="127.0.0.1:0")
    port = server.url.rsplit(":", 1)[1]
    patient = ("--timeout", "60")
    assert _check(*patient, SNUGFIT_PORT=port).exit_code == 0
    status = f"127.0.0.1:{server.server.status.port}"
    assert _check(*patient, SNUGFIT_STATUS_LISTEN=status, SNUGFIT_PORT="1").exit_code == 0
    assert _check(*patient, "--url", f"http://{status}/activez").exit_code == 0
    assert _check("--url", f"http://{status}/filter").exit_code == 1
    assert _check(SNUGFIT_PORT="1").exit_code == 1


def test_behind_certificates_it_needs_the_second_door() -> None:
    answer = _check(SNUGFIT_TLS_CERT="a", SNUGFIT_TLS_KEY="b")
    assert isinstance(answer.exception, InvalidInput) and "status_listen" in str(answer.exception)
    assert isinstance(_check("--url", "file:///etc/hosts").exception, InvalidInput)
