"""Which of these is not beaten on both counts: what it costs and what it gives?"""

from __future__ import annotations

import math
from collections.abc import Sequence


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each ``(cost, gain)`` whether none costs no more and gives no less, and does better in one of them.

    Equal points do not beat each other; a point with a NaN is on no front and beats nothing.

    >>> on_front([(10.0, 0.99), (12.0, 0.98), (12.0, 0.999), (10.0, 0.99)])
    [True, False, True, True]
    """
    order = sorted((i for i, point in enumerate(points) if not any(map(math.isnan, point))), key=lambda i: points[i][0])
    front = [False] * len(points)
    best = -math.inf
    place = 0
    while place < len(order):
        cost = points[order[place]][0]
        equal = [i for i in order[place:] if points[i][0] == cost]
        most = max(points[i][1] for i in equal)
        for i in equal:
            front[i] = points[i][1] == most > best
        best = max(best, most)
        place += len(equal)
    return front
