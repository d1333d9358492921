"""The extender protocol as bytes: kube-scheduler's JSON in, Go field names out.

kube-scheduler's extender types carry no JSON tags, so it sends ``Pod``, ``NodeNames`` ...; other
clients send lower-camel names. Both are read. Only the exact capitalised names are written. Scores
are integers. The long answers about nodes are written by :mod:`scheduler.webhook.answers`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from scheduler.cluster.bind_request import BindRequest
from scheduler.core.errors import InvalidInput
from scheduler.kube.objects import NodeObject, PodObject
from scheduler.kube.peers import RuledPod, ruled_pod_decoder

__all__ = [
    "FilterArgs",
    "Misread",
    "PreemptArgs",
    "decode_bind",
    "decode_filter",
    "decode_preempt",
    "encode_bind",
    "encode_preempt",
]


T = TypeVar("T")


_NULL = b"null"
_ABSENT = msgspec.Raw(_NULL)
_POD_FIRST = b'{"Pod":'
_NAMES_NEXT = b',"Nodes":null,"NodeNames":'
_KEY = re.compile(rb'"([A-Za-z]+)"\s*:')
_NEAR = 1 << 12
# What an object of the API may be called, and more: nothing of it means anything in a path.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


class Misread(InvalidInput):
    """Part of a body that looked like kube-scheduler's own was none: it is to be read whole."""


class _NodeList(msgspec.Struct):
    items: list[msgspec.Raw] | None = None


class _ExtenderArgs(msgspec.Struct, rename="pascal"):
    pod: msgspec.Raw = _ABSENT
    nodes: _NodeList | None = None
    node_names: msgspec.Raw = _ABSENT


class _BindingArgs(msgspec.Struct, rename="pascal"):
    pod_name: str | None = None
    pod_namespace: str | None = None
    pod_uid: str | None = msgspec.field(default=None, name="PodUID")
    node: str | None = None


class _VictimPod(msgspec.Struct):
    uid: str = msgspec.field(default="", name="UID")


class _Victims(msgspec.Struct, rename="pascal"):
    pods: list[PodObject] | None = None
    num_pdb_violations: int = msgspec.field(default=0, name="NumPDBViolations")


class _MetaVictims(msgspec.Struct, rename="pascal"):
    pods: list[_VictimPod | None] | None = None
    num_pdb_violations: int = msgspec.field(default=0, name="NumPDBViolations")


class _PreemptionArgs(msgspec.Struct, rename="pascal"):
    pod: PodObject | None = None
    node_name_to_victims: dict[str, _Victims | None] | None = None
    node_name_to_meta_victims: dict[str, _MetaVictims | None] | None = None


class _BindingResult(msgspec.Struct, rename="pascal"):
    error: str = ""


class _PreemptionResult(msgspec.Struct, rename="pascal"):
    node_name_to_meta_victims: dict[str, _MetaVictims]


@dataclass(frozen=True, slots=True)
class FilterArgs:
    """A filter or prioritize call, decoded as far as it always has to be.

    kube-scheduler sends a pod's prioritize right after its filter, with the same pod and the very
    names that we let pass. Keeping both as bytes lets the service recognise them.

    Attributes
    ----------
    pod : bytes
        The pod's JSON.
    names : bytes
        JSON array of node names; empty if whole nodes were sent.
    nodes, raw_nodes
        Given where the caller sent whole objects; the raw ones go back as they came.
    cut : bool
        Whether ``pod`` and ``names`` were cut out of the body by its looks.
    """

    pod: bytes
    names: bytes
    nodes: list[NodeObject] | None = None
    raw_nodes: list[msgspec.Raw] | None = None
    cut: bool = False

    def pod_object(self) -> PodObject:
        """The pod; :class:`InvalidInput` if it cannot be read."""
        return self._pod(_decode_pod)

    def ruled_pod(self) -> RuledPod:
        """The pod with its rules, which only dry runs look at; raises as :meth:`pod_object`."""
        return self._pod(ruled_pod_decoder)

    def _pod(self, decoder: msgspec.json.Decoder[T]) -> T:
        try:
            return _decoded(decoder, self.pod, "body.Pod")
        except InvalidInput as error:
            if self.cut:
                raise Misread(error.field, error.problem) from error
            raise

    def node_names(self) -> list[str]:
        """The names as they were sent; :class:`InvalidInput` if they cannot be read."""
        if self.nodes is not None:
            return [node.metadata.name for node in self.nodes]
        try:
            return _decoded(_decode_names, self.names, "body.NodeNames")
        except InvalidInput as error:
            if self.cut:
                raise Misread(error.field, error.problem) from error
            raise


