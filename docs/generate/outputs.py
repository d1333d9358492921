"""JSON that commands print: every key explained, beside what the example really gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from docs.generate.markdown import block, code, table
from docs.generate.running import EXAMPLE, ROOT, printed, quoted

__all__ = ["OUTPUTS", "Output", "page", "unexplained"]

_CLUSTER = str(EXAMPLE.relative_to(ROOT))

_HEAD = """# Output

What commands print with `--json`: one JSON object on stdout. Progress and remarks go to stderr, and
only to a terminal. Examples were printed when this page was built. Keys stay as they are within a
major version; new ones may be added.

Two lists are part of most outputs. `not_understood` names every object of the input that is not as it
should be, with the effect: `{object, field, why, effect}`. `not_considered` names rules that the answer
leaves out: `{rule, pods, effect}`.
"""


@dataclass(frozen=True)
class Output:
    """One command's JSON.

    Parameters
    ----------
    about
        What it is good for.
    keys
        Key -> meaning.
    example
        Arguments of a run whose output the page shows; empty if it needs a live cluster or minutes.
    elsewhere
        Keys that the command prints for another input than that of the example.
    """

    about: str
    keys: Mapping[str, str]
    example: tuple[str, ...] = ()
    elsewhere: frozenset[str] = frozenset()


_COMMON = {
    "not_understood": "objects of the input that are not as they should be",
    "not_considered": "rules that the answer leaves out",
    "seconds": "time that it took",
    "stopped": "whether Ctrl-C or a signal has cut it short",
}
_RUN = {
    "policy": "name of the policy",
    "seed": "seed of everything random",
    "config_hash": "identity of the experiment: same hash, same result",
    "protocol": "`as-listed`, `inflation` or `replay`",
    "workload_profile": "`given` or `learnt`: where the workload profile comes from",
    "placed": "pods that were placed",
    "pending": "pods that stayed pending",
    "sizes": "per size of pods: how many came, and how many were placed",
    "pending_pods": "the pods that stayed pending: `namespace`, `name`, `size`, `reason`",
    "power_kw": "power by the model: at the end, or averaged over time in a replay",
    **_COMMON,
}

OUTPUTS: Mapping[str, Output] = {
    "plan": Output(
        "A plan for all pending pods of a cluster. Exit code 1 if a pending pod stays without a place.",
        {
            "status": "`PROVED`: value and bound meet, moves included, and nothing was left out; "
            "`PROVED_IN_PART`: as far as rules were considered; `INFEASIBLE_PROVED`: no pending pod "
            "can be placed; `IMPROVED` or `KEPT_GREEDY`: not proved, better than placing one by one "
            "or not; `TIMED_OUT`: nothing was searched",
            "objectives": "the objectives in their order: `name`, `value`, `bound` (null if there "
            "is none)",
            "tiers": "one entry per priority: `placed` of `pods`, running ones included; `value` and "
            "`bound` of the objective; `gap` in percent",
            "served": "what each class of requests gets: `placed` of `pods`; members of gangs count with "
            "what they ask for, and once more `in gangs`",
            "disruption": "`value` and `bound` of the disruption of running pods",
            "placements": "pods and their nodes and devices, in an order in which they can be made "
            "once everything that moves is evicted",
            "moves": "running pods that move: `from` and `to`",
            "restarts": "gangs of which a member moves, so that all of it restarts",
            "unplaced": "pending pods without a place: `reason`, and `untried` if time was over "
            "before every way of making room was looked at",
            "nodes_used": "nodes with at least one pod",
            "relaxed": "gangs that had to be spread over several topology domains",
            "statistics": "what the search did; for developers",
            **_COMMON,
        },
        ("plan", _CLUSTER, "--json"),
    ),
    "simulate": Output(
        "A workload, placed pod by pod. `runs` has one object per policy and seed; with `--seeds` the "
        "output has `means` with 95 % intervals, too. Keys of a run:",
        {
            **_RUN,
            "capacity_gpu_milli": "milli-GPU of all nodes",
            "requested_gpu_milli": "milli-GPU requested by all pods that came",
            "allocated_gpu_milli": "milli-GPU allocated at the end",
            "allocation_at": "percent of the capacity allocated when the requested share of the "
            'capacity passes `"0.90"`, `"1.00"` and so on',
            "power_kw_at": "power by the model, at the same points",
        },
        ("simulate", _CLUSTER, "--json"),
    ),
    "simulate --protocol replay": Output(
        "Arrivals and departures at their own times, through kube-scheduler's queue. Keys of a run:",
        {
            **_RUN,
            "planned": "whether the planner planned the pending pods",
            "rate": "how much faster than listed pods arrive",
            "pods": "pods that came",
            "attempts": "scheduling attempts",
            "plans": "plans made",
            "allocation_percent": "GPU allocated, averaged over time",
            "demand_percent": "GPU requested by running and pending pods, averaged over time",
            "peak_percent": "GPU allocated at most",
            "waiting": "per size of pods: how many, how many still pending, and quantiles of the "
            "waiting time in seconds; null where the quantile is a pod still pending",
            "gangs": "what became of gangs: `whole`, `half` and `none`, and GPU hours that half "
            "gangs held",
        },
        ("simulate", _CLUSTER, "--protocol", "replay", "--json"),
    ),
    "bound": Output(
        "The most GPU that any scheduler could allocate, and what an integer plan reaches.",
        {
            "status": "as for `plan`",
            "capacity_gpu_milli": "milli-GPU of all nodes",
            "requested_gpu_milli": "milli-GPU requested by all pods",
            "planned_gpu_milli": "milli-GPU that the plan allocates",
            "bound_gpu_milli": "milli-GPU that no plan exceeds",
            "planned_percent": "the plan in percent of the capacity",
            "bound_percent": "the bound in percent of the capacity",
            "gap_percent": "distance of plan and bound, in percent of the capacity",
            "begun_with": "the policy whose placements the plan could begin with; `draft` if there were too many "
            "pods to try one",
            "pods_placed": "pods that the plan places",
            "pods": "pods in all",
            **_COMMON,
        },
        ("bound", _CLUSTER, "--json"),
    ),
    "config check": Output(
        "Traps in a KubeSchedulerConfiguration; [the rules](config-check.md). Exit code 1 if there is "
        "a finding.",
        {
            "file": "what was checked",
            "findings": "`rule`, `path` and `line` in the file, `problem`, `remedy`, and `level`: "
            "`refused` (kube-scheduler does not start) or `trap` (it starts and places badly)",
            "notes": "what has to be known though nothing is wrong; no reason for exit code 1",
            "weights": "of a policy file: the weights as written",
            "in_force": "of a policy file: the weights as they are charged, in steps of 1/64",
        },
        ("config", "check", "docs/examples/scheduler.yaml", "--json"),
        frozenset({"weights", "in_force"}),
    ),
    "advertise": Output(
        "What nodes would advertise, or do with `--apply`.",
        {
            "applied": "whether it was written",
            "nodes": "per node: `node`, `action`, `gpus`, `patch`, `note`",
        },
    ),
    "doctor": Output(
        "A look at a live cluster.",
        {
            "server": "address of the API server",
            "checks": "`question`, `state`, `answer`, `remedy`: permissions, versions, and with "
            "`--extender` whether kube-scheduler calls it",
            "nodes": "per node: `node`, `devices`, `protocols`, `state`, `remark`: how its GPUs are "
            "understood, and what is ambiguous about them",
            "not_understood": "objects that are not as they should be",
        },
    ),
    "sweep": Output(
        "A [grid of runs](sweeps.md). Exit code 1 if a row came to nothing.",
        {
            "rows": "rows of the grid, or of the part of it that was asked for",
            "done": "rows that are there",
            "known_before": "of these, rows that `--rows` had already",
            "failed": "rows that came to nothing: `job` and `error`",
            "means": "per `workload`, `settings` and `policy`: `seeds`, and of each figure the `mean` and "
            "half of its 95 % interval",
            "stopped": "whether Ctrl-C has cut it short",
        },
        ("sweep", "docs/examples/sweep.yaml", "--processes", "1", "--json"),
    ),
    "tune": Output(
        "Weights for your own workload. Exit code 1 if they stay as they were. With `--journal` an "
        "interrupted search goes on where it stopped.",
        {
            "source": "file of the workload",
            "workload_profile": "`given` or `learnt`",
            "holdout_seeds": "how many seeds judge a change that helped in training",
            "weights": "the weights found",
            "steps": "every change that was tried: gain in training and on the hold-out, and whether "
            "it was accepted",
        },
    ),
}  # fmt: skip
"""Command -> what it prints."""


def unexplained(name: str) -> set[str]:
    """Keys that the example prints and nobody explains, and keys that are only explained."""
    output = OUTPUTS[name]
    return set(_object(printed(*output.example))) ^ (set(output.keys) - output.elsewhere)


def _object(text: str) -> dict[str, Any]:
    """Keys of an output; those of its first run stand beside the others."""
    content = dict(json.loads(text))
    runs = content.pop("runs", [])
    return {**content, **(runs[0] if runs else {})}


def page() -> str:
    """One section per command."""
    return _HEAD + "\n" + "\n\n".join(_section(*each) for each in OUTPUTS.items()) + "\n"


def _section(name: str, output: Output) -> str:
    parts = [
        f"## `snugfit {name} --json`",
        output.about,
        table(("key", "meaning"), ((code(key), text) for key, text in output.keys.items())),
    ]
    if output.example:
        if wrong := unexplained(name):
            raise LookupError(f"{name} --json: {sorted(wrong)} printed or explained, not both")
        parts += [code(quoted(output.example)) + " prints", block(printed(*output.example), "json")]
    return "\n\n".join(parts)
