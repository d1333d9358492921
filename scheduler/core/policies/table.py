"""The policy table, and how to add a policy from outside.

A policy is a small pure function over :class:`scheduler.core.ranking.Candidates`: it looks at the
columns of the rows that fit, and returns a score for each, higher is better, and for a fraction the
device. To add one of your own, write such a function in a package of yours,

::

    def emptiest(candidates: Candidates) -> Scored:
        \"\"\"Spread: the node with most milli-GPU left.\"\"\"
        return Scored(candidates.gpu_left, best_fit_device(candidates))

name it in the group ``snugfit.policies`` of the package's entry points,

::

    [project.entry-points."snugfit.policies"]
    emptiest = "your_package:emptiest"

and install the package beside Snugfit. ``snugfit policies`` lists it then, and every ``--policy``
takes its name. The entry point may also be a :class:`scheduler.core.ranking.Policy`, which says
whether scores may be remembered and how ties end. It is imported once it is asked for by its name;
names of this table cannot be taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from scheduler.core.errors import InvalidInput, nearest
from scheduler.core.policies.baselines import (
    best_fit,
    dot_product,
    first_fit,
    gpu_clustering,
    gpu_packing,
    kube_default,
    most_allocated,
    random,
    requested_to_capacity,
)
from scheduler.core.policies.fgd import fgd, fgd_published
from scheduler.core.policies.priced import priced
from scheduler.core.policies.pwr import pwr, pwr_fgd
from scheduler.core.ranking import Candidates, Policy, Scored

__all__ = ["GROUP", "POLICIES", "RIVALS", "policies", "policies_named", "policy_named"]

GROUP = "snugfit.policies"
"""Entry points in which other packages name policies."""

_FGD_PAPER = "Weng et al., Beware of Fragmentation, USENIX ATC'23"
_PWR_PAPER = "Lettich et al., Power- and Fragmentation-aware Online Scheduling, CCGrid'25"


def _table(*policies: Policy) -> Mapping[str, Policy]:
    return MappingProxyType({policy.name: policy for policy in policies})


def _baseline(
    name: str, evaluate: Callable[[Candidates], Scored], summary: str, source: str
) -> Policy:
    return Policy(name, summary, source, evaluate)


POLICIES: Mapping[str, Policy] = _table(
    Policy("random", "any node that fits, uniformly", _FGD_PAPER, random, cacheable=False),
    _baseline("first-fit", first_fit, "first node, first device that fits", "classic"),
    _baseline("best-fit", best_fit, "least cpu and GPU left after placement", _FGD_PAPER),
    _baseline(
        "dot-product",
        dot_product,
        "least alignment of request and free resources",
        "Grandl et al., Tetris, SIGCOMM'14, as in the FGD artifact",
    ),
    _baseline(
        "gpu-packing",
        gpu_packing,
        "used devices first, then used nodes, then idle nodes",
        "Weng et al., MLaaS in the Wild, NSDI'22, as in the FGD artifact",
    ),
    _baseline(
        "gpu-clustering",
        gpu_clustering,
        "pods of one GPU request size together",
        "Xiao et al., Gandiva, OSDI'18, as in the FGD artifact",
    ),
    _baseline(
        "kube-default",
        kube_default,
        "kube-scheduler's default: LeastAllocated + BalancedAllocation",
        "kube-scheduler NodeResourcesFit, NodeResourcesBalancedAllocation",
    ),
    _baseline(
        "most-allocated",
        most_allocated,
        "highest mean utilisation of cpu, memory and GPU",
        "kube-scheduler NodeResourcesFit MostAllocated",
    ),
    _baseline(
        "requested-to-capacity-ratio",
        requested_to_capacity,
        "highest utilisation, GPU weighing five times cpu and memory",
        "kube-scheduler NodeResourcesFit RequestedToCapacityRatio",
    ),
    _baseline(
        "fgd-published",
        fgd_published,
        "fragmentation gradient descent with the published 0..100 score",
        _FGD_PAPER,
    ),
    Policy(
        "pwr",
        "fewest watts switched on, by board and socket",
        _PWR_PAPER,
        pwr,
        cacheable=False,
    ),
    Policy(
        "pwr-fgd",
        "published FGD and PWR, weighted 900 to 100",
        _PWR_PAPER,
        pwr_fgd,
        cacheable=False,
    ),
    Policy(
        "fgd",
        "fragmentation gradient descent on the exact increase; ties to the tightest node",
        _FGD_PAPER,
        fgd,
        tightest=True,
    ),
    Policy(
        "priced",
        "fgd, and what a placement costs at the solver's prices; fgd itself without prices",
        "dual prices over the workload profile, node by node",
        priced,
        tightest=True,
    ),
)
"""Every policy by name."""

RIVALS = (
    "kube-default",
    "most-allocated",
    "requested-to-capacity-ratio",
    "first-fit",
    "best-fit",
    "fgd-published",
    "pwr",
    "pwr-fgd",
)
"""What others would run instead; no comparison of ours leaves one of them out."""

_ALL_RIVALS = "rivals"


def policies() -> tuple[Mapping[str, Policy], list[InvalidInput]]:
    """Every policy by name, those of other packages included, and what is wrong with the others."""
    found, problems = dict(POLICIES), list[InvalidInput]()
    for name, point in _added().items():
        try:
            found[name] = _loaded(point)
        except InvalidInput as error:
            problems.append(error)
    return MappingProxyType(found), problems


def policy_named(name: str) -> Policy:
    """The policy of this name.

    Raises
    ------
    InvalidInput
        There is none, and then the nearest one is named; or its entry point cannot be used.
    """
    policy, added = POLICIES.get(name), _added()
    if policy is not None:
        return policy
    if name in added:
        return _loaded(added[name])
    meant = nearest(name, [*POLICIES, *added])
    raise InvalidInput("policy", f"unknown policy {name!r}", f"did you mean {meant!r}?")


def policies_named(text: str) -> list[str]:
    """Names with commas between, each once; ``rivals`` stands for all of :data:`RIVALS`.

    Raises
    ------
    InvalidInput
        As :func:`policy_named`, or there is no name.
    """
    parts = [part for each in text.split(",") if (part := each.strip())]
    names = [name for part in parts for name in (RIVALS if part == _ALL_RIVALS else (part,))]
    if not names:
        raise InvalidInput("policy", "is empty", "name one, see `snugfit policies`")
    for name in names:
        policy_named(name)
    return list(dict.fromkeys(names))


@cache
def _added() -> Mapping[str, EntryPoint]:
    """Entry points by name; the first of a name counts, as Python finds them."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.name not in POLICIES:
            found.setdefault(point.name, point)
    return MappingProxyType(found)


@cache
def _loaded(point: EntryPoint) -> Policy:
    where = f"policy {point.name}"
    try:
        found = point.load()
    except Exception as error:  # whatever the import of a stranger's module raises
        raise InvalidInput(
            where, f"cannot be imported from {point.value}: {error}", "mend or remove its package"
        ) from error
    if isinstance(found, Policy):
        if found.name != point.name:
            raise InvalidInput(where, f"calls itself {found.name!r}", "give both the same name")
        return found
    if not callable(found):
        raise InvalidInput(
            where, f"{point.value} is not a function", "name a function of candidates, or a Policy"
        )
    evaluate: Callable[[Candidates], Scored] = found
    summary = (found.__doc__ or "").strip().splitlines()
    source = point.dist.name if point.dist is not None else point.value
    return Policy(point.name, summary[0] if summary else "no description", source, evaluate)
