"""KubeSchedulerConfigurations with mistakes, and what the real kube-scheduler says to them.

kube-scheduler ends at once if it does not like its file. If it likes it, it logs that it starts
before it talks to anybody, and is killed.
"""

from __future__ import annotations

import copy
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from scheduler.kube.scheduler_config.plugins import EXTENDS, REMOVED
from scheduler.kube.scheduler_config.schema import FIELDS
from scheduler.kube.scheduler_config.write import (
    Profile,
    SchedulerSetup,
    Topology,
    kube_scheduler_config,
)

__all__ = ["mutants", "starts"]

Where = tuple[str | int, ...]

_STARTED = "Starting Kubernetes Scheduler"
_ON_DISK = {"kubeconfig", "caFile", "certFile", "keyFile"}  # judged by what is there
_JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 100, 101, 2**31, 1.5, 16.0, "", "*", "x", "16", "true"),
    *("2s", "-1s", "0", "1m30s", "nvidia.com/gpu", "cpu", "List", "leases", "DoNotSchedule"),
    *([], [None], ["a"], {}, {"name": "cpu"}, [{"name": "NodeName"}], [{"name": "*"}]),
)
_RICH = """
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
parallelism: 8
podInitialBackoffSeconds: 1
podMaxBackoffSeconds: 10
leaderElection: {leaderElect: true, leaseDuration: 15s, renewDeadline: 10s, retryPeriod: 2s}
clientConnection: {qps: 50.5, burst: 100, contentType: application/json}
profiles:
- schedulerName: first
  percentageOfNodesToScore: 50
  plugins:
    queueSort: {enabled: [{name: PrioritySort}]}
    multiPoint: {enabled: [{name: ImageLocality, weight: 2}], disabled: [{name: NodePorts}]}
    filter: {enabled: [{name: NodeName}], disabled: [{name: VolumeZone}]}
    score: {enabled: [{name: NodeAffinity, weight: 5}], disabled: [{name: '*'}]}
    bind: {enabled: [{name: DefaultBinder}], disabled: [{name: '*'}]}
  pluginConfig:
  - name: NodeResourcesFit
    args:
      ignoredResources: [example.com/fpga]
      ignoredResourceGroups: [example.com]
      scoringStrategy:
        type: RequestedToCapacityRatio
        resources: [{name: cpu, weight: 3}, {name: nvidia.com/gpu}]
        requestedToCapacityRatio:
          shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]
  - name: PodTopologySpread
    args:
      defaultingType: List
      defaultConstraints:
      - {maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway}
      - {maxSkew: 2, topologyKey: rack, whenUnsatisfiable: DoNotSchedule, minDomains: 1}
  - name: NodeAffinity
    args:
      addedAffinity:
        requiredDuringSchedulingIgnoredDuringExecution:
          nodeSelectorTerms:
          - matchExpressions: [{key: pool, operator: In, values: [a]}]
          - matchFields: [{key: metadata.name, operator: NotIn, values: [b]}]
        preferredDuringSchedulingIgnoredDuringExecution:
        - {weight: 5, preference: {matchExpressions: [{key: n, operator: Gt, values: ['4']}]}}
  - name: DefaultPreemption
    args: {minCandidateNodesPercentage: 10, minCandidateNodesAbsolute: 100}
  - {name: InterPodAffinity, args: {hardPodAffinityWeight: 1}}
  - {name: NodeResourcesBalancedAllocation, args: {resources: [{name: cpu, weight: 1}]}}
  - {name: VolumeBinding, args: {bindTimeoutSeconds: 60, shape: [{utilization: 0, score: 1}]}}
  - {name: DynamicResources, args: {filterTimeout: 5s, bindingTimeout: 60s}}
  - {name: Elsewhere, args: {anything: [goes]}}
- schedulerName: second
  plugins: {queueSort: {enabled: [{name: PrioritySort}]}}
extenders:
- urlPrefix: http://127.0.0.1:9251/path
  filterVerb: predicate
  prioritizeVerb: sort
  weight: 1
  httpTimeout: 1500ms
  managedResources: [{name: example.com/disk, ignoredByScheduler: true}]
  tlsConfig: {serverName: a}
- urlPrefix: https://127.0.0.1:10262
  enableHTTPS: true
  bindVerb: bind
  nodeCacheCapable: true
  ignorable: false
  managedResources: [{name: nvidia.com/gpu}, {name: nvidia.com/mig-1g.5gb}]
"""


