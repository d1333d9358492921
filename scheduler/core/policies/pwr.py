"""PWR and PWR+FGD (Lettich et al., CCGrid 2025): nodes where a placement adds the fewest watts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scheduler.core.model import DEVICE_MILLI, GpuKind
from scheduler.core.policies.fgd import fgd_published
from scheduler.core.power import SOCKET_MILLI, PowerModel, entire_slots
from scheduler.core.ranking import Candidates, Scored

__all__ = ["pwr", "pwr_fgd", "watts_added"]

IntArray = NDArray[np.int64]

_OF_POWER, _OF_FRAGMENTATION = 100, 900  # one of the four published pairs of weights


def pwr(candidates: Candidates) -> Scored:
    """0..100 by the watts that the placement adds, fewest best; the device is FGD's."""
    devices = fgd_published(candidates).devices
    return Scored(_normalised(candidates, devices), devices)


def pwr_fgd(candidates: Candidates) -> Scored:
    """The published weighted sum: 100 times PWR and 900 times FGD."""
    fragmentation = fgd_published(candidates)
    power = _normalised(candidates, fragmentation.devices)
    scores = _OF_POWER * power + _OF_FRAGMENTATION * fragmentation.scores
    return Scored(scores, fragmentation.devices)


def _normalised(candidates: Candidates, devices: IntArray) -> IntArray:
    """Watts added on each row's device, fewest 100 and most 0; all 100 where they are equal. (R,)

    Parameters
    ----------
    devices : (R,)
        Of a fraction, else -1.
    """
    model, state = PowerModel(), candidates.state
    added = watts_added(candidates, model.by_product(state)[:, 1], model.socket.switched_on)
    column = np.maximum(devices, 0) if added.shape[1] > 1 else np.zeros_like(devices)
    saved = -added[np.arange(len(devices)), column]
    if not len(saved) or (least := int(saved.min())) == (most := int(saved.max())):
        return np.full(len(devices), 100, dtype=np.int64)
    return np.asarray((saved - least) * 100 // (most - least))


def watts_added(candidates: Candidates, switched_on: IntArray, socket: int) -> IntArray:
    """Watts of devices and sockets that the placement takes out of idleness; (R, 1 or D).

    Parameters
    ----------
    switched_on : (P,)
        What the first pod adds on a device, by product code.
    socket
        What the first pod adds on a socket.
    """
    state, rows, gpu = candidates.state, candidates.rows, candidates.shape.gpu
    device = switched_on[state.product[rows]][:, None]
    # What is left of the last socket in use takes the pod, or begins to.
    room = (state.cpu_free[rows] - state.cpu_alloc[rows]) % SOCKET_MILLI
    more = (candidates.shape.cpu_milli - room + (SOCKET_MILLI - 1)) // SOCKET_MILLI
    added = (more * socket)[:, None]
    match gpu.kind:
        case GpuKind.FRACTION:
            return np.asarray(added + device * (candidates.gpu == DEVICE_MILLI))
        case GpuKind.WHOLE:
            return np.asarray(added + device * gpu.count)
        case GpuKind.MIG | GpuKind.SHARED:
            taken = candidates.slots_after != state.slots_free[rows]
            first = taken & (state.slots_free[rows] == entire_slots(state, rows))
            return np.asarray(added + device * first.sum(axis=1)[:, None])
        case _:
            return np.asarray(added)
