"""Does the chain of forecasters step back honestly?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.forecaster import CannotForecast, FallbackForecaster
from forecasting.last_value import LastValueForecaster
from forecasting.seasonal_naive import SeasonalNaiveForecaster
from forecasting.series import CHANNELS, LoadSeries
from tests.builders_forecasting import poisson_series


@dataclass(frozen=True)
class Refusing:
    name: str = "refusing"

    def forecast(
        self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
    ) -> LoadForecast:
        raise CannotForecast("it never can")


def test_the_first_honest_answer_wins_and_the_others_say_why() -> None:
    chain = FallbackForecaster((Refusing(), SeasonalNaiveForecaster(), LastValueForecaster()))
    answer = chain.answer(poisson_series(60), 4)
    assert answer.forecast is not None
    assert answer.forecast.source == "local-level"
    assert [name for name, _ in answer.stepped_back] == ["refusing", "seasonal-naive-86400s"]
    assert answer.stepped_back[0][1] == "it never can"


@dataclass(frozen=True)
class Broken:
    """Answers NaN, or raises what nobody expects of a forecaster."""

    failure: Exception | None = None
    name: str = "broken"

    def forecast(
        self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
    ) -> LoadForecast:
        if self.failure is not None:
            raise self.failure
        rates = np.full((len(levels), horizon_steps, len(CHANNELS)), np.nan)
        return LoadForecast.ordered(history.end_at, history.step_s, np.array(levels), rates, self.name)


@pytest.mark.parametrize(
    ("failure", "said"), [(None, "missing, infinite"), (RuntimeError("shapes differ"), "RuntimeError: shapes differ")]
)
def test_a_broken_forecaster_steps_back_like_an_honest_one(failure: Exception | None, said: str) -> None:
    answer = FallbackForecaster((Broken(failure), LastValueForecaster())).answer(poisson_series(60), 4)
    assert answer.forecast is not None
    assert answer.forecast.source == "local-level"
    ((name, why),) = answer.stepped_back
    assert name == "broken"
    assert said in why


def test_no_answer_at_all_leaves_scaling_reactive() -> None:
    answer = FallbackForecaster((Refusing(), LastValueForecaster())).answer(poisson_series(3), 4)
    assert answer.forecast is None
    assert len(answer.stepped_back) == 2


class Picky(LastValueForecaster):
    """Breaks on a history of 50 steps, and with it on all that it is asked about at once."""

    def forecast_many(
        self, histories: Sequence[LoadSeries], horizons_steps: Sequence[int], levels: Sequence[float] = DEFAULT_LEVELS
    ) -> list[LoadForecast | CannotForecast]:
        if any(len(history) == 50 for history in histories):
            raise RuntimeError("fifty")
        return super().forecast_many(histories, horizons_steps, levels)


def test_each_history_gets_the_answer_that_it_gets_alone() -> None:
    chain = FallbackForecaster((Refusing(), SeasonalNaiveForecaster(600.0), LastValueForecaster()))
    histories = [poisson_series(steps, seed=steps) for steps in (3, 60, 61, 400, 500)]
    told = chain.answer_many(histories, [4, 4, 5, 4, 6])
    assert [answer.forecast.source if answer.forecast else "" for answer in told] == [
        "",
        "local-level",
        "local-level",
        "seasonal-naive-600s",
        "seasonal-naive-600s",
    ]
    for history, horizon_steps, together in zip(histories, [4, 4, 5, 4, 6], told, strict=True):
        alone = chain.answer(history, horizon_steps)
        assert together.stepped_back == alone.stepped_back
        if together.forecast is None or alone.forecast is None:
            assert together.forecast is alone.forecast
        else:
            np.testing.assert_array_equal(together.forecast.values, alone.forecast.values)


def test_a_history_that_breaks_a_forecaster_costs_the_others_nothing() -> None:
    chain = FallbackForecaster((Picky(),))
    told = chain.answer_many([poisson_series(steps) for steps in (49, 50, 51)], [4, 4, 4])
    assert [answer.forecast is not None for answer in told] == [True, False, True]
    assert told[1].stepped_back == (("local-level", "it failed: RuntimeError: fifty"),)


def test_a_chain_looks_back_as_far_as_its_members_and_without_limit_where_one_does_not_say() -> None:
    level = LastValueForecaster()
    assert FallbackForecaster(()).most_steps == 0
    assert FallbackForecaster((level,)).most_steps == level.most_steps
    assert FallbackForecaster((level, SeasonalNaiveForecaster())).most_steps is None
