"""Settings of the extender: what there is, what it means, and which values go together.

One definition per setting. The checks here, the commented file of ``--print-config``, the schema of
the chart and the reference page are made from it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec

from scheduler.core.defaults import DEFAULT_POLICY
from scheduler.core.errors import InvalidInput
from scheduler.core.policies.table import policy_named
from scheduler.core.price_weights import PriceWeights
from scheduler.core.reading import read_text
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.sharing.record_policy import RECORD_POLICY

__all__ = ["RENAMED", "SETTINGS", "ExtenderConfig", "Setting"]

_SEGMENT = re.compile(r"[A-Za-z0-9._~-]+")
_TAKEN = frozenset({"debug", "offline"})
_LONGEST_PATH = 200

SERVER = "Listeners"
DECISIONS = "Decisions"
PROFILE = "Workload profile and prices"
GANGS = "Gangs"
PLANNER = "Planner"
API = "Cluster"
SHARING = "GPU sharing systems"
LOGS = "Logs"
TLS = "TLS of the verbs"


def _about(
    group: str,
    description: str,
    low: float | None = None,
    high: float | None = None,
    unit: str = "",
    pattern: str | None = None,
    choices: tuple[str, ...] = (),
) -> msgspec.Meta:
    """What is known of a setting besides its type and default."""
    return msgspec.Meta(
        ge=low,
        le=high,
        description=description,
        extra={"group": group, "unit": unit, "pattern": pattern, "choices": choices},
    )


class ExtenderConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting of the extender: see :data:`SETTINGS` for what each means."""

    # fmt: off
    # -- Listeners
    host: Annotated[str, _about(SERVER, "Address to listen on for the verbs.")] = "127.0.0.1"
    port: Annotated[int, _about(SERVER,
        "Port of the verbs; 0 takes a free one.", 0, 65_535)] = 10262
    url_prefix: Annotated[str, _about(SERVER,
        "Path under which verbs are answered, such as `/scheduler`; empty for none. The "
        "`urlPrefix` of kube-scheduler has to end in it. Probes, metrics and state have no "
        "prefix.",
        pattern=r"^/?([A-Za-z0-9._~-]+/?)*$")] = ""
    status_listen: Annotated[str, _about(SERVER,
        "A second address, `host:port` or `:port`, that answers health checks only, without "
        "TLS; empty for none. On a loopback address it serves metrics too, see "
        "`loopback_content`.")] = ""
    metrics_listen: Annotated[str, _about(SERVER,
        "An address for metrics, `/debug` and the details of `/readyz`, over TLS, to callers "
        "whose bearer token the API server knows (TokenReview) and lets read the path "
        "(SubjectAccessReview of a non-resource URL); empty for none.")] = ""
    metrics_cert: Annotated[str, _about(SERVER,
        "Certificate of `metrics_listen`; empty for the certificate of the verbs.")] = ""
    metrics_key: Annotated[str, _about(SERVER, "Key of `metrics_cert`.")] = ""
    loopback_content: Annotated[bool, _about(SERVER,
        "Whether a listener without TLS on a loopback address shows metrics and state to every "
        "process that can connect. Turn it off on the host network, where every process of the "
        "node can.")] = True
    host_names: Annotated[str, _about(SERVER,
        "Names, comma separated, that may stand in the `Host` of a request for metrics or "
        "state, such as the names of a Service; addresses and `localhost` are "
        "always accepted.")] = ""
    threads: Annotated[int, _about(SERVER,
        "Worker threads. One answers the serial cycle of kube-scheduler; bind calls come "
        "concurrently.", 1, 256)] = 4
    keep_alive_s: Annotated[int, _about(SERVER,
        "Idle time after which a connection is closed. kube-scheduler keeps idle connections "
        "for 90 s and does not retry a POST on a connection that the server has just closed: "
        "stay above 90.", 1, 86_400, unit="s")] = 180
    drain_s: Annotated[int, _about(SERVER,
        "How long requests in flight may take after SIGTERM.", 0, 3600, unit="s")] = 10
    max_body_mib: Annotated[int, _about(SERVER,
        "Larger requests are refused with 413.", 1, 1024, unit="MiB")] = 64

    # -- Decisions
    policy: Annotated[str, _about(DECISIONS,
        "Name of the scoring policy. `priced` runs the planner process for its prices, also "
        "without `planner`; until there are prices it scores as `fgd`.")] = DEFAULT_POLICY
    policy_file: Annotated[str, _about(DECISIONS,
        "Weights of policy `priced`, as `snugfit tune` writes them; empty for the built-in "
        "weights.")] = ""
    seed: Annotated[int, _about(DECISIONS, "Seed of randomized policies.")] = 0
    reservation_ttl_s: Annotated[float, _about(DECISIONS,
        "How long the best node of an answer stays reserved for its pod; 0 turns these "
        "reservations off.", 0, 3600, unit="s")] = 30.0
    answer_top_k: Annotated[int, _about(DECISIONS,
        "Name only the best k of the nodes that fit, in filter and in prioritize: a node that "
        "is not named costs kube-scheduler no decoding and no in-tree scoring. A pod that asks "
        "again, because an extender behind this one refused those nodes, gets all of them. 0 "
        "always names all.", 0, 1_000_000)] = 100
    remembered_pods: Annotated[int, _about(DECISIONS,
        "Pods whose filter call is remembered, so that an offline bind knows what they request.",
        1, 10_000_000, unit="pods")] = 20_000
    decisions: Annotated[int, _about(DECISIONS,
        "Decisions kept for `/debug/decisions`.", 0, 1_000_000)] = 500
    preempt_deadline_s: Annotated[float, _about(DECISIONS,
        "Time after which a preempt call answers with the nodes that it has victims for.",
        0.05, 300, unit="s")] = 1.0
    evict_gangs: Annotated[bool, _about(DECISIONS,
        "Evict the members on other nodes of a gang of which kube-scheduler evicts some, as far "
        "as their budgets allow; needs the right to create `pods/eviction`. Off, their "
        "workload's controller takes care of them.")] = False
    requeue_after_s: Annotated[float, _about(DECISIONS,
        "A pod that was refused, fits by now, and has not been asked about for so long is "
        "requeued by an annotation; not below the longest backoff of kube-scheduler. 0 never.",
        0, 86_400, unit="s")] = 10.0

    # -- Workload profile and prices
    relearn_every: Annotated[int, _about(PROFILE,
        "Pods after which the workload profile is made anew from the pods seen; 0 keeps it.",
        0, 1_000_000_000, unit="pods")] = 500
    workload_profile_half_life_pods: Annotated[int, _about(PROFILE,
        "Pods after which an observation counts half.", 1, 1_000_000_000, unit="pods")] = 2000
    workload_profile_file: Annotated[str, _about(PROFILE,
        "The workload profile for good: the pods of this file, a snugfit/v1 file or a kubectl "
        "dump. Empty: the profile is learnt.")] = ""
    reprice_bindings: Annotated[int, _about(PROFILE,
        "With policy `priced`: make prices anew after so many bindings and releases, or one per "
        "six nodes if that is more.", 1, 1_000_000, unit="pods")] = 100
    reprice_s: Annotated[float, _about(PROFILE,
        "With policy `priced`: make prices anew after so long if any pod was bound or released.",
        0, 86_400, unit="s")] = 10.0

    # -- Gangs
    gangs: Annotated[bool, _about(GANGS,
        "Answer members of a gang from one joint plan; off, each pod is "
        "scheduled by itself.")] = True
    gang_ttl_s: Annotated[float, _about(GANGS,
        "How long the places of a gang, and the planner's pins, stay reserved without being "
        "asked for.", 1, 86_400, unit="s")] = 120.0
    gang_reserve_after_s: Annotated[float, _about(GANGS,
        "How long a gang waits before it may keep the places that it can get, one gang at a "
        "time; 0 never. Pods that fit elsewhere are not delayed.", 0, 1_000_000, unit="s")] = 600.0
    gang_unborn_share: Annotated[float, _about(GANGS,
        "Share of the cluster, 0 to 1, that the gangs of one namespace may reserve for members "
        "that do not exist yet. 0 reserves places for existing pods only: a gang waits until it "
        "is complete.", 0, 1)] = 0.0
    watch_groups: Annotated[str, _about(GANGS,
        "Kinds that state how many members of a gang start together, and in which stages, as "
        "`plural.api-group`, comma separated. Watching one needs the right to "
        "list it.",
        pattern=r"^( *[a-z]+\.[a-z0-9.-]+ *(,|$))*$")] = "podgroups.scheduling.k8s.io"

    # -- Planner
    planner: Annotated[bool, _about(PLANNER,
        "Run a planner process that plans the whole backlog off the request path.")] = False
    planner_budget_s: Annotated[float, _about(PLANNER,
        "Time limit of one plan.", 0.05, 3600, unit="s")] = 5.0
    planner_debounce_s: Annotated[float, _about(PLANNER,
        "Shortest time between two plans.", 0, 3600, unit="s")] = 1.0
    planner_memory_mib: Annotated[int, _about(PLANNER,
        "The planner process is ended and started again above this.",
        256, 1_000_000, unit="MiB")] = 2048

    # -- Cluster
    kubeconfig: Annotated[str, _about(API,
        "File that says how to reach the API server; empty uses the service account of the pod "
        "that this runs in.")] = ""
    context: Annotated[str, _about(API, "Context of `kubeconfig`; empty for the current one.")] = ""
    bind: Annotated[bool, _about(API,
        "Bind pods through the API, which records their devices. kube-scheduler calls us for "
        "that only if its configuration names a `bindVerb`.")] = True
    bind_deadline_s: Annotated[float, _about(API,
        "Longest time of one bind call; stay below `httpTimeout` of kube-scheduler.",
        0.1, 300, unit="s")] = 1.5
    watch_read_s: Annotated[float, _about(API,
        "Silence after which a watch connection is considered dead; the API server sends "
        "something about once a minute.", 1, 3600, unit="s")] = 100.0
    stale_after_s: Annotated[float, _about(API,
        "Answer 503 once nodes or pods have not been heard of for so long; 0 never.",
        0, 86_400, unit="s")] = 0.0
    recount_s: Annotated[float, _about(API,
        "Time between two comparisons of the state with the facts; 0 never.",
        0, 86_400, unit="s")] = 60.0
    audit_s: Annotated[float, _about(API,
        "Time between two comparisons of what is known with the API, which lists nodes, pods, "
        "budgets and pod groups in pages; up to a quarter is added at random. Only the replica "
        "that answers does it. Objects that could not be applied are read again at once. 0 "
        "never compares.", 0, 86_400, unit="s")] = 600.0
    lease_namespace: Annotated[str, _about(API, "Namespace of `lease_name`.")] = ""
    lease_name: Annotated[str, _about(API,
        "Of several replicas only the holder of this Lease answers. Empty: always answer, as "
        "beside a kube-scheduler of its own.")] = ""
    lease_s: Annotated[float, _about(API,
        "The Lease is lost after so long without renewal.", 2, 3600, unit="s")] = 15.0

    # -- GPU sharing systems
    gpu_mem_unit_mib: Annotated[int, _about(SHARING,
        "Size of a unit of `aliyun.com/gpu-mem`: 1024 or 1, as its device plugin is configured.",
        1, 1024, unit="MiB")] = 1024
    hami_memory_factor: Annotated[int, _about(SHARING,
        "HAMi's setting `memoryFactor`: size of a unit of `nvidia.com/gpumem`.",
        1, 1_048_576, unit="MiB")] = 1
    hami_default_memory_mib: Annotated[int, _about(SHARING,
        "HAMi's setting `defaultMemory`: what a pod that states no memory gets of a device; 0 "
        "is all of it.", 0, 16_777_216, unit="MiB")] = 0
    kai_reservation_namespace: Annotated[str, _about(SHARING,
        "Where KAI keeps the pods that reserve the devices it shares. Groups that pods of other "
        "namespaces name take nothing and free nothing.")] = "kai-resource-reservation"
    record_policy: Annotated[str, _about(SHARING,
        "Name of the ValidatingAdmissionPolicy, and of its binding, that restricts device "
        "records to the extender; empty for none. Where it is in force, a record counts for a "
        "pod that is newer only if it names that pod.")] = RECORD_POLICY

    # -- Logs
    log_level: Annotated[str, _about(LOGS,
        "Least severe messages logged to stderr.",
        choices=("debug", "info", "warning", "error"))] = "info"
    log_json: Annotated[bool, _about(LOGS, "Whether messages are JSON lines.")] = False

    # -- TLS of the verbs
    tls_cert: Annotated[str, _about(TLS, "Serve HTTPS with this certificate.")] = ""
    tls_key: Annotated[str, _about(TLS, "Key of `tls_cert`.")] = ""
    tls_client_ca: Annotated[str, _about(TLS,
        "Require client certificates of this authority.")] = ""
    tls_client_subjects: Annotated[str, _about(TLS,
        "Which holders of a certificate of this authority to let in, comma separated: common "
        "names, or `DNS:name` and `URI:name` for a subject alternative name.")] = "kube-scheduler"
    tls_reload_s: Annotated[float, _about(TLS,
        "Time between two looks at these files; changed files are read again. 0 only on SIGHUP.",
        0, 86_400, unit="s")] = 5.0
    # fmt: on

    def __post_init__(self) -> None:
        policy_named(self.policy)
        for name, setting in SETTINGS.items():
            value = getattr(self, name)
            low, high = setting.low, setting.high
            if low is not None and high is not None and not low <= value <= high:
                raise InvalidInput(name, f"is {value}", f"use {low}..{high}")
            if setting.choices and value not in setting.choices:
                raise InvalidInput(
                    name, f"is {value!r}", f"use one of {', '.join(setting.choices)}"
                )
        if self.policy_file and self.policy != "priced":
            raise InvalidInput("policy_file", "goes with policy `priced`", "set policy: priced")
        self._check_prefix()
        self._check_doors()
        if bool(self.lease_name) != bool(self.lease_namespace):
            raise InvalidInput("lease_namespace", "and lease_name go together", "give both or none")
        for group in filter(None, (g.strip() for g in self.watch_groups.split(","))):
            if "." not in group.strip("."):
                raise InvalidInput(
                    "watch_groups",
                    f"{group!r} does not name an API group",
                    "write plural.api-group",
                )

    def _check_prefix(self) -> None:
        """A path of plain segments, which no path of ours begins with."""
        segments = self.base.split("/")[1:]
        good = all(_SEGMENT.fullmatch(part) and part.strip(".") for part in segments)
        if not good or (segments and segments[0] in _TAKEN) or len(self.url_prefix) > _LONGEST_PATH:
            raise InvalidInput(
                "url_prefix", f"{self.url_prefix!r} is not a path for verbs", "write /scheduler"
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
            raise InvalidInput("tls_client_subjects", "is empty", "write kube-scheduler")
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
        """Pods after which the workload profile is rebuilt; 0 where it is given for good."""
        return 0 if self.workload_profile_file else self.relearn_every

    def price_weights(self) -> PriceWeights:
        """Weights of policy ``priced``; reads ``policy_file`` if there is one."""
        if not self.policy_file:
            return PriceWeights()
        path = Path(self.policy_file)
        return PriceWeights.from_policy_file(read_text(path), self.policy_file)


def _listed(text: str) -> frozenset[str]:
    return frozenset(filter(None, (entry.strip() for entry in text.split(","))))


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one setting.

    Attributes
    ----------
    name
        Its key in the file; in the environment ``SNUGFIT_`` and the name in capitals.
    type
        Of its values.
    default
        Value if it is not set.
    group
        Which settings it belongs with.
    description
        What it does, as Markdown.
    low, high
        Least and largest value; None without limits.
    unit
        Of its values; empty for counts, names and switches.
    pattern
        Regular expression that values match; None for any.
    choices
        The only values; empty for any.
    """

    name: str
    type: type[Any]
    default: Any
    group: str
    description: str
    low: float | None
    high: float | None
    unit: str
    pattern: str | None
    choices: tuple[str, ...]

    def schema(self) -> dict[str, Any]:
        """JSON schema of its values."""
        names: dict[type[Any], str] = {str: "string", int: "integer", float: "number"}
        rule: dict[str, Any] = {"type": names.get(self.type, "boolean")}
        if self.low is not None:
            rule |= {"minimum": self.low, "maximum": self.high}
        if self.pattern is not None:
            rule["pattern"] = self.pattern
        if self.choices:
            rule["enum"] = list(self.choices)
        return rule | {"description": self.description}


def _setting(field: msgspec.structs.FieldInfo) -> Setting:
    kind, meta = get_args(field.type)
    extra = meta.extra
    return Setting(
        field.name, kind, field.default, extra["group"], meta.description, meta.ge, meta.le,
        extra["unit"], extra["pattern"], extra["choices"],
    )  # fmt: skip


SETTINGS = {field.name: _setting(field) for field in msgspec.structs.fields(ExtenderConfig)}
"""Every setting by name, in the order of its groups. Limits, the reference page, the schema of the
chart and ``--print-config`` are made from this."""

RENAMED = {
    "hold_ttl_s": "reservation_ttl_s",
    "mix_file": "workload_profile_file",
    "mix_half_life_pods": "workload_profile_half_life_pods",
    "wake_after_s": "requeue_after_s",
}
"""New names of settings by the old ones, which are refused."""
