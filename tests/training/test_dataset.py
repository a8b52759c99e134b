"""How windows are split in time, and that nothing of a later part reaches an earlier one."""

from __future__ import annotations

import numpy as np
import pytest

from forecasting.features import NetSpec
from forecasting.series import LoadSeries
from tests.builders_training import DAY_STEPS, a_wave, of_rates
from training.dataset import Split, data_digest, examples_of, split_in_time

SPEC = NetSpec(
    kind="quantile_lstm", step_s=60.0, context_steps=16, lead_steps=(1, 2, 5), periods_s=(), calendar=False,
    channels=("requests_per_s",),
)  # fmt: skip


@pytest.mark.parametrize(("part", "first", "end"), [("train", 0, 60), ("validation", 60, 80), ("test", 80, 100)])
def test_every_target_of_a_part_lies_inside_it(part: str, first: int, end: int) -> None:
    origins = Split(60, 80, 100).origins(part, horizon_steps=5, context_steps=16)
    targets = origins[:, None] + np.arange(5)[None, :]
    assert first <= targets.min()
    assert targets.max() == end - 1


def test_between_two_parts_a_horizon_of_origins_is_left_out() -> None:
    split = Split(60, 80, 100)
    last_train = split.origins("train", 5, 16)[-1]
    first_validation = split.origins("validation", 5, 16)[0]
    assert first_validation - last_train == 5


def test_training_windows_do_not_change_with_anything_that_comes_later() -> None:
    series = a_wave(200)
    split = split_in_time(200, 0.15, 0.3)
    values = np.array(series.values)
    values[split.validation_from :] = 7.0
    changed = LoadSeries(0.0, 60.0, values)
    before, after = (examples_of([s], [split], SPEC, "train", 10_000).windows for s in (series, changed))
    for name in ("context", "static", "target", "target_peak", "level"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_inputs_of_a_window_end_before_its_targets_begin() -> None:
    split = Split(60, 80, 100)
    rate = np.arange(1.0, 101.0)
    windows = examples_of([of_rates(rate)], [split], SPEC, "test", 10_000).windows
    # With level_steps 1 the level is the last value seen, and the rate equals its row plus one.
    assert windows.level.tolist() == windows.origin.tolist()


def test_windows_without_any_recorded_target_are_left_out() -> None:
    rate = np.full(100, 50.0)
    rate[30:40] = np.nan
    windows = examples_of([of_rates(rate)], [Split(60, 80, 100)], SPEC, "train", 10_000).windows
    # Targets are 1, 2 and 5 steps ahead: at origins 30 to 35 (rows 30-34 to 35-39) all of them are in the gap.
    assert not {30, 31, 35} & set(windows.origin.tolist())
    assert {28, 36} <= set(windows.origin.tolist())


def test_too_many_windows_are_thinned_evenly_over_all_series() -> None:
    series = [a_wave(400), a_wave(400, seed=1)]
    splits = [split_in_time(400, 0.15, 0.15)] * 2
    everything = examples_of(series, splits, SPEC, "train", 10_000)
    thinned = examples_of(series, splits, SPEC, "train", 100)
    assert len(thinned) <= 100 < len(everything)
    steps = np.diff(thinned.windows.origin)
    assert len(set(steps[steps > 0].tolist())) == 1
    assert (steps < 0).sum() == 1


def test_several_series_are_joined_in_their_order() -> None:
    series = [of_rates(np.full(100, 10.0)), of_rates(np.full(120, 20.0))]
    splits = [split_in_time(100, 0.15, 0.15), split_in_time(120, 0.15, 0.15)]
    level = examples_of(series, splits, SPEC, "validation", 10_000).windows.level
    assert set(level.tolist()) == {10.0, 20.0}
    assert (np.diff(level) >= 0).all()


def test_a_window_counts_by_its_load_within_its_own_series_and_channel() -> None:
    rate = np.concatenate([np.full(50, 10.0), np.full(50, 30.0)])
    busy, quiet = of_rates(1000.0 * rate), of_rates(rate)
    spec = SPEC.model_copy(update={"channels": ("requests_per_s", "prompt_tokens_per_s")})
    weight = examples_of([busy, quiet], [Split(100, 100, 100)] * 2, spec, "train", 10_000).weight
    assert weight.max() / weight.min() == pytest.approx(3.0)
    assert weight.reshape(2, -1).sum(axis=1) == pytest.approx([weight.sum() / 2] * 2)


def test_each_series_counts_by_how_it_does_against_its_last_value_not_by_how_much_it_moves() -> None:
    series = [a_wave(400, noise=0.03), a_wave(400, noise=0.3)]
    examples = examples_of(series, [split_in_time(400, 0.15, 0.15)] * 2, SPEC, "train", 10_000)
    moved = np.nanmean(np.abs(examples.windows.target), axis=1) * examples.weight
    calm, rough = np.split(moved, [np.flatnonzero(np.diff(examples.windows.origin) < 0)[0] + 1])
    # Weighted by the load before it is set to 1, and not quite the same load: within a percent.
    assert calm.mean() == pytest.approx(rough.mean(), rel=0.01)
    # A load that never moves has no such measure, and must not count without end.
    flat = examples_of([of_rates(np.full(100, 5.0))], [Split(100, 100, 100)], SPEC, "train", 10_000)
    assert flat.weight.max() == pytest.approx(50.0)


def test_some_windows_are_shown_as_if_the_record_had_begun_lately() -> None:
    series, split = a_wave(400), split_in_time(400, 0.15, 0.15)
    spec = SPEC.model_copy(update={"periods_s": (DAY_STEPS * 60.0,)})
    plain, short, again, other = (
        examples_of([series], [split], spec, "train", 10_000, short_history_ratio=ratio, seed=seed).windows
        for ratio, seed in ((0.0, 0), (0.5, 0), (0.5, 0), (0.5, 1))
    )
    recorded = plain.context[:, 0, 2] == 1
    hidden = recorded & (short.context[:, 0, 2] == 0)
    # Half of the windows get a length from 10 steps to the 193 that are looked at, evenly on a logarithm: one in six of
    # these lacks a part of its 16 steps of context.
    assert hidden.sum() / recorded.sum() == pytest.approx(0.5 * np.log(16 / 10) / np.log(193 / 10), abs=0.04)
    np.testing.assert_array_equal(short.target.shape, plain.target.shape)
    np.testing.assert_array_equal(short.context, again.context)
    assert (short.context != other.context).any()


def test_a_part_too_short_for_a_window_gives_none() -> None:
    assert len(examples_of([a_wave(40)], [Split(34, 37, 40)], SPEC, "validation", 10_000)) == 0


def test_parts_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="follow each other"):
        Split(80, 60, 100)


def test_the_digest_tells_apart_what_a_fit_would() -> None:
    series = a_wave(50)
    values = np.array(series.values)
    values[10, 0] = np.nan
    gappy = LoadSeries(0.0, 60.0, values)
    digests = {
        data_digest([series]),
        data_digest([gappy]),
        data_digest([LoadSeries(60.0, 60.0, values)]),
        data_digest([LoadSeries(0.0, 30.0, values)]),
        data_digest([series, gappy]),
        data_digest([gappy, series]),
    }
    assert len(digests) == 6
    assert data_digest([a_wave(50)]) == data_digest([series])
