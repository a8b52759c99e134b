"""Which net follows from the settings of training."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from forecasting.features import DAY_S, WEEK_S
from tests.builders_training import a_wave, small_settings
from training.dataset import split_in_time
from training.settings import TrainingSettings, lead_grid, min_history_steps, net_spec, shape_settings, steps_covering


def test_a_horizon_shorter_than_the_lead_time_is_refused() -> None:
    with pytest.raises(ValidationError, match="horizon_s 60 is shorter than lead_time_s 120"):
        TrainingSettings(lead_time_s=120.0, horizon_s=60.0)


@pytest.mark.parametrize("horizon", [1, 2, 5, 20, 64, 500])
def test_a_grid_of_leads_ascends_from_one_to_the_horizon_within_the_bound_of_a_net(horizon: int) -> None:
    grid = lead_grid(horizon, must_have=(3, 7, 9000))
    assert grid[0] == 1
    assert grid[-1] == horizon
    assert list(grid) == sorted(set(grid))
    assert len(grid) <= 64
    assert {lead for lead in (3, 7) if lead <= horizon} <= set(grid)


@pytest.mark.parametrize(("duration_s", "step_s", "steps"), [(120.0, 15.0, 8), (121.0, 15.0, 9), (5.0, 60.0, 1)])
def test_a_duration_is_covered_by_whole_steps(duration_s: float, step_s: float, steps: int) -> None:
    assert steps_covering(duration_s, step_s) == steps


def test_seasons_that_the_training_part_does_not_hold_twice_are_dropped() -> None:
    settings = small_settings(step_s=3600.0, lead_time_s=3600.0, horizon_s=7200.0, periods_s=(DAY_S, WEEK_S))
    steps = 10 * 24
    split = split_in_time(steps, 0.15, 0.15)
    assert net_spec(settings, [a_wave(steps, 3600.0)], [split]).periods_s == (DAY_S,)
    three_days = split_in_time(2 * 24, 0.15, 0.15)
    short = net_spec(settings, [a_wave(2 * 24, 3600.0)], [three_days])
    assert short.periods_s == ()
    assert not short.calendar


def test_the_reference_stack_is_two_layers_of_128_and_64_with_one_lead() -> None:
    settings = small_settings(model="lstm_reference")
    spec = net_spec(settings, [a_wave(480)], [split_in_time(480, 0.15, 0.15)])
    assert spec.hidden == (128, 64)
    assert spec.lead_steps == (5,)


@pytest.mark.parametrize("test_ratio", [0.0, 0.15, 0.3])
def test_the_history_that_is_asked_for_holds_thirty_windows_in_each_part(test_ratio: float) -> None:
    settings = small_settings(test_ratio=test_ratio)
    steps = min_history_steps(settings)
    split = split_in_time(steps, settings.validation_ratio, settings.test_ratio)
    for part in ("train", "validation"):
        assert len(split.origins(part, settings.horizon_steps, 10)) >= 30


def test_a_context_is_rounded_down_to_whole_blocks_and_one_that_is_short_is_read_step_by_step() -> None:
    split = split_in_time(480, 0.15, 0.15)
    specs = [
        net_spec(small_settings(context_steps=steps, fine_steps=24, block_steps=8), [a_wave(480)], [split])
        for steps in (61, 20)
    ]
    assert [(spec.context_steps, spec.fine_steps, spec.tokens) for spec in specs] == [(56, 24, 28), (20, 20, 20)]


@pytest.mark.parametrize("model", ["lstm_quantile", "lstm_reference"])
def test_the_settings_of_a_shape_ask_for_that_shape(model: str) -> None:
    split = split_in_time(480, 0.15, 0.15)
    spec = net_spec(small_settings(model=model, context_steps=45, lead_time_s=180.0), [a_wave(480)], [split])
    asked = TrainingSettings.model_validate(small_settings().model_dump() | shape_settings(spec))
    assert net_spec(asked, [a_wave(480)], [split]) == spec


def test_refining_takes_fewer_epochs_and_smaller_steps_than_a_fit_anew() -> None:
    settings = small_settings()
    refining = settings.for_fine_tuning()
    assert refining.max_epochs < settings.max_epochs
    assert refining.learning_rate < settings.learning_rate
    assert net_spec(refining, [a_wave(480)], [split_in_time(480, 0.15, 0.15)]) == net_spec(
        settings, [a_wave(480)], [split_in_time(480, 0.15, 0.15)]
    )
