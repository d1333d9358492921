"""A KubeSchedulerConfiguration that calls the extender, with every trap of the protocol avoided.

The text is made for people: each line that somebody might want to change says why it is as it is.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from urllib.parse import urlsplit

from scheduler.core.errors import InvalidInput
from scheduler.core.mig import KNOWN_PROFILES, RECENT_PROFILES
from scheduler.kube.resource_names import PARTITIONS, ResourceNames

__all__ = [
    "API_VERSION",
    "DEFAULT_SCHEDULER",
    "KIND",
    "Profile",
    "SchedulerSetup",
    "Topology",
    "kube_scheduler_config",
    "managed_resources",
    "needs_bind",
]

API_VERSION = "kubescheduler.config.k8s.io/v1"
KIND = "KubeSchedulerConfiguration"
DEFAULT_SCHEDULER = "default-scheduler"
SIDECAR_URL = "http://127.0.0.1:10262"
_LEAST_WEIGHT = 15
_WIDTH = 96
_FALLBACK = frozenset({"nvidia.com/gpu", "amd.com/gpu", "snugfit.io/gpu-milli"})
_BIND_DOMAINS = ("snugfit.io/", "aliyun.com/")
_RESOURCE = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


class Topology(StrEnum):
    """Where the extender runs: beside a second kube-scheduler, or behind a Service."""

    SIDECAR = "sidecar"
    SERVICE = "service"


class Profile(StrEnum):
    """What becomes of the in-tree score plugins: none of them, or all as they are."""

    PACKING = "packing"
    STOCK = "stock"


def managed_resources(names: ResourceNames | None = None) -> tuple[str, ...]:
    """Every resource that the extender understands, by its exact name.

    kube-scheduler knows no wildcards here, so that each MIG profile is listed.
    """
    names = names or ResourceNames()
    return (
        *names.whole,
        *PARTITIONS,
        names.milli,
        names.memory,
        names.share_memory,
        names.shared,
        *(
            names.mig_prefix + name.replace("+", ".")
            for name in sorted(KNOWN_PROFILES | RECENT_PROFILES)
        ),
    )


def needs_bind(resource: str) -> bool:
    """Whether pods that ask for it have to be bound by the extender.

    It is so for the protocols in which the pod has to learn its device: nobody but the extender
    knows it, and the Binding is the one write that carries it without a race.
    """
    return resource.startswith(_BIND_DOMAINS)


@dataclass(frozen=True, slots=True)
class SchedulerSetup:
    """What to generate.

    Parameters
    ----------
    topology, profile
        See :class:`Topology` and :class:`Profile`.
    scheduler_name
        What pods write into ``spec.schedulerName``.
    namespace
        Where kube-scheduler's own lease lives (sidecar), and the extender's Service.
    url
        Where kube-scheduler finds the extender; empty for the topology's usual place.
    url_prefix
        Path under which the extender answers verbs, as ``snugfit serve`` is told.
    server_name
        Name in the extender's certificate, where the URL has an address instead.
    tls_folder
        Folder of ``ca.crt``, ``tls.crt`` and ``tls.key`` as kube-scheduler sees it.
    resources
        Exact names of the resources whose pods are sent to the extender.
    bind
        Let the extender bind all of these pods, none, or (None) those that need it.
    fallback
        Keep one packing plugin in profile ``packing``, for the time without the extender.
    weight
        Weight of the extender's scores.
    kubeconfig
        Path for kube-scheduler; empty for in-cluster.

    Raises
    ------
    InvalidInput
        A combination that would harm; names the field and the remedy.
    """

    topology: Topology = Topology.SIDECAR
    profile: Profile = Profile.PACKING
    scheduler_name: str = "snugfit"
    namespace: str = "snugfit"
    url: str = ""
    url_prefix: str = ""
    server_name: str = ""
    tls_folder: str = "/etc/kubernetes/snugfit"
    resources: tuple[str, ...] = managed_resources()
    bind: bool | None = None
    fallback: bool = False
    weight: int = 15
    kubeconfig: str = ""

    def __post_init__(self) -> None:
        self._check_names()
        self._check_topology()
        if self.fallback and self.profile is not Profile.PACKING:
            raise InvalidInput(
                "fallback", "goes with profile packing", "stock keeps every in-tree plugin anyway"
            )
        if self.bind and not any(map(needs_bind, self.resources)):
            raise InvalidInput(
                "bind",
                "no listed resource needs it, and kube-scheduler's own binder retries",
                "leave --bind away, or list a snugfit.io/ resource",
            )
        if self.weight < _LEAST_WEIGHT:
            raise InvalidInput(
                "weight", f"{self.weight} can be outvoted by in-tree plugins", "use 15 or more"
            )

    def _check_names(self) -> None:
        if not self.resources:
            raise InvalidInput(
                "resources", "is empty, which means every pod", "name at least one resource"
            )
        if len(set(self.resources)) < len(self.resources):
            raise InvalidInput("resources", "names one twice", "name each resource once")
        if wrong := [name for name in self.resources if not _RESOURCE.fullmatch(name)]:
            raise InvalidInput(
                "resources",
                f"{wrong[0]!r} is not an extended resource",
                "write exact names such as nvidia.com/gpu",
            )
        for field in ("scheduler_name", "namespace"):
            if not _NAME.fullmatch(getattr(self, field)):
                raise InvalidInput(
                    field,
                    f"{getattr(self, field)!r} is not a name",
                    "use lower case, digits, - and .",
                )

    def _check_topology(self) -> None:
        if self.scheduler_name == DEFAULT_SCHEDULER and self.topology is Topology.SIDECAR:
            raise InvalidInput(
                "scheduler_name",
                "default-scheduler is served by the control plane; both would place its pods",
                "choose another name",
            )
        if self.scheduler_name == DEFAULT_SCHEDULER and self.profile is Profile.PACKING:
            raise InvalidInput(
                "profile",
                "packing would take scoring away from every pod of the cluster",
                "use --profile stock, or another --scheduler-name",
            )
        scheme = "http" if self.topology is Topology.SIDECAR else "https"
        try:
            parts = urlsplit(self.url)
            suits = parts.scheme == scheme and bool(parts.hostname)
        except ValueError:  # such as half an IPv6 address
            suits = False
        if self.url and not suits:
            raise InvalidInput(
                "url",
                f"{self.url!r} does not suit topology {self.topology}",
                f"write {scheme}://HOST:10262",
            )

    @property
    def address(self) -> str:
        """URL of the extender, with the path of its verbs."""
        address = f"https://{self.service_host}:10262"
        if self.topology is Topology.SIDECAR:
            address = SIDECAR_URL
        prefix = self.url_prefix.strip("/")
        return "/".join(filter(None, ((self.url or address).rstrip("/"), prefix)))

    @property
    def service_host(self) -> str:
        """The Service's name in the cluster's DNS, which the certificate has to carry."""
        return self.server_name or f"snugfit.{self.namespace}.svc"


def kube_scheduler_config(setup: SchedulerSetup) -> str:
    """The file's text."""
    return "\n".join(_lines(setup)) + "\n"


