"""Search for the weights of policy ``priced`` on one workload, by replaying it.

A coordinate search: each weight in turn is doubled and halved, and the change stays if the training
seeds gain from it. What was found has to prove itself on seeds that the search has never seen; a
step that loses there is taken back, down to the weights it began with if need be. Every run is
noted in a journal by the hash of its configuration, so that an interrupted search goes on where it
stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from scheduler.core.errors import InvalidInput
from scheduler.core.price_weights import PriceWeights
from scheduler.core.reading import LARGEST_WORKLOAD, json_of, read_bytes, text_of
from scheduler.simulator.sweep import Job, experiment_of, one_by_one, run_job

__all__ = ["Journal", "Step", "Tuning", "tune"]

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


class Journal:
    """Figures of runs by configuration hash, kept in a file of JSON lines.

    Parameters
    ----------
    path
        The file, read if it exists and appended to; None keeps the figures in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, float] = {}
        if path is not None and path.exists():
            content = read_bytes(path, LARGEST_WORKLOAD, may_be_empty=True)
            try:
                for line in text_of(content, str(path)).splitlines():
                    entry = json_of(line, str(path))
                    self._known[entry["run"]] = float(entry["allocated_percent"])
            except (InvalidInput, ValueError, KeyError, TypeError) as error:
                raise InvalidInput(
                    str(path), f"is not the journal of a search: {error!r}", "name another file"
                ) from error

    def __contains__(self, run: str) -> bool:
        return run in self._known

    def __len__(self) -> int:
        return len(self._known)

    def __getitem__(self, run: str) -> float:
        return self._known[run]

    def note(self, run: str, weights: PriceWeights, seed: int, percent: float) -> None:
        """Remember a figure, in the file too."""
        self._known[run] = percent
        if self._path is None:
            return
        entry = {
            "run": run,
            "seed": seed,
            "allocated_percent": percent,
            "weights": weights.to_json(),
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


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
        Replays that the search asked for, those found in the journal included.
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
    journal: Journal | None = None,
    processes: int | None = None,
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
    progress
        Called with replays done and, at most, to do.

    Raises
    ------
    InvalidInput
        The seeds overlap or one of the lists is empty.
    """
    if not train or not holdout or set(train) & set(holdout):
        raise InvalidInput("seeds", "of train and hold-out overlap or are missing", "split them")
    search = _Search(
        replace(job, policy="priced"),
        Journal() if journal is None else journal,
        processes,
        progress,
    )
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
    journal: Journal
    processes: int | None
    progress: Callable[[int, int], None] | None
    expected: int = 0
    done: int = 0

    def figures(
        self, options: Sequence[PriceWeights], seeds: Sequence[int]
    ) -> list[tuple[float, ...]]:
        """Percent allocated when all of the capacity is requested, by option and seed."""
        jobs = [replace(self.job, seed=seed, weights=w) for w in options for seed in seeds]
        runs = [experiment_of(job).config_hash for job in jobs]
        missing = [
            (run, job) for run, job in zip(runs, jobs, strict=True) if run not in self.journal
        ]
        self._advance(len(jobs) - len(missing))
        outcomes = one_by_one(run_job, [job for _, job in missing], processes=self.processes)
        for (run, job), outcome in zip(missing, outcomes, strict=True):
            assert job.weights is not None
            self.journal.note(run, job.weights, job.seed, outcome.allocation_at[_FULL])
            self._advance(1)
        found = [self.journal[run] for run in runs]
        width = len(seeds)
        return [tuple(found[at : at + width]) for at in range(0, len(found), width)]

    def _advance(self, runs: int) -> None:
        self.done += runs
        if self.progress:
            self.progress(self.done, max(self.expected, self.done))
