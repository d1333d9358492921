"""Numbers with their noun, for messages."""

from __future__ import annotations

__all__ = ["plural"]


def plural(number: int, noun: str, many: str = "") -> str:
    """Such as ``1 pod`` and ``2 pods``.

    Parameters
    ----------
    number
        How many.
    noun
        Of one.
    many
        Of none or several; ``noun`` with an s by default.
    """
    return f"{number} {noun if number == 1 else many or noun + 's'}"
