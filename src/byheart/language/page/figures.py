"""Figures of the page, drawn as SVG: memorization by number of copies, and extraction by number of tries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from byheart.colors import GREY

_WIDTH, _HEIGHT = 540, 330
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 116, 30, 50


@dataclass(frozen=True)
class Series:
    """Points that belong together.

    Attributes:
        points: x, y and the half-length of an error bar (NaN for none) of each.
        color: Of everything.
        label: Written beside the last point.
        shape: "circle", "diamond", "dot" (small and pale) or "none".
        line: Whether points are joined.
        dashed: Whether the line is dashed.
    """

    points: Sequence[tuple[float, float, float]]
    color: str
    label: str = ""
    shape: str = "circle"
    line: bool = True
    dashed: bool = False


@dataclass(frozen=True)
class Axes:
    """A panel with a logarithmic x axis and a linear y axis.

    Attributes:
        title: Above the panel.
        x_label: Below it.
        x_range: Least and largest x, above 0.
        y_range: Least and largest y.
        percent: Whether y is a share, written in per cent.
        x_base: Ticks of x are at its powers.
        legend: Whether labels stand in the order of the series, not beside their last points.
    """

    title: str
    x_label: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    percent: bool = False
    x_base: int = 2
    legend: bool = False
    _inside: tuple[int, int] = field(default=(_WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM), repr=False)

    def x(self, value: float) -> float:
        """Return where a value of x is drawn."""
        low, high = (math.log(end) for end in self.x_range)
        return _LEFT + self._inside[0] * (math.log(value) - low) / (high - low)

    def y(self, value: float) -> float:
        """Return where a value of y is drawn, at the edge if it is outside."""
        low, high = self.y_range
        return _TOP + self._inside[1] * (1 - min(max((value - low) / (high - low), 0), 1))


def draw(axes: Axes, series: Iterable[Series]) -> Markup:
    """Draw a panel."""
    shapes = [*_frame(axes)]
    labels: list[tuple[float, float, Series]] = []
    for one in series:
        points = [p for p in one.points if math.isfinite(p[1])]
        if not points:
            continue
        shapes += _series(axes, one, points)
        if one.label:
            labels.append((axes.x(points[-1][0]), axes.y(points[-1][1]), one))
    shapes += _legend(labels) if axes.legend else _labels(labels)
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(axes.title)}">{"".join(shapes)}</svg>'
    )


def _frame(axes: Axes) -> Iterable[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for value in ticks(*axes.y_range):
        y = axes.y(value)
        color = GREY if value == 0 else "#e8eaee"
        yield f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{color}"/>'
        yield text(_LEFT - 7, y + 4, f"{100 * value:.0f} %" if axes.percent else f"{value:g}", "end")
    low, high = (math.log(end, axes.x_base) for end in axes.x_range)
    every = max(1, math.ceil((high - low) / 7))
    for power in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1, every):
        value = float(axes.x_base) ** power
        x = axes.x(value)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 5}" stroke="{GREY}"/>'
        yield text(x, bottom + 19, _count(value), "middle")
    yield f'<line x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}" stroke="{GREY}"/>'
    yield text((_LEFT + right) / 2, _HEIGHT - 10, axes.x_label, "middle")
    yield text(_LEFT - 40, 16, axes.title, "start", "#1d1d1f", 600)


def _series(axes: Axes, one: Series, points: Sequence[tuple[float, float, float]]) -> Iterable[str]:
    places = [(axes.x(x), axes.y(y)) for x, y, _ in points]
    if one.line and len(points) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dash = ' stroke-dasharray="5 4"' if one.dashed else ""
        yield f'<polyline points="{path}" fill="none" stroke="{one.color}" stroke-width="2"{dash}/>'
    for (x, y), (_, value, error) in zip(places, points, strict=True):
        if math.isfinite(error):
            ends = axes.y(value - error), axes.y(value + error)
            yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}" stroke="{one.color}"/>'
        if one.shape == "circle":
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{one.color}"/>'
        elif one.shape == "dot":
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{one.color}" fill-opacity="0.45"/>'
        elif one.shape == "diamond":
            corners = f"{x:.1f},{y - 5:.1f} {x + 5:.1f},{y:.1f} {x:.1f},{y + 5:.1f} {x - 5:.1f},{y:.1f}"
            yield f'<polygon points="{corners}" fill="{one.color}"/>'


def _labels(labels: list[tuple[float, float, Series]], apart: float = 14) -> Iterable[str]:
    """Labels right of the panel, as near to their last points as they can be without covering each other."""
    labels.sort(key=lambda label: label[1])
    heights: list[float] = []
    for _, y, _ in labels:
        heights.append(max(y + 4, heights[-1] + apart) if heights else y + 4)
    over = max(0.0, heights[-1] - (_HEIGHT - 8)) if heights else 0.0
    for (x, y, one), height in zip(labels, heights, strict=True):
        edge = _WIDTH - _RIGHT + 8
        if abs(height - over - y - 4) > 2 or edge - x > 16:
            yield (
                f'<line x1="{x + 6:.1f}" y1="{y:.1f}" x2="{edge - 2}" y2="{height - over - 4:.1f}"'
                f' stroke="{one.color}" stroke-opacity="0.35"/>'
            )
        yield text(edge, height - over, one.label, "start", one.color)


def _legend(labels: list[tuple[float, float, Series]]) -> Iterable[str]:
    left = _WIDTH - _RIGHT + 6
    for row, (_, _, one) in enumerate(labels):
        y = _TOP + 10 + 19 * row
        yield f'<line x1="{left}" x2="{left + 14}" y1="{y}" y2="{y}" stroke="{one.color}" stroke-width="3"/>'
        yield text(left + 18, y + 4, one.label, "start")


def ticks(low: float, high: float) -> list[float]:
    """Return four to nine round numbers in a range."""
    step = 10 ** math.floor(math.log10(high - low))
    step = next(s for s in (step / 5, step / 2, step, 2 * step) if (high - low) / s <= 8)
    return [round(k * step, 12) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _count(value: float) -> str:
    for unit, name in ((1e9, " bn"), (1e6, " M"), (1e3, " k")):
        if value >= unit and value % unit == 0:
            return f"{value / unit:g}{name}"
    return f"{value:,.10g}"


def text(x: float, y: float, words: str, anchor: str, color: str = "#5f6368", weight: int = 400) -> str:
    """Return words of a figure, escaped."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="12.5" font-weight="{weight}" fill="{color}"'
        f' text-anchor="{anchor}">{escape(words)}</text>'
    )