def _lines(setup: SchedulerSetup) -> Iterator[str]:
    yield f"apiVersion: {API_VERSION}"
    yield f"kind: {KIND}"
    yield "clientConnection:"
    if setup.kubeconfig:
        yield f"  kubeconfig: {_quoted(setup.kubeconfig)}"
    yield from _why(
        2, "A pod costs several requests; the defaults (50 and 100) cap how fast a backlog drains."
    )
    yield "  qps: 200"
    yield "  burst: 400"
    yield from _leader_election(setup)
    yield from _why(
        0,
        "All nodes that pass, not a rotating sample: a sample hides the node that fits best, and "
        "if we reject all of it the pod is called unschedulable although other nodes would do.",
    )
    yield "percentageOfNodesToScore: 100"
    yield "profiles:"
    yield from _profiles(setup)
    yield "extenders:"
    explained: set[str] = set()
    for index, (resources, bind) in enumerate(_entries(setup)):
        if index:
            yield from _why(2, "The same extender again, for the pods that it has to bind itself.")
        for line in _extender(setup, resources, bind=bind):
            if line not in explained:  # once is enough for a comment
                yield line
            if line.lstrip().startswith("#"):
                explained.add(line)


def _why(indent: int, text: str) -> Iterator[str]:
    """A comment, wrapped."""
    lead = " " * indent + "# "
    yield from textwrap.wrap(text, _WIDTH, initial_indent=lead, subsequent_indent=lead)


def _leader_election(setup: SchedulerSetup) -> Iterator[str]:
    yield "leaderElection:"
    yield "  leaderElect: true"
    if setup.topology is Topology.SERVICE:
        yield from _why(2, "The control plane's own lease: this file replaces its configuration.")
        yield "  resourceName: kube-scheduler"
        yield "  resourceNamespace: kube-system"
        return
    yield from _why(
        2,
        "A lease of its own: with the default name (kube-scheduler) it would wait for the control "
        "plane's scheduler to die before it schedules anything.",
    )
    yield f"  resourceName: {setup.scheduler_name}"
    yield f"  resourceNamespace: {setup.namespace}"


