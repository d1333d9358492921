"""Rules of ``config check``: each with a mistake that it finds, and what it then says."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from docs.generate.markdown import block, code, table
from scheduler.kube.scheduler_config.checks import RULES, Finding, check
from scheduler.kube.scheduler_config.write import SchedulerSetup, kube_scheduler_config
from scheduler.kube.yaml_lines import yaml_files

__all__ = ["EXAMPLES", "Example", "found", "page"]

Json = dict[str, Any]

_HEAD = """# Rules of `config check`

`snugfit config check FILE` has {count} rules. The whole file is decoded and validated as kube-scheduler
1.37 does when it starts; how an extender is called is judged only where the entry is Snugfit's. Without
`--url` an entry is Snugfit's if it calls port 10262, a host named `snugfit`, or manages a resource of
`snugfit.io/`.

| level | meaning |
|---|---|
| `refused` | kube-scheduler does not start with the file |
| `trap` | kube-scheduler starts, says nothing, and places pods badly or not at all |
| `note` | nothing is wrong; it has to be known. Notes alone are exit code 0 |

Each example below is a change of what `snugfit config kube-scheduler` prints; the message is what the
check says about it, printed when this page was built.

"""

_PROFILE = ("profiles", 0)
_FIRST = ("extenders", 0)
_TLS = {"caFile": "/ca.crt", "certFile": "/tls.crt", "keyFile": "/tls.key"}
_BROKEN = (
    "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles: [\n"
)
_DROP = object()


@dataclass(frozen=True)
class Example:
    """One mistake.

    Parameters
    ----------
    what
        The mistake in words.
    edits
        Place -> what stands there instead.
    text
        Changes the text of the file, where the mistake is in its form.
    """

    what: str
    edits: Mapping[tuple[str | int, ...], object] | None = None
    text: Callable[[str], str] | None = None


def _set(what: str, *place: str | int, to: object) -> Example:
    return Example(what, {place: to})


EXAMPLES: Mapping[str, Example] = {
    "unreadable": Example(
        "a ConfigMap whose configuration is not YAML",
        text=lambda _: yaml.safe_dump_all(
            [{"kind": "Namespace"}, {"kind": "ConfigMap", "data": {"scheduler.yaml": _BROKEN}}]
        ),
    ),
    "policy": Example("a file of the old Policy API", text=lambda _: "kind: Policy\npredicates: []\n"),
    "version": _set("a version that is no longer served", "apiVersion",
                    to="kubescheduler.config.k8s.io/v1beta3"),
    "unknown-field": _set("a misspelt field", *_PROFILE, "plugin", to={}),
    "wrong-type": _set("text where a number belongs", *_FIRST, "weight", to="heavy"),
    "newer-field": _set("a field of 1.37", *_PROFILE, "plugins", "podGroupPostFilter", to={}),
    "key-twice": Example("the same key twice", text=lambda text: text + "parallelism: 1\nparallelism: 2\n"),
    "no-json": Example("a file that begins with a brace and is not JSON", text=lambda text: yaml.safe_dump(yaml.safe_load(text), default_flow_style=True)),
    "out-of-range": _set("a percentage above 100", "percentageOfNodesToScore", to=200),
    "leader-election": _set("a lock that no longer exists", "leaderElection", "resourceLock",
                            to="endpoints"),
    "profile-name": _set("two profiles of one name", "profiles",
                         to=[{"schedulerName": "snugfit"}, {"schedulerName": "snugfit"}]),
    "plugin": _set("a misspelt plugin", *_PROFILE, "plugins", "filter",
                   to={"enabled": [{"name": "NodeResourceFit"}]}),
    "plugin-twice": _set("a plugin enabled twice", *_PROFILE, "plugins", "filter",
                         to={"enabled": [{"name": "NodeName"}, {"name": "NodeName"}],
                             "disabled": [{"name": "*"}]}),
    "plugin-missing": _set("no plugin that binds", *_PROFILE, "plugins", "bind",
                           to={"disabled": [{"name": "*"}]}),
    "plugin-weight": _set("a weight below zero", *_PROFILE, "plugins", "score",
                          to={"enabled": [{"name": "ImageLocality", "weight": -1}],
                              "disabled": [{"name": "*"}]}),
    "plugin-arguments": _set("a plugin that gets no arguments where it is enabled", *_PROFILE, "plugins",
                             to={"multiPoint": {"disabled": [{"name": "DefaultPreemption"}]},
                                 "podGroupPostFilter": {"enabled": [{"name": "DefaultPreemption"}]}}),
    "plugin-config": _set("arguments of one plugin twice", *_PROFILE, "pluginConfig",
                          to=[{"name": "NodeResourcesFit"}, {"name": "NodeResourcesFit"}]),
    "queue-sort": _set("profiles that sort the one queue differently", "profiles",
                       to=[{"schedulerName": "snugfit"},
                           {"schedulerName": "other",
                            "plugins": {"queueSort": {"enabled": [{"name": "PrioritySort"}]}}}]),
    "binders": _set("a second extender that binds", *_FIRST, "bindVerb", to="bind"),
    "weight-zero": _set("a weight of zero", *_FIRST, "weight", to=0),
    "resource-name": _set("a wildcard", *_FIRST, "managedResources", 0, "name", to="nvidia.com/*"),
    "resource-twice": _set("a resource in both entries", *_FIRST, "managedResources", 0, "name",
                           to="snugfit.io/gpu-milli"),
    "certificate-data": _set("a CA that is not PEM", *_FIRST, "tlsConfig", to={"caData": "Zm9v"}),
    "ignored-resource": Example(
        "an ignored resource, and no NodeResourcesFit",
        {(*_FIRST, "managedResources", 0, "ignoredByScheduler"): True,
         (*_PROFILE, "plugins", "multiPoint"): {"disabled": [{"name": "NodeResourcesFit"}]}},
    ),
    "never-read": Example("a second document", text=lambda text: text + "---\n{}\n"),
    "no-extender": _set("no extender", "extenders", to=[]),
    "before-ours": Example("another extender in front", text=lambda text: text),
    "node-sample": _set("a sample of the nodes", "percentageOfNodesToScore", to=50),
    "lease": _set("the lease of the control plane", "leaderElection", "resourceName",
                  to="kube-scheduler"),
    "two-schedulers": _set("the profile of the control plane", *_PROFILE, "schedulerName",
                           to="default-scheduler"),
    "uncounted": _set("a resource that kube-scheduler does not count", *_FIRST, "managedResources", 0,
                      "ignoredByScheduler", to=True),
    "address": _set("another host without TLS", *_FIRST, "urlPrefix",
                    to="http://snugfit.snugfit.svc:10262"),
    "path": _set("a path that is not served", *_FIRST, "urlPrefix", to="http://127.0.0.1:10262/v1"),
    "unverified": Example("HTTPS without a CA", {
        (*_FIRST, "urlPrefix"): "https://snugfit:10262",
        (*_FIRST, "tlsConfig"): {k: v for k, v in _TLS.items() if k != "caFile"}}),
    "client-certificate": Example("HTTPS without a client certificate", {
        (*_FIRST, "urlPrefix"): "https://snugfit:10262",
        (*_FIRST, "tlsConfig"): {"caFile": "/ca.crt"}}),
    "whole-nodes": _set("whole nodes instead of names", *_FIRST, "nodeCacheCapable", to=False),
    "weight": Example("in-tree scoring, and a low weight", {
        (*_PROFILE, "plugins"): {}, (*_FIRST, "weight"): 1}),
    "timeout": _set("no timeout", *_FIRST, "httpTimeout", to=_DROP),
    "ignorable": _set("an extender that may be ignored", *_FIRST, "ignorable", to=True),
    "every-pod": _set("an entry for every pod", *_FIRST, "managedResources", to=[]),
    "verb": _set("a verb that is not served", *_FIRST, "filterVerb", to="predicates"),
    "missing-verb": _set("no scores", *_FIRST, "prioritizeVerb", to=_DROP),
    "device-binding": _set("fractions without a bindVerb", "extenders", 1, "bindVerb", to=_DROP),
}  # fmt: skip
"""Rule -> a mistake that it finds."""


def found(rule: str) -> Finding:
    """What the check says of a rule's example.

    Raises
    ------
    LookupError
        The rule does not find its example.
    """
    text = _text(rule)
    for document in yaml_files(text, "scheduler.yaml"):
        for finding in check(document):
            if finding.rule == rule:
                return finding
    raise LookupError(f"rule {rule} does not find its example")


def _text(rule: str) -> str:
    example = EXAMPLES[rule]
    content: Json = yaml.safe_load(kube_scheduler_config(SchedulerSetup()))
    for entry in content["extenders"]:
        entry["managedResources"] = entry["managedResources"][:2]
    if rule == "before-ours":
        other = {"urlPrefix": "http://127.0.0.1:8888", "filterVerb": "filter"}
        content["extenders"].insert(0, other)
    for place, value in (example.edits or {}).items():
        _edit(content, place, value)
    text = yaml.safe_dump(content, sort_keys=False)
    return example.text(text) if example.text else text


def _edit(content: Json, place: tuple[str | int, ...], value: object) -> None:
    at: Any = content
    for key in place[:-1]:
        at = at[key] if isinstance(key, int) else at.setdefault(key, {})
    if value is _DROP:
        del at[place[-1]]
    else:
        at[place[-1]] = copy.deepcopy(value)


def page() -> str:
    """A section per rule."""
    if set(EXAMPLES) != set(RULES):
        raise LookupError(f"rules {sorted(set(EXAMPLES) ^ set(RULES))} have no example")
    findings = {rule: found(rule) for rule in RULES}
    rows = (
        (f"[`{rule}`](#{rule})", findings[rule].level.value, EXAMPLES[rule].what) for rule in RULES
    )
    sections = "\n\n".join(_section(rule, findings[rule]) for rule in RULES)
    head = _HEAD.format(count=len(RULES))
    return f"{head}{table(('rule', 'level', 'example'), rows)}\n\n{sections}\n"


def _section(rule: str, finding: Finding) -> str:
    edits = EXAMPLES[rule].edits or {}
    changes = "\n".join(
        f"{_written(place)}: {'(left out)' if value is _DROP else json.dumps(value)}"
        for place, value in edits.items()
    )
    parts = [f"## `{rule}` {{#{rule}}}", f"Example: {EXAMPLES[rule].what}."]
    if changes:
        parts.append(block(changes, "text"))
    where = code(finding.path) if finding.path else "The file"
    parts.append(f"{where} {finding.problem}. Remedy: {finding.remedy}.")
    return "\n\n".join(parts)


def _written(place: tuple[str | int, ...]) -> str:
    text = ""
    for key in place:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text
