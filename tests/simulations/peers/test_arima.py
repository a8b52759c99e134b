"""Does the small ARIMA expect what a large one does?"""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from forecasting.series import FloatArray
from simulations.peers.arima import FEWEST_POINTS, MOST_POINTS, NextValue, differences_needed


def learned(values: FloatArray | list[float], *, once: bool = False) -> NextValue:
    model = NextValue(once=once)
    for value in values:
        model.add(float(value))
    return model


def autoregressive(count: int, seed: int = 0) -> FloatArray:
    rng = np.random.default_rng(seed)
    values = np.zeros(count)
    for step in range(1, count):
        values[step] = 0.8 * values[step - 1] + rng.normal(0, 5)
    return values + 200.0


def test_too_few_points_expect_the_last_and_none_expect_nothing() -> None:
    assert NextValue().expected() == 0.0
    assert learned([3.0, 9.0, 4.0]).expected() == 4.0


def test_a_constant_is_expected_to_stay() -> None:
    assert learned([7.0] * FEWEST_POINTS).expected() == 7.0


def test_zeros_before_the_first_load_do_not_count_and_nan_is_a_zero() -> None:
    assert learned([0.0, math.nan, 0.0, 5.0, math.nan]).expected() == 0.0
    assert learned([0.0, 0.0, 5.0, 5.0, 5.0, 5.0, 5.0]).expected() == 5.0


def test_a_walk_is_differenced_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(100, 5, 200)
    assert differences_needed(noise) == 0
    assert differences_needed(np.cumsum(noise - 100) + 500) == 1
    assert differences_needed(np.cumsum(np.cumsum(noise - 100))) == 2


def test_a_line_goes_on() -> None:
    noise = np.random.default_rng(0).normal(0, 0.5, 100)
    assert learned(50 + 2.0 * np.arange(100) + noise).expected() == pytest.approx(250.0, abs=1.5)


def test_the_expectation_agrees_with_statsmodels_for_the_same_order() -> None:
    from statsmodels.tsa.arima.model import ARIMA

    values = autoregressive(200)
    model = learned(values)
    ours = model.expected()
    chosen = model._model
    assert chosen is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trend = ("c", "t", "n")[model._d]
        theirs = ARIMA(values, order=(chosen.p, model._d, chosen.q), trend=trend).fit().forecast(1)[0]
    assert ours == pytest.approx(float(theirs), abs=1.0)  # one standard deviation of the noise is 5


def test_it_beats_the_last_value_where_there_is_something_to_learn() -> None:
    values = 100 + np.random.default_rng(1).normal(0, 5, 200)
    model, missed, last_missed = NextValue(), [], []
    for step, value in enumerate(values):
        if step > 20:
            missed.append((model.expected() - value) ** 2)
            last_missed.append((values[step - 1] - value) ** 2)
        model.add(float(value))
    assert np.mean(missed) < 0.7 * np.mean(last_missed)


def test_an_order_chosen_once_stays_what_five_points_suggested() -> None:
    walk = 500 + np.cumsum(np.random.default_rng(3).normal(0, 5, 120))
    often, once = NextValue(), NextValue(once=True)
    for value in walk:
        for model in (often, once):
            model.add(float(value))
            model.expected()
    assert once._chosen_at == FEWEST_POINTS
    assert often._chosen_at == 80


def test_the_memory_is_bounded_and_equal_inputs_expect_equally() -> None:
    values = autoregressive(3 * MOST_POINTS)
    first, second = learned(values), learned(values)
    assert len(first._values) == MOST_POINTS
    assert first.expected() == second.expected()


def test_the_answer_is_never_negative_nor_infinite() -> None:
    for values in ([1e12, 1.0, 1e12, 1.0, 1e12, 1.0], [9.0, 7.0, 5.0, 3.0, 1.0], [0.1, 1e-9, 50.0, 1e6, 1e9, 1e12]):
        assert 0.0 <= learned(values).expected() < math.inf
