"""Who may write which devices a pod has: the chart's policies on a real API server."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from testbed.controlplane.api import Api, ApiError, Json, eventually
from testbed.controlplane.chart import NAMESPACE, install, render
from testbed.controlplane.objects import fraction_node, fraction_pod, pod
from testbed.controlplane.plane import ControlPlane

pytestmark = pytest.mark.e2e

DEVICES, VISIBLE, UID = (
    "snugfit.io/devices",
    "snugfit.io/visible-devices",
    "snugfit.io/devices-uid",
)
RECORDS = (DEVICES, VISIBLE, UID)
FOREIGN = (
    "hami.io/vgpu-devices-allocated",
    "hami.io/vgpu-devices-to-allocate",
    "ALIYUN_COM_GPU_MEM_IDX",
    "ALIYUN_COM_GPU_MEM_POD",
    "ALIYUN_COM_GPU_MEM_DEV",
)
FREE = (
    "hami.io/bind-phase",
    "ALIYUN_COM_GPU_MEM_ASSIGNED",
    "ALIYUN_COM_GPU_MEM_ASSUME_TIME",
    "snugfit.io/devices-of-mine",
    "example.com/note",
)
POLICY = "admissionregistration.k8s.io/v1"
KINDS = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
RBAC = "rbac.authorization.k8s.io/v1"
TENANT = "tenant"

JSON_PATCH = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True)
class Parties:
    """The API as each party sees it.

    Parameters
    ----------
    admin
        A member of ``system:masters``.
    extender
        The account that the chart gives the extender.
    tenant
        May do whatever roles can give in one namespace, bindings and status included: what holds
        them back is the policy alone.
    emergency
        The same, and a member of the break-glass group.
    plugin
        The same, as the account of a foreign device plugin.
    """

    admin: Api
    extender: Api
    tenant: Api
    emergency: Api
    plugin: Api


def _account(api: Api, name: str, namespace: str = "default") -> str:
    """Token of an account that may do everything to pods of the default namespace."""
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    api.apply(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": namespace},
        }
    )
    api.apply(
        {
            "apiVersion": RBAC,
            "kind": "RoleBinding",
            "metadata": {"name": name, "namespace": "default"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": TENANT,
            },
            "subjects": [subject],
        }
    )
    return api.issue_token(namespace, name)


@pytest.fixture(scope="module")
def guarded(assets) -> Iterator[Parties]:
    """A control plane with the chart's policies in force, both of them."""
    with ControlPlane(assets) as plane:
        api = plane.api
        api.apply(
            {
                "apiVersion": RBAC,
                "kind": "ClusterRole",
                "metadata": {"name": TENANT},
                "rules": [{"apiGroups": ["", "batch"], "resources": ["*"], "verbs": ["*"]}],
            }
        )
        tokens = {name: _account(api, name) for name in ("tenant", "plugin")}
        tokens["emergency"] = _account(api, "emergency", "emergency")
        release = install(
            plane,
            "snugfit",
            "recordPolicy.enabled=true",
            "recordPolicy.breakGlassGroups={system:masters,system:serviceaccounts:emergency}",
            "recordPolicy.foreign.enabled=true",
            "recordPolicy.foreign.accounts={system:serviceaccount:default:plugin}",
        )
        api.apply(fraction_node("f", 64))
        parties = Parties(
            api,
            api.as_user(release.token()),
            *(api.as_user(tokens[name]) for name in ("tenant", "emergency", "plugin")),
        )
        _wait_until_in_force(parties)
        yield parties


def _wait_until_in_force(parties: Parties) -> None:
    """A policy takes a moment: until a tenant is refused by each of both."""
    parties.admin.create(pod("probe", node_name="f"))

    def refused(key: str) -> bool:
        try:
            _patched(parties.tenant, "probe", {key: "0:1"}, dry_run=True)
        except ApiError as error:
            return error.status in (403, 422) and "may not be set" in error.message
        return False

    eventually(lambda: refused(DEVICES), "the policy is in force", 60)
    eventually(lambda: refused(FOREIGN[0]), "the policy on foreign records is in force", 60)


_names = (f"p{number}" for number in itertools.count())


def _pending(api: Api, annotations: dict[str, str] | None = None, **more: Any) -> str:
    name = next(_names)
    api.create(fraction_pod(name, 100, annotations=annotations, **more))
    return name


