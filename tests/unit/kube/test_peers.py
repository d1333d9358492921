"""Rules of pods and reach of volumes, as the API server serves the objects."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from scheduler.core.model import Node, NodeSelection, PodRequest, Reason, Requirement
from scheduler.core.peers import HostPort, PodSelector
from scheduler.core.selection import admits
from scheduler.kube.peers import RuledPod, peer_of
from scheduler.kube.surroundings import Surroundings
from scheduler.kube.volumes import Storage

_IS_WEB = {"matchLabels": {"app": "web"}}
_WEB = Requirement("app", "In", ("web",))


def _pod(**spec: Any) -> RuledPod:
    metadata = {"name": "p", "namespace": "ns", "uid": "p", "labels": {"app": "web", "hash": "7"}}
    return msgspec.convert({"metadata": metadata, "spec": spec}, RuledPod)


def _anti(**term: Any) -> RuledPod:
    listed = [{"topologyKey": "zone", "labelSelector": _IS_WEB, **term}]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": listed}
    return _pod(affinity={"podAntiAffinity": required})


_NAMESPACES = {"ns": {"team": "a"}, "other": {"team": "b"}, "third": {}}


@pytest.mark.parametrize(
    ("term", "selector"),
    [
        ({}, PodSelector(("ns",), (_WEB,))),
        ({"namespaces": ["b", "a"]}, PodSelector(("a", "b"), (_WEB,))),
        ({"namespaceSelector": {}}, PodSelector(None, (_WEB,))),
        ({"namespaceSelector": {}, "namespaces": ["a"]}, PodSelector(None, (_WEB,))),
        (
            {"namespaceSelector": {"matchLabels": {"team": "b"}}, "namespaces": ["a"]},
            PodSelector(("a", "other"), (_WEB,)),
        ),
        (
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "third"}}},
            PodSelector(("third",), (_WEB,)),
        ),
        ({"namespaceSelector": {"matchLabels": {"team": "none"}}}, PodSelector((), (_WEB,))),
        ({"labelSelector": None}, PodSelector(())),
        ({"labelSelector": {}}, PodSelector(("ns",))),
        (
            {"matchLabelKeys": ["hash", "absent"]},
            PodSelector(("ns",), (_WEB, Requirement("hash", "In", ("7",)))),
        ),
        (
            {"mismatchLabelKeys": ["hash"]},
            PodSelector(("ns",), (_WEB, Requirement("hash", "NotIn", ("7",)))),
        ),
    ],
)
def test_whom_a_term_is_about(term: dict[str, Any], selector: PodSelector) -> None:
    (made,) = peer_of(_anti(**term), _NAMESPACES).anti_affinity
    assert (made.selector, made.topology_key) == (selector, "zone")


def test_soft_rules_are_no_rules() -> None:
    soft = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]}
    spread = {"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 1}
    pod = _pod(affinity={"podAffinity": soft}, topologySpreadConstraints=[spread])
    assert not peer_of(pod, {}).ruled


def test_spread_counts_the_pods_own_revision_where_it_says_so() -> None:
    stated = {
        "topologyKey": "zone",
        "maxSkew": 2,
        "minDomains": 3,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": _IS_WEB,
        "matchLabelKeys": ["hash"],
        "nodeAffinityPolicy": "Ignore",
        "nodeTaintsPolicy": "Honor",
    }
    (made,) = peer_of(_pod(topologySpreadConstraints=[stated]), {}).spread
    assert made.selector == PodSelector(("ns",), (_WEB, Requirement("hash", "In", ("7",))))
    assert (made.max_skew, made.min_domains) == (2, 3)
    assert (made.honours_selection, made.honours_taints) == (False, True)


@pytest.mark.parametrize(
    ("spec", "taken"),
    [
        ({"containers": [{"ports": [{"containerPort": 80}]}]}, ()),
        (
            {"containers": [{"ports": [{"containerPort": 80, "hostPort": 8080}]}]},
            (HostPort(8080),),
        ),
        (
            {"containers": [{"ports": [{"containerPort": 80}]}], "hostNetwork": True},
            (HostPort(80),),
        ),
        (
            {
                "containers": [
                    {"ports": [{"hostPort": 53, "protocol": "UDP", "hostIP": "10.0.0.1"}]}
                ]
            },
            (HostPort(53, "UDP", "10.0.0.1"),),
        ),
        (
            {
                "initContainers": [
                    {"ports": [{"hostPort": 1}]},
                    {"ports": [{"hostPort": 2}], "restartPolicy": "Always"},
                ]
            },
            (HostPort(2),),
        ),
    ],
)
def test_which_ports_of_the_node_a_pod_takes(
    spec: dict[str, Any], taken: tuple[HostPort, ...]
) -> None:
    assert peer_of(_pod(**spec), {}).ports == taken


# -- volumes -----------------------------------------------------------------------------------


def _object(kind: str, name: str, **rest: Any) -> tuple[str, msgspec.Raw]:
    content = {"kind": kind, "metadata": {"name": name, "namespace": "ns"}} | rest
    return kind, msgspec.Raw(msgspec.json.encode(content))


def _claim(name: str = "c", *, phase: str = "Bound", **spec: Any) -> tuple[str, msgspec.Raw]:
    return _object("PersistentVolumeClaim", name, spec=spec, status={"phase": phase})


def _on(*names: str) -> dict[str, Any]:
    rule = {"key": "kubernetes.io/hostname", "operator": "In", "values": list(names)}
    return {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}}}


def _class(name: str, mode: str, **rest: Any) -> tuple[str, msgspec.Raw]:
    return _object("StorageClass", name, volumeBindingMode=mode, **rest)


_USES = {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}
_ZONED = {
    "metadata": {"name": "pv", "labels": {"topology.kubernetes.io/zone": "z1__z2"}},
    "spec": {},
}
_IN_Z1 = [{"matchLabelExpressions": [{"key": "topology.kubernetes.io/zone", "values": ["z1"]}]}]


@pytest.mark.parametrize(
    ("objects", "says"),
    [
        ((), "?"),
        ((_claim("other"),), "does not exist"),
        ((_claim(volumeName="pv"),), "?"),
        ((_claim(volumeName="pv"), _object("PersistentVolume", "x")), "does not exist"),
        ((_claim(volumeName="pv"), _object("PersistentVolume", "pv", spec=_on("a"))), "a"),
        ((_claim(volumeName="pv"), _object("PersistentVolume", "pv", **_ZONED)), "a b d"),
        ((_claim(phase="Pending", volumeName="pv"),), "not bound"),
        ((_claim(phase="Lost", volumeName="pv"),), "lost"),
        ((_claim(phase="Pending"),), "not bound"),
        ((_claim(phase="Pending", storageClassName="sc"),), "?"),
        ((_claim(phase="Pending", storageClassName="sc"), _class("sc", "Immediate")), "not bound"),
        (
            (
                _claim(phase="Pending", storageClassName="sc"),
                _class("sc", "WaitForFirstConsumer", provisioner="csi"),
            ),
            "a b c d",
        ),
        (
            (
                _claim(phase="Pending", storageClassName="sc"),
                _class("sc", "WaitForFirstConsumer", allowedTopologies=_IN_Z1),
            ),
            "a",
        ),
        (
            (
                _claim(phase="Pending", storageClassName="sc"),
                _class("sc", "WaitForFirstConsumer", provisioner="kubernetes.io/no-provisioner"),
            ),
            "?",
        ),
        (
            (
                _object(
                    "PersistentVolumeClaim",
                    "c",
                    metadata={
                        "name": "c",
                        "namespace": "ns",
                        "annotations": {"volume.kubernetes.io/selected-node": "b"},
                    },
                    spec={"storageClassName": "sc"},
                ),
                _class("sc", "WaitForFirstConsumer", provisioner="csi"),
            ),
            "b",
        ),
    ],
)
def test_where_a_claim_lets_a_pod_go(objects: tuple[Any, ...], says: str) -> None:
    storage = Storage()
    for kind, item in objects:
        assert storage.add(kind, item)
    reach = storage.reach(_pod(**_USES))
    zones = {"a": "z1", "b": "z2", "c": "z3"}
    nodes = [
        Node(
            name,
            1000,
            1 << 30,
            labels={"kubernetes.io/hostname": name}
            | ({"topology.kubernetes.io/zone": zones[name]} if name in zones else {}),
        )
        for name in "abcd"
    ]
    if says == "?":
        assert reach.unknown and not reach.unmet
    elif reach.unmet:
        assert says in reach.unmet
    else:
        asks = PodRequest("u", "ns", "p", selection=NodeSelection(volumes=tuple(reach.nodes)))
        found = [node.name for node in nodes if admits(node, asks) is Reason.FITS]
        assert " ".join(found) == says


@pytest.mark.parametrize(
    ("objects", "attaches"),
    [
        ((), False),
        ((_object("PersistentVolume", "pv", spec=_on("a")),), False),
        ((_object("PersistentVolume", "pv", spec={"csi": {"driver": "d"}}),), True),
        (
            (
                _object("PersistentVolume", "pv", spec={"csi": {"driver": "d"}}),
                _object("CSINode", "a", spec={"drivers": [{"name": "d"}]}),
            ),
            False,
        ),
        (
            (
                _object("PersistentVolume", "pv", spec={"csi": {"driver": "d"}}),
                _object("CSINode", "a", spec={"drivers": [{"allocatable": {"count": 25}}]}),
            ),
            True,
        ),
    ],
)
def test_whether_a_driver_may_be_short_of_attachments(
    objects: tuple[Any, ...], attaches: bool
) -> None:
    storage = Storage()
    for kind, item in (_claim(volumeName="pv"), *objects):
        storage.add(kind, item)
    assert storage.reach(_pod(**_USES)).attaches == attaches


def test_a_claim_for_one_pod_and_a_claim_of_an_ephemeral_volume() -> None:
    storage = Storage()
    storage.add(*_claim(volumeName="pv", accessModes=["ReadWriteOncePod"]))
    storage.add(*_claim("p-scratch", volumeName="pv"))
    storage.add(*_object("PersistentVolume", "pv"))
    assert storage.reach(_pod(**_USES)).exclusive == ["ns/c"]
    scratch = _pod(volumes=[{"name": "scratch", "ephemeral": {}}])
    missing = _pod(volumes=[{"name": "other", "ephemeral": {}}])
    assert not storage.reach(scratch).unmet and "p-other" in storage.reach(missing).unmet


# -- all of it ---------------------------------------------------------------------------------


def _raw(content: dict[str, Any]) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(content))


def test_pods_of_unlisted_namespaces_or_unreadable_rules_are_named_and_others_are_not() -> None:
    around = Surroundings()
    by_label = {"namespaceSelector": {"matchLabels": {"team": "a"}}}
    pods = {"sure": _anti(), "unsure": _anti(**by_label)}
    for uid, pod in pods.items():
        around.add_pod(uid, _raw(msgspec.to_builtins(pod)))
    many = [{"topologyKey": "zone", "labelSelector": {"matchLabels": {"n": str(i)}}}
            for i in range(1000)]  # fmt: skip
    required = {"requiredDuringSchedulingIgnoredDuringExecution": many}
    pods["long"] = _pod(affinity={"podAntiAffinity": required})
    around.add_pod("long", _raw(msgspec.to_builtins(pods["long"])))
    around.add_pod("odd", _raw({"metadata": {"name": "odd"}, "spec": {"volumes": "none"}}))
    made = {uid: around.ruled(PodRequest(uid, "ns", uid)) for uid in (*pods, "odd")}
    assert {uid for one in around.omissions() for uid in one.uids} == {"unsure", "odd", "long"}
    assert len(made["long"].peer.anti_affinity) == 64
    (term,) = made["unsure"].peer.anti_affinity
    assert term.selector.namespaces is None  # whom it may be about is kept away from it
    assert made["sure"].peer is not None and made["odd"].peer is None


def test_labels_are_not_kept_where_nobody_has_rules() -> None:
    around = Surroundings()
    around.add_pod("p", _raw(msgspec.to_builtins(_pod())))
    request = PodRequest("p", "ns", "p")
    assert around.ruled(request) is request and not around.omissions()
