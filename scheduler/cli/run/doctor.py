"""``snugfit doctor``."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduler.cluster.api.client import KubeClient
    from scheduler.kube.installation import Check
    from scheduler.kube.objects import PodObject

__all__ = ["command"]


@click.command("doctor")
@click.option("--kubeconfig", type=click.Path(path_type=Path), help="Default: as kubectl.")
@click.option("--context", "context_name", help="Context of the kubeconfig.")
@click.option("--in-cluster", is_flag=True, help="Use the service account of this pod.")
@click.option(
    "--account",
    default="",
    help="namespace/name of the extender's service account. [default: whoever asks]",
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
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    kubeconfig: Path | None,
    context_name: str | None,
    in_cluster: bool,
    account: str,
    scheduler_name: str,
    extender: str,
    record_policy: str,
    evict_gangs: bool,
    as_json: bool,
) -> None:
    """Look at a live cluster: is everything there that Snugfit needs, and how is it understood?

    Changes nothing. Checks reachability, permissions, versions, each node's GPUs and what is
    ambiguous about them, and with --extender whether kube-scheduler calls it. Exit code 1 if
    something fails.
    """
    from scheduler.cli.console import message, print_json, print_table
    from scheduler.cluster.api.client import KubeClient
    from scheduler.cluster.api.paging import list_in_part
    from scheduler.kube.installation import NodeReport, State, node_reports, not_understood
    from scheduler.kube.misread import misread_nodes, misread_pods
    from scheduler.kube.objects import node_decoder, pod_decoder
    from scheduler.kube.resource_names import ResourceNames

    client = (
        KubeClient.in_cluster()
        if in_cluster
        else KubeClient.from_kubeconfig(kubeconfig, context_name)
    )
    names = ResourceNames()
    nodes = list_in_part(client, "/api/v1/nodes", node_decoder)
    pods = list_in_part(client, "/api/v1/pods", pod_decoder)
    misread = [*misread_nodes(nodes, names), *misread_pods(pods, names)]
    checks = _cluster_checks(
        client, account, record_policy, [part.obj for part in pods], evicts=evict_gangs
    )
    checks.append(not_understood(misread))
    reports = node_reports(part.obj for part in nodes if not part.missing)
    reports += [
        NodeReport(part.obj.metadata.name, "", (), State.FAILED, "cannot be read: gets no pods")
        for part in nodes
        if part.missing
    ]
    if extender:
        checks += _extender_checks(client, extender, scheduler_name)
    failed = [check for check in checks if check.state is State.FAILED]
    failed_nodes = [report for report in reports if report.state is State.FAILED]
    if as_json:
        print_json(
            {
                "server": client.server,
                "checks": [asdict(check) for check in checks],
                "nodes": [asdict(report) for report in reports],
                "not_understood": [one.to_json() for one in misread],
            }
        )
    else:
        print_table(
            f"Cluster {client.server}",
            ("", "question", "answer", "remedy"),
            [(c.state.value, c.question, c.answer, c.remedy) for c in checks],
        )
        shown = [report for report in reports if report.devices or report.state is not State.OK]
        print_table(
            f"GPUs of {len(shown)} nodes ({len(reports) - len(shown)} have none)",
            ("", "node", "understood as", "offered by", "remark"),
            [(r.state.value, r.node, r.devices, ", ".join(r.protocols), r.remark) for r in shown],
        )
        if not extender:
            message("--extender URL also checks whether kube-scheduler calls it")
    if failed or failed_nodes:
        raise click.exceptions.Exit(1)


def _cluster_checks(
    client: KubeClient,
    account: str,
    record_policy: str,
    all_pods: Sequence[PodObject],
    *,
    evicts: bool,
) -> list[Check]:
    """Reachability, versions, permissions."""
    import msgspec

    from scheduler.cluster.api.paging import list_objects
    from scheduler.core.errors import InvalidInput
    from scheduler.kube.installation import EVICTION, RIGHTS, Check, State, lacking, versions
    from scheduler.kube.objects import mapping_decoder

    version: dict[str, Any] = msgspec.json.decode(client.get("/version"))
    checks = [Check("is the API server reachable?", State.OK, f"yes, {client.server}")]
    pods = list_objects(
        client, "/api/v1/pods", mapping_decoder, "app.kubernetes.io/component=extender"
    )
    images = {
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}": str(container["image"])
        for pod in pods
        for container in pod["spec"]["containers"]
        if container["name"] == "kube-scheduler"
    }
    checks += versions(str(version.get("gitVersion", "")), images)
    needed = (*RIGHTS, EVICTION) if evicts else RIGHTS
    rights = [replace(r, name=record_policy) if r.name else r for r in needed]
    if account:
        namespace, _, name = account.partition("/")
        if not namespace or not name:
            raise InvalidInput("--account", f"{account!r} is none", "write namespace/name")
        missing = [r for r in rights if not _account_may(client, namespace, name, r)]
    else:
        missing = [
            r for r in rights if not client.allowed(r.verb, r.group, r.resource, name=r.name)
        ]
    checks.append(lacking(missing, account or "the user of this kubeconfig"))
    checks += _record_checks(client, record_policy, all_pods)
    return checks


def _record_checks(client: KubeClient, name: str, pods: Sequence[PodObject]) -> list[Check]:
    """Whether records of devices are guarded, as far as whoever asks may know, and which are."""
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


def _extender_checks(client: KubeClient, url: str, scheduler_name: str) -> list[Check]:
    """Readiness, and whether it is called."""
    from scheduler.cluster.api.paging import list_objects
    from scheduler.kube.installation import Check, State, called, calls
    from scheduler.kube.objects import pod_decoder
    from scheduler.kube.scheduler_config.write import managed_resources

    status, detail = _get(url.rstrip("/") + "/readyz")
    question = f"is the extender at {url} ready?"
    if status == 0:
        return [Check(question, State.FAILED, f"it does not answer: {detail}")]
    checks = [
        Check(question, State.OK if status == 200 else State.FAILED, detail.strip() or str(status))
    ]
    status, page = _get(url.rstrip("/") + "/metrics")
    if status != 200:
        checks.append(Check("does it show metrics?", State.FAILED, f"{status} {page[:80]}"))
        return checks
    pods = list_objects(client, "/api/v1/pods", pod_decoder)
    return [*checks, *called(calls(page), pods, scheduler_name, set(managed_resources()))]


def _get(url: str) -> tuple[int, str]:
    """Status and body; status 0 and the reason if there is no answer."""
    import urllib.error
    import urllib.request

    from scheduler.core.errors import InvalidInput

    if not url.startswith(("http://", "https://")):
        raise InvalidInput("--extender", f"{url!r} is no URL", "write http://127.0.0.1:10263")
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - checked above
            return int(answer.status), answer.read().decode(errors="replace")
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode(errors="replace")
    except (urllib.error.URLError, OSError) as error:
        return 0, str(error)
