"""Does looking a week back pay over three weeks of load that repeats, and only from the second on?

A week is seven days of an hour, so that three of them are simulated in seconds; what the policy knows of time, its
period and how far it looks ahead, is as much shorter. Each working day has a rush at the same time, steeper than
replicas can start, weekends are quiet, and no two days are quite alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from simulations.case import prepare
from simulations.runner import Tick, replay
from tests.builders_simulation import RateTrace, quick_settings

DAY_S, WEEKS = 3600.0, 3
WEEK_S = 7 * DAY_S


@dataclass(frozen=True)
class Weekly:
    """A run, week by week."""

    attained_ratio: tuple[float, ...]
    gpu_hours: tuple[float, ...]


def weekly_rates() -> list[float]:
    """Requests/s by minute: 2 at night, 12 about noon, 6 more in a rush of three minutes at half past."""
    rng = np.random.default_rng(1)
    time_of_day = np.arange(60) / 60.0
    noon = np.clip(np.sin((time_of_day - 0.3) / 0.5 * np.pi), 0.0, None) * (time_of_day < 0.8)
    rush = (time_of_day > 0.5) & (time_of_day < 0.56)
    days = []
    for day in range(7 * WEEKS):
        working = day % 7 < 5
        days.append((2.0 + (10.0 if working else 3.0) * noon + 6.0 * working * rush) * np.exp(rng.normal(0.0, 0.03)))
    return [float(rate) for rate in np.concatenate(days)]


def by_week(policy: str) -> Weekly:
    settings = quick_settings(lead_time_s=120.0, last_week={"period_s": WEEK_S, "ahead_s": 300.0})
    spent_gpu_s = [0.0]

    def look(tick: Tick) -> None:
        if tick.share * WEEKS >= len(spent_gpu_s):
            spent_gpu_s.append(tick.fleet.gpu_seconds())

    result = replay(prepare(RateTrace(weekly_rates(), seed=5), settings), policy, on_tick=look)
    spent_gpu_s = [*spent_gpu_s[:WEEKS], result.fleet.gpu_seconds()]
    rates, within = np.array(result.curves.requests_per_s), np.array(result.curves.within_ratio)
    served = np.nan_to_num(within) * rates
    weeks = zip(np.array_split(served, WEEKS), np.array_split(rates, WEEKS), strict=True)
    return Weekly(
        tuple(float(good.sum() / all_.sum()) for good, all_ in weeks),
        tuple(float(hours) for hours in np.diff(spent_gpu_s) / 3600.0),
    )


def test_from_the_second_week_on_last_week_attains_what_an_hpa_misses_for_no_more_gpu_hours() -> None:
    plain, seasonal = by_week("hpa"), by_week("last-week")
    assert seasonal.attained_ratio[0] == plain.attained_ratio[0] < 0.96  # nothing is a week old
    assert seasonal.gpu_hours[0] == pytest.approx(plain.gpu_hours[0], rel=0.01)  # its end looks ahead to the second
    for week in (1, 2):
        assert plain.attained_ratio[week] < 0.96
        assert seasonal.attained_ratio[week] > 0.99
        assert seasonal.gpu_hours[week] < 1.05 * plain.gpu_hours[week]
