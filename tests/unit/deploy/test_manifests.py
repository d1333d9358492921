"""The plain manifests, which are the rendered chart: what runs, as whom, with which settings."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

import scheduler
from scheduler.cluster.settings import RENAMED, SETTINGS, ExtenderConfig
from scheduler.cluster.settings_file import load
from scheduler.kube.installation import RIGHTS
from scheduler.kube.resource_names import ResourceNames
from scheduler.kube.scheduler_config.checks import check
from scheduler.kube.scheduler_config.write import (
    SchedulerSetup,
    Topology,
    kube_scheduler_config,
    managed_resources,
)
from scheduler.kube.yaml_lines import yaml_files
from scheduler.webhook.status import split_address
from tests import rights

DEPLOY = Path(__file__).parents[3] / "deploy"
CHART = DEPLOY / "helm/snugfit"
NAMES = ResourceNames()
# Settings that follow from the topology.
SCHEMA = runpy.run_path(str(DEPLOY / "settings_schema.py"))


def _manifests(topology: str) -> list[dict[str, Any]]:
    text = (DEPLOY / f"manifests/{topology}.yaml").read_text()
    return [document for document in yaml.safe_load_all(text) if document]


def _one(topology: str, kind: str, name: str = "snugfit") -> dict[str, Any]:
    (found,) = (
        d for d in _manifests(topology) if d["kind"] == kind and d["metadata"]["name"] == name
    )
    return found


def _containers(topology: str) -> list[dict[str, Any]]:
    spec = _one(topology, "Deployment")["spec"]["template"]["spec"]
    return [*spec.get("initContainers", ()), *spec["containers"]]


def _settings(topology: str, tmp_path: Path) -> ExtenderConfig:
    file = tmp_path / "extender.yaml"
    file.write_text(_one(topology, "ConfigMap")["data"]["extender.yaml"])
    return load(file, {}, {})


@pytest.mark.parametrize("topology", Topology)
def test_kube_scheduler_is_configured_as_the_generator_says(topology: Topology) -> None:
    text = _one(topology, "ConfigMap")["data"]["kube-scheduler.yaml"]
    generated = kube_scheduler_config(SchedulerSetup(topology=topology))
    assert yaml.safe_load(text) == yaml.safe_load(generated)
    assert check(yaml_files(text, "chart")[0]) == []


def test_beside_kube_scheduler_verbs_are_on_loopback_only(tmp_path: Path) -> None:
    config = _settings("sidecar", tmp_path)
    assert (config.host, config.port, config.tls_cert) == ("127.0.0.1", 10262, "")
    assert config.lease_name == ""  # kube-scheduler's own election decides who acts
    (extender, kube_scheduler) = _containers("sidecar")
    assert extender["restartPolicy"] == "Always"  # starts before, and ends after kube-scheduler
    assert [port["name"] for port in extender["ports"]] == ["status"]
    assert kube_scheduler["command"][0] == "kube-scheduler"


def test_behind_a_service_callers_show_a_certificate_and_one_replica_acts(tmp_path: Path) -> None:
    config = _settings("service", tmp_path)
    assert config.tls_cert and config.tls_key and config.tls_client_ca
    assert config.lease_namespace == "snugfit" and config.lease_name == "snugfit-extender"
    (extender,) = _containers("service")
    folder = {m["name"]: m["mountPath"] for m in extender["volumeMounts"]}["tls"]
    assert config.tls_cert.startswith(folder + "/")
    assert extender["readinessProbe"]["httpGet"]["path"] == "/activez"


@pytest.mark.parametrize("topology", Topology)
def test_probes_ask_the_door_without_certificates(topology: Topology, tmp_path: Path) -> None:
    extender = _containers(topology)[0]
    ports = {port["name"]: port["containerPort"] for port in extender["ports"]}
    assert split_address(_settings(topology, tmp_path).status_listen)[1] == ports["status"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert extender[probe]["httpGet"]["port"] == "status"


@pytest.mark.parametrize("topology", Topology)
def test_services_and_policies_lead_to_ports_that_are_open(topology: Topology) -> None:
    """By number: port names of sidecars are not looked up everywhere."""
    open_ports = {p["containerPort"] for c in _containers(topology) for p in c["ports"]}
    targets = {
        port["targetPort"]
        for document in _manifests(topology)
        if document["kind"] == "Service"
        for port in document["spec"]["ports"]
    }
    allowed = {
        port["port"]
        for rule in _one(topology, "NetworkPolicy")["spec"]["ingress"]
        for port in rule["ports"]
    }
    assert targets <= open_ports and allowed <= open_ports
    assert 10263 in allowed  # probes
    assert 10259 in open_ports - allowed or topology == "service"  # nobody reads metrics by default


@pytest.mark.parametrize("topology", Topology)
def test_nothing_runs_with_more_rights_than_it_needs(topology: Topology) -> None:
    spec = _one(topology, "Deployment")["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in _containers(topology):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"] and container["resources"]["limits"]["memory"]
    assert not [volume for volume in spec["volumes"] if "hostPath" in volume]
    for volume in spec["volumes"]:
        assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"]


@pytest.mark.parametrize("topology", Topology)
def test_no_volume_is_mounted_inside_a_read_only_one(topology: Topology) -> None:
    """The runtime could not make the mount point."""
    for container in _containers(topology):
        paths = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert not [(a, b) for a in paths for b in paths if b.startswith(a + "/")]


def test_the_extender_may_read_what_it_watches_and_bind() -> None:
    rules = _one("service", "ClusterRole", "snugfit-extender")["rules"]
    allowed = {
        (verb, group, resource, name)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }
    assert allowed == {(right.verb, right.group, right.resource, right.name) for right in RIGHTS}
    assert ("create", "", "pods/binding", "") in allowed and ("list", "", "nodes", "") in allowed
    assert _one("sidecar", "ClusterRole", "snugfit-extender")["rules"] == rules


@pytest.mark.parametrize("topology", Topology)
def test_every_right_stands_in_the_table_with_its_reason(topology: Topology) -> None:
    given = rights.rendered(_manifests(topology), "snugfit")
    assert ("extender", "pods/binding", "create", "cluster") in given
    assert given <= rights.stated()


def test_records_are_kept_to_the_extenders_account() -> None:
    for topology in Topology:
        policy = _one(topology, "ValidatingAdmissionPolicy", "snugfit-device-records")["spec"]
        binding = _one(topology, "ValidatingAdmissionPolicyBinding", "snugfit-device-records")
        assert binding["spec"] == {
            "policyName": "snugfit-device-records",
            "validationActions": ["Deny"],
        }
        text = json.dumps(policy)
        assert "system:serviceaccount:snugfit:snugfit" in text
        for key in (NAMES.devices_annotation, NAMES.visible_annotation, "snugfit.io/devices-uid"):
            assert key in text


@pytest.mark.parametrize(
    ("topology", "lease"), [("sidecar", "snugfit"), ("service", "snugfit-extender")]
)
def test_leases_are_written_in_its_own_namespace_only(topology: str, lease: str) -> None:
    create, renew = _one(topology, "Role", "snugfit-lease")["rules"]
    assert create["verbs"] == ["create"]
    assert (renew["resourceNames"], renew["verbs"]) == ([lease], ["get", "update"])
    everywhere = [d for d in _manifests(topology) if d["kind"] == "ClusterRole"]
    assert "leases" not in json.dumps(everywhere)


def test_kube_scheduler_has_the_rights_of_the_control_planes_own() -> None:
    bound = {
        d["roleRef"]["name"] for d in _manifests("sidecar") if d["kind"] == "ClusterRoleBinding"
    }
    assert bound == {"snugfit-extender", "system:kube-scheduler", "system:volume-scheduler"}
    bound = {
        d["roleRef"]["name"] for d in _manifests("service") if d["kind"] == "ClusterRoleBinding"
    }
    assert bound == {"snugfit-extender"}  # no kube-scheduler runs there


def test_the_charts_version_and_resources_are_those_of_the_code() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == scheduler.__version__
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert tuple(values["scheduler"]["managedResources"]) == managed_resources()


def test_every_setting_of_the_extender_is_in_the_schema_or_decided_by_the_chart() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    settings = schema["properties"]["extender"]["properties"]["settings"]
    assert settings["properties"] == SCHEMA["rules"](), "run `make manifests`"
    assert SCHEMA["CHART_DECIDES"] < SETTINGS.keys()


def test_the_chart_names_the_new_settings_as_the_extender_does() -> None:
    template = (CHART / "templates/_config.tpl").read_text()
    (listed,) = re.findall(r"\$renamed := dict (.*?) -\}\}", template)
    words = re.findall(r'"(\w+)"', listed)
    assert dict(zip(words[::2], words[1::2], strict=True)) == RENAMED
    assert not RENAMED.keys() & SETTINGS.keys() and set(RENAMED.values()) < SETTINGS.keys()


def _objects(rule: Any) -> list[dict[str, Any]]:
    if isinstance(rule, list):
        return [found for item in rule for found in _objects(item)]
    if not isinstance(rule, dict):
        return []
    own = [rule] if "properties" in rule and isinstance(rule["properties"], dict) else []
    return own + [found for item in rule.values() for found in _objects(item)]


def test_the_schema_knows_no_stray_value() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert len(_objects(schema)) > 20
    for found in _objects(schema):
        assert found["additionalProperties"] is False


def test_images_can_be_chosen_and_no_registry_is_assumed_but_kubernetes_own() -> None:
    images = {c["image"] for topology in Topology for c in _containers(topology)}
    ours = f"registry.example.com/snugfit:{scheduler.__version__}"
    assert images == {ours, "registry.k8s.io/kube-scheduler:v1.37.2"}
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values["image"]["repository"] == ""


def test_the_image_needs_no_shell_and_no_root() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    stage = text.rsplit("\nFROM ", 1)[1]
    assert "USER 65532:65532" in stage and "RUN" not in stage
    assert 'ENTRYPOINT ["snugfit"]' in stage and 'CMD ["snugfit", "healthcheck"]' in stage
    assert "--require-hashes -r /src/requirements/runtime.lock" in text
