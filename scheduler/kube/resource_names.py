"""Names of resources and labels that say what GPUs a pod wants and a node has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from zlib import crc32

__all__ = ["PARTITIONS", "ResourceNames", "plain_product", "profile_of"]

PARTITIONS = tuple(
    f"amd.com/{mode}"
    for mode in (
        "spx_nps1", "dpx_nps1", "dpx_nps2", "tpx_nps1", "qpx_nps1", "qpx_nps4", "cpx_nps1",
        "cpx_nps2", "cpx_nps4",
    )
)  # fmt: skip
"""Partitions of AMD devices that are named by their mode, as far as there are such modes."""
_PARTITIONS = re.compile(r"amd\.com/[sdtqc]px_nps[0-9]{1,2}")
_ATTRIBUTE = re.compile(r"\.(?=(?:me|gfx)\b)")


def plain_product(label: str) -> str:
    """Device model of a label, without what feature discovery appends for sharing and MIG."""
    return label.removesuffix("-SHARED").split("-MIG-")[0]


def profile_of(written: str) -> str:
    """MIG profile of what stands in resource names and labels, where ``.me`` is ``+me``."""
    return _ATTRIBUTE.sub("+", written)


@dataclass(frozen=True)
class ResourceNames:
    """Which extended resources and labels mean what. Every name is configurable.

    Parameters
    ----------
    whole
        Resources that count whole devices.
    shared
        Resource that counts replicas of time-sliced devices (``renameByDefault`` of the NVIDIA
        device plugin).
    mig_prefix
        What precedes a MIG profile; ``1g.5gb.me`` after it means the profile ``1g.5gb+me``.
    milli, memory
        Our own fraction protocol: milli-GPU (1..999 is part of one device, a multiple of 1000 is
        whole devices) and MiB of device memory.
    product_labels
        Node labels that state the device model, in order of precedence.
    memory_label, replicas_label, count_label
        Node labels that state MiB per device, replicas per device, and devices.
    strategy_label
        Node label with the MIG strategy: under ``single`` all devices are partitioned alike, and
        the first of the whole-device resources counts instances.
    cloud_count_label, cloud_clients_label, cloud_partition_label
        Node labels of GKE: devices, pods that share each, and the MIG profile of all of them.
    partition_label
        Node label with the partition mode of AMD devices.
    devices_annotation
        Pod annotation that records assigned devices as ``index:milli:memory:slots,...``.
    visible_annotation
        Pod annotation with the indices of the assigned devices, for the container's environment.
    uid_annotation
        Pod annotation with the UID of the pod that a record of devices was made for: a copy of it
        on another pod says nothing.
    serves_label
        Node label of a node that offers its devices twice, whole and in parts: which of the two it
        serves, ``whole`` or ``fractions``. Without it, one at a time.
    share_memory, share_count, share_unit_mib
        The gpushare device plugin's memory and device counts, and MiB per unit of the former
        (its ``--memory-unit``: 1024 for GiB, 1 for MiB).
    hami_memory, hami_percent, hami_cores, hami_priority
        What a container asks for of each of its devices under HAMi: memory, memory in percent,
        cores in percent, and its turn on them.
    hami_unit_mib, hami_default_mib
        HAMi's ``memoryFactor``, and its ``defaultMemory``: MiB that a container gets of a device
        where it states none, 0 for all of it.
    kai_namespace
        Where KAI keeps the pods that reserve the devices it shares.
    """

    whole: tuple[str, ...] = (
        "nvidia.com/gpu",
        "amd.com/gpu",
        "gpu.intel.com/i915",
        "gpu.intel.com/xe",
    )
    shared: str = "nvidia.com/gpu.shared"
    mig_prefix: str = "nvidia.com/mig-"
    milli: str = "snugfit.io/gpu-milli"
    memory: str = "snugfit.io/gpu-memory-mib"
    product_labels: tuple[str, ...] = (
        "nvidia.com/gpu.product",
        "amd.com/gpu.product-name",
        "cloud.google.com/gke-accelerator",
        "k8s.amazonaws.com/accelerator",
    )
    memory_label: str = "nvidia.com/gpu.memory"
    replicas_label: str = "nvidia.com/gpu.replicas"
    count_label: str = "nvidia.com/gpu.count"
    strategy_label: str = "nvidia.com/mig.strategy"
    cloud_count_label: str = "cloud.google.com/gke-accelerator-count"
    cloud_clients_label: str = "cloud.google.com/gke-max-shared-clients-per-gpu"
    cloud_partition_label: str = "cloud.google.com/gke-gpu-partition-size"
    partition_label: str = "amd.com/compute-memory-partition"
    devices_annotation: str = "snugfit.io/devices"
    visible_annotation: str = "snugfit.io/visible-devices"
    serves_label: str = "snugfit.io/serves"
    uid_annotation: str = "snugfit.io/devices-uid"
    share_memory: str = "aliyun.com/gpu-mem"
    share_count: str = "aliyun.com/gpu-count"
    share_unit_mib: int = 1024
    hami_memory: str = "nvidia.com/gpumem"
    hami_percent: str = "nvidia.com/gpumem-percentage"
    hami_cores: str = "nvidia.com/gpucores"
    hami_priority: str = "nvidia.com/priority"
    hami_unit_mib: int = 1
    hami_default_mib: int = 0
    kai_namespace: str = "kai-resource-reservation"

    def __hash__(self) -> int:
        return self._identity

    @cached_property
    def _identity(self) -> int:
        """Of all fields; asked for with every pod, so that it is worked out once."""
        return crc32(repr(self).encode())

    def is_of_devices(self, name: str) -> bool:
        """Whether a resource stands for devices, or says how a pod wants them."""
        return (
            self.counts_units(name)
            or name.startswith(self.mig_prefix)
            or (name in self._of_devices)
        )

    @cached_property
    def _of_devices(self) -> frozenset[str]:
        return frozenset(
            (
                *self.whole, self.shared, self.milli, self.memory, self.share_memory,
                self.share_count, self.hami_memory, self.hami_percent, self.hami_cores,
                self.hami_priority,
            )
        )  # fmt: skip

    def stands_for_devices(self, name: str) -> bool:
        """Whether a resource is a name by which devices are asked for, as kube-scheduler counts."""
        known = (self.shared, self.milli, self.memory, self.share_memory)
        return name in known or name.startswith(self.mig_prefix) or self.counts_units(name)

    def counts_units(self, name: str) -> bool:
        """Whether a resource counts units of devices that are handed out one by one.

        Devices themselves, partitions that are named by their mode, and time-sliced MIG instances
        with a name of their own.
        """
        if name in self.whole:
            return True
        if name.startswith(self.mig_prefix):
            return name.endswith(".shared")
        return name.startswith("amd.com/") and _PARTITIONS.fullmatch(name) is not None
