"""What KWOK does in the place of kubelets: the life of a node and of a pod, in four stages."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

COMPLETE_LABEL = "e2e/completes"

_NODE_READY = """
conditions:
- type: Ready
  status: "True"
  reason: KubeletReady
  message: ready
  lastHeartbeatTime: {{ Now | Quote }}
  lastTransitionTime: {{ Now | Quote }}
"""

_POD_RUNNING = """
phase: Running
startTime: {{ Now | Quote }}
conditions:
- type: Ready
  status: "True"
  lastTransitionTime: {{ Now | Quote }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: true
  restartCount: 0
  state:
    running:
      startedAt: {{ Now | Quote }}
{{ end }}
"""

_POD_DONE = """
phase: Succeeded
"""


def _stage(name: str, kind: str, rules: list[Json], **following: object) -> Json:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": rules},
            "next": following,
        },
    }


def _rule(key: str, operator: str, *values: str) -> Json:
    return {"key": key, "operator": operator} | ({"values": list(values)} if values else {})


_ALIVE = _rule(".metadata.deletionTimestamp", "DoesNotExist")

STAGES = (
    _stage(
        "node-ready",
        "Node",
        [_rule('.status.conditions.[] | select( .type == "Ready" ) | .status', "NotIn", "True")],
        statusTemplate=_NODE_READY,
    ),
    _stage(
        "pod-running",
        "Pod",
        [_ALIVE, _rule(".status.phase", "In", "Pending")],
        statusTemplate=_POD_RUNNING,
    ),
    _stage(
        "pod-complete",
        "Pod",
        [
            _ALIVE,
            _rule(".status.phase", "In", "Running"),
            _rule(f'.metadata.labels["{COMPLETE_LABEL}"]', "Exists"),
        ],
        statusTemplate=_POD_DONE,
    ),
    _stage(
        "pod-gone",
        "Pod",
        [_rule(".metadata.deletionTimestamp", "Exists")],
        delete=True,
    ),
)
