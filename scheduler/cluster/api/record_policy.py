"""The admission policy that guards device records, and its binding, read from the API."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from scheduler.cluster.api.client import KubeClient
from scheduler.core.errors import NotFound
from scheduler.kube.sharing.record_policy import RECORD_POLICY, Policy

__all__ = ["read_policy"]

_API = "/apis/admissionregistration.k8s.io/v1"
_KINDS = ("validatingadmissionpolicies", "validatingadmissionpolicybindings")
_OBJECT = msgspec.json.Decoder(dict[str, Any])


def read_policy(client: KubeClient, name: str = RECORD_POLICY) -> Policy:
    """Policy and binding of this name.

    Raises
    ------
    KubeApiError
        The API refuses, or does not answer.
    """
    found: list[dict[str, Any] | None] = []
    for kind in _KINDS:
        try:
            found.append(client.read(f"{_API}/{kind}/{quote(name, safe='')}", _OBJECT))
        except NotFound:
            found.append(None)
    return found[0], found[1]
