"""The extended resources that DeviceClasses of the cluster stand for, read once."""

from __future__ import annotations

import msgspec

from scheduler.cluster.api.client import KubeClient
from scheduler.cluster.api.discovery import find
from scheduler.core.errors import NotFound
from scheduler.kube.dra import DEVICE_CLASSES, DeviceClassList, all_mapped_resources

__all__ = ["read_mapped"]

_decoder = msgspec.json.Decoder(DeviceClassList)


def read_mapped(client: KubeClient) -> frozenset[str]:
    """Extended resources that DeviceClasses of the cluster stand for; none where it has no classes.

    Raises
    ------
    KubeApiError
        The API refuses, or does not answer.
    """
    served = find(client, DEVICE_CLASSES)
    if served is None:
        return frozenset()
    try:
        return all_mapped_resources(client.read(served.path, _decoder))
    except NotFound:
        return frozenset()
