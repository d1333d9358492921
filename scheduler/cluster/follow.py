"""A live cluster behind the ledger: watches in, facts applied, doubts settled, drift found.

Threads: one per watched kind reads and decodes; one applies what they read, in small groups, so
that a storm of events costs few lock acquisitions and a request waits for none of them long; one
looks after what is overdue; one compares what is known with the API (:mod:`.audit`). None of them
decides anything.

After a restart everything is rebuilt from the API. There is no other memory.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from scheduler.cluster.api.client import KubeClient
from scheduler.cluster.api.device_classes import read_mapped
from scheduler.cluster.api.discovery import Served, find
from scheduler.cluster.api.lease import LeaseHolder
from scheduler.cluster.api.record_policy import read_policy
from scheduler.cluster.api.reflector import Reflector, WatchTiming
from scheduler.cluster.audit import Audit
from scheduler.cluster.binding import Binder
from scheduler.cluster.caretaker import Caretaker, LiveFigures
from scheduler.cluster.housekeeping import Sparingly
from scheduler.cluster.ledger import Cluster, Ledger
from scheduler.cluster.sync import Sync
from scheduler.cluster.watched import Kind
from scheduler.core.errors import InvalidInput, KubeApiError
from scheduler.core.model import GangKey
from scheduler.core.omissions import NotUnderstood
from scheduler.kube.complaints import cut
from scheduler.kube.disruption import budget_decoder
from scheduler.kube.misread import in_part, named
from scheduler.kube.objects import (
    GroupObject,
    PodObject,
    group_decoder,
    node_decoder,
)
from scheduler.kube.peers import RuledPod, ruled_pod_decoder
from scheduler.kube.pod_requests import has_ended, pod_request, pod_uid
from scheduler.kube.rule_context import CONTEXT_DECODERS, CONTEXT_PATHS
from scheduler.kube.salvage import REQUEST, InPart
from scheduler.kube.sharing.record_policy import guarded_since
from scheduler.kube.volumes import key_of
from scheduler.kube.workloads import Stated, statements

__all__ = ["LiveCluster", "LiveFigures"]

log = logging.getLogger(__name__)

_RUNNING = "status.phase!=Succeeded,status.phase!=Failed"
_MOST_AT_ONCE = 32
_MOST_QUEUED = 20_000
_TURN_S = 1.0
_TOLD_EVERY_S = 3600.0
_TOLD_AGAIN_S = 60.0
_MOST_NAMED = 10
_LONGEST_TEXT = 300

_IN_PART = (("Node", "nodes"), ("Pod", "pods"), ("PodDisruptionBudget", "poddisruptionbudgets"))
"""Kinds of which more than the name counts where only a part could be read, as they are watched."""

Item = tuple[str, str, Any]


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

    def untold(self) -> None:
        self._put("untold", None)

    def event(self, kind: str, obj: Any) -> None:  # noqa: ANN401 - of the label's kind
        self._put(kind, obj)


class LiveCluster:
    """Keeps a ledger informed about a cluster.

    Parameters
    ----------
    ledger
        Of a live cluster; its engine starts empty.
    client
        The API.
    identity
        Of this replica, for the Lease.
    on_synced
        Called once, when everything that existed at the start is known and before it is answered.

    Attributes
    ----------
    sync : Sync
        Facts; used with the ledger's lock held only.
    binder : Binder
        Carries out the bind verb.
    lease : LeaseHolder or None
        Says whose turn it is, where that is not decided by somebody else.
    """

    def __init__(
        self,
        ledger: Ledger,
        client: KubeClient,
        identity: str,
        *,
        on_synced: Callable[[], None] = lambda: None,
    ) -> None:
        self.figures = LiveFigures()
        config = ledger.config
        self._ledger, self._client, self._config = ledger, client, config
        self._items: queue.Queue[Item] = queue.Queue(_MOST_QUEUED)
        self._kinds: dict[str, Kind] = {}
        self._stop = threading.Event()
        self._synced = threading.Event()
        self._on_synced = on_synced
        self._started = time.monotonic()
        with ledger.locked() as cluster:
            self.sync: Sync = cluster.live
            self._rules = cluster.rules
            self._engine = cluster.engine  # used with the lock held only
        self.binder = Binder(ledger, client, deadline_s=config.bind_deadline_s)
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
        self.audit = Audit(ledger, client, lambda: self._kinds, self.recount, self.figures)
        self._told = Sparingly(_TOLD_EVERY_S)
        self._caretaker = Caretaker(
            ledger,
            self.binder,
            client,
            self.figures,
            audit=self.audit,
            active=lambda: self.lease is None or self.lease.held,
            accepting=self.accepting,
            groups=self.look_for_groups,
            policy=self.look_at_policy,
            classes=self.look_at_classes,
        )
        self._classes_refused = ""
        self._policy_refused = ""
        self._threads = [
            threading.Thread(target=self._begin, name="begin", daemon=True),
            threading.Thread(target=self._apply_all, name="apply", daemon=True),
            *self._caretaker.threads(lambda: self.synced, self._stop),
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
        """Seconds since each kind was last heard of; of optional ones those that are known."""
        now = time.monotonic()
        return {
            label: now - (kind.reflector.figures.evidence_at or self._started)
            for label, kind in self._kinds.items()
            if not kind.optional or kind.listed
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
        with self._ledger.locked(chore=True):
            misread = self._not_understood()
            uncertain = sorted(self.sync.charges.nodes.uncertain)
            ambiguous = self.sync.charges.protocols.ambiguous_nodes
            by_dra = self.sync.charges.nodes.dra.nodes
            records = self.sync.charges.records
            unprotected, guarded = records.unprotected(self.sync.pods), records.protected
        content: dict[str, Any] = {
            "synced": self.synced,
            "watch_age_seconds": {label: round(age, 1) for label, age in self.ages().items()},
            "drift": self.figures.drift,
            "unreadable_objects": len(misread),
            "not_understood": [one.to_json() for one in misread[:_MOST_NAMED]],
            "objects_in_doubt": self.audit.doubts,
            "nodes_with_unknown_devices": uncertain[:_MOST_NAMED],
            "records_of_devices": {"guarded_by_policy": guarded, "unprotected": unprotected},
            "ambiguous_nodes": dict(sorted(ambiguous.items())[:_MOST_NAMED]),
            "nodes_with_devices_by_dra": dict(sorted(by_dra.items())[:_MOST_NAMED]),
        }
        if self.lease:
            content["lease"] = "held" if self.lease.held else "held by another replica"
        return content

    def _not_understood(self) -> list[NotUnderstood]:
        """Objects that are not as they should be. With the lock held."""
        running = (pod.request.key for pod in self.sync.pods.values())
        found = named(self.sync.unreadable, running)
        for kind, label in _IN_PART:
            watched = self._kinds.get(label)
            if watched is not None:
                found += [
                    in_part(kind, key, cut(watched.missing.get(identity, "")))
                    for identity, key in watched.unreadable.items()
                ]
        return found

    def read_in_part(self) -> dict[str, int]:
        """Objects of which only a part could be read, by kind. With the lock held."""
        return {
            name: len(self._kinds[label].unreadable)
            for name, label in _IN_PART
            if label in self._kinds
        }

    @property
    def chores(self) -> list[str]:
        """Names of all that is looked after."""
        return self._caretaker.chores

    def recount(self) -> list[str]:
        """Compare the state with the facts, off the request path, and mend it if it differs."""
        return self._caretaker.recount()

    def interrupt(self) -> None:
        """Cut every watch, as a network failure would."""
        for kind in self._kinds.values():
            kind.reflector.interrupt()

    # -- watching ----------------------------------------------------------------------------

    def _begin(self) -> None:
        """Find out what is served, as soon as the API answers, and watch it."""
        told = Sparingly(every_s=_TOLD_AGAIN_S)
        while not self._stop.is_set():
            try:
                self._read_policy()  # before the first record is read
                self._read_classes()
                self._kinds = self._all_kinds()
            except KubeApiError as error:
                if told.now(error.status):
                    log.warning(
                        "the API does not answer yet, asking again every %g s: %s", _TURN_S, error
                    )
                self._stop.wait(_TURN_S)
            else:
                break
        for kind in self._kinds.values():
            if not self._stop.is_set():
                kind.reflector.start()

    def look_at_policy(self) -> None:
        """Learn since when records of devices are guarded, as it may have changed."""
        try:
            self._read_policy()
        except KubeApiError as error:
            log.warning("whether records are still guarded is not known: %s", error)

    def _read_policy(self) -> None:
        """The same; :class:`KubeApiError` if the API does not say now."""
        name = self._config.record_policy
        if not name:
            return
        try:
            since = guarded_since(*read_policy(self._client, name), name)
        except KubeApiError as error:
            if error.passing:
                raise
            since = None
            if self._policy_refused != str(error):
                log.warning("records count as unguarded, policy %s cannot be read: %s", name, error)
            self._policy_refused = str(error)
        with self._ledger.locked(chore=True):
            self.sync.charges.protect(since)

    def look_at_classes(self) -> None:
        """Learn which resources DeviceClasses stand for, as it may have changed."""
        try:
            self._read_classes()
        except KubeApiError as error:
            log.warning("which resources are handed out by DRA is not known: %s", error)

    def _read_classes(self) -> None:
        """The same; :class:`KubeApiError` if the API does not say now."""
        dra = self.sync.charges.nodes.dra
        try:
            mapped = read_mapped(self._client)
        except KubeApiError as error:
            if error.passing:
                raise
            mapped = frozenset()
            if self._classes_refused != str(error):
                log.warning("nodes whose devices come by DRA are refused: %s", error)
            self._classes_refused = str(error)
        with self._ledger.locked(chore=True):
            if mapped != dra.mapped:
                before, dra.mapped = dra.nodes, mapped
                self.sync.charges.nodes.redescribe(sorted({*before, *dra.nodes}))

    def _all_kinds(self) -> dict[str, Kind]:
        kinds: dict[str, Kind] = {}
        sync = self.sync
        kinds["nodes"] = self._kind(
            "nodes", "/api/v1/nodes", node_decoder,
            apply=sync.node,
            remove_named=sync.node_gone,
            identity=lambda obj: obj.metadata.name,
            known=sync.node_names,
            where=lambda name: ("", name),
            right=lambda obj: obj.metadata.name in self._engine.state.row_of,
        )  # fmt: skip
        kinds["pods"] = self._kind(
            "pods", "/api/v1/pods", ruled_pod_decoder,
            apply=self._pod,
            remove_named=sync.pod_gone,
            identity=pod_uid,
            known=sync.pod_uids,
            where=self._where_pod,
            right=self._charged,
            ended=has_ended,
            unread=self._pod_in_part,
            selector=_RUNNING,
        )  # fmt: skip
        kinds["poddisruptionbudgets"] = self._kind(
            "poddisruptionbudgets", "/apis/policy/v1/poddisruptionbudgets", budget_decoder,
            apply=lambda obj: sync.budgets.__setitem__(obj.key, obj),
            remove_named=lambda key: sync.budgets.pop(key, None),
            identity=lambda obj: obj.key,
            known=lambda: list(sync.budgets),
            where=_split,
            right=lambda obj: obj.key in sync.budgets,
        )  # fmt: skip
        for kind, path in CONTEXT_PATHS.items():
            kinds[path.rpartition("/")[-1]] = self._context_kind(kind, path)
        for name in self._group_names():
            served = find(self._client, name)
            if served is None:
                log.info("%s is not served here: gangs of that kind have no stated size", name)
            else:
                kinds[name] = self._group_kind(name, served)
        return kinds

    def _context_kind(self, kind: str, path: str) -> Kind:
        """What rules of pods refer to: only dry runs ask for it, and only they miss it."""
        context = self._rules.context
        return self._kind(
            path.rpartition("/")[-1], path, CONTEXT_DECODERS[kind],
            apply=lambda obj: context.put(kind, obj),
            remove_named=lambda key: context.drop(kind, key),
            identity=lambda obj: key_of(obj.metadata, kind),
            known=lambda: context.keys(kind),
            where=lambda key: _split(key) if "/" in key else ("", key),
            complete=lambda: context.listed(kind),
            untold=lambda: context.untold(kind),
            optional=True,
        )  # fmt: skip

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

    def _group_kind(self, name: str, served: Served) -> Kind:
        stated: dict[str, dict[GangKey, Stated]] = {}

        def apply(obj: GroupObject) -> None:
            key = _key(obj)
            content = {
                "kind": served.kind,
                "apiVersion": served.api_version,
                "metadata": {"name": obj.metadata.name, "namespace": obj.metadata.namespace},
                "spec": obj.spec or {},
            }
            stated[key] = statements(content)
            self.sync.group(stated[key])

        def remove(key: str) -> None:
            self.sync.group_gone(stated.pop(key, {}))

        return self._kind(
            name, served.path, group_decoder,
            apply=apply,
            remove_named=remove,
            identity=_key,
            known=lambda: list(stated),
            where=_split,
            right=lambda obj: _key(obj) in stated,
        )  # fmt: skip

    def _kind(
        self,
        label: str,
        path: str,
        decoder: msgspec.json.Decoder[Any],
        *,
        selector: str = "",
        apply: Callable[[Any], None],
        remove_named: Callable[[str], Any],
        identity: Callable[[Any], str],
        known: Callable[[], Sequence[str]],
        where: Callable[[str], tuple[str, str]],
        right: Callable[[Any], bool] = lambda _: True,
        ended: Callable[[Any], bool] = lambda _: False,
        unread: Callable[[InPart[Any]], None] = lambda _: None,
        complete: Callable[[], None] = lambda: None,
        untold: Callable[[], None] = lambda: None,
        optional: bool = False,
    ) -> Kind:
        def unreadable(text: str) -> None:
            if self._told.now((label, text)):
                log.warning("an object of %s cannot be read: %s", label, text[:_LONGEST_TEXT])

        reflector: Reflector[Any] = Reflector(
            self._client,
            path,
            decoder,
            _Queue(label, self._items, self._stop),
            label=label,
            selector=selector,
            timing=WatchTiming(read_s=self._config.watch_read_s),
            optional=optional,
            unreadable=unreadable,
        )
        return Kind(
            label, path, decoder, selector, apply, remove_named, identity, known, where, right,
            ended, unread, complete, untold, optional, reflector,
        )  # fmt: skip

    def _where_pod(self, uid: str) -> tuple[str, str]:
        pod = self.sync.pods.get(uid)
        request = pod.request if pod is not None else self.sync.pending.get(uid)
        return (request.namespace, request.name) if request is not None else ("", "")

    def _charged(self, obj: PodObject) -> bool:
        """Whether a pod is known where it is, and charged what it asks for."""
        uid, node = pod_uid(obj), obj.spec.node_name
        pod = self.sync.pods.get(uid)
        if not node:
            return uid in self.sync.pending or pod is not None
        if pod is None or pod.node != node:
            return False
        placed = self._engine.state.placements.get(uid)
        if placed is None or placed.node != node:
            return node not in self._engine.state.row_of  # it is charged when its node is known
        try:
            wanted = pod_request(obj, self._ledger.names, self.sync.groups)
        except InvalidInput:
            return True  # it is charged all the same, and that is noted
        return placed.pod.shape == wanted.shape

    def _pod(self, obj: RuledPod) -> None:
        """A pod exists; what others have to heed of it is kept as long as the sync knows it."""
        try:
            self.sync.pod(obj)
        finally:
            self._keep_rules(obj)

    def _keep_rules(self, obj: RuledPod) -> None:
        uid = pod_uid(obj)
        if uid in self.sync.pods or uid in self.sync.pending:
            self._rules.kept.keep(obj)

    def _pod_in_part(self, part: InPart[RuledPod]) -> None:
        """A pod of which only a part could be read: what was known of it stays, where it was.

        Where nothing was, it is charged what can be read of its request; if that is not all of it,
        its node's devices are withheld meanwhile.
        """
        obj = part.obj
        pod = self.sync.pods.get(pod_uid(obj))
        if pod is not None and pod.node == obj.spec.node_name and not has_ended(obj):
            return
        try:
            if part.lacks(*REQUEST):
                self.sync.pod_in_part(obj)
            else:
                self.sync.pod(obj)
        finally:
            self._keep_rules(obj)

    # -- applying ----------------------------------------------------------------------------

    def _apply_all(self) -> None:
        while not self._stop.is_set():
            batch = [self._items.get()]
            try:
                while len(batch) < _MOST_AT_ONCE and batch[-1][1] != "page":
                    batch.append(self._items.get_nowait())
            except queue.Empty:
                pass
            with self._ledger.locked(chore=True) as cluster:
                for item in batch:
                    try:
                        self._apply_one(cluster, item)
                    except Exception as error:  # noqa: BLE001 - this thread must outlive it
                        self._lost(item[0], error)

    def _apply_one(self, cluster: Cluster, item: Item) -> None:
        label, what, content = item
        if what == "stop":
            return
        kind = self._kinds[label]
        match what:
            case "listing":
                kind.unlisted = set(kind.known())
            case "page":
                for obj in content:
                    kind.unlisted.discard(kind.identity(obj))
                    self._guarded(kind, obj, kind.exists)
            case "unread":
                for obj in content:
                    self._unread(kind, obj)
            case "listed":
                for name in sorted(kind.unlisted):
                    self._remove(kind, name)
                kind.whole()
                self._note_synced(cluster)
            case "untold":
                kind.unknown()
            case "UNREADABLE":
                self._unread(kind, content)
            case "DELETED":
                self._remove(kind, kind.identity(content), content)
            case _:
                self._guarded(kind, content, kind.exists)
        self.figures.events += 1

    def _lost(self, label: str, error: Exception) -> None:
        """Something was not applied, and nobody can say of which object: all are listed again."""
        self.figures.faults += 1
        self._kinds[label].reflector.relist()
        if self._told.now((label, type(error))):
            text = str(error)[:_LONGEST_TEXT]
            log.error("a message about %s cannot be applied: %s", label, text, exc_info=error)

    def _guarded(self, kind: Kind, obj: Any, apply: Callable[[Any], None]) -> bool:  # noqa: ANN401 - of the kind
        """One object that cannot be applied must not stand in the way of the others.

        It is read again until it can be; see :mod:`.audit`.
        """
        identity = kind.identity(obj)
        try:
            apply(obj)
        except Exception as error:  # noqa: BLE001 - as above
            where = obj.metadata.namespace, obj.metadata.name
            self.audit.failed(kind, identity, where, error)
            return False
        self.audit.settled(kind, identity)
        return True

    def _unread(self, kind: Kind, part: InPart[Any]) -> None:
        """An object that exists, and of which only a part could be read."""
        metadata = part.obj.metadata
        if not metadata.name:
            kind.unlisted.clear()  # whichever it is, it does exist
            return
        identity = kind.identity(part.obj)
        kind.unlisted.discard(identity)
        if self._guarded(kind, part.obj, lambda _: kind.exists_in_part(part)):
            self.audit.doubt(kind, identity, (metadata.namespace, metadata.name))

    def _remove(self, kind: Kind, identity: str, obj: Any = None) -> None:  # noqa: ANN401 - of the kind
        where = (obj.metadata.namespace, obj.metadata.name) if obj is not None else ("", "")
        try:
            kind.gone(identity)
        except Exception as error:  # noqa: BLE001 - tried again until it can be
            self.audit.failed(kind, identity, where, error)
        else:
            self.audit.settled(kind, identity)

    def _note_synced(self, cluster: Cluster) -> None:
        if not self.synced and all(k.listed or k.optional for k in self._kinds.values()):
            self.figures.synced_s = time.monotonic() - self._started
            cluster.events.on_synced()
            self._on_synced()
            self._synced.set()
            log.info(
                "synced %d nodes and %d running pods in %.1f s",
                len(self.sync.node_names()),
                len(self.sync.pods),
                self.figures.synced_s,
            )


def _key(obj: GroupObject) -> str:
    return f"{obj.metadata.namespace or 'default'}/{obj.metadata.name}"


def _split(key: str) -> tuple[str, str]:
    namespace, _, name = key.partition("/")
    return namespace, name
