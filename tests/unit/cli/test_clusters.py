"""The argument CLUSTER: files, standard input, a live cluster, a running extender."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from scheduler.cluster.ledger import Ledger
from scheduler.cluster.settings import ExtenderConfig
from scheduler.core.engine import Engine
from scheduler.core.model import Serves
from scheduler.core.state import ClusterState
from scheduler.files import native
from scheduler.webhook.routes import create_app
from scheduler.webhook.webhook import Webhook
from testbed.fake_api import NODES, PODS, FakeApi
from testbed.kube_objects import node_json, pod_json
from tests.builders import node

OPENB_NODES = "sn,cpu_milli,memory_mib,gpu,model\nn,8000,8192,2,T4\n"
OPENB_PODS = "name,cpu_milli,memory_mib,num_gpu,gpu_milli\np,1000,1024,1,1000\n"
GPU = {"nvidia.com/gpu": "1"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _typed(monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content.encode())))


def _kubeconfig(folder: Path, port: int) -> Path:
    cluster = {"name": "k", "cluster": {"server": f"http://127.0.0.1:{port}"}}
    file = folder / "kubeconfig"
    file.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [cluster],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
    }))  # fmt: skip
    return file


@pytest.fixture
def api():
    api = FakeApi()
    yield api
    api.stop()


def test_files_of_openb_are_told_apart_by_their_headers(here: Path, snugfit) -> None:
    (here / "a.csv").write_text(OPENB_PODS)
    (here / "b.csv").write_text(OPENB_NODES)
    done = snugfit("simulate", "a.csv", "b.csv", "--policy", "best-fit", "--json")
    assert json.loads(done.out)["runs"][0]["placed"] == 1
    assert "lists pods and no node" in snugfit("simulate", "a.csv").err
    assert "no pod is pending" in snugfit("simulate", "b.csv").err
    assert "second node list" in snugfit("simulate", "b.csv", "b.csv").err


def test_a_folder_stands_for_the_objects_in_it(here: Path, snugfit) -> None:
    (here / "dump").mkdir()
    (here / "dump" / "nodes.json").write_text(json.dumps(node_json("n", gpus=1)))
    (here / "dump" / "pods.yaml").write_text(json.dumps(pod_json("p", requests=GPU)))
    (here / "dump" / "notes.csv").write_text("neither nodes nor pods")
    assert "1 of 1 pending pod placed" in snugfit("plan", "dump").out
    (here / "lists").mkdir()
    (here / "lists" / "b.csv").write_text(OPENB_NODES)
    assert "lists: holds no .json or .yaml file" in snugfit("plan", "lists").err


@pytest.mark.parametrize("command", ["plan", "bound", "simulate", "tune"])
def test_standard_input(here: Path, snugfit, monkeypatch, command: str) -> None:
    dump = {"kind": "List", "items": [node_json("n", gpus=1), pod_json("p", requests=GPU)]}
    more = ("--budget", "500ms") if command in ("plan", "bound") else ()
    if command == "tune":
        more = ("--train", "1", "--holdout", "1", "--rounds", "1", "--processes", "1")
    _typed(monkeypatch, json.dumps(dump))
    done = snugfit(command, "-", "--json", *more)
    assert done.code == int(command == "tune"), done  # of one pod there is nothing to gain
    assert json.loads(done.out)
    _typed(monkeypatch, "[")
    done = snugfit(command, "-", *more)
    assert done.code == 2 and done.err.startswith("snugfit: standard input: is not JSON"), done


def test_openb_from_standard_input(here: Path, snugfit, monkeypatch) -> None:
    _typed(monkeypatch, OPENB_NODES)
    assert snugfit("bound", "-", "--json").code == 0


def test_a_live_cluster_with_what_it_serves(here: Path, snugfit, api: FakeApi) -> None:
    """Kinds that are not served say nothing; a kind that may not be listed is named."""
    api.put(NODES, node_json("n", gpus=1))
    api.put(PODS, pod_json("p", requests=GPU))
    config = _kubeconfig(here, api.port)
    done = snugfit("plan", "live", "--kubeconfig", config, "--budget", "500ms", "--json")
    assert done.code == 0, done
    (placed,) = json.loads(done.out)["placements"]
    assert (placed["name"], placed["node"]) == ("p", "n")
    assert snugfit("plan", "live:c", "--kubeconfig", config, "--json").code == 0
    done = snugfit("plan", "live:nowhere", "--kubeconfig", config)
    assert done.code == 2 and "nowhere" in done.err
    assert "is for CLUSTER `live`" in snugfit("plan", "x.json", "--kubeconfig", config).err
    assert "name it alone" in snugfit("plan", "live", "x.json").err


def test_an_extender_tells_all_that_its_nodes_say(tmp_path: Path) -> None:
    odd = replace(
        node("n", gpus=2),
        serves=Serves.ONE_AT_A_TIME,
        by_dra=("x.io/y",),
        offers=("nvidia.com/gpu",),
    )
    ledger = Ledger(Engine(ClusterState([odd])), ExtenderConfig(), live=False)
    answer = create_app(Webhook(ledger)).test_client().get("/debug/cluster")
    file = tmp_path / "w.json"
    file.write_bytes(answer.data)
    assert native.read(file).nodes == (odd,)


@pytest.mark.parametrize(
    ("args", "new"),
    [
        (("plan", "--snapshot", "d.json"), "snugfit plan dump.json"),
        (("bound", "--nodes", "n.csv"), "snugfit bound nodes.csv pods.csv"),
        (("simulate", "--pods", "p.csv"), "snugfit simulate nodes.csv pods.csv"),
        (("simulate", "--mix", "learnt"), "--learn"),
        (("tune", "--trace", "n.csv"), "snugfit tune nodes.csv pods.csv"),
        (("serve", "--offline", "--nodes", "n.csv"), "snugfit serve --offline nodes.csv"),
        (("serve", "--mix", "m.json"), "--workload-profile FILE"),
        (("serve", "--hold-ttl", "5"), "--reservation-ttl SECONDS"),
    ],
)
def test_old_spellings_name_the_new_one(snugfit, args, new: str) -> None:
    done = snugfit(*args)
    assert done.code == 2 and done.err.count("\n") == 1, done
    assert args[-2] in done.err and "not an option any more" in done.err
    assert new in done.err


KUBECTL = """#!/bin/sh
case "$2" in
  {served}) cat "$(dirname "$0")/$2.json" ;;
  *) echo "error: the server doesn't have a resource type \\"$2\\"" >&2; exit 1 ;;
esac
"""


def test_the_dump_of_the_help_works_where_a_kind_is_not_served(here: Path, snugfit) -> None:
    """kubectl prints nothing at all if one of several kinds that it is asked for is unknown."""
    served = {"nodes": node_json("n", gpus=1), "pods": pod_json("p", requests=GPU)}
    for name, obj in served.items():
        (here / f"{name}.json").write_text(json.dumps({"kind": "List", "items": [obj]}))
    (here / "kubectl").write_text(KUBECTL.format(served="|".join(served)))
    (here / "kubectl").chmod(0o755)
    text = snugfit("plan", "--help").out
    script = text[text.index("for kind in") : text.index("> dump.json") + len("> dump.json")]
    environment = {**os.environ, "PATH": f"{here}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", script], env=environment, check=True, capture_output=True)
    done = snugfit("plan", "dump.json", "--budget", "500ms", "--json")
    assert done.code == 0 and len(json.loads(done.out)["placements"]) == 1
