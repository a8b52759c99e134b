"""Do the HPAs that look ahead expect what their sources say, on worked examples?"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from forecasting.series import LoadSeries
from policies.fleet import FleetState
from policies.memory import PolicyMemory
from simulations.peers.last_week import LastWeek, LastWeekSettings, RecordedRates
from simulations.peers.phpa import Phpa, PhpaSettings, next_of
from tests.builders_peers import KEY, Follows, bounds, engines, load, metrics, over

WEEK_S = 7 * 86400.0


def recorded(*rates: float, from_at: float = 0.0, step_s: float = 60.0) -> LoadSeries:
    return LoadSeries(from_at, step_s, np.array([[rate, rate * 500.0, rate * 100.0] for rate in rates]))


def last_week(before: LoadSeries | None, **changes: float) -> LastWeek:
    name = str(KEY)
    settings = LastWeekSettings(**changes)  # type: ignore[arg-type]  # numbers
    return LastWeek({name: bounds()}, {name: 12.0}, {name: 2.0}, settings, before)


# ---- last week


def test_rates_are_kept_as_means_of_a_minute() -> None:
    rates = RecordedRates(WEEK_S, recorded(2.0, 4.0, 12.0, 6.0, step_s=30.0))
    assert rates.most(0.0, 59.0) == 3.0
    assert rates.most(0.0, 60.0) == 9.0
    assert rates.most(600.0, 900.0) == 0.0


@pytest.mark.parametrize("every", [1, 2, 7, 45])
def test_what_is_older_than_a_period_is_let_go_of(every: int) -> None:
    rates = RecordedRates(3600.0)
    for minute in range(199 % every, 200, every):
        rates.add(60.0 * minute, float(minute))
    assert rates.most(0.0, 138 * 60.0) == 0.0
    assert rates.most(0.0, 199 * 60.0) == 199.0


def test_rates_of_a_period_ago_are_still_known() -> None:
    rates = RecordedRates(3600.0)
    for minute in range(200):
        rates.add(60.0 * minute, float(minute))
    assert rates.most(199 * 60.0 - 3600.0, 199 * 60.0 - 3600.0) == 139.0


def test_half_an_hour_before_last_weeks_peak_there_are_replicas_for_it() -> None:
    peak = recorded(*[4.0] * 60, *[15.0] * 10, *[4.0] * 60)  # from the 60th minute on
    scaled = Follows(last_week(peak), 2)
    counts = {at: scaled.tick(WEEK_S + at, requests=20.0, requests_per_s=4.0) for at in over([0.0, 2400.0], 15.0)}
    assert counts[1785.0] == 2  # of the 59th minute and before: 4 / 2 = 2
    assert counts[1800.0] == 6  # limited to four more at once
    assert counts[1815.0] == 8  # ceil(15 / 2)


def test_the_load_of_now_wins_when_it_is_more_than_last_weeks() -> None:
    scaled = Follows(last_week(recorded(*[4.0] * 120)), 4)
    assert scaled.tick(WEEK_S + 60.0, requests=96.0, requests_per_s=20.0) == 8  # 24 per replica at a target of 12


def test_without_a_week_of_history_it_is_an_ordinary_hpa() -> None:
    scaled = Follows(last_week(None), 4)
    counts = [scaled.tick(at, requests=24.0, requests_per_s=4.0) for at in over([0.0, 300.0], 15.0)]
    assert counts[:20] == [4] * 20
    assert counts[20] == 2


def test_its_own_record_is_a_week_old_after_a_week() -> None:
    scaled = Follows(last_week(None, period_s=3600.0, ahead_s=60.0), 1)
    for at in over([0.0, 3540.0], 60.0):
        scaled.tick(at, requests=3.0, requests_per_s=9.0 if at == 1800.0 else 1.0)
    assert scaled.tick(3600.0 + 1740.0, requests=3.0, requests_per_s=1.0) == 5  # ceil(9 / 2), a minute ahead


# ---- PHPA


def test_holt_winters_of_a_line_is_the_line() -> None:
    line = PhpaSettings(seasonal_periods=2, alpha=0.5, beta=0.5, gamma=0.5)
    history = [float(n) for n in range(14)]
    # Level and trend from the first two seasons are those of the line, and the season repeats its small deviation.
    assert next_of(history, line) == pytest.approx(14.0, abs=0.6)


def test_too_short_a_history_expects_nothing() -> None:
    settings = PhpaSettings()  # 10 + 2 * 3 = 16 answers, and two seasons of six
    assert next_of([1.0] * 15, settings) is None
    assert next_of([1.0] * 16, settings) == 1.0


@pytest.mark.parametrize("seasonal", ["add", "mul"])
def test_holt_winters_agrees_with_statsmodels_from_the_same_beginning(seasonal: str) -> None:
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    history = 10 + 4 * np.sin(np.arange(24) * np.pi / 3) + np.random.default_rng(0).uniform(0, 1, 24)
    settings = PhpaSettings(alpha=0.3, beta=0.2, gamma=0.4, seasonal=seasonal)  # type: ignore[arg-type]  # one of two words
    first, second = history[:6].mean(), history[6:12].mean()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ExponentialSmoothing(
            history[6:],
            trend="add",
            seasonal=seasonal,
            seasonal_periods=6,
            initialization_method="known",
            initial_level=first,
            initial_trend=(second - first) / 6,
            initial_seasonal=history[:6] - first if seasonal == "add" else history[:6] / first,
        )
        fitted = model.fit(smoothing_level=0.3, smoothing_trend=0.2, smoothing_seasonal=0.4, optimized=False)
    assert next_of(history.tolist(), settings) == pytest.approx(float(fitted.forecast(1)[0]), rel=1e-9)


def test_the_larger_of_answer_and_expectation_counts() -> None:
    name = str(KEY)
    policy = Phpa({name: bounds()}, {name: 12.0}, PhpaSettings(alpha=0.9, beta=0.9, gamma=0.1))
    fleet = FleetState(0.0, (engines(*[metrics(running=12.0)] * 4),), demand=load(1.0))
    memory = PolicyMemory()
    answers = []
    for number in range(20):  # 12, 13, 14, ... per replica: beyond tolerance from 13.2 on
        seen = [metrics(running=12.0 + number)] * 4
        now = replace(fleet, at=15.0 * number, pools=(engines(*seen),))
        decision = policy.decide(now, {}, memory)
        memory = decision.memory
        answers.append(decision.scaling[0].desired if decision.scaling else 4)
    plain = -(-(12 + 19) * 4 // 12)  # ceil(31 * 4 / 12) = 11
    assert answers[10] == -(-(12 + 10) * 4 // 12)  # no expectation yet
    assert answers[-1] > plain or answers[-1] == 8  # at most four more than the four there are
    assert answers[-1] == 8


def test_coefficients_that_run_away_ask_for_no_more_than_a_pool_may_have() -> None:
    name = str(KEY)
    scaled = Follows(Phpa({name: bounds(most=9)}, {name: 12.0}, PhpaSettings(up_replicas=60)), 2)
    counts = [scaled.tick(at, requests=24.0 + at) for at in over([0.0, 600.0], 15.0)]
    assert max(counts) == 9
