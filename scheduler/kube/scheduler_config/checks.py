"""Traps in a KubeSchedulerConfiguration that calls an extender.

Most of them are legal: kube-scheduler starts, says nothing, and places pods badly or not at all.
Each rule is a function from a file to findings; :data:`RULES` lists them by name. Whatever keeps
kube-scheduler from starting is judged over the whole file, as kube-scheduler does. Rules about a
call are for our own entry only: what another extender serves is its own affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any

from scheduler.core.durations import go_duration
from scheduler.kube.scheduler_config.findings import Finding, Level, Trap, items_of, refusal
from scheduler.kube.scheduler_config.ours import (
    VERBS,
    Checked,
    called,
    extenders_of,
    misses,
    place,
    resources_of,
)
from scheduler.kube.scheduler_config.plugins import DEFAULTS, entries
from scheduler.kube.scheduler_config.schema import odd_fields
from scheduler.kube.scheduler_config.start import STARTS, profiles_of, version
from scheduler.kube.scheduler_config.write import API_VERSION, DEFAULT_SCHEDULER, KIND, needs_bind
from scheduler.kube.yaml_lines import YamlFile

__all__ = ["RULES", "Finding", "Level", "check"]

_LEAST_TIMEOUT_S = 0.5
_MOST_TIMEOUT_S = 3.0
_POINTS_PER_WEIGHT = 100  # 10 x (100 / 10) for the best node
_POLICY_FIELDS = frozenset({"predicates", "priorities", "extenderConfigs"})


Rule = Callable[[Checked], Iterator[Trap]]


def check(file: YamlFile, *, url: str = "", url_prefix: str = "") -> list[Finding]:
    """All findings about one configuration, in the order of its lines.

    Parameters
    ----------
    file
        The configuration.
    url
        Where kube-scheduler calls our extender, if that is not to be told from the file.
    url_prefix
        Path under which our extender answers verbs, as ``snugfit serve`` is told.

    Raises
    ------
    InvalidInput
        The URL has no host.
    """
    checked = called(file, url=url, prefix=url_prefix)
    rules: Mapping[str, Rule] = RULES
    if file.unread:
        rules = {"unreadable": RULES["unreadable"]}
    elif _is_policy(file):
        rules = {"policy": _policy}
    elif not _is_configuration(file):
        rules = {"version": RULES["version"]}
    findings = [
        Finding(name, file.written(t.path), file.line(t.path), t.problem, t.remedy, t.level)
        for name, rule in rules.items()
        for t in rule(checked)
    ]
    return sorted(findings, key=lambda f: (f.line, f.path, f.rule))


def _is_policy(file: YamlFile) -> bool:
    if not isinstance(file.content, dict) or file.get(("kind",)) == KIND:
        return False
    return file.get(("kind",)) == "Policy" or bool(_POLICY_FIELDS & set(file.content))


def _is_configuration(file: YamlFile) -> bool:
    """A configuration, or one with a mistake in its first lines; not another kind of object."""
    content = file.content
    if not isinstance(content, dict):
        return False
    kind, served = content.get("kind"), content.get("apiVersion")
    return (
        kind in (KIND, None)
        or (isinstance(kind, str) and kind.lower() == KIND.lower())
        or (isinstance(served, str) and served.startswith(API_VERSION.split("/")[0]))
    )


# -- reading -----------------------------------------------------------------------------------


def _secure(entry: dict[str, Any]) -> bool:
    return place(entry.get("urlPrefix"))[0] == "https" or bool(entry.get("enableHTTPS"))


def _tls(entry: dict[str, Any]) -> dict[str, Any]:
    found = entry.get("tlsConfig")
    return found if isinstance(found, dict) else {}


def _has(entry: dict[str, Any], what: str) -> bool:
    return bool(_tls(entry).get(what + "File") or _tls(entry).get(what + "Data"))


def _names(file: YamlFile) -> set[str]:
    return {str(p.get("schedulerName") or DEFAULT_SCHEDULER) for _, p in profiles_of(file)}


def _plugin_sets(profile: dict[str, Any], point: str) -> tuple[dict[str, Any], set[str]]:
    """Weights of enabled plugins by name, and names of disabled ones, at one extension point."""
    enabled = {name: weight for _, name, weight in entries(profile, point, "enabled")}
    return enabled, {name for _, name, _ in entries(profile, point, "disabled")}


def _in_tree_points(profile: dict[str, Any]) -> int:
    """Most points that score plugins of a profile can give one node."""
    weights = {name: weight for name, weight in DEFAULTS.items() if weight}
    for point in ("multiPoint", "score"):
        enabled, disabled = _plugin_sets(profile, point)
        if "*" in disabled:
            weights = {}
        weights = {name: w for name, w in weights.items() if name not in disabled}
        for name, weight in enabled.items():
            if point == "score" or DEFAULTS.get(name):
                weights[name] = weight if isinstance(weight, int) and weight > 0 else 1
    return 100 * sum(weights.values())


# -- the file as a whole -----------------------------------------------------------------------


def _version(checked: Checked) -> Iterator[Trap]:
    yield from version(checked.file)


def _unreadable(checked: Checked) -> Iterator[Trap]:
    if checked.file.unread:
        yield refusal((), f"cannot be read: {checked.file.unread}", "correct it")


def _policy(checked: Checked) -> Iterator[Trap]:
    if _is_policy(checked.file):
        yield refusal(
            ("kind",) if checked.file.get(("kind",)) else (),
            "the Policy API was removed in Kubernetes 1.23",
            "write what `snugfit config kube-scheduler` prints instead",
        )


def _decoded(kind: str) -> Rule:
    """Strict decoding, the findings of one kind."""

    def rule(checked: Checked) -> Iterator[Trap]:
        yield from (trap for found, trap in odd_fields(checked.file) if found == kind)

    return rule


def _starts(judge: Callable[[YamlFile], Iterator[Trap]]) -> Rule:
    """A rule of kube-scheduler's own, over the whole file."""
    return lambda checked: judge(checked.file)