def _recorded(parties: Parties) -> str:
    """A pod that the extender has bound, with its record."""
    name = _pending(parties.tenant)
    parties.extender.bind("default", name, "f", dict.fromkeys(RECORDS, "0:100"))
    return name


def _notes(api: Api, name: str) -> dict[str, str]:
    return dict(api.get("Pod", name, "default")["metadata"].get("annotations") or {})


def _path(name: str, subresource: str = "") -> str:
    path = f"/api/v1/namespaces/default/pods/{name}"
    return f"{path}/{subresource}" if subresource else path


def _patched(
    api: Api, name: str, annotations: dict[str, Any], subresource: str = "", *,
    kind: str = MERGE, dry_run: bool = False,
) -> Json:  # fmt: skip
    change: object = {"metadata": {"annotations": annotations}}
    extra: dict[str, object] = {"dryRun": "All"} if dry_run else {}
    if kind == JSON_PATCH:
        held = _notes(api, name)
        change = [] if held else [{"op": "add", "path": "/metadata/annotations", "value": {}}]
        for key, value in annotations.items():
            path = f"/metadata/annotations/{key.replace('/', '~1')}"
            change += [
                {"op": "remove", "path": path}
                if value is None
                else {"op": "add", "path": path, "value": value}
            ]
    elif kind == APPLY:
        change = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "annotations": annotations},
        }
        extra |= {"fieldManager": "somebody", "force": True}
    return api.request("PATCH", _path(name, subresource), change, content_type=kind, **extra)


def _replaced(api: Api, name: str, annotations: dict[str, Any], subresource: str = "") -> Json:
    """The whole object, as a client does that reads, changes and writes it."""
    held = api.get("Pod", name, "default")
    notes = held["metadata"].setdefault("annotations", {})
    for key, value in annotations.items():
        notes[key] = value
        if value is None:
            del notes[key]
    return api.request("PUT", _path(name, subresource), held)


def _denied(action: Callable[[], object], word: str = "may not be set") -> None:
    with pytest.raises(ApiError) as refusal:
        action()
    assert refusal.value.status == 403, refusal.value
    assert word in refusal.value.message


