"""Between which values is a setting worth searching? Written beside the setting, read by ``foresail tune``."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tunable:
    """The range of a setting that a search tries, narrower than what the setting allows.

    Stands in the annotation of a field: ``Annotated[float, Tunable(0.0, 0.6, why="...")]``.

    Attributes:
        low, high: Ends of the range, both included.
        log: Whether twice as much is as far anywhere in the range; for what is felt in multiples, such as times.
        why: What the ends stand for.
    """

    low: float
    high: float
    why: str
    log: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"a range from {self.low:g} to {self.high:g} has nothing to search")
        if self.log and self.low <= 0:
            raise ValueError(f"a range in logs cannot begin at {self.low:g}")
