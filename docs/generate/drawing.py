"""Small drawings: boxes, arrows and words as SVG, without a library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import hypot

__all__ = ["Box", "Canvas"]

_FONT = "font-family='system-ui, sans-serif'"
_INK, _SOFT, _FILL = "#1f2933", "#7b8794", "#eef2ff"


@dataclass(frozen=True)
class Box:
    """A rectangle with lines of text: the first in bold."""

    x: float
    y: float
    width: float
    height: float
    lines: Sequence[str]
    fill: str = _FILL

    @property
    def middle(self) -> tuple[float, float]:
        """Its centre."""
        return self.x + self.width / 2, self.y + self.height / 2

    def edge(self, toward: tuple[float, float]) -> tuple[float, float]:
        """Where a line from the centre toward a point leaves the box."""
        cx, cy = self.middle
        dx, dy = toward[0] - cx, toward[1] - cy
        if dx == dy == 0:
            return cx, cy
        scale = min(
            self.width / 2 / abs(dx) if dx else float("inf"),
            self.height / 2 / abs(dy) if dy else float("inf"),
        )
        return cx + dx * scale, cy + dy * scale


class Canvas:
    """Collects shapes; :meth:`svg` is the drawing.

    Parameters
    ----------
    width, height
        In pixels; the drawing scales with its page.
    title
        What the drawing shows, for those who do not see it.
    """

    def __init__(self, width: float, height: float, title: str) -> None:
        self._size, self._title = (width, height), title
        self._shapes: list[str] = []

    def rect(
        self, x: float, y: float, width: float, height: float, fill: str, stroke: str = "none"
    ) -> None:
        """A plain rectangle."""
        self._shapes.append(
            f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height:.1f}' rx='6' "
            f"fill='{fill}' stroke='{stroke}'/>"
        )

    def text(
        self, x: float, y: float, words: str, *, size: int = 13, anchor: str = "middle",
        bold: bool = False, color: str = _INK,
    ) -> None:  # fmt: skip
        """One line of text."""
        weight = " font-weight='600'" if bold else ""
        self._shapes.append(
            f"<text x='{x:.1f}' y='{y:.1f}' {_FONT} font-size='{size}' text-anchor='{anchor}' "
            f"fill='{color}'{weight}>{escape(words)}</text>"
        )

    def box(self, box: Box) -> None:
        """A box with its lines."""
        self.rect(box.x, box.y, box.width, box.height, box.fill, _INK)
        cx, cy = box.middle
        top = cy - (len(box.lines) - 1) * 8 + 4
        for number, line in enumerate(box.lines):
            self.text(
                cx, top + 16 * number, line, size=13 if number == 0 else 11, bold=number == 0,
                color=_INK if number == 0 else _SOFT,
            )  # fmt: skip

    def line(self, start: tuple[float, float], end: tuple[float, float], color: str = _INK) -> None:
        """A straight line."""
        self._shapes.append(
            f"<path d='M{start[0]:.1f},{start[1]:.1f} L{end[0]:.1f},{end[1]:.1f}' "
            f"stroke='{color}' fill='none'/>"
        )

    def arrow(
        self, start: Box, end: Box, *, bend: float = 0.0, label: str = "", weight: float = 1.2,
        color: str = _SOFT,
    ) -> None:  # fmt: skip
        """An arrow from one box to another.

        Parameters
        ----------
        start, end
            The boxes.
        bend
            How far the arrow swings out to its right, in pixels.
        label
            Words at its middle.
        weight, color
            Of the line.
        """
        (ax, ay), (bx, by) = start.middle, end.middle
        length = hypot(bx - ax, by - ay) or 1.0
        nx, ny = -(by - ay) / length, (bx - ax) / length
        control = ((ax + bx) / 2 + nx * bend * 2, (ay + by) / 2 + ny * bend * 2)
        sx, sy = start.edge(control)
        ex, ey = end.edge(control)
        self._shapes.append(
            f"<path d='M{sx:.1f},{sy:.1f} Q{control[0]:.1f},{control[1]:.1f} {ex:.1f},{ey:.1f}' "
            f"stroke='{color}' stroke-width='{weight:.1f}' fill='none' marker-end='url(#tip)'/>"
        )
        if label:
            mx, my = (sx + 2 * control[0] + ex) / 4, (sy + 2 * control[1] + ey) / 4
            self.rect(mx - 3.3 * len(label), my - 9, 6.6 * len(label), 14, "#ffffff")
            self.text(mx, my + 2, label, size=11, color=_INK)

    def svg(self) -> str:
        """The drawing as one file."""
        width, height = self._size
        return (
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:.0f} {height:.0f}' "
            f"role='img' aria-label='{escape(self._title, quote=True)}'>\n"
            f"<title>{escape(self._title)}</title>\n"
            "<defs><marker id='tip' viewBox='0 0 10 10' refX='9' refY='5' markerWidth='9' "
            "markerHeight='9' markerUnits='userSpaceOnUse' orient='auto'>"
            f"<path d='M0,0 L10,5 L0,10 z' fill='{_SOFT}'/></marker></defs>\n"
            f"<rect width='{width:.0f}' height='{height:.0f}' fill='#ffffff'/>\n"
            + "\n".join(self._shapes)
            + "\n</svg>\n"
        )
