"""A raw client of the Kubernetes API: JSON objects in, JSON objects out.

It speaks HTTP itself so that nothing of the product, nor a client library that the product might
use, stands between a test and what the API server says.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import urllib3

Json = dict[str, Any]

CONNECTIONS = 8
PAGE = 1000
_MERGE = "application/merge-patch+json"
_STRATEGIC = "application/strategic-merge-patch+json"
_APPLY = "application/apply-patch+yaml"  # JSON is YAML


class ApiError(Exception):
    """The API server refused: ``status`` is the HTTP status, ``reason`` its keyword."""

    def __init__(self, method: str, path: str, status: int, body: bytes) -> None:
        try:
            said = json.loads(body)
        except ValueError:
            said = {"message": body[:300].decode(errors="replace")}
        self.status = status
        self.reason = said.get("reason", "")
        self.message = said.get("message", "")
        super().__init__(f"{method} {path}: {status} {self.reason}: {self.message}")


class Api:
    """The API as one user sees it.

    Parameters
    ----------
    url
        Of the API server.
    ca_file
        Certificate that it has to show.
    token
        Bearer token of the user.
    """

    def __init__(self, url: str, ca_file: Path, token: str) -> None:
        self.url = url
        self.ca_file = ca_file
        self.token = token
        self._pool = urllib3.PoolManager(
            num_pools=2,
            maxsize=CONNECTIONS + 4,
            ca_certs=str(ca_file),
            retries=False,
            timeout=urllib3.Timeout(connect=5, read=60),
        )
        self._paths: dict[tuple[str, str], tuple[str, bool]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._pool.clear()

    def as_user(self, token: str) -> Api:
        """The same API, seen by another user."""
        return Api(self.url, self.ca_file, token)

    # -- transport -----------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = "application/json",
        **query: Any,
    ) -> Json:
        """One request.

        Raises
        ------
        ApiError
            Any status from 300 on.
        OSError
            No answer.
        """
        fields = {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in query.items()}
        try:
            answer = self._pool.request(
                method,
                f"{self.url}{path}?{urlencode(fields)}" if fields else self.url + path,
                headers=self._headers(content_type),
                body=None if body is None else json.dumps(body).encode(),
            )
        except urllib3.exceptions.HTTPError as error:
            raise ConnectionError(f"{method} {path}: {error}") from error
        if answer.status >= 300:
            raise ApiError(method, path, answer.status, answer.data)
        return json.loads(answer.data) if answer.data[:1] == b"{" else {"text": answer.data}

    def _headers(self, content_type: str) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": content_type,
            "Accept": "application/json",
        }

    def ready(self) -> bool:
        """Whether the API server calls itself ready."""
        try:
            self.request("GET", "/readyz")
        except ApiError:
            return False
        return True

    # -- objects -------------------------------------------------------------------------------

    def path(self, version: str, kind: str, namespace: str = "", name: str = "") -> str:
        """Where objects of a kind live, by what the server itself says of it."""
        if (version, kind) not in self._paths:
            root = f"/apis/{version}" if "/" in version else f"/api/{version}"
            for found in self.request("GET", root)["resources"]:
                if "/" not in found["name"]:
                    key = (version, found["kind"])
                    self._paths[key] = (f"{root}|{found['name']}", found["namespaced"])
        where, namespaced = self._paths[version, kind]
        root, plural = where.split("|")
        scope = f"/namespaces/{namespace}" if namespaced and namespace else ""
        return f"{root}{scope}/{plural}" + (f"/{name}" if name else "")

    def path_of(self, obj: Json) -> str:
        """Where this object lives."""
        meta = obj["metadata"]
        version, kind = obj["apiVersion"], obj["kind"]
        self.path(version, kind)
        namespaced = self._paths[version, kind][1]
        namespace = meta.get("namespace", "default") if namespaced else ""
        return self.path(version, kind, namespace, meta["name"])

    def create(self, obj: Json) -> Json:
        """POST."""
        return self.request("POST", self.path_of(obj).rsplit("/", 1)[0], obj)

    def create_all(self, objects: Iterable[Json], connections: int = CONNECTIONS) -> list[Json]:
        """POST many, in order as far as several connections keep it."""
        todo = list(objects)
        for obj in todo[:1]:
            self.path(obj["apiVersion"], obj["kind"])
        if connections == 1:
            return [self.create(obj) for obj in todo]
        with ThreadPoolExecutor(connections) as pool:
            return list(pool.map(self.create, todo))

    def apply(self, obj: Json, *, dry_run: bool = False) -> Json:
        """Server-side apply; a dry run is validated and admitted, and not stored."""
        extra = {"dryRun": "All"} if dry_run else {}
        return self.request(
            "PATCH", self.path_of(obj), obj,
            content_type=_APPLY, fieldManager="e2e", force=True, **extra,
        )  # fmt: skip

    def get(self, kind: str, name: str, namespace: str = "", version: str = "v1") -> Json:
        """GET one."""
        return self.request("GET", self.path(version, kind, namespace, name))

    def objects(
        self, kind: str, namespace: str = "", version: str = "v1", **query: Any
    ) -> list[Json]:
        """GET all, page by page."""
        return self.objects_at(kind, namespace, version, **query)[0]

    def objects_at(
        self, kind: str, namespace: str = "", version: str = "v1", **query: Any
    ) -> tuple[list[Json], str]:
        """GET all, and the resourceVersion that they were seen at."""
        items: list[Json] = []
        token = ""
        while True:
            extra: Json = {"continue": token} if token else {}
            page = self.request(
                "GET", self.path(version, kind, namespace), limit=PAGE, **extra, **query
            )
            items += page["items"]
            token = page["metadata"].get("continue", "")
            if not token:
                return items, page["metadata"]["resourceVersion"]

    def watch(
        self, kind: str, since: str, *, timeout_s: int, version: str = "v1"
    ) -> Iterator[Json]:
        """Events after a resourceVersion, until the server ends it.

        Raises
        ------
        OSError
            The connection broke.
        """
        try:
            answer = self._pool.request(
                "GET",
                self.url + self.path(version, kind),
                fields={"watch": "1", "resourceVersion": since, "timeoutSeconds": str(timeout_s)},
                headers=self._headers("application/json"),
                preload_content=False,
                timeout=urllib3.Timeout(connect=5, read=timeout_s + 5),
            )
        except urllib3.exceptions.HTTPError as error:
            raise ConnectionError(f"watch of {kind}: {error}") from error
        try:
            if answer.status >= 300:
                raise ApiError("WATCH", kind, answer.status, answer.read())
            rest = b""
            for chunk in answer.stream(1 << 16):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from map(json.loads, lines)
        except urllib3.exceptions.HTTPError as error:
            raise ConnectionError(f"watch of {kind}: {error}") from error
        finally:
            answer.close()

    def delete(self, kind: str, name: str, namespace: str = "", version: str = "v1") -> None:
        """DELETE one, at once; fine if it is gone already."""
        try:
            self.request(
                "DELETE", self.path(version, kind, namespace, name), {"gracePeriodSeconds": 0}
            )
        except ApiError as error:
            if error.status != 404:
                raise

    def delete_all(self, kind: str, namespace: str = "", version: str = "v1", **query: Any) -> None:
        """DELETE a collection, at once."""
        path = self.path(version, kind, namespace)
        self.request("DELETE", path, {"gracePeriodSeconds": 0}, **query)

    def patch(
        self,
        kind: str,
        name: str,
        change: Json,
        namespace: str = "",
        *,
        version: str = "v1",
        subresource: str = "",
        strategic: bool = False,
    ) -> Json:
        """Merge patch (strategic on wish) of an object or its subresource."""
        path = self.path(version, kind, namespace, name)
        path += f"/{subresource}" if subresource else ""
        return self.request("PATCH", path, change, content_type=_STRATEGIC if strategic else _MERGE)

    # -- pods ----------------------------------------------------------------------------------

    def bind(
        self, namespace: str, name: str, node: str, annotations: Mapping[str, str] | None = None
    ) -> Json:
        """Bind a pod, as a scheduler does."""
        return self.request(
            "POST",
            f"/api/v1/namespaces/{namespace}/pods/{name}/binding",
            {
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": {"name": name, "annotations": dict(annotations or {})},
                "target": {"apiVersion": "v1", "kind": "Node", "name": node},
            },
        )

    def finish(self, namespace: str, name: str, phase: str = "Succeeded") -> None:
        """What a kubelet reports when the containers have ended."""
        self.patch("Pod", name, {"status": {"phase": phase}}, namespace, subresource="status")

    def issue_token(self, namespace: str, account: str, seconds: int = 3600) -> str:
        """A token of a service account, by TokenRequest."""
        answer = self.request(
            "POST",
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"expirationSeconds": seconds},
            },
        )
        return str(answer["status"]["token"])

    def placements(self, namespace: str = "") -> dict[str, str]:
        """Name of pod -> name of its node, empty while pending."""
        return {
            pod["metadata"]["name"]: pod["spec"].get("nodeName", "")
            for pod in self.objects("Pod", namespace)
        }


class Feeder:
    """Creates objects at its own pace on a thread, while a test does something else."""

    def __init__(self, api: Api, objects: Iterable[Json], pause_s: float = 0.0) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._future = self._pool.submit(self._run, api, list(objects), pause_s)

    def _run(self, api: Api, objects: list[Json], pause_s: float) -> int:
        for obj in objects:
            insist(partial(_create_once, api, obj))
            time.sleep(pause_s)
        return len(objects)

    def wait(self, timeout_s: float = 120) -> int:
        """Wait until all are created.

        Returns
        -------
        int
            How many.
        """
        try:
            return self._future.result(timeout_s)
        finally:
            self._pool.shutdown(wait=False)


def _create_once(api: Api, obj: Json) -> None:
    try:
        api.create(obj)
    except ApiError as error:
        if error.status != 409:  # an earlier attempt got through, its answer did not
            raise


def insist(action: Callable[[], object], patience_s: float = 60) -> None:
    """Do something until the API server, which may be down just now, has done it."""
    end = time.monotonic() + patience_s
    while True:
        try:
            action()
        except (OSError, ApiError) as error:
            transient = not isinstance(error, ApiError) or error.status in (429, 500, 503, 504)
            if not transient or time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


def eventually(
    fact: Callable[[], object], what: str, patience_s: float = 30, every_s: float = 0.1
) -> Any:
    """Wait until something is true, and return it.

    Raises
    ------
    AssertionError
        It did not become true in time.
    """
    end = time.monotonic() + patience_s
    found: object = None
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            found = fact()
            if found:
                return found
        time.sleep(every_s)
    raise AssertionError(f"not within {patience_s} s: {what} (last seen: {found!r})")
