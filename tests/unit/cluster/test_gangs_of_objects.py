"""Gangs of a live cluster: who is a member follows pods and workload objects as they change."""

from __future__ import annotations

from typing import Any

import msgspec

from scheduler.cluster.settings import ExtenderConfig
from scheduler.core.engine import Engine
from scheduler.core.model import GangKey, PodRequest
from scheduler.core.state import ClusterState
from scheduler.kube.objects import PodObject
from scheduler.kube.observed import ObservedNode
from scheduler.kube.workloads import statements
from tests.builders import node
from tests.service import Service

STEP, TRAIN = (GangKey("jobset", "default", "js", stage) for stage in ("step", "train"))
WHOLE = GangKey("jobset", "default", "js")


def _jobset(*jobs: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": "js", "namespace": "default"}
    version = "jobset.x-k8s.io/v1alpha2"
    spec = {"replicatedJobs": list(jobs)}
    return {"kind": "JobSet", "apiVersion": version, "metadata": metadata, "spec": spec}


def _job(name: str, size: int, after: str = "") -> dict[str, Any]:
    depends = [{"name": after, "status": "Complete"}] if after else []
    template = {"spec": {"parallelism": size, "completions": size}}
    return {"name": name, "template": template, "dependsOn": depends}


class Live:
    """A service with a sync of one node, told what the API would say."""

    def __init__(self) -> None:
        self.engine = Engine(ClusterState(), "best-fit")
        service = Service(self.engine, ExtenderConfig(), offline=False, clock=lambda: 0.0)
        self.sync, self.gangs = service.sync, service.gangs
        self.sync.charges.put_node(ObservedNode(node("a", gpus=8)))

    def pod(self, name: str, on: str = "", *, going: bool = False, phase: str = "") -> None:
        metadata = {"name": name, "namespace": "default", "uid": name}
        metadata["labels"] = {"jobset.sigs.k8s.io/jobset-name": "js"}
        if going:
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        wants = {"requests": {"nvidia.com/gpu": "1"}}
        content = {
            "metadata": metadata,
            "spec": {"containers": [{"resources": wants}], **({"nodeName": on} if on else {})},
            "status": {"phase": phase or ("Running" if on else "Pending")},
        }
        self.sync.pod(msgspec.convert(content, PodObject))

    def asks(self, name: str) -> PodRequest:
        return self.sync.pending[name]

    @property
    def free(self) -> int:
        return int(self.engine.state.full_free.sum())


def test_pods_that_are_going_keep_their_devices_and_are_no_members() -> None:
    live = Live()
    live.sync.group(statements(_jobset(_job("w", 4))))
    for n in range(4):
        live.pod(f"js-w-0-{n}-old", on="a")
    live.pod("js-w-0-0-new")
    assert not live.gangs.is_incomplete_gang(live.asks("js-w-0-0-new")), "four run"
    for n in range(4):
        live.pod(f"js-w-0-{n}-old", on="a", going=True)
    assert live.gangs.members.missing(WHOLE) == 4 and live.free == 4
    assert live.gangs.is_incomplete_gang(live.asks("js-w-0-0-new"))
    for n in range(4):
        live.sync.pod_gone(f"js-w-0-{n}-old")
    assert live.gangs.members.missing(WHOLE) == 4 and live.free == 8
    live.pod("js-w-0-0-new", going=True)
    assert live.asks("js-w-0-0-new").gang is None
    assert not live.gangs.members.present(WHOLE)
    assert live.engine.state.check() == []


def test_members_learn_their_stage_whenever_their_object_is_known() -> None:
    live = Live()
    live.pod("js-step-0-0", on="a")
    for n in range(3):
        live.pod(f"js-train-0-{n}")
    assert {live.asks(f"js-train-0-{n}").gang for n in range(3)} == {WHOLE}
    stated = statements(_jobset(_job("step", 1), _job("train", 3, after="step")))
    assert live.sync.group(stated) and not live.sync.group(stated)
    members = live.gangs.members
    assert {live.asks(f"js-train-0-{n}").gang for n in range(3)} == {TRAIN}
    assert live.asks("js-train-0-1").role == "train"
    assert (members.missing(TRAIN), members.missing(STEP)) == (3, 0)
    assert len(members.present(TRAIN)) == 3 and not members.present(WHOLE)
    assert members.running(STEP) == {"js-step-0-0"} and not members.running(WHOLE)
    assert live.sync.group_gone(stated)
    assert {live.asks(f"js-train-0-{n}").gang for n in range(3)} == {WHOLE}
    assert members.running(WHOLE) == {"js-step-0-0"} and members.missing(TRAIN) <= 1
    assert live.engine.state.check() == []


def test_who_has_succeeded_is_missed_by_nobody_until_he_is_deleted() -> None:
    live = Live()
    live.sync.group(statements(_jobset(_job("w", 3))))
    for n in range(3):
        live.pod(f"js-w-0-{n}", on="a")
    live.pod("js-w-0-0", on="a", phase="Succeeded")
    live.pod("js-w-0-1", on="a", phase="Failed")
    live.pod("js-w-0-1-again")
    members = live.gangs.members
    assert live.free == 7 and (members.minimum(WHOLE), members.missing(WHOLE)) == (2, 1)
    live.sync.pod_gone("js-w-0-0")
    assert members.minimum(WHOLE) == 3
