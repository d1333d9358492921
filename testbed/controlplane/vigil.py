"""The validator at every moment, not only at the end: a watch that judges each change of a node.

An over-commit that was there for a second and went away is one that a kubelet would have acted on.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Self

from testbed.controlplane.api import Api, ApiError, Json
from testbed.controlplane.validator import InvalidSchedule, Violation, judge

_WINDOW_S = 30


class Vigil:
    """Watches pods from a thread and judges a node whenever one of its pods changes.

    A watch that is cut starts over with a list. Nodes are read along with each list, and again
    before a violation counts: a node may just have become larger.

    Parameters
    ----------
    api
        How to read; a connection of its own.
    foreign
        See :func:`testbed.controlplane.validator.judge`.
    """

    def __init__(self, api: Api, foreign: Callable[[Json], bool] = lambda _: False) -> None:
        self._api = api
        self._foreign = foreign
        self._stop = threading.Event()
        self._begun = threading.Event()
        self._nodes: dict[str, Json] = {}
        self._pods: dict[str, Json] = {}
        self._on: dict[str, set[str]] = defaultdict(set)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.found: list[Violation] = []
        self.events = 0
        self.fault: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._begun.wait(timeout=_WINDOW_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=_WINDOW_S + 10)
        if kind is None:
            self.check()

    def check(self) -> None:
        """Refuse anything seen so far.

        Raises
        ------
        InvalidSchedule
            Rules were broken at some moment, even if they hold now.
        """
        if self.fault is not None:
            raise self.fault
        if self.found:
            raise InvalidSchedule("broken at some moment\n" + "\n".join(map(str, self.found[:20])))

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow(self._begin())
            except (OSError, ApiError):
                time.sleep(0.2)  # the API server is down, or the version is compacted: list again
            except Exception as error:  # noqa: BLE001 - shown by check(), in the test's own thread
                self.fault = error
                return

    def _begin(self) -> str:
        pods, version = self._api.objects_at("Pod")
        self._nodes = {n["metadata"]["name"]: n for n in self._api.objects("Node")}
        self._pods.clear()
        self._on.clear()
        for pod in pods:
            self._put(pod)
        for name in list(self._on):
            self._judge(name)
        self._begun.set()
        return version

    def _follow(self, version: str) -> None:
        while not self._stop.is_set():
            for event in self._api.watch("Pod", version, timeout_s=1):
                if event["type"] == "ERROR":
                    raise ConnectionError(event["object"].get("message", ""))
                pod = event["object"]
                version = pod["metadata"]["resourceVersion"]
                self.events += 1
                if event["type"] == "DELETED":
                    self._drop(pod["metadata"]["uid"])
                else:
                    self._put(pod)
                    self._judge(pod["spec"].get("nodeName", ""))

    def _put(self, pod: Json) -> None:
        uid = pod["metadata"]["uid"]
        self._pods[uid] = pod
        if pod["spec"].get("nodeName"):
            self._on[pod["spec"]["nodeName"]].add(uid)

    def _drop(self, uid: str) -> None:
        pod = self._pods.pop(uid, None)
        if pod is not None:
            self._on[pod["spec"].get("nodeName", "")].discard(uid)

    def _judge(self, name: str) -> None:
        if not name:
            return
        pods = [self._pods[uid] for uid in self._on[name]]
        known = self._nodes.get(name)
        if known is None or self._verdict(known, pods):
            try:
                self._nodes[name] = self._api.get("Node", name)
            except ApiError as error:
                if error.status != 404:
                    raise
                self._nodes.pop(name, None)
                return  # the node is gone; whoever is still on it holds nothing
            self.found += self._verdict(self._nodes[name], pods)

    def _verdict(self, node: Json, pods: list[Json]) -> list[Violation]:
        return judge([node], pods, settled=False, foreign=self._foreign)
