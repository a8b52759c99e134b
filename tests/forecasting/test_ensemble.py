"""Do experts together answer with what each has shown to be worth, and only with what was known?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from forecasting.ensemble import CombinedForecaster
from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.forecaster import CannotForecast, Forecaster
from forecasting.judged import JudgedChain
from forecasting.last_value import LastValueForecaster
from forecasting.past_answers import PastAnswers, judged_leads, past_origins
from forecasting.series import CHANNELS, LoadSeries
from forecasting.trust import Trust, TrustSettings, trust_in
from tests.builders_forecasting import poisson_series, series_of

LOAD = poisson_series(400, step_s=60.0, rate=8.0, seed=4)


@dataclass
class Always:
    """Says ``rate`` give or take ``spread``, and counts how often it was asked."""

    rate: float
    spread: float = 0.1
    asked: int = 0
    refuses: bool = False
    most_steps: int = 10

    @property
    def name(self) -> str:
        return f"always-{self.rate:g}"

    def forecast(
        self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
    ) -> LoadForecast:
        self.asked += 1
        if self.refuses:
            raise CannotForecast("it never does")
        around = self.rate + self.spread * (np.asarray(levels) - 0.5)
        values = np.broadcast_to(around[:, None, None], (len(levels), horizon_steps, len(CHANNELS))).copy()
        return LoadForecast.ordered(history.end_at, history.step_s, np.asarray(levels), values, self.name, values)

    def forecast_many(
        self, histories: Sequence[LoadSeries], horizons_steps: Sequence[int], levels: Sequence[float] = DEFAULT_LEVELS
    ) -> list[LoadForecast | CannotForecast]:
        return [self.forecast(*one, levels) for one in zip(histories, horizons_steps, strict=True)]


@dataclass
class Fitted(Always):
    """The same, fitted elsewhere."""

    fitted_until: float = np.inf


class Breaks(Always):
    """Fails at every question."""

    def forecast(
        self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
    ) -> LoadForecast:
        raise RuntimeError("broken")


def combined(*experts: Forecaster, **options: object) -> CombinedForecaster:
    return CombinedForecaster(experts, replays=60, spacing_s=60.0, **options)  # type: ignore[arg-type]


def test_the_expert_that_was_right_is_followed() -> None:
    load = series_of(np.full(200, 5.0) + np.random.default_rng(0).normal(0, 0.05, 200), 60.0)
    right, wrong = Always(5.0), Always(50.0)
    both = combined(wrong, right)
    leads, weights = both.weights(load, 8)
    assert leads == judged_leads(8)
    assert weights[1, :, :, 0].min() > 0.9
    np.testing.assert_allclose(both.forecast(load, 8).at_level(0.5)[:, 0], 5.0, rtol=0.1)


def test_an_expert_that_refuses_or_breaks_costs_nothing_and_none_at_all_is_a_refusal() -> None:
    alone = combined(Always(5.0)).forecast(LOAD, 4)
    with_others = combined(Always(5.0), Always(1.0, refuses=True), Breaks(3.0)).forecast(LOAD, 4)
    np.testing.assert_allclose(with_others.values, alone.values)
    with pytest.raises(CannotForecast, match="it never does"):
        combined(Always(1.0, refuses=True), Breaks(3.0)).forecast(LOAD, 4)


def test_what_was_fitted_on_the_past_is_not_judged_by_it() -> None:
    """It was fitted until step 380: of what it says about earlier steps nothing counts."""
    fitted = Fitted(8.0, fitted_until=LOAD.start_at + 380 * LOAD.step_s)
    past = PastAnswers([fitted], 1000).of(LOAD, 4, 60.0, 100)
    known = np.isfinite(past.answers[0]).all(axis=(1, 2, 3, 4))
    np.testing.assert_array_equal(known, past.origins >= 380)


def test_what_was_fitted_to_this_load_begins_with_more_weight() -> None:
    _, weights = combined(Always(1.0), Fitted(2.0)).weights(LOAD.tail(11), 4)
    np.testing.assert_allclose(weights[:, 0, 0, 0], [0.25, 0.75])


def test_past_origins_lie_on_a_grid_of_the_clock_and_are_asked_once() -> None:
    expert = Always(8.0)
    kept = PastAnswers([expert], 1000)
    kept.of(LOAD.window(0, 300), 4, 600.0, 20)
    first = expert.asked
    again = kept.of(LOAD.window(0, 301), 4, 600.0, 20)
    assert expert.asked <= first + 1
    assert not np.any((round(LOAD.start_at / 60.0) + again.origins) % 10)
    np.testing.assert_array_equal(again.origins, past_origins(LOAD.window(0, 301), 600.0, 20))


def test_looking_back_can_be_spread_over_calls_and_ends_at_the_same() -> None:
    whole = combined(LastValueForecaster(0.0), LastValueForecaster()).forecast(LOAD, 4)
    slow = combined(LastValueForecaster(0.0), LastValueForecaster(), most_asked=25)
    first = slow.forecast(LOAD, 4)
    assert slow.past.asked == 25
    for _ in range(2):
        last = slow.forecast(LOAD, 4)
    assert slow.past.asked == 60
    assert not np.array_equal(first.values, whole.values)
    np.testing.assert_array_equal(last.values, whole.values)


def test_a_fleet_asked_through_the_chain_looks_back_no_faster_than_it_may() -> None:
    """Forecasts and their records of all workloads together: one call is bounded, and the end is the same."""
    loads = [poisson_series(400, step_s=60.0, rate=8.0, seed=seed) for seed in range(4)]
    expert, patient = Always(8.0), Always(8.0)
    slow, whole = combined(expert, most_asked=60), combined(patient)
    judged = JudgedChain([slow], TrustSettings())
    judged.answer_many(loads, [4] * 4)
    assert expert.asked == 4 + 60
    for _ in range(3):
        last = judged.answer_many(loads, [4] * 4)
    assert expert.asked == 4 * 4 + 4 * 60
    for load, answer in zip(loads, last, strict=True):
        told = answer.forecast.trust_reason if answer.forecast else answer.stepped_back[0][1]
        assert trust_in(whole.track_record(load, 4), TrustSettings()).reason in told


def test_past_forecasts_that_share_what_followed_count_as_fewer() -> None:
    assert combined(Always(8.0)).track_record(LOAD, 12).overlap == 12.0
    assert CombinedForecaster([Always(8.0)], spacing_s=600.0).track_record(LOAD, 12).overlap == 1.2


def test_a_correction_of_old_load_is_noticed() -> None:
    """The same clock and length with another past is another record."""
    both = combined(LastValueForecaster(0.0), LastValueForecaster())
    before = both.forecast(LOAD, 4)
    values = LOAD.values.copy()
    values[350:380] *= 3.0
    both.forecast(LoadSeries(LOAD.start_at, LOAD.step_s, values), 4)
    fresh = combined(LastValueForecaster(0.0), LastValueForecaster())
    after = both.forecast(LoadSeries(LOAD.start_at, LOAD.step_s, values), 4)
    np.testing.assert_array_equal(
        after.values, fresh.forecast(LoadSeries(LOAD.start_at, LOAD.step_s, values), 4).values
    )
    np.testing.assert_array_equal(both.forecast(LOAD, 4).values, before.values)


def test_bounds_that_are_too_narrow_are_widened() -> None:
    load = series_of(np.random.default_rng(0).normal(50.0, 5.0, 400), 60.0)
    narrow = combined(Always(50.0, spread=1.0)).forecast(load, 4).at_level(0.95)[:, 0]
    as_told = combined(Always(50.0, spread=1.0), calibrated=False).forecast(load, 4).at_level(0.95)[:, 0]
    # Told 50.45; twice the true spread would be 60, a correction is bounded by three widths.
    assert (narrow > as_told + 0.5).all()


def test_trust_is_earned_by_the_record() -> None:
    trend = series_of(10.0 + 5.0 * np.sin(np.arange(400) / 20.0), 60.0)
    bad = trust_in(combined(Always(500.0)).track_record(trend, 8), TrustSettings(least_forecasts=10))
    assert bad.trust is Trust.NONE
    short = trust_in(combined(LastValueForecaster()).track_record(trend.tail(15), 8), TrustSettings())
    assert short.trust is Trust.FLOOR
    assert "needed" in short.reason


@pytest.mark.parametrize("options", [{"replays": 0}, {"spacing_s": 0.0}, {"most_asked": 0}])
def test_impossible_settings_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        CombinedForecaster([LastValueForecaster()], **options)  # type: ignore[arg-type]
