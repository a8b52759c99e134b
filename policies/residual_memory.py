"""What is remembered of figures that are held against what was expected of them? A part of ``memory``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeAlias

from pydantic import ConfigDict, Field

Count: TypeAlias = Annotated[int, Field(ge=0)]
Total: TypeAlias = Annotated[float, Field(ge=0)]

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class ResidualMemory:
    """How far a figure usually strays from what is expected of it, and whether it does so now.

    Attributes:
        location, spread: Usual deviation and mean distance from it, of ``seen`` looks.
        above, below: Cumulative sums of what lies over and under that, which began at ``above_since``, ``below_since``.
        outside_at: Instants, within the look-back, at which it was outside, on the side that ``was_above`` says.
        since_at: When it began to stray; None while it does not, or has not for long enough.
        telling: Whether that is told; ``told`` is the highest score that was.
        ended_at: When what was last told was over; None when nothing was.
        covered: Share of the looks of late at which figure and expectation were at hand.
    """

    __pydantic_config__ = _STRICT

    location: float = 0.0
    spread: Total = 0.0
    seen: Count = 0
    above: Total = 0.0
    below: Total = 0.0
    above_since: float = 0.0
    below_since: float = 0.0
    outside_at: tuple[float, ...] = ()
    was_above: bool = False
    since_at: float | None = None
    telling: bool = False
    told: Total = 0.0
    ended_at: float | None = None
    covered: Total = 0.0


@dataclass(frozen=True, slots=True)
class LoadMemory:
    """What was forecast of a model's load, and how far load usually strays from that.

    Attributes:
        due: ``(ends_at, low, middle, high)``, ascending: the 0.1, 0.5 and 0.9 quantile of requests/s that was forecast
            for the step that ends then.
        step_s: Length of such a step.
        residual: Of the load, in half widths of the band that was forecast.
    """

    __pydantic_config__ = _STRICT

    due: tuple[tuple[float, Total, Total, Total], ...] = ()
    step_s: Total = 0.0
    residual: ResidualMemory = ResidualMemory()


@dataclass(frozen=True, slots=True)
class LatencyMemory:
    """How slow a pool's load explains that it is, as of ``explained_at``, and how far it usually strays from that.

    ``residual`` is that of the logarithm of TPOT over ``explained_s``; requests last queued there at ``queued_at``.
    """

    __pydantic_config__ = _STRICT

    explained_s: Total | None = None
    explained_at: float | None = None
    residual: ResidualMemory = ResidualMemory()
    queued_at: float | None = None
