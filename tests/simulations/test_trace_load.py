"""Is the load of a trace what counting its requests would give?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from controller.errors import BadInput
from forecasting.series import OUTPUT_TOKENS, PROMPT_TOKENS, REQUESTS
from simulations import workload
from simulations.trace_counts import counted
from simulations.trace_files import open_trace
from simulations.trace_load import load_before, load_series, token_shape
from simulations.trace_views import scaled, sliced
from tests.builders_traces import ListedTrace, all_requests, drawn_trace, requests_at, write_text


def test_requests_and_tokens_are_counted_per_complete_step() -> None:
    trace = ListedTrace(requests_at([0.0, 1.0, 9.99, 10.0, 35.0], prompt=100, output=10), size=2)
    series = load_series(trace, 10.0)
    assert series.values[:, REQUESTS].tolist() == [0.3, 0.1, 0.0]
    assert series.values[:, PROMPT_TOKENS].tolist() == [30.0, 10.0, 0.0]
    assert series.values[:, OUTPUT_TOKENS].tolist() == [3.0, 1.0, 0.0]


def test_a_trace_shorter_than_a_step_has_no_complete_step() -> None:
    assert len(load_series(ListedTrace(requests_at([0.0, 1.0])), 10.0)) == 0


def test_counting_does_not_depend_on_batches() -> None:
    whole = requests_at(np.sort(np.random.default_rng(0).uniform(0, 1000, 3000)))
    one = load_series(ListedTrace(whole, 7), 13.0)
    other = load_series(ListedTrace(whole, 3000), 13.0)
    assert np.array_equal(one.values, other.values)


def test_history_ends_where_the_slice_begins() -> None:
    whole = requests_at(np.arange(0.0, 1000.0))
    history = load_before(ListedTrace(whole), 500.0, 60.0, 300.0)
    assert (history.start_at, history.end_at, len(history)) == (200.0, 500.0, 5)
    assert history.values[:, REQUESTS].tolist() == [1.0] * 5


def test_history_goes_back_no_further_than_the_trace() -> None:
    trace = ListedTrace(requests_at(np.arange(0.0, 1000.0)))
    history = load_before(trace, 500.0, 60.0, 86_400.0)
    assert (history.start_at, len(history)) == (20.0, 8)
    assert len(load_before(trace, 0.0, 60.0, 86_400.0)) == 0
    assert len(load_before(drawn_trace([1.0] * 9), 0.0, 60.0, 86_400.0)) == 0


def test_idle_history_is_zero_and_not_missing() -> None:
    history = load_before(ListedTrace(requests_at([0.0, 900.0])), 600.0, 60.0, 300.0)
    assert history.values[:, REQUESTS].tolist() == [0.0] * 5


def test_history_of_rates_is_what_the_requests_before_would_have_shown() -> None:
    trace = scaled(drawn_trace([3.0, 6.0, 9.0, 5.0] * 5), 2.0)
    history = load_before(trace, 600.0, 30.0, 480.0)
    seen = counted(sliced(trace, 120.0, 480.0).batches(), 30.0, 16)
    assert np.array_equal(history.values, seen)


def test_history_too_long_to_draw_has_the_noise_of_drawn_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = drawn_trace([20.0] * 1000, cv=3.0)
    exact = load_series(trace, 10.0)
    monkeypatch.setattr(workload, "_COUNTED_REQUESTS", 0)
    quick = load_series(trace, 10.0)
    assert len(exact) == len(quick) == 6000
    assert not np.array_equal(exact.values, quick.values)
    # 6,000 steps of 200 clumpy requests: means are good to 0.3 %, standard deviations to some 2 %.
    assert quick.values.mean(axis=0) == pytest.approx(exact.values.mean(axis=0), rel=0.02)
    assert quick.values.std(axis=0) == pytest.approx(exact.values.std(axis=0), rel=0.06)
    correlations = [np.corrcoef(each.values.T) for each in (exact, quick)]
    assert correlations[1] == pytest.approx(correlations[0], abs=0.06)


def test_a_gap_in_rates_is_missing_in_history_and_silent_in_replay() -> None:
    trace = drawn_trace([5.0, np.nan, np.nan, 5.0])
    history = load_series(trace, 30.0).values[:, REQUESTS]
    assert np.isnan(history[2:6]).all()
    assert np.isfinite(history[[0, 1, 6, 7]]).all()
    arrivals = all_requests(trace).arrival_s
    assert not ((arrivals > 60) & (arrivals < 180)).any()


def test_a_step_partly_in_a_gap_shows_the_rate_outside_it() -> None:
    trace = drawn_trace([50.0, np.nan, 50.0, 50.0])
    history = load_series(trace, 120.0).values[:, REQUESTS]
    assert history == pytest.approx([50.0, 50.0], rel=0.1)  # 3,000 requests: 5 sd are 9 %


def test_finer_steps_than_the_series_has_are_possible(tmp_path: Path) -> None:
    path = write_text(tmp_path / "s.csv", "t,rate", *(f"{600 * i},{100 + 20 * i}" for i in range(10)))
    history = load_before(open_trace(path), 5_000.0, 15.0, 3_600.0)
    assert len(history) == 240
    assert history.end_at == 5_000.0
    assert history.values[:, REQUESTS].mean() == pytest.approx(100 + 20 * (3200 / 600 - 0.5), rel=0.02)


@pytest.mark.parametrize("step_s", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_steps_are_refused(step_s: float) -> None:
    with pytest.raises(BadInput, match="step"):
        load_series(ListedTrace(requests_at([0.0])), step_s)


def test_a_step_so_short_that_memory_would_run_out_is_refused() -> None:
    with pytest.raises(BadInput, match="too many"):
        load_series(ListedTrace(requests_at([0.0, 1e6])), 1e-6)


def test_the_sample_of_lengths_keeps_pairs_and_spreads_over_the_trace() -> None:
    whole = requests_at(np.arange(1000.0))
    whole = type(whole)(whole.arrival_s, np.arange(1, 1001), np.arange(1, 1001) * 2)
    sample = token_shape(ListedTrace(whole), limit=100)
    assert len(sample) == 100
    assert np.array_equal(sample.output_tokens, 2 * sample.prompt_tokens)
    assert sample.prompt_tokens[0] == 1
    assert sample.prompt_tokens[-1] == 1000
    assert len(token_shape(ListedTrace(whole), limit=5000)) == 1000


def test_the_sample_of_rates_follows_the_busy_steps() -> None:
    trace = drawn_trace([1.0, 9.0], prompt_mean=np.array([100.0, 2000.0]))
    assert token_shape(trace, 20_000).prompt_tokens.mean() == pytest.approx(0.1 * 100 + 0.9 * 2000, rel=0.05)


def test_the_recorded_production_series_keeps_its_load(recorded_traces: Path) -> None:
    trace = open_trace(recorded_traces / "servegen_m-large_10min_14d.parquet")
    history = load_before(trace, 86_400.0 * 13, 600.0, 86_400.0 * 13)
    assert len(history) == 1872
    assert history.coverage_ratio == 1.0
    assert np.nanmean(history.values[:, REQUESTS]) == pytest.approx(191.9, rel=0.03)