WAYS: dict[str, Callable[..., Json]] = {
    "merge": _patched,
    "strategic": lambda *args: _patched(*args, kind=STRATEGIC),
    "json": lambda *args: _patched(*args, kind=JSON_PATCH),
    "put": _replaced,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("subresource", ["", "status"])
def test_a_tenant_changes_no_record(guarded: Parties, way: str, subresource: str) -> None:
    """Neither sets, nor changes, nor removes any of the three."""
    act, tenant = WAYS[way], guarded.tenant
    bare, recorded = _pending(tenant), _recorded(guarded)
    for key in RECORDS:
        _denied(lambda key=key: act(tenant, bare, {key: "0:1"}, subresource), key)
        _denied(lambda key=key: act(tenant, bare, {key: ""}, subresource), key)
        _denied(lambda key=key: act(tenant, recorded, {key: "0:1"}, subresource), key)
        _denied(lambda key=key: act(tenant, recorded, {key: None}, subresource), key)
    _denied(lambda: act(tenant, recorded, {"example.com/x": "y", UID: "other"}, subresource), UID)
    assert set(_notes(tenant, bare)) & set(RECORDS) == set()
    assert {_notes(tenant, recorded)[key] for key in RECORDS} == {"0:100"}


@pytest.mark.parametrize("subresource", ["", "status"])
def test_server_side_apply_is_an_update_too(guarded: Parties, subresource: str) -> None:
    tenant, name = guarded.tenant, _recorded(guarded)

    def applied(annotations: dict[str, Any], **how: Any) -> Json:
        return _patched(tenant, name, annotations, subresource, kind=APPLY, **how)

    _denied(lambda: applied({DEVICES: "0:1"}), DEVICES)
    _denied(lambda: applied({DEVICES: "0:1"}, dry_run=True), DEVICES)
    applied({"example.com/mine": "yes", DEVICES: "0:100"})  # as it is
    assert _notes(tenant, name)["example.com/mine"] == "yes"
    # A Binding leaves no owner behind: whoever has applied it owns it, and giving it up removes it.
    _denied(lambda: applied({"example.com/mine": "no"}), DEVICES)
    applied({"example.com/mine": "no", DEVICES: "0:100"})
    assert _notes(tenant, name)[DEVICES] == "0:100"


@pytest.mark.parametrize("change", [{"metadata": {"annotations": None}}, {"metadata": None}])
def test_all_annotations_at_once_are_not_removed_either(guarded: Parties, change: Json) -> None:
    name = _recorded(guarded)
    with pytest.raises(ApiError) as refusal:
        guarded.tenant.patch("Pod", name, change, "default")
    assert refusal.value.status in (400, 403, 409, 422)
    assert {_notes(guarded.tenant, name)[key] for key in RECORDS} == {"0:100"}


@pytest.mark.parametrize("subresource", ["ephemeralcontainers", "resize"])
def test_no_other_subresource_is_a_way_around(guarded: Parties, subresource: str) -> None:
    """What changes a record is denied, or what it says of the record is dropped."""
    tenant, name = guarded.tenant, _recorded(guarded)
    for value in ("0:1", None):
        with suppress(ApiError):
            _patched(tenant, name, {DEVICES: value}, subresource, kind=STRATEGIC)
        assert _notes(tenant, name)[DEVICES] == "0:100"


def test_a_debugger_is_attached_to_a_pod_with_a_record(guarded: Parties) -> None:
    tenant, name = guarded.tenant, _recorded(guarded)
    change = {"spec": {"ephemeralContainers": [{"name": "debugger", "image": "pause:3.10"}]}}
    tenant.patch("Pod", name, change, "default", subresource="ephemeralcontainers", strategic=True)
    held = tenant.get("Pod", name, "default")
    assert held["spec"]["ephemeralContainers"][0]["name"] == "debugger"
    assert held["metadata"]["annotations"][DEVICES] == "0:100"


def _binding(name: str, annotations: dict[str, str] | None) -> Json:
    metadata: Json = {"name": name, "namespace": "default"}
    if annotations is not None:
        metadata["annotations"] = annotations
    return {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": metadata,
        "target": {"apiVersion": "v1", "kind": "Node", "name": "f"},
    }


PLACES = {"pods/binding": _path("{name}", "binding"), "bindings": _path("").rsplit("/pods", 1)[0]}
PLACES["bindings"] += "/bindings"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dry_run", [False, True])
def test_only_the_extenders_binding_carries_records(
    guarded: Parties, place: str, dry_run: bool
) -> None:
    def bind(api: Api, name: str, annotations: dict[str, str] | None) -> None:
        extra = {"dryRun": "All"} if dry_run else {}
        path = PLACES[place].format(name=name)
        api.request("POST", path, _binding(name, annotations), **extra)

    tenant = guarded.tenant
    name = _pending(tenant)
    for key in RECORDS:
        _denied(lambda key=key: bind(tenant, name, {"example.com/x": "y", key: "0:1"}), key)
    assert not tenant.get("Pod", name, "default")["spec"].get("nodeName")
    bind(tenant, name, {"example.com/x": "y"})
    bind(tenant, _pending(tenant), {})
    bind(tenant, _pending(tenant), None)  # as kube-scheduler does
    if place == "pods/binding":  # the extender has no right on the other one
        name = _pending(tenant)
        bind(guarded.extender, name, dict.fromkeys(RECORDS, "0:100"))
        assert set(_notes(tenant, name)) >= set(RECORDS) or dry_run


def test_a_dry_run_is_judged_like_the_real_thing(guarded: Parties) -> None:
    tenant, name = guarded.tenant, _recorded(guarded)
    for subresource, kind in itertools.product(("", "status"), (MERGE, STRATEGIC, JSON_PATCH)):
        for value in ("0:1", None):
            _denied(
                lambda s=subresource, k=kind, v=value: _patched(
                    tenant, name, {DEVICES: v}, s, kind=k, dry_run=True
                )
            )
        _patched(tenant, name, {"example.com/x": "y"}, subresource, kind=kind, dry_run=True)
    assert "example.com/x" not in _notes(tenant, name)


def test_copies_and_restores_are_created(guarded: Parties) -> None:
    """Void records: their UID is of another pod, and nobody can choose the one that is given."""
    held = guarded.tenant.get("Pod", _recorded(guarded), "default")
    copy = held | {"metadata": {**held["metadata"], "name": next(_names)}}
    for field in ("resourceVersion", "creationTimestamp", "managedFields"):
        copy["metadata"].pop(field)
    copy.pop("status")
    made = guarded.tenant.create(copy)
    assert made["metadata"]["annotations"][DEVICES] == "0:100"
    assert made["metadata"]["uid"] != held["metadata"]["uid"]
    _denied(
        lambda: _patched(guarded.tenant, copy["metadata"]["name"], {UID: made["metadata"]["uid"]})
    )
    name = _pending(guarded.tenant, dict.fromkeys((*RECORDS, *FOREIGN), "0:100"))
    guarded.extender.bind("default", name, "f", dict.fromkeys(RECORDS, "0:200"))
    assert _notes(guarded.tenant, name)[DEVICES] == "0:200"


def test_a_template_may_carry_records(guarded: Parties) -> None:
    template = fraction_pod("x", 100, annotations=dict.fromkeys(RECORDS, "0:100"))
    template["spec"]["restartPolicy"] = "Never"
    template["metadata"].pop("name")
    template["metadata"].pop("namespace")
    guarded.tenant.create(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "templated", "namespace": "default"},
            "spec": {"template": template},
        }
    )


