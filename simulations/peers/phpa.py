"""What would the Predictive Horizontal Pod Autoscaler do: an HPA that extrapolates its own answers?

Follows jthomperoo/predictive-horizontal-pod-autoscaler 0.13: every answer of the HPA's formula is kept; Holt-Winters
with given alpha, beta and gamma predicts the next one from the last seasons, rounded up; of it and the answer of now
the larger counts (``decisionType: maximum``), and then the HPA's behaviour applies. Without enough answers kept (two
seasons, and 10 + 2 * (season // 2)) there is no prediction.

It ships no coefficients; those of its example are the default, a season of 6 answers included. A day needs
``per_interval`` and ``seasonal_periods`` to match, such as 20 and 288 (every 5 minutes). The original has statsmodels
estimate where level, trend and season begin; here they begin at what the first two seasons say, which takes no search.

It sees what the HPA of ``hpa.py`` sees.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from forecasting.forecast import LoadForecast
from policies.decisions import Decision
from policies.fleet import FleetState, PoolState
from policies.memory import PolicyMemory
from policies.placement import PoolSettings
from simulations.peers.hpa import HpaSettings, autoscaled, recommended


class PhpaSettings(HpaSettings):
    """The model of the project's Holt-Winters example."""

    alpha: float = Field(0.9, ge=0, le=1, description="Smoothing of the level.")
    beta: float = Field(0.9, ge=0, le=1, description="Smoothing of the trend.")
    gamma: float = Field(0.9, ge=0, le=1, description="Smoothing of the season.")
    seasonal_periods: int = Field(6, ge=2, le=10_000, description="Answers per season.")
    stored_seasons: int = Field(4, ge=2, le=100, description="Seasons of answers that are kept.")
    per_interval: int = Field(1, ge=1, le=10_000, description="Keep and predict at every so many-th sync.")
    seasonal: Literal["add", "mul"] = Field("add", description="Whether the season adds to the level or multiplies it.")


@dataclass(slots=True)
class _Kept:
    answers: deque[int]
    syncs: int = 0
    predicted: int | None = None


@dataclass(slots=True)
class Phpa:
    """One object per pool; ``pools`` has their bounds and ``targets`` their requests per replica, by key text."""

    pools: Mapping[str, PoolSettings]
    targets: Mapping[str, float]
    settings: PhpaSettings
    name: str = "phpa"
    _kept: dict[str, _Kept] = field(default_factory=dict)

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        """Return what each pool's object asks for."""
        return autoscaled(fleet, memory, self.pools, self._answers, self.settings)

    def _answers(self, pool: PoolState) -> list[int | None]:
        name, settings = str(pool.key), self.settings
        answer = recommended(pool, self.targets[name], settings.tolerance_ratio)
        if answer is None:
            return [None]
        most = settings.seasonal_periods * settings.stored_seasons
        kept = self._kept.setdefault(name, _Kept(deque(maxlen=most)))
        if kept.syncs % settings.per_interval == 0:
            kept.answers.append(answer)
            expected = next_of(list(kept.answers), settings)
            # Coefficients near 1 can run away; nobody asks for more than a pool may have.
            kept.predicted = None if expected is None else min(math.ceil(expected), self.pools[name].max_replicas)
        kept.syncs += 1
        return [answer] if kept.predicted is None else [max(answer, kept.predicted)]


def next_of(history: Sequence[float], settings: PhpaSettings) -> float | None:
    """Return what Holt-Winters expects after ``history``; None when it is too short for it.

    Level and trend begin at the mean of the first season and the step from it to the mean of the second, each season's
    place at its deviation in the first.

    >>> next_of([1, 3] * 6, PhpaSettings(seasonal_periods=2))
    1.0
    """
    m = settings.seasonal_periods
    if len(history) < max(2 * m, 10 + 2 * (m // 2)):
        return None
    first, second = math.fsum(history[:m]) / m, math.fsum(history[m : 2 * m]) / m
    multiplied = settings.seasonal == "mul"
    if multiplied and not (first > 0 and min(history) > 0):
        return None
    level, trend = first, (second - first) / m
    season = [value / first if multiplied else value - first for value in history[:m]]
    for step, value in enumerate(history[m:]):
        place = step % m
        ahead = level + trend
        bare = value / season[place] if multiplied else value - season[place]
        before, level = level, settings.alpha * bare + (1.0 - settings.alpha) * ahead
        trend = settings.beta * (level - before) + (1.0 - settings.beta) * trend
        rest = (value / ahead if ahead > 0 else 1.0) if multiplied else value - ahead
        season[place] = settings.gamma * rest + (1.0 - settings.gamma) * season[place]
        if not math.isfinite(level) or (multiplied and season[place] <= 0):
            return None
    place = (len(history) - m) % m
    return (level + trend) * season[place] if multiplied else level + trend + season[place]
