"""What a production cluster consists of: nodes and pods in the shares of a public trace.

Source: Alibaba cluster-trace-gpu-v2023 (openb), its list of 1,213 GPU nodes and its pods, as in
`openb_pod_list_default`; one in ten names a model, as in `openb_pod_list_gpuspec10`. The models G2
and G3 of the trace stand for an A10 and an A100. Some of its models are scarce, and some of its
nodes have little cpu per GPU, which is what tells policies apart.
"""

from __future__ import annotations

from scheduler.core.model import GpuRequest
from scheduler.simulator.generate import NodeShape, PodShape

__all__ = ["OPENB_NODES", "OPENB_PODS"]

_T4, _A10, _A100 = "Tesla-T4", "NVIDIA-A10", "NVIDIA-A100-SXM4-80GB"
_P100, _V16, _V32 = "Tesla-P100-PCIE-16GB", "Tesla-V100-SXM2-16GB", "Tesla-V100-SXM2-32GB"

OPENB_NODES = (
    NodeShape(_A10, 8, 96, 384, 23_028, 549),
    NodeShape(_T4, 2, 104, 512, 15_360, 387),
    NodeShape(_P100, 2, 16, 120, 16_280, 109),
    NodeShape(_P100, 2, 64, 256, 16_280, 25),
    NodeShape(_A100, 8, 128, 768, 81_920, 39),
    NodeShape(_V16, 4, 32, 128, 16_160, 28),
    NodeShape(_V16, 1, 8, 32, 16_160, 19),
    NodeShape(_V16, 8, 64, 256, 16_160, 8),
    NodeShape(_V32, 8, 96, 768, 32_510, 21),
    NodeShape(_V32, 4, 48, 368, 32_510, 9),
    NodeShape(_T4, 4, 96, 384, 15_360, 17),
)
"""Nodes by their number in the trace."""

_ONE, _LARGE, _SMALL = (11, 11, 11, 11, 3, 12, 18, 8, 15, 9), (3, 3, 3, 3, 11), (4, 4, 8, 8, 11, 6)

OPENB_PODS = (
    PodShape(GpuRequest(), (12, 12, 12, 32, 32, 8, 8, 15, 16), 1088),
    PodShape(GpuRequest(count=1), _ONE, 3461),
    PodShape(GpuRequest(milli=810), _LARGE, 964),
    PodShape(GpuRequest(milli=650), _LARGE, 253),
    PodShape(GpuRequest(milli=590), _SMALL, 75),
    PodShape(GpuRequest(milli=550), _SMALL, 72),
    PodShape(GpuRequest(milli=470), _SMALL, 651),
    PodShape(GpuRequest(milli=460), _SMALL, 128),
    PodShape(GpuRequest(milli=370), _SMALL, 47),
    PodShape(GpuRequest(milli=320), _SMALL, 328),
    PodShape(GpuRequest(milli=230), _SMALL, 202),
    PodShape(GpuRequest(milli=160), _SMALL, 74),
    PodShape(GpuRequest(count=1, products=(_T4,)), _ONE, 216),
    PodShape(GpuRequest(milli=810, products=(_T4,)), _LARGE, 114),
    PodShape(GpuRequest(milli=470, products=(_T4,)), _SMALL, 57),
    PodShape(GpuRequest(count=1, products=(_A10,)), _ONE, 96),
    PodShape(GpuRequest(count=1, products=(_P100,)), (3, 4, 8), 42),
    PodShape(GpuRequest(milli=470, products=(_P100,)), (3, 4), 42),
    PodShape(GpuRequest(count=1, products=(_V16, _V32)), (3, 4, 8), 41),
    PodShape(GpuRequest(count=1, products=(_P100, _V16, _V32)), (3, 4, 8), 31),
    PodShape(GpuRequest(count=1, products=(_A100,)), (11, 12, 18), 24),
    PodShape(GpuRequest(count=8), (64, 64, 88), 44),
    PodShape(GpuRequest(count=2), (6, 16, 30), 16),
    PodShape(GpuRequest(count=4), (32, 32, 60), 15),
)
"""Pods by their number in the trace, rounded; cores are picked with equal chance."""
