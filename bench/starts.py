"""Does it start, every time?

`snugfit serve` is started again and again on a busy machine. An API server of our own serves nodes,
pods, disruption budgets and two kinds of gangs, so that as many watches as in a large cluster begin
at the same moment. Each start has to become ready, to give a right answer to a filter call, and to
end with exit code 0 on SIGTERM. A crash while threads begin (a segmentation fault in a library,
say) shows as a process that ends by a signal. The log has one line per start; a run that is cut
short goes on where its log ends.
"""

from __future__ import annotations

import http.client
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import yaml

from bench.report import Report, benchmark
from testbed.busy import busy_loops
from testbed.controlplane.process import free_port
from testbed.fake_api import NODES, PODS, FakeApi, serving
from testbed.kube_objects import node_json, pod_json

_BUDGETS = "/apis/policy/v1/poddisruptionbudgets"
_GROUPS = (
    ("scheduling.k8s.io", "v1beta1", "podgroups", "PodGroup"),
    ("scheduling.x-k8s.io", "v1alpha1", "podgroups", "PodGroup"),
)
_GPU = "nvidia.com/gpu"
_NODES, _FULL = 20, 10
_LOOK_S = 0.02
_ENDED = "ended "  # how a problem begins that is the end of the process


@benchmark("starts")
@click.option("--starts", type=click.IntRange(1), default=1000, show_default=True)
@click.option(
    "--busy", type=click.IntRange(0), default=4, show_default=True, help="Busy loops beside."
)
@click.option("--patience", default=180.0, show_default=True, help="Seconds until it is ready.")
@click.option("--minutes", default=0.0, help="Begin no start after this time.  [default: no end]")
@click.option(
    "--log", type=click.Path(path_type=Path), default=Path("starts.jsonl"), show_default=True
)
def command(
    report: Report, starts: int, busy: int, patience: float, minutes: float, log: Path
) -> None:
    """One row of all starts in the log."""
    report.title = "Starts of snugfit serve"
    begun = time.monotonic()
    _sum_up(report, _so_far(log), starts)
    with serving() as api, busy_loops(busy), tempfile.TemporaryDirectory() as home:
        _fill(api)
        kubeconfig = _kubeconfig(api, Path(home))
        for number in range(len(_so_far(log)), starts):
            if minutes and time.monotonic() - begun > 60 * minutes:
                break
            seen = {"start": number, "busy": busy} | _start(kubeconfig, Path(home), patience)
            with log.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(seen) + "\n")
            if seen["problem"] or number % 20 == 19:
                report.say(json.dumps(seen))
            _sum_up(report, _so_far(log), starts)


def _sum_up(report: Report, seen: list[dict[str, Any]], starts: int) -> None:
    """What has become of the starts so far."""
    report.progress(len(seen), starts)
    failed = [one for one in seen if one["problem"]]
    seconds = [one["ready_s"] for one in seen if one["ready_s"] is not None]
    codes = [one["code"] for one in seen]
    report.rows = [
        {
            "starts": len(seen),
            "busy_loops": ", ".join(sorted({str(one["busy"]) for one in seen})),
            "ended_by_a_signal": sum(code is not None and code < 0 for code in codes),
            "not_ready_or_wrong": sum(not one["problem"].startswith(_ENDED) for one in failed),
            "exit_code_not_0": sum(code is None or code > 0 for code in codes),
            "ready_s_median": statistics.median(seconds) if seconds else None,
            "ready_s_most": max(seconds, default=None),
        }
    ]
    problems = Counter(one["problem"] for one in failed)
    report.failures = [f"{count} times: {problem}" for problem, count in problems.most_common()]


def _so_far(log: Path) -> list[dict[str, Any]]:
    if not log.exists():
        return []
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line]


def _fill(api: FakeApi) -> None:
    """Half of the nodes are full, the others are empty."""
    for number in range(_NODES):
        api.put(NODES, node_json(f"n{number:02}", gpus=4))
        if number < _FULL:
            asked = {_GPU: "4"}
            api.put(PODS, pod_json(f"p{number:02}", node=f"n{number:02}", requests=asked))
    api.objects[_BUDGETS] = {}
    api.put(_BUDGETS, {"metadata": {"name": "b"}, "spec": {}, "status": {"disruptionsAllowed": 1}})
    for group, version, plural, kind in _GROUPS:
        known = {"groupVersion": f"{group}/{version}"}
        api.objects.setdefault("/apis", {})[group] = {"versions": [known]}
        served = {"resources": [{"name": plural, "kind": kind}]}
        api.objects.setdefault(f"/apis/{group}", {})[version] = served
        path = f"/apis/{group}/{version}/{plural}"
        api.objects[path] = {}
        api.put(path, {"metadata": {"name": "g", "namespace": "d"}, "spec": {"minMember": 2}})


def _kubeconfig(api: FakeApi, home: Path) -> Path:
    path = home / "kubeconfig"
    content = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{api.port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def _start(kubeconfig: Path, home: Path, patience: float) -> dict[str, Any]:
    """Start it once; what went wrong, if anything did, and how it ended."""
    port = free_port()
    watched = ",".join(f"{plural}.{group}" for group, _, plural, _ in _GROUPS)
    config = home / "config.yaml"
    config.write_text(yaml.safe_dump({"watch_groups": watched}), encoding="utf-8")
    argv = [
        sys.executable, "-m", "scheduler.cli.main", "serve", "--port", str(port),
        "--kubeconfig", str(kubeconfig), "--config", str(config),
    ]  # fmt: skip
    said, began = home / "said.log", time.perf_counter()
    with said.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT)
    try:
        ready_s = _ready_after(process, port, began + patience)
        problem = "" if ready_s is not None else "not ready"
        if ready_s is not None:
            ready_s = round(ready_s - began, 2)
            problem = _wrong(port)
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        ready_s, problem, code = None, "does not end", None
    finally:
        process.kill()
        process.wait()
    if code and code < 0:
        problem = f"{_ENDED}by {signal.Signals(-code).name}"
    elif code and not problem:
        problem = f"{_ENDED}with {code}"
    tail = said.read_text(encoding="utf-8", errors="replace")[-2000:] if problem else ""
    return {"ready_s": ready_s, "problem": problem, "code": code, "said": tail}


def _ready_after(process: subprocess.Popen[bytes], port: int, until: float) -> float | None:
    """When it was ready; None if it has ended before, or time is up."""
    while process.poll() is None and time.perf_counter() < until:
        with suppress(OSError, http.client.HTTPException):
            if _call(port, "GET", "/readyz")[0] == http.client.OK:
                return time.perf_counter()
        time.sleep(_LOOK_S)
    return None


def _wrong(port: int) -> str:
    """What is wrong with its answer to a filter call, if anything is."""
    names = [f"n{number:02}" for number in range(_NODES)]
    asking = pod_json("asking", requests={_GPU: "1"})
    body = json.dumps({"Pod": asking, "Nodes": None, "NodeNames": names})
    try:
        status, answer = _call(port, "POST", "/filter", body)
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {error}"
    if status != http.client.OK:
        return f"answered {status}"
    right = json.loads(answer)["NodeNames"] == names[_FULL:]
    return "" if right else "a wrong answer"


def _call(port: int, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        line.request(method, path, body, {"Content-Type": "application/json"})
        answer = line.getresponse()
        return answer.status, answer.read()
    finally:
        line.close()
