"""Files that mean harm, or are no files at all: exit code 2, one line that names what is wrong."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import yaml

from scheduler.core import reading
from scheduler.files import native
from scheduler.files.workload import Workload
from tests.builders import node
from tests.command_line import is_one_line

NODE = {"name": "n", "cpu_milli": 8000, "memory_mib": 8192, "gpus": 2, "product": "A"}
POD = {"name": "p", "cpu_milli": 100, "gpu": {"milli": 300}}
KUBE_NODE = {
    "kind": "Node",
    "metadata": {"name": "n"},
    "status": {"allocatable": {"cpu": "8", "memory": "8Gi", "pods": "110", "nvidia.com/gpu": "4"}},
}


def _v1(nodes: object = (NODE,), pods: object = (POD,)) -> str:
    return json.dumps({"format": "snugfit/v1", "nodes": nodes, "pods": pods})


def _kube_pod(name: str = "p", **rest: object) -> dict:
    asked = {"resources": {"requests": {"cpu": "1", "nvidia.com/gpu": "1"}}}
    pod = {"kind": "Pod", "metadata": {"name": name, "namespace": "ns", "uid": name}}
    return pod | {"spec": {"containers": [asked]}} | rest


def _dump(*items: object) -> str:
    return json.dumps({"kind": "List", "items": list(items)})


# -- what a path may lead to -------------------------------------------------------------------

# Every command that reads a file, with its path in place of FILE.
READERS = {
    "simulate": ("simulate", "FILE.json"),
    "openb": ("simulate", "FILE.csv"),
    "openb pods": ("simulate", "ok.csv", "FILE.csv"),
    "policy": ("simulate", "ok.json", "--policy-file", "FILE"),
    "plan": ("plan", "FILE"),
    "costs": ("plan", "ok.json", "--model-costs", "FILE"),
    "bound": ("bound", "FILE.json"),
    "check": ("config", "check", "FILE"),
    "settings": ("serve", "--config", "FILE", "--print-config"),
    "served": ("serve", "--offline", "FILE.json", "--port", "0"),
    "mix": ("serve", "--offline", "ok.json", "--workload-profile", "FILE.json", "--port", "0"),
    "policy served": ("serve", "--policy-file", "FILE", "--print-config"),
    "tune": ("tune", "ok.json", "--policy-file", "FILE"),
    "journal": ("tune", "ok.json", "--journal", "FILE"),
    "grid": ("sweep", "FILE"),
    "rows": ("sweep", "ok.yaml", "--rows", "FILE"),
    "kubeconfig": ("doctor", "--kubeconfig", "FILE"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ok.json").write_text(_v1())
    (tmp_path / "ok.yaml").write_text(
        "{format: snugfit-sweep/v1, workloads: [{files: [ok.json]}], policies: [fgd]}"
    )
    (tmp_path / "ok.csv").write_text("sn,cpu_milli,memory_mib,gpu,model\nn,1,1,1,A\n")
    return tmp_path


def _make(what: str, path: Path) -> None:
    match what:
        case "pipe without a writer":
            os.mkfifo(path)
        case "link to a pipe":
            os.mkfifo(path.with_name("pipe"))
            path.symlink_to("pipe")
        case "socket":
            with socket.socket(socket.AF_UNIX) as door:
                door.bind(path.name)
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case "UTF-32":
            path.write_bytes("{}".encode("utf-32"))
        case "UTF-16":
            path.write_bytes("{}".encode("utf-16"))
        case "Latin-1":
            path.write_bytes('{"é": "\xe9"}'.encode("latin-1"))
        case "NUL":
            path.write_bytes(b'{"a": "\0"}')


@pytest.mark.parametrize(
    "what",
    [
        "pipe without a writer",
        "link to a pipe",
        "socket",
        "folder",
        "device",
        "UTF-32",
        "UTF-16",
        "Latin-1",
        "NUL",
    ],
)
@pytest.mark.parametrize("reader", READERS)
def test_whatever_a_path_leads_to_is_named(folder: Path, snugfit, reader: str, what: str) -> None:
    named = next(word for word in READERS[reader] if word.startswith("FILE"))
    path = folder / named.replace("FILE", "file")
    _make(what, path)
    done = snugfit(*(path.name if word == named else word for word in READERS[reader]))
    is_one_line(done, path.name)


@pytest.mark.parametrize(
    "reader", [name for name in READERS if name not in ("settings", "journal", "rows")]
)
def test_an_empty_file_is_named(folder: Path, snugfit, reader: str) -> None:
    """Settings may be empty, and what keeps rows begins so."""
    named = next(word for word in READERS[reader] if word.startswith("FILE"))
    path = folder / named.replace("FILE", "file")
    path.write_text(" \r\n")
    done = snugfit(*(path.name if word == named else word for word in READERS[reader]))
    is_one_line(done, path.name, "is empty")


def test_too_large_files_are_refused_unread(
    folder: Path, snugfit, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (folder / "sparse.json").open("wb") as file:
        file.truncate(reading.LARGEST_WORKLOAD + 1)
    is_one_line(snugfit("plan", "sparse.json"), "more than 1024 MiB")
    is_one_line(snugfit("config", "check", "sparse.json"), "more than 4 MiB")


@pytest.mark.parametrize("reader", ["simulate", "openb", "policy", "check"])
def test_byte_order_marks_and_line_ends_of_another_system_are_none_of_its_business(
    folder: Path, snugfit, reader: str
) -> None:
    texts = {
        "simulate": _v1().replace(",", ",\n"),
        "openb": "sn,cpu_milli,memory_mib,gpu,model\nn,8000,8192,2,A\n",
        "policy": '{"format": "snugfit-policy/v1",\n "policy": "priced", "weights": {}}\n',
        "check": snugfit("config", "kube-scheduler").out,
    }
    for file in ("file.json", "file.csv", "FILE"):
        text = texts[reader].replace("\n", "\r\n").encode()
        (folder / file).write_bytes(b"\xef\xbb\xbf" + text)
    (folder / "pods.csv").write_text("name,cpu_milli,memory_mib,num_gpu,gpu_milli\np,1,1,1,500\n")
    args = [word.replace("FILE.", "file.") for word in READERS[reader]]
    done = snugfit(*args, *(("pods.csv",) if reader == "openb" else ()))
    assert done.code == 0, done


# -- what a file may say -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_v1([{**NODE, "devices": [{"product": "A"}] * 65}]), ("nodes[0]", "65 devices")),
        (_v1([{**NODE, "devices": [{"mig": "A100-41"}]}]), ("nodes[0]", "A100-41")),
        (_v1([{**NODE, "devices": [{"memory_mib": 1 << 40}]}]), ("devices[0].memory_mib",)),
        (_v1([NODE, {**NODE, "gpus": 1}]), ("nodes[1].name", "nodes[0]")),
        (_v1(pods=[POD, POD]), ("pods[1].uid", "pods[0]")),
        (_v1(pods=[{**POD, "uid": "u"}, {**POD, "name": "q", "uid": "u"}]), ("pods[1].uid",)),
        (_v1(pods=[{**POD, "gpu": {"milli": 1000}}]), ("pods[0]", "gpu.milli")),
        (_v1(pods=[{**POD, "gpu": {"count": 1, "replicas": 1}}]), ("pods[0]", "mixes")),
        (_v1(pods=[{**POD, "gpu": {"mig": {"1g.5gb": -1}}}]), ("pods[0].gpu.mig",)),
        (_v1(pods=[{**POD, "priority": 1 << 40}]), ("pods[0].priority",)),
        (_v1(pods=[{**POD, "gang": "g", "gang_size": 0}]), ("pods[0].gang_size",)),
        (_v1(pods=[{**POD, "duration_s": -0.5}]), ("pods[0].duration_s",)),
        (_v1(pods=[{**POD, "node": "n", "devices": ["2:100"]}]), ("pods[p].devices", "0..1")),
        (_v1(pods=[{**POD, "node": "n", "devices": ["0:1001"]}]), ("pods[p].devices",)),
        (_v1(pods=[{**POD, "node": "n", "devices": ["٣:1"]}]), ("pods[p].devices",)),
        (_v1(pods=[{**POD, "node": "n", "devices": ["0:1"] * 80}]), ("pods[0].devices",)),
        (_v1().replace("8000", "8e3"), ("cpu_milli",)),
        (_v1().replace('"n"', '"\\ud800"'), ("not JSON",)),
        (_v1() + "]", ("not JSON",)),
        ('{"format": "snugfit/v1", "nodes": {}}', ("nodes",)),
        ('{"format": "snugfit/v1", "pods": [' + "[" * 100_000, ("ok.json",)),
        ('{"format": "snugfit/v1", "more": ' + '{"a":' * 100_000, ("ok.json",)),
    ],
)
@pytest.mark.parametrize("command", ["simulate", "plan"])
def test_our_format(folder: Path, snugfit, command, content: str, words) -> None:
    (folder / "ok.json").write_text(content)
    is_one_line(snugfit(command, "ok.json"), "ok.json", *words)


def test_more_nodes_than_any_cluster_has(folder: Path, snugfit) -> None:
    nodes = [{"name": f"n{i}", "cpu_milli": 1, "memory_mib": 1} for i in range(100_001)]
    (folder / "many.json").write_text(_v1(nodes))
    is_one_line(snugfit("simulate", "many.json"), "many.json", "100000", "nodes")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("n,1,1,65,A", (":2:gpu", "0..64")),
        ("n,99999999999,1,1,A", (":2:cpu_milli",)),
        ("n,¹,1,1,A", (":2:cpu_milli",)),
        ("n,1e3,1,1,A", (":2:cpu_milli",)),
        ('n,1,1,1,"A"x', (":2", "not CSV")),
        ("n,1,1,1,A,A", (":2", "fields")),
    ],
)
def test_node_lists(folder: Path, snugfit, line: str, words) -> None:
    (folder / "n.csv").write_text(f"sn,cpu_milli,memory_mib,gpu,model\n{line}\n")
    is_one_line(snugfit("bound", "n.csv"), "n.csv", *words)


@pytest.mark.parametrize("time", ["nan", "-inf", "1e300", "-3", "1_0e"])
def test_times_of_pod_lists(folder: Path, snugfit, time: str) -> None:
    header = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,creation_time\n"
    (folder / "p.csv").write_text(f"{header}p,1,1,1,500,{time}\n")
    done = snugfit("simulate", "ok.csv", "p.csv")
    is_one_line(done, "p.csv:2:creation_time", "not a time")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"A": 1, "A": 2}', ("costs: A", "twice")),
        ('{"A": NaN}', ("NaN",)),
        ('{"A": 1e400}', ("A",)),
        ('{"A": ' + "9" * 5000 + "}", ("5000 digits",)),
        ('{"A": 10000000}', ("A",)),
        ('{"A": true}', ("A",)),
        ("[" * 100_000, ("nested",)),
        ("[1]", ("not a JSON object",)),
    ],
)
def test_costs_of_models(folder: Path, snugfit, content: str, words) -> None:
    (folder / "costs").write_text(content)
    done = snugfit("plan", "ok.json", "--model-costs", "costs")
    is_one_line(done, "costs", *words)


@pytest.mark.parametrize(
    "content",
    [
        "users: 5\n",
        "current-context: a\ncontexts: [1]\n",
        "current-context: a\ncontexts: [{name: a, context: 3}]\n",
        "a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "- 1\n",
        "!!python/object/apply:os.system [touch PWNED]\n",
        "x: &x\n  y: *x\n",
        "".join(
            f"{'a' * (i + 1)}: &{'a' * (i + 1)} [{', '.join(['*' + 'a' * i] * 9)}]\n"
            if i
            else "a: &a [x]\n"
            for i in range(9)
        ),
    ],
)
def test_kubeconfigs(folder: Path, snugfit, content: str) -> None:
    (folder / "kubeconfig").write_text(content)
    is_one_line(snugfit("doctor", "--kubeconfig", "kubeconfig"), "kubeconfig")
    assert not (folder / "PWNED").exists()


# -- YAML --------------------------------------------------------------------------------------


def _unfolding(levels: int, width: int, line: str) -> str:
    lines = [line.format(name="a0", items=", ".join(["x"] * width))]
    for i in range(1, levels):
        lines.append(line.format(name=f"a{i}", items=", ".join([f"*a{i - 1}"] * width)))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_unfolding(40, 2, "{name}: &{name} [{items}]"), ("values",)),
        (_unfolding(7, 10, "- &{name} [{items}]"), ("values",)),
        (_unfolding(3, 400, "{name}: &{name} [{items}]"), ("values",)),
        ("a: &a {b: {c: [*a]}}\n", ("itself",)),
        ("a: &a 1\nb: {<<: *a}\n", ("keys",)),
        ("b: &b {x: 1}\nc: {<<: {<<: *b}}\n", ("keys",)),
        ("a: " + "[" * 101 + "]" * 101 + "\n", ("deep",)),
        ("".join(" " * i + "- \n" for i in range(150)), ("deep",)),
        ("a: " + "{a: " * 100_000, ("deep",)),
        ('{"a": ' * 100_000, ("deep",)),
        ('{"a": ' * 50 + "1" + "}" * 50, ("no kind",)),
        ("weight: " + "1" * 61 + "\n", ("61 characters",)),
        ("weight: 0x" + "f" * 5000 + "\n", ("5002 characters",)),
        ("a: !!binary QUJD\n", ("tag",)),
        ("a: !!set {x, y}\n", ("tag",)),
        ("a: !mine 1\n", ("tag",)),
        ("a: !!int x\n", ("cannot be read",)),
        ("? {a: 1}\n: 2\n", ("key",)),
        ("a: 1\n'a': 2\n", ("twice",)),
        ("a: [\x08]\n", ("cannot be read as YAML",)),
        ("- a\n- b\n", ("no kind",)),
        ("just words\n", ("no kind",)),
        ("root:*:1::\n", ("no kind",)),
        ("kind: null\n", ("no kind",)),
        ("kind: ConfigMap\ndata:\n  x: |\n    KubeSchedulerConfiguration: &a [*a]\n", ("itself",)),
    ],
)
def test_yaml(folder: Path, snugfit, text: str, words) -> None:
    (folder / "f.yaml").write_text(text)
    is_one_line(snugfit("config", "check", "f.yaml"), "f.yaml", *words)
    served = snugfit("serve", "--config", "f.yaml", "--print-config")
    is_one_line(served, "f.yaml")


def test_aliases_that_unfold_into_little_are_read(folder: Path, snugfit) -> None:
    (folder / "f.yaml").write_text("port: &port 10300\nprobe_port_: 0\n")
    is_one_line(snugfit("serve", "--config", "f.yaml", "--print-config"), "probe_port_")
    (folder / "f.yaml").write_text("policy: &x fgd\nlog_level: info\nhost: *x\n")
    done = snugfit("serve", "--config", "f.yaml", "--print-config")
    assert done.code == 0 and yaml.safe_load(done.out)["host"] == "fgd"


def test_empty_settings_are_the_defaults(folder: Path, snugfit) -> None:
    for text in ("", "# nothing\n", "---\n"):
        (folder / "f.yaml").write_text(text)
        assert snugfit("serve", "--config", "f.yaml", "--print-config").code == 0


# -- lists of objects: one stops no other ------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        7,
        None,
        {"kind": "Pod", "metadata": {"name": 5}},
        _kube_pod("q", metadata={"name": "q", "namespace": "ns", "creationTimestamp": "soon"}),
        _kube_pod("q", metadata={"name": "q", "creationTimestamp": "0001-01-01T00:00:00"}),
        _kube_pod("q", spec={"containers": [{"resources": {"requests": {"cpu": "x"}}}]}),
        _kube_pod("q", spec={"nodeName": "gone", "containers": []}),
        _kube_pod("p"),
        {**KUBE_NODE, "metadata": {"name": "m"}, "status": {"allocatable": {"cpu": "1e300"}}},
        KUBE_NODE,
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": [], "spec": 7},
        {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": 3},
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_bad_object_of_a_dump_stops_no_other(folder: Path, snugfit, bad, first: bool) -> None:
    good = (KUBE_NODE, _kube_pod())
    known = bad in good
    items = (*good, bad) if known or not first else (bad, *good)
    (folder / "dump.json").write_text(_dump(*items))
    done = snugfit("plan", "dump.json", "--budget", "500ms", "--json")
    assert done.code == 0 and json.loads(done.out)["placements"], done
    misread = json.loads(done.out)["not_understood"]
    assert len(misread) == (0 if known else 1)  # what is listed twice is the same
    assert done.err.count("dump.json: not understood: ") == len(misread)
    assert all(one["object"] and one["why"] and one["effect"] for one in misread)


def test_nothing_new_goes_where_a_pod_runs_that_nobody_can_read(folder: Path, snugfit) -> None:
    asked = {"resources": {"requests": {"cpu": "x", "nvidia.com/gpu": "4"}}}
    bad = _kube_pod("q", spec={"nodeName": "n", "containers": [asked]})
    (folder / "dump.json").write_text(_dump(KUBE_NODE, _kube_pod(), bad))
    done = snugfit("plan", "dump.json", "--budget", "500ms", "--json")
    assert done.code == 1 and not json.loads(done.out)["placements"], done
    assert "Pod ns/q" in done.err and "its node takes nothing new" in done.err


def test_many_bad_objects_are_counted(folder: Path, snugfit) -> None:
    (folder / "dump.json").write_text(_dump(KUBE_NODE, _kube_pod(), *range(500)))
    done = snugfit("simulate", "dump.json")
    assert done.code == 0 and "500 objects in all are not understood" in done.err
    assert done.err.count("; left out") == 10


def test_a_dump_of_which_nothing_can_be_read_is_refused(folder: Path, snugfit) -> None:
    for text in (_dump(1, 2), "{}", '{"items": null}', '{"items": 5}', _dump(1) + _dump(2)):
        (folder / "dump.json").write_text(text)
        is_one_line(snugfit("plan", "dump.json"), "dump.json")


# -- what an option may say --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("simulate", "ok.json", "--protocol", "replay", "--rate", "nan"), "rate"),
        (("simulate", "ok.json", "--protocol", "replay", "--rate", "inf"), "rate"),
        (("simulate", "ok.json", "--protocol", "inflation", "--arrival", "nan"), "arr"),
        (
            ("simulate", "ok.json", "--protocol", "inflation", "--arrival", "1e308"),
            "arr",
        ),
        (("generate", "--out", "x.json", "--nodes", "1000000000"), "nodes"),
        (("generate", "--out", "x.json", "--pods", "10000000000"), "pods"),
        (("generate", "--out", "x.json", "--load", "nan"), "load"),
        (
            ("generate", "--out", "x.json", "--gangs", "0.5", "--gang-size", "1000000000"),
            "gang-size",
        ),
        (("generate", "--out", "x.json", "--seed", "-1"), "seed"),
        (("plan", "ok.json", "--seed", "9" * 50), "--seed"),
        (("plan", "ok.json", "--budget", "\u0663s"), "--budget"),
        (("tune", "ok.json", "--train", "1000000000"), "--train"),
        (("healthcheck", "--url", "http://[::"), "--url"),
    ],
)
def test_numbers_without_end_are_refused(folder: Path, snugfit, args, word: str) -> None:
    is_one_line(snugfit(*args), word)


# -- files that cannot be written --------------------------------------------------------------


@pytest.mark.parametrize("out", ["nowhere/file.json", ".", "a\x1b[31mb/x"])
def test_a_file_that_cannot_be_written_is_bad_input(folder: Path, snugfit, out: str) -> None:
    done = snugfit("generate", "--nodes", "3", "--out", out)
    assert done.code == 2 and "\x1b" not in done.err


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    """The bounds of the reader are no narrower than what the model allows."""
    workload = Workload((node("a", gpus=32, gpu_memory=1 << 24),))
    native.write(workload, tmp_path / "w.json")
    assert native.read(tmp_path / "w.json").nodes == workload.nodes
