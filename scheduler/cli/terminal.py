"""Text on its way to a terminal: the one place that every line of the command line goes through.

Names and values come from files, clusters and servers. Written as they are, control characters in
them would be carried out: clear the screen, set its title, forge a line or turn it around.
"""

from __future__ import annotations

import unicodedata

import click

__all__ = ["EXIT_BAD_INPUT", "complain", "one_line", "printable", "say"]

EXIT_BAD_INPUT = 2

# Control, format (bidirectional overrides, invisible characters), surrogate, private and
# unassigned characters; separators of lines and of paragraphs.
_ESCAPED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_LONGEST_LINE = 2000


def printable(text: str, *, keep: str = "") -> str:
    r"""The text with every character that a terminal would carry out or hide written as ``\x1b``.

    Parameters
    ----------
    text
        From anywhere.
    keep
        Characters that stay as they are, such as the newlines of a text of several lines.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _escape(character)
        if unicodedata.category(character) in _ESCAPED and character not in keep
        else character
        for character in text
    )


def _escape(character: str) -> str:
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def one_line(text: str) -> str:
    """Printable, and without its middle if it is longer than anybody reads."""
    shown = printable(text)
    if len(shown) <= _LONGEST_LINE:
        return shown
    half = _LONGEST_LINE // 2
    return f"{shown[:half]} ... {shown[-half:]}"


def say(text: str, *, keep: str = "") -> None:
    """A line on stdout."""
    click.echo(printable(text, keep=keep))


def complain(text: str, *, keep: str = "") -> None:
    """A line on stderr."""
    click.echo(printable(text, keep=keep), err=True)
