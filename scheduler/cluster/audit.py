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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from scheduler.cluster.api.paging import Reads, pages
from scheduler.cluster.housekeeping import Sparingly
from scheduler.cluster.ledger import Ledger
from scheduler.cluster.watched import Kind
from scheduler.core.errors import KubeApiError
from scheduler.kube.salvage import InPart, salvage

__all__ = ["Audit", "AuditFigures"]

log = logging.getLogger(__name__)

_MOST_READINGS = 50
_SLICE = 32
_FIRST_S, _LONGEST_S = 1.0, 60.0
_CONFIRMED_AFTER_S = 3.0
_ONCE_S = 3600.0
_LONGEST_TEXT = 300


@dataclass
class AuditFigures:
    """What has been found so far, for metrics.

    Attributes
    ----------
    faults : int
        Events and objects that could not be applied because of a fault of ours.
    audits, rereads : int
        Comparisons with the API; objects read by themselves.
    mended : int
        Objects that were not known as the API has them, although no event was under way.
    """

    faults: int = 0
    audits: int = 0
    rereads: int = 0
    mended: int = 0


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
    kinds
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
        kinds: Callable[[], Mapping[str, Kind]],
        recount: Callable[[], object],
        figures: AuditFigures,
    ) -> None:
        self.figures = figures
        self._ledger, self._client, self._kinds = ledger, client, kinds
        self._recount = recount
        self._doubts: dict[tuple[str, str], _Doubt] = {}
        self._told = Sparingly(_ONCE_S)
        self._jitter = random.Random()  # noqa: S311 - spreads retries, decides nothing

    @property
    def doubts(self) -> int:
        """Objects that are to be read again."""
        return len(self._doubts)

    # -- what the applying thread says --------------------------------------------------------

    def settled(self, kind: Kind, identity: str) -> None:
        """An event about the object has been applied."""
        self._doubts.pop((kind.label, identity), None)

    def failed(self, kind: Kind, identity: str, where: tuple[str, str], error: Exception) -> None:
        """An event about the object could not be applied."""
        self.figures.faults += 1
        self.doubt(kind, identity, where)
        if self._told.now((kind.label, identity)):
            name, text = "/".join(filter(None, where)) or identity, str(error)[:_LONGEST_TEXT]
            log.error("%s of %s cannot be applied: %s", name, kind.label, text, exc_info=error)

    def doubt(self, kind: Kind, identity: str, where: tuple[str, str]) -> None:
        """The object is to be read again; without a name, to be removed again."""
        before = self._doubts.get((kind.label, identity))
        attempts = before.attempts + 1 if before else 0
        wait = 0.0 if not attempts else min(_LONGEST_S, _FIRST_S * 2 ** min(attempts - 1, 16))
        due = time.monotonic() + wait * self._jitter.uniform(0.5, 1.0)
        self._doubts[kind.label, identity] = _Doubt(*where, due, attempts)

    # -- reading again ------------------------------------------------------------------------

    def reread(self) -> None:
        """Read what is doubtful and due; :class:`KubeApiError` if the API cannot be asked."""
        now = time.monotonic()
        with self._ledger.locked(chore=True):
            due = [(key, doubt) for key, doubt in self._doubts.items() if doubt.due <= now]
        for key, doubt in sorted(due, key=lambda item: item[1].due)[:_MOST_READINGS]:
            kind = self._kinds().get(key[0])
            if kind is None:
                continue
            try:
                obj = self._one(kind, doubt)
            except KubeApiError as error:
                with self._ledger.locked(chore=True):
                    self._again(key, doubt)
                if error.passing:
                    raise
                log.warning("%s of %s cannot be read: %s", doubt.name, kind.label, error)
                continue
            self.figures.rereads += 1
            with self._ledger.locked(chore=True):
                if self._doubts.get(key) is doubt:  # else an event has come in the meantime
                    self._settle(kind, key[1], doubt, obj)
            if doubt.confirmed:
                self._told_of_drift(kind, key[1], doubt)

    def _one(self, kind: Kind, doubt: _Doubt) -> Any | InPart[Any] | None:  # noqa: ANN401 - of the kind
        """The object as it is now, or what can be read of it; None if there is none."""
        if not doubt.name:
            return None
        selection = {"fieldSelector": f"metadata.name={doubt.name}"}
        for page in pages(self._client, kind.path_in(doubt.namespace), selection):
            for raw in page:
                obj = _decoded(kind, raw)
                if obj is not None and _whatever(obj).metadata.name == doubt.name:
                    return obj
        return None

    def _settle(self, kind: Kind, identity: str, doubt: _Doubt, found: Any) -> None:  # noqa: ANN401 - as above
        obj = None if found is None else _whatever(found)
        if obj is not None and (kind.identity(obj) != identity or kind.ended(obj)):
            found = obj = None  # it has ended; another of its name is told of by the watch
        if isinstance(found, InPart):
            self._try(kind, identity, doubt, lambda: kind.exists_in_part(found), read=False)
            return
        if doubt.suspected is not None and not self._confirmed(kind, identity, doubt, obj):
            return
        if obj is None:
            self._try(kind, identity, doubt, lambda: kind.gone(identity))
        else:
            self._try(kind, identity, doubt, lambda: kind.exists(obj))

    def _confirmed(self, kind: Kind, identity: str, doubt: _Doubt, obj: Any) -> bool:  # noqa: ANN401 - as above
        """Whether an object differs that has been found to differ in the same way before."""
        version = obj.metadata.resource_version if obj is not None else ""
        if not kind.differs(identity, obj):
            del self._doubts[kind.label, identity]
        elif doubt.suspected != version or not doubt.attempts:
            doubt.suspected, doubt.attempts = version, 1
            doubt.due = time.monotonic() + _CONFIRMED_AFTER_S
        else:
            doubt.confirmed = True
        return doubt.confirmed

    def _try(
        self,
        kind: Kind,
        identity: str,
        doubt: _Doubt,
        apply: Callable[[], object],
        *,
        read: bool = True,
    ) -> None:
        try:
            apply()
        except Exception as error:  # noqa: BLE001 - told of, counted, and tried again later
            self.failed(kind, identity, (doubt.namespace, doubt.name), error)
        else:
            if read:
                del self._doubts[kind.label, identity]
            else:
                self._again((kind.label, identity), doubt)

    def _again(self, key: tuple[str, str], doubt: _Doubt) -> None:
        if self._doubts.get(key) is doubt:
            doubt.attempts += 1
            wait = min(_LONGEST_S, _FIRST_S * 2 ** min(doubt.attempts - 1, 16))
            doubt.due = time.monotonic() + wait * self._jitter.uniform(0.5, 1.0)

    def _told_of_drift(self, kind: Kind, identity: str, doubt: _Doubt) -> None:
        self.figures.mended += 1
        if self._told.now(("drift", kind.label, identity)):
            name = f"{doubt.namespace}/{doubt.name}".lstrip("/")
            log.error("%s of %s was not known as the API has it; mended", name, kind.label)
        self._recount()  # what the facts say by now, the state has to say, too

    # -- the audit ----------------------------------------------------------------------------

    def audit(self) -> int:
        """Compare everything with the API; how many objects are to be looked at closely."""
        suspects = 0
        for kind in list(self._kinds().values()):
            if kind.listed and kind.reflector.figures.served:
                suspects += self._audit(kind)
        self.figures.audits += 1
        return suspects

    def _audit(self, kind: Kind) -> int:
        with self._ledger.locked(chore=True):
            missing = set(kind.known())
        found: dict[str, Any] = {}
        selection = {"fieldSelector": kind.selector} if kind.selector else {}
        for page in pages(self._client, kind.path, selection):
            objects = [_whatever(obj) for raw in page if (obj := _decoded(kind, raw)) is not None]
            missing.difference_update(map(kind.identity, objects))
            for some in _slices(objects):
                with self._ledger.locked(chore=True):
                    found |= {kind.identity(obj): obj for obj in some if self._odd(kind, obj)}
        with self._ledger.locked(chore=True):
            # What has come, changed or gone meanwhile is known by now.
            named = {
                identity: (obj.metadata.namespace, obj.metadata.name)
                for identity, obj in found.items()
                if self._odd(kind, obj)
            }
            for identity in missing.intersection(kind.known()):
                named[identity] = kind.where(identity)
            for identity, where in named.items():
                key = kind.label, identity
                if key not in self._doubts:
                    self._doubts[key] = _Doubt(*where, time.monotonic(), suspected="")
        return len(named)

    def _odd(self, kind: Kind, obj: Any) -> bool:  # noqa: ANN401 - of the kind
        identity = kind.identity(obj)
        return identity not in kind.unreadable and kind.differs(identity, obj)


def _decoded(kind: Kind, raw: msgspec.Raw) -> Any | InPart[Any] | None:  # noqa: ANN401 - of the kind
    try:
        return kind.decoder.decode(raw)
    except msgspec.MsgspecError:
        return salvage(kind.decoder, raw)


def _whatever(found: Any | InPart[Any]) -> Any:  # noqa: ANN401 - as above
    """What could be read of it, and be that a part."""
    return found.obj if isinstance(found, InPart) else found


def _slices(objects: list[Any]) -> Iterable[list[Any]]:
    return (objects[start : start + _SLICE] for start in range(0, len(objects), _SLICE))
