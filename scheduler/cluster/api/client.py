"""The Kubernetes API over HTTP: raw bytes in and out, credentials by the official client.

The official client knows every way to find a cluster (kubeconfig, contexts, exec plugins, service
accounts with rotating tokens, proxies) and keeps that knowledge current; its connection pool and
its authorisation are used as they are. Objects are not: decoding only the fields that Snugfit reads
from the bytes is some fifty times faster than the client's own models (``bench/sync.py``).

What this module refuses to do: retry (who calls knows whether a call may be repeated), interpret.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
import urllib3
from kubernetes import config as kube_config
from kubernetes.client import ApiClient, Configuration
from kubernetes.config import ConfigException
from yaml import YAMLError

from scheduler.core.errors import InvalidInput, KubeApiError, NotFound, api_error
from scheduler.core.reading import read_text
from scheduler.kube.yaml_lines import bounded_yaml

__all__ = [
    "JSON_PATCH",
    "MERGE_PATCH",
    "KubeClient",
    "Stream",
    "in_a_pod",
    "kubeconfigs",
    "node_path",
    "pod_path",
]

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
_JSON = "application/json"
_CONNECT_S = 5.0
_READ_S = 30.0
_CHUNK = 1 << 16
_MOST_CONNECTIONS = 16

# Names of pods, namespaces and nodes: DNS subdomains of RFC 1123.
_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")

# The library looks into what a kubeconfig says without asking what it is.
_MISSHAPEN = (AttributeError, KeyError, IndexError, TypeError, ValueError, YAMLError)

T = TypeVar("T")


def pod_path(namespace: str, name: str) -> str:
    """Path of a pod.

    Raises
    ------
    KubeApiError
        Status 404: nothing can have such a name. What a request names may be anything, and must
        not lead to another path.
    """
    return f"/api/v1/namespaces/{_named(namespace)}/pods/{_named(name)}"


def node_path(name: str) -> str:
    """Path of a node; :class:`KubeApiError` with status 404 as for :func:`pod_path`."""
    return f"/api/v1/nodes/{_named(name)}"


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise NotFound("the path of an object", 404, f"{name[:100]!r} is not the name of an object")
    return name


class _Status(msgspec.Struct):
    """What the API server says of a failure."""

    message: str = ""
    reason: str = ""


_status_decoder = msgspec.json.Decoder(_Status)


class KubeClient:
    """One API server, as one identity. Safe to use from several threads.

    Parameters
    ----------
    load
        Makes a configuration; called at the start, and again once after an answer 401.
    """

    def __init__(self, load: Callable[[], Configuration]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._api = self._connect()

    @classmethod
    def from_kubeconfig(cls, path: Path | None = None, context: str | None = None) -> KubeClient:
        """A client for a kubeconfig; None takes ``KUBECONFIG`` or ``~/.kube/config``.

        Raises
        ------
        InvalidInput
            There is no such file or context, or it cannot be used.
        """

        def load() -> Configuration:
            made = Configuration()
            for name in kubeconfigs(path):
                bounded_yaml(read_text(name), str(name))
            try:
                kube_config.load_kube_config(
                    config_file=str(path) if path else None,
                    context=context or None,
                    client_configuration=made,
                    persist_config=False,
                )
            except (ConfigException, OSError, *_MISSHAPEN) as error:
                where = str(path) if path else "kubeconfig"
                raise InvalidInput(where, str(error), "name one with --kubeconfig") from error
            return made

        return cls(load)

    @classmethod
    def in_cluster(cls) -> KubeClient:
        """A client for the service account of the pod that this process runs in.

        Raises
        ------
        InvalidInput
            This process does not run in a pod, or the pod mounts no token.
        """

        def load() -> Configuration:
            made = Configuration()
            try:
                kube_config.load_incluster_config(client_configuration=made)
            except (ConfigException, OSError) as error:
                raise InvalidInput(
                    "service account",
                    f"cannot be used: {error}",
                    "run in a pod with a service account, or name a file with --kubeconfig",
                ) from error
            return made

        return cls(load)

    @property
    def server(self) -> str:
        """Address of the API server."""
        return str(self._api.configuration.host)

    # -- calls -------------------------------------------------------------------------------

    def get(
        self, path: str, params: Mapping[str, str] | None = None, *, read_s: float = _READ_S
    ) -> bytes:
        """The body of a GET; :class:`KubeApiError` on any status but 2xx."""
        return self._call("GET", path, params=params, read_s=read_s)

    def read(
        self,
        path: str,
        decoder: msgspec.json.Decoder[T],
        params: Mapping[str, str] | None = None,
        *,
        read_s: float = _READ_S,
    ) -> T:
        """The body of a GET, decoded.

        Raises
        ------
        KubeApiError
            Any status but 2xx; status 0 also where the body is not what was asked for, as behind
            a proxy that answers with a page of its own.
        """
        body = self.get(path, params, read_s=read_s)
        try:
            return decoder.decode(body)
        except msgspec.MsgspecError as error:
            raise KubeApiError(f"GET {path}", 0, f"the answer cannot be read: {error}") from error

    def post(self, path: str, content: object, *, read_s: float = _READ_S) -> bytes:
        """Create; :class:`KubeApiError` on any status but 2xx."""
        return self._call("POST", path, body=msgspec.json.encode(content), read_s=read_s)

    def put(self, path: str, content: object, *, read_s: float = _READ_S) -> bytes:
        """Replace; :class:`KubeApiError` on any status but 2xx (409: somebody was faster)."""
        return self._call("PUT", path, body=msgspec.json.encode(content), read_s=read_s)

    def patch(
        self,
        path: str,
        content: object,
        *,
        kind: str = MERGE_PATCH,
        params: Mapping[str, str] | None = None,
    ) -> bytes:
        """Change some fields; :class:`KubeApiError` on any status but 2xx."""
        body = msgspec.json.encode(content)
        return self._call("PATCH", path, params=params, body=body, content_type=kind)

    def patch_pod_status(self, namespace: str, name: str, content: object) -> bytes:
        """Change a pod's status or annotations; its specification is left alone."""
        return self.patch(f"{pod_path(namespace, name)}/status", content)

    def evict(self, namespace: str, name: str, uid: str) -> None:
        """Evict just this pod, if its budgets allow it.

        Raises
        ------
        KubeApiError
            Status 429: a budget does not allow it now; 404, 409: the pod is gone, or is another.
        """
        content = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"namespace": namespace, "name": name},
            "deleteOptions": {"preconditions": {"uid": uid}},
        }
        self.post(f"{pod_path(namespace, name)}/eviction", content)

    def patch_node_status(self, name: str, content: object, *, kind: str = JSON_PATCH) -> bytes:
        """Change a node's status, such as what it advertises."""
        return self.patch(f"{node_path(name)}/status", content, kind=kind)

    def allowed(
        self, verb: str, group: str, resource: str, namespace: str = "", *, name: str = ""
    ) -> bool:
        """Whether this identity may do that, by SelfSubjectAccessReview."""
        resource, _, sub = resource.partition("/")
        attributes = {"verb": verb, "group": group, "resource": resource, "subresource": sub}
        if namespace:
            attributes["namespace"] = namespace
        if name:
            attributes["name"] = name
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = self.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        content: dict[str, Any] = msgspec.json.decode(answer)
        return bool((content.get("status") or {}).get("allowed"))

    def stream(self, path: str, params: Mapping[str, str], *, read_s: float) -> Stream:
        """An open GET whose lines arrive over time, such as a watch.

        Parameters
        ----------
        path, params
            What to get.
        read_s
            Silence after which the connection is taken for dead.
        """
        response = self._request("GET", path, params=params, read_s=read_s)
        if response.status != 200:
            try:
                body = response.read(_CHUNK)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise api_error(f"GET {path}", response.status, str(error)) from error
            finally:
                response.close()
            raise _refusal(f"GET {path}", response, body)
        return Stream(f"GET {path}", response)

    # -- inside ------------------------------------------------------------------------------

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = _JSON,
        read_s: float = _READ_S,
    ) -> bytes:
        response = self._request(
            method, path, params=params, body=body, content_type=content_type, read_s=read_s
        )
        try:
            content = bytes(response.data)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise KubeApiError(f"{method} {path}", 0, str(error)) from error
        finally:
            response.release_conn()
        if not 200 <= response.status < 300:
            raise _refusal(f"{method} {path}", response, content)
        return content

    def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = _JSON,
        read_s: float = _READ_S,
    ) -> urllib3.BaseHTTPResponse:
        """One exchange; again with fresh credentials if the first ones are no longer good."""
        query = f"?{urlencode(params)}" if params else ""
        for attempt in (1, 2):
            api = self._api
            headers = {"Accept": _JSON, "User-Agent": "snugfit"}
            for setting in api.configuration.auth_settings().values():
                headers[setting["key"]] = str(setting["value"])
            if body is not None:
                headers["Content-Type"] = content_type
            try:
                response: urllib3.BaseHTTPResponse = api.rest_client.pool_manager.request(
                    method,
                    self.server + path + query,
                    body=body,
                    headers=headers,
                    timeout=urllib3.Timeout(total=read_s, connect=min(_CONNECT_S, read_s)),
                    retries=False,
                    redirect=False,
                    preload_content=False,
                )
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise KubeApiError(f"{method} {path}", 0, str(error)) from error
            if response.status != 401 or attempt == 2:
                return response
            response.drain_conn()
            response.release_conn()
            with self._lock:
                if self._api is api:  # nobody else has renewed it in the meantime
                    try:
                        self._api = self._connect()
                    except InvalidInput as error:
                        raise KubeApiError(f"{method} {path}", 401, str(error)) from error
        raise AssertionError("unreachable: the second attempt returns")

    def _connect(self) -> ApiClient:
        settings = self._load()
        settings.connection_pool_maxsize = _MOST_CONNECTIONS
        settings.retries = False
        return ApiClient(settings)


