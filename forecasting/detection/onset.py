"""When did a series begin to stray? The two-sided cumulative sum of Page (1954), asked for the start of its run."""

from __future__ import annotations

from dataclasses import dataclass

ALLOWANCE = 1.5
"""Usual deviations by which a series may stray without that anything adds up."""
MOST = 30.0
"""Where a sum ends: a long excursion must not take as long to be forgotten."""


@dataclass(slots=True)
class Onset:
    """Sums of what lies over and under the expected, and since when each is above zero."""

    above: float = 0.0
    below: float = 0.0
    above_since: float = 0.0
    below_since: float = 0.0

    def add(self, at: float, strayed: float) -> None:
        """Take in by how many usual deviations the value at ``at`` lies over what was expected."""
        above, below = self.above, self.below
        self.above = min(max(above + strayed - ALLOWANCE, 0.0), MOST)
        self.below = min(max(below - strayed - ALLOWANCE, 0.0), MOST)
        if above <= 0.0 < self.above:
            self.above_since = at
        if below <= 0.0 < self.below:
            self.below_since = at

    @property
    def running(self) -> bool:
        """Whether the series strays at all."""
        return self.above > 0.0 or self.below > 0.0

    def since(self, at: float) -> float:
        """Return when the larger of both runs began; ``at`` where there is none."""
        if not self.running:
            return at
        return self.above_since if self.above >= self.below else self.below_since

    def clear(self) -> None:
        """Start anew."""
        self.above = self.below = 0.0
