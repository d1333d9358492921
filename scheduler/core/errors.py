"""Every exception that Snugfit raises on purpose.

::

    SchedulerError
    ├── InvalidInput       a file, a request or an option is wrong; carries the field's path
    ├── UnknownNode        a node name that the state has never seen
    ├── UnknownPod         a release of a pod that the state does not hold
    ├── CapacityConflict   a delta would over-commit a row; nothing was written
    ├── FrozenState        a write to a snapshot
    ├── SolverFault        a plan broke a rule of its problem; nothing of it may be used
    └── KubeApiError       the Kubernetes API refused, or could not be reached
        ├── Forbidden          403
        ├── NotFound           404
        ├── Conflict           409
        ├── Gone               410
        └── TooManyRequests    429

"Does not fit" is not an exception: it is a :class:`scheduler.core.model.Reason`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

__all__ = [
    "CapacityConflict",
    "Conflict",
    "Forbidden",
    "FrozenState",
    "Gone",
    "InvalidInput",
    "KubeApiError",
    "NotFound",
    "SchedulerError",
    "SolverFault",
    "TooManyRequests",
    "UnknownNode",
    "UnknownPod",
    "api_error",
    "nearest",
]


def nearest(word: str, choices: Iterable[str]) -> str:
    """The choice that a mistyped word most likely meant, for messages."""
    listed, word = sorted(choices), word.lower()
    begun = [choice for choice in listed if word and choice.startswith(word)]
    return (begun or difflib.get_close_matches(word, listed, n=1, cutoff=0.0))[0]


_LONGEST_TEXT = 1000


class SchedulerError(Exception):
    """Root of the tree. Its text is meant for a user and says what to do next."""

    def __reduce__(self) -> tuple[Any, ...]:
        """As it is, whatever its constructor takes: errors come back from worker processes."""
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(
    kind: type[SchedulerError], args: tuple[object, ...], fields: dict[str, object]
) -> SchedulerError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(fields)
    return error


class InvalidInput(SchedulerError):
    """Something a user wrote cannot be used.

    Parameters
    ----------
    field
        Path of the offending field, such as ``spec.containers[0].resources.requests``, or
        ``pods.csv:17:gpu_milli``.
    problem
        What is wrong with the value.
    remedy
        What would be right.
    """

    def __init__(self, field: str, problem: str, remedy: str = "") -> None:
        self.field = field
        self.problem = problem
        self.remedy = remedy
        text = f"{field}: {problem}" + (f" ({remedy})" if remedy else "")
        # It is said for every node of a cluster, and the object's author may name the field.
        super().__init__(text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 3]}...")


class UnknownNode(SchedulerError):
    """A node name that the cluster state does not hold."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"node {name!r} is not known; is it in the cluster file or watched yet?")


class UnknownPod(SchedulerError):
    """A pod uid that the cluster state does not hold."""

    def __init__(self, uid: str) -> None:
        self.uid = uid
        super().__init__(f"pod uid {uid!r} holds nothing; it was released or never placed")


class CapacityConflict(SchedulerError):
    """A delta does not fit. The state is exactly what it was before the call."""

    def __init__(self, node: str, pod: str, what: str) -> None:
        self.node = node
        self.pod = pod
        self.what = what
        super().__init__(f"pod {pod} does not fit on node {node}: {what}; ask filter again")


class FrozenState(SchedulerError):
    """A snapshot was written to. Take ``fork()`` for a mutable what-if copy."""

    def __init__(self) -> None:
        super().__init__("a snapshot is frozen; use fork() for a what-if copy")


class SolverFault(SchedulerError):
    """A plan that the validator rejects. A fault of ours, never of the input."""


class KubeApiError(SchedulerError):
    """A call of the Kubernetes API that did not succeed.

    Parameters
    ----------
    call
        Method and path, without query and without credentials.
    status
        HTTP status; 0 if there was no answer, and then nobody knows whether the call took effect.
    message
        What the server or the transport said, cut to a line.
    retry_after_s
        How long the server asks to be left alone; 0 if it does not say.
    """

    def __init__(self, call: str, status: int, message: str, *, retry_after_s: float = 0.0) -> None:
        self.call = call
        self.status = status
        self.message = " ".join(message.split())[:_LONGEST_MESSAGE]
        self.retry_after_s = retry_after_s
        super().__init__(f"{call}: {status or 'no answer'}: {self.message}{_remedy(status)}")

    @property
    def passing(self) -> bool:
        """Whether the same call may well succeed later."""
        return self.outcome_unknown or self.status == HTTPStatus.TOO_MANY_REQUESTS

    @property
    def outcome_unknown(self) -> bool:
        """Whether the call may have taken effect all the same."""
        return self.status == 0 or self.status >= HTTPStatus.INTERNAL_SERVER_ERROR


class Forbidden(KubeApiError):
    """403: the account lacks the right."""


class NotFound(KubeApiError):
    """404: there is no such object, or the kind is not served."""


class Conflict(KubeApiError):
    """409: the object is another by now, or in a state that excludes the call."""


class Gone(KubeApiError):
    """410: the version to go on from is too old; what there is has to be listed anew."""


class TooManyRequests(KubeApiError):
    """429: refused before anything was done; for an eviction, a budget does not allow it now."""


_BY_STATUS: dict[int, type[KubeApiError]] = {
    HTTPStatus.FORBIDDEN: Forbidden,
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.CONFLICT: Conflict,
    HTTPStatus.GONE: Gone,
    HTTPStatus.TOO_MANY_REQUESTS: TooManyRequests,
}


def api_error(call: str, status: int, message: str, *, retry_after_s: float = 0.0) -> KubeApiError:
    """The error that stands for this status; parameters as of :class:`KubeApiError`."""
    return _BY_STATUS.get(status, KubeApiError)(call, status, message, retry_after_s=retry_after_s)


_LONGEST_MESSAGE = 300


def _remedy(status: int) -> str:
    match status:
        case 401:
            return " (check the credentials of the kubeconfig or the service account)"
        case 403:
            return " (grant the verb to the service account; `snugfit doctor` lists what is needed)"
        case 0:
            return " (is the API server reachable from here?)"
        case _:
            return ""
