"""An HTTP client that speaks to an extender exactly as kube-scheduler does.

POST with ``Content-Type: application/json``, Go field names, explicit nulls, one kept-alive
connection; only status 200 is success; answers are matched without regard to case; scores must be
integers. What kube-scheduler would refuse is refused here too, with :class:`ProtocolError`.
"""

from __future__ import annotations

import http.client
import random
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from scheduler.core.errors import SchedulerError
from scheduler.core.gangs.spec import GangSpec
from scheduler.core.model import GangKey, PodRequest
from scheduler.files.dump_writer import pod_json

__all__ = ["ExtenderClient", "ProtocolError", "SchedulingLoop"]

_TIMEOUT_S = 5.0


class ProtocolError(SchedulerError):
    """The extender answered something that kube-scheduler would not accept."""


class ExtenderClient:
    """One kept-alive connection to one extender, like ``urlPrefix`` of a kube-scheduler.

    Attributes
    ----------
    elapsed_ms : float
        Of the last exchange: from its first byte sent to the last byte of its answer received.
    """

    def __init__(self, url: str, *, timeout_s: float = _TIMEOUT_S) -> None:
        split = urlsplit(url)
        self._connection = http.client.HTTPConnection(
            split.hostname or "127.0.0.1", split.port, timeout=timeout_s
        )
        self.elapsed_ms = 0.0

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def filter(self, pod: bytes, names: list[str]) -> tuple[list[str], dict[str, str]]:
        """Names that pass, and messages of the others."""
        answer = self._post("filter", _extender_args(pod, names))
        if answer.get("error"):
            raise ProtocolError(f"filter failed: {answer['error']}")
        passing = answer.get("nodenames") or []
        if not set(passing) <= set(names):
            raise ProtocolError("filter answered a node that was not asked about")
        failed = {**(answer.get("failednodes") or {})}
        failed.update(answer.get("failedandunresolvablenodes") or {})
        return passing, failed

    def prioritize(self, pod: bytes, names: list[str]) -> dict[str, int]:
        """Scores by name; names left out score 0."""
        listed = self._request("POST", "/prioritize", _extender_args(pod, names))
        scores: dict[str, int] = {}
        for host, score in _host_priorities(listed):
            scores[host] = scores.get(host, 0) + score
        return scores

    def bind(self, request: PodRequest, node: str) -> str:
        """Error text of a bind, empty on success."""
        body = {
            "PodName": request.name,
            "PodNamespace": request.namespace,
            "PodUID": request.uid,
            "Node": node,
        }
        return str(self._post("bind", msgspec.json.encode(body)).get("error") or "")

    def release(self, uid: str) -> None:
        """Tell an offline extender that the pod is gone."""
        self._request("DELETE", f"/offline/pods/{quote(uid, safe='/')}", b"", expect=204)

    def alive(self) -> bool:
        """Whether the server answers at all; the cheapest exchange there is."""
        return self._request("GET", "/healthz", b"") == b"ok\n"

    def get(self, path: str) -> Any:  # noqa: ANN401 - any JSON value
        """A view such as ``/debug/state``."""
        return msgspec.json.decode(self._request("GET", path, b""))

    def _post(self, verb: str, body: bytes) -> dict[str, Any]:
        content = self._request("POST", f"/{verb}", body)
        try:
            answer = msgspec.json.decode(content)
        except msgspec.DecodeError as error:
            raise ProtocolError(f"{verb} answered no JSON: {error}") from error
        if not isinstance(answer, dict):
            raise ProtocolError(f"{verb} answered no JSON object")
        return {key.lower(): value for key, value in answer.items()}

    def _request(self, method: str, path: str, body: bytes, expect: int = 200) -> bytes:
        headers = {"Content-Type": "application/json"} if method == "POST" else {}
        try:
            if self._connection.sock is None:
                self._connect()
            started = time.perf_counter()
            self._connection.request(method, path, body=body, headers=headers)
            response = self._connection.getresponse()
            content = response.read()
            self.elapsed_ms = (time.perf_counter() - started) * 1000
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()  # what is left of a broken exchange must not be read later
            raise ProtocolError(f"{method} {path} got no answer: {error!r}") from error
        if response.status != expect:
            raise ProtocolError(f"{method} {path} answered {response.status}")
        return content

    def _connect(self) -> None:
        # Go sets TCP_NODELAY on every connection, http.client does not.
        self._connection.connect()
        sock: socket.socket = self._connection.sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class _HostPriority(msgspec.Struct, rename="pascal"):
    host: str
    score: int


_priorities_decoder = msgspec.json.Decoder(list[_HostPriority])
_folded_decoder = msgspec.json.Decoder(list[dict[str, Any]] | None)


