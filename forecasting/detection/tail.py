"""How rare is a deviation this large, among all that were seen? A histogram that forgets, with a tail beyond it.

Deviations are counted in bins of equal width within each octave, so that no scale need be known beforehand; counts fade
with the number of later ones. What lies among the ``TAIL`` largest is extrapolated: deviations over a high threshold
are nearly exponential whatever they are drawn from (Pickands 1975), and with a mean that is itself known from a few
excesses only, the probability of a larger one is Lomax's, which is more careful than the exponential.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import frexp, ldexp, log10
from typing import Any

PER_OCTAVE = 8
TAIL = 5.0
"""So many of the largest deviations make the tail."""
LEAST = 100
"""Before so many deviations nothing is called rare."""
RAREST = 30.0
"""No deviation is rarer than 1e-30: nobody has seen enough to say so."""
_HEAVY, _SPENT = 20.0, 0.05


class Tail:
    """Counts of past deviations, the newest ``memory`` of them in effect.

    Each octave holds its bins and, last, their sum.
    """

    __slots__ = ("_growth", "_octaves", "_seen", "_total", "_weight", "memory")

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self._growth = memory / (memory - 1.0)
        self._weight = 1.0  # of the next count: it grows, rather than that all others shrink
        self._total = 0.0
        self._seen = 0
        self._octaves: dict[int, list[float]] = {}

    def add(self, deviation: float) -> float:
        """Learn a deviation, 0 or more, and return how rare it was before: ``-log10`` of the probability of so much.

        0 before ``LEAST`` deviations are known.
        """
        self._weight *= self._growth
        self._total += self._weight
        self._seen += 1
        if deviation <= 0.0:
            return 0.0
        mantissa, octave = frexp(deviation)
        place = (mantissa - 0.5) * (2 * PER_OCTAVE)
        rarity = 0.0 if self._seen <= LEAST else self._rarity(deviation, octave, place)
        bins = self._octaves.get(octave)
        if bins is None:
            bins = self._octaves[octave] = [0.0] * (PER_OCTAVE + 1)
        bins[int(place)] += self._weight
        bins[PER_OCTAVE] += self._weight
        if self._weight > _HEAVY:
            self._lighten()
        return rarity

    def at_rarity(self, rarity: float) -> float:
        """Return the deviation whose ``rarity`` is this: half the width of a band; infinite while nothing is rare."""
        if self._seen < LEAST:
            return float("inf")
        known = self._total / self._weight + 1.0
        start, mean_excess = self._tail()
        tail_rarity = -log10((TAIL + 0.5) / known)
        if rarity >= tail_rarity:
            return start + TAIL * mean_excess * (float(10.0 ** ((rarity - tail_rarity) / TAIL)) - 1.0)
        return self._exceeded_by(known * float(10.0**-rarity) - 0.5)[0]

    def _rarity(self, deviation: float, octave: int, place: float) -> float:
        """Return the rarity of a deviation that lies at ``place`` among the bins of its octave."""
        larger = 0.0
        for other, bins in self._octaves.items():
            if other > octave:
                larger += bins[PER_OCTAVE]
            elif other == octave:
                index = int(place)
                larger += sum(bins[index + 1 : PER_OCTAVE]) + bins[index] * (index + 1 - place)
        larger /= self._weight
        known = self._total / self._weight
        if larger >= TAIL:
            return -log10((larger + 0.5) / known)
        start, mean_excess = self._tail()
        beyond = max(deviation - start, 0.0) / (TAIL * mean_excess)
        return min(-log10((TAIL + 0.5) / known) + TAIL * log10(1.0 + beyond), RAREST)

    def _tail(self) -> tuple[float, float]:
        """Return the deviation that ``TAIL`` others exceed, and their mean excess over it, never quite zero."""
        start, mean = self._exceeded_by(TAIL)
        return start, max(mean - start, 1e-3 * start, 1e-290)

    def _exceeded_by(self, others: float) -> tuple[float, float]:
        """Return the deviation that so many counts exceed, and the mean of these; zero where there are fewer."""
        left = others * self._weight
        mass = 0.0
        for octave in sorted(self._octaves, reverse=True):
            bins = self._octaves[octave]
            width = ldexp(0.5 / PER_OCTAVE, octave)
            for index in range(PER_OCTAVE - 1, -1, -1):
                held = bins[index]
                if held <= 0.0:
                    continue
                high = (PER_OCTAVE + index + 1) * width
                if held >= left:
                    start = high - width * left / held
                    return start, (mass + left * (start + high) / 2.0) / (others * self._weight)
                left -= held
                mass += held * (high - width / 2.0)
        return 0.0, mass / (others * self._weight)

    def _lighten(self) -> None:
        """Divide all counts by the newest weight, and drop octaves of which next to nothing is left."""
        weight, self._weight = self._weight, 1.0
        self._total /= weight
        lighter = {octave: [held / weight for held in bins] for octave, bins in self._octaves.items()}
        self._octaves = {octave: bins for octave, bins in lighter.items() if bins[PER_OCTAVE] > _SPENT}

    def copy(self) -> Tail:
        """Return an equal one that learns apart from this one."""
        other = Tail(self.memory)
        other._weight, other._total, other._seen = self._weight, self._total, self._seen
        other._octaves = {octave: bins.copy() for octave, bins in self._octaves.items()}
        return other

    def to_json(self) -> dict[str, Any]:
        """Return numbers that ``from_json`` makes an equal one of."""
        octaves = [[octave, *bins] for octave, bins in self._octaves.items()]
        return {"weight": self._weight, "total": self._total, "seen": self._seen, "octaves": octaves}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any], memory: float) -> Tail:
        """Return what ``to_json`` described."""
        tail = cls(memory)
        tail._weight, tail._total, tail._seen = kept["weight"], kept["total"], kept["seen"]
        tail._octaves = {int(octave): list(bins) for octave, *bins in kept["octaves"]}
        return tail
