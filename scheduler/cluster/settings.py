"""Configuration of the extender: defaults, then a YAML file, then environment, then flags.

An unknown key is an error that names the nearest valid one: a typo must never mean "default".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from scheduler.core.defaults import DEFAULT_POLICY
from scheduler.core.errors import InvalidInput, nearest
from scheduler.core.policies.table import policy_named
from scheduler.core.prices import PriceWeights
from scheduler.core.reading import LARGEST_SETTINGS, read_bytes, read_text, text_of
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.sharing.record_policy import RECORD_POLICY
from scheduler.kube.yaml_lines import yaml_mapping

__all__ = ["ENV_PREFIX", "ExtenderConfig", "load"]

ENV_PREFIX = "SNUGFIT_"
_SEGMENT = re.compile(r"[A-Za-z0-9._~-]+")
_TAKEN = frozenset({"debug", "offline"})
_LONGEST_PATH = 200
_NOT_OURS = frozenset({"SNUGFIT_DATA", "SNUGFIT_DEBUG", "SNUGFIT_KUBE_ASSETS"})


@dataclass(frozen=True, slots=True)
class ExtenderConfig:
    """Every setting of the extender.

    Parameters
    ----------
    host, port
        Where to listen; port 0 takes a free one.
    url_prefix
        Path under which verbs are answered, such as ``/scheduler``; empty for none. The
        ``urlPrefix`` of kube-scheduler has to end in it. Probes, metrics and state have no prefix.
    status_listen
        A second address, ``host:port`` or ``:port``, that answers health checks only, without TLS;
        empty for none. On a loopback address it serves metrics too, see ``loopback_content``.
    metrics_listen
        An address for metrics, ``/debug`` and the details of ``/readyz``, over TLS, to callers
        whose bearer token the API server knows (TokenReview) and lets read the path
        (SubjectAccessReview of a non-resource URL); empty for none.
    metrics_cert, metrics_key
        Certificate of ``metrics_listen``; empty for that of the verbs.
    loopback_content
        Whether a listener without TLS on a loopback address shows metrics and state to whoever
        can connect. Turn it off on the host's network, where loopback belongs to every process of
        the node.
    host_names
        Names, comma separated, that may stand in the ``Host`` of a request for metrics or state,
        such as those of a Service; addresses and ``localhost`` always may.
    policy
        Name of the scoring policy. ``priced`` runs the planner process for its prices, also
        without ``planner``; until there are some it is ``fgd``.
    seed
        For randomised policies.
    threads
        Worker threads. One answers kube-scheduler's serial cycle; binds come concurrently.
    keep_alive_s
        Idle time after which a connection is closed. kube-scheduler keeps idle connections for
        90 s and does not retry a POST on one that the server has just closed, so stay above.
    drain_s
        How long requests in flight may take after SIGTERM.
    max_body_mib
        Larger requests are refused with 413.
    hold_ttl_s
        How long the winner of an answer stays reserved for its pod; 0 turns holds off.
    answer_top_k
        Name only the best k of the nodes that fit, in filter and in prioritize: what is not named
        costs kube-scheduler no decoding and no in-tree scoring. A pod that asks again, because an
        extender behind this one refused those, is told of all. 0 always names all.
    remembered_pods
        Pods whose filter call is remembered, so that an offline bind knows what they ask for.
    decisions
        Decisions kept for ``/debug/decisions``.
    relearn_every
        Pods after which the typical mix is rebuilt from what was observed; 0 keeps it.
    mix_half_life_pods
        Window of the learner.
    mix_file
        Typical pods for good: those of this file, a snugfit/v1 file or a kubectl dump. Empty: the
        mix is learnt.
    gangs
        Answer members of a gang from one joint plan; off, each pod is on its own.
    gang_ttl_s
        How long the places of a gang, and the planner's pins, stay reserved without being asked
        for.
    gang_reserve_after_s
        How long a gang waits before it may keep the places that it can get, one gang at a time; 0
        never. Pods that fit elsewhere are not held up.
    gang_unborn_share
        Share of the cluster, 0 to 1, that the gangs of one namespace may hold for members that do
        not exist yet. 0 holds places for pods that exist only: a gang waits until it is complete.
    planner
        Run a planner process that plans the whole backlog off the request path.
    planner_budget_s
        Seconds of one plan.
    planner_debounce_s
        Shortest time between two plans.
    planner_memory_mib
        The planner process is ended and started again above this.
    policy_file
        Weights of policy ``priced``, as ``snugfit tune`` writes them; empty for the built-in ones.
    reprice_bindings, reprice_s
        With policy ``priced``: compute prices anew after so many bindings and releases (or one per
        six nodes, if that is more), or so many seconds if there were any, or when the mix or the
        nodes have changed.
    kubeconfig, context
        How to reach the API server; empty is the service account of the pod that this runs in.
    bind
        Bind pods through the API, which records their devices. kube-scheduler calls us for that
        only if its configuration names a ``bindVerb``.
    bind_deadline_s
        Longest time of one bind call; stay below kube-scheduler's ``httpTimeout``.
    preempt_deadline_s
        Time after which a preempt call answers with the nodes that it has victims for.
    evict_gangs
        Evict the members on other nodes of a gang of which kube-scheduler evicts some, as far as
        their budgets allow; needs the permission to create ``pods/eviction``. Off, they are left to
        their workload's controller.
    watch_groups
        Kinds that state how many members of a gang start together, and in which stages, as
        ``plural.api-group``, comma separated. Watching one needs the permission to list it.
    watch_read_s
        Silence after which a watch connection is taken for dead; the API server sends something
        about once a minute.
    stale_after_s
        Answer 503 once nodes or pods have not been heard of for so long; 0 goes on for ever.
    gpu_mem_unit_mib
        MiB per unit of ``aliyun.com/gpu-mem``: 1024 or 1, as its device plugin is configured.
    hami_memory_factor, hami_default_memory_mib
        HAMi's settings ``memoryFactor`` and ``defaultMemory``: MiB per unit of
        ``nvidia.com/gpumem``, and what a pod gets of a device that states no memory; 0 is all.
    kai_reservation_namespace
        Where KAI keeps the pods that reserve the devices it shares. Groups that pods of other
        namespaces name take nothing and free nothing.
    recount_s
        Seconds between two comparisons of the state with the facts; 0 never.
    audit_s
        Seconds between two comparisons of what is known with the API, which lists nodes, pods,
        budgets and pod groups in pages; up to a quarter is added at random. Only the replica that
        answers does it. What could not be applied is read again at once. 0 never compares.
    wake_after_s
        A pod that was refused, fits by now, and has not been asked about for so long is brought to
        kube-scheduler's attention by an annotation; not below its longest backoff. 0 never.
    record_policy
        Name of the ValidatingAdmissionPolicy, and of its binding, that keeps records of devices to
        us; empty for none. Where it is in force, a record counts for a pod that is newer only if it
        names that pod.
    lease_namespace, lease_name, lease_s
        Of several replicas only the holder of this Lease answers; it is lost after ``lease_s``
        seconds without renewal. No name: always answer, as beside a kube-scheduler of our own.
    log_level, log_json
        Logging to stderr.
    tls_cert, tls_key, tls_client_ca
        Serve HTTPS with this certificate, and require client certificates of this CA.
    tls_client_subjects
        Whom of those that hold a certificate of this CA to let in, comma separated: common names,
        or ``DNS:name`` and ``URI:name`` for a subject alternative name.
    tls_reload_s
        Seconds between two looks at these files; changed ones are read again. 0 only on SIGHUP.
    """

    host: str = "127.0.0.1"
    port: int = 10262
    url_prefix: str = ""
    status_listen: str = ""
    metrics_listen: str = ""
    metrics_cert: str = ""
    metrics_key: str = ""
    loopback_content: bool = True
    host_names: str = ""
    policy: str = DEFAULT_POLICY
    seed: int = 0
    threads: int = 4
    keep_alive_s: int = 180
    drain_s: int = 10
    max_body_mib: int = 64
    hold_ttl_s: float = 30.0
    answer_top_k: int = 100
    remembered_pods: int = 20_000
    decisions: int = 500
    relearn_every: int = 500
    mix_half_life_pods: int = 2000
    mix_file: str = ""
    gangs: bool = True
    gang_ttl_s: float = 120.0
    gang_reserve_after_s: float = 600.0
    gang_unborn_share: float = 0.0
    planner: bool = False
    planner_budget_s: float = 5.0
    planner_debounce_s: float = 1.0
    planner_memory_mib: int = 2048
    policy_file: str = ""
    reprice_bindings: int = 100
    reprice_s: float = 10.0
    kubeconfig: str = ""
    context: str = ""
    bind: bool = True
    bind_deadline_s: float = 1.5
    preempt_deadline_s: float = 1.0
    evict_gangs: bool = False
    watch_groups: str = "podgroups.scheduling.k8s.io"
    watch_read_s: float = 100.0
    stale_after_s: float = 0.0
    gpu_mem_unit_mib: int = 1024
    hami_memory_factor: int = 1
    hami_default_memory_mib: int = 0
    kai_reservation_namespace: str = "kai-resource-reservation"
    recount_s: float = 60.0
    audit_s: float = 600.0
    wake_after_s: float = 10.0
    record_policy: str = RECORD_POLICY
    lease_namespace: str = ""
    lease_name: str = ""
    lease_s: float = 15.0
    log_level: str = "info"
    log_json: bool = False
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    tls_client_subjects: str = "kube-scheduler"
    tls_reload_s: float = 5.0

    def __post_init__(self) -> None:
        policy_named(self.policy)
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise InvalidInput(name, f"is {value}", f"use {low}..{high}")
        if self.policy_file and self.policy != "priced":
            raise InvalidInput("policy_file", "goes with policy `priced`", "set policy: priced")
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise InvalidInput(
                "log_level", f"is {self.log_level!r}", "use debug, info, warning or error"
            )
        self._check_prefix()
        self._check_doors()
        if bool(self.lease_name) != bool(self.lease_namespace):
            raise InvalidInput("lease_namespace", "and lease_name go together", "give both or none")
        for group in filter(None, (g.strip() for g in self.watch_groups.split(","))):
            if "." not in group.strip("."):
                raise InvalidInput(
                    "watch_groups", f"{group!r} names no API group", "write plural.api-group"
                )

    def _check_prefix(self) -> None:
        """A path of plain segments, which no path of ours begins with."""
        segments = self.base.split("/")[1:]
        good = all(_SEGMENT.fullmatch(part) and part.strip(".") for part in segments)
        if not good or (segments and segments[0] in _TAKEN) or len(self.url_prefix) > _LONGEST_PATH:
            raise InvalidInput(
                "url_prefix", f"{self.url_prefix!r} is no path for verbs", "write /scheduler"
            )

    @property
    def base(self) -> str:
        """What stands before ``/filter``: empty, or ``/scheduler`` without a slash at the end."""
        prefix = self.url_prefix.strip("/")
        return f"/{prefix}" if prefix else ""

    def _check_doors(self) -> None:
        """Certificates that belong together, and addresses that can be read."""
        for cert, key in (("tls_cert", "tls_key"), ("metrics_cert", "metrics_key")):
            if bool(getattr(self, cert)) != bool(getattr(self, key)):
                raise InvalidInput(key, f"and {cert} go together", "give both or none")
        if self.tls_client_ca and not self.tls_cert:
            raise InvalidInput("tls_client_ca", "needs tls_cert and tls_key", "give all three")
        if self.tls_client_ca and not self.client_subjects:
            raise InvalidInput("tls_client_subjects", "names nobody", "write kube-scheduler")
        if self.metrics_listen and not (self.metrics_cert or self.tls_cert):
            raise InvalidInput(
                "metrics_listen", "needs a certificate", "give metrics_cert and metrics_key"
            )

    @property
    def client_subjects(self) -> frozenset[str]:
        """Entries of ``tls_client_subjects``."""
        return _listed(self.tls_client_subjects)

    @property
    def served_names(self) -> frozenset[str]:
        """Entries of ``host_names``, in lower case."""
        return _listed(self.host_names.lower())

    @property
    def resource_names(self) -> ResourceNames:
        """Names of resources, with the units and defaults that are set here."""
        return ResourceNames(
            share_unit_mib=self.gpu_mem_unit_mib,
            hami_unit_mib=self.hami_memory_factor,
            hami_default_mib=self.hami_default_memory_mib,
            kai_namespace=self.kai_reservation_namespace,
        )

    @property
    def needs_planner_process(self) -> bool:
        """Whether anything has to be computed beside the webhook."""
        return self.planner or self.policy == "priced"

    @property
    def relearns_every(self) -> int:
        """Pods after which the typical mix is rebuilt; 0 with a mix that is given for good."""
        return 0 if self.mix_file else self.relearn_every

    def price_weights(self) -> PriceWeights:
        """Weights of policy ``priced``; reads ``policy_file`` if there is one."""
        if not self.policy_file:
            return PriceWeights()
        path = Path(self.policy_file)
        return PriceWeights.from_policy_file(read_text(path), self.policy_file)


def _listed(text: str) -> frozenset[str]:
    return frozenset(filter(None, (entry.strip() for entry in text.split(","))))


_RANGES = (
    ("port", 0, 65_535),
    ("threads", 1, 256),
    ("keep_alive_s", 1, 86_400),
    ("drain_s", 0, 3600),
    ("max_body_mib", 1, 1024),
    ("hold_ttl_s", 0, 3600),
    ("answer_top_k", 0, 1_000_000),
    ("remembered_pods", 1, 10_000_000),
    ("decisions", 0, 1_000_000),
    ("relearn_every", 0, 1_000_000_000),
    ("mix_half_life_pods", 1, 1_000_000_000),
    ("gang_ttl_s", 1, 86_400),
    ("gang_reserve_after_s", 0, 1_000_000),
    ("gang_unborn_share", 0, 1),
    ("planner_budget_s", 0.05, 3600),
    ("planner_debounce_s", 0, 3600),
    ("planner_memory_mib", 256, 1_000_000),
    ("reprice_bindings", 1, 1_000_000),
    ("reprice_s", 0, 86_400),
    ("bind_deadline_s", 0.1, 300),
    ("preempt_deadline_s", 0.05, 300),
    ("watch_read_s", 1, 3600),
    ("stale_after_s", 0, 86_400),
    ("gpu_mem_unit_mib", 1, 1024),
    ("hami_memory_factor", 1, 1 << 20),
    ("hami_default_memory_mib", 0, 1 << 24),
    ("recount_s", 0, 86_400),
    ("audit_s", 0, 86_400),
    ("wake_after_s", 0, 86_400),
    ("lease_s", 2, 3600),
    ("tls_reload_s", 0, 86_400),
)
_TYPES: dict[str, type[Any]] = {field.name: type(field.default) for field in fields(ExtenderConfig)}


def load(
    path: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]
) -> ExtenderConfig:
    """Merge the four sources.

    Parameters
    ----------
    path
        YAML file with one mapping, or None.
    environment
        Variables ``SNUGFIT_<KEY>``; others are ignored.
    flags
        Values given on the command line; None means not given.

    Raises
    ------
    InvalidInput
        Unknown key, wrong type or impossible value; names source, key and remedy.
    """
    merged: dict[str, Any] = {}
    if path is not None:
        for written, value in _mapping(path).items():
            key = _known(str(written), str(path))
            merged[key] = _typed(key, value, str(path))
    for variable, value in sorted(environment.items()):
        if variable.startswith(ENV_PREFIX) and variable not in _NOT_OURS:
            key = _known(variable.removeprefix(ENV_PREFIX).lower(), f"environment {variable}")
            merged[key] = _typed(key, value, f"environment {variable}", text=True)
    for key, value in flags.items():
        if value is not None:
            merged[_known(key, "flags")] = value
    if merged.get("policy_file"):
        merged.setdefault("policy", "priced")
    config = ExtenderConfig(**merged)
    config.price_weights()  # a mistake in the file should show now
    return config


def _mapping(path: Path) -> Mapping[str, Any]:
    content = read_bytes(path, LARGEST_SETTINGS, may_be_empty=True)
    return yaml_mapping(text_of(content, str(path)), str(path))


def _known(key: str, source: str) -> str:
    if key in _TYPES:
        return key
    meant = nearest(key, _TYPES)
    raise InvalidInput(f"{source}: {key}", "is no known setting", f"did you mean {meant!r}?")


def _typed(key: str, value: Any, source: str, *, text: bool = False) -> Any:  # noqa: ANN401 - YAML
    wanted = _TYPES[key]
    try:
        if text and wanted is bool:
            return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]
        if text:
            return wanted(value)
        if wanted is float and type(value) is int:
            return float(value)
        if type(value) is wanted:
            return value
    except (ValueError, KeyError):
        pass
    raise InvalidInput(f"{source}: {key}", f"{value!r} is no {wanted.__name__}")