def test_whatever_else_happens_to_pods_passes(guarded: Parties) -> None:
    """With a record, without, and with no annotations at all."""
    tenant = guarded.tenant
    for name in (
        _recorded(guarded),
        _pending(tenant, dict.fromkeys(RECORDS, "x")),
        _pending(tenant),
    ):
        before = {key: _notes(tenant, name).get(key) for key in RECORDS}
        for act in WAYS.values():
            act(tenant, name, dict.fromkeys(FREE, "1"))
            act(tenant, name, dict.fromkeys(FREE, None))
        tenant.patch("Pod", name, {"metadata": {"labels": {"a": "b"}}}, "default")
        tenant.patch("Pod", name, {"metadata": {"finalizers": ["example.com/f"]}}, "default")
        condition = {"type": "example.com/ready", "status": "True"}
        tenant.patch(
            "Pod", name, {"status": {"phase": "Running", "conditions": [condition]}}, "default",
            subresource="status", strategic=True,
        )  # fmt: skip
        assert {key: _notes(tenant, name).get(key) for key in RECORDS} == before
        tenant.request("DELETE", _path(name), {"gracePeriodSeconds": 30})
        tenant.patch("Pod", name, {"metadata": {"finalizers": None}}, "default")
        tenant.delete("Pod", name, "default")


