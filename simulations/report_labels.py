"""Where does the name of each point go, so that it covers no other name and no other point?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CHARACTER_WIDTH, LINE_HEIGHT = 6.6, 15.0
"""Of the text, in pixels, on average."""

_GAP = 9.0
"""From the middle of a point to its name, in pixels."""


@dataclass(frozen=True, slots=True)
class Place:
    """A side of a point, in plotly's words; ``across`` and ``up`` are -1, 0 or 1."""

    name: str
    across: int
    up: int


PLACES = (
    Place("top right", 1, 1),
    Place("bottom right", 1, -1),
    Place("top left", -1, 1),
    Place("bottom left", -1, -1),
    Place("middle right", 1, 0),
    Place("middle left", -1, 0),
    Place("top center", 0, 1),
    Place("bottom center", 0, -1),
)
"""In order of preference: corners first, for bars go to the sides, up and down."""


@dataclass(frozen=True, slots=True)
class _Box:
    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: _Box) -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.bottom < other.top and other.bottom < self.top


def placed(
    points: Sequence[tuple[float, float]], names: Sequence[str], size: tuple[float, float]
) -> list[Place | None]:
    """Return a side for each name, first come first served; None where there is no room or no name.

    Args:
        points: Where the points are, in pixels from the lower left corner.
        names: Their names, the most important first; an empty name needs no place, but its point is kept free.
        size: Width and height of the plot, in pixels.
    """
    taken = [_Box(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    found: list[Place | None] = []
    for own, ((x, y), name) in enumerate(zip(points, names, strict=True)):
        choice = None
        for place in PLACES if name else ():
            box = _box(x, y, len(name) * CHARACTER_WIDTH, place)
            inside = box.left >= 0 and box.bottom >= 0 and box.right <= size[0] and box.top <= size[1]
            if inside and not any(box.meets(other) for i, other in enumerate(taken) if i != own):
                choice = place
                taken.append(box)
                break
        found.append(choice)
    return found


def _box(x: float, y: float, width: float, place: Place) -> _Box:
    left = {1: x + _GAP, 0: x - width / 2, -1: x - _GAP - width}[place.across]
    bottom = {1: y + _GAP - 3, 0: y - LINE_HEIGHT / 2, -1: y - _GAP + 3 - LINE_HEIGHT}[place.up]
    return _Box(left, bottom, left + width, bottom + LINE_HEIGHT)
