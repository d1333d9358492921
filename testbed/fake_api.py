"""A small API server for tests, over real HTTP: lists, watches, bindings, leases, and misbehaviour.

It stands for what is not ours. Objects are plain JSON; every write gets the next version. What is
to go wrong is scripted: an action in ``script`` is used up by the first request that it matches.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

from kubernetes.client import Configuration

from scheduler.cluster.api.client import KubeClient

NODES = "/api/v1/nodes"
PODS = "/api/v1/pods"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/ns/leases"

Action = Callable[["Handler"], bool]
"""Does something instead of the answer; False lets the answer follow."""


def eventually(fact: Callable[[], Any], within_s: float = 60.0) -> None:
    """Wait until something is so."""
    until = time.monotonic() + within_s
    while not fact():
        assert time.monotonic() < until, "it never came to pass"
        time.sleep(0.005)


class FakeApi:
    """The server. Use :meth:`client` to talk to it."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.objects: dict[str, dict[str, dict[str, Any]]] = {NODES: {}, PODS: {}, LEASES: {}}
        self.events: dict[str, list[tuple[int, str, dict[str, Any]]]] = {}
        self.version = 1
        self.compacted = 0
        self.page = 500
        self.script: list[tuple[str, str, Action]] = []
        self.token = ""
        self.calls: list[str] = []
        self.bindings: list[dict[str, Any]] = []
        self.muted = False
        self.cuts = 0
        self.cut_how = ""
        handler = type("Bound", (Handler,), {"api": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        """Cut every watch and close the port."""
        self.cut()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def client(self, token: Callable[[], str] = lambda: "") -> KubeClient:
        """The product's own client of this server."""

        def load() -> Configuration:
            made = Configuration(host=f"http://127.0.0.1:{self.port}")
            if token():
                made.api_key = {"authorization": token()}
                made.api_key_prefix = {"authorization": "Bearer"}
            return made

        return KubeClient(load)

    # -- what happens in the cluster -----------------------------------------------------------

    def put(self, path: str, obj: dict[str, Any]) -> dict[str, Any]:
        """Create or replace an object and tell the watches."""
        with self.changed:
            self.version += 1
            known = self.objects.setdefault(path, {})
            name = _name(obj)
            obj = json.loads(json.dumps(obj))
            obj["metadata"]["resourceVersion"] = str(self.version)
            kind = "MODIFIED" if name in known else "ADDED"
            known[name] = obj
            if path == PODS and obj["status"]["phase"] in ("Succeeded", "Failed"):
                kind = "DELETED"  # it has left the selection of the watch
            self.events.setdefault(path, []).append((self.version, kind, obj))
            self.changed.notify_all()
            return obj

    def delete(self, path: str, name: str) -> None:
        """Take the object away, and tell who watches."""
        with self.changed:
            self.version += 1
            obj = self.objects[path].pop(name)
            obj["metadata"]["resourceVersion"] = str(self.version)
            self.events.setdefault(path, []).append((self.version, "DELETED", obj))
            self.changed.notify_all()

    def bookmark(self, path: str) -> None:
        """Tell who watches how far the versions have come."""
        with self.changed:
            self.version += 1
            obj = {"metadata": {"resourceVersion": str(self.version)}}
            self.events.setdefault(path, []).append((self.version, "BOOKMARK", obj))
            self.changed.notify_all()

    def compact(self) -> None:
        """Forget every event up to now."""
        with self.changed:
            self.compacted = self.version
            for path in self.events:
                self.events[path] = []

    def cut(self, how: str = "orderly") -> None:
        """End every open watch: ``orderly``, ``broken``, or ``mid line``."""
        with self.changed:
            self.cut_how = how
            self.cuts += 1
            self.changed.notify_all()

    # -- what goes wrong -------------------------------------------------------------------------

    def next(self, method: str, part: str, *actions: Action) -> None:
        """Script the next requests of this method whose address contains ``part``."""
        self.script += [(method, part, action) for action in actions]

    def count(self, part: str) -> int:
        """How many requests had ``part`` in their address."""
        return sum(part in call for call in self.calls)


@contextmanager
def serving() -> Iterator[FakeApi]:
    """An API server that runs for as long as the block."""
    api = FakeApi()
    try:
        yield api
    finally:
        api.stop()


def refuse(code: int, **headers: str) -> Action:
    """Answer with a status."""

    def act(handler: Handler) -> bool:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        handler.answer({"kind": "Status", "code": code, "message": f"scripted {code}"}, code, named)
        return True

    return act


def drop(handler: Handler) -> bool:
    """Close the connection without a word; nothing has happened."""
    handler.close_connection = True
    return True


def carry_out_and_drop(handler: Handler) -> bool:
    """Do what was asked for, and close the connection without a word."""
    handler.answering = False
    handler.close_connection = True
    return False


def say(text: str) -> Action:
    """Answer 200 with this text."""

    def act(handler: Handler) -> bool:
        handler.send(200, text.encode(), {})
        return True

    return act


def events(*lines: dict[str, Any] | str) -> Action:
    """A watch that says this and ends."""

    def act(handler: Handler) -> bool:
        handler.begin_stream()
        for line in lines:
            text = line if isinstance(line, str) else json.dumps(line)
            handler.chunk(text.encode() + b"\n")
        handler.chunk(b"")
        return True

    return act


def _name(obj: dict[str, Any]) -> str:
    return str(obj["metadata"]["name"])


def _everywhere(path: str) -> str:
    """Where the objects of all namespaces are listed; empty for no list of one namespace."""
    found = re.sub(r"/namespaces/[^/]+/([^/]+)$", r"/\1", path)
    return found if found != path else ""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    api: FakeApi
    answering = True

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def handle(self) -> None:
        """Answer requests until the client leaves."""
        with suppress(ConnectionError):
            super().handle()

    def _serve(self) -> None:
        api = self.api
        self.answering = True
        with api.changed:
            cuts = api.cuts  # a cut from now on means this request, too
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        api.calls.append(f"{self.command} {self.path}")
        for entry in list(api.script):
            if entry[0] == self.command and entry[1] in self.path:
                api.script.remove(entry)
                if entry[2](self):
                    return
                break
        if api.token and self.headers.get("Authorization") != f"Bearer {api.token}":
            self.answer({"code": 401, "message": "Unauthorized"}, 401)
            return
        address = urlparse(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        if query.get("watch"):
            self._watch(address.path, int(query["resourceVersion"]), cuts)
        elif self.command == "GET" and address.path in api.objects and "limit" in query:
            self._list(address.path, query)
        elif self.command == "GET" and (everywhere := _everywhere(address.path)) in api.objects:
            self._list(everywhere, query, address.path.split("/")[-2])
        elif self.command == "POST" and address.path.endswith("/binding"):
            self._bind(address.path.split("/")[-2])
        elif self.command == "POST" and address.path.endswith("/eviction"):
            self._evict(address.path.split("/")[-2])
        elif self.command == "PATCH" and address.path.endswith("/status"):
            self._annotate(address.path.split("/")[-2])
        elif self.command == "POST":
            self._create(address.path)
        else:
            self._one(address.path)

    do_GET = do_POST = do_PUT = do_PATCH = _serve  # noqa: N815 - the names that the base class looks for

    # -- verbs -----------------------------------------------------------------------------------

    def _list(self, path: str, query: dict[str, str], namespace: str = "") -> None:
        chosen = query.get("fieldSelector", "")
        named = chosen.removeprefix("metadata.name=") if chosen.startswith("metadata.name=") else ""
        with self.api.changed:
            known = [
                obj for _, obj in sorted(self.api.objects[path].items())
                if (not namespace or obj["metadata"].get("namespace") == namespace)
                and (obj["metadata"]["name"] == named if named else
                     path != PODS or obj["status"]["phase"] not in ("Succeeded", "Failed"))
            ]  # fmt: skip
            start = int(query.get("continue", "0"))
            end = start + min(int(query["limit"]), self.api.page)
            metadata = {"resourceVersion": str(self.api.version)}
            if end < len(known):
                metadata["continue"] = str(end)
            content = {"metadata": metadata, "items": known[start:end]}
        self.answer(content)

    def _watch(self, path: str, version: int, cuts: int) -> None:
        api = self.api
        with api.changed:
            expired = version < api.compacted
        if expired:
            self.answer({"code": 410, "reason": "Expired", "message": "too old"}, 410)
            return
        self.begin_stream()
        while True:
            with api.changed:
                while not (found := self._after(path, version)) and api.cuts == cuts:
                    api.changed.wait(5)
                if api.cuts != cuts:
                    break
            version = found[-1][0]
            for _, kind, obj in found:
                self.chunk(json.dumps({"type": kind, "object": obj}).encode() + b"\n")
        if api.cut_how == "mid line":
            self.chunk(b'{"type": "ADDED", "object": {"metadata": {"na')
        elif api.cut_how == "orderly":
            self.chunk(b"")
        self.close_connection = True

    def _after(self, path: str, version: int) -> list[tuple[int, str, dict[str, Any]]]:
        if self.api.muted:
            return []
        return [event for event in self.api.events.get(path, []) if event[0] > version]

    def _bind(self, name: str) -> None:
        binding = json.loads(self.body)
        pod = self.api.objects[PODS].get(name)
        if pod is None:
            self.answer({"code": 404, "message": "not found"}, 404)
        elif pod["metadata"]["uid"] != binding["metadata"]["uid"]:
            self.answer({"code": 409, "message": "uid precondition failed"}, 409)
        elif pod["metadata"].get("deletionTimestamp") or pod["spec"].get("nodeName"):
            self.answer({"code": 409, "message": "is bound, or being deleted"}, 409)
        else:
            self.api.bindings.append(binding)  # as posted, whatever becomes of the pod
            annotations = pod["metadata"].get("annotations", {})
            pod = json.loads(json.dumps(pod))
            pod["metadata"]["annotations"] = annotations | binding["metadata"]["annotations"]
            pod["spec"]["nodeName"] = binding["target"]["name"]
            self.api.put(PODS, pod)
            self.answer({"status": "Success"}, 201)

    def _evict(self, name: str) -> None:
        eviction = json.loads(self.body)
        pod = self.api.objects[PODS].get(name)
        if pod is None:
            self.answer({"code": 404, "message": "not found"}, 404)
        elif pod["metadata"]["uid"] != eviction["deleteOptions"]["preconditions"]["uid"]:
            self.answer({"code": 409, "message": "uid precondition failed"}, 409)
        else:
            self.api.delete(PODS, name)
            self.answer({"status": "Success"}, 201)

    def _annotate(self, name: str) -> None:
        patch = json.loads(self.body)["metadata"]
        pod = self.api.objects[PODS].get(name)
        if pod is None:
            self.answer({"code": 404, "message": "not found"}, 404)
        elif pod["metadata"]["uid"] != patch["uid"]:
            self.answer({"code": 409, "message": "uid precondition failed"}, 409)
        else:
            pod = json.loads(json.dumps(pod))
            known = pod["metadata"].get("annotations") or {}
            pod["metadata"]["annotations"] = known | patch["annotations"]
            self.answer(self.api.put(PODS, pod))

    def _create(self, path: str) -> None:
        obj = json.loads(self.body)
        with self.api.changed:
            if _name(obj) in self.api.objects.get(path, {}):
                self.answer({"code": 409, "message": "already exists"}, 409)
                return
            made = self.api.put(path, obj)
        self.answer(made, 201)

    def _one(self, path: str) -> None:
        collection, _, name = path.rpartition("/")
        if collection.endswith("/pods"):
            collection = PODS
        with self.api.changed:
            obj = self.api.objects.get(collection, {}).get(name)
            if obj is None:
                self.answer({"code": 404, "message": "not found"}, 404)
                return
            if self.command == "PUT":
                new = json.loads(self.body)
                if new["metadata"]["resourceVersion"] != obj["metadata"]["resourceVersion"]:
                    self.answer({"code": 409, "message": "has been modified"}, 409)
                    return
                obj = self.api.put(collection, new)
        self.answer(obj)

    # -- answers ---------------------------------------------------------------------------------

    def answer(self, content: Any, code: int = 200, headers: dict[str, str] | None = None) -> None:
        """Answer with JSON."""
        self.send(code, json.dumps(content).encode(), headers or {})

    def send(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        """Answer, unless the script has this server say nothing."""
        if not self.answering:
            return
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin_stream(self) -> None:
        """Begin a watch."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, piece: bytes) -> None:
        """One piece of a watch."""
        self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        self.wfile.flush()
