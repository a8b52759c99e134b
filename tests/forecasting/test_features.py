"""Do windows show the past only, scaled by themselves, and ask for what followed?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from forecasting.features import NetSpec, fill_forward, last_level, present_windows, rates_of, window_tensors
from forecasting.series import CHANNELS, LoadSeries
from tests.builders_forecasting import poisson_series, series_of, small_spec, with_gaps

LOAD = with_gaps(poisson_series(400, swing_ratio=0.3, period_s=1800.0), 0.05)
ORIGINS = np.array([130, 200, 390])


@pytest.mark.parametrize("kind", ["quantile_lstm", "reference_lstm"])
def test_shapes_are_those_the_spec_announces(kind: Any) -> None:
    spec = small_spec(kind)
    windows = window_tensors(LOAD, spec, ORIGINS)
    examples = len(ORIGINS) * len(CHANNELS)
    assert len(windows) == examples
    assert windows.context.shape == (examples, spec.tokens, spec.context_features)
    assert windows.static.shape == (examples, spec.static_features)
    assert windows.target.shape == windows.target_peak.shape == (examples, len(spec.lead_steps))
    assert windows.origin.tolist() == [130] * 3 + [200] * 3 + [390] * 3
    assert windows.channel.tolist() == [0, 1, 2] * 3
    assert windows.context.dtype == windows.static.dtype == windows.target.dtype == np.float32
    assert np.isfinite(windows.context).all()
    assert np.isfinite(windows.static).all()


@pytest.mark.parametrize("kind", ["quantile_lstm", "reference_lstm"])
def test_nothing_after_an_origin_enters_its_inputs(kind: Any) -> None:
    spec = small_spec(kind)
    seen = LOAD.window(0, 200)
    changed = LoadSeries(LOAD.start_at, LOAD.step_s, np.concatenate([seen.values, 50.0 + LOAD.values[200:]]))
    one, other = window_tensors(seen, spec, [200]), window_tensors(changed, spec, [200])
    np.testing.assert_array_equal(one.context, other.context)
    np.testing.assert_array_equal(one.static, other.static)
    assert np.isnan(one.target).all()
    assert not np.isnan(other.target).all()


@pytest.mark.parametrize("kind", ["quantile_lstm", "reference_lstm"])
def test_targets_are_the_rates_that_followed(kind: Any) -> None:
    spec = small_spec(kind)
    load = poisson_series(400)
    windows = window_tensors(load, spec, [200], ("requests_per_s",))
    after = load.values[200:, 0]
    leads = np.array(spec.lead_steps)
    np.testing.assert_allclose(rates_of(spec, windows.target, windows)[0], after[leads - 1], rtol=1e-5)
    np.testing.assert_allclose(
        rates_of(spec, windows.target_peak, windows)[0], [after[:lead].max() for lead in leads], rtol=1e-5
    )


def test_a_gap_in_the_future_hides_its_lead_and_every_peak_from_there_on() -> None:
    values = poisson_series(400).values.copy()
    values[203] = np.nan
    windows = window_tensors(LoadSeries(0.0, 15.0, values), small_spec(), [200], ("requests_per_s",))
    assert np.isnan(windows.target[0]).tolist() == [False, False, True, False, False]
    assert np.isnan(windows.target_peak[0]).tolist() == [False, False, True, True, True]


def test_a_tenfold_load_gives_the_same_inputs_and_targets() -> None:
    tenfold = LoadSeries(LOAD.start_at, LOAD.step_s, LOAD.values * 10.0)
    one, other = window_tensors(LOAD, small_spec(), ORIGINS), window_tensors(tenfold, small_spec(), ORIGINS)
    np.testing.assert_allclose(one.context, other.context, atol=1e-5)
    np.testing.assert_allclose(one.static, other.static, atol=1e-5)
    np.testing.assert_allclose(one.target, other.target, atol=1e-5)


def test_gaps_are_marked_and_filled_forward() -> None:
    values = np.full((64, 3), 4.0)
    values[60:62] = np.nan
    windows = window_tensors(LoadSeries(0.0, 15.0, values), small_spec(), [64], ("requests_per_s",))
    assert windows.context[0, :, 2].tolist() == [1.0] * 28 + [0.0, 0.0, 1.0, 1.0]
    assert not windows.context[0, :, :2].any()
    assert windows.observed_ratio[0] == pytest.approx(30 / 32)
    assert windows.blind_steps[0] == 0


def test_blocks_of_older_steps_show_their_mean_their_largest_and_what_was_seen_of_them() -> None:
    spec = small_spec(context_steps=16, fine_steps=8, block_steps=4, level_steps=1, periods_s=(), calendar=False)
    rates = np.full(16, 4.0)
    rates[1] = 12.0
    values = series_of(rates).values.copy()
    values[4:7] = np.nan
    windows = window_tensors(LoadSeries(0.0, 15.0, values), spec, [16], ("requests_per_s",))
    assert windows.context.shape == (1, 10, 3)
    offset = windows.offset[0]
    mean, largest = np.log((6.0 + offset) / (4.0 + offset)), np.log((12.0 + offset) / (4.0 + offset))
    np.testing.assert_allclose(windows.context[0, 0], [mean, largest, 1.0], rtol=1e-6)
    np.testing.assert_allclose(windows.context[0, 1], [0.0, 0.0, 0.25], atol=1e-7)
    assert windows.context[0, 2:].tolist() == [[0.0, 0.0, 1.0]] * 8


def test_one_poisoned_step_leaves_the_scale_as_it_was() -> None:
    clean, poisoned = np.full(64, 4.0), np.full(64, 4.0)
    poisoned[50] = 4e6
    one, other = (window_tensors(series_of(rates), small_spec(), [64]) for rates in (clean, poisoned))
    np.testing.assert_allclose(other.scale, one.scale, rtol=1e-12)
    assert np.abs(other.static).max() <= 6.0
    assert np.abs(other.context).max() <= 6.0


def test_what_begins_with_a_load_after_idle_steps_still_has_a_scale() -> None:
    rates = np.zeros(64)
    rates[-1] = 8.0
    assert window_tensors(series_of(rates), small_spec(), [64]).scale[0] == pytest.approx(8.0 / 32)


def test_what_is_said_of_present_histories_is_what_is_said_of_each_alone() -> None:
    spec = small_spec(context_steps=32, fine_steps=16, block_steps=4)
    histories = [LOAD, LOAD.tail(130), LOAD.tail(31), LOAD.window(0, 12), with_gaps(LOAD, 0.3)]
    together = present_windows(histories, spec)
    for place, history in enumerate(histories):
        alone = window_tensors(history, spec, [len(history)], CHANNELS)
        own = slice(3 * place, 3 * place + 3)
        for name in ("context", "static", "level", "scale", "offset", "observed_ratio", "blind_steps"):
            np.testing.assert_array_equal(getattr(together, name)[own], getattr(alone, name), err_msg=name)


def test_a_record_that_began_lately_is_one_of_which_less_is_known() -> None:
    spec = small_spec()
    cut = window_tensors(LOAD.tail(20), spec, [20])
    hidden = window_tensors(LOAD, spec, [len(LOAD)], known_steps=[20])
    for name in ("context", "static", "level", "scale", "observed_ratio"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(hidden, name), err_msg=name)


def test_steps_older_than_the_most_that_are_looked_at_change_nothing() -> None:
    spec, load = small_spec(), poisson_series(600)
    recent, whole = (present_windows([one], spec) for one in (load.tail(spec.most_steps), load))
    np.testing.assert_array_equal(recent.static, whole.static)
    one_less = present_windows([load.tail(spec.most_steps - 1)], spec)
    assert (one_less.static != whole.static).any()


def season_of(spec: NetSpec, load: LoadSeries, at: int) -> np.ndarray:
    """Return the features of the one season: changes, changes of the maximum, the level then, the share recorded."""
    static = window_tensors(load, spec, [at], ("requests_per_s",)).static[0]
    return static[-(2 * len(spec.lead_steps) + 2) :]


def test_a_missing_previous_turn_is_told_from_a_flat_one() -> None:
    spec = small_spec(calendar=False)
    load = series_of(np.full(600, 4.0))
    unknown, one_turn, flat = (season_of(spec, load, at) for at in (100, 150, 600))
    assert unknown.tolist() == [0.0] * 12
    assert one_turn.tolist() == [0.0] * 11 + [0.25]
    assert flat.tolist() == [0.0] * 11 + [1.0]


def test_the_previous_turn_shows_how_the_load_and_its_maximum_went_on() -> None:
    spec = small_spec(level_steps=1, calendar=False)
    rates = np.full(200, 4.0)
    rates[180 - 120 + 3 : 180 - 120 + 8] = 8.0
    season = season_of(spec, series_of(rates), 180)
    # Leads 1 and 2 are before the rise of one period ago, 4 and 8 within it, 20 after it; the maximum stays.
    rise = np.log(8.0 + 0.4) - np.log(4.0 + 0.4)
    np.testing.assert_allclose(season[:5], [0.0, 0.0, rise, rise, 0.0], atol=1e-6)
    np.testing.assert_allclose(season[5:10], [0.0, 0.0, rise, rise, rise], atol=1e-6)
    np.testing.assert_allclose(season[10:], [0.0, 0.25], atol=1e-6)


def test_several_turns_are_averaged() -> None:
    spec = small_spec(level_steps=1, calendar=False)
    rates = np.full(400, 4.0)
    rates[380 - 120 + 3] = 8.0
    rise = np.log(8.0 + 0.4) - np.log(4.0 + 0.4)
    season = season_of(spec, series_of(rates), 380)
    np.testing.assert_allclose(season[2], rise / 3, atol=1e-6)
    assert season[-1] == 0.75


def test_the_calendar_is_the_phase_within_the_period() -> None:
    spec = small_spec(periods_s=(1800.0,))
    load = LoadSeries(1800.0 * 1000, 15.0, np.ones((400, 3)))
    quarter = window_tensors(load, spec, [30 + 120], ("requests_per_s",)).static[0, -4:]
    np.testing.assert_allclose(quarter, [1.0, 0.0, 0.0, -1.0], atol=1e-6)


def test_a_window_without_load_asks_for_nothing() -> None:
    rates = np.zeros(200)
    rates[150:] = 5.0
    windows = window_tensors(series_of(rates), small_spec(), [150], ("requests_per_s",))
    assert np.isnan(windows.target).all()
    assert not windows.context[..., 0].any()


def test_only_the_channels_asked_for_are_taken() -> None:
    assert window_tensors(LOAD, small_spec(channels=("output_tokens_per_s",)), [200]).channel.tolist() == [2]


def test_fill_forward_starts_at_zero() -> None:
    assert fill_forward(np.array([[np.nan, 2.0, np.nan, 3.0]])).tolist() == [[0.0, 2.0, 2.0, 3.0]]


def test_the_last_level_is_the_mean_of_what_was_seen_of_the_last_steps() -> None:
    rows = np.array([[9.0, 1.0, np.nan, 3.0], [9.0, 5.0, np.nan, np.nan], [np.nan] * 4])
    assert last_level(rows, 3).tolist() == [2.0, 5.0, 0.0]
    assert last_level(rows, 2).tolist() == [3.0, 5.0, 0.0]


def test_another_step_or_origin_than_recorded_is_refused() -> None:
    with pytest.raises(ValueError, match="steps of 30"):
        window_tensors(LOAD.resampled(30.0), small_spec(), [50])
    for origin in (0, 401):
        with pytest.raises(ValueError, match="origins"):
            window_tensors(LOAD, small_spec(), [origin])


@pytest.mark.parametrize(
    "changes",
    [
        {"lead_steps": (2, 4)},
        {"lead_steps": (1, 4, 4)},
        {"lead_steps": (1, 5000)},
        {"levels": (0.5, 0.1)},
        {"levels": (0.5, 1.0)},
        {"levels": (0.1, float("nan"), 0.9)},
        {"hidden": (4096,)},
        {"hidden": ()},
        {"context_steps": 10_000},
        {"level_steps": 33},
        {"periods_s": (300.0,)},
        {"channels": ("gpus",)},
        {"step_s": 0.0},
        {"kind": "reference_lstm", "hidden": (8,)},
        {"kind": "reference_lstm", "lead_steps": (1, 20)},
        {"kind": "transformer"},
        {"fine_steps": 33},
        {"fine_steps": 30, "block_steps": 4},
        {"kind": "reference_lstm", "lead_steps": (20,), "hidden": (8, 4), "block_steps": 4},
        {"pickle": "cos\nsystem"},
    ],
)
def test_impossible_specs_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        small_spec(**changes)


def test_a_spec_survives_json() -> None:
    spec = small_spec()
    assert NetSpec.model_validate_json(spec.model_dump_json()) == spec
