"""What objects beside pods state about gangs: how many members, in which roles, started in turn.

Members that start at the same time are one *stage*; what comes after others is created once they
run, so that nobody waits for it. A role whose completion others wait for is a step and no partner:
it is a stage of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from scheduler.core.gangs.spec import Role
from scheduler.core.model import GangKey
from scheduler.kube.gang_membership import GANG_SOURCES, MOST_MEMBERS

__all__ = ["Part", "Stated", "statements"]

_Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """A role of a workload.

    Parameters
    ----------
    role
        As it will be known; names are compared in lower case.
    total
        Pods that have to succeed before the role has nothing more to start; 0 if unknown.
    stage
        With whom it starts; empty if all of the workload starts together.
    template
        Of its pods, as it stands in the object.
    """

    role: Role
    total: int = 0
    stage: str = ""
    template: _Object | None = None


@dataclass(frozen=True, slots=True)
class Stated:
    """What one object states about one gang.

    Parameters
    ----------
    minimum
        Members that must start together; 0 where only the roles say so.
    parts
        Roles; empty where the object knows of none.
    """

    minimum: int = 0
    parts: tuple[Part, ...] = ()


def statements(content: _Object) -> dict[GangKey, Stated]:
    """What an object states, by gang.

    Parameters
    ----------
    content
        Any object as JSON; kinds that are about no gang give nothing.
    """
    kind = f"{content.get('kind', '')}.{str(content.get('apiVersion', '')).split('/')[0]}"
    source = next((s for s in GANG_SOURCES if kind in s.groups), None)
    if source is None:
        return {}
    metadata, spec = content.get("metadata") or {}, content.get("spec") or {}
    system = "trainjob" if content["kind"] == "TrainJob" else source.system
    key = GangKey(system, metadata.get("namespace") or "default", metadata.get("name") or "")
    if content["kind"] == "Workload":
        groups = spec.get("podGroups") or spec.get("podGroupTemplates") or ()
        stated = {
            replace(key, name=f"{key.name}/{group.get('name', '')}"): _policy(group)
            for group in groups
        }
    else:
        read = _READERS.get(kind, _READERS.get(content["kind"], _kubeflow))
        stated = {key: read(spec)}
    return {key: one for key, one in stated.items() if one.minimum or one.parts}


def _policy(spec: _Object) -> Stated:
    """A native policy: pods of a ``basic`` one are scheduled one by one."""
    policy = spec.get("schedulingPolicy") or spec.get("policy") or {}
    if "basic" in policy and "gang" not in policy:
        return Stated(1)
    return Stated(_positive(_at(policy, "gang").get("minCount")))


def _pod_group(spec: _Object) -> Stated:
    native = _policy(spec)
    if native.minimum:
        return native
    tasks = {name: _positive(count) for name, count in (spec.get("minTaskMember") or {}).items()}
    for group in spec.get("subGroups") or ():
        tasks[str(group.get("name", ""))] = _positive(group.get("minMember"))
    parts = tuple(Part(Role(name.lower(), 0, count)) for name, count in tasks.items())
    return _with_minimum(_positive(spec.get("minMember")), parts)


def _job_set(spec: _Object) -> Stated:
    in_order = _at(spec, "startupPolicy").get("startupPolicyOrder") == "InOrder"
    parts: list[Part] = []
    steps: set[str] = set()
    for job in spec.get("replicatedJobs") or ():
        replicas = _positive(job.get("replicas", 1))
        at_once, total = _of_job(_at(job, "template", "spec"))
        depends = job.get("dependsOn") or ()
        after = tuple(str(other.get("name", "")).lower() for other in depends)
        steps |= {
            str(other.get("name", "")).lower()
            for other in depends
            if other.get("status") == "Complete"
        }
        if in_order:
            after = tuple(part.role.name for part in parts)
        name, members = str(job.get("name", "")).lower(), _bounded(replicas * at_once)
        role = Role(name, members, members, after, bool(after))
        template = _at(job, "template", "spec").get("template")
        parts.append(Part(role, _bounded(replicas * total), template=template))
    return Stated(0, _staged(parts, steps))


def _job(spec: _Object) -> Stated:
    at_once, total = _of_job(spec)
    part = Part(Role("", at_once, at_once), total, template=spec.get("template"))
    return Stated(0, (part,) if at_once else ())


def _of_job(spec: _Object) -> tuple[int, int]:
    """Pods of a Job at one time, and in all; the latter 0 where any success ends it."""
    parallelism, completions = spec.get("parallelism"), spec.get("completions")
    at_once = _positive(1 if parallelism is None else parallelism)
    if completions is None:
        return at_once, 0
    return min(at_once, _positive(completions)), _positive(completions)


def _train_job(spec: _Object) -> Stated:
    """What is known without the runtime: the JobSet of the same name says it all."""
    initializers = [
        f"{what}-initializer" for what in ("dataset", "model") if _at(spec, "initializer").get(what)
    ]
    parts = [Part(Role(name, 1, 1), 1) for name in initializers]
    nodes = _positive(_at(spec, "trainer").get("numNodes"))
    if nodes:
        role = Role("node", nodes, nodes, tuple(initializers), bool(initializers))
        parts.append(Part(role, nodes))
    return Stated(0, _staged(parts, set(initializers)) if nodes else ())


def _leader_worker_set(spec: _Object) -> Stated:
    template = _at(spec, "leaderWorkerTemplate")
    workers = _positive(template.get("size", 1)) - 1
    after = ("leader",) if spec.get("startupPolicy") == "LeaderReady" else ()
    worker = template.get("workerTemplate")
    parts = [Part(Role("leader", 1, 1), template=template.get("leaderTemplate") or worker)]
    if workers > 0:
        role = Role("worker", workers, workers, after, bool(after))
        parts.append(Part(role, template=worker))
    return Stated(0, _staged(parts, set()))


def _volcano_job(spec: _Object) -> Stated:
    parts = []
    for task in spec.get("tasks") or ():
        replicas = _positive(task.get("replicas", 1))
        least = task.get("minAvailable")
        after = tuple(str(name).lower() for name in _at(task, "dependsOn").get("name") or ())
        name = str(task.get("name", "")).lower()
        minimum = replicas if least is None else min(_positive(least), replicas)
        role = Role(name, replicas, minimum, after, bool(after))
        parts.append(Part(role, replicas, template=task.get("template")))
    return _with_minimum(_positive(spec.get("minAvailable")), _staged(parts, set()))


def _kubeflow(spec: _Object) -> Stated:
    """One map of replica specs, whose key begins with the framework's name."""
    later = spec.get("launcherCreationPolicy") == "WaitForWorkersReady"
    elastic = _positive(_at(spec, "elasticPolicy").get("minReplicas"))
    stated = _positive(_at(spec, "runPolicy", "schedulingPolicy").get("minAvailable"))
    parts = []
    for name, replicas in spec.items():
        if not name.endswith("ReplicaSpecs") or not isinstance(replicas, dict):
            continue
        for kind, replica in replicas.items():
            role, count = kind.lower(), _positive((replica or {}).get("replicas", 1))
            after = ("worker",) if later and role == "launcher" else ()
            minimum = min(count, elastic) if elastic and role == "worker" else count
            described = Role(role, count, minimum, after, bool(after))
            parts.append(Part(described, count, template=(replica or {}).get("template")))
    return _with_minimum(stated, _staged(parts, set()), any_will_do=True)