def _never_read(checked: Checked) -> Iterator[Trap]:
    if checked.file.ordinal:
        yield Trap(
            (),
            "is not the first document of its file, and kube-scheduler reads no other",
            "put it into a file of its own",
            Level.NOTE,
        )
    if checked.file.behind:
        yield Trap(
            (),
            f"what follows it {checked.file.behind}; kube-scheduler reads the first document alone",
            "drop what follows",
            Level.NOTE,
        )


def _no_extender(checked: Checked) -> Iterator[Trap]:
    listed = list(extenders_of(checked.file))
    if checked.ours or checked.doubtful:
        return
    # One that stands at the wrong place is named there; to add another would help nobody.
    misplaced = any(
        "extender" in str(key).lower()
        for content in (checked.file.content, *(p for _, p in profiles_of(checked.file)))
        for key in content
        if key != "extenders" or content is not checked.file.content
    )
    if not listed and not misplaced:
        yield Trap(
            ("extenders",),
            "lists none: nobody is ever asked",
            "add one; `snugfit config kube-scheduler` prints it",
        )
    elif listed and checked.url:
        yield Trap(("extenders",), f"none calls {checked.url}: we are never asked", "add our entry")
    elif listed:
        yield Trap(
            ("extenders",),
            "none is known to be ours, by its address or by its managed resources",
            "add our entry, or say --url where it calls us",
        )


def _before_ours(checked: Checked) -> Iterator[Trap]:
    """Extenders are asked in their order, ignorable ones last."""
    listed = sorted(extenders_of(checked.file), key=lambda one: one[1].get("ignorable") is True)
    places = [path for path, _ in listed]
    ours = [path for path, _ in checked.ours]
    first = min((places.index(path) for path in ours), default=0)
    for path, entry in listed[:first]:
        if entry.get("filterVerb"):
            yield Trap(
                path,
                f"the extender at {entry.get('urlPrefix')} is asked before ours: of a pod that it "
                "manages, too, we see only the nodes that it leaves",
                "nothing, if that is meant",
                Level.NOTE,
            )


def _node_sample(checked: Checked) -> Iterator[Trap]:
    if not checked.ours:
        return
    problem = (
        "the extender sees a rotating sample of the nodes: packing fails, and a pod is called "
        "unschedulable although nodes outside of the sample would do"
    )
    general = checked.file.get(("percentageOfNodesToScore",))
    for path, profile in profiles_of(checked.file):
        own = profile.get("percentageOfNodesToScore")
        if (general if own is None else own) != 100:
            where = ("percentageOfNodesToScore",) if own is None else (*path, *_SAMPLE)
            yield Trap(where, problem, "write percentageOfNodesToScore: 100")
            if own is None:
                return


_SAMPLE = ("percentageOfNodesToScore",)


def _lease(checked: Checked) -> Iterator[Trap]:
    if not checked.ours:
        return
    election = checked.file.get(("leaderElection",))
    election = election if isinstance(election, dict) else {}
    lease = election.get("resourceName", "kube-scheduler")
    if election.get("leaderElect") is False:
        yield Trap(
            ("leaderElection", "leaderElect"),
            "two replicas, also the two of a rolling update, would act at once",
            "write leaderElect: true",
        )
    elif DEFAULT_SCHEDULER not in _names(checked.file) and lease == "kube-scheduler":
        yield Trap(
            ("leaderElection", "resourceName"),
            "is the control plane's lease: this scheduler waits until that one dies",
            f"write resourceName: {min(_names(checked.file))}",
        )


