"""Is each forecaster believed as far as its own record on the workload goes, and no further?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from forecasting.forecast import DEFAULT_LEVELS, LoadForecast, Trust
from forecasting.forecaster import CannotForecast
from forecasting.judged import JudgedChain
from forecasting.last_value import LastValueForecaster
from forecasting.past_peaks import JUDGED
from forecasting.series import FloatArray, LoadSeries
from forecasting.trust import TrustSettings

STEP_S = 60.0


def load(values: FloatArray, start_at: float = 1.7e9) -> LoadSeries:
    start_at -= start_at % STEP_S
    return LoadSeries(start_at, STEP_S, np.stack([values, 1000.0 * values, 200.0 * values], axis=1))


def waves(steps: int = 600, seed: int = 0) -> FloatArray:
    rng = np.random.default_rng(seed)
    return np.maximum(0.1, 20.0 + 8.0 * np.sin(np.arange(steps) / 40.0) + rng.normal(0.0, 1.0, steps))


class Scaled:
    """The local level times a factor: as wrong as one likes, and counted."""

    def __init__(self, factor: float) -> None:
        self._factor, self._level = factor, LastValueForecaster()
        self.asked = 0

    name = "scaled"

    @property
    def most_steps(self) -> int:
        return self._level.most_steps

    def forecast(
        self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
    ) -> LoadForecast:
        self.asked += 1
        told = self._level.forecast(history, horizon_steps, levels)
        return LoadForecast.ordered(
            told.made_at, told.step_s, told.levels, self._factor * told.values, self.name, self._factor * told.peaks
        )

    def forecast_many(
        self, histories: Sequence[LoadSeries], horizons_steps: Sequence[int], levels: Sequence[float] = DEFAULT_LEVELS
    ) -> list[LoadForecast | CannotForecast]:
        return [self.forecast(*one, levels) for one in zip(histories, horizons_steps, strict=True)]


class FittedElsewhere(Scaled):
    """The same, of a model from a registry."""

    def __init__(self, factor: float, fitted_until: float = 0.0) -> None:
        super().__init__(factor)
        self.fitted_until = fitted_until


def chain(*forecasters: LastValueForecaster | Scaled, most_asked: int = 10_000) -> JudgedChain:
    return JudgedChain(forecasters, TrustSettings(), most_asked)


def test_a_good_forecaster_is_trusted_in_full_and_says_by_how_much_it_is_better() -> None:
    (answer,) = chain(LastValueForecaster()).answer_many([load(waves())], [5])
    assert answer.forecast is not None
    assert answer.forecast.trust is Trust.FULL
    assert "less loss than the last value" in answer.forecast.trust_reason


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_a_bad_one_steps_back_with_its_record_as_the_reason(factor: float) -> None:
    (answer,) = chain(Scaled(factor), LastValueForecaster()).answer_many([load(waves())], [5])
    assert answer.forecast is not None
    assert answer.forecast.source == "local-level"
    ((name, why),) = answer.stepped_back
    assert (name, "it is not trusted: " in why, "more loss than the last value" in why) == ("scaled", True, True)


def test_when_all_are_bad_there_is_no_forecast() -> None:
    (answer,) = chain(Scaled(0.3)).answer_many([load(waves())], [5])
    assert answer.forecast is None


def test_what_was_fitted_elsewhere_and_had_no_time_to_show_anything_is_a_floor() -> None:
    (answer,) = chain(FittedElsewhere(3.0)).answer_many([load(waves(20))], [5])
    assert answer.forecast is not None
    assert answer.forecast.trust is Trust.FLOOR
    assert "past forecasts needed" in answer.forecast.trust_reason
    (own,) = chain(LastValueForecaster()).answer_many([load(waves(20))], [5])
    assert own.forecast is not None
    assert own.forecast.trust is Trust.FULL


def test_what_it_said_of_load_that_it_was_fitted_on_does_not_count() -> None:
    history = load(waves())
    late = FittedElsewhere(1.0, history.end_at - 12 * STEP_S)
    (answer,) = chain(late).answer_many([history], [5])
    assert late.asked == 10  # now, and at each step since then of which it is known what followed
    assert answer.forecast is not None
    assert answer.forecast.trust is Trust.FLOOR


def test_one_that_was_good_and_is_bad_now_loses_its_trust_within_the_day() -> None:
    """It follows the clock of its past: the same numbers, judged at another time, are another record."""
    calm = waves(3000)
    (before,) = chain(LastValueForecaster()).answer_many([load(calm)], [5])
    noisy = calm.copy()
    noisy[1500:] = np.where(np.arange(1500) % 20 < 10, 5.0, 200.0)  # what the level is worst at
    (after,) = chain(Scaled(1.2)).answer_many([load(noisy)], [5])
    assert before.forecast is not None
    assert before.forecast.trust is Trust.FULL
    assert after.forecast is None or after.forecast.trust is not Trust.FULL


def test_answers_at_past_instants_are_asked_for_once() -> None:
    whole, level = load(waves(3000)), Scaled(1.0)
    judge = chain(level)
    judge.answer_many([whole.window(0, 2900)], [5])
    first = level.asked
    assert first == JUDGED + 1
    for end in range(2901, 2931):
        judge.answer_many([whole.window(0, end)], [5])
    assert level.asked == first + 30 + 1  # each tick its own forecast, one new instant in half an hour


def test_a_history_cut_to_what_is_looked_at_is_judged_alike() -> None:
    whole, level = load(waves(6000)), Scaled(1.0)
    judge = chain(level)
    (long,) = judge.answer_many([whole], [5])
    asked = level.asked
    most_steps = judge.most_steps(STEP_S, 5)
    assert most_steps is not None
    (cut,) = judge.answer_many([whole.tail(most_steps)], [5])
    assert cut.forecast is not None
    assert long.forecast is not None
    assert (cut.forecast.trust, cut.forecast.trust_reason) == (long.forecast.trust, long.forecast.trust_reason)
    assert level.asked == asked + 1


def test_a_fleet_is_judged_bit_by_bit_newest_first() -> None:
    histories = [load(waves(600, seed)) for seed in range(6)]
    judge = chain(FittedElsewhere(3.0), most_asked=60)
    kinds = []
    for _ in range(6):
        answers = judge.answer_many(histories, [5] * 6)
        kinds.append([answer.forecast.trust if answer.forecast else Trust.NONE for answer in answers])
    assert kinds[0] == [Trust.FLOOR] * 6
    assert kinds[-1] == [Trust.NONE] * 6


def test_what_the_future_holds_changes_no_judgement() -> None:
    values = waves(800)
    (told,) = chain(LastValueForecaster()).answer_many([load(values).window(0, 600)], [5])
    values[600:] = 1e6
    (again,) = chain(LastValueForecaster()).answer_many([load(values).window(0, 600)], [5])
    assert told.forecast is not None
    assert again.forecast is not None
    assert told.forecast.trust_reason == again.forecast.trust_reason


def test_one_that_breaks_or_has_no_answer_steps_back_with_its_reason() -> None:
    class Broken(Scaled):
        name = "broken"

        def forecast(
            self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
        ) -> LoadForecast:
            if len(history) > 100:
                raise ZeroDivisionError("no luck")
            raise CannotForecast("too short")

    answers = chain(Broken(1.0)).answer_many([load(waves(600)), load(waves(50))], [5, 5])
    assert [answer.stepped_back for answer in answers] == [
        (("broken", "broken failed: ZeroDivisionError: no luck"),),
        (("broken", "too short"),),
    ]


def test_a_model_that_has_just_been_fitted_earns_its_trust_within_minutes() -> None:
    """Judged at every step since then, it need not wait for half a day of half hours."""
    whole = load(waves(3000))
    model = FittedElsewhere(1.0, whole.start_at + 2800 * STEP_S)
    judge = chain(model)
    kinds = {}
    for end in (2805, 2830):
        (answer,) = judge.answer_many([whole.window(0, end)], [5])
        assert answer.forecast is not None
        kinds[end] = answer.forecast.trust
    assert kinds == {2805: Trust.FLOOR, 2830: Trust.FULL}
