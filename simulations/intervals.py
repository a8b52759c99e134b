"""How sure is a mean over a few seeds?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95
"""Confidence of all intervals."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, and where it lies with ``LEVEL`` confidence; ``low`` and ``high`` are NaN for fewer than two runs."""

    mean: float
    low: float
    high: float
    runs: int

    @property
    def known(self) -> bool:
        """Whether there are enough runs for an interval."""
        return not math.isnan(self.low)

    @property
    def above_zero(self) -> bool:
        """Whether all of it is more than 0; never for a single run."""
        return self.low > 0

    @property
    def below_zero(self) -> bool:
        """Whether all of it is less than 0; never for a single run."""
        return self.high < 0


def interval(values: Sequence[float]) -> Interval:
    """Return Student's interval of the mean, with n - 1 degrees of freedom; what is not finite is left out.

    >>> found = interval([1.0, 2.0, 3.0])  # 2 ± 4.303 * 1 / sqrt(3)
    >>> round(found.low, 3), round(found.high, 3)
    (-0.484, 4.484)
    """
    known = [value for value in values if math.isfinite(value)]
    count = len(known)
    mean = math.fsum(known) / count if count else math.nan
    if count < 2:
        return Interval(mean, math.nan, math.nan, count)
    # Imported here: scipy takes a moment, and --help needs none of it.
    from scipy.special import stdtrit

    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (count - 1))
    reach = float(stdtrit(count - 1, 0.5 + LEVEL / 2)) * deviation / math.sqrt(count)
    return Interval(mean, mean - reach, mean + reach, count)
