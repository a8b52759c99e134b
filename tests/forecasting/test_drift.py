"""Is drift seen when there is some, and no drift when there is none?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from forecasting.contest import Contest, Standings
from forecasting.drift import calibration_drift, drifts, error_drift, input_drift
from forecasting.forecast import DEFAULT_LEVELS
from forecasting.forecaster import Forecaster
from forecasting.last_value import LastValueForecaster
from forecasting.series import FloatArray, LoadSeries
from tests.forecasting.test_judged import Scaled

STEP_S = 300.0
DAY = 288


def load(rates: FloatArray) -> LoadSeries:
    return LoadSeries(1_699_920_000.0, STEP_S, np.stack([rates, 1000.0 * rates, 200.0 * rates], axis=1))


def daily(rng: np.random.Generator, days: int = 9) -> FloatArray:
    hours = np.arange(days * DAY) / 12.0
    return np.asarray(rng.poisson(60.0 * (20.0 + 12.0 * np.sin(2 * np.pi * hours / 24.0))) / 60.0)


def bursty(rng: np.random.Generator, days: int = 9) -> FloatArray:
    return np.asarray(rng.gamma(2.0, 5.0, days * DAY))


def wandering(rng: np.random.Generator, days: int = 9) -> FloatArray:
    """Comes back to where it was within hours."""
    noise, level = rng.normal(0.0, 0.05, days * DAY), np.zeros(days * DAY)
    for step in range(1, len(level)):
        level[step] = 0.97 * level[step - 1] + noise[step]
    return np.asarray(20.0 * np.exp(level))


def judged(history: LoadSeries, forecaster: Forecaster) -> Standings:
    return Contest().standings({"m": history}, {"m": 2}, {"one": forecaster})


def weekly(rng: np.random.Generator, days: int = 16) -> FloatArray:
    """Weekends have two fifths of the load; the record ends on a day between Thursday and Tuesday."""
    rates, day = daily(rng, days), np.arange(days * DAY) // DAY
    known = (days - int(rng.integers(0, 6))) * DAY
    return np.asarray((rates * np.where(day % 7 >= 5, 0.4, 1.0))[:known])


@pytest.mark.parametrize("kind", [daily, bursty, wandering, weekly])
def test_nothing_drifts_where_nothing_changes(kind: Callable[[np.random.Generator], FloatArray]) -> None:
    """Fifty worlds of each of four kinds, every kind of alarm."""
    alarms = []
    for seed in range(50):
        history = load(kind(np.random.default_rng(seed)))
        alarms += drifts(judged(history, LastValueForecaster()), "one", {"m": history})
    assert len(alarms) <= 1


def test_another_level_of_load_is_another_input_within_a_day() -> None:
    rates = daily(np.random.default_rng(0))
    assert input_drift({"m": load(rates)}) == ""
    rates[-DAY:] *= 2.5
    assert input_drift({"m": load(rates)}) == "the last day's load of 1 of 1 workloads is unlike the days before"


@pytest.mark.parametrize("kind", [daily, weekly])
def test_a_saturday_is_no_drift_and_a_monday_of_another_level_is(
    kind: Callable[[np.random.Generator], FloatArray],
) -> None:
    """The record begins on a Monday: day 13 is the second Saturday, day 15 the third Monday."""
    hours = np.arange(16 * DAY) / 12.0
    rates = 20.0 + 12.0 * np.sin(2 * np.pi * hours / 24.0)
    if kind is weekly:
        rates = rates * np.where(hours // 24 % 7 >= 5, 0.4, 1.0)
    assert [day for day in range(8, 17) if input_drift({"m": load(rates[: day * DAY])})] == []
    rates[14 * DAY :] *= 2.5
    assert input_drift({"m": load(rates[: 15 * DAY])})


def test_drift_is_told_within_hours() -> None:
    """Forecasts 40 % too low within four, another level of load within fifteen, in each of ten worlds."""
    for seed in range(10):
        rates = daily(np.random.default_rng(100 + seed))
        history = load(rates)
        assert error_drift(judged(history, GoneWrong(history.end_at - 4 * 3600.0)), "one")
        rates[-15 * 12 :] *= 2.5
        assert input_drift({"m": load(rates)})


def shocked(seed: int, workloads: int = 20, instants: int = 48) -> Standings:
    """Calibrated, and no worse than ever; but all workloads are surprised at the same instants."""
    rng = np.random.default_rng(seed)
    rank = np.tile(rng.random(instants), workloads)
    shares = (rank[:, None] <= np.array(DEFAULT_LEVELS)).astype(np.float64)
    at = np.tile(np.arange(1.0, instants + 1), workloads)
    losses = {"one": np.tile(np.exp(rng.normal(0.0, 0.7, instants)), workloads)}
    return Standings(losses, {"one": shares}, np.ones(len(at)), 1800.0 * at, at / instants, 1.0)


def test_workloads_that_are_surprised_together_are_no_more_evidence_than_one() -> None:
    alarms = [bool(test(shocked(seed), "one")) for seed in range(300) for test in (error_drift, calibration_drift)]
    assert sum(alarms) <= 1


def test_a_few_workloads_that_change_are_no_drift_of_the_fleet() -> None:
    calm = {f"m{i}": load(daily(np.random.default_rng(i))) for i in range(3)}
    moved = daily(np.random.default_rng(9))
    moved[-DAY:] *= 4.0
    assert input_drift({**calm, "moved": load(moved)}) == ""


def test_a_week_end_is_no_drift_by_itself_nor_is_a_history_that_is_too_short() -> None:
    rates = daily(np.random.default_rng(0))
    rates[-DAY:] *= 0.75
    assert input_drift({"m": load(rates)}) == ""
    assert input_drift({"m": load(rates[: 3 * DAY])}) == ""
    assert input_drift({}) == ""


class GoneWrong(Scaled):
    """Good until an instant, and then far too low."""

    def __init__(self, good_until: float) -> None:
        super().__init__(1.0)
        self._good_until = good_until

    def forecast(self, history: LoadSeries, *rest: object):  # type: ignore[no-untyped-def,override]
        self._factor = 1.0 if history.end_at < self._good_until else 0.6
        return super().forecast(history, *rest)  # type: ignore[arg-type]


def test_forecasts_that_went_wrong_this_morning_are_an_error_drift() -> None:
    history = load(daily(np.random.default_rng(1)))
    gone = judged(history, GoneWrong(history.end_at - 6.5 * 3600.0))
    assert "lose" in error_drift(gone, "one")
    assert error_drift(judged(history, LastValueForecaster()), "one") == ""


@pytest.mark.parametrize("factor", [0.8, 1.3])
def test_bounds_that_are_off_either_way_are_a_calibration_drift(factor: float) -> None:
    history = load(daily(np.random.default_rng(2)))
    assert "bound" in calibration_drift(judged(history, Scaled(factor)), "one")
    assert calibration_drift(judged(history, LastValueForecaster()), "one") == ""


def test_a_day_without_forecasts_is_no_evidence() -> None:
    history = load(np.full(9 * DAY, np.nan))
    assert drifts(judged(history, LastValueForecaster()), "one", {"m": history}) == ()
