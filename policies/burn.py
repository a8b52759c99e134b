"""Is a workload's error budget being spent too fast, over a long window and a short one?

Multi-window, multi-burn-rate alerts as in the Site Reliability Workbook (chapter 5): the long window says that it
matters, the short one that it goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict, Field

from policies.fleet import ServiceLevel
from policies.memory import ModelMemory

_LONGEST_S = 6 * 3600.0


class BurnSettings(BaseModel):
    """Which pairs of windows count, and from which rate on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fast: float = Field(
        14.4, gt=1, description="Burn rate over an hour and five minutes: a fiftieth of a month's budget in an hour."
    )
    slow: float = Field(
        6.0,
        gt=1,
        description="Burn rate over six hours and half an hour: a twentieth of a month's budget in six hours.",
    )
    ahead_s: float = Field(
        900.0,
        ge=0,
        le=3600,
        description="A budget is about to burn when the short window of a pair does and the long one will, if it goes "
        "on for so many seconds: as long as what is done about it takes to help.",
    )


@dataclass(frozen=True, slots=True)
class Burn:
    """How fast a model's error budget is spent, in multiples of the rate at which it would just last.

    Attributes:
        newest: Over the newest window of the objective, five minutes as a rule.
        half_hour, hour, six_hours: Over so long, or as much of it as is known.
        burning: Whether a long and a short window burn at their rate.
        about_to: Whether the short one does, and the long one will by ``BurnSettings.ahead_s``.
        fast, slow: The rates of the pairs, over an hour and over six.
    """

    newest: float
    half_hour: float
    hour: float
    six_hours: float
    burning: bool = False
    about_to: bool = False
    fast: float = 14.4
    slow: float = 6.0

    @property
    def most(self) -> float:
        """The largest of the rates; above 1 the budget would not last."""
        return max(self.newest, self.half_hour, self.hour, self.six_hours)

    def __str__(self) -> str:
        return (
            f"{self.hour:.1f} x of {self.fast:g} x over 1 h and {self.newest:.1f} x over the newest window, "
            f"{self.six_hours:.1f} x of {self.slow:g} x over 6 h and {self.half_hour:.1f} x over half an hour"
        )


def note_level(known: ModelMemory, service: ServiceLevel | None, at: float) -> ModelMemory:
    """Return ``known`` with the service level of a window that is over and was not counted yet."""
    if service is None:
        return known
    if known.levels and at - known.levels[-1][0] < service.window_s - 1e-6:
        return known
    kept = tuple(level for level in known.levels if at - level[0] < _LONGEST_S)
    return replace(known, levels=(*kept, (at, service.finished, service.within_objective)))


def burn_of(
    levels: Sequence[tuple[float, float, float]],
    service: ServiceLevel | None,
    target: float,
    at: float,
    settings: BurnSettings,
) -> Burn | None:
    """Return how fast the budget is spent; None where no service level is measured, or no request ended.

    Args:
        levels: ``(at, finished, within)`` of windows that do not overlap, oldest first.
        service: The newest window, which stands for five minutes.
        target: Share of the requests that must be within the objective, below 1.
        at: Now.
        settings: The rates.
    """
    if service is None or not service.finished:
        return None
    budget = max(1e-9, 1.0 - target)
    newest = (1.0 - service.within_objective / service.finished) / budget
    half_hour, hour, longest = (_rate(levels, at - s, budget) for s in (1800.0, 3600.0, _LONGEST_S))
    fast, slow = settings.fast, settings.slow
    # What the rest of each window and the newest one, for as long again as it takes to help, come to together.
    more = settings.ahead_s / service.window_s
    coming = at, service.finished * more, service.within_objective * more
    hour_soon, longest_soon = (
        _rate((*levels, coming), at - s + settings.ahead_s, budget) if more else now
        for s, now in ((3600.0, hour), (_LONGEST_S, longest))
    )
    return Burn(
        newest,
        half_hour,
        hour,
        longest,
        burning=(newest >= fast and hour >= fast) or (half_hour >= slow and longest >= slow),
        about_to=(newest >= fast and hour_soon >= fast) or (half_hour >= slow and longest_soon >= slow),
        fast=fast,
        slow=slow,
    )


def _rate(levels: Sequence[tuple[float, float, float]], since_at: float, budget: float) -> float:
    recent = [(finished, within) for at, finished, within in levels if at > since_at]
    finished = sum(count for count, _ in recent)
    return (1.0 - sum(within for _, within in recent) / finished) / budget if finished else 0.0
