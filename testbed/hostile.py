"""What a hostile tenant writes: pods of one namespace that contradict themselves in every way.

It may create, patch and delete pods and nothing else. The values are those that the API server lets
through: annotations are any text, labels are short, quantities are numbers.
"""

from __future__ import annotations

import json
import random
from typing import Any

Json = dict[str, Any]

TENANT = "tenant"
WHOLE, MILLI, MEMORY = "nvidia.com/gpu", "snugfit.io/gpu-milli", "snugfit.io/gpu-memory-mib"
GUARDED = ("snugfit.io/devices", "snugfit.io/visible-devices", "snugfit.io/devices-uid")
"""What the policy of the chart keeps tenants from changing."""

_HUGE = ("9" * 5000, "1" + "0" * 30, str(2**63), str(2**64 + 1), "1e400", "inf", "nan")
_DIGITS = ("\u0663", "\u0967", "\uff11", "\u00b2", "\U0001d7d9", "0x10", "1_000", " 7", "+1", "-1")


def some_annotations(chance: random.Random) -> dict[str, str]:
    """Some of everybody's annotations, with values that are right, wrong, or no values at all."""
    makers = chance.sample(_MAKERS, chance.choice((1, 1, 2, 3)))
    found: dict[str, str] = {}
    for make in makers:
        found |= make(chance)
    return found


def some_labels(chance: random.Random) -> dict[str, str]:
    """Labels that mean something to a scheduler, with a few values so that pods share them."""
    keys = (
        "runai-gpu-group", "runai-gpu-group/g1", "scheduling.x-k8s.io/pod-group",
        "pod-group.scheduling.sigs.k8s.io", "kueue.x-k8s.io/pod-group-name", "run.ai/gpu-group",
        "leaderworkerset.sigs.k8s.io/name", "leaderworkerset.sigs.k8s.io/group-index",
        "nvidia.com/gpu.product",
    )  # fmt: skip
    return {key: chance.choice(("g1", "g2", "A100", "0")) for key in chance.sample(keys, 2)}


def some_requests(chance: random.Random) -> Json:
    """What a pod asks for: sensible, nothing, contradictory, or more than any cluster has."""
    sensible: list[Json] = [
        {MILLI: str(chance.choice((1, 300, 500, 900)))},
        {MILLI: str(chance.choice((600, 999, 1000, 2000)))},
        {WHOLE: str(chance.choice((1, 1, 2, 4)))},
        {MEMORY: str(chance.choice((1, 1000, 20_000, 40_960)))},
        {MILLI: "400", MEMORY: str(chance.choice((1, 30_000)))},
    ]
    odd: list[Json] = [
        {},
        {WHOLE: "1", MILLI: "500"},
        {MILLI: chance.choice(("1500", "0", "9223372036854775807", "1k", "1M"))},
        {MEMORY: chance.choice(("9223372036854775807", "1Gi", "1E"))},
        {WHOLE: chance.choice(("0", "1k", "9223372036854775807"))},
        {"nvidia.com/mig-1g.5gb": "1"},
        {"aliyun.com/gpu-mem": chance.choice(("1", "40", "9223372036854775807"))},
        {"nvidia.com/gpu.shared": "3", MILLI: "100"},
    ]
    return chance.choice(sensible if chance.random() < 0.8 else odd)


def some_status(chance: random.Random) -> Json:
    """Parts of a status that a scheduler reads."""
    return chance.choice(
        (
            {"nominatedNodeName": chance.choice(("whole-0", "both-0", "nowhere"))},
            {"containerStatuses": [{
                "name": "c",
                "resources": {"requests": {MILLI: "1"}},
                "allocatedResources": {WHOLE: "0"},
            }]},
            {"resize": "Infeasible"},
            {"conditions": [
                {"type": "PodResizePending", "status": "True", "reason": "Infeasible"},
                {"type": "DisruptionTarget", "status": "True"},
            ]},
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "x" * 20_000}]},
        )
    )  # fmt: skip


