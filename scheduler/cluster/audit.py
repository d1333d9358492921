"""What is known compared with the API itself, and mended object by object.

An event that could not be applied leaves a *doubt*: the object is read again, at once and then ever
more rarely, until it can be applied. The audit finds doubts that nobody knows of: from time to time
it lists everything in pages, a consistent read without the load of a new watch, and compares which
objects exist, in which version, on which node, and what they are charged.

A difference may be an event under way. So each object is read by itself before that is called
drift, twice with a pause between, and an event about it in the meantime settles the matter.

One object is read as a list of its namespace by name: that needs no right beyond those that the
watch has. Nothing here holds the lock for more than a few objects at a time.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from scheduler.cluster.api.paging import Reads, pages
from scheduler.cluster.housekeeping import RepeatLimit
from scheduler.cluster.ledger import Cluster, Ledger
from scheduler.cluster.live_figures import AuditFigures
from scheduler.cluster.recount import Recount
from scheduler.cluster.watched import Watched
from scheduler.cluster.watches import Watches
from scheduler.core.errors import KubeApiError
from scheduler.kube.salvage import InPart, salvage

__all__ = ["Audit"]

log = logging.getLogger(__name__)

_MOST_READINGS = 50
_SLICE = 32
_FIRST_S, _LONGEST_S = 1.0, 60.0
_CONFIRMED_AFTER_S = 3.0
_ONCE_S = 3600.0
_LONGEST_TEXT = 300


@dataclass(eq=False)
class _Doubt:
    """An object that may not be known as it is.

    Attributes
    ----------
    suspected : str or None
        Version in which an audit has found it, empty for none; None for a fault of ours.
    """

    namespace: str
    name: str
    due: float
    attempts: int = 0
    suspected: str | None = None
    confirmed: bool = field(default=False)


class Audit:
    """Reads again what is doubtful. Marking is done with the cluster's lock held.

    Parameters
    ----------
    ledger
        Of the cluster.
    client
        The API.
    watches
        The kinds watched by now.
    recount
        Compares the state with the facts and mends it.
    figures
        Counts what happens.
    """

    def __init__(
        self,
        ledger: Ledger,
        client: Reads,
        watches: Watches,
        recount: Recount,
        figures: AuditFigures,
    ) -> None:
        self.figures = figures
        self._ledger, self._client, self._watches = ledger, client, watches
        self._recount = recount
        self._doubts: dict[tuple[str, str], _Doubt] = {}
        self._reported = RepeatLimit(_ONCE_S)
        self._jitter = random.Random()  # noqa: S311 - spreads retries, decides nothing

    @property
    def doubts(self) -> int:
        """Objects that are to be read again."""
        return len(self._doubts)

    # -- what the applying thread says --------------------------------------------------------

    def settled(self, watched: Watched, identity: str) -> None:
        """An event about the object has been applied."""
        self._doubts.pop((watched.label, identity), None)

    def failed(
        self, watched: Watched, identity: str, where: tuple[str, str], error: Exception
    ) -> None:
        """An event about the object could not be applied."""
        self.figures.faults += 1
        self.doubt(watched, identity, where)
        if self._reported.now((watched.label, identity)):
            name, text = "/".join(filter(None, where)) or identity, str(error)[:_LONGEST_TEXT]
            log.error("%s of %s cannot be applied: %s", name, watched.label, text, exc_info=error)

    def doubt(self, watched: Watched, identity: str, where: tuple[str, str]) -> None:
        """The object is to be read again; without a name, to be removed again."""
        before = self._doubts.get((watched.label, identity))
        attempts = before.attempts + 1 if before else 0
        wait = 0.0 if not attempts else min(_LONGEST_S, _FIRST_S * 2 ** min(attempts - 1, 16))
        due = time.monotonic() + wait * self._jitter.uniform(0.5, 1.0)
        self._doubts[watched.label, identity] = _Doubt(*where, due, attempts)

    # -- reading again ------------------------------------------------------------------------

    def reread(self) -> None:
        """Read what is doubtful and due; :class:`KubeApiError` if the API cannot be asked."""
        now = time.monotonic()
        with self._ledger.locked(chore=True):
            due = [(key, doubt) for key, doubt in self._doubts.items() if doubt.due <= now]
        for key, doubt in sorted(due, key=lambda item: item[1].due)[:_MOST_READINGS]:
            watched = self._watches.get(key[0])
            if watched is None:
                continue
            try:
                obj = self._one(watched, doubt)
            except KubeApiError as error:
                with self._ledger.locked(chore=True):
                    self._again(key, doubt)
                if error.passing:
                    raise
                log.warning("%s of %s cannot be read: %s", doubt.name, watched.label, error)
                continue
            self.figures.rereads += 1
            with self._ledger.locked(chore=True) as cluster:
                if self._doubts.get(key) is doubt:  # else an event has come in the meantime
                    self._settle(cluster, watched, key[1], doubt, obj)
            if doubt.confirmed:
                self._report_drift(watched, key[1], doubt)

    def _one(self, watched: Watched, doubt: _Doubt) -> Any | InPart[Any] | None:  # noqa: ANN401 - of the kind
        """The object as it is now, or what can be read of it; None if there is none."""
        if not doubt.name:
            return None
        selection = {"fieldSelector": f"metadata.name={doubt.name}"}
        for page in pages(self._client, watched.path_in(doubt.namespace), selection):
            for raw in page:
                obj = _decoded(watched, raw)
                if obj is not None and _whatever(obj).metadata.name == doubt.name:
                    return obj
        return None

    def _settle(
        self,
        cluster: Cluster,
        watched: Watched,
        identity: str,
        doubt: _Doubt,
        found: Any,  # noqa: ANN401 - as above
    ) -> None:
        obj = None if found is None else _whatever(found)
        if obj is not None and (
            watched.kind.identity(obj) != identity or watched.kind.has_ended(obj)
        ):
            found = obj = None  # it has ended; another of its name is told of by the watch
        if isinstance(found, InPart):
            self._try(
                watched, identity, doubt, lambda: watched.exists_in_part(cluster, found), read=False
            )
            return
        if doubt.suspected is not None and not self._confirmed(
            cluster, watched, identity, doubt, obj
        ):
            return
        if obj is None:
            self._try(watched, identity, doubt, lambda: watched.gone(cluster, identity))
        else:
            self._try(watched, identity, doubt, lambda: watched.exists(cluster, obj))

    def _confirmed(
        self,
        cluster: Cluster,
        watched: Watched,
        identity: str,
        doubt: _Doubt,
        obj: Any,  # noqa: ANN401 - as above
    ) -> bool:
        """Whether an object differs that has been found to differ in the same way before."""
        version = obj.metadata.resource_version if obj is not None else ""
        if not watched.differs(cluster, identity, obj):
            del self._doubts[watched.label, identity]
        elif doubt.suspected != version or not doubt.attempts:
            doubt.suspected, doubt.attempts = version, 1
            doubt.due = time.monotonic() + _CONFIRMED_AFTER_S
        else:
            doubt.confirmed = True
        return doubt.confirmed

    def _try(
        self,
        watched: Watched,
        identity: str,
        doubt: _Doubt,
        apply: Callable[[], object],
        *,
        read: bool = True,
    ) -> None:
        try:
            apply()
        except Exception as error:  # noqa: BLE001 - logged, counted, and tried again later
            self.failed(watched, identity, (doubt.namespace, doubt.name), error)
        else:
            if read:
                del self._doubts[watched.label, identity]
            else:
                self._again((watched.label, identity), doubt)

    def _again(self, key: tuple[str, str], doubt: _Doubt) -> None:
        if self._doubts.get(key) is doubt:
            doubt.attempts += 1
            wait = min(_LONGEST_S, _FIRST_S * 2 ** min(doubt.attempts - 1, 16))
            doubt.due = time.monotonic() + wait * self._jitter.uniform(0.5, 1.0)

    def _report_drift(self, watched: Watched, identity: str, doubt: _Doubt) -> None:
        self.figures.mended += 1
        if self._reported.now(("drift", watched.label, identity)):
            name = f"{doubt.namespace}/{doubt.name}".lstrip("/")
            log.error("%s of %s was not known as the API has it; mended", name, watched.label)
        self._recount.run()  # what the facts say by now, the state has to say, too

    # -- the audit ----------------------------------------------------------------------------

    def audit(self) -> int:
        """Compare everything with the API; how many objects are to be looked at closely."""
        suspects = 0
        for watched in list(self._watches):
            if watched.listed and watched.reflector.figures.served:
                suspects += self._audit(watched)
        self.figures.audits += 1
        return suspects

    def _audit(self, watched: Watched) -> int:
        with self._ledger.locked(chore=True) as cluster:
            missing = set(watched.kind.known(cluster))
        found: dict[str, Any] = {}
        selection = {"fieldSelector": watched.kind.selector} if watched.kind.selector else {}
        for page in pages(self._client, watched.kind.path, selection):
            objects = [
                _whatever(obj) for raw in page if (obj := _decoded(watched, raw)) is not None
            ]
            missing.difference_update(map(watched.kind.identity, objects))
            for some in _slices(objects):
                with self._ledger.locked(chore=True) as cluster:
                    found |= {
                        watched.kind.identity(obj): obj
                        for obj in some
                        if self._odd(cluster, watched, obj)
                    }
        with self._ledger.locked(chore=True) as cluster:
            # What has come, changed or gone meanwhile is known by now.
            named = {
                identity: (obj.metadata.namespace, obj.metadata.name)
                for identity, obj in found.items()
                if self._odd(cluster, watched, obj)
            }
            for identity in missing.intersection(watched.kind.known(cluster)):
                named[identity] = watched.kind.where(cluster, identity)
            for identity, where in named.items():
                key = watched.label, identity
                if key not in self._doubts:
                    self._doubts[key] = _Doubt(*where, time.monotonic(), suspected="")
        return len(named)

    def _odd(self, cluster: Cluster, watched: Watched, obj: Any) -> bool:  # noqa: ANN401 - of the kind
        identity = watched.kind.identity(obj)
        return identity not in watched.unreadable and watched.differs(cluster, identity, obj)


def _decoded(watched: Watched, raw: msgspec.Raw) -> Any | InPart[Any] | None:  # noqa: ANN401 - of the kind
    try:
        return watched.kind.decoder.decode(raw)
    except msgspec.MsgspecError:
        return salvage(watched.kind.decoder, raw)


def _whatever(found: Any | InPart[Any]) -> Any:  # noqa: ANN401 - as above
    """What could be read of it, and be that a part."""
    return found.obj if isinstance(found, InPart) else found


def _slices(objects: list[Any]) -> Iterable[list[Any]]:
    return (objects[start : start + _SLICE] for start in range(0, len(objects), _SLICE))
