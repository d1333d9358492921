"""The file in which users write a grid down, and the jobs that it stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from scheduler.core.errors import InvalidInput
from scheduler.core.policies.table import policies_named
from scheduler.core.price_weights import PriceWeights
from scheduler.core.reading import read_text
from scheduler.kube.yaml_lines import yaml_mapping
from scheduler.simulator.generate import GeneratorConfig
from scheduler.simulator.sweep.runs import Job

__all__ = ["GRID_FORMAT", "Cell", "part_of", "read_grid"]

GRID_FORMAT = "snugfit-sweep/v1"
"""What a grid file says that it is."""

T = TypeVar("T")
_MOST_ROWS = 1_000_000
_MOST_SEED = (1 << 31) - 1
_ARRIVAL, _RATE = 1.3, 1.0
_OF_REPLAY = ("rate", "plan_every_s")
_AT = re.compile(r"^(.*) - at `\$(\.?)(.*)`$", re.DOTALL)


class Generated(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Settings of the generator; those left out are its own, the seed is that of the row."""

    nodes: int | None = None
    load: float | None = None
    pods: int | None = None
    seed: int | None = None
    arrivals: str | None = None
    rate_per_s: float | None = None
    durations: str | None = None
    mean_duration_s: float | None = None
    gang_share: float | None = None
    gang_size: int | None = None


class Workload(msgspec.Struct, forbid_unknown_fields=True):
    """A cluster and its pods: files, or what to generate."""

    name: str = ""
    files: list[str] = []
    generate: Generated | None = None


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """How a workload is run."""

    name: str = ""
    protocol: Literal["inflation", "as-listed", "replay"] = "inflation"
    arrival: float | None = None
    rate: float | None = None
    plan_every_s: float | None = None
    workload_profile: Literal["given", "learnt"] = "given"
    policy_file: str = ""


class Grid(msgspec.Struct, forbid_unknown_fields=True):
    """All of a grid file."""

    format: str
    workloads: list[Workload]
    policies: list[str]
    seeds: int | list[int] = 1
    settings: list[Settings] = []


_decoder = msgspec.json.Decoder(Grid)


@dataclass(frozen=True, slots=True)
class Cell:
    """A row to be: its job, and what its workload and settings are called."""

    workload: str
    settings: str
    job: Job


def read_grid(path: Path) -> list[Cell]:
    """The rows of a grid file, YAML or JSON: by workload, settings, policy and seed.

    Files in it are looked for beside it.

    Raises
    ------
    InvalidInput
        Names the field and what is wrong.
    """
    content = yaml_mapping(read_text(path), str(path))
    try:
        grid = _decoder.decode(msgspec.json.encode(content))
    except msgspec.ValidationError as error:
        said = _AT.match(str(error))
        place = f"{path}: {said[3]}" if said else str(path)
        raise InvalidInput(
            place, said[1] if said else str(error), "see `snugfit sweep -h`"
        ) from error
    if grid.format != GRID_FORMAT:
        raise InvalidInput(f"{path}: format", f"is {grid.format!r}", f"write {GRID_FORMAT}")
    for name in ("workloads", "policies"):
        if not getattr(grid, name):
            raise InvalidInput(f"{path}: {name}", "is empty", "name one at least")
    policies = _policies(grid.policies, f"{path}: policies")
    seeds = _seeds(grid.seeds, f"{path}: seeds")
    settings = grid.settings or [Settings()]
    rows = len(grid.workloads) * len(settings) * len(policies) * len(seeds)
    if rows > _MOST_ROWS:
        raise InvalidInput(str(path), f"stands for {rows:,} rows", f"{_MOST_ROWS:,} are the most")
    _all_different(grid.workloads, f"{path}: workloads")
    _all_different(settings, f"{path}: settings")
    cells = []
    for at, workload in enumerate(grid.workloads):
        where = f"{path}: workloads[{at}]"
        files = _files(workload, path.parent, where)
        for number, one in enumerate(settings):
            _check_timing(one, f"{path}: settings[{number}]")
            given = _weights(one, path.parent, f"{path}: settings[{number}].policy_file")
            for policy in policies:
                for seed in seeds:
                    weights = given if policy == "priced" else None
                    made = _made(workload.generate, seed, where)
                    job = Job(
                        files,
                        policy,
                        seed,
                        one.protocol,
                        _ARRIVAL if one.arrival is None else one.arrival,
                        workload_profile=one.workload_profile,
                        weights=weights,
                        watts=given.watts if given else None,
                        generated=made,
                        rate=_RATE if one.rate is None else one.rate,
                        plan_every_s=one.plan_every_s or 0.0,
                    )
                    cells.append(Cell(_name(workload, at), _name(one, number), job))
    return cells


