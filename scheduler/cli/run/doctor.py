"""``snugfit doctor``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from scheduler.cli.inputs import live_argument, live_client
from scheduler.cli.options import connection_gone, inapplicable, json_option, kubeconfig_option
from scheduler.core.plural import plural

if TYPE_CHECKING:
    from scheduler.cluster.api.client import KubeClient
    from scheduler.core.omissions import NotUnderstood
    from scheduler.kube.installation import Check, NodeReport
    from scheduler.kube.objects import NodeObject, PodObject
    from scheduler.kube.salvage import InPart

__all__ = ["command"]

T = TypeVar("T")
_EXTENDERS = "app.kubernetes.io/component=extender"


@click.command("doctor")
@live_argument
@click.option(
    "--account",
    default="",
    help="namespace/name of the extender's service account.  [default: you]",
)
@click.option("--scheduler-name", default="snugfit", show_default=True, help="spec.schedulerName.")
@click.option(
    "--extender", default="", help="URL of a running extender, such as forwarded by kubectl."
)
@click.option(
    "--record-policy",
    default="snugfit-device-records",
    show_default=True,
    help="ValidatingAdmissionPolicy that keeps records of devices to the extender.",
)
@click.option(
    "--evict-gangs",
    is_flag=True,
    help="The extender's setting evict_gangs is on: it needs a right.",
)
@kubeconfig_option
@json_option
@connection_gone
def command(
    cluster: tuple[str, ...],
    account: str,
    scheduler_name: str,
    extender: str,
    record_policy: str,
    evict_gangs: bool,
    kubeconfig: Path | None,
    as_json: bool,
) -> None:
    """Look at a live cluster: is everything there that Snugfit needs, and how is it understood?

    Changes nothing. Checks reachability, permissions, versions, each node's GPUs and what is
    ambiguous about them, and with --extender whether kube-scheduler calls it. What cannot be
    checked is a check that failed. CLUSTER is live, or live:CONTEXT. Exit code 1 if something
    fails.

    \b
    snugfit doctor
    snugfit doctor live:prod --extender http://127.0.0.1:10262
    """  # noqa: D301 - click looks for a real backspace
    from scheduler.cli.output import message
    from scheduler.kube.installation import State

    inapplicable(scheduler_name=(bool(extender), "it is for --extender"))
    client = live_client(cluster, kubeconfig)
    seen = _Findings(client)
    seen.look(account, record_policy, extender, evicts=evict_gangs)
    if extender:
        seen.try_to("ask the extender", lambda: _extender_checks(seen, extender, scheduler_name))
    if as_json:
        seen.print_json()
    else:
        seen.print()
        if not extender:
            message("--extender URL also checks whether kube-scheduler calls it")
    states = [check.state for check in seen.checks] + [node.state for node in seen.reports]
    if State.FAILED in states:
        raise click.exceptions.Exit(1)


@dataclass
class _Findings:
    """What is known of a cluster so far; a question that cannot be asked is a failed check."""

    client: KubeClient
    checks: list[Check] = field(default_factory=list)
    reports: list[NodeReport] = field(default_factory=list)
    misread: list[NotUnderstood] = field(default_factory=list)
    pods: list[InPart[PodObject]] | None = None

    def try_to(self, what: str, ask: Callable[[], Sequence[Check]]) -> bool:
        """Add what asking comes to; whether it could be asked."""
        from scheduler.core.errors import KubeApiError
        from scheduler.kube.installation import Check, State

        try:
            self.checks += ask()
        except KubeApiError as error:
            question = f"can we {what}?"
            self.checks.append(Check(question, State.FAILED, f"no: {error}"))
            return False
        return True

    def look(self, account: str, record_policy: str, extender: str, *, evicts: bool) -> None:
        """Everything that the API server can be asked."""
        if not self.try_to("reach the API server", lambda: _version_checks(self.client)):
            return
        self.try_to("list what is installed", lambda: _installed(self.client, extender))
        self.try_to(
            "ask about permissions",
            lambda: _permission_checks(self.client, account, record_policy, evicts=evicts),
        )
        self.try_to("list nodes", self._nodes)
        self.try_to("list pods", self._pods)
        if self.pods is not None:
            pods = [part.obj for part in self.pods]
            self.checks += _record_checks(self.client, record_policy, pods)
        from scheduler.kube.installation import not_understood

        self.checks.append(not_understood(self.misread))

    def _nodes(self) -> Sequence[Check]:
        from scheduler.kube.installation import NodeReport, State, node_reports
        from scheduler.kube.misread import misread_nodes
        from scheduler.kube.objects import node_decoder
        from scheduler.kube.resource_names import ResourceNames

        nodes: list[InPart[NodeObject]] = _listed(self.client, "nodes", node_decoder)
        self.misread += misread_nodes(nodes, ResourceNames())
        self.reports = node_reports(part.obj for part in nodes if not part.missing)
        self.reports += [
            NodeReport(part.obj.metadata.name, "", (), State.FAILED, "cannot be read: gets no pods")
            for part in nodes
            if part.missing
        ]
        return ()

    def _pods(self) -> Sequence[Check]:
        from scheduler.kube.misread import misread_pods
        from scheduler.kube.objects import pod_decoder
        from scheduler.kube.resource_names import ResourceNames

        self.pods = _listed(self.client, "pods", pod_decoder)
        self.misread += misread_pods(self.pods, ResourceNames())
        return ()

    def print_json(self) -> None:
        from scheduler.cli.output import print_json

        print_json(
            {
                "server": self.client.server,
                "checks": [asdict(check) for check in self.checks],
                "nodes": [asdict(report) for report in self.reports],
                "not_understood": [one.to_json() for one in self.misread],
            }
        )

    def print(self) -> None:
        from scheduler.cli.output import print_table
        from scheduler.kube.installation import State

        print_table(
            f"Cluster {self.client.server}",
            ("", "question", "answer", "remedy"),
            [(c.state.value, c.question, c.answer, c.remedy) for c in self.checks],
        )
        shown = [r for r in self.reports if r.devices or r.state is not State.OK]
        print_table(
            f"{plural(len(shown), 'node')} with GPUs, {len(self.reports) - len(shown)} without",
            ("", "node", "understood as", "offered by", "remark"),
            [(r.state.value, r.node, r.devices, ", ".join(r.protocols), r.remark) for r in shown],
        )


def _listed(client: KubeClient, kind: str, decoder: Any) -> list[InPart[Any]]:  # noqa: ANN401
    from scheduler.cluster.api.paging import list_in_part

    return list_in_part(client, f"/api/v1/{kind}", decoder)


def _version_checks(client: KubeClient) -> list[Check]:
    from scheduler.kube.installation import Check, State, versions
    from scheduler.kube.objects import mapping_decoder

    version = client.read("/version", mapping_decoder)
    return [
        Check("is the API server reachable?", State.OK, f"yes, {client.server}"),
        *versions(str(version.get("gitVersion", "")), {}),
    ]


def _installed(client: KubeClient, extender: str) -> list[Check]:
    """Whether an extender runs here, and whether the schedulers beside it go with the cluster."""
    from scheduler.cluster.api.paging import list_objects
    from scheduler.kube.installation import installed, versions
    from scheduler.kube.objects import mapping_decoder

    version = client.read("/version", mapping_decoder)
    pods = list_objects(client, "/api/v1/pods", mapping_decoder, _EXTENDERS)
    images = {
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}": str(container["image"])
        for pod in pods
        for container in pod["spec"]["containers"]
        if container["name"] == "kube-scheduler"
    }
    _, *of_schedulers = versions(str(version.get("gitVersion", "")), images)
    return [installed(pods, extender), *of_schedulers]


def _permission_checks(
    client: KubeClient, account: str, record_policy: str, *, evicts: bool
) -> list[Check]:
    from scheduler.core.errors import InvalidInput
    from scheduler.kube.installation import EVICTION, RIGHTS, lacking

    needed = (*RIGHTS, EVICTION) if evicts else RIGHTS
    rights = [replace(r, name=record_policy) if r.name else r for r in needed]
    if account:
        namespace, _, name = account.partition("/")
        if not namespace or not name:
            problem = f"{account!r} is not a service account"
            raise InvalidInput("--account", problem, "write namespace/name")
        missing = [r for r in rights if not _account_may(client, namespace, name, r)]
    else:
        missing = [
            r for r in rights if not client.allowed(r.verb, r.group, r.resource, name=r.name)
        ]
    return [lacking(missing, account or "the user of this kubeconfig")]


def _record_checks(client: KubeClient, name: str, pods: Sequence[PodObject]) -> list[Check]:
    """Whether records of devices are guarded, as far as this user may know, and which are."""
    from scheduler.cluster.api.record_policy import read_policy
    from scheduler.core.errors import KubeApiError
    from scheduler.kube.installation import Check, State, guarded, recorded
    from scheduler.kube.pod_requests import has_ended
    from scheduler.kube.resource_names import ResourceNames
    from scheduler.kube.sharing.record_policy import guarded_since

    try:
        policy = read_policy(client, name)
    except KubeApiError as error:
        question = "who may write which devices a pod has?"
        return [Check(question, State.WARNING, f"nobody knows: {error}")]
    running = (p for p in pods if p.spec.node_name and not has_ended(p))
    since = guarded_since(*policy, name)
    return [guarded(*policy, name), recorded(running, since, ResourceNames())]


def _account_may(client: KubeClient, namespace: str, name: str, right: Any) -> bool:  # noqa: ANN401
    import msgspec

    resource, _, sub = right.resource.partition("/")
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{namespace}:{name}",
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"],
            "resourceAttributes": {
                "verb": right.verb,
                "group": right.group,
                "resource": resource,
                "subresource": sub,
                "name": right.name,
            },
        },
    }
    answer = client.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    content: dict[str, Any] = msgspec.json.decode(answer)
    return bool((content.get("status") or {}).get("allowed"))


def _extender_checks(seen: _Findings, url: str, scheduler_name: str) -> list[Check]:
    """Readiness, and whether it is called."""
    from scheduler.cli.fetch import fetch
    from scheduler.kube.installation import Check, State, called, calls
    from scheduler.kube.scheduler_config.write import managed_resources

    base = url.rstrip("/")
    status, body = fetch(f"{base}/readyz", field="--extender")
    question, detail = f"is the extender at {url} ready?", body.decode(errors="replace")
    if status == 0:
        return [Check(question, State.FAILED, f"it does not answer: {detail}")]
    checks = [
        Check(question, State.OK if status == 200 else State.FAILED, detail.strip() or str(status))
    ]
    status, body = fetch(f"{base}/metrics", field="--extender")
    page = body.decode(errors="replace")
    if status != 200:
        checks.append(Check("does it show metrics?", State.FAILED, f"{status} {page[:80]}"))
    elif seen.pods is not None:
        pods = [part.obj for part in seen.pods]
        checks += called(calls(page), pods, scheduler_name, set(managed_resources()))
    return checks
