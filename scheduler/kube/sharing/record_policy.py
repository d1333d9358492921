"""The ValidatingAdmissionPolicy that keeps records of devices to the extender: is it in force?

The chart makes it. A policy that leaves a gap, for some namespaces, requests or failures, guards
nothing: an attacker finds the gap.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

__all__ = ["RECORD_POLICY", "Policy", "gap", "guarded_since"]

RECORD_POLICY = "snugfit-device-records"
"""Its name, and that of its binding, as the chart of a release `snugfit` makes them."""

Policy = tuple[dict[str, Any] | None, dict[str, Any] | None]
"""The policy and its binding; None for one that does not exist."""


def guarded_since(
    policy: Mapping[str, Any] | None, binding: Mapping[str, Any] | None, name: str = RECORD_POLICY
) -> float | None:
    """Since when records are guarded, in seconds since the epoch by the API server's clock.

    None if they are not, or nobody can say since when. A policy that was changed may have had a gap
    before: then it counts from its latest change.
    """
    if policy is None or binding is None or gap(policy, binding, name):
        return None
    try:
        return max(_changed(obj["metadata"]) for obj in (policy, binding))
    except (KeyError, TypeError, ValueError):
        return None


def _changed(metadata: Mapping[str, Any]) -> float:
    """When a specification was last written, as the API server has noted it."""
    times = [str(metadata["creationTimestamp"])]
    if metadata.get("generation", 1) > 1:
        times += [
            str(entry["time"])
            for entry in metadata["managedFields"]
            if not entry.get("subresource") and "time" in entry
        ]
    return max(datetime.fromisoformat(time).timestamp() for time in times)


def gap(
    policy: Mapping[str, Any] | None, binding: Mapping[str, Any] | None, name: str = RECORD_POLICY
) -> str:
    """Why records are not guarded; empty if they are."""
    if policy is None:
        return f"there is no policy {name}"
    if binding is None or (binding.get("spec") or {}).get("policyName") != name:
        return "no binding puts the policy in force"
    spec, bound = policy.get("spec") or {}, binding["spec"]
    if "Deny" not in (bound.get("validationActions") or ()):
        return "its binding does not deny"
    if spec.get("failurePolicy", "Fail") != "Fail":
        return "it is skipped where it cannot be evaluated"
    if bound.get("paramRef") or spec.get("paramKind"):
        return "it depends on parameters"
    scopes = (spec.get("matchConstraints") or {}, bound.get("matchResources") or {})
    if any(scope.get(key) for scope in scopes for key in _NARROWER):
        return "it leaves out some namespaces or objects"
    if scopes[1].get("resourceRules"):
        return "its binding leaves out some resources"
    gaps = [
        f"{operation} of {resource}"
        for operation, resources in _COVERED.items()
        for resource in resources
        if not any(
            _covers(rule, operation, resource) for rule in scopes[0].get("resourceRules") or ()
        )
    ]
    return f"it does not cover {', '.join(gaps)}" if gaps else ""


_NARROWER = ("namespaceSelector", "objectSelector", "excludeResourceRules")
_COVERED = {
    "UPDATE": ("pods", "pods/status"),
    "CREATE": ("pods/binding", "bindings"),
}


def _covers(rule: Mapping[str, Any], operation: str, resource: str) -> bool:
    kind, _, sub = resource.partition("/")
    wanted = {resource, "*/*", f"{kind}/*", f"*/{sub}"} if sub else {resource, "*", "*/*"}
    return (
        bool({operation, "*"} & set(rule.get("operations") or ()))
        and bool({"", "*"} & set(rule.get("apiGroups") or ()))
        and bool({"v1", "*"} & set(rule.get("apiVersions") or ()))
        and bool(wanted & set(rule.get("resources") or ()))
        and rule.get("scope", "*") in ("*", "Namespaced")
        and not rule.get("resourceNames")
    )
