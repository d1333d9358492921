"""Weights of policy ``priced``, and the file in which users keep them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from scheduler.core.errors import InvalidInput, nearest
from scheduler.core.power import PowerModel
from scheduler.core.reading import json_of

__all__ = ["POLICY_FORMAT", "SMALLEST_WEIGHT", "WEIGHT_SCALE", "PriceWeights"]

WEIGHT_SCALE = 64
"""Weights are charged in steps of one over this."""

SMALLEST_WEIGHT = 1 / WEIGHT_SCALE
"""A weight is 0 or at least this: what would be rounded to nothing is refused."""

_IN_STEPS = ("splitting", "fragmentation", "contiguity", "tightness", "power")

POLICY_FORMAT = "snugfit-policy/v1"
"""What a policy file says that it is."""

_RENAMED = {
    "near": "scarcity",
    "far": "stranding",
    "far_demand": "stranding_demand",
    "cut": "splitting",
    "unseen": "prior_pods",
}
"""Names of weights before version 0.2."""


@dataclass(frozen=True)
class PriceWeights:
    """The few weights of policy ``priced``; the defaults were found on three traces.

    Parameters
    ----------
    scarcity
        Weight of what resources are worth if demand equals what is free: keeps scarce models.
    stranding
        Weight of what they are worth to ``stranding_demand`` times as much: keeps cpu beside GPUs.
    stranding_demand
        Above 1; what random arrivals can do to a demand that fits on average.
    splitting
        Weight of what a device loses in value by being split, beyond what its node loses.
    fragmentation
        Weight of the fragmentation that a placement causes.
    contiguity
        Weight of what pods of several devices lose where entirely free ones on one node become
        fewer: keeps nodes whole for them.
    tightness
        Milli-GPU charged for a node of 128 cores and eight devices left empty.
    prior_pods
        Pods for an entire node of each model that are assumed beside those observed: who
        asks for one model only may not have come yet.
    power
        Milli-GPU charged for a watt that a placement switches on: devices and sockets that were
        idle before it.
    watts
        Power of devices and sockets; no weight, but it goes with one.
    """

    scarcity: float = 6.0
    stranding: float = 2.0
    stranding_demand: float = 2.0
    splitting: float = 10.0
    fragmentation: float = 1.0
    contiguity: float = 1.0
    tightness: float = 50.0
    prior_pods: float = 3.0
    power: float = 0.0
    watts: PowerModel = field(default_factory=PowerModel)

    def __post_init__(self) -> None:
        for name, value in self.to_json().items():
            low = 1.0 if name == "stranding_demand" else 0.0
            high = 10_000.0 if name == "tightness" else 100.0
            if not low <= value <= high:
                raise InvalidInput(f"weights.{name}", f"is {value}", f"use {low:g}..{high:g}")
            if 0 < value < SMALLEST_WEIGHT:
                raise InvalidInput(
                    f"weights.{name}",
                    f"is {value:g} and would count as 0",
                    f"use 0, or {SMALLEST_WEIGHT:g} and more",
                )

    @cached_property
    def scaled(self) -> Mapping[str, int]:
        """Weights in 64ths, so that scores stay integers."""
        return {name: round(weight * WEIGHT_SCALE) for name, weight in self.to_json().items()}

    @property
    def rounded(self) -> Mapping[str, float]:
        """Weights that are charged in steps and fall between two of them: the value in force."""
        in_force = {name: self.scaled[name] / WEIGHT_SCALE for name in _IN_STEPS}
        return {name: value for name, value in in_force.items() if value != getattr(self, name)}

    def remarks(self) -> list[str]:
        """What the user should know where the weights given are not those in force."""
        return [
            f"weights.{name}: {getattr(self, name):g} counts as {value:g} "
            f"(charged in steps of 1/{WEIGHT_SCALE})"
            for name, value in self.rounded.items()
        ]

    def to_json(self) -> dict[str, float]:
        """The weights alone: plain numbers by name."""
        names = (each.name for each in fields(self) if each.name != "watts")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_mapping(
        cls, content: Mapping[str, Any], watts: PowerModel | None = None
    ) -> PriceWeights:
        """Weights by name, the others at their defaults; :class:`InvalidInput` on any mistake."""
        known = list(cls().to_json())
        given: dict[str, float] = {}
        for name, value in content.items():
            if name in _RENAMED:
                now = _RENAMED[name]
                raise InvalidInput(f"weights.{name}", f"is called {now!r} now", f"write {now!r}")
            if name not in known:
                meant = nearest(str(name), known)
                raise InvalidInput(
                    f"weights.{name}", "is not a weight of `priced`", f"did you mean {meant!r}?"
                )
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InvalidInput(f"weights.{name}", f"{value!r} is not a number", "give a number")
            try:
                given[name] = float(value)
            except OverflowError as error:
                raise InvalidInput(f"weights.{name}", "is too large a number") from error
        return cls(**given, watts=watts or PowerModel())

    def to_policy_file(self, **remarks: object) -> str:
        """Content of a policy file; ``remarks`` say where the weights come from."""
        content = {
            "format": POLICY_FORMAT,
            "policy": "priced",
            "weights": self.to_json(),
            **remarks,
        }
        if self.watts != PowerModel():
            content["watts"] = self.watts.to_json()
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def from_policy_file(cls, text: str, source: str = "policy file") -> PriceWeights:
        """Read what :meth:`to_policy_file` wrote; :class:`InvalidInput` names what is wrong."""
        content = json_of(text, source)
        if not isinstance(content, dict) or content.get("format") != POLICY_FORMAT:
            raise InvalidInput(
                f"{source}: format", f"is not {POLICY_FORMAT!r}", "see `snugfit tune`"
            )
        if content.get("policy") != "priced":
            raise InvalidInput(
                f"{source}: policy", f"is {content.get('policy')!r}", "only `priced` has weights"
            )
        weights = content.get("weights")
        if not isinstance(weights, dict):
            raise InvalidInput(f"{source}: weights", "is not a mapping", "map names to numbers")
        watts = content.get("watts", {})
        if not isinstance(watts, dict):
            raise InvalidInput(f"{source}: watts", "is not a mapping", "map boards to [idle, busy]")
        try:
            return cls.from_mapping(weights, PowerModel.from_mapping(watts))
        except InvalidInput as error:
            raise InvalidInput(f"{source}: {error.field}", error.problem, error.remedy) from error