def _sources() -> list[dict[str, Any]]:
    ours = [
        kube_scheduler_config(SchedulerSetup(profile=Profile.PACKING, fallback=True)),
        kube_scheduler_config(SchedulerSetup(topology=Topology.SERVICE, profile=Profile.STOCK)),
    ]
    contents = [yaml.safe_load(text) for text in (_RICH, *ours)]
    for content in contents:
        for entry in content["extenders"]:
            entry.get("tlsConfig", {}).clear()
    return contents


def mutants(seed: int, count: int) -> Iterator[str]:
    """Files, each with one to three mistakes, or changes that are none."""
    draw = random.Random(seed)
    sources = _sources()
    names = sorted({field for fields in FIELDS.values() for field in fields} - _ON_DISK)
    made = 0
    while made < count:
        content = copy.deepcopy(draw.choice(sources))
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            _change(content, draw, names)
        text = yaml.safe_dump(content, sort_keys=False)
        if not _ON_DISK & set(_keys(content)):
            made += 1
            yield text


def _change(content: Any, draw: random.Random, names: list[str]) -> None:
    """One mistake somewhere."""
    where = draw.choice([path for path in _places(content) if path])
    holder = _at(content, where[:-1])
    key: Any = where[-1]  # of a mapping or of a list, as the holder is
    kind = draw.randrange(8)
    if kind == 0:
        holder[key] = copy.deepcopy(draw.choice(_JUNK))
    elif kind == 1:
        del holder[key]
    elif kind == 2 and isinstance(holder, dict):
        holder[_misspelt(str(key), draw)] = holder.pop(key)
    elif kind == 3 and isinstance(holder, list):
        holder.insert(draw.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
    elif kind == 4 and isinstance(holder, dict):
        homes = [p for p in _places(content) if isinstance(_at(content, p), dict)]
        _at(content, draw.choice(homes))[key] = copy.deepcopy(holder[key])
    elif kind == 5 and isinstance(holder, dict):
        holder[draw.choice(names)] = copy.deepcopy(draw.choice(_JUNK))
    elif kind == 6:
        other = draw.choice([path for path in _places(content) if path])
        holder[key] = copy.deepcopy(_at(content, other))
    elif isinstance(holder[key], str):
        plugins = (*EXTENDS, *REMOVED, "Coscheduling", "NodeResourceFit", "noderesourcesfit")
        holder[key] = draw.choice(plugins)


def _misspelt(word: str, draw: random.Random) -> str:
    at = draw.randrange(len(word))
    return draw.choice(
        (
            word[:at] + word[at + 1 :] or "x",
            word + "s",
            word[:at] + word[at].swapcase() + word[at + 1 :],
        )
    )


def _places(content: Any, path: Where = ()) -> Iterator[Where]:
    yield path
    if isinstance(content, dict | list):
        for key, inner in content.items() if isinstance(content, dict) else enumerate(content):
            yield from _places(inner, (*path, key))


def _at(content: Any, path: Where) -> Any:
    for step in path:
        content = content[step]
    return content


def _keys(content: Any) -> Iterator[str]:
    for path in _places(content):
        yield from (str(path[-1]),) if path else ()


def starts(program: Path, text: str, folder: Path, *, until: str = _STARTED) -> tuple[bool, str]:
    """Whether kube-scheduler goes on with a file until it says something, and what it said."""
    path = folder / "kube-scheduler.yaml"
    path.write_text(text, encoding="utf-8")
    nobody = "--master=http://127.0.0.1:1"
    process = subprocess.Popen(
        [program, f"--config={path}", "--secure-port=0", nobody],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    said: list[str] = []
    assert process.stderr is not None
    try:
        for line in process.stderr:
            said.append(line)
            if until in line:
                return True, "".join(said)
        return False, "".join(said)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
        process.stderr.close()
