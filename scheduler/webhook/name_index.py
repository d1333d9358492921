"""Which rows a JSON array of node names means, without making 5,000 strings.

kube-scheduler names every candidate node in every call, in an order that changes from call to call.
Decoding the names and looking each up costs more than the whole decision. Here the array stays
bytes: the ends of all names are found at once, a few machine words of each are looked up in a hash
table at once, and the guess is *checked*, byte for byte, by writing the array that those rows would
make. A guess that is wrong (an unknown name, other white space, an escape) is dropped: the caller
decodes the names one by one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["NameIndex"]

IntArray = NDArray[np.int64]
Words = NDArray[np.uint64]

_QUOTE = ord('"')
_WORD = 8
_GOLDEN = 0x9E3779B97F4A7C15
_SPREAD = [np.uint64(_GOLDEN * (2 * step + 1) % (1 << 64)) for step in range(8)]
_ROOM = 8  # slots per name: nearly every look-up ends at its first slot


class NameIndex:
    """Finds the rows of node names.

    Parameters
    ----------
    quoted : (N,) object
        The JSON string of each row's name, quotes included; ``b""`` for an empty row.
    """

    def __init__(self, quoted: NDArray[np.object_]) -> None:
        self._quoted = quoted
        rows = np.array([row for row, name in enumerate(quoted.tolist()) if name], dtype=np.int64)
        self._depth = 0
        self._slots: IntArray = np.full(1, -1, dtype=np.int64)
        self._keys: Words = np.zeros(len(quoted) + 1, dtype=np.uint64)
        if len(rows) and min(map(len, quoted[rows].tolist())) >= _WORD:
            self._build(rows)

    def _build(self, rows: IntArray) -> None:
        """Take as many words of each name as tell all names apart, then fill the table."""
        text = b"[" + b",".join(self._quoted[rows].tolist()) + b"]"
        starts, ends = _quotes(text)
        if len(starts) != len(rows):
            return  # a name with an escaped quote: no index for this cluster
        for depth in range(1, len(_SPREAD) + 1):
            keys = _keys(text, starts, ends, depth)
            if len(np.unique(keys)) == len(keys):
                break
        else:
            return
        bits = max(4, (len(rows) * _ROOM - 1).bit_length())
        self._shift = np.uint64(64 - bits)
        self._mask = (1 << bits) - 1
        self._slots = np.full(1 << bits, -1, dtype=np.int64)
        self._keys[rows] = keys
        at = (keys >> self._shift).astype(np.int64)
        while len(rows):
            free = self._slots[at] < 0
            self._slots[at[free]] = rows[free]
            lost = self._slots[at] != rows  # taken before, or by another of this round
            rows, at = rows[lost], (at[lost] + 1) & self._mask
        self._depth = depth

    def rows(self, names: bytes) -> IntArray | None:
        """Row of each name of a JSON array, in its order; None if that is not certain. (R,)"""
        if not self._depth or len(names) < _WORD + 2:
            return None
        starts, ends = _quotes(names)
        if len(starts) != len(ends) or not len(ends) or ends[0] < _WORD:
            return None
        keys = _keys(names, starts, ends, self._depth)
        at = (keys >> self._shift).astype(np.int64)
        rows = self._slots[at]
        missed = np.flatnonzero((self._keys[rows] != keys) & (rows >= 0))
        while len(missed):
            at[missed] = (at[missed] + 1) & self._mask
            rows[missed] = self._slots[at[missed]]
            found = rows[missed]
            missed = missed[(self._keys[found] != keys[missed]) & (found >= 0)]
        if (rows < 0).any():
            return None
        written = b"[" + b",".join(self._quoted[rows].tolist()) + b"]"
        return rows if written == names else None


def _quotes(text: bytes) -> tuple[IntArray, IntArray]:
    """Positions of opening and of closing quotes."""
    quotes = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == _QUOTE)
    return quotes[0::2], quotes[1::2]


def _keys(text: bytes, starts: IntArray, ends: IntArray, depth: int) -> Words:
    """A hash of ``depth`` words of each name, quotes included.

    Words are taken from the end, the start, and then inwards from both: somewhere there names of
    one cluster differ. None reaches beyond the name, so that a key does not depend on neighbours.
    """
    words = np.ndarray((len(text) - _WORD + 1,), np.uint64, text, 0, (1,))
    last = ends - (_WORD - 1)
    keys: Words = words[last] * _SPREAD[0]
    for step in range(1, depth):
        inwards = _WORD * (step // 2)
        at = np.minimum(starts + inwards, last) if step % 2 else np.maximum(last - inwards, starts)
        keys ^= words[at] * _SPREAD[step]
    # Names are much alike; the high bits, by which slots are chosen, have to feel every byte.
    keys ^= keys >> np.uint64(32)
    return keys * np.uint64(_GOLDEN)
