"""A live cluster behind the service: watches in, facts applied, doubts settled, drift found.

Threads: one per watched kind reads and decodes; one applies what they read, in small groups, so
that a storm of events costs few lock acquisitions and a request waits for none of them long; one
looks after what is overdue. None of them decides anything.

After a restart everything is rebuilt from the API. There is no other memory.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from scheduler.core.errors import KubeApiError
from scheduler.core.model import PodRequest
from scheduler.extender.binding import Binder
from scheduler.extender.config import ExtenderConfig
from scheduler.extender.service import ExtenderService
from scheduler.extender.waking import WAKE_ANNOTATION
from scheduler.kube.client import KubeClient
from scheduler.kube.discovery import Served, find
from scheduler.kube.disruption import budget_decoder
from scheduler.kube.gangs import group_size
from scheduler.kube.lease import LeaseHolder
from scheduler.kube.mirror import Mirror
from scheduler.kube.objects import GroupObject, group_decoder, node_decoder, pod_decoder
from scheduler.kube.pods import pod_uid
from scheduler.kube.watch import Reflector, WatchTiming

__all__ = ["LiveCluster", "LiveFigures"]

log = logging.getLogger(__name__)

_RUNNING = "status.phase!=Succeeded,status.phase!=Failed"
_MOST_AT_ONCE = 32
_MOST_QUEUED = 20_000
_TURN_S = 1.0
_NEW_KINDS_EVERY_S = 60.0
_MOST_READINGS = 50
_LOGGED_DIFFERENCES = 5
_MOST_NAMED = 10

Item = tuple[str, str, Any]


@dataclass
class LiveFigures:
    """What has happened so far, for metrics.

    Attributes
    ----------
    drift : int
        Differences that the latest comparison of state and facts found; has to be 0.
    drifted : int
        Comparisons that found any.
    faults : int
        Events that could not be applied because of a fault of ours.
    wakeups : int
        Refused pods that kube-scheduler had to be told about.
    """

    events: int = 0
    recounts: int = 0
    drift: int = 0
    drifted: int = 0
    faults: int = 0
    readings: int = 0
    wakeups: int = 0
    synced_s: float | None = None


@dataclass
class _Kind:
    """How objects of one kind are applied."""

    reflector: Reflector[Any]
    apply: Callable[[Any], None]
    remove: Callable[[Any], None]
    identity: Callable[[Any], str]
    known: Callable[[], Sequence[str]]
    remove_named: Callable[[str], None]
    unlisted: set[str] = field(default_factory=set)
    listed: bool = False


class _Queue:
    """A sink that hands everything to the applying thread."""

    def __init__(self, label: str, items: queue.Queue[Item], stop: threading.Event) -> None:
        self._label, self._items, self._stop = label, items, stop

    def _put(self, what: str, content: Any) -> None:  # noqa: ANN401 - of the label's kind
        while not self._stop.is_set():
            with suppress(queue.Full):
                self._items.put((self._label, what, content), timeout=_TURN_S)
                return

    def listing(self) -> None:
        self._put("listing", None)

    def page(self, objects: Sequence[Any], unread: Sequence[Any] = ()) -> None:
        for start in range(0, len(objects), _MOST_AT_ONCE):
            self._put("page", objects[start : start + _MOST_AT_ONCE])
        if unread:
            self._put("unread", unread)

    def listed(self) -> None:
        self._put("listed", None)

    def event(self, kind: str, obj: Any) -> None:  # noqa: ANN401 - of the label's kind
        self._put(kind, obj)


class LiveCluster:
    """Keeps a service informed about a cluster.

    Parameters
    ----------
    service
        Learns about the cluster; its engine starts empty.
    client
        The API.
    config
        What to watch, how long to wait.
    identity
        Of this replica, for the Lease.

    Attributes
    ----------
    mirror : Mirror
        Facts; used within ``service.exclusive()`` only.
    binder : Binder
        Carries out the bind verb.
    lease : LeaseHolder or None
        Says whose turn it is, where that is not decided by somebody else.
    on_synced
        Called once, when everything that existed at the start is known and before it is answered.
    """

    def __init__(
        self, service: ExtenderService, client: KubeClient, config: ExtenderConfig, identity: str
    ) -> None:
        self.figures = LiveFigures()
        self._service, self._client, self._config = service, client, config
        self._items: queue.Queue[Item] = queue.Queue(_MOST_QUEUED)
        self._kinds: dict[str, _Kind] = {}
        self._stop = threading.Event()
        self._synced = threading.Event()
        self.on_synced: Callable[[], None] = lambda: None
        self._started = time.monotonic()
        self.mirror: Mirror = service.attach()
        self.binder = Binder(service, self.mirror, client, deadline_s=config.bind_deadline_s)
        self.lease = (
            LeaseHolder(
                client,
                config.lease_namespace,
                config.lease_name,
                identity,
                seconds=config.lease_s,
            )
            if config.lease_name
            else None
        )
        if config.bind:
            service.binder = self.binder.bind
        service.ask_end = self.binder.ask_end
        service.accepting = self.accepting
        self._threads = [
            threading.Thread(target=self._begin, name="begin", daemon=True),
            threading.Thread(target=self._apply_all, name="apply", daemon=True),
            threading.Thread(target=self._look_after, name="look after", daemon=True),
        ]

    def start(self) -> None:
        """Begin watching. Returns at once; see :attr:`synced`."""
        for thread in self._threads:
            thread.start()
        if self.lease:
            self.lease.start()

    def stop(self) -> None:
        """Give up the lease and end every thread."""
        self._stop.set()
        for kind in self._kinds.values():
            kind.reflector.stop(wait=False)
        if self.lease:
            self.lease.stop()
        for kind in self._kinds.values():
            kind.reflector.stop()
        with suppress(queue.Full):  # then there is something that wakes the applying thread
            self._items.put_nowait(("", "stop", None))

    # -- what others want to know ------------------------------------------------------------

    @property
    def synced(self) -> bool:
        """Whether everything that existed at the start has been applied."""
        return self._synced.is_set()

    def accepting(self) -> bool:
        """Whether verbs may be answered: synced, not stale, and our turn."""
        stale_after = self._config.stale_after_s
        if not self.synced or (self.lease is not None and not self.lease.held):
            return False
        ages = self.ages()
        return not stale_after or max(ages["nodes"], ages["pods"]) < stale_after

    def ages(self) -> dict[str, float]:
        """Seconds since each watched kind was last heard of."""
        now = time.monotonic()
        return {
            label: now - (kind.reflector.figures.evidence_at or self._started)
            for label, kind in self._kinds.items()
        }

    def restarts(self) -> dict[tuple[str, str], int]:
        """Watch failures by kind and cause."""
        return {
            (label, cause): count
            for label, kind in self._kinds.items()
            for cause, count in kind.reflector.figures.restarts.items()
        }

    def detail(self) -> dict[str, Any]:
        """For ``/readyz``."""
        with self._service.exclusive():
            unreadable = dict(self.mirror.unreadable)
            uncertain = sorted(self.mirror.uncertain_nodes)
            ambiguous = self.mirror.ambiguous_nodes
        content: dict[str, Any] = {
            "synced": self.synced,
            "watch_age_seconds": {label: round(age, 1) for label, age in self.ages().items()},
            "drift": self.figures.drift,
            "unreadable_objects": len(unreadable),
            "nodes_with_unknown_devices": uncertain[:_MOST_NAMED],
            "ambiguous_nodes": dict(sorted(ambiguous.items())[:_MOST_NAMED]),
        }
        if self.lease:
            content["lease"] = "held" if self.lease.held else "held by another replica"
        return content

    def interrupt(self) -> None:
        """Cut every watch, as a network failure would."""
        for kind in self._kinds.values():
            kind.reflector.interrupt()

    # -- watching ----------------------------------------------------------------------------

    def _begin(self) -> None:
        """Find out what is served, as soon as the API answers, and watch it."""
        while not self._stop.is_set():
            try:
                self._kinds = self._all_kinds()
            except KubeApiError as error:
                log.warning("the API does not answer yet: %s", error)
                self._stop.wait(_TURN_S)
            else:
                break
        for kind in self._kinds.values():
            if not self._stop.is_set():
                kind.reflector.start()

    def _all_kinds(self) -> dict[str, _Kind]:
        kinds: dict[str, _Kind] = {}
        mirror = self.mirror
        kinds["nodes"] = self._kind(
            "nodes", "/api/v1/nodes", node_decoder,
            mirror.node,
            lambda obj: mirror.node_gone(obj.metadata.name),
            lambda obj: obj.metadata.name,
            mirror.node_names,
            mirror.node_gone,
        )  # fmt: skip
        kinds["pods"] = self._kind(
            "pods", "/api/v1/pods", pod_decoder,
            mirror.pod,
            lambda obj: mirror.pod_gone(pod_uid(obj)),
            pod_uid,
            mirror.pod_uids,
            mirror.pod_gone,
            selector=_RUNNING,
        )  # fmt: skip
        kinds["poddisruptionbudgets"] = self._kind(
            "poddisruptionbudgets", "/apis/policy/v1/poddisruptionbudgets", budget_decoder,
            lambda obj: mirror.budgets.__setitem__(obj.key, obj),
            lambda obj: mirror.budgets.pop(obj.key, None),
            lambda obj: obj.key,
            lambda: list(mirror.budgets),
            lambda key: mirror.budgets.pop(key, None),
        )  # fmt: skip
        for name in self._group_names():
            served = find(self._client, name)
            if served is None:
                log.info("%s is not served here: gangs of that kind have no stated size", name)
            else:
                kinds[name] = self._group_kind(name, served)
        return kinds

    def _group_names(self) -> list[str]:
        return [name for n in self._config.watch_groups.split(",") if (name := n.strip())]

    def look_for_groups(self) -> None:
        """Watch the kinds of gangs that are served by now: their operator may come after us."""
        for name in self._group_names():
            if name in self._kinds:
                continue
            try:
                served = find(self._client, name)
            except KubeApiError as error:
                log.warning("whether %s is served by now is not known: %s", name, error)
                return
            if served is not None:
                log.info("%s is served by now", name)
                kind = self._group_kind(name, served)
                self._kinds = {**self._kinds, name: kind}  # others may be walking through it
                kind.reflector.start()

    def _group_kind(self, name: str, served: Served) -> _Kind:
        sizes: dict[str, dict[tuple[str, str, str], int]] = {}

        def apply(obj: GroupObject) -> None:
            key = _key(obj)
            content = {
                "kind": served.kind,
                "apiVersion": served.api_version,
                "metadata": {"name": obj.metadata.name, "namespace": obj.metadata.namespace},
                "spec": obj.spec or {},
            }
            sizes[key] = group_size(content)
            if self.mirror.group(sizes[key]):
                self._service.gangs_resized()

        def remove(key: str) -> None:
            if self.mirror.group_gone(sizes.pop(key, {})):
                self._service.gangs_resized()

        return self._kind(
            name, served.path, group_decoder,
            apply,
            lambda obj: remove(_key(obj)),
            _key,
            lambda: list(sizes),
            remove,
        )  # fmt: skip

    def _kind(
        self,
        label: str,
        path: str,
        decoder: msgspec.json.Decoder[Any],
        apply: Callable[[Any], None],
        remove: Callable[[Any], Any],
        identity: Callable[[Any], str],
        known: Callable[[], Sequence[str]],
        remove_named: Callable[[str], Any],
        *,
        selector: str = "",
    ) -> _Kind:
        reflector: Reflector[Any] = Reflector(
            self._client,
            path,
            decoder,
            _Queue(label, self._items, self._stop),
            label=label,
            selector=selector,
            timing=WatchTiming(read_s=self._config.watch_read_s),
            unreadable=lambda text: log.warning("an object of %s cannot be read: %s", label, text),
        )
        return _Kind(reflector, apply, remove, identity, known, remove_named)

    # -- applying ----------------------------------------------------------------------------

    def _apply_all(self) -> None:
        while not self._stop.is_set():
            batch = [self._items.get()]
            try:
                while len(batch) < _MOST_AT_ONCE and batch[-1][1] != "page":
                    batch.append(self._items.get_nowait())
            except queue.Empty:
                pass
            with self._service.exclusive():
                for item in batch:
                    self._apply_one(item)
            time.sleep(0)  # let a waiting request have its turn

    def _apply_one(self, item: Item) -> None:
        label, what, content = item
        if what == "stop":
            return
        kind = self._kinds[label]
        try:
            match what:
                case "listing":
                    kind.unlisted = set(kind.known())
                case "page":
                    for obj in content:
                        kind.unlisted.discard(kind.identity(obj))
                        self._guarded(label, kind.apply, obj)
                case "unread":
                    kind.unlisted.difference_update(map(kind.identity, content))
                case "listed":
                    for name in sorted(kind.unlisted):
                        self._guarded(label, kind.remove_named, name)
                    kind.listed, kind.unlisted = True, set()
                    self._note_synced()
                case "DELETED":
                    kind.remove(content)
                case _:
                    kind.apply(content)
            self.figures.events += 1
        except Exception:  # the next recount finds and mends what this has left undone
            log.exception("an event of %s could not be applied", label)
            self.figures.faults += 1

    def _guarded(self, label: str, apply: Callable[[Any], Any], what: object) -> None:
        """One object that cannot be applied must not stand in the way of the others."""
        try:
            apply(what)
        except Exception:  # as above
            log.exception("an object of %s could not be applied", label)
            self.figures.faults += 1

    def _note_synced(self) -> None:
        if not self.synced and all(kind.listed for kind in self._kinds.values()):
            self.figures.synced_s = time.monotonic() - self._started
            self._service.begun()
            self.on_synced()
            self._synced.set()
            log.info(
                "synced %d nodes and %d running pods in %.1f s",
                len(self.mirror.node_names()),
                len(self.mirror.facts),
                self.figures.synced_s,
            )

    # -- looking after what is overdue ---------------------------------------------------------

    def _look_after(self) -> None:
        recounted = looked = time.monotonic()
        while not self._stop.wait(_TURN_S):
            if not self.synced:
                continue
            try:
                if time.monotonic() - looked >= _NEW_KINDS_EVERY_S:
                    looked = time.monotonic()
                    self.look_for_groups()
                self._settle([*self._service.overdue(), *self.binder.overdue()])
                if self._config.wake_after_s and self.accepting():
                    self._wake(self._service.missed(self._config.wake_after_s))
                every = self._config.recount_s
                if every and time.monotonic() - recounted >= every:
                    recounted = time.monotonic()
                    self.recount()
            except Exception:  # this thread must outlive whatever it meets
                log.exception("looking after overdue pods failed")
                self.figures.faults += 1

    def _settle(self, overdue: Sequence[PodRequest]) -> None:
        """Ask the API about pods whose hold or reservation is past its time."""
        for pod in overdue[:_MOST_READINGS]:
            try:
                self.binder.read(pod)
                self.figures.readings += 1
            except KubeApiError as error:
                log.warning("pod %s keeps its room until the API can be asked: %s", pod.key, error)
                return

    def _wake(self, missed: Sequence[PodRequest]) -> None:
        """Let kube-scheduler ask about these pods again."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        for at, pod in enumerate(missed):
            content = {"metadata": {"uid": pod.uid, "annotations": {WAKE_ANNOTATION: now}}}
            try:
                self._client.patch_pod_status(pod.namespace, pod.name, content)
            except KubeApiError as error:
                log.warning("pod %s fits by now, and cannot be woken: %s", pod.key, error)
                if error.passing:
                    self._service.still_missed(missed[at:])  # the others would fare no better
                    return
            else:
                self.figures.wakeups += 1
                log.info("pod %s fits by now, and kube-scheduler was told so", pod.key)

    def recount(self) -> list[str]:
        """Compare the state with the facts, off the request path, and mend it if it differs."""
        with self._service.exclusive() as engine:
            image = self.mirror.image()
            snapshot = engine.state.snapshot()
            held, assumed = frozenset(engine.holds), frozenset(self.binder.assumed)
        found = image.differences(snapshot, held, assumed)
        self.figures.recounts += 1
        self.figures.drift = len(found)
        if found:
            self.figures.drifted += 1
            log.error(
                "the state differs from the facts: %s", "; ".join(found[:_LOGGED_DIFFERENCES])
            )
            self._heal()
        return found

    def _heal(self) -> None:
        """Bring the state back to the facts, a few nodes at a time so that requests get through."""
        with self._service.exclusive():
            self.mirror.evict_phantoms(frozenset(self.binder.assumed))
            names = self.mirror.node_names()
        for start in range(0, len(names), _MOST_AT_ONCE):
            with self._service.exclusive():
                self.mirror.heal(names[start : start + _MOST_AT_ONCE])
            time.sleep(0)


def _key(obj: GroupObject) -> str:
    return f"{obj.metadata.namespace or 'default'}/{obj.metadata.name}"
