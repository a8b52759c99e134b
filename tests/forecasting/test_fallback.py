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