def part_of(cells: Sequence[T], part: int, of: int) -> list[T]:
    """Every row whose turn it is if rows are dealt out to so many in order.

    Parameters
    ----------
    cells
        All rows.
    part, of
        Which hand, from 1, and how many there are.
    """
    return list(cells[part - 1 :: of])


def _name(one: Workload | Settings, number: int) -> str:
    """What the file calls it, or what it is, or else its number."""
    if one.name:
        return one.name
    if isinstance(one, Workload):
        return Path(one.files[-1]).stem if one.files else f"generated {number + 1}"
    return one.protocol


def _all_different(listed: Iterable[Workload | Settings], where: str) -> None:
    """Rows of two that are called alike would be averaged together."""
    known: set[str] = set()
    for number, one in enumerate(listed):
        name = _name(one, number)
        if name in known:
            raise InvalidInput(f"{where}[{number}].name", f"{name!r} stands twice", "name each")
        known.add(name)


def _seeds(given: int | list[int], where: str) -> list[int]:
    seeds = list(range(given)) if isinstance(given, int) and 0 < given <= _MOST_ROWS else given
    if not isinstance(seeds, list) or not seeds:
        raise InvalidInput(where, f"is {given}", "write how many (0, 1, ...), or list them")
    wrong = [seed for seed in seeds if not 0 <= seed <= _MOST_SEED]
    if wrong or len(set(seeds)) < len(seeds):
        problem = f"{wrong[0]} is out of range" if wrong else "a seed stands twice"
        raise InvalidInput(where, problem, f"use different ones from 0 to {_MOST_SEED}")
    return seeds


def _files(workload: Workload, folder: Path, where: str) -> tuple[Path, ...]:
    if bool(workload.files) == (workload.generate is not None):
        raise InvalidInput(where, "needs either files or generate", "write one of them")
    files = tuple(folder / name for name in workload.files)
    for name, file in zip(workload.files, files, strict=True):
        if not file.exists():
            raise InvalidInput(f"{where}.files", f"there is no {name}", f"looked in {folder}")
    return files


def _made(generate: Generated | None, seed: int, where: str) -> GeneratorConfig | None:
    if generate is None:
        return None
    given: dict[str, Any] = msgspec.to_builtins(generate)
    try:
        return GeneratorConfig(**{"seed": seed, **given})
    except InvalidInput as error:
        raise InvalidInput(f"{where}.{error.field}", error.problem, error.remedy) from error


def _policies(given: Sequence[str], where: str) -> list[str]:
    try:
        return policies_named(",".join(given))
    except InvalidInput as error:
        raise InvalidInput(where, error.problem, error.remedy) from error


def _check_timing(settings: Settings, where: str) -> None:
    """Refuse what the protocol does not heed, and what no run could begin with."""
    for name in ("arrival", *_OF_REPLAY):
        value = getattr(settings, name)
        if value is None:
            continue
        protocol = "replay" if name in _OF_REPLAY else "inflation"
        if settings.protocol != protocol:
            raise InvalidInput(f"{where}.{name}", "changes nothing here", f"it is for {protocol}")
        if value < 0 or (value == 0 and name != "plan_every_s"):
            raise InvalidInput(f"{where}.{name}", f"is {value:g}", "use a number above 0")


def _weights(settings: Settings, folder: Path, where: str) -> PriceWeights | None:
    if not settings.policy_file:
        return None
    path = folder / settings.policy_file
    try:
        return PriceWeights.from_policy_file(read_text(path), str(path))
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error.field}", error.problem, error.remedy) from error
