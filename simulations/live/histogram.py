"""How are many observations kept in buckets, as a Prometheus histogram, at the cost of one bisection each?

``prometheus_client.Histogram`` takes a lock per observation and walks the buckets; an engine observes every token.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client.utils import floatToGoString


class Histogram:
    """Counts per bucket, and the sum.

    Args:
        bounds: Upper bounds, ascending, each inclusive; the bucket for all above them is added.
    """

    __slots__ = ("_bounds", "_counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count ``value``."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Return each upper bound as Prometheus writes it, with the number of observations up to it."""
        return list(self._cumulated())

    def _cumulated(self) -> Iterator[tuple[str, float]]:
        total = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            yield floatToGoString(bound), float(total)  # type: ignore[no-untyped-call]  # has no types


def one_two_five(most: int) -> tuple[int, ...]:
    """Return 1, 2, 5, 10, 20, 50 and so on, up to ``most``.

    >>> one_two_five(60)
    (1, 2, 5, 10, 20, 50)
    """
    bounds = []
    power = 1
    while power <= most:
        bounds += [digit * power for digit in (1, 2, 5) if digit * power <= most]
        power *= 10
    return tuple(bounds)