def _two_schedulers(checked: Checked) -> Iterator[Trap]:
    if not checked.ours:
        return
    election = checked.file.get(("leaderElection",))
    lease = election.get("resourceName") if isinstance(election, dict) else None
    if DEFAULT_SCHEDULER in _names(checked.file) and lease not in (None, "kube-scheduler"):
        yield Trap(
            ("leaderElection", "resourceName"),
            (
                f"with lease {lease} this is a second scheduler, but a profile is named "
                f"{DEFAULT_SCHEDULER}: both would place the same pods"
            ),
            "name the profile otherwise, or leave resourceName away in the control plane's own",
        )


def _uncounted(checked: Checked) -> Iterator[Trap]:
    managed = {name for _, entry in checked.ours for _, name, _ in resources_of(entry)}
    problem = (
        "kube-scheduler no longer counts it: pods that cannot fit keep asking us, and preemption "
        "and autoscalers see no shortage"
    )
    for path, entry in checked.ours:
        for index, _, ignored in resources_of(entry):
            if ignored:
                where = (*path, "managedResources", index, "ignoredByScheduler")
                yield Trap(where, problem, "write ignoredByScheduler: false")
    for path, profile in profiles_of(checked.file):
        for point in ("filter", "multiPoint"):
            enabled, disabled = _plugin_sets(profile, point)
            if {"*", "NodeResourcesFit"} & disabled and "NodeResourcesFit" not in enabled:
                yield Trap(
                    (*path, "plugins", point, "disabled"),
                    "without the filter NodeResourcesFit kube-scheduler counts no resource at all",
                    "leave NodeResourcesFit enabled",
                )
        for index, config in enumerate(items_of(profile.get("pluginConfig"))):
            args = config.get("args") if isinstance(config, dict) else None
            args = args if isinstance(args, dict) else {}
            groups = {str(g) for g in items_of(args.get("ignoredResourceGroups"))}
            hidden = {str(r) for r in items_of(args.get("ignoredResources"))} & managed
            if hidden or groups & {name.split("/")[0] for name in managed}:
                yield Trap(
                    (*path, "pluginConfig", index), problem, "leave the managed resources out"
                )


# -- each extender -----------------------------------------------------------------------------


def _address(checked: Checked) -> Iterator[Trap]:
    for path, entry in checked.ours:
        scheme, host, _ = place(entry.get("urlPrefix"))
        if scheme not in ("http", "https") or not host:
            yield Trap(
                (*path, "urlPrefix"),
                "is not an http:// or https:// URL",
                "write http://127.0.0.1:10262",
            )
        elif scheme == "http" and entry.get("enableHTTPS"):
            yield Trap(
                (*path, "urlPrefix"),
                "says http, and the scheme decides: enableHTTPS changes nothing about that",
                "write https://",
            )
        elif scheme == "http" and not (host == "localhost" or host in ("::1", "127.0.0.1")):
            yield Trap(
                (*path, "urlPrefix"),
                (
                    "sends pods over the network in the clear; and everybody who "
                    "reaches the extender may bind pods"
                ),
                "use https:// with tlsConfig, or run the extender beside kube-scheduler",
            )


def _unverified(checked: Checked) -> Iterator[Trap]:
    for path, entry in checked.ours:
        if not _secure(entry):
            continue
        insecure = _tls(entry).get("insecure")
        if not _has(entry, "ca"):  # with a CA it is verified, or kube-scheduler does not start
            where = (*path, "tlsConfig", "insecure") if insecure else (*path, "tlsConfig")
            yield Trap(
                where,
                "the extender's certificate is not verified: enableHTTPS without a CA accepts any"
                if entry.get("enableHTTPS")
                else "the extender's certificate is not verified against its own CA",
                "name the CA in tlsConfig.caFile",
            )


def _client_certificate(checked: Checked) -> Iterator[Trap]:
    for path, entry in checked.ours:
        if _secure(entry) and not (_has(entry, "cert") and _has(entry, "key")):
            yield Trap(
                (*path, "tlsConfig"),
                (
                    "kube-scheduler shows no certificate and sends no token: we cannot tell "
                    "it from anybody else"
                ),
                "name tlsConfig.certFile and keyFile",
            )


def _whole_nodes(checked: Checked) -> Iterator[Trap]:
    for path, entry in checked.ours:
        if entry.get("nodeCacheCapable") is not True:
            yield Trap(
                (*path, "nodeCacheCapable"),
                (
                    "whole nodes are sent with every call (megabytes), and since 1.34 later score "
                    "plugins see empty nodes"
                ),
                "write nodeCacheCapable: true",
            )


