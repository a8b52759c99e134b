"""Is a workload's error budget being spent too fast, over a long window and a short one?

Multi-window, multi-burn-rate alerts as in the Site Reliability Workbook (chapter 5): the long window says that it
matters, the short one that it goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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


def note_level(known: ModelMemory, service: ServiceLevel | None, at: float) -> ModelMemory:
    """Return ``known`` with the service level of a window that is over and was not counted yet."""
    if service is None:
        return known
    if known.levels and at - known.levels[-1][0] < service.window_s - 1e-6:
        return known
    kept = tuple(level for level in known.levels if at - level[0] < _LONGEST_S)
    return replace(known, levels=(*kept, (at, service.finished, service.within_objective)))


def burning(
    levels: Sequence[tuple[float, float, float]],
    service: ServiceLevel | None,
    target: float,
    at: float,
    settings: BurnSettings,
) -> bool:
    """Return whether the budget burns at one of the pairs of rates.

    Args:
        levels: ``(at, finished, within)`` of windows that do not overlap, oldest first.
        service: The newest window, which stands for five minutes.
        target: Share of the requests that must be within the objective, below 1.
        at: Now.
        settings: The rates.
    """
    if service is None or not service.finished:
        return False
    budget = max(1e-9, 1.0 - target)
    now = (1.0 - service.within_objective / service.finished) / budget
    half_hour, hour, longest = (_rate(levels, at - s, budget) for s in (1800.0, 3600.0, _LONGEST_S))
    return (now >= settings.fast and hour >= settings.fast) or (half_hour >= settings.slow and longest >= settings.slow)


def _rate(levels: Sequence[tuple[float, float, float]], since_at: float, budget: float) -> float:
    recent = [(finished, within) for at, finished, within in levels if at > since_at]
    finished = sum(count for count, _ in recent)
    return (1.0 - sum(within for _, within in recent) / finished) / budget if finished else 0.0