def in_a_pod() -> bool:
    """Whether this process runs in a pod that may ask the API server."""
    return "KUBERNETES_SERVICE_HOST" in os.environ


def kubeconfigs(path: Path | None) -> list[Path]:
    """Files that say where the cluster is, as far as they exist; None takes those of kubectl."""
    named = [str(path)] if path else os.environ.get("KUBECONFIG", "").split(os.pathsep)
    files = [Path(name).expanduser() for name in named if name]
    files = files or [Path("~/.kube/config").expanduser()]
    return [file for file in files if file.exists()]


class Stream:
    """Lines of an answer that goes on."""

    def __init__(self, call: str, response: urllib3.BaseHTTPResponse) -> None:
        self._call, self._response = call, response

    def lines(self) -> Iterator[bytes]:
        """Each line as it arrives, until the server ends the answer.

        Raises
        ------
        KubeApiError
            Status 0: the connection broke or was silent for too long.
        """
        rest = b""
        try:
            while True:
                piece = self._response.read1(_CHUNK)
                if not piece:
                    return
                *whole, rest = (rest + piece).split(b"\n")
                yield from whole
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise KubeApiError(self._call, 0, str(error) or "connection closed") from error
        finally:
            self._response.close()

    def close(self) -> None:
        """Give the connection up; for the reader itself."""
        self._response.close()

    def stop(self) -> None:
        """Let a reader in another thread see the end of the answer."""
        with suppress(RuntimeError, OSError, ValueError):  # it has ended already
            self._response.shutdown()


def _refusal(call: str, response: urllib3.BaseHTTPResponse, body: bytes) -> KubeApiError:
    try:
        status = _status_decoder.decode(body)
        message = status.message or status.reason
    except (msgspec.DecodeError, msgspec.ValidationError):
        message = body.decode(errors="replace")
    after = response.headers.get("Retry-After", "")
    return api_error(
        call, response.status, message, retry_after_s=float(after) if after.isdecimal() else 0.0
    )
