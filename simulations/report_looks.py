"""How is a policy told from twenty others in a plot, by whoever sees no colours too?

A line has a colour and a dash pattern, a point a colour and a shape; no two policies of a page share the pair.
Foresail and the bound have looks of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Look:
    """How one policy is drawn.

    Attributes:
        colour: ``#rrggbb``, of enough contrast on white and on near-black.
        dash: Lengths of strokes and gaps in line widths; empty for a solid line.
        marker: Shape of a point, by matplotlib's name.
        width: Of lines, in pixels.
    """

    colour: str
    dash: tuple[float, ...] = ()
    marker: str = "o"
    width: float = 1.6


_FIXED = {
    "foresail": Look("#0b7fd0", (), "*", 3.0),
    "clairvoyant": Look("#7f7f7f", (6, 2, 1.5, 2), "D", 2.2),
    "hpa": Look("#d55e00", (4, 2), "s"),
    "static": Look("#9a6a00", (1.5, 1.5), "P"),
}
# After Okabe and Ito, whose palette stays apart under colour blindness; yellow and black are darkened and lightened so
# that they can be seen on white and on black.
_COLOURS = ("#009e73", "#cc79a7", "#b59a00", "#e0503c", "#2fa4d9", "#8c6bd1", "#6b8e23")
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2))
_MARKERS = ("o", "^", "v", "X", "p", "<", ">", "h", "d", "s")


def looks(policies: Sequence[str]) -> dict[str, Look]:
    """Return how to draw each of ``policies``. What most look like depends on who else is there.

    Lines repeat after 28 of them, points after 70.
    """
    others = [policy for policy in dict.fromkeys(policies) if policy not in _FIXED]
    drawn = {policy: _look(place) for place, policy in enumerate(others)}
    return {policy: _FIXED.get(policy) or drawn[policy] for policy in policies}


def _look(place: int) -> Look:
    # 7 colours and 10 shapes have no common divisor; each round of 7 colours begins with the next dash.
    colour, turn = place % len(_COLOURS), place // len(_COLOURS)
    return Look(_COLOURS[colour], _DASHES[(colour + turn) % len(_DASHES)], _MARKERS[place % len(_MARKERS)])
