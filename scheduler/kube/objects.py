"""The fields of Pod and Node that Snugfit reads, as msgspec structs.

Go writes ``null`` for an empty list or map, so that every container may be None. Unknown fields
are skipped without being materialised, which is what makes decoding fast.

Decoders are made here, at import and for the whole process. msgspec builds what it knows of a type
when the type is first decoded, and that is not safe in several threads at once: a second thread
that comes meanwhile reads what is half built, and the process ends by a segmentation fault. Once a
decoder exists, its types are complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

__all__ = [
    "Affinity",
    "Container",
    "ContainerStatus",
    "Expression",
    "GroupObject",
    "Metadata",
    "NodeObject",
    "ObjectList",
    "PodObject",
    "PodSpec",
    "Resources",
    "Struct",
    "group_decoder",
    "mapping_decoder",
    "node_decoder",
    "object_list_decoder",
    "pod_decoder",
]

Quantities = dict[str, str | int | float]


class Struct(msgspec.Struct, rename="camel", kw_only=True, omit_defaults=True, gc=False):
    """Wire shape: camelCase keys, unknown keys skipped."""


class OwnerReference(Struct):
    kind: str = ""
    name: str = ""
    controller: bool | None = None


class Metadata(Struct):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: list[OwnerReference] | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class Resources(Struct):
    requests: Quantities | None = None
    limits: Quantities | None = None


class Container(Struct):
    name: str = ""
    resources: Resources | None = None
    restart_policy: str | None = None


class Expression(Struct):
    key: str = ""
    operator: str = ""
    values: list[str] | None = None


class SelectorTermObject(Struct):
    match_expressions: list[Expression] | None = None
    match_fields: list[Expression] | None = None


class NodeSelectorObject(Struct):
    node_selector_terms: list[SelectorTermObject] | None = None


class PreferredTerm(Struct):
    weight: int = 0
    preference: SelectorTermObject | None = None


class NodeAffinity(Struct):
    required: NodeSelectorObject | None = msgspec.field(
        default=None, name="requiredDuringSchedulingIgnoredDuringExecution"
    )
    preferred: list[PreferredTerm] | None = msgspec.field(
        default=None, name="preferredDuringSchedulingIgnoredDuringExecution"
    )


class Affinity(Struct):
    node_affinity: NodeAffinity | None = None


class TolerationObject(Struct):
    key: str | None = None
    operator: str | None = None
    value: str | None = None
    effect: str | None = None


class SchedulingGroup(Struct):
    pod_group_name: str | None = None


class WorkloadRef(Struct):
    name: str | None = None
    pod_group: str | None = None
    pod_group_replica_key: str | None = None


class SchedulingGate(Struct):
    name: str = ""


class PodSpec(Struct):
    containers: Sequence[Container] | None = None
    init_containers: Sequence[Container] | None = None
    overhead: Quantities | None = None
    resources: Resources | None = None
    node_selector: dict[str, str] | None = None
    affinity: Affinity | None = None
    tolerations: list[TolerationObject] | None = None
    priority: int | None = None
    node_name: str | None = None
    scheduler_name: str | None = None
    scheduling_group: SchedulingGroup | None = None
    scheduling_gates: list[SchedulingGate] | None = None
    workload_ref: WorkloadRef | None = None


class Condition(Struct):
    type: str = ""
    status: str = ""
    reason: str | None = None


class ContainerStatus(Struct):
    name: str = ""
    allocated_resources: Quantities | None = None
    resources: Resources | None = None


class PodStatus(Struct):
    phase: str | None = None
    nominated_node_name: str | None = None
    conditions: list[Condition] | None = None
    container_statuses: list[ContainerStatus] | None = None
    init_container_statuses: list[ContainerStatus] | None = None
    allocated_resources: Quantities | None = None
    resources: Resources | None = None


class PodObject(Struct):
    kind: str = ""
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus | None = None


class TaintObject(Struct):
    key: str = ""
    value: str | None = None
    effect: str = ""


class NodeSpec(Struct):
    taints: list[TaintObject] | None = None
    unschedulable: bool | None = None


class NodeStatus(Struct):
    allocatable: Quantities | None = None
    capacity: Quantities | None = None


class NodeObject(Struct):
    kind: str = ""
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class GroupObject(Struct):
    """Any object that states the size of a gang; its spec is read by :mod:`kube.gangs`."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: dict[str, Any] | None = None


class ObjectList(Struct):
    """A List of mixed kinds; each item is decoded once its kind is known."""

    items: list[msgspec.Raw] | None = None


pod_decoder = msgspec.json.Decoder(PodObject)
node_decoder = msgspec.json.Decoder(NodeObject)
group_decoder = msgspec.json.Decoder(GroupObject)
mapping_decoder = msgspec.json.Decoder(dict[str, Any])
object_list_decoder = msgspec.json.Decoder(ObjectList)
