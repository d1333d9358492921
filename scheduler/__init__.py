"""Snugfit: a GPU-aware bin-packing scheduler extender for Kubernetes.

What :data:`__all__` lists is public: it stays as it is between minor versions. Everything else,
every module below this one included, is private and may change with any commit.

Read a cluster, see what a policy places, and what a plan of all pods at once would:

>>> import scheduler
>>> workload = scheduler.generate(scheduler.GeneratorConfig(nodes=10, load=1.1, seed=1))
>>> outcome = scheduler.simulate(workload, "best-fit")
>>> len(workload.requests) == outcome.placed + len(outcome.pending)
True
>>> snapshot = scheduler.Snapshot.of_empty_cluster(workload)
>>> budget = scheduler.Budget(2.0, deterministic=True)
>>> planned = scheduler.plan(snapshot.problem("gpu"), budget)
>>> scheduler.verify(workload.nodes, planned.placements)
[]
>>> planned.tiers[0].value >= outcome.allocated_gpu_milli
True

Ask the engine about one pod:

>>> engine = scheduler.Engine(scheduler.ClusterState(workload.nodes), "best-fit")
>>> pod = workload.requests[0]
>>> row = engine.best(pod, selection=True)
>>> engine.choose(pod, workload.nodes[row].name).pod is pod
True

Importing this module is cheap: what a name needs is imported when the name is used.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from scheduler.advisor.snapshot import Snapshot as Snapshot
    from scheduler.core.engine import Engine as Engine
    from scheduler.core.errors import InvalidInput as InvalidInput
    from scheduler.core.errors import SchedulerError as SchedulerError
    from scheduler.core.model import Device as Device
    from scheduler.core.model import GpuRequest as GpuRequest
    from scheduler.core.model import Node as Node
    from scheduler.core.model import Placement as Placement
    from scheduler.core.model import PodRequest as PodRequest
    from scheduler.core.policies.table import POLICIES as POLICIES
    from scheduler.core.price_weights import PriceWeights as PriceWeights
    from scheduler.core.state import ClusterState as ClusterState
    from scheduler.core.validator import verify as verify
    from scheduler.files.workload import Arrival as Arrival
    from scheduler.files.workload import BoundPod as BoundPod
    from scheduler.files.workload import Workload as Workload
    from scheduler.planner.effort import Budget as Budget
    from scheduler.planner.plan import plan as plan
    from scheduler.planner.problem import Plan as Plan
    from scheduler.planner.problem import Problem as Problem
    from scheduler.simulator.generate import GeneratorConfig as GeneratorConfig
    from scheduler.simulator.generate import generate as generate
    from scheduler.simulator.inflation import Outcome as Outcome
    from scheduler.simulator.replay import ReplayOutcome as ReplayOutcome

__all__ = [
    "POLICIES",
    "Arrival",
    "BoundPod",
    "Budget",
    "ClusterState",
    "Device",
    "Engine",
    "GeneratorConfig",
    "GpuRequest",
    "InvalidInput",
    "Node",
    "Outcome",
    "Placement",
    "Plan",
    "PodRequest",
    "PriceWeights",
    "Problem",
    "ReplayOutcome",
    "SchedulerError",
    "Snapshot",
    "Workload",
    "__version__",
    "generate",
    "plan",
    "read_cluster",
    "read_workload",
    "replay",
    "simulate",
    "verify",
]

__version__ = "0.1.0"

_HOMES = {
    "POLICIES": "core.policies.table",
    "Arrival": "files.workload",
    "BoundPod": "files.workload",
    "Budget": "planner.effort",
    "ClusterState": "core.state",
    "Device": "core.model",
    "Engine": "core.engine",
    "GeneratorConfig": "simulator.generate",
    "GpuRequest": "core.model",
    "InvalidInput": "core.errors",
    "Node": "core.model",
    "Outcome": "simulator.inflation",
    "Placement": "core.model",
    "Plan": "planner.problem",
    "PodRequest": "core.model",
    "PriceWeights": "core.price_weights",
    "Problem": "planner.problem",
    "ReplayOutcome": "simulator.replay",
    "SchedulerError": "core.errors",
    "Snapshot": "advisor.snapshot",
    "Workload": "files.workload",
    "generate": "simulator.generate",
    "plan": "planner.plan",
    "verify": "core.validator",
}
"""Where each public name lives, below this package."""

# Programs say where their log goes; a command that prints its own lines does not.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> object:
    """A public name, imported when it is used for the first time."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """What is public."""
    return sorted(__all__)


def read_workload(*paths: Path) -> Workload:
    """A cluster and its pods, to be simulated.

    Parameters
    ----------
    paths
        Files that list it together: an openb node list and pod list (``.csv``); or one
        ``snugfit/v1`` file; or Kubernetes objects, JSON or YAML, in files and folders.

    Raises
    ------
    InvalidInput
        A file cannot be read, or they do not go together.
    """
    from scheduler.files.load import load_workload

    return load_workload(*paths)


def read_cluster(*paths: Path) -> Snapshot:
    """A cluster and its backlog, to be planned: pods, owners, budgets, rules between pods.

    Parameters
    ----------
    paths
        As for :func:`read_workload`.

    Raises
    ------
    InvalidInput
        A file cannot be read, they do not go together, or a pod runs on a node that is not listed.
    """
    from scheduler.advisor.snapshot import Snapshot
    from scheduler.files.load import load_dump

    return Snapshot.of_dump(load_dump(*paths))


def simulate(
    workload: Workload,
    policy: str = "priced",
    *,
    seed: int = 0,
    arrival: float | None = None,
    learn: bool = False,
    weights: PriceWeights | None = None,
) -> Outcome:
    """Place the pods of a workload one by one; none leaves.

    Parameters
    ----------
    workload
        Nodes, pods that run, pods that arrive.
    policy
        One of :data:`POLICIES`.
    seed
        Decides everything random.
    arrival
        Shuffle the pods and draw from them until this share of the GPUs is requested (the
        inflation protocol); None takes the pods as they are listed.
    learn
        Learn the workload profile from the pods seen so far, as the webhook does, instead of
        taking that of the whole workload.
    weights
        Of policy ``priced``; its defaults if left out.

    Returns
    -------
    Outcome
        Followed by a validator that shares no code with the engine.

    Raises
    ------
    InvalidInput
        The policy is unknown, or ``arrival`` is out of range.
    """
    from scheduler.core.policies.table import policy_named
    from scheduler.simulator.inflation import Experiment, run

    policy_named(policy)
    protocol = "as-listed" if arrival is None else "inflation"
    profile = "learnt" if learn else "given"
    experiment = Experiment(
        policy,
        seed,
        protocol,
        arrival or 1.0,
        workload.digest(),
        workload_profile=profile,
        weights=weights,
    )
    return run(workload, experiment)


def replay(
    workload: Workload,
    policy: str = "priced",
    *,
    seed: int = 0,
    rate: float = 1.0,
    plan_every_s: float = 0.0,
    learn: bool = False,
    weights: PriceWeights | None = None,
) -> ReplayOutcome:
    """Let the pods of a workload arrive, wait as in kube-scheduler's queue, run and leave.

    Parameters
    ----------
    workload, policy, seed, learn, weights
        As for :func:`simulate`.
    rate
        How many times faster pods arrive than in the source; durations stay.
    plan_every_s
        Let the planner plan the pending pods as often as that, in simulated time; 0 turns it off.

    Raises
    ------
    InvalidInput
        The policy is unknown, or a number is out of range.
    """
    from scheduler.core.policies.table import policy_named
    from scheduler.simulator import replay as replays
    from scheduler.simulator.inflation import Experiment

    policy_named(policy)
    profile = "learnt" if learn else "given"
    experiment = Experiment(
        policy, seed, "replay", trace=workload.digest(), workload_profile=profile, weights=weights
    )
    return replays.replay(workload, experiment, rate=rate, plan_every_s=plan_every_s)
