"""Search for the weights of policy ``priced`` on one workload, by replaying it.

A coordinate search: each weight in turn is doubled and halved, and the change stays if the training
seeds gain from it. What was found has to prove itself on seeds that the search has never seen; a
step that loses there is taken back, down to the weights it began with if need be. Runs are rows of
a sweep, so that an interrupted search goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from scheduler.core.errors import InvalidInput
from scheduler.core.price_weights import PriceWeights
from scheduler.simulator.sweep.runner import Runner
from scheduler.simulator.sweep.runs import Job, row_of

__all__ = ["Step", "Tuning", "tune"]

_ORDER = (
    "scarcity",
    "stranding",
    "splitting",
    "fragmentation",
    "contiguity",
    "tightness",
    "stranding_demand",
    "prior_pods",
)
_FACTORS = (2.0, 0.5)
_FULL = "1.00"


@dataclass(frozen=True, slots=True)
class Step:
    """Weights that the search has taken, with the mean figure of the training seeds."""

    weights: PriceWeights
    train_percent: float
    change: str


@dataclass(frozen=True, slots=True)
class Tuning:
    """Result of a search.

    Attributes
    ----------
    steps
        The weights to begin with, then every change that the training seeds gained from.
    chosen
        Index of the step that is accepted: the latest one that does not lose on the hold-out.
    holdout
        Figures of the hold-out seeds, for the steps that were put to the test, by index.
    runs
        Replays that the search asked for, those that were known included.
    """

    steps: tuple[Step, ...]
    chosen: int
    holdout: dict[int, tuple[float, ...]]
    runs: int

    @property
    def weights(self) -> PriceWeights:
        """The accepted weights."""
        return self.steps[self.chosen].weights


def tune(
    job: Job,
    *,
    train: Sequence[int],
    holdout: Sequence[int],
    start: PriceWeights | None = None,
    rounds: int = 2,
    runner: Runner | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tuning:
    """Search weights for the job's workload.

    Parameters
    ----------
    job
        Workload, protocol and profile; its seed and weights are the search's.
    train, holdout
        Seeds to search on, and to accept on.
    start
        Where the search begins, and what stays if nothing gains; the built-in weights if left out.
        What power is charged at is taken as it is: what it saves is not what is measured here.
    rounds
        Most passes over all weights; a pass without a gain is the last one.
    runner
        Where runs are done and kept; here and nowhere if left out.
    progress
        Called with replays done and, at most, to do.

    Raises
    ------
    InvalidInput
        The seeds overlap or one of the lists is empty.
    """
    if not train or not holdout or set(train) & set(holdout):
        raise InvalidInput("seeds", "of train and hold-out overlap or are missing", "split them")
    search = _Search(replace(job, policy="priced"), runner or Runner(), progress)
    search.expected = len(train) * (1 + rounds * len(_ORDER) * len(_FACTORS)) + 2 * len(holdout)
    best = start or PriceWeights()
    name = "given" if start else "built-in"
    steps = [Step(best, fmean(search.figures([best], train)[0]), name)]
    for _ in range(rounds):
        before = len(steps)
        for name in _ORDER:
            options = _neighbours(steps[-1].weights, name)
            means = [fmean(figures) for figures in search.figures(options, train)]
            gain = max(means, default=0.0)
            if gain > steps[-1].train_percent:
                taken = options[means.index(gain)]
                steps.append(Step(taken, gain, f"{name} {getattr(taken, name):g}"))
        if len(steps) == before:
            break
    base = search.figures([steps[0].weights], holdout)[0]
    tested = {0: base}
    chosen = 0
    for index in range(len(steps) - 1, 0, -1):
        tested[index] = search.figures([steps[index].weights], holdout)[0]
        if fmean(tested[index]) > fmean(base):
            chosen = index
            break
    return Tuning(tuple(steps), chosen, tested, search.done)


def _neighbours(weights: PriceWeights, name: str) -> list[PriceWeights]:
    """The weights with one of them doubled and halved, as far as that is allowed."""
    options = []
    for factor in _FACTORS:
        value = getattr(weights, name) * factor
        if name == "stranding_demand":  # what counts is how far it is above 1
            value = 1 + (getattr(weights, name) - 1) * factor
        try:
            option = replace(weights, **{name: value})
        except InvalidInput:
            continue
        if option != weights:
            options.append(option)
    return options


@dataclass
class _Search:
    job: Job
    runner: Runner
    progress: Callable[[int, int], None] | None
    expected: int = 0
    done: int = 0

    def figures(
        self, options: Sequence[PriceWeights], seeds: Sequence[int]
    ) -> list[tuple[float, ...]]:
        """Percent allocated when all of the capacity is requested, by option and seed."""
        jobs = [replace(self.job, seed=seed, weights=w) for w in options for seed in seeds]
        found: list[float] = []
        for row in self.runner.in_order(row_of, jobs):
            found.append(row.figures["allocation_at"][_FULL])
            self.done += 1
            if self.progress:
                self.progress(self.done, max(self.expected, self.done))
        width = len(seeds)
        return [tuple(found[at : at + width]) for at in range(0, len(found), width)]
