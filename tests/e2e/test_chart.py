"""The chart, rendered by real Helm and shown to a real API server."""

from __future__ import annotations

import base64
import itertools
import json
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import yaml

from scheduler.core.price_weights import PriceWeights
from scheduler.kube.scheduler_config.checks import check
from scheduler.kube.scheduler_config.write import (
    Profile,
    SchedulerSetup,
    Topology,
    kube_scheduler_config,
)
from scheduler.kube.yaml_lines import yaml_files
from testbed.controlplane.api import ApiError, eventually
from testbed.controlplane.chart import CHART, REQUIRED, Helm
from testbed.controlplane.extender import Extender
from testbed.controlplane.objects import fraction_node, fraction_pod, gpu_node, gpu_pod, pod
from testbed.controlplane.process import free_port
from tests import rights

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
MONITORING = (
    "networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prometheus",
    "serviceMonitor.enabled=true",
    "prometheusRule.enabled=true",
    "dashboard.enabled=true",
)
# Of operators; a bare API server does not serve them.
FOREIGN = {"monitoring.coreos.com/v1", "cert-manager.io/v1"}


def _comma(text: str) -> str:
    """As a value of Helm's --set, where commas and braces have a meaning."""
    return "".join(f"\\{char}" if char in ",{}" else char for char in text)


VARIANTS: dict[str, tuple[str, ...]] = {
    "sidecar": (),
    "sidecar-stock": ("scheduler.profile=stock", "scheduler.weight=141"),
    "sidecar-fallback": ("scheduler.fallback=true",),
    "sidecar-all": (
        *MONITORING,
        "advertise.enabled=true",
        "advertise.selector=gpu=true",
        "namespace.create=true",
        "extender.settings.planner=true",
        "extender.settings.evict_gangs=true",
        "extender.settings.policy=priced",
        "extender.settings.policy_file=/etc/snugfit/policy.json",
        f"extender.files.policy\\.json={_comma(PriceWeights(power=0.3).to_policy_file())}",
        "scheduler.extraArgs={--feature-gates=GenericWorkload=true}",
        "imagePullSecrets[0].name=registry",
        "priorityClassName=system-cluster-critical",
        "podLabels.team=ml",
        "podAnnotations.note=x",
        "serviceAccount.annotations.note=x",
        "tolerations[0].operator=Exists",
    ),
    "sidecar-small": (
        "replicas=1",
        "podDisruptionBudget.enabled=false",
        "networkPolicy.enabled=false",
        "extender.settings.watch_groups=",
        "scheduler.managedResources={nvidia.com/gpu}",
        "image.digest=sha256:" + "0" * 64,
    ),
    "sidecar-own-account": ("serviceAccount.extender.separate=true", "metrics.enabled=true"),
    "sidecar-own-certificate": ("metrics.enabled=true", "metrics.secret=shown"),
    "sidecar-unguarded": ("recordPolicy.enabled=false", "extender.settings.requeue_after_s=0"),
    "sidecar-beside-hami": (
        "recordPolicy.accounts={system:serviceaccount:trial:trial-snugfit}",
        "recordPolicy.foreign.enabled=true",
        "recordPolicy.foreign.accounts={system:serviceaccount:kube-system:hami-device-plugin}",
    ),
    "sidecar-named": ("fullnameOverride=gpu", "scheduler.name=gpus", "serviceAccount.name=other"),
    "service": ("topology=service",),
    "service-generate": ("topology=service", "tls.mode=generate", "service.clusterIP=10.96.0.50"),
    "service-cert-manager": ("topology=service", "tls.mode=certManager", "tls.issuerRef.name=ca"),
    "service-default-scheduler": (
        "topology=service",
        "scheduler.name=default-scheduler",
        "scheduler.profile=stock",
    ),
    "service-guarded": (
        "topology=service",
        *MONITORING,
        "networkPolicy.schedulerFrom[0].ipBlock.cidr=192.0.2.0/24",
        "networkPolicy.egress[0].ports[0].port=6443",
    ),
    "without-rights": ("rbac.create=false", "serviceAccount.create=false"),
}


