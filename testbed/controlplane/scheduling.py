"""KubeSchedulerConfigurations: stock, and with an extender."""

from __future__ import annotations

from typing import Any

from testbed.controlplane.objects import SCHEDULER

Json = dict[str, Any]

MANAGED = (
    "nvidia.com/gpu",
    "nvidia.com/gpu.shared",
    "nvidia.com/mig-1g.10gb",
    "nvidia.com/mig-2g.20gb",
    "nvidia.com/mig-3g.40gb",
    "snugfit.io/gpu-milli",
    "snugfit.io/gpu-memory-mib",
)
_SPREADING = (
    "NodeResourcesFit",
    "NodeResourcesBalancedAllocation",
    "ImageLocality",
    "PodTopologySpread",
    "InterPodAffinity",
    "TaintToleration",
    "NodeAffinity",
)


def stock(scheduler_name: str = SCHEDULER, **more: object) -> Json:
    """kube-scheduler as it comes, but for looking at every node."""
    return {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        "percentageOfNodesToScore": 100,
        "profiles": [{"schedulerName": scheduler_name}],
        **more,
    }


def extended(
    url: str,
    scheduler_name: str = SCHEDULER,
    *,
    packing: bool = True,
    **extender: object,
) -> Json:
    """kube-scheduler that asks the extender at ``url``; ``extender`` overrides its settings."""
    profile: Json = {"schedulerName": scheduler_name}
    if packing:
        profile["plugins"] = {"score": {"disabled": [{"name": name} for name in _SPREADING]}}
    settings: Json = {
        "urlPrefix": url,
        "filterVerb": "filter",
        "prioritizeVerb": "prioritize",
        "weight": 20,
        "nodeCacheCapable": True,
        "ignorable": False,
        "httpTimeout": "30s",
        "managedResources": [{"name": name, "ignoredByScheduler": False} for name in MANAGED],
    }
    return stock(scheduler_name) | {
        "profiles": [profile],
        "extenders": [settings | extender],
    }