def _profiles(setup: SchedulerSetup) -> Iterator[str]:
    if setup.topology is Topology.SERVICE and setup.scheduler_name != DEFAULT_SCHEDULER:
        yield from _why(
            2,
            "Untouched, for all other pods. Extenders belong to every profile: pods here that ask "
            "for a managed resource are sent to us too.",
        )
        yield f"  - schedulerName: {DEFAULT_SCHEDULER}"
    yield f"  - schedulerName: {setup.scheduler_name}"
    if setup.profile is Profile.STOCK:
        yield from _why(4, "In-tree score plugins as they are: they spread, up to 1400 points.")
        return
    yield from _why(
        4,
        "No in-tree scoring: NodeResourcesFit (LeastAllocated), BalancedAllocation and "
        "PodTopologySpread pull pods apart, and running them on all nodes costs more time than we "
        "do. Soft rules (preferred affinity, ScheduleAnyway) no longer count for pods of this "
        "profile; hard rules (required affinity, taints, DoNotSchedule) do.",
    )
    yield "    plugins:"
    if not setup.fallback:
        yield "      preScore: {disabled: [{name: '*'}]}"
        yield "      score: {disabled: [{name: '*'}]}"
        return
    yield from _why(
        6,
        "One plugin stays and packs: kube-scheduler ignores a prioritize error silently, and "
        "nodes would then be drawn at random. Its 100 points cannot outvote our lead of "
        f"{setup.weight}0.",
    )
    yield "      preScore: {disabled: [{name: '*'}], enabled: [{name: NodeResourcesFit}]}"
    yield "      score: {disabled: [{name: '*'}], enabled: [{name: NodeResourcesFit, weight: 1}]}"
    yield "    pluginConfig:"
    yield "      - name: NodeResourcesFit"
    yield "        args:"
    yield "          scoringStrategy:"
    yield "            type: MostAllocated"
    yield "            resources:"
    yield "              - {name: cpu, weight: 1}"
    yield "              - {name: memory, weight: 1}"
    for resource in setup.resources:
        if resource in _FALLBACK:
            yield f"              - {{name: {resource}, weight: 10}}"


def _entries(setup: SchedulerSetup) -> Iterable[tuple[tuple[str, ...], bool]]:
    """Resources of each extender entry, and whether that one binds.

    Two entries for one extender keep kube-scheduler's own binder, which retries, for pods whose
    device the extender does not have to announce.
    """
    if setup.bind is not None:
        return ((setup.resources, setup.bind),)
    parts = (
        (tuple(r for r in setup.resources if not needs_bind(r)), False),
        (tuple(r for r in setup.resources if needs_bind(r)), True),
    )
    return tuple((resources, bind) for resources, bind in parts if resources)


def _extender(setup: SchedulerSetup, resources: tuple[str, ...], *, bind: bool) -> Iterator[str]:
    host = urlsplit(setup.address).hostname or ""
    if setup.topology is Topology.SERVICE and not _is_address(host):
        yield from _why(
            2,
            "A kube-scheduler on the host network does not ask the cluster's DNS. If this name is "
            "not resolved there, write the Service's ClusterIP, and its name as serverName below.",
        )
    yield f"  - urlPrefix: {_quoted(setup.address)}"
    yield "    filterVerb: filter"
    yield "    prioritizeVerb: prioritize"
    if bind:
        yield from _why(
            4, "We bind these pods: the Binding carries their device, both in one write."
        )
        yield "    bindVerb: bind"
    else:
        yield from _why(
            4,
            "No bindVerb: the device plugin picks the device, and kube-scheduler's own binder "
            "retries, which it does for no extender.",
        )
    yield from _why(
        4, "In-tree, victims are chosen by counts alone; we name those that really make room."
    )
    yield "    preemptVerb: preempt"
    if setup.topology is Topology.SERVICE:
        yield from _tls(setup, host)
    yield from _why(
        4,
        "Names instead of whole nodes: faster, and since 1.34 later score plugins see empty nodes "
        "otherwise.",
    )
    yield "    nodeCacheCapable: true"
    yield from _why(
        4,
        "A score of 0..10 counts weight x 10; the in-tree plugins add up to 1400 at most, and a "
        f"weight below 15 stays under that. The best node gets {setup.weight}00 and leads the next "
        f"by {setup.weight}0; from 141 on nothing in-tree can prefer another node.",
    )
    yield f"    weight: {setup.weight}"
    yield from _why(
        4, "A call that hangs holds up every pod of this scheduler. Unset means 5s per verb."
    )
    yield "    httpTimeout: 2s"
    yield from _why(4, "Ignoring us means pods bound without device accounting: better they wait.")
    yield "    ignorable: false"
    yield from _why(
        4,
        "Only pods that ask for one of these are sent to us: exact names, no wildcards. An empty "
        "list means every pod, our own included, which could then not start without us. "
        "ignoredByScheduler stays false: kube-scheduler goes on counting, so that most pods that "
        "do not fit never come here, and preemption and autoscalers see the shortage.",
    )
    yield "    managedResources:"
    for resource in resources:
        yield f"      - {{name: {resource}, ignoredByScheduler: false}}"


def _tls(setup: SchedulerSetup, host: str) -> Iterator[str]:
    folder = setup.tls_folder.rstrip("/")
    yield from _why(
        4,
        "Both sides show a certificate. enableHTTPS is left away: without a CA it would verify "
        "nothing, and the scheme of urlPrefix decides anyway. A renewed client certificate is "
        "picked up, a new CA needs a restart of kube-scheduler.",
    )
    yield "    tlsConfig:"
    yield f"      caFile: {_quoted(folder + '/ca.crt')}"
    yield f"      certFile: {_quoted(folder + '/tls.crt')}"
    yield f"      keyFile: {_quoted(folder + '/tls.key')}"
    if setup.server_name or _is_address(host):
        yield f"      serverName: {_quoted(setup.service_host)}"


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