def other_record(chance: random.Random, milli: int) -> str:
    """A record of our own protocol that is smaller than the request, or names other devices."""
    index, other = chance.randrange(4), chance.randrange(4)
    return chance.choice(
        (
            "", f"{index}:1", f"{index}:{max(1, milli - 1)}", f"{index}:{min(milli, 1000)}",
            f"{index}:{min(milli, 1000)}:0:0", f"{index}:0:0:0", f"{index}:1,{other}:1",
            "99:1000", "none",
        )
    )  # fmt: skip


def _number(chance: random.Random) -> str:
    few = ("0", "1", "2", "7", "64", "500", "1000", "1001", "40960", "16777215", "999999999", "")
    return chance.choice(chance.choice((few, few, _HUGE, _DIGITS)))


def _ours(chance: random.Random) -> dict[str, str]:
    record = chance.choice(
        (
            "", "0:1", "0:0", "0:0:0:0", "1:1,2:1", "x", ",", ":", "0:1000:40960:0",
            ",".join(f"{index}:1000" for index in range(8)),
            ",".join(f"{index}:0:16777215:0" for index in range(8)),
            ":".join(_number(chance) for _ in range(chance.choice((1, 2, 3, 4, 5)))),
            f"{chance.randrange(4)}:{chance.randrange(1, 1001)}",
        )
    )  # fmt: skip
    found = {"snugfit.io/devices": record}
    if chance.random() < 0.5:
        found["snugfit.io/devices-uid"] = chance.choice(("", "uid", "*", "honest-0"))
    if chance.random() < 0.3:
        found["snugfit.io/visible-devices"] = chance.choice(("all", "0,1,2,3", "", "none"))
    if chance.random() < 0.2:
        found["snugfit.io/woken-at"] = _number(chance)
    return found


def _hami(chance: random.Random) -> dict[str, str]:
    key = chance.choice(("allocated", "to-allocate"))
    device = chance.choice(("GPU-0", "GPU-x", "", "0"))
    text = chance.choice(
        (
            f"{device},NVIDIA,{_number(chance)},{_number(chance)}:;", "zzz", ";;;", ":" * 500,
            f"{device},NVIDIA,1,1:" * 300,
        )
    )  # fmt: skip
    return {f"hami.io/vgpu-devices-{key}": text, "hami.io/vgpu-node": "part-0"}


def _kai(chance: random.Random) -> dict[str, str]:
    return {
        chance.choice(("gpu-fraction", "gpu-memory")): chance.choice(("0.1", "0.5", "1", "-1"))
        if chance.random() < 0.6
        else _number(chance),
        **({"run.ai/reserve_for_gpu_index": _number(chance)} if chance.random() < 0.4 else {}),
        **({"received-resource-type": "Fraction"} if chance.random() < 0.3 else {}),
    }


def _gpushare(chance: random.Random) -> dict[str, str]:
    return {
        "ALIYUN_COM_GPU_MEM_IDX": _number(chance),
        "ALIYUN_COM_GPU_MEM_POD": _number(chance),
        **({"ALIYUN_COM_GPU_MEM_DEV": _number(chance)} if chance.random() < 0.5 else {}),
        **({"ALIYUN_COM_GPU_MEM_ASSIGNED": "true"} if chance.random() < 0.5 else {}),
    }


def _gang(chance: random.Random) -> dict[str, str]:
    name = chance.choice(("g1", "g2", "g" * 3000))
    size = _number(chance)
    return chance.choice(
        (
            {"scheduling.k8s.io/group-name": name,
             "scheduling.volcano.sh/group-min-member": size},
            {"gang.scheduling.koordinator.sh/name": name,
             "gang.scheduling.koordinator.sh/min-available": size},
            {"pod-group-name": name},
            {"snugfit.io/gang": "true", "snugfit.io/gang-size": size,
             "batch.kubernetes.io/job-completion-index": size},
            {"snugfit.io/gang-size": size},
            {"kueue.x-k8s.io/pod-group-total-count": size},
        )
    )  # fmt: skip


def _noise(chance: random.Random) -> dict[str, str]:
    return {
        chance.choice(("snugfit.io/unknown", "kubernetes.io/psp", "a")): chance.choice(
            (json.dumps({"a": [1] * 100}), "\u202e\u0000x".replace("\u0000", ""), "x" * 60_000)
        )
    }


_MAKERS = (_ours, _ours, _hami, _kai, _gpushare, _gang, _noise)
