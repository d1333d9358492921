"""The search for weights: honest about what it has not seen, and able to go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scheduler.core.errors import InvalidInput
from scheduler.core.price_weights import PriceWeights
from scheduler.files import native
from scheduler.simulator.generate import GeneratorConfig, generate
from scheduler.simulator.sweep.row_file import RowFile
from scheduler.simulator.sweep.runner import Runner
from scheduler.simulator.sweep.runs import Job
from scheduler.simulator.tuning import tune


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    path = tmp_path_factory.mktemp("tuning") / "small.json"
    native.write(generate(GeneratorConfig(nodes=12, load=1.0, seed=3)), path)
    return Job((path,), "priced", 0, arrival=1.0)


def test_what_is_accepted_gains_on_seeds_never_seen(job: Job) -> None:
    found = tune(job, train=[0], holdout=[1, 2], rounds=1)
    train = [step.train_percent for step in found.steps]
    assert train == sorted(train) and found.steps[0].weights == PriceWeights()
    accepted, built_in = found.holdout[found.chosen], found.holdout[0]
    assert sum(accepted) > sum(built_in) or found.chosen == 0
    assert all(
        sum(found.holdout[later]) <= sum(built_in)
        for later in range(found.chosen + 1, len(found.steps))
    )


def test_a_search_goes_on_where_it_was_stopped(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    whole = tune(job, train=[0], holdout=[1], rounds=1, runner=Runner(rows=RowFile(path)))
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:5]) + "\n")
    again = tune(job, train=[0], holdout=[1], rounds=1, runner=Runner(rows=RowFile(path)))
    assert again == whole
    assert _known(path.read_text()) == _known("\n".join(lines))
    lines = path.read_text().splitlines()
    done: list[tuple[int, int]] = []
    once_more = tune(
        job,
        train=[0],
        holdout=[1],
        rounds=1,
        runner=Runner(rows=RowFile(path)),
        progress=lambda *at: done.append(at),
    )
    assert once_more == whole and done[-1][0] <= done[-1][1]
    assert path.read_text().splitlines() == lines


def _known(text: str) -> list[tuple[str, dict[str, object]]]:
    """Rows without the time that they took."""
    lines = [json.loads(line) for line in text.splitlines()]
    return [(line["key"], line["row"]) for line in lines]


def test_seeds_are_split(job: Job) -> None:
    with pytest.raises(InvalidInput, match="overlap"):
        tune(job, train=[0, 1], holdout=[1])
