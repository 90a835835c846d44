"""Curves as an SVG: a panel for each unit, a line for each process, a mark for each fault.

Owns the drawing; panels, names and points come from the gauges.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import starmap
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

from tests.soak.gauges import Point

_COLUMNS: Final = 2
_WIDTH, _HEIGHT = 620, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 132, 30, 28
_COLOURS: Final = ("#0b5fa5", "#d1495b", "#2e8b57", "#b8860b", "#6a4c93", "#444444")
_MARKS: Final = "#dddddd"
# More points than a line has pixels would not be visible.
_POINTS_MAX: Final = 430
_STEPS: Final = (1, 2, 5, 10)
_MINUTE: Final = 60
_HEAD: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
    'font-family="sans-serif" font-size="11">\n<rect width="100%" height="100%" fill="white"/>'
)


class _Frame(NamedTuple):
    """The coordinates of a panel."""

    x: float
    y: float
    seconds: float
    y_max: float

    def at(self, point: Point) -> tuple[float, float]:
        seconds, value = point
        width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        return (
            self.x + _LEFT + width * seconds / self.seconds,
            self.y + _HEIGHT - _BOTTOM - height * value / self.y_max,
        )


def draw(
    title: str,
    panels: Mapping[str, Mapping[str, Sequence[Point]]],
    marks: Sequence[float],
    seconds: float,
) -> str:
    """Return the picture: `marks` are the seconds at which faults began."""
    rows = math.ceil(len(panels) / _COLUMNS)
    parts = [_HEAD.format(width=_COLUMNS * _WIDTH, height=rows * _HEIGHT + _TOP)]
    parts.append(_text(_LEFT, _TOP * 0.7, title, "font-size='14' font-weight='bold'"))
    for number, (name, lines) in enumerate(panels.items()):
        row, column = divmod(number, _COLUMNS)
        y_max = max((value for points in lines.values() for _, value in points), default=0)
        frame = _Frame(column * _WIDTH, _TOP + row * _HEIGHT, seconds, _round_up(y_max))
        parts += _panel(frame, name, lines, marks)
    return "\n".join((*parts, "</svg>\n"))


def _round_up(y_max: float) -> float:
    """Return the next round value; a panel begins at zero."""
    unit = 10.0 ** math.floor(math.log10(max(y_max, 1e-9)))
    return next(step * unit for step in _STEPS if step * unit >= y_max * 0.999)


def _panel(
    frame: _Frame, name: str, lines: Mapping[str, Sequence[Point]], marks: Sequence[float]
) -> Iterator[str]:
    yield _text(frame.x + _LEFT, frame.y + _TOP - 8, name, "font-weight='bold'")
    yield _marks(frame, marks)
    for share in (0.0, 0.5, 1.0):
        x, y = frame.at((0, frame.y_max * share))
        yield _line([(x, y), frame.at((frame.seconds, frame.y_max * share))], "#bbbbbb")
        yield _text(x - 6, y + 4, f"{frame.y_max * share:g}", "text-anchor='end'")
    for share in (0.0, 0.5, 1.0):
        x, y = frame.at((frame.seconds * share, 0))
        minutes = frame.seconds * share / _MINUTE
        yield _text(x, y + 15, f"{minutes:.3g} min", "text-anchor='middle'")
    for number, (label, points) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        drawn = points[:: 1 + len(points) // _POINTS_MAX]
        yield _line(list(map(frame.at, drawn)), colour, "1.4")
        x, _ = frame.at((frame.seconds, 0))
        yield _text(x + 8, frame.y + _TOP + 14 * number + 8, label, f"fill='{colour}'")


def _marks(frame: _Frame, marks: Sequence[float]) -> str:
    (_, top), (_, bottom) = frame.at((0, frame.y_max)), frame.at((0, 0))
    path = "".join(f"M{frame.at((mark, 0))[0]:.1f},{top:.0f}V{bottom:.0f}" for mark in marks)
    return f"<path stroke='{_MARKS}' stroke-width='0.7' d='{path}'/>"


def _line(points: Sequence[tuple[float, float]], colour: str, width: str = "0.7") -> str:
    path = " ".join(starmap("{:.1f},{:.1f}".format, points))
    return f"<polyline fill='none' stroke='{colour}' stroke-width='{width}' points='{path}'/>"


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' {style}>{escape(text)}</text>"