@pytest.fixture(scope="module")
def helm(assets, tmp_path_factory) -> Helm:
    return Helm(assets.program("helm"), tmp_path_factory.mktemp("helm"), assets.version)


def _config_map(documents: list[dict[str, Any]]) -> dict[str, str]:
    (found,) = (
        d["data"] for d in documents if d["kind"] == "ConfigMap" and "extender.yaml" in d["data"]
    )
    return found


def test_lint_finds_nothing_wrong(helm) -> None:
    done = helm.run("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout
    for word in ("[ERROR]", "[WARNING]"):
        assert word not in done.stdout


def test_the_plain_manifests_are_the_rendered_chart(helm, tmp_path) -> None:
    done = subprocess.run(
        ["make", "--silent", "manifests", f"HELM={helm.program}", f"MANIFESTS={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    committed = {p.name: p.read_text() for p in (ROOT / "deploy/manifests").glob("*.yaml")}
    assert set(committed) == {"sidecar.yaml", "service.yaml"}
    assert {p.name: p.read_text() for p in tmp_path.glob("*.yaml")} == committed


@pytest.mark.parametrize("name", VARIANTS)
def test_the_api_server_accepts_every_variant(helm, cluster, name: str) -> None:
    """Server-side dry run: schema, defaults and validation of the real thing."""
    api = cluster.api
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "snugfit"}})
    before = _names(api, "ConfigMap")
    documents = helm.render(VARIANTS[name])
    accepted = []
    for document in documents:
        if document["apiVersion"] in FOREIGN:
            continue
        answer = api.apply(document, dry_run=True)
        assert answer["metadata"]["name"] == document["metadata"]["name"]
        accepted.append(document["kind"])
    assert {"ConfigMap", "Deployment", "Service"} <= set(accepted)
    assert _names(api, "Deployment", "apps/v1") == []
    assert _names(api, "ConfigMap") == before


def _names(api, kind: str, version: str = "v1") -> list[str]:
    return [found["metadata"]["name"] for found in api.objects(kind, "snugfit", version)]