def _host_priorities(content: bytes) -> list[tuple[str, int]]:
    """Hosts and scores of an answer: typed at once if spelt as Go does, else matched key by key."""
    try:
        return [(e.host, e.score) for e in _priorities_decoder.decode(content)]
    except msgspec.DecodeError:
        pass  # another spelling, null, or an answer that is refused below
    try:
        entries = _folded_decoder.decode(content) or []
        folded = [{key.lower(): value for key, value in entry.items()} for entry in entries]
        # A key that is left out, or null, has Go's zero value.
        zero: dict[str, Any] = {"host": "", "score": 0}
        named = [
            {key.title(): zero[key] if e.get(key) is None else e[key] for key in zero}
            for e in folded
        ]
        return [(e.host, e.score) for e in _priorities_decoder.decode(msgspec.json.encode(named))]
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ProtocolError(f"prioritize answered no host priority list: {error}") from error


def _extender_args(pod: bytes, names: list[str]) -> bytes:
    listed = msgspec.json.encode(names)
    return b'{"Pod":' + pod + b',"Nodes":null,"NodeNames":' + listed + b"}"


@dataclass
class SchedulingLoop:
    """kube-scheduler's cycle around an extender, one pod at a time.

    All nodes go to filter (``percentageOfNodesToScore: 100``), starting at a rotating index; with
    one survivor prioritize is skipped; ties go to a random one of the best; then bind.

    Attributes
    ----------
    models : mapping of str to str
        Product label of each node: a pod that selects some is offered those nodes alone. Without
        it all are offered.
    latencies_ms : mapping of verb to list of float
        Client-side times.
    """

    client: ExtenderClient
    nodes: list[str]
    seed: int = 0
    gangs: Mapping[GangKey, GangSpec] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    latencies_ms: dict[str, list[float]] = field(default_factory=dict)
    _start: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(f"ties/{self.seed}")  # noqa: S311 - reproducible

    def run(self, requests: Iterable[PodRequest]) -> Iterator[tuple[PodRequest, str]]:
        """Place pods as they arrive, and requeue members of gangs as kube-scheduler does.

        A member is refused until enough of its gang exist. It is asked about again once another
        member has its place, and when nothing arrives any more, as often as that helps anybody.

        Yields
        ------
        (PodRequest, str)
            Every pod once: with its node as soon as it has one, or with an empty string when it is
            given up.
        """
        refused: dict[GangKey, list[PodRequest]] = {}
        for request in requests:
            node, gang = self.schedule(request), request.gang
            if node or gang is None:
                yield request, node
            if gang is not None and not node:
                refused.setdefault(gang, []).append(request)
            elif gang in refused:
                yield from self._again(refused, gang)
        while refused:
            helped = False
            for gang in list(refused):
                for placed in self._again(refused, gang):
                    helped = True
                    yield placed
            if not helped:
                break
        for members in refused.values():
            yield from ((member, "") for member in members)

    def _again(
        self, refused: dict[GangKey, list[PodRequest]], gang: GangKey
    ) -> Iterator[tuple[PodRequest, str]]:
        """Ask about the refused members of a gang again; those that are placed, and their nodes."""
        members, refused[gang] = refused[gang], []
        for member in members:
            node = self.schedule(member)
            if node:
                yield member, node
            else:
                refused[gang].append(member)
        if not refused[gang]:
            del refused[gang]

    def schedule(self, request: PodRequest) -> str:
        """Ask about one pod once, and place it; returns its node, or nothing if it was refused."""
        pod = msgspec.json.encode(pod_json(request, gangs=self.gangs))
        names = self.nodes[self._start :] + self.nodes[: self._start]
        self._start = (self._start + 1) % len(self.nodes)
        if self.models and (wanted := request.gpu.products):
            names = [name for name in names if self.models[name] in wanted]
        passing, _ = self._timed("filter", self.client.filter, pod, names) if names else ((), {})
        if not passing:
            return ""
        node: str = passing[0]
        if len(passing) > 1:
            scores = self._timed("prioritize", self.client.prioritize, pod, passing)
            best = max(scores.get(name, 0) for name in passing)
            node = self._random.choice([name for name in passing if scores.get(name, 0) == best])
        error = self._timed("bind", self.client.bind, request, node)
        if error:
            raise ProtocolError(f"bind of {request.key} to {node} failed: {error}")
        return node

    def _timed(self, verb: str, call: Any, *args: Any) -> Any:  # noqa: ANN401 - passes through
        answer = call(*args)
        self.latencies_ms.setdefault(verb, []).append(self.client.elapsed_ms)
        return answer