def _weight(checked: Checked) -> Iterator[Trap]:
    most = max(_in_tree_points(profile) for _, profile in profiles_of(checked.file))
    for path, entry in checked.ours:
        weight = entry.get("weight")
        if not entry.get("prioritizeVerb") or not isinstance(weight, int) or weight <= 0:
            continue
        if weight * _POINTS_PER_WEIGHT <= most:
            yield Trap(
                (*path, "weight"),
                (
                    f"gives the best node {weight * _POINTS_PER_WEIGHT} points, in-tree plugins up "
                    f"to {most}: they spread, and outvote packing"
                ),
                f"write {most // _POINTS_PER_WEIGHT + 1} or more, or disable score plugins",
            )


def _timeout(checked: Checked) -> Iterator[Trap]:
    for path, entry in checked.ours:
        written = entry.get("httpTimeout")
        seconds = 5.0 if written is None else go_duration(written)
        where = (*path, "httpTimeout")
        if seconds is None:
            continue  # it is not a duration at all, and named as such
        if seconds <= 0 or seconds > _MOST_TIMEOUT_S:
            yield Trap(
                where,
                "a call that hangs holds up every pod of this scheduler for "
                f"{seconds or 5.0:g} s per verb" + ("" if written else " (the default)"),
                "write httpTimeout: 2s",
            )
        elif seconds < _LEAST_TIMEOUT_S:
            yield Trap(
                where, "a short pause of the extender already fails pods", "write httpTimeout: 2s"
            )


def _ignorable(checked: Checked) -> Iterator[Trap]:
    for path, entry in checked.ours:
        if entry.get("ignorable"):
            yield Trap(
                (*path, "ignorable"),
                "while the extender is away pods are bound without device accounting",
                "write ignorable: false",
            )


def _every_pod(checked: Checked) -> Iterator[Trap]:
    for path, entry in checked.ours:
        if not list(resources_of(entry)):
            yield Trap(
                (*path, "managedResources"),
                (
                    "is empty: every pod is sent, also the extender's own, which then cannot start "
                    "while it is away"
                ),
                "list the GPU resources",
            )


def _wrong_path(checked: Checked) -> Iterator[Trap]:
    yield from (trap for trap in _not_served(checked) if trap.path[-1] == "urlPrefix")


def _verb(checked: Checked) -> Iterator[Trap]:
    yield from (trap for trap in _not_served(checked) if trap.path[-1] != "urlPrefix")


def _not_served(checked: Checked) -> Iterator[Trap]:
    for entry in checked.ours:
        yield from misses(entry, checked.prefix)
    for entry in checked.doubtful:
        for trap in islice(misses(entry, checked.prefix), 1):
            yield Trap(
                trap.path,
                f"if this entry is ours, {trap.problem}; if it is not, we are never asked",
                trap.remedy,
            )


def _missing_verb(checked: Checked) -> Iterator[Trap]:
    losses = {
        "filterVerb": "nodes without a free device of the right kind are not ruled out",
        "prioritizeVerb": "nothing is packed",
        "preemptVerb": "victims are evicted by counts alone, on nodes that we then reject",
    }
    for path, entry in checked.ours:
        for field, loss in losses.items():
            if not entry.get(field):
                yield Trap((*path, field), f"is missing: {loss}", f"write {field}: {VERBS[field]}")


def _device_binding(checked: Checked) -> Iterator[Trap]:
    for path, entry in checked.ours:
        listed = [name for _, name, _ in resources_of(entry)]
        own = [name for name in listed if needs_bind(name)]
        if own and not entry.get("bindVerb"):
            others = [p for p, each in extenders_of(checked.file) if each.get("bindVerb")]
            taken = f", and none in {checked.file.written(others[0])}" if others else ""
            yield Trap(
                (*path, "bindVerb"),
                f"is missing: pods that ask for {own[0]} are bound without their device",
                f"write bindVerb: bind{taken}",
            )
        elif listed and not own and entry.get("bindVerb"):
            yield Trap(
                (*path, "bindVerb"),
                "is not needed here, and costs kube-scheduler's own retries of failed bindings",
                "leave bindVerb away",
            )


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "unreadable": _unreadable,
        "policy": _policy,
        "version": lambda checked: version(checked.file),
        "unknown-field": _decoded("unknown-field"),
        "wrong-type": _decoded("wrong-type"),
        "newer-field": _decoded("newer-field"),
        **{name: _starts(judge) for name, judge in STARTS.items()},
        "never-read": _never_read,
        "no-extender": _no_extender,
        "before-ours": _before_ours,
        "node-sample": _node_sample,
        "lease": _lease,
        "two-schedulers": _two_schedulers,
        "uncounted": _uncounted,
        "address": _address,
        "path": _wrong_path,
        "unverified": _unverified,
        "client-certificate": _client_certificate,
        "whole-nodes": _whole_nodes,
        "weight": _weight,
        "timeout": _timeout,
        "ignorable": _ignorable,
        "every-pod": _every_pod,
        "verb": _verb,
        "missing-verb": _missing_verb,
        "device-binding": _device_binding,
    }
)
"""Every rule by name."""