@dataclass(frozen=True, slots=True)
class PreemptArgs:
    """A preempt call: victims' uids and PDB violations per candidate node."""

    pod: PodObject
    candidates: Mapping[str, tuple[tuple[str, ...], int]]


_decode_pod = msgspec.json.Decoder(PodObject)
_decode_names = msgspec.json.Decoder(list[str])
_decode_extender = msgspec.json.Decoder(_ExtenderArgs)
_decode_binding = msgspec.json.Decoder(_BindingArgs)
_decode_preemption = msgspec.json.Decoder(_PreemptionArgs)
_decode_node = msgspec.json.Decoder(NodeObject)
_encoder = msgspec.json.Encoder()

_KEYS = {
    key.lower(): key
    for key in (
        "Pod",
        "Nodes",
        "NodeNames",
        "PodName",
        "PodNamespace",
        "PodUID",
        "Node",
        "NodeNameToVictims",
        "NodeNameToMetaVictims",
        "Pods",
        "NumPDBViolations",
        "UID",
    )
}


def _decoded(decoder: msgspec.json.Decoder[T], body: bytes | msgspec.Raw, where: str = "body") -> T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidInput(where, str(error)[:200]) from error


def _check_text(body: bytes) -> None:
    """JSON is UTF-8, including what nobody reads of it; the field is named if it is not."""
    if body.isascii():
        return
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        before = body[max(0, error.start - _NEAR) : error.start]
        keys = _KEY.findall(before)
        where = f"body: {keys[-1].decode('ascii')}" if keys else "body"
        raise InvalidInput(where, f"byte {error.start} is not UTF-8") from error


def _recased(body: bytes, *, nested: str = "") -> bytes:
    """The same document with the protocol's own keys spelt as Go spells them."""
    try:
        content = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidInput("body", str(error)[:200]) from error
    if not isinstance(content, dict):
        raise InvalidInput("body", "is not a JSON object", "send the extender arguments")
    top = _rename(content)
    for key in [k for k in top if nested and k.startswith(nested)]:
        victims = top[key]
        if isinstance(victims, dict):
            top[key] = {name: _rename_victims(value) for name, value in victims.items()}
    return msgspec.json.encode(top)


def _rename(content: dict[str, object]) -> dict[str, object]:
    return {_KEYS.get(str(key).lower(), str(key)): value for key, value in content.items()}


def _rename_victims(victims: object) -> object:
    if not isinstance(victims, dict):
        return victims
    renamed = _rename(victims)
    pods = renamed.get("Pods")
    if isinstance(pods, list):
        renamed["Pods"] = [_rename_uid(pod) for pod in pods]
    return renamed


def _rename_uid(pod: object) -> object:
    """A meta pod with its ``UID`` key; a whole pod has none and stays as it is."""
    if not isinstance(pod, dict):
        return pod
    return {"UID" if key.lower() == "uid" else key: value for key, value in pod.items()}


