"""Do drawn requests have the rates, burstiness and lengths that were asked for, the same in every window?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from controller.errors import BadInput
from simulations.arrivals import ArrivalProcess
from simulations.rate_curve import RateCurve
from simulations.token_shapes import TOKEN_SHAPES, TokenShape, token_shape_named, whole_tokens
from simulations.trace_files import open_trace
from simulations.trace_load import load_series
from simulations.trace_views import sliced
from tests.builders_traces import all_requests, drawn_trace, write_parquet, write_text

SINE = 10 + 8 * np.sin(np.arange(144) / 144 * 4 * np.pi)

# Rates between steps.


def test_every_step_keeps_its_total() -> None:
    curve = RateCurve(60.0, SINE)
    assert np.diff(curve.expected(np.arange(145) * 60.0)) == pytest.approx(SINE * 60.0)


def test_a_smooth_series_has_no_visible_steps() -> None:
    curve = RateCurve(60.0, SINE)
    fine = np.diff(curve.expected(np.arange(144 * 60 + 1.0)))[60:-60]  # flat in the first and the last step
    assert np.abs(np.diff(fine)).max() < 0.05 * np.abs(np.diff(SINE)).max()


def test_the_rate_stays_between_the_neighbouring_means() -> None:
    rates = np.random.default_rng(0).exponential(10, 200)
    fine = np.diff(RateCurve(60.0, rates).expected(np.arange(200 * 60 + 1.0)))
    padded = np.concatenate((rates[:1], rates, rates[-1:]))
    low = np.minimum.reduce([padded[:-2], padded[1:-1], padded[2:]]).repeat(60)
    high = np.maximum.reduce([padded[:-2], padded[1:-1], padded[2:]]).repeat(60)
    assert (fine >= low - 1e-6).all()
    assert (fine <= high + 1e-6).all()


def test_instants_invert_the_expected_number() -> None:
    curve = RateCurve(60.0, np.array([5.0, 1.0, 0.0, np.nan, 4.0, 8.0, 9.0]))
    wanted = np.linspace(0, curve.expected(np.array([curve.end_s]))[0], 5000)
    at_s, _ = curve.instants(wanted)
    assert (np.diff(at_s) >= 0).all()
    assert curve.expected(at_s) == pytest.approx(wanted, abs=1e-6)


# Arrivals.


@pytest.mark.parametrize("cv", [0.4, 1.0, 2.0, 5.0])
def test_events_come_at_unit_rate_with_the_given_variation(cv: float) -> None:
    events = ArrivalProcess(cv).events(np.random.default_rng(1), 200_000.0)
    gaps = np.diff(events)
    assert len(events) == pytest.approx(200_000, rel=5 * cv / 447)  # five standard deviations of the count
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


@pytest.mark.parametrize("cv", [0.4, 1.0, 3.0])
def test_short_stretches_drawn_one_by_one_have_the_right_mean(cv: float) -> None:
    rng = np.random.default_rng(2)
    counts = np.array([len(ArrivalProcess(cv).events(rng, 2.5)) for _ in range(8_000)])
    assert counts.mean() == pytest.approx(2.5, rel=0.08)  # a process that began with an event would give far more


@pytest.mark.parametrize("cv", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("expected", [1.0, 10.0, 100.0])
def test_counts_drawn_without_events_are_distributed_like_counted_events(cv: float, expected: float) -> None:
    rng = np.random.default_rng(3)
    process = ArrivalProcess(cv)
    drawn = np.array([len(process.events(rng, expected)) for _ in range(4_000)])
    quick = process.counts(rng, np.full(4_000, expected))
    assert quick.mean() == pytest.approx(drawn.mean(), rel=0.15)  # at CV 4 the mean of 4,000 is good to 5 %
    assert quick.std() == pytest.approx(drawn.std(), rel=0.12)  # 4 % by chance; whole binomial trials


def test_an_idle_stretch_has_no_events() -> None:
    process = ArrivalProcess(4.0)
    assert len(process.events(np.random.default_rng(0), 0.0)) == 0
    assert process.counts(np.random.default_rng(0), np.zeros(5)).tolist() == [0.0] * 5


@pytest.mark.parametrize("cv", [0.0, -1.0, float("nan"), 1e9])
def test_impossible_burstiness_is_refused(cv: float) -> None:
    with pytest.raises(ValueError, match="CV"):
        ArrivalProcess(cv)


# Lengths.


@pytest.mark.parametrize("name", TOKEN_SHAPES)
def test_named_shapes_have_their_means_after_the_cut_off(name: str) -> None:
    shape = TOKEN_SHAPES[name]
    prompt, output = shape.draw(np.random.default_rng(4), 400_000)
    assert whole_tokens(prompt).mean() == pytest.approx(shape.prompt_mean, rel=0.01)
    assert whole_tokens(output).mean() == pytest.approx(shape.output_mean, rel=0.015)  # code: 28 tokens, rounded
    assert prompt.max() <= shape.prompt_max
    assert np.corrcoef(np.log(prompt), np.log(output))[0, 1] == pytest.approx(shape.correlation, abs=0.03)


def test_a_shape_without_spread_makes_every_request_alike() -> None:
    shape = TokenShape("same", 500, 50, 0, 0, 1000, 100)
    prompt, output = shape.draw(np.random.default_rng(0), 10)
    assert set(whole_tokens(prompt).tolist()) == {500}
    assert set(whole_tokens(output).tolist()) == {50}


def test_lengths_can_be_fixed_or_lognormal_with_given_means() -> None:
    fixed = token_shape_named("fixed:4000/1000")
    assert [set(whole_tokens(each).tolist()) for each in fixed.draw(np.random.default_rng(0), 10)] == [{4000}, {1000}]
    prompt, output = token_shape_named("lognormal:700/90/1.1").draw(np.random.default_rng(0), 400_000)
    assert prompt.mean() == pytest.approx(700, rel=0.01)
    assert output.mean() == pytest.approx(90, rel=0.01)
    assert np.log(prompt).std() == pytest.approx(1.1, rel=0.02)


@pytest.mark.parametrize(
    "text", ["fixed:", "fixed:4", "fixed:4/5/6", "fixed:0/5", "fixed:nan/5", "fixed:9e9/5", "fixed:a/b"]
)
def test_lengths_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match="token shape"):
        token_shape_named(text)


def test_an_impossible_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="cut-off"):
        TokenShape("long", 5000, 50, 1, 1, 1000, 100)


# Drawn traces.


def test_arrivals_follow_the_rate() -> None:
    arrivals = all_requests(drawn_trace(SINE * 5)).arrival_s
    counts = np.bincount((arrivals / 60).astype(int), minlength=144)
    # Poisson: chi-square per step is 1 on average, its mean over 144 steps has standard deviation 0.12.
    assert ((counts - SINE * 300) ** 2 / (SINE * 300)).mean() == pytest.approx(1.0, abs=0.6)


def test_gaps_have_the_given_variation_once_the_rate_is_taken_out() -> None:
    trace = drawn_trace(SINE * 5, cv=3.0)
    gaps = np.diff(trace.clients[0].curve.expected(all_requests(trace).arrival_s))
    assert gaps.std() / gaps.mean() == pytest.approx(3.0, rel=0.06)


def test_one_seed_gives_the_same_requests_and_another_does_not() -> None:
    one, again, other = (all_requests(drawn_trace(SINE, cv=2.0, seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(one.arrival_s, again.arrival_s)
    assert np.array_equal(one.prompt_tokens, again.prompt_tokens)
    assert not np.array_equal(one.arrival_s[:100], other.arrival_s[:100])


@pytest.mark.parametrize("cv", [1.0, 3.0])
def test_a_window_holds_the_same_requests_as_the_whole(cv: float) -> None:
    trace = drawn_trace(SINE * 3, cv=cv)
    whole = all_requests(trace)
    part = all_requests(sliced(sliced(trace, 1000.0, 7000.0), 234.0, 3000.0))
    inside = (whole.arrival_s >= 1234.0) & (whole.arrival_s < 4234.0)
    assert part.arrival_s == pytest.approx(whole.arrival_s[inside] - 1234.0, abs=1e-9)
    assert np.array_equal(part.output_tokens, whole.output_tokens[inside])


def test_tokens_follow_the_means_of_each_step() -> None:
    trace = drawn_trace([50.0, 50.0], prompt_mean=np.array([100.0, 4000.0]))
    whole = all_requests(trace)
    first = whole.arrival_s < 60
    assert whole.prompt_tokens[first].mean() == pytest.approx(100, rel=0.08)
    assert whole.prompt_tokens[~first].mean() == pytest.approx(4000, rel=0.08)
    assert whole.output_tokens.mean() == pytest.approx(211, rel=0.05)


def test_batches_are_bounded_even_when_a_block_is_not() -> None:
    sizes = [len(batch) for batch in drawn_trace([1e5] * 4, step_s=1.0).batches()]
    assert max(sizes) == 65_536
    assert sum(sizes) == pytest.approx(4e5, rel=0.01)


# Load series in files.


def test_counts_per_step_become_rates(tmp_path: Path) -> None:
    trace = open_trace(write_text(tmp_path / "s.csv", "t,requests", "0,600", "60,1200", "120,600", "180,600"))
    counts = np.bincount((all_requests(trace).arrival_s / 60).astype(int))
    assert counts == pytest.approx([600, 1200, 600, 600], rel=0.2)  # Poisson: 5 sd of 600
    assert "recorded" in trace.describe()
    assert not trace.generated


def test_zero_is_a_gap_in_rates_and_idle_in_counts(tmp_path: Path) -> None:
    for column, missing in (("rate", True), ("requests", False)):
        path = write_text(tmp_path / f"{column}.csv", f"t,{column}", "0,600", "60,0", "120,600", "180,")
        rates = load_series(open_trace(path), 60.0).values[:, 0]
        assert np.isnan(rates).tolist() == [False, missing, False, True]


def test_rows_left_out_are_gaps(tmp_path: Path) -> None:
    path = write_text(tmp_path / "s.csv", "t,requests", "1000,60", "1060,60", "1240,60")
    assert np.isnan(load_series(open_trace(path), 60.0).values[:, 0]).tolist() == [False, False, True, True, False]


def test_tokens_per_step_set_the_mean_length(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "s.parquet",
        t=[0.0, 60.0],
        requests=[3000, 3000],
        input_tokens=[300_000, 6_000_000],
        output_tokens=[30_000, 30_000],
    )
    whole = all_requests(open_trace(path, token_shape="code"))  # noqa: S106  (no password)
    early = whole.arrival_s < 60
    assert whole.prompt_tokens[early].mean() == pytest.approx(100, rel=0.1)
    assert whole.prompt_tokens[~early].mean() == pytest.approx(2000, rel=0.1)
    assert whole.output_tokens.mean() == pytest.approx(10, rel=0.1)


def test_gamma_arrivals_and_shape_are_taken_by_name(tmp_path: Path) -> None:
    path = write_text(tmp_path / "s.csv", "t,rate", *(f"{60 * i},50" for i in range(30)))
    whole = all_requests(open_trace(path, token_shape="reasoning", arrivals="gamma", arrival_cv=4.0))  # noqa: S106  (no password)
    gaps = np.diff(whole.arrival_s)
    assert gaps.std() / gaps.mean() == pytest.approx(4.0, rel=0.1)
    assert whole.output_tokens.mean() == pytest.approx(4000, rel=0.05)


def test_a_column_per_workload_is_chosen_by_model(tmp_path: Path) -> None:
    path = write_text(tmp_path / "s.csv", "t,conversation,api,all", *(f"{60 * i},60,600,660" for i in range(20)))
    assert len(all_requests(open_trace(path))) == pytest.approx(13_200, rel=0.05)
    assert len(all_requests(open_trace(path, model="api"))) == pytest.approx(12_000, rel=0.05)
    with pytest.raises(BadInput, match="llama") as caught:
        open_trace(path, model="llama")
    assert "conversation" in caught.value.remedy


@pytest.mark.parametrize(
    ("rows", "place", "what"),
    [
        (("0,5", "60,6", "60,7"), ":4 column t", "ascend"),
        (("0,5", "60,6", "30,7"), ":4 column t", "ascend"),
        (("0,5", "60,6", "125,7"), ":4 column t", "whole number of steps"),
        (("0,5", "60,-6", "120,7"), ":3 column requests", "-6"),
        (("0,5", "60,inf", "120,7"), ":3 column requests", "inf"),
        (("0,5", ",6", "120,7"), ":3 column t", "missing"),
        (("0,5",), "", "two rows"),
        (("0,0", "60,0"), "", "no request"),
        (("0,", "60,"), "", "no request"),
        (("0,1", "1,1", "1e12,1"), "", "span"),
    ],
)
def test_a_bad_load_series_is_refused_with_the_row(
    tmp_path: Path, rows: tuple[str, ...], place: str, what: str
) -> None:
    path = write_text(tmp_path / "s.csv", "t,requests", *rows)
    with pytest.raises(BadInput, match=what) as caught:
        open_trace(path)
    assert caught.value.where.startswith(str(path))
    assert place in caught.value.where


def test_requests_without_tokens_in_a_series_are_refused(tmp_path: Path) -> None:
    path = write_text(tmp_path / "s.csv", "t,requests,prompt_tokens", "0,5,500", "60,6,0")
    with pytest.raises(BadInput, match="token") as caught:
        open_trace(path)
    assert caught.value.where == f"{path}:3 column prompt_tokens"


def test_recorded_series_are_all_readable(recorded_traces: Path) -> None:
    means = {
        "azure2024_code_10min_7d.parquet": 27.78,
        "azure2024_code_hourly_7d.parquet": 27.78,
        "burstgpt1_hourly_61d.parquet": 0.2713,
        "nasa_1min.parquet": 0.6841,
        "twitter_trace_1min.parquet": 63.6,
        "servegen_m-large_10min_14d.parquet": 195.84,
    }
    for name, mean in means.items():
        rates = load_series(open_trace(recorded_traces / name), 3600.0).values[:, 0]
        assert rates.mean() == pytest.approx(mean, rel=0.01), name
