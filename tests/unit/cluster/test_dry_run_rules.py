"""Dry runs of a live service know what kube-scheduler decides: rules between pods, and volumes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testbed.fake_api import NODES, PODS, FakeApi, eventually, refuse
from testbed.kube_objects import node_json, pod_json
from tests.following import Following

NAMESPACES = "/api/v1/namespaces"
CLAIMS = "/api/v1/persistentvolumeclaims"
VOLUMES = "/api/v1/persistentvolumes"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
ZONE, HOST = "topology.kubernetes.io/zone", "kubernetes.io/hostname"
PLACES = {"n1": "x", "n2": "x", "n3": "y"}
Json = dict[str, Any]
Follow = Callable[..., Following]


@pytest.fixture
def served(api: FakeApi) -> FakeApi:
    """Three nodes of two zones, and everything that rules may refer to."""
    for name in "ab":
        api.delete(NODES, name)
    for name, zone in PLACES.items():
        api.put(NODES, node_json(name, gpus=4, labels={HOST: name, ZONE: zone}))
    for path in (NAMESPACES, CLAIMS, VOLUMES, CLASSES):
        api.objects[path] = {}
    for name, team in (("ns", "a"), ("other", "b")):
        api.put(NAMESPACES, {"metadata": {"name": name, "labels": {"team": team}}})
    return api


def _term(key: str = HOST, app: str = "web", **more: Any) -> Json:
    return {"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}, **more}


def _rule(kind: str, *terms: Json) -> Json:
    return {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": list(terms)}}}


def _spread(key: str, **more: Any) -> Json:
    stated = _term(key) | {"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule", **more}
    return {"topologySpreadConstraints": [stated]}


def _port(number: int, **more: Any) -> Json:
    ports = [{"containerPort": 80, "hostPort": number, **more}]
    return {"containers": [{"name": "main", "ports": ports}]}


def _uses(claim: str) -> Json:
    return {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}


def _web(name: str, node: str, spec: Json | None = None, **metadata: Any) -> Json:
    return pod_json(name, node=node, spec=spec, labels={"app": "web"}, **metadata)


def _ask(following: Following, spec: Json, nodes: Any = None, **metadata: Any) -> Json:
    labels = metadata.pop("labels", {"app": "web"})
    question = {"Pod": pod_json("asks", spec=spec, labels=labels, **metadata)}
    question |= {"Nodes": {"items": nodes}} if nodes else {"NodeNames": list(PLACES)}
    answer = following.web.post("/filter-dryrun", json=question)
    assert answer.status_code == 200, answer.text
    content: Json = answer.json
    return content


def _synced(follow: Follow) -> Following:
    """Everything is known, what nobody waits for included."""
    following = follow().start()
    following.equal()
    told = {"namespaces", "persistentvolumeclaims", "persistentvolumes", "storageclasses"}
    watches = following.live.watches
    eventually(lambda: all(watches.get(kind).reflector.synced.is_set() for kind in told))
    eventually(lambda: following.live.inbox.empty)
    with following.service.exclusive():
        return following


@pytest.mark.parametrize(
    ("running", "spec", "passing"),
    [
        ([_web("w", "n1")], {}, "n1 n2 n3"),
        ([_web("w", "n1")], _rule("podAntiAffinity", _term()), "n2 n3"),
        ([_web("w", "n1")], _rule("podAntiAffinity", _term(ZONE)), "n3"),
        ([_web("w", "n1")], _rule("podAffinity", _term(ZONE)), "n1 n2"),
        ([], _rule("podAffinity", _term(ZONE)), "n1 n2 n3"),  # the first one of its kind
        ([], _rule("podAffinity", _term(ZONE, app="db")), ""),
        ([_web("w", "n1", _rule("podAntiAffinity", _term(ZONE)))], {}, "n3"),  # the other's rule
        ([_web("w", "n1")], _spread(HOST), "n2 n3"),
        ([_web("w", "n3"), _web("v", "n1")], _spread(ZONE), "n1 n2 n3"),
        ([_web("w", "n3")], _spread(ZONE), "n1 n2"),
        ([_web("w", "n3")], _spread(ZONE, matchLabelKeys=["rev"]), "n1 n2 n3"),
        ([_web("w", "n3", deletionTimestamp="2026-01-01T00:00:00Z")], _spread(ZONE), "n1 n2 n3"),
        ([_web("w", "n2", _port(8080))], _port(8080), "n1 n3"),
        ([_web("w", "n2", _port(8080, protocol="UDP"))], _port(8080), "n1 n2 n3"),
        ([_web("w", "n1", uid="uid-asks")], _rule("podAntiAffinity", _term(ZONE)), "n1 n2 n3"),
    ],
)  # fmt: skip
def test_a_pod_goes_where_the_rules_of_all_let_it(
    served: FakeApi, follow: Follow, running: list[Json], spec: Json, passing: str
) -> None:
    for pod in running:
        served.put(PODS, pod)
    labels = {"app": "web", "rev": "7"}
    answer = _ask(_synced(follow), spec, labels=labels)
    assert sorted(answer["NodeNames"] or ()) == passing.split()
    assert "NotConsidered" not in answer


def test_labels_of_namespaces_count_as_they_are_now(served: FakeApi, follow: Follow) -> None:
    served.put(PODS, _web("w", "n1", namespace="other"))
    following = _synced(follow)
    term = _term(ZONE, namespaceSelector={"matchLabels": {"team": "b"}})
    assert _ask(following, _rule("podAntiAffinity", term))["NodeNames"] == ["n3"]
    served.put(NAMESPACES, {"metadata": {"name": "other", "labels": {"team": "c"}}})
    eventually(
        lambda: len(_ask(following, _rule("podAntiAffinity", term))["NodeNames"]) == len(PLACES)
    )


def test_pods_come_and_go(served: FakeApi, follow: Follow) -> None:
    following = _synced(follow)
    alone = _rule("podAntiAffinity", _term(ZONE))
    served.put(PODS, _web("w", "n1", alone))
    eventually(lambda: _ask(following, {})["NodeNames"] == ["n3"])
    served.put(PODS, _web("w", "n1", alone, phase="Succeeded"))
    eventually(lambda: len(_ask(following, {})["NodeNames"]) == len(PLACES))
    with following.service.ledger.locked() as cluster:
        assert not cluster.rules.kept.rules


def _volume(zone: str) -> Json:
    rule = {"key": ZONE, "operator": "In", "values": [zone]}
    terms = {"required": {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}}
    return {"metadata": {"name": "pv"}, "spec": {"nodeAffinity": terms}}


def _claim(**spec: Any) -> Json:
    bound = {"phase": "Bound"} if "volumeName" in spec else {"phase": "Pending"}
    return {"metadata": {"name": "data", "namespace": "ns"}, "spec": spec, "status": bound}


def test_a_claim_ties_a_pod_to_its_volume(served: FakeApi, follow: Follow) -> None:
    served.put(CLAIMS, _claim(volumeName="pv"))
    served.put(VOLUMES, _volume("y"))
    following = _synced(follow)
    assert _ask(following, _uses("data"))["NodeNames"] == ["n3"]
    missing = _ask(following, _uses("nothing"))
    assert missing["NodeNames"] == [] and "NotConsidered" not in missing
    told = missing["FailedAndUnresolvableNodes"]
    assert told == dict.fromkeys(PLACES, "claim ns/nothing does not exist")
    served.put(VOLUMES, _volume("x"))
    eventually(lambda: _ask(following, _uses("data"))["NodeNames"] == ["n1", "n2"])


def test_a_claim_for_one_pod_is_taken(served: FakeApi, follow: Follow) -> None:
    served.put(CLAIMS, _claim(volumeName="pv", accessModes=["ReadWriteOncePod"]))
    served.put(VOLUMES, {"metadata": {"name": "pv"}, "spec": {}})
    following = _synced(follow)
    assert len(_ask(following, _uses("data"))["NodeNames"]) == len(PLACES)
    served.put(PODS, pod_json("has", node="n1", spec=_uses("data")))
    eventually(lambda: _ask(following, _uses("data"))["NodeNames"] == [])


def test_a_class_says_where_a_volume_can_be_made(served: FakeApi, follow: Follow) -> None:
    rule = {"key": ZONE, "values": ["y"]}
    served.put(CLASSES, {
        "metadata": {"name": "fast"}, "provisioner": "csi.example.com",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowedTopologies": [{"matchLabelExpressions": [rule]}],
    })  # fmt: skip
    served.put(CLAIMS, _claim(storageClassName="fast"))
    answer = _ask(_synced(follow), _uses("data"))
    assert answer["NodeNames"] == ["n3"]
    (limits,) = answer["NotConsidered"]
    assert "limits of storage drivers" in limits["rule"] and limits["pods"] == ["ns/asks"]


def test_nodes_that_do_not_exist_yet_are_each_the_only_new_one(
    served: FakeApi, follow: Follow
) -> None:
    for name in ("n1", "n3"):
        served.put(PODS, _web(f"w{name}", name))
    following = _synced(follow)
    new = [
        node_json(f"new-{zone}", gpus=4, labels={HOST: f"new-{zone}", ZONE: zone}) for zone in "xyz"
    ]
    known = [node_json(name, gpus=4) for name in PLACES]

    def passing(spec: Json) -> str:
        items = _ask(following, spec, [*known, *new])["Nodes"]["items"]
        return " ".join(node["metadata"]["name"] for node in items)

    # A zone z is one without any: beside it, and only then, zones x and y are one ahead.
    assert passing(_spread(ZONE)) == "n1 n2 n3 new-x new-y new-z"
    assert passing(_rule("podAffinity", _term(ZONE))) == "n1 n2 n3 new-x new-y"
    assert passing(_rule("podAntiAffinity", _term(ZONE))) == "new-z"


@pytest.mark.parametrize("status", [403, 404])
def test_what_nobody_may_read_is_named_and_closes_no_node(
    api: FakeApi, follow: Follow, status: int
) -> None:
    if status == 403:
        for path in (NAMESPACES, CLAIMS, VOLUMES, CLASSES):
            api.objects[path] = {}
            api.next("GET", path, refuse(403))
    following = _synced(follow)
    assert following.live.synced
    assert set(following.live.watches.ages()) == {"nodes", "pods", "poddisruptionbudgets"}
    nodes = ["a", "b"]
    term = _term(namespaceSelector={"matchLabels": {"team": "b"}})
    for spec, rule in (
        (_rule("podAffinity", term), "namespaceSelector, as no Namespaces are listed"),
        (_rule("podAntiAffinity", term), "namespaceSelector, as no Namespaces are listed"),
        (_uses("data"), "volume claims, as no PersistentVolumeClaims are listed"),
        ({"resourceClaims": [{"name": "gpu"}]}, "ResourceClaims (DRA)"),
    ):
        question = {"Pod": pod_json("asks", spec=spec), "NodeNames": nodes}
        answer = following.web.post("/filter-dryrun", json=question).json
        assert answer["NodeNames"] == nodes
        assert answer["NotConsidered"] == [
            {"rule": rule, "pods": ["ns/asks"], "effect": "nodes pass as if it were met"}
        ]


def test_a_right_that_is_taken_back_is_said(served: FakeApi, follow: Follow) -> None:
    served.put(CLAIMS, _claim(volumeName="pv"))
    served.put(VOLUMES, _volume("y"))
    following = _synced(follow)
    assert _ask(following, _uses("data"))["NodeNames"] == ["n3"]
    with served.changed:
        served.next("GET", f"{CLAIMS}?", refuse(403))
        following.live.watches.get("persistentvolumeclaims").reflector.relist()
    eventually(lambda: "NotConsidered" in _ask(following, _uses("data")))
    assert len(_ask(following, _uses("data"))["NodeNames"]) == len(PLACES)


def test_the_webhook_leaves_all_of_it_to_kube_scheduler(served: FakeApi, follow: Follow) -> None:
    served.put(PODS, _web("w", "n1"))
    following = _synced(follow)
    alone = pod_json("asks", spec=_rule("podAntiAffinity", _term()), labels={"app": "web"})
    question = {"Pod": alone, "NodeNames": list(PLACES)}
    answer = following.web.post("/filter", json=question).json
    assert sorted(answer["NodeNames"]) == sorted(PLACES) and "NotConsidered" not in answer


def test_rules_too_long_to_be_kept_are_said(served: FakeApi, follow: Follow) -> None:
    terms = [_term(app=f"{number}-{'x' * 50}") for number in range(400)]
    served.put(PODS, pod_json("long", node="n1", spec=_rule("podAntiAffinity", *terms)))
    following = _synced(follow)
    (said,) = _ask(following, {})["NotConsidered"]
    assert "too long" in said["rule"]
    served.delete(PODS, "long")
    eventually(lambda: "NotConsidered" not in _ask(following, {}))
