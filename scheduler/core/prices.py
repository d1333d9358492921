"""What the free resources of a cluster are worth, as tables that a policy can charge.

Computed elsewhere, off the request path, by linear programming over the typical mix; here they are
plain integers. One table says what a device is worth with so much of it left, another one what a
node is worth with so much cpu and so much device left: a placement costs what they fall by. Cpu
without GPUs is worth little to GPU pods and GPUs without cpu nothing, so that both strand less;
scarce models are dear; four halves of a device are not worth two entire ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.core.errors import InvalidInput, nearest
from scheduler.core.state import ClusterState

__all__ = [
    "EFFECTIVE_SCALE",
    "PRICE_SCALE",
    "WEIGHT_SCALE",
    "WORTH_SHAPE",
    "PriceWeights",
    "Prices",
    "reprice_after",
]

IntArray = NDArray[np.int64]

PRICE_SCALE = 1 << 10
"""Values are in milli-GPU over this."""

EFFECTIVE_SCALE = 1 << 6
"""Effective milli-GPU are in milli-GPU over this."""

WORTH_SHAPE = (129, 81)
"""Rows (cpu) and columns (GPU) of a table; the steps follow the largest node of the cluster."""

WEIGHT_SCALE = 64
"""Weights are charged in steps of one over this."""

_FORMAT = "snugfit-policy/v1"


_REPRICE_AT_LEAST = 100
_REPRICE_NODES = 13


def reprice_after(nodes: int, at_least: int = _REPRICE_AT_LEAST) -> int:
    """Bindings and releases after which prices of a cluster of this size are computed anew.

    The same number of pods changes a large cluster less, and costs it more: after each pricing
    every shape is scored again on every node.
    """
    return max(at_least, nodes // _REPRICE_NODES)


@dataclass(frozen=True, slots=True)
class PriceWeights:
    """The few weights of policy ``priced``; the defaults were found on three traces.

    Parameters
    ----------
    near
        Weight of what resources are worth if demand equals what is free: keeps scarce models.
    far
        Weight of what they are worth to ``far_demand`` times as much: keeps cpu beside GPUs.
    far_demand
        Above 1; what random arrivals can do to a demand that fits on average.
    cut
        Weight of what a device loses in value by being cut, beyond what its node loses.
    fragmentation
        Weight of the fragmentation that a placement causes.
    contiguity
        Weight of what pods of several devices lose where entirely free ones on one node become
        fewer, as far as pods leave: keeps nodes whole for those that come.
    tightness
        Milli-GPU charged for a node of 128 cores and eight devices left empty.
    """

    near: float = 6.0
    far: float = 2.0
    far_demand: float = 2.0
    cut: float = 10.0
    fragmentation: float = 1.0
    contiguity: float = 1.0
    tightness: float = 50.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            low = 1.0 if field.name == "far_demand" else 0.0
            high = 10_000.0 if field.name == "tightness" else 100.0
            if not low <= value <= high:
                raise InvalidInput(f"weights.{field.name}", f"is {value}", f"use {low:g}..{high:g}")

    def scaled(self, name: str) -> int:
        """One weight in 64ths, so that scores stay integers."""
        weight: float = getattr(self, name)
        return round(weight * WEIGHT_SCALE)

    def to_json(self) -> dict[str, float]:
        """Plain numbers by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> PriceWeights:
        """Weights by name, the others at their defaults; :class:`InvalidInput` on any mistake."""
        known = [field.name for field in fields(cls)]
        for name, value in content.items():
            if name not in known:
                meant = nearest(str(name), known)
                raise InvalidInput(
                    f"weights.{name}", "is no weight of `priced`", f"did you mean {meant!r}?"
                )
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InvalidInput(f"weights.{name}", f"{value!r} is no number", "give a number")
        return cls(**{name: float(value) for name, value in content.items()})

    def to_policy_file(self, **remarks: object) -> str:
        """Content of a policy file; ``remarks`` say where the weights come from."""
        content = {"format": _FORMAT, "policy": "priced", "weights": self.to_json(), **remarks}
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def from_policy_file(cls, text: str, source: str = "policy file") -> PriceWeights:
        """Read what :meth:`to_policy_file` wrote; :class:`InvalidInput` names what is wrong."""
        try:
            content = json.loads(text)
        except ValueError as error:
            raise InvalidInput(source, f"is no JSON: {error}", "see `snugfit tune`") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise InvalidInput(f"{source}: format", f"is not {_FORMAT!r}", "see `snugfit tune`")
        if content.get("policy") != "priced":
            raise InvalidInput(
                f"{source}: policy", f"is {content.get('policy')!r}", "only `priced` has weights"
            )
        weights = content.get("weights")
        if not isinstance(weights, dict):
            raise InvalidInput(f"{source}: weights", "is no mapping", "map names to numbers")
        return cls.from_mapping(weights)


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of one cluster at one time.

    Attributes
    ----------
    generation
        Of the state they were made for.
    products
        Resource and model of each table of ``worth``.
    effective : (1001,) int64
        Effective milli-GPU (over ``EFFECTIVE_SCALE``) of a device by its free milli-GPU: 1000 for
        an entire one, less than what is free where no cut fills the rest. It never falls.
    worth : (P, *WORTH_SHAPE) int64
        Value of a node by model, cores and effective GPU (in steps). It never falls along any
        axis.
    sets : (P, WORTH_SHAPE[0], MAX_DEVICES + 1) int64
        Value of a node's entirely free devices to pods of several, by model, cores and devices.
    cpu_step, gpu_step
        Milli-CPU between two rows, milli-GPU between two columns of ``worth``.
    weights
        How the policy charges them.
    objective
        Milli-GPU that the linear programme serves at demand 1, for reports.
    groups, shapes
        Size of the programme, for reports.
    """

    generation: int
    products: tuple[tuple[str, str], ...]
    effective: IntArray
    worth: IntArray
    sets: IntArray
    cpu_step: int
    gpu_step: int
    weights: PriceWeights
    objective: float
    groups: int
    shapes: int

    def aligned(self, state: ClusterState) -> Prices | None:
        """The same prices with tables by the codes of a state; None if they lack one of its models.

        Prices are made in another process, which may have met the models in another order. They
        speak of models and leftovers, not of rows: nodes of known models may come and go.
        """
        vocabulary = tuple(state.products)
        if vocabulary == self.products:
            return self
        present = np.bincount(state.product, minlength=len(vocabulary)) > 0
        known = {product: code for code, product in enumerate(self.products)}
        worth = np.zeros((len(vocabulary), *WORTH_SHAPE), dtype=np.int64)
        sets = np.zeros((len(vocabulary), *self.sets.shape[1:]), dtype=np.int64)
        for code, product in enumerate(vocabulary):
            if product in known:
                worth[code] = self.worth[known[product]]
                sets[code] = self.sets[known[product]]
            elif present[code]:
                return None
        return replace(self, products=vocabulary, worth=worth, sets=sets)

    def effective_of(self, free: IntArray) -> IntArray:
        """Effective milli-GPU of devices by their free milli-GPU; same shape. None counts 0."""
        return np.asarray(self.effective[np.maximum(free, 0)])

    def value(self, product: NDArray[np.int16], cpu: IntArray, gpu: IntArray) -> IntArray:
        """Value of nodes, bilinear between the steps of the table.

        Parameters
        ----------
        product, cpu, gpu
            Model, free milli-CPU and effective milli-GPU; broadcast against each other.
        """
        rows, columns = WORTH_SHAPE
        cpu_unit, gpu_unit = self.cpu_step, self.gpu_step * EFFECTIVE_SCALE
        cpu = np.minimum(np.maximum(cpu, 0), (rows - 1) * cpu_unit - 1)
        gpu = np.minimum(np.maximum(gpu, 0), (columns - 1) * gpu_unit - 1)
        row, column = cpu // cpu_unit, gpu // gpu_unit
        cpu_rest, gpu_rest = cpu - row * cpu_unit, gpu - column * gpu_unit
        at = (product.astype(np.int64) * rows + row) * columns + column
        flat = self.worth.reshape(-1)
        low = flat[at] * (gpu_unit - gpu_rest) + flat[at + 1] * gpu_rest
        high = flat[at + columns] * (gpu_unit - gpu_rest) + flat[at + columns + 1] * gpu_rest
        value: IntArray = (low * (cpu_unit - cpu_rest) + high * cpu_rest) // (cpu_unit * gpu_unit)
        return value

    def set_value(self, product: NDArray[np.int16], cpu: IntArray, full: IntArray) -> IntArray:
        """Value of ``full`` entirely free devices with so much milli-CPU beside them.

        The arguments broadcast against each other.
        """
        rows, columns = self.sets.shape[1:]
        row = np.minimum(np.maximum(cpu, 0) // self.cpu_step, rows - 1)
        value: IntArray = self.sets.reshape(-1)[
            (product.astype(np.int64) * rows + row) * columns + full
        ]
        return value

    def node_effective(self, state: ClusterState, rows: IntArray, devices: IntArray) -> IntArray:
        """Effective milli-GPU of rows, (R,); partitioned and shared devices count as they are.

        Parameters
        ----------
        devices : (R, D)
            Effective milli-GPU of their plain devices.
        """
        plain = np.maximum(state.gpu_free[rows], 0).astype(np.int64).sum(axis=1)
        other = state.gpu_left[rows].astype(np.int64) - plain
        return np.asarray(devices.sum(axis=1) + np.maximum(other, 0) * EFFECTIVE_SCALE)
