"""Does generated load look like a service: days, weeks, bursts and accidents, the same for a seed in any window?"""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from forecasting.series import OUTPUT_TOKENS, REQUESTS
from simulations.generator import ClientClass, GeneratedTrace, GeneratorSettings, generate_load
from simulations.trace_load import load_before
from simulations.trace_views import scaled, sliced
from tests.builders_traces import all_requests

QUIET = {"noise_sd": 0.0, "day_level_sd": 0.0, "bursts_per_day": 0.0, "flash_crowd": None, "deploy_drop": None}
ONE = (ClientClass(name="only", share=1, peak_hour=15, day_peak_to_trough=4, weekend_ratio=0.5),)


def settings(**changes: object) -> GeneratorSettings:
    return GeneratorSettings.model_validate(changes)


def test_a_day_has_its_peak_where_it_was_put_and_the_given_range() -> None:
    rates = generate_load(settings(days=1, clients=ONE, **QUIET), 0).values[:, REQUESTS]
    assert np.argmax(rates) / 60 == pytest.approx(15, abs=1.5)
    assert rates.max() / rates.min() == pytest.approx(4, rel=0.1)
    assert rates.mean() == pytest.approx(10, rel=0.01)


def test_weekends_are_lower() -> None:
    days = generate_load(settings(days=7, clients=ONE, **QUIET), 0).resampled(86_400.0).values[:, REQUESTS]
    assert days[:4] == pytest.approx([10.0] * 4, rel=0.02)
    assert days[5:] == pytest.approx([5.0] * 2, rel=0.1)


def test_the_weekend_begins_and_ends_without_a_jump() -> None:
    rates = generate_load(settings(days=15, clients=ONE, **QUIET), 0).values[:, REQUESTS]
    assert np.abs(np.diff(rates) / rates[:-1]).max() < 0.01


def test_bursts_raise_the_load_for_a_while() -> None:
    calm = generate_load(settings(days=3, **QUIET), 0).values[:, REQUESTS]
    bursty = generate_load(settings(days=3, **{**QUIET, "bursts_per_day": 10.0}), 0).values[:, REQUESTS]
    extra = bursty / calm - 1
    assert (extra >= -1e-9).all()
    assert 0.02 < (extra > 0.1).mean() < 0.5
    assert extra.max() > 0.3


def test_the_flash_crowd_and_the_drop_happen_on_the_last_day_only() -> None:
    quiet = generate_load(settings(days=3, **QUIET), 0).values[:, REQUESTS]
    accidents = {**QUIET, "flash_crowd": {"at_hour": 14, "magnitude": 1.5}, "deploy_drop": {"at_hour": 18.5}}
    ratio = generate_load(settings(days=3, **accidents), 0).values[:, REQUESTS] / quiet
    assert ratio[: 2 * 1440] == pytest.approx(np.ones(2880))
    assert ratio[2880 + 14 * 60 :].max() == pytest.approx(2.5, rel=0.05)
    assert ratio[2880 + 14 * 60 :].argmax() == pytest.approx(5, abs=2)  # minutes: the ramp
    assert ratio[2880 + 18 * 60 + 31] == pytest.approx(0.4, rel=0.1)


def test_compression_squeezes_the_day_and_keeps_the_rates() -> None:
    squeezed = settings(time_compression=24.0, step_s=10.0)
    assert squeezed.day_s == 3600.0
    assert squeezed.replay_start_s == 14 * 3600.0
    fine, coarse = generate_load(squeezed, 3), generate_load(settings(), 3)
    assert fine.end_at == 15 * 3600.0
    hourly = coarse.resampled(7200.0).values[:, REQUESTS], fine.resampled(300.0).values[:, REQUESTS]
    assert np.corrcoef(*hourly)[0, 1] > 0.85  # the same calendar and accidents; the noise is drawn step by step
    assert hourly[1].mean() == pytest.approx(hourly[0].mean(), rel=0.1)


def test_it_says_that_it_is_generated() -> None:
    trace = GeneratedTrace(settings(), 0)
    for each in (trace, sliced(trace, 3600.0, 60.0), scaled(trace, 0.5)):
        assert each.generated
        assert "generated" in each.name
        assert "not recorded" in each.describe()


def test_one_seed_gives_one_load_and_another_a_different_one() -> None:
    one, again, other = (generate_load(settings(), seed).values for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_the_replayed_day_is_the_same_whether_or_not_earlier_days_were_drawn() -> None:
    chosen = settings(days=2, time_compression=96.0, step_s=10.0)
    whole = all_requests(GeneratedTrace(chosen, 5))
    day = all_requests(sliced(GeneratedTrace(chosen, 5), chosen.replay_start_s, chosen.day_s))
    later = whole.arrival_s >= chosen.replay_start_s
    assert day.arrival_s == pytest.approx(whole.arrival_s[later] - chosen.replay_start_s, abs=1e-9)
    assert np.array_equal(day.prompt_tokens, whole.prompt_tokens[later])


def test_requests_of_the_classes_come_merged_with_the_lengths_of_each() -> None:
    chosen = settings(days=1, time_compression=24.0, step_s=10.0)
    whole = all_requests(GeneratedTrace(chosen, 0))
    expected = generate_load(chosen, 0).values
    assert (np.diff(whole.arrival_s) >= 0).all()
    assert len(whole) == pytest.approx(expected[:, REQUESTS].sum() * 10.0, rel=0.03)
    assert whole.output_tokens.sum() == pytest.approx(expected[:, OUTPUT_TOKENS].sum() * 10.0, rel=0.05)


def test_the_fortnight_before_is_there_to_learn_from() -> None:
    chosen = settings()
    history = load_before(GeneratedTrace(chosen, 0), chosen.replay_start_s, 60.0, 14 * chosen.day_s)
    assert len(history) == 14 * 1440
    assert history.coverage_ratio == 1.0
    smooth = history.resampled(600.0).values[:, REQUESTS]
    last, yesterday = (np.abs(smooth[lag:] - smooth[:-lag]).sum() / smooth[lag:].sum() for lag in (1, 144))
    # Recorded services: 3 to 11 % for the last value at ten minutes, 21 to 38 % for the same time yesterday.
    assert 0.03 < last < 0.11
    assert 0.12 < yesterday < 0.38


@pytest.mark.parametrize(
    "wrong",
    [
        {"days": 0},
        {"step_s": 0},
        {"step_s": 1e-6},
        {"time_compression": 0.5},
        {"clients": []},
        {"clients": [{"name": "x", "share": 1, "peak_hour": 3, "token_shape": "poetry"}]},
        {"unknown": 1},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        settings(**wrong)