def test_an_installation_looks_at_the_cluster(helm, cluster, administrator) -> None:
    """What is served is asked of the API server, and the notes name what is odd about nodes."""
    mixed = gpu_node("mixed", 2)
    for part in ("capacity", "allocatable"):
        mixed["status"][part] |= {"snugfit.io/gpu-milli": "2k"}
    cluster.create([mixed, gpu_node("whole", 2), fraction_node("parts", 2)])
    required = [part for value in REQUIRED for part in ("--set", value)]

    def notes(*values: str) -> tuple[str, str]:
        more = [part for value in values for part in ("--set", value)]
        done = helm.run(
            "install", "seen", str(CHART), "--namespace", "seen", "--dry-run=server",
            *map(str, administrator), *required, *more,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        manifests, _, said = done.stdout.partition("NOTES:")
        return manifests, said

    manifests, said = notes()
    assert "kind: ValidatingAdmissionPolicyBinding" in manifests
    assert "FRACTIONS BESIDE THE DEVICE PLUGIN: 1 node offers" in said and "mixed" in said
    assert "Nobody may read metrics yet" in said and "NOT GUARDED" not in said
    cluster.api.delete("Node", "mixed")
    _, said = notes("recordPolicy.enabled=false")
    assert "FRACTIONS" not in said and "NOT GUARDED" in said


@pytest.mark.parametrize("name", VARIANTS)
def test_no_variant_walks_into_a_trap(helm, name: str) -> None:
    text = _config_map(helm.render(VARIANTS[name]))["kube-scheduler.yaml"]
    assert check(yaml_files(text, name)[0]) == []


@pytest.mark.parametrize("topology", Topology)
def test_kube_scheduler_calls_the_path_that_is_served(helm, topology: Topology) -> None:
    prefix = "/scheduler/"
    files = _config_map(
        helm.render((f"topology={topology}", f"extender.settings.url_prefix={prefix}"))
    )
    assert yaml.safe_load(files["extender.yaml"])["url_prefix"] == prefix
    setup = SchedulerSetup(topology=topology, url_prefix=prefix)
    written = yaml.safe_load(files["kube-scheduler.yaml"])
    assert written == yaml.safe_load(kube_scheduler_config(setup))


@pytest.mark.parametrize(
    ("topology", "profile", "fallback"),
    [
        (topology, profile, fallback)
        for topology, profile, fallback in itertools.product(Topology, Profile, (False, True))
        if profile is Profile.PACKING or not fallback
    ],
)
def test_chart_and_generator_agree(helm, topology, profile, fallback: bool) -> None:
    values = (
        f"topology={topology}",
        f"scheduler.profile={profile}",
        f"scheduler.fallback={json.dumps(fallback)}",
    )
    text = _config_map(helm.render(values))["kube-scheduler.yaml"]
    setup = SchedulerSetup(topology=topology, profile=profile, fallback=fallback)
    assert yaml.safe_load(text) == yaml.safe_load(kube_scheduler_config(setup))


def test_kube_schedulers_version_is_the_clusters_without_what_a_vendor_appends(helm) -> None:
    image = ("--set", REQUIRED[0])
    done = helm.run("template", "x", str(CHART), "--kube-version", "v1.35.3-eks-3025e55", *image)
    (deployment,) = (d for d in yaml.safe_load_all(done.stdout) if d and d["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"].endswith("/kube-scheduler:v1.35.3")
    old = helm.run("template", "x", str(CHART), "--kube-version", "v1.33.0", *image)
    assert old.returncode != 0 and "incompatible" in old.stderr


@pytest.mark.parametrize(
    ("value", "groups"),
    [
        ("", {"scheduling.k8s.io": ["podgroups"]}),
        ("extender.settings.watch_groups=", {}),
        (
            r"extender.settings.watch_groups=jobs.batch\, workloads.scheduling.k8s.io",
            {"batch": ["jobs"], "scheduling.k8s.io": ["workloads"]},
        ),
    ],
)
def test_the_role_follows_the_kinds_that_are_watched(helm, value: str, groups) -> None:
    documents = helm.render((value,) if value else ())
    (role,) = (
        d for d in documents if d["kind"] == "ClusterRole" and d["metadata"]["name"].endswith("er")
    )
    found = {rule["apiGroups"][0]: rule["resources"] for rule in role["rules"]}
    others = ("", "policy", "admissionregistration.k8s.io", "resource.k8s.io", "storage.k8s.io")
    assert {name: r for name, r in found.items() if name not in others} == groups
    settings = yaml.safe_load(_config_map(documents)["extender.yaml"])
    assert bool(settings["watch_groups"]) == bool(groups)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_right_of_every_variant_stands_in_the_table(helm, name: str) -> None:
    fullname = {"sidecar-named": "gpu"}.get(name, "snugfit")
    given = rights.rendered(helm.render(VARIANTS[name]), fullname)
    assert given <= rights.stated()
    assert bool(given) == (name != "without-rights")


def test_every_right_of_the_table_is_given_by_some_variant(helm) -> None:
    given = set().union(
        *(
            rights.rendered(helm.render(values), "gpu" if name == "sidecar-named" else "snugfit")
            for name, values in VARIANTS.items()
        )
    )
    assert given == rights.stated()


def test_the_extender_writes_pods_only_where_it_requeues_them(helm) -> None:
    def given(*values: str) -> set[str]:
        return {right[1] for right in rights.rendered(helm.render(values), "snugfit")}

    assert "pods/status" in given() and "pods/status" in given(
        "extender.settings.requeue_after_s=30"
    )
    assert "pods/status" not in given("extender.settings.requeue_after_s=0")


@pytest.mark.parametrize("topology", Topology)
def test_the_extender_may_have_an_account_of_its_own(helm, topology: str) -> None:
    """Then it has none of kube-scheduler's rights, and neither container sees the other's token."""
    values = (f"topology={topology}", "serviceAccount.extender.separate=true")
    documents = helm.render(values)
    subjects = {
        d["metadata"]["name"]: d["subjects"][0]["name"]
        for d in documents
        if d["kind"].endswith("RoleBinding")
    }
    (deployment,) = (d for d in documents if d["kind"] == "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    if topology == Topology.SERVICE:  # it is alone there
        assert set(subjects.values()) == {"snugfit"} and spec["automountServiceAccountToken"]
        return
    assert {name for name, account in subjects.items() if account == "snugfit-extender"} == {
        "snugfit-extender"
    }
    assert spec["automountServiceAccountToken"] is False
    folder = "/var/run/secrets/kubernetes.io/serviceaccount"
    seen = {
        container["name"]: [
            m["name"] for m in container["volumeMounts"] if m["mountPath"] == folder
        ]
        for container in (*spec["initContainers"], *spec["containers"])
    }
    assert seen == {"extender": ["extender-account"], "kube-scheduler": ["scheduler-account"]}


def test_files_lie_beside_the_settings_that_name_them(helm) -> None:
    config = _config_map(helm.render(VARIANTS["sidecar-all"]))
    assert PriceWeights.from_policy_file(config["policy.json"]).power == 0.3
    settings = yaml.safe_load(config["extender.yaml"])
    assert settings["policy_file"] == "/etc/snugfit/policy.json"


@pytest.mark.parametrize("name", VARIANTS)
def test_no_key_is_part_of_a_release(helm, name: str) -> None:
    documents = helm.render(VARIANTS[name])
    for secret in (d for d in documents if d["kind"] == "Secret"):
        assert "data" not in secret and "stringData" not in secret
    assert "PRIVATE KEY" not in json.dumps(documents)
    assert documents == helm.render(VARIANTS[name])  # nothing is drawn by lot at rendering


def test_other_certificates_are_another_job(helm) -> None:
    """A Job cannot be changed."""

    def job(*values: str) -> dict[str, Any]:
        documents = helm.render((*VARIANTS["service-generate"], *values))
        (found,) = (d for d in documents if d["kind"] == "Job")
        return found

    first, longer = job(), job("tls.generate.validityDays=400")
    assert job() == first
    assert first["metadata"]["name"] != longer["metadata"]["name"]


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (("topology=both",), "topology"),
        (("extender.settings.polcy=fgd",), "polcy"),
        (("extender.settings.port=1",), "port"),
        (("replica=3",), "replica"),
        (("scheduler.weight=14",), "weight"),
        (("scheduler.managedResources={nvidia.com/mig-*}",), "managedResources"),
        (("scheduler.name=default-scheduler",), "another scheduler.name"),
        (("topology=service", "scheduler.name=default-scheduler"), "every pod of the cluster"),
        (("topology=service", "tls.mode=certManager"), "issuerRef"),
        (("topology=service", "networkPolicy.schedulerFrom=null"), "schedulerFrom is required"),
        (("serviceMonitor.enabled=true",), "networkPolicy.metricsFrom"),
        (("image.repository=",), "image.repository is required"),
        (("recordPolicy.foreign.enabled=true",), "recordPolicy.foreign.accounts is required"),
        (
            (
                "recordPolicy.enabled=false",
                "recordPolicy.foreign.enabled=true",
                "recordPolicy.foreign.accounts={x}",
            ),
            "recordPolicy.foreign needs recordPolicy.enabled",
        ),
        (("recordPolicy.enabled=yes",), "recordPolicy/enabled"),
        (
            ("topology=service", "tls.mode=generate", "tls.generate.authorityDays=400"),
            "authorityDays",
        ),
        ((r"extender.files.extender\.yaml=x",), "extender.yaml"),
        (("extender.settings.hold_ttl_s=5",), "hold_ttl_s was renamed: write reservation_ttl_s"),
    ],
    ids=str,
)
def test_harmful_or_mistyped_values_are_refused(helm, values, complaint: str) -> None:
    assert complaint in helm.refusal(values)


def test_what_nobody_else_can_know_is_asked_for(helm) -> None:
    assert "image.repository is required" in helm.refusal((), required=())
    image = REQUIRED[:1]
    assert "schedulerFrom is required" in helm.refusal(("topology=service",), required=image)


# -- what the chart ships, running -------------------------------------------------------------

APPLIED_KINDS = {
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "Namespace",
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
}


TRIAL = "trial"
# Each release keeps records to its own extender; others on this control plane are let through.
NEIGHBOURS = (
    "recordPolicy.accounts[0]=system:serviceaccount:snugfit:snugfit",
    "recordPolicy.accounts[1]=system:serviceaccount:snugfit:snugfit-remote",
)


class Installed:
    """The chart's accounts and rights in the API server, its settings in our hands.

    A release of its own, in a namespace of its own: rights are taken away in the end.
    """

    account = "trial-snugfit"

    def __init__(self, cluster, documents: list[dict[str, Any]]) -> None:
        self.cluster = cluster
        self._applied = [d for d in documents if d["kind"] in APPLIED_KINDS]
        for document in self._applied:
            cluster.api.apply(document)
        self.files = _config_map(documents)
        token = cluster.api.issue_token(TRIAL, self.account)
        self.kubeconfig = cluster.plane.kubeconfig(token, "chart")

    def remove(self) -> None:
        """Take the rights away again; the namespace stays, nobody is there to empty it."""
        for document in self._applied:
            if document["kind"] != "Namespace":
                self.cluster.api.request("DELETE", self.cluster.api.path_of(document))

    def extender(self) -> Extender:
        """The chart's settings, on ports of our own."""
        settings = yaml.safe_load(self.files["extender.yaml"])
        settings["status_listen"] = f"127.0.0.1:{free_port()}"
        settings["bind_deadline_s"] = 60.0  # a call that is slow is to be carried out all the same
        file = self.cluster.plane.home / "extender.yaml"
        file.write_text(yaml.safe_dump(settings), encoding="utf-8")
        made = Extender(
            self.cluster.plane, ["--config", file, "--kubeconfig", self.kubeconfig], name="chart"
        )
        made.start()
        return made

    def scheduler(self, extender: Extender) -> None:
        """The chart's configuration, but for the address of the extender."""
        text = self.files["kube-scheduler.yaml"]
        config = yaml.safe_load(text.replace("http://127.0.0.1:10262", extender.url))
        self.cluster.scheduler(config, kubeconfig=self.kubeconfig, name="chart-scheduler")


@pytest.fixture
def installed(helm, cluster):
    made = []

    def install(*values: str) -> Installed:
        documents = helm.render(("namespace.create=true", *NEIGHBOURS, *values), TRIAL)
        made.append(Installed(cluster, documents))
        return made[-1]

    yield install
    for one in made:
        one.remove()


@pytest.mark.parametrize("values", [(), ("scheduler.fallback=true",), ("scheduler.profile=stock",)])
def test_the_second_scheduler_places_pods_with_the_charts_rights(installed, cluster, values):
    """Every permission that is used is granted: nothing is refused, nothing restarts."""
    chart = installed(*values)
    cluster.create([gpu_node("whole", 2), fraction_node("parts", 1)])
    extender = chart.extender()
    chart.scheduler(extender)
    cluster.create(
        [
            gpu_pod("two", 2, scheduler="snugfit"),
            fraction_pod("quarter", 250, scheduler="snugfit"),
            pod("plain", scheduler="snugfit"),
            gpu_pod("foreign", 1, scheduler="somebody-else"),
        ]
    )
    placed = cluster.all_bound(3)
    assert placed["two"] == "whole" and placed["quarter"] == "parts"
    assert "foreign" not in placed  # it waits for another scheduler
    notes = cluster.api.get("Pod", "quarter", "default")["metadata"]["annotations"]
    assert notes["snugfit.io/visible-devices"] == "0"
    two = cluster.api.get("Pod", "two", "default")["metadata"].get("annotations") or {}
    assert "snugfit.io/devices" not in two  # bound by kube-scheduler; the device plugin chooses
    metrics = extender.metrics()
    assert metrics['snugfit_binds_total{result="bound"}'] == 1
    assert metrics["snugfit_synced"] == 1
    assert not [name for name in metrics if name.startswith("snugfit_watch_restarts_total")]
    lease = cluster.api.get("Lease", "snugfit", TRIAL, "coordination.k8s.io/v1")
    assert lease["spec"]["holderIdentity"]


def test_the_charts_rights_end_where_they_should(installed, cluster):
    chart = installed("topology=service")
    token = cluster.api.issue_token(TRIAL, chart.account)
    with cluster.api.as_user(token) as account:
        for refused in (
            lambda: account.delete("Pod", "x", "default"),
            lambda: account.create(gpu_pod("x", 1)),
            lambda: account.patch("Node", "x", {"metadata": {"labels": {"a": "b"}}}),
            lambda: account.objects("Secret", TRIAL),
            lambda: account.objects("ConfigMap", "kube-system"),
        ):
            with pytest.raises(ApiError) as error:
                refused()
            assert error.value.status == 403
        assert account.objects("Node") == []
    assert "lease_name: trial-snugfit-extender" in chart.files["extender.yaml"]


def test_the_extenders_own_token_is_that_of_an_account_that_may_little(
    installed, helm, cluster
) -> None:
    """The control plane fills the Secret, which has the layout that a pod's own account has."""
    values = ("serviceAccount.extender.separate=true",)
    installed(*values)
    secret, *more = (d for d in helm.render(values, TRIAL) if d["kind"] == "Secret")
    assert not more
    cluster.api.apply(secret)
    name = secret["metadata"]["name"]
    try:
        cluster.plane.controller_manager(("serviceaccount-token-controller",)).start()
        held = eventually(
            lambda: cluster.api.get("Secret", name, TRIAL).get("data"), "the Secret is filled", 60
        )
        assert set(held) == {"token", "ca.crt", "namespace"}
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        with cluster.api.as_user(base64.b64decode(held["token"]).decode()) as extender:
            said = extender.request(
                "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review
            )
            user = said["status"]["userInfo"]["username"]
            assert user == f"system:serviceaccount:{TRIAL}:trial-snugfit-extender"
            assert extender.objects("Node") == []
            for refused in (
                lambda: extender.objects("Secret"),
                lambda: extender.delete("Pod", "x", "default"),
                lambda: extender.get("Lease", "snugfit", TRIAL, "coordination.k8s.io/v1"),
            ):
                with pytest.raises(ApiError) as error:
                    refused()
                assert error.value.status == 403
    finally:
        cluster.api.delete("Secret", name, TRIAL)


def _reader(api, name: str, *, allowed: bool) -> str:
    """Token of an account that may get /metrics, or may not."""
    metadata = {"name": name, "namespace": TRIAL}
    api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    if allowed:
        rbac = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": name}}
        rule = {"nonResourceURLs": ["/metrics"], "verbs": ["get"]}
        api.apply(rbac | {"kind": "ClusterRole", "rules": [rule]})
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
        subject = {"kind": "ServiceAccount", **metadata}
        api.apply(rbac | {"kind": "ClusterRoleBinding", "roleRef": role, "subjects": [subject]})
    return api.issue_token(TRIAL, name)


def test_metrics_are_shown_to_whom_the_api_server_lets_see_them(
    installed, helm, cluster, tmp_path
) -> None:
    """With the certificate that the chart's container makes, and with the rights of the account."""
    values = ("metrics.enabled=true", "serviceAccount.extender.separate=true")
    chart = installed(*values)
    token = cluster.api.issue_token(TRIAL, "trial-snugfit-extender")
    kubeconfig = cluster.plane.kubeconfig(token, "extender-alone")
    (deployment,) = (d for d in helm.render(values, TRIAL) if d["kind"] == "Deployment")
    containers = deployment["spec"]["template"]["spec"]["initContainers"]
    (made,) = (c for c in containers if c["name"] == "metrics-certificate")
    folder = "/etc/snugfit-metrics-tls"
    args = [str(tmp_path) if arg == folder else arg for arg in made["args"]]
    subprocess.run([sys.executable, "-m", "scheduler.cli.main", *args], check=True, timeout=60)
    settings = yaml.safe_load(chart.files["extender.yaml"].replace(folder, str(tmp_path)))
    port = free_port()
    settings |= {
        "metrics_listen": f"127.0.0.1:{port}",
        "status_listen": f"127.0.0.1:{free_port()}",
    }
    file = tmp_path / "extender.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    Extender(cluster.plane, ["--config", file, "--kubeconfig", kubeconfig], name="shown").start()

    def answer(token: str, host: str = "trial-snugfit-metrics.trial.svc") -> int:
        context = ssl.create_default_context(cafile=str(tmp_path / "tls.crt"))
        context.check_hostname = False
        headers = {"Host": host} | ({"Authorization": f"Bearer {token}"} if token else {})
        request = Request(f"https://127.0.0.1:{port}/metrics", headers=headers)
        try:
            with urlopen(request, timeout=30, context=context) as page:
                assert b"snugfit_build_info" in page.read()
                return int(page.status)
        except HTTPError as refusal:
            refusal.close()
            return refusal.code

    reader = _reader(cluster.api, "prometheus", allowed=True)
    assert answer(reader) == 200
    assert answer(reader, "127.0.0.1") == 200
    assert answer(reader, "elsewhere.example") == 421
    assert answer(_reader(cluster.api, "anybody", allowed=False)) == 403
    assert answer("nonsense") == 401
    assert answer("") == 401


def _snugfit(*args: str | Path, code: int = 0) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "scheduler.cli.main", *map(str, args), "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout)


@pytest.fixture
def administrator(cluster) -> tuple[str, Path]:
    return "--kubeconfig", cluster.plane.kubeconfig(cluster.api.token, "administrator")


def test_doctor_finds_a_good_installation_good(installed, cluster, administrator) -> None:
    chart = installed()
    cluster.create([gpu_node("whole", 2)])
    extender = chart.extender()
    chart.scheduler(extender)
    cluster.create([gpu_pod("p", 1, scheduler="snugfit"), gpu_pod("q", 1, scheduler="snugfit")])
    cluster.all_bound(2)
    flags = (
        *administrator,
        "--account",
        f"{TRIAL}/{Installed.account}",
        "--extender",
        extender.url,
        "--record-policy",
        "trial-snugfit-device-records",
    )
    report = _snugfit("doctor", *flags)
    assert [check for check in report["checks"] if check["state"] != "ok"] == []
    assert any("filter was called" in check["answer"] for check in report["checks"])
    assert [node["devices"] for node in report["nodes"]] == ["2 x NVIDIA-A100-SXM4-80GB 80 GiB"]


def test_doctor_names_missing_rights_and_ambiguous_nodes(installed, cluster, administrator) -> None:
    installed("rbac.create=false")
    mixed = fraction_node("mixed", 2)
    for part in ("capacity", "allocatable"):
        mixed["status"][part] |= {"nvidia.com/gpu": "2"}
    cluster.create([mixed])
    report = _snugfit("doctor", *administrator, "--account", f"{TRIAL}/{Installed.account}", code=1)
    (failed,) = (check for check in report["checks"] if check["state"] == "failed")
    assert "create pods/binding" in failed["answer"] and failed["remedy"]
    (node,) = report["nodes"]
    assert node["state"] == "warning" and len(node["protocols"]) == 2


def test_nodes_advertise_fractions_and_forget_them(cluster, administrator) -> None:
    node = gpu_node("n", 4)
    cluster.create([node])
    before = cluster.api.get("Node", "n")["status"]
    planned = _snugfit("advertise", *administrator)
    assert planned["applied"] is False and planned["nodes"][0]["action"] == "set"
    assert cluster.api.get("Node", "n")["status"]["allocatable"] == before["allocatable"]
    _snugfit("advertise", "--apply", *administrator)
    status = cluster.api.get("Node", "n")["status"]
    assert status["allocatable"]["snugfit.io/gpu-milli"] == "4k"
    assert _snugfit("advertise", *administrator)["nodes"][0]["action"] == "keep"
    _snugfit("advertise", "--undo", "--apply", *administrator)
    status = cluster.api.get("Node", "n")["status"]
    assert (status["capacity"], status["allocatable"]) == (
        before["capacity"],
        before["allocatable"],
    )
