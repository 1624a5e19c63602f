"""A few helpers to draw charts as inline SVG that follows the page's light or dark colours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape


def number(value: float) -> str:
    """A coordinate with just enough digits."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values covering `low`..`high`, roughly `about` of them."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    raw = span / max(about, 1)
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw - 1e-12)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def tick_label(value: float) -> str:
    """A tick value without superfluous digits."""
    return f"{value:.6g}"


def nice_ceiling(value: float) -> float:
    """A round number a little above `value`, to end an axis with."""
    if not math.isfinite(value) or value <= 0:
        return 1.0
    magnitude = 10.0 ** math.floor(math.log10(value))
    return next(
        m * magnitude for m in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if m * magnitude >= value - 1e-12
    )


@dataclass
class Plot:
    """One rectangular plot with a linear x and y axis.

    Attributes:
        left, top, width, height: The plot area within the drawing, in drawing units.
        x_range, y_range: Data ranges shown.
    """

    left: float
    top: float
    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    parts: list[str] = field(default_factory=list)

    def x(self, value: float) -> float:
        """Data to drawing."""
        low, high = self.x_range
        return self.left + (value - low) / ((high - low) or 1.0) * self.width

    def y(self, value: float) -> float:
        """Data to drawing; y grows upwards."""
        low, high = self.y_range
        return self.top + self.height - (value - low) / ((high - low) or 1.0) * self.height

    def axes(self, x_label: str, y_label: str, x_ticks: bool = True, about_y: int = 4) -> None:
        """Grid lines, tick values and labels with units."""
        for value in nice_ticks(*self.y_range, about=about_y):
            y = self.y(value)
            self.line([(self.left, y), (self.left + self.width, y)], "grid")
            self.text(self.left - 8, y + 4, tick_label(value), "tick end")
        bottom = self.top + self.height
        if x_ticks:
            for value in nice_ticks(*self.x_range, about=10):
                x = self.x(value)
                self.line([(x, bottom), (x, bottom + 4)], "axis")
                self.text(x, bottom + 18, tick_label(value), "tick middle")
            self.text(self.left + self.width, bottom + 36, x_label, "axis-label end")
        self.line([(self.left, bottom), (self.left + self.width, bottom)], "axis")
        self.text(self.left, self.top - 10, y_label, "axis-label")

    def line(self, points: Iterable[tuple[float, float]], css: str, style: str = "") -> None:
        """A polyline through drawing coordinates."""
        path = " ".join(f"{number(x)},{number(y)}" for x, y in points)
        self.parts.append(f'<polyline class="{css}" points="{path}"{_style(style)}/>')

    def curve(
        self, points: Sequence[tuple[float, float]], css: str, style: str = "", step: bool = False
    ) -> None:
        """A line through data points; a NaN breaks it."""
        run: list[tuple[float, float]] = []
        for x, y in (*points, (math.nan, math.nan)):
            if math.isfinite(x) and math.isfinite(y):
                if step and run:
                    run.append((self.x(x), run[-1][1]))
                run.append((self.x(x), self.y(y)))
            else:
                if len(run) > 1:
                    self.line(run, css, style)
                run = []

    def rectangle(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        css: str,
        style: str = "",
        title: str = "",
        radius: float = 0,
    ) -> None:
        """A rectangle between drawing coordinates, with a tooltip."""
        inner = f"<title>{escape(title)}</title>" if title else ""
        rounded = f' rx="{number(radius)}"' if radius else ""
        self.parts.append(
            f'<rect class="{css}" x="{number(min(x0, x1))}" y="{number(min(y0, y1))}" '
            f'width="{number(abs(x1 - x0))}" height="{number(abs(y1 - y0))}"'
            f"{rounded}{_style(style)}>{inner}</rect>"
        )

    def text(self, x: float, y: float, content: str, css: str, style: str = "") -> None:
        """A line of text at drawing coordinates."""
        self.parts.append(
            f'<text class="{css}" x="{number(x)}" y="{number(y)}"{_style(style)}>{escape(content)}</text>'
        )

    def area(
        self, upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], css: str, style: str
    ) -> None:
        """Fills between two curves in data coordinates."""
        points = [(self.x(x), self.y(y)) for x, y in (*upper, *reversed(lower))]
        path = " ".join(f"{number(x)},{number(y)}" for x, y in points)
        self.parts.append(f'<polygon class="{css}" points="{path}"{_style(style)}/>')


def drawing(width: float, height: float, parts: Iterable[str], label: str) -> str:
    """Wraps parts into one scalable SVG element.

    Args:
        width: Drawing units; the page scales the whole.
        height: Drawing units.
        parts: SVG elements.
        label: What the picture shows, for screen readers.
    """
    return (
        f'<svg viewBox="0 0 {number(width)} {number(height)}" role="img" '
        f'aria-label="{escape(label, quote=True)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """An HTML legend of (colour, name) pairs."""
    items = "".join(
        f'<span class="legend-item"><i style="background:{colour}"></i>{escape(name)}</span>'
        for colour, name in entries
    )
    return f'<div class="legend">{items}</div>'


def _style(style: str) -> str:
    return f' style="{escape(style, quote=True)}"' if style else ""
