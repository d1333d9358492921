"""Dry runs: nobody has looked at the nodes before us, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.core.engine import Engine
from scheduler.core.model import PodRequest, Reason
from scheduler.core.omissions import NotConsidered
from scheduler.kube.dra import DEVICES_OF_CLASS, without

__all__ = ["Look", "look"]

IntArray = NDArray[np.int64]

_FITS, _MISSING = Reason.FITS.code, Reason.RESOURCE_MISSING.code
_NOT_OFFERED = (Reason.DEVICE_KIND_MISSING.code, _MISSING)


@dataclass(slots=True)
class Look:
    """What a dry run has found about R rows.

    Attributes
    ----------
    codes : (R,) int8
        Reason codes.
    short : (R,) int64
        See :meth:`Engine.short_of`.
    omissions : tuple of NotConsidered
        What the verdicts could not take into account.
    message : str
        Why the pod has to wait wherever it goes, instead of the reasons; empty if it has not.
    """

    codes: NDArray[np.int8]
    short: IntArray
    omissions: tuple[NotConsidered, ...]
    message: str = ""

    def put(self, positions: Sequence[int], other: Look) -> None:
        """Write what has been found about other rows at these positions."""
        self.codes[positions], self.short[positions] = other.codes, other.short
        self.omissions = self.omissions or other.omissions


def look(
    engine: Engine, request: PodRequest, rows: IntArray, mapped: frozenset[str] = frozenset()
) -> Look:
    """Whether a pod could go to these rows, the nodes' own rules included.

    Parameters
    ----------
    rows : (R,)
        -1 for an unknown node.
    mapped
        Those of the resources that the pod asks for that DeviceClasses stand for. A node that does
        not offer them may have devices of the class; which of them are free is not known here.
    """
    codes = engine.filter(request, rows, selection=True)
    counted = engine.state.counted
    # Nobody has looked for what no node offers, as kube-scheduler does before the other verbs.
    unknown = np.array([counted.code(name) < 0 for name, _ in request.counted], dtype=bool)
    if unknown.any():
        codes[codes == _FITS] = _MISSING
    short = engine.short_of(request, rows, codes)
    short[(codes == _MISSING) & (short < 0)] = unknown.argmax() if unknown.any() else -1
    lacking = np.isin(codes, _NOT_OFFERED) if mapped else np.zeros(len(codes), dtype=bool)
    if not lacking.any():
        return Look(codes, short, ())
    rest = look(engine, without(request, mapped), rows[lacking])
    codes[lacking] = rest.codes
    asked = enumerate(name for name, _ in request.counted)
    places = np.array([*(at for at, name in asked if name not in mapped), -1])
    short[lacking] = places[rest.short]
    passed = (
        NotConsidered(
            DEVICES_OF_CLASS,
            (request.key,),
            f"nodes that do not offer {' or '.join(sorted(mapped))} pass without them: whether"
            " devices of a DeviceClass are free there is not known here",
        ),
    )
    return Look(codes, short, passed if (rest.codes == _FITS).any() else ())