def _with_minimum(minimum: int, parts: tuple[Part, ...], *, any_will_do: bool = False) -> Stated:
    """A minimum of all beside those of roles, which do not count if they add up to more.

    With ``any_will_do`` the roles state no minimum of their own.
    """
    if minimum and (any_will_do or minimum < sum(part.role.minimum for part in parts)):
        parts = tuple(replace(part, role=replace(part.role, minimum=0)) for part in parts)
    return Stated(minimum, parts)


def _staged(parts: list[Part], steps: set[str]) -> tuple[Part, ...]:
    """Parts with their stages: those after the same others start together, but steps alone."""
    parts = [part for part in parts if part.role.replicas]
    first: dict[object, str] = {}
    for part in parts:
        first.setdefault(_when(part, steps), part.role.name)
    if len(first) == 1:
        return tuple(parts)
    return tuple(replace(part, stage=first[_when(part, steps)]) for part in parts)


def _when(part: Part, steps: set[str]) -> object:
    name = part.role.name
    return name if name in steps else frozenset(part.role.after)


_READERS: dict[str, Callable[[_Object], Stated]] = {
    "PodGroup": _pod_group,
    "JobSet": _job_set,
    "Job.batch": _job,
    "Job.batch.volcano.sh": _volcano_job,
    "LeaderWorkerSet": _leader_worker_set,
    "TrainJob": _train_job,
}


def _at(content: _Object, *path: str) -> _Object:
    for step in path:
        content = content.get(step) or {}
    return content


def _positive(value: object) -> int:
    return _bounded(value) if isinstance(value, int) and value > 0 else 0


def _bounded(value: int) -> int:
    return min(value, MOST_MEMBERS)
