"""What an API server does to its clients: too many requests, and tokens that are no longer good."""

from __future__ import annotations

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
import yaml

from testbed.controlplane.api import ApiError, eventually
from testbed.controlplane.chart import NAMESPACE
from testbed.controlplane.objects import fraction_node, fraction_pod, gpu_node, gpu_pod

pytestmark = pytest.mark.e2e

FLOW = "flowcontrol.apiserver.k8s.io/v1"


@contextmanager
def occupied(system, token):
    """Somebody with the same account takes the only seat, again and again.

    A list that is to be newer than anything there is waits three seconds and keeps its seat.
    """
    over = threading.Event()
    future = {"resourceVersion": 10**15, "resourceVersionMatch": "NotOlderThan"}

    def sit():
        with system.api.as_user(token) as account:
            while not over.is_set():
                with suppress(ApiError):  # in vain, or refused itself
                    account.request("GET", "/api/v1/nodes", **future)

    with ThreadPoolExecutor(3) as pool:
        sitting = [pool.submit(sit) for _ in range(3)]
        try:
            yield
        finally:
            over.set()
    for one in sitting:
        one.result()


@contextmanager
def one_seat(api, account):
    """Priority and fairness that serve one request of an account at a time, and queue none."""
    level = {
        "apiVersion": FLOW,
        "kind": "PriorityLevelConfiguration",
        "metadata": {"name": "e2e-seat"},
        "spec": {
            "type": "Limited",
            "limited": {
                "nominalConcurrencyShares": 0,
                "lendablePercent": 0,
                "borrowingLimitPercent": 0,
                "limitResponse": {"type": "Reject"},
            },
        },
    }
    everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}
    flow = {
        "apiVersion": FLOW,
        "kind": "FlowSchema",
        "metadata": {"name": "e2e-seat"},
        "spec": {
            "priorityLevelConfiguration": {"name": "e2e-seat"},
            "matchingPrecedence": 2,
            "rules": [
                {
                    "subjects": [
                        {
                            "kind": "ServiceAccount",
                            "serviceAccount": {"namespace": NAMESPACE, "name": account},
                        }
                    ],
                    "resourceRules": [everything | {"clusterScope": True}],
                }
            ],
        },
    }
    try:
        api.apply(level)
        api.apply(flow)
        yield
    finally:
        api.delete("FlowSchema", "e2e-seat", version=FLOW)
        api.delete("PriorityLevelConfiguration", "e2e-seat", version=FLOW)


def refused(system, token):
    """The status of a list of nodes, as the user of this token; 200 if all is well."""
    with system.api.as_user(token) as account:
        try:
            account.objects("Node")
        except ApiError as error:
            return error.status
    return 200


def test_too_many_requests(system, cluster):
    cluster.create([gpu_node("g", 4), fraction_node("f", 2)])
    account = system.shipped.service.account
    token = system.shipped.service.token()
    with system.wire() as wire:
        system.add_extender(wire=wire)
        system.add_scheduler()
        with one_seat(cluster.api, account), occupied(system, token):
            eventually(lambda: refused(system, token) == 429, "the account is refused")
            wire.cut()
            cluster.create([gpu_pod("theirs", 3, scheduler="somebody-else")])
            cluster.api.bind("default", "theirs", "g")
            eventually(lambda: system.metric('watch_restarts.*cause="http_429"') >= 2, "429 is met")
            # The extender answers on; its bindings are refused, and none is lost.
            cluster.create([fraction_pod("part", 500)])
            eventually(
                lambda: system.metric("binds_total.*(refused|unknown)") > 0, "a binding is refused"
            )
        cluster.create([gpu_pod(f"ours-{i}") for i in range(2)])
        eventually(lambda: "part" in cluster.bound(), "bound after all", 60)
        cluster.all_bound(3)
        assert len(cluster.settle()) == 3  # theirs, the part, and one of ours beside theirs
        system.verify()


def token_of(system, secret):
    """A token that is good as long as the secret exists: the shortest lease of all."""
    system.api.create(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": secret, "namespace": NAMESPACE},
        }
    )
    account = system.shipped.service.account
    answer = system.api.request(
        "POST",
        f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}/token",
        {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "expirationSeconds": 600,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": secret},
            },
        },
    )
    return answer["status"]["token"]


def kubeconfigs(system, tmp_path, token_file, wire):
    """One that names the file of the token, one that names a program which prints it."""
    printer = (
        "import json, pathlib, sys;"
        'print(json.dumps({"apiVersion": "client.authentication.k8s.io/v1",'
        ' "kind": "ExecCredential",'
        ' "status": {"token": pathlib.Path(sys.argv[1]).read_text()}}))'
    )
    program = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": ["-c", printer, str(token_file)],
        "interactiveMode": "Never",
    }
    for name, user in (("file", {"tokenFile": str(token_file)}), ("exec", {"exec": program})):
        content = yaml.safe_load(system.kubeconfig(wire).read_text(encoding="utf-8"))
        content["users"][0]["user"] = user
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        yield path


def test_tokens_are_rotated_and_run_out(system, cluster, tmp_path):
    cluster.create([gpu_node("g", 4), fraction_node("f", 2)])
    token_file = tmp_path / "token"
    first = token_of(system, "first")
    token_file.write_text(first)
    try:
        with system.wire() as wire:
            for path in kubeconfigs(system, tmp_path, token_file, wire):
                system.add_extender(kubeconfig=path)
            system.add_scheduler()  # asks the second one
            cluster.create([fraction_pod("before", 500)])
            cluster.all_bound(1)
            # It runs out before the new one is there: nothing works, nothing breaks.
            system.api.delete("Secret", "first", NAMESPACE)
            eventually(lambda: refused(system, first) == 401, "the first token is no longer good")
            wire.cut()
            for extender in system.extenders:
                eventually(
                    lambda extender=extender: any(
                        'cause="http_401"' in name for name in extender.metrics()
                    ),
                    f"{extender.name} is refused",
                )
            cluster.create([fraction_pod("after", 500), gpu_pod("theirs", 3, scheduler="else")])
            cluster.api.bind("default", "theirs", "g")
            token_file.write_text(token_of(system, "second"))
            eventually(lambda: "after" in cluster.bound(), "bound with the new token", 60)
            system.verify()
    finally:
        for secret in ("first", "second"):
            system.api.delete("Secret", secret, NAMESPACE)
