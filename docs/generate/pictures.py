"""Drawings of the concepts."""

from __future__ import annotations

from docs.generate.drawing import Box, Canvas

__all__ = ["extender", "prices"]

_BUSY, _FREE, _NEW = "#a5b4fc", "#ffffff", "#fdba74"


def extender() -> str:
    """kube-scheduler, Snugfit and the API."""
    canvas = Canvas(1060, 330, "kube-scheduler calls Snugfit, and Snugfit follows the API")
    api = Box(370, 20, 220, 56, ("kube-apiserver", "nodes, pods, bindings"))
    scheduler = Box(20, 200, 220, 80, ("kube-scheduler", "queue, in-tree filters,", "binding"))
    webhook = Box(
        510, 200, 220, 80, ("Snugfit: webhook", "model of the cluster,", "scores, reservations")
    )
    planner = Box(870, 200, 170, 80, ("planner process", "prices, plans", "(OR-Tools)"))
    canvas.arrow(api, scheduler, bend=-12, label="watch")
    canvas.arrow(scheduler, api, bend=-12, label="bind")
    canvas.arrow(scheduler, webhook, label="filter, prioritize, bind, preempt")
    canvas.arrow(api, webhook, bend=-34, label="watch")
    canvas.arrow(webhook, api, bend=-34, label="bind with device")
    canvas.arrow(webhook, planner, bend=-14, label="changes")
    canvas.arrow(planner, webhook, bend=-14, label="prices, plans")
    for box in (api, scheduler, webhook, planner):
        canvas.box(box)
    canvas.text(
        530, 316, "Only pods that ask for a managed resource are sent to Snugfit.", size=12,
        color="#7b8794",
    )  # fmt: skip
    return canvas.svg()


def prices() -> str:
    """Two nodes, the pods that come, and what a pod costs on each."""
    canvas = Canvas(920, 330, "What a placement costs: the value of a node before and after")
    canvas.text(20, 26, "A pod of 1 GPU and 4 cores comes. Where is it least expensive?", size=14,
                anchor="start", bold=True)  # fmt: skip
    _node(canvas, 20, 50, "node a", free=2, cores=8, before="1 pod of 2 GPUs: 2.6",
          after="1 pod of 1 GPU: 1.0", cost="1.6")  # fmt: skip
    _node(canvas, 480, 50, "node b", free=3, cores=4, before="1 pod of 1 GPU: 1.0",
          after="nothing fits: no cores", cost="1.0", chosen=True)  # fmt: skip
    canvas.text(20, 312, "Prices: a pod of 2 GPUs (8 cores) is worth 2.6, a pod of 1 GPU (4 cores) 1.0. "
                "Node b keeps GPUs that nobody can use, and pays least.", size=12, anchor="start",
                color="#7b8794")  # fmt: skip
    return canvas.svg()


def _node(
    canvas: Canvas, x: float, y: float, name: str, *, free: int, cores: int, before: str,
    after: str, cost: str, chosen: bool = False,
) -> None:  # fmt: skip
    """A node of four GPUs, with the value of what is free before and after."""
    canvas.rect(x, y, 420, 230, "#f8fafc", "#1f2933")
    canvas.text(x + 16, y + 24, f"{name}: {free} GPUs and {cores} cores are free", anchor="start",
                bold=True)  # fmt: skip
    for place in range(4):
        left = x + 16 + place * 64
        taken = place >= free
        fill = _BUSY if taken else _NEW if chosen and place == 0 else _FREE
        canvas.rect(left, y + 40, 54, 40, fill, "#1f2933")
        canvas.text(
            left + 27, y + 65, "used" if taken else "new" if fill == _NEW else "free", size=11
        )
    canvas.text(x + 16, y + 112, f"value before — {before}", anchor="start")
    canvas.text(x + 16, y + 138, f"value after — {after}", anchor="start")
    canvas.text(x + 16, y + 172, f"the placement costs {cost}", anchor="start", bold=True, size=15)
    if chosen:
        canvas.text(x + 16, y + 204, "chosen", anchor="start", bold=True, color="#c2410c")