def test_no_pod_is_too_much_for_the_expressions(guarded: Parties) -> None:
    """They have a budget; who uses it up would be denied everything, the kubelet as well."""
    tenant = guarded.tenant
    keys = (*RECORDS, *FOREIGN)
    long = dict.fromkeys(keys, "é" * (260_000 // len(keys) // 2 - 40))
    many = {f"example.com/{number}": "" for number in range(9_000)}
    odd = {DEVICES: "", VISIBLE: "\x00\n'\"\\{}", UID: "0" * 5_000}
    for notes in (long, many | dict.fromkeys(keys, "x"), odd):
        name = _pending(tenant, notes)
        tenant.bind("default", name, "f")
        tenant.patch("Pod", name, {"metadata": {"labels": {"a": "b"}}}, "default")
        change = {"status": {"phase": "Running"}}
        tenant.patch("Pod", name, change, "default", subresource="status")
        _denied(lambda name=name: _patched(tenant, name, {DEVICES: "0:1"}), DEVICES)
        tenant.delete("Pod", name, "default")


def test_eviction_passes(guarded: Parties) -> None:
    name = _recorded(guarded)
    metadata = {"name": name, "namespace": "default", "annotations": {DEVICES: "0:1"}}
    guarded.tenant.request(
        "POST",
        _path(name, "eviction"),
        {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata},
    )


def test_those_who_may_repair_records_can(guarded: Parties) -> None:
    name = _recorded(guarded)
    for api in (guarded.emergency, guarded.admin):
        for way, subresource in itertools.product(WAYS.values(), ("", "status")):
            way(api, name, {DEVICES: "0:1"}, subresource)
            way(api, name, {DEVICES: None}, subresource)
            way(api, name, {DEVICES: "0:2"}, subresource)
    other = _pending(guarded.tenant)
    guarded.emergency.bind("default", other, "f", {DEVICES: "0:1"})
    assert _notes(guarded.tenant, other)[DEVICES] == "0:1"


def test_foreign_records_are_free_before_binding_and_kept_after(guarded: Parties) -> None:
    tenant, plugin = guarded.tenant, guarded.plugin
    name = _pending(tenant)
    for key in FOREIGN:
        _patched(tenant, name, {key: "GPU-1,NVIDIA,100,10:;"})
    _patched(tenant, name, {FOREIGN[0]: None})
    tenant.bind("default", name, "f")
    for key, subresource in itertools.product(FOREIGN, ("", "status")):
        _denied(lambda k=key, s=subresource: _patched(tenant, name, {k: "GPU-2"}, s), key)
    _denied(lambda: _patched(tenant, name, {FOREIGN[1]: None}), FOREIGN[1])
    _patched(tenant, name, dict.fromkeys(FREE, "1"))
    for value in ("GPU-3", None):
        _patched(plugin, name, dict.fromkeys(FOREIGN, value))
    _denied(lambda: _patched(plugin, name, {DEVICES: "0:1"}), DEVICES)  # it is not theirs


@pytest.mark.parametrize("place", PLACES)
def test_foreign_records_come_with_no_tenants_binding(guarded: Parties, place: str) -> None:
    def bind(api: Api, name: str, annotations: dict[str, str]) -> None:
        path = PLACES[place].format(name=name)
        api.request("POST", path, _binding(name, annotations))

    for key in FOREIGN:
        _denied(lambda key=key: bind(guarded.tenant, _pending(guarded.tenant), {key: "1"}), key)
    bind(guarded.tenant, _pending(guarded.tenant), dict.fromkeys(FREE, "1"))
    bind(guarded.plugin, _pending(guarded.tenant), dict.fromkeys(FOREIGN, "1"))
    if place == "pods/binding":  # gpushare's, written by the extender
        keys = [key for key in FOREIGN if key.startswith("ALIYUN")]
        bind(guarded.extender, _pending(guarded.tenant), dict.fromkeys(keys, "1"))


@contextmanager
def _applied(plane: ControlPlane, *values: str) -> Iterator[list[Json]]:
    manifests = [m for m in render(plane, "snugfit", *values) if m["kind"] in KINDS]
    for manifest in manifests:
        plane.api.apply(manifest)
    try:
        yield manifests
    finally:
        for manifest in reversed(manifests):
            plane.api.request("DELETE", plane.api.path_of(manifest))


def test_the_expressions_are_checked_by_the_api_server(plane: ControlPlane) -> None:
    """It compiles them when they are written, and refuses what it cannot."""
    with _applied(
        plane,
        "recordPolicy.foreign.enabled=true",
        r"recordPolicy.foreign.accounts={o'neill,say \"hi\"}",
        r"recordPolicy.breakGlassGroups={back\\slash}",
    ) as manifests:
        assert sorted(m["kind"] for m in manifests) == sorted([*KINDS, *KINDS])
    nobody = ("recordPolicy.breakGlassGroups=null", "recordPolicy.accounts=null")
    with _applied(plane, *nobody) as manifests:
        assert len(manifests) == 2


def test_nothing_is_guarded_where_it_is_switched_off(plane: ControlPlane) -> None:
    with _applied(plane, "recordPolicy.enabled=false") as manifests:
        assert manifests == []


def test_the_account_follows_the_values(plane: ControlPlane) -> None:
    def user(*values: str) -> str:
        (policy,) = (m for m in render(plane, "gpu", *values) if m["kind"] == KINDS[0])
        assert policy["metadata"]["name"] == "gpu-snugfit-device-records"
        (message,) = (v["messageExpression"] for v in policy["spec"]["validations"])
        return str(message).split()[1]

    account = f"system:serviceaccount:{NAMESPACE}:"
    assert user() == account + "gpu-snugfit"
    assert user("topology=service") == account + "gpu-snugfit"
    assert user("serviceAccount.name=mine") == account + "mine"
    assert user("serviceAccount.create=false") == account + "default"
    own = "serviceAccount.extender.separate=true"
    assert user(own) == account + "gpu-snugfit-extender"
    assert user(own, "serviceAccount.extender.name=other") == account + "other"
    assert user(own, "topology=service") == account + "gpu-snugfit"
