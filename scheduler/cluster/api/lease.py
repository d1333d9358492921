"""One of several replicas acts: a coordination.k8s.io Lease, as Kubernetes' own components use it.

The holder renews; a candidate takes over once it has *itself* seen no renewal for the length of the
lease, so that clocks of different machines are never compared. A holder that cannot renew stops
acting before anybody else may begin. If somebody deletes the Lease, a candidate that has seen
another holder waits for the same time before it creates a new one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from scheduler.cluster.api.client import KubeClient
from scheduler.core.errors import Conflict, KubeApiError, NotFound
from scheduler.kube.objects import mapping_decoder

__all__ = ["LeaseHolder"]

log = logging.getLogger(__name__)

_ABSENT = "absent"


class LeaseHolder:
    """Tries to hold a Lease for as long as it runs.

    Parameters
    ----------
    client
        The API.
    namespace, name
        Of the Lease; it is created if it does not exist.
    identity
        Unique per replica.
    seconds
        Length of the lease. It is renewed three times as often, and given up by its holder after
        two thirds of it without a renewal.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        name: str,
        identity: str,
        *,
        seconds: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._identity, self._seconds, self._clock = client, identity, seconds, clock
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = name
        self._renewed_at: float | None = None
        self._observed: tuple[str, float] = ("", 0.0)  # version of another's lease, when seen
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    @property
    def held(self) -> bool:
        """Whether this replica may act now."""
        renewed = self._renewed_at
        return renewed is not None and self._clock() - renewed < self._seconds * 2 / 3

    def start(self) -> None:
        """Begin trying."""
        self._thread.start()

    def stop(self) -> None:
        """Give the lease up, so that another replica need not wait, and end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=self._seconds)
        if self.held:
            self._renewed_at = None
            try:
                lease = self._read()
                if lease is not None and self._holder(lease) == self._identity:
                    lease["spec"]["holderIdentity"] = ""
                    self._client.put(f"{self._collection}/{self._name}", lease)
            except KubeApiError as error:
                log.warning("lease not given up, it will run out: %s", error)

    def attempt(self) -> None:
        """Create, take over or renew the lease, if that is possible now."""
        started = self._clock()
        try:
            if self._try():
                if not self.held:
                    log.info("lease %s is held by %s: acting", self._name, self._identity)
                self._renewed_at = started
            elif self._renewed_at is not None:
                log.warning("lease %s was taken by another replica: no longer acting", self._name)
                self._renewed_at = None
        except Conflict:
            pass  # another replica was faster; the next round will see which
        except KubeApiError as error:
            log.warning("lease %s: %s", self._name, error)

    # -- inside ------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.attempt()
            except Exception:  # without this thread the replica would never act again
                log.exception("lease %s: attempt failed", self._name)
            self._stop.wait(self._seconds / 3)

    def _try(self) -> bool:
        lease = self._read()
        if lease is None:
            if self._renewed_at is None and self._observed[0] and not self._silent(_ABSENT):
                return False  # its holder may not know yet that it is gone
            self._client.post(
                self._collection,
                {
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": self._name},
                    "spec": self._spec({}),
                },
            )
            return True
        if self._holder(lease) not in ("", self._identity) and not self._run_out(lease):
            return False
        lease["spec"] = self._spec(lease.get("spec") or {})
        # The version read goes back with it: if anybody has written since, this is refused.
        self._client.put(f"{self._collection}/{self._name}", lease)
        return True

    def _read(self) -> dict[str, Any] | None:
        try:
            content: dict[str, Any] = self._client.read(
                f"{self._collection}/{self._name}", mapping_decoder, read_s=self._seconds / 3
            )
        except NotFound:
            return None
        return content

    @staticmethod
    def _holder(lease: dict[str, Any]) -> str:
        return str((lease.get("spec") or {}).get("holderIdentity") or "")

    def _run_out(self, lease: dict[str, Any]) -> bool:
        length = float((lease.get("spec") or {}).get("leaseDurationSeconds") or self._seconds)
        return self._silent(str(lease["metadata"]["resourceVersion"]), length)

    def _silent(self, version: str, length: float = 0.0) -> bool:
        """Whether this version of the lease has stood for its whole length, as seen from here."""
        if self._observed[0] != version:
            self._observed = (version, self._clock())
            return False
        return self._clock() - self._observed[1] >= (length or self._seconds)

    def _spec(self, before: dict[str, Any]) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        taken = before.get("holderIdentity") != self._identity
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._seconds)),
            "acquireTime": now if taken else before.get("acquireTime", now),
            "renewTime": now,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (taken and bool(before)),
        }