def decode_filter(body: bytes, *, whole: bool = False) -> FilterArgs:
    """Arguments of filter and prioritize.

    Parameters
    ----------
    body
        As it was sent.
    whole
        Read all of it as JSON, after a :class:`Misread`.

    Raises
    ------
    InvalidInput
        The body is not such a document.
    """
    _check_text(body)
    if not whole and body.startswith(_POD_FIRST) and body.endswith(b"]}"):
        # As kube-scheduler writes it. What stands left and right of the fields between pod and
        # names is read as JSON of its own before it is used, so the document is not read for that.
        end = body.find(_NAMES_NEXT)
        if end > 0 and body.find(b"]", end) == len(body) - 2:
            pod, names = body[len(_POD_FIRST) : end], body[end + len(_NAMES_NEXT) : -1]
            return FilterArgs(pod, names, cut=True)
    args = _decoded(_decode_extender, body)
    pod, names = bytes(args.pod), bytes(args.node_names)
    if pod == _NULL or (names == _NULL and args.nodes is None):
        args = _decoded(_decode_extender, _recased(body))
        pod, names = bytes(args.pod), bytes(args.node_names)
    if pod == _NULL:
        raise InvalidInput("body.Pod", "is missing", "send the pod to place")
    if names != _NULL:
        return FilterArgs(pod, names)
    sent: dict[str, tuple[NodeObject, msgspec.Raw]] = {}
    for raw in (args.nodes.items if args.nodes else None) or []:
        node = _decoded(_decode_node, raw)
        sent.setdefault(node.metadata.name, (node, raw))
    listed = list(sent.values())
    return FilterArgs(pod, b"", [node for node, _ in listed], [raw for _, raw in listed])


def decode_bind(body: bytes) -> BindRequest:
    """Arguments of bind; :class:`InvalidInput` if a field is missing or is not a name."""
    _check_text(body)
    args = _decoded(_decode_binding, body)
    if not args.node:
        args = _decoded(_decode_binding, _recased(body))
    for field, value in (("PodName", args.pod_name), ("Node", args.node)):
        if not value:
            raise InvalidInput(f"body.{field}", "is missing")
    namespace = args.pod_namespace or "default"
    name = args.pod_name or ""
    for field, value in (("PodName", name), ("PodNamespace", namespace), ("Node", args.node or "")):
        if not _NAME.fullmatch(value):
            raise InvalidInput(f"body.{field}", f"{value[:100]!r} is not the name of an object")
    return BindRequest(name, namespace, args.pod_uid or f"{namespace}/{name}", args.node or "")


def decode_preempt(body: bytes) -> PreemptArgs:
    """Arguments of preempt, from whichever of the two maps is given."""
    _check_text(body)
    args = _decoded(_decode_preemption, body)
    if args.pod is None or (
        args.node_name_to_victims is None and args.node_name_to_meta_victims is None
    ):
        args = _decoded(_decode_preemption, _recased(body, nested="NodeNameTo"))
    if args.pod is None:
        raise InvalidInput("body.Pod", "is missing", "send the pod to place")
    candidates: dict[str, tuple[tuple[str, ...], int]] = {}
    for name, meta in (args.node_name_to_meta_victims or {}).items():
        pods = (meta.pods or ()) if meta else ()
        violations = meta.num_pdb_violations if meta else 0
        candidates[name] = (tuple(pod.uid for pod in pods if pod), violations)
    for name, victims in (args.node_name_to_victims or {}).items():
        whole = (victims.pods or ()) if victims else ()
        violations = victims.num_pdb_violations if victims else 0
        candidates[name] = (tuple(pod.metadata.uid for pod in whole), violations)
    return PreemptArgs(args.pod, candidates)


def encode_bind(error: str) -> bytes:
    """An ``ExtenderBindingResult``; an empty error is success."""
    return _encoder.encode(_BindingResult(error))


def encode_preempt(victims: Mapping[str, tuple[Sequence[str], int]]) -> bytes:
    """An ``ExtenderPreemptionResult``: always meta victims, in both cache modes."""
    return _encoder.encode(
        _PreemptionResult(
            {
                name: _MetaVictims([_VictimPod(uid) for uid in uids], violations)
                for name, (uids, violations) in victims.items()
            }
        )
    )
