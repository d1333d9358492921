"""Scores at prices that are not in force yet, so that putting them in force costs nobody time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scheduler.core.evaluation import Evaluation, Evaluations
from scheduler.core.fragmentation import Fragmentation
from scheduler.core.model import Shape
from scheduler.core.scoring import Scorer

__all__ = ["ScoreWarmup"]


class ScoreWarmup:
    """Scores of some shapes at other prices, computed some rows at a time.

    Parameters
    ----------
    evaluations, scorer
        On the same state, with those prices and the profile that is to go with them; nobody else
        uses them.
    instead_of
        Tables that are in force meanwhile.
    shapes
        What to score.

    Attributes
    ----------
    scores : dict
        Those complete so far. What has changed since they were begun is in the state's journal.
    """

    def __init__(
        self,
        evaluations: Evaluations,
        scorer: Scorer,
        instead_of: Fragmentation,
        shapes: Sequence[Shape],
    ) -> None:
        self.scores: dict[Shape, Evaluation] = {}
        self.scorer = scorer
        self._evaluations = evaluations
        self._tables, self._instead_of = scorer.tables(), instead_of
        self._shapes = shapes

    def is_current(self, in_force: Fragmentation) -> bool:
        """Whether all of it was scored at one state of things, which may replace what is in force.

        It is not once the profile in force has changed, a model has come that the tables lack, or a
        class of nodes that the prices lack, even if its nodes are gone by now.
        """
        return (
            in_force is self._instead_of
            and self.scorer.tables() is self._tables
            and self.scorer.prices() is not None
        )

    def steps(self) -> Iterator[None]:
        """Compute them; between two steps the state may change, and others may use it."""
        for shape in self._shapes:
            for evaluation in self._evaluations.evaluated(shape):
                if evaluation is not None:
                    self.scores[shape] = evaluation
                yield
