"""Is the history of load kept with its gaps, and shown to forecasters as it was?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from controller.forecasts import ForecastSettings, LoadForecasts, LoadHistory
from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.forecaster import CannotForecast, FallbackForecaster
from forecasting.last_value import LastValueForecaster
from forecasting.series import REQUESTS, LoadSeries
from policies.fleet import Demand, PoolKey
from tests.builders import AT, MODEL, demand, fleet, forecast, pool


def history(*rates: float | None, kept_s: float = 3600.0, step_s: float = 15.0) -> LoadHistory:
    """A history of one tick per rate, the first at ``AT``; None is a tick without observation."""
    kept = LoadHistory(step_s, kept_s)
    for tick, rate in enumerate(rates):
        kept.append(AT + tick * step_s, None if rate is None else demand(rate))
    return kept


def rates(series: LoadSeries) -> list[float]:
    return [float(rate) for rate in series.values[:, REQUESTS]]


def test_each_tick_is_a_step_that_ends_there() -> None:
    series = history(1.0, 2.0, 3.0).series(15.0)
    assert rates(series) == [1.0, 2.0, 3.0]
    assert (series.start_at, series.end_at) == (AT - 15.0, AT + 30.0)


def test_a_tick_without_observation_is_a_gap_and_not_zero() -> None:
    assert rates(history(1.0, None, 3.0).series(15.0)) == pytest.approx([1.0, math.nan, 3.0], nan_ok=True)


def test_missed_ticks_become_gaps() -> None:
    kept = history(1.0)
    kept.append(AT + 60.0, demand(5.0))
    assert rates(kept.series(15.0)) == pytest.approx([1.0, math.nan, math.nan, math.nan, 5.0], nan_ok=True)


def test_a_tick_that_comes_too_early_changes_nothing() -> None:
    kept = history(1.0, 2.0)
    kept.append(AT + 15.0, demand(99.0))
    kept.append(AT + 20.0, demand(99.0))
    assert rates(kept.series(15.0)) == [1.0, 2.0]


def test_ticks_may_come_a_little_late_or_early() -> None:
    kept = LoadHistory(15.0, 3600.0)
    for at in (0.0, 14.0, 31.0, 44.5, 60.2):
        kept.append(AT + at, demand(1.0))
    assert rates(kept.series(15.0)) == [1.0] * 5


def test_a_clock_set_back_neither_loses_nor_freezes_the_load() -> None:
    kept = history(1.0, 2.0, 3.0)
    kept.append(AT - 3600.0, demand(7.0))
    kept.append(AT - 3585.0, demand(8.0))
    series = kept.series(15.0)
    assert rates(series) == [1.0, 2.0, 3.0, 7.0, 8.0]
    assert series.end_at == AT - 3585.0


def test_a_gap_longer_than_the_history_leaves_only_the_present() -> None:
    kept = history(*[5.0] * 10, kept_s=150.0)
    kept.append(AT + 1e7, demand(2.0))
    series = kept.series(15.0)
    assert (len(series), series.end_at) == (10, pytest.approx(AT + 1e7, abs=15.0))
    assert rates(series)[-1] == 2.0
    assert np.isnan(rates(series)[:-1]).all()


def test_old_load_is_forgotten() -> None:
    kept = history(*(float(tick) for tick in range(100)), kept_s=150.0)
    assert rates(kept.series(15.0)) == [float(tick) for tick in range(90, 100)]


def test_longer_steps_are_means_and_the_newest_is_whole() -> None:
    series = history(*(float(tick) for tick in range(9))).series(60.0)
    assert rates(series) == [2.5, 6.5]
    assert series.end_at == AT + 8 * 15.0


def test_too_little_history_for_a_step_is_an_empty_series() -> None:
    assert len(history(1.0, 2.0).series(60.0)) == 0
    assert len(LoadHistory(15.0, 3600.0).series(60.0)) == 0


def test_recent_demand_is_the_mean_of_what_was_observed() -> None:
    assert history(8.0, None, 4.0, 6.0).recent(60.0) == demand(6.0)
    assert history(100.0, 8.0, 4.0).recent(30.0) == demand(6.0)


def test_recent_demand_is_unknown_when_the_newest_tick_is() -> None:
    assert history(8.0, None).recent(60.0) is None
    assert LoadHistory(15.0, 3600.0).recent(60.0) is None


def test_a_window_shorter_than_a_tick_is_the_newest_tick() -> None:
    assert history(8.0, 4.0).recent(1.0) == demand(4.0)


def test_a_history_goes_on_from_what_was_recorded_before() -> None:
    before = LoadSeries(AT - 75.0, 15.0, np.array([[1.0, 1e3, 2e2], [2.0, 2e3, 4e2], [3.0, 3e3, 6e2]]))
    kept = LoadHistory(15.0, 3600.0, before)
    kept.append(AT, demand(9.0))
    assert rates(kept.series(15.0)) == pytest.approx([1.0, 2.0, 3.0, math.nan, 9.0], nan_ok=True)


def test_only_as_much_of_the_record_is_kept_as_there_is_room_for() -> None:
    before = LoadSeries(AT - 1500.0, 15.0, np.ones((100, 3)))
    assert len(LoadHistory(15.0, 150.0, before).series(15.0)) == 10


def test_an_empty_record_is_no_record() -> None:
    kept = LoadHistory(15.0, 3600.0, LoadSeries(0.0, 15.0, np.empty((0, 3))))
    kept.append(AT, demand(1.0))
    assert kept.series(15.0).end_at == AT


def test_a_record_at_another_step_is_refused() -> None:
    with pytest.raises(ValueError, match=r"steps of 60.0 s, the tick is 15.0 s"):
        LoadHistory(15.0, 3600.0, LoadSeries(0.0, 60.0, np.ones((3, 3))))


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(0.0, 1e6)), min_size=1, max_size=60),
    st.integers(2, 20),
    st.integers(1, 6),
)
def test_a_series_is_always_the_tail_of_what_was_seen(seen: list[float | None], kept: int, factor: int) -> None:
    fine = history(*seen, kept_s=15.0 * kept).series(15.0)
    expected = [math.nan if rate is None else rate for rate in seen][-kept:]
    assert rates(fine) == pytest.approx(expected, nan_ok=True)
    coarse = history(*seen, kept_s=15.0 * kept).series(15.0 * factor)
    assert len(coarse) == len(expected) // factor
    assert coarse.end_at == pytest.approx(fine.end_at)


@dataclass
class Echo:
    """Forecasts the last value it was shown."""

    name: str = "echo 1"
    asked: list[tuple[LoadSeries, int]] = field(default_factory=list)

    def forecast(
        self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
    ) -> LoadForecast:
        self.asked.append((history, horizon_steps))
        if not len(history):
            raise CannotForecast("nothing was seen yet")
        return forecast(float(history.values[-1, REQUESTS]), history.end_at, horizon_steps * history.step_s)


def test_a_model_is_learned_and_then_forecast_at_the_forecast_step() -> None:
    echo = Echo()
    loads = LoadForecasts(FallbackForecaster((echo,)), 15.0, ForecastSettings())
    for tick in range(8):
        loads.learn(fleet(at=AT + 15.0 * tick, requests_per_s=float(tick)))
    made = loads.forecast(MODEL, 301.0)
    assert made is not None
    assert (echo.asked[0][0].step_s, echo.asked[0][1]) == (60.0, 6)
    assert made.values[0, 0, REQUESTS] == pytest.approx(5.5)
    assert loads.notes[MODEL].source == "flat 1"


@pytest.mark.parametrize(("horizon_s", "steps"), [(1.0, 1), (60.0, 1), (60.1, 2), (300.0, 5)])
def test_the_horizon_is_covered_by_whole_steps(horizon_s: float, steps: int) -> None:
    echo = Echo()
    loads = LoadForecasts(FallbackForecaster((echo,)), 60.0, ForecastSettings())
    loads.learn(fleet())
    loads.forecast(MODEL, horizon_s)
    assert echo.asked[0][1] == steps


def test_who_could_not_forecast_is_noted() -> None:
    loads = LoadForecasts(FallbackForecaster((Echo(),)), 15.0, ForecastSettings())
    loads.learn(fleet())
    assert loads.forecast(MODEL, 300.0) is None
    assert loads.notes[MODEL].source == "reactive only"
    assert loads.notes[MODEL].stepped_back == (("echo 1", "nothing was seen yet"),)


def test_a_model_that_was_never_seen_has_no_forecast() -> None:
    assert LoadForecasts(FallbackForecaster((Echo(),)), 15.0, ForecastSettings()).forecast("ghost", 300.0) is None


def test_models_are_learned_apart() -> None:
    loads = LoadForecasts(FallbackForecaster(()), 15.0, ForecastSettings())
    state = fleet(pool(1), pool(1, PoolKey("n", "z")), demand={MODEL: demand(3.0)})
    assert loads.learn(state) == {MODEL: demand(3.0)}


def test_the_share_of_cached_prompts_is_not_lost() -> None:
    loads = LoadForecasts(FallbackForecaster(()), 15.0, ForecastSettings())
    warm = Demand(2.0, 2000.0, 400.0, cached_prompt_ratio=0.6)
    assert loads.learn(fleet(demand={MODEL: warm}))[MODEL].cached_prompt_ratio == 0.6


def test_a_record_from_before_is_where_learning_starts() -> None:
    before = {MODEL: LoadSeries(AT - 60.0, 15.0, np.ones((4, 3)))}
    echo = Echo()
    loads = LoadForecasts(FallbackForecaster((echo,)), 15.0, ForecastSettings(), before)
    assert loads.forecast(MODEL, 60.0) is not None
    loads.learn(fleet(at=AT + 15.0))
    assert len(echo.asked[0][0]) == 1


def test_recalled_load_goes_before_the_first_row_with_a_gap_where_nothing_is_known() -> None:
    kept = history(5.0, None, 7.0)
    earlier = LoadSeries(AT - 15.0 * 6, 15.0, np.full((3, 3), 2.0))
    kept.recall(earlier)
    found = kept.series(15.0)
    assert [None if math.isnan(rate) else rate for rate in rates(found)] == [2.0, 2.0, 2.0, None, None, 5.0, None, 7.0]
    assert found.end_at == AT + 30.0
    kept.append(AT + 45.0, demand(8.0))
    assert rates(kept.series(15.0))[-1] == 8.0


def test_recalled_load_never_replaces_what_was_seen_and_stays_in_bounds() -> None:
    kept = history(5.0, 6.0, kept_s=150.0)
    kept.recall(LoadSeries(AT - 15.0 * 100, 15.0, np.full((200, 3), 2.0)))
    assert rates(kept.series(15.0)) == [2.0] * 8 + [5.0, 6.0]
    kept.recall(LoadSeries(AT + 600.0, 15.0, np.full((4, 3), 9.0)))
    assert rates(kept.series(15.0)) == [2.0] * 8 + [5.0, 6.0]
    with pytest.raises(ValueError, match="steps of 60"):
        kept.recall(LoadSeries(AT, 60.0, np.zeros((1, 3))))


def test_load_can_be_recalled_before_anything_was_seen() -> None:
    loads = LoadForecasts(FallbackForecaster(()), 15.0, ForecastSettings())
    loads.recall({MODEL: LoadSeries(AT - 45.0, 15.0, np.full((3, 3), 2.0))})
    assert len(loads.recorded()[MODEL]) == 3
    loads.learn(fleet(at=AT + 15.0, requests_per_s=4.0))
    assert rates(loads.recorded()[MODEL]) == [2.0, 2.0, 2.0, 4.0]


def test_models_asked_for_together_get_what_each_gets_alone() -> None:
    rng = np.random.default_rng(3)
    before = {
        model: LoadSeries(AT - 15.0 * steps, 15.0, rng.poisson(40.0, (steps, 3)) / 15.0)
        for model, steps in (("a", 6000), ("b", 6000), ("c", 700), ("d", 20))
    }
    loads = LoadForecasts(FallbackForecaster((LastValueForecaster(),)), 15.0, ForecastSettings(), before)
    horizons_s = {"a": 300.0, "b": 300.0, "c": 500.0, "d": 300.0, "ghost": 300.0}
    together = loads.forecast_many(horizons_s)
    notes = dict(loads.notes)
    assert sorted(together) == ["a", "b", "c"]
    for model, made in together.items():
        # The whole history, of which the forecaster is shown only what it looks at.
        whole = LoadHistory(15.0, 86400.0 * 15, before[model]).series(60.0)
        alone = LastValueForecaster().forecast(whole, math.ceil(horizons_s[model] / 60.0))
        np.testing.assert_array_equal(made.values, alone.values)
        np.testing.assert_array_equal(made.peaks, alone.peaks)
    assert loads.forecast("d", 300.0) is None
    assert loads.notes == notes
    assert "ghost" not in notes


def test_of_a_long_history_as_much_is_shown_as_is_asked_for() -> None:
    history = LoadHistory(15.0, 86400.0, LoadSeries(AT, 15.0, np.arange(33.0)[:, None] * np.ones(3)))
    assert history.series(60.0, 2).values[:, 0].tolist() == [26.5, 30.5]
    assert history.series(60.0, 2).end_at == history.series(60.0).end_at
    assert len(history.series(60.0, 0)) == 0
    assert len(history.series(60.0, 99)) == len(history.series(60.0)) == 8
