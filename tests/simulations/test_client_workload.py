"""Do recorded clients send what was recorded: as many requests, as bursty, the same in every window?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from controller.errors import BadInput
from simulations.client_workload import RecordedClients
from simulations.token_shapes import token_shape_named
from simulations.trace_files import open_trace
from simulations.trace_load import load_before, load_series
from simulations.trace_views import scaled, sliced
from simulations.workload import DrawnTrace
from tests.builders_traces import all_requests, write_parquet, write_text

RECORDED = "servegen_m-large_clients_10min_14d.parquet"
HEADER = "t,client,rate,cv,pattern"


def clients(
    counts: list[list[float]], cv: float = 1.0, weibull: bool = False, step_s: float = 600.0, seed: int = 0
) -> DrawnTrace:
    """Clients with a count per window."""
    rates = np.array(counts) / step_s
    source = RecordedClients(
        step_s, rates, np.full(rates.shape, cv), np.full(rates.shape, weibull), token_shape_named("chat")
    )
    return DrawnTrace("clients", "made for a test", True, [source], seed)


def variation(arrival_s: np.ndarray) -> float:
    gaps = np.diff(arrival_s)
    return float(gaps.std() / gaps.mean())


def test_every_window_holds_what_was_recorded() -> None:
    counts = [[300, 500, 0, 7], [40, 0, 0, 900]]
    got = all_requests(clients(counts, cv=4.0)).arrival_s
    assert np.bincount((got / 600).astype(int), minlength=4).tolist() == [340, 500, 0, 907]
    assert (np.diff(got) >= 0).all()


@pytest.mark.parametrize("weibull", [False, True], ids=["gamma", "weibull"])
@pytest.mark.parametrize("cv", [0.4, 1.0, 2.5, 8.0])
def test_gaps_vary_as_recorded(cv: float, weibull: bool) -> None:
    seen = [variation(all_requests(clients([[1500.0]], cv, weibull, seed=seed)).arrival_s) for seed in range(24)]
    # Of 1500 heavy-tailed gaps the largest few decide: one window is good to 30 %, the mean of 24 to 6 %.
    assert np.mean(seen) == pytest.approx(cv, rel=0.15 if weibull else 0.1)


def test_the_rate_runs_smoothly_from_window_to_window() -> None:
    got = all_requests(clients([[60_000.0, 120_000.0, 180_000.0]])).arrival_s
    fine = np.bincount((got / 60).astype(int), minlength=30)
    middle = fine[10:20] / 60
    assert (np.diff(middle) > 0).all()  # from 150 to 250 requests/s in ten steps, each good to 1 %
    assert middle[0] == pytest.approx(155, rel=0.05)
    assert middle[-1] == pytest.approx(245, rel=0.05)


@pytest.mark.parametrize("step_s", [600.0, 60.0])
def test_a_part_holds_the_same_requests_as_the_whole(step_s: float) -> None:
    trace = clients([[2000.0] * 6, [700.0, 0.0] * 3], cv=3.0, step_s=step_s)
    whole, start_s = all_requests(trace), 1.7 * step_s
    part = all_requests(sliced(trace, start_s, 2 * step_s))
    inside = (whole.arrival_s >= start_s) & (whole.arrival_s < start_s + 2 * step_s)
    assert part.arrival_s == pytest.approx(whole.arrival_s[inside] - start_s, abs=1e-9)
    assert np.array_equal(part.prompt_tokens, whole.prompt_tokens[inside])


def test_a_busy_window_is_drawn_in_parts_that_add_up() -> None:
    trace = clients([[700_000.0, 350_001.0]], cv=2.0)
    assert trace.clients[0].parts == 3  # type: ignore[union-attr]
    got = all_requests(trace).arrival_s
    assert np.bincount((got / 600).astype(int)).tolist() == [700_000, 350_001]
    assert variation(got[got < 600]) == pytest.approx(2.0, rel=0.03)


def test_scaling_keeps_the_clumps_and_rounds_without_bias() -> None:
    trace = clients([[1000.0, 1000.0, 3.0] * 40], cv=3.0)
    half = all_requests(scaled(trace, 0.5)).arrival_s
    counts = np.bincount((half / 600).astype(int), minlength=120)
    assert set(counts[:2].tolist()) == {500}
    assert set(counts[2::3].tolist()) == {1, 2}
    assert counts[2::3].mean() == pytest.approx(1.5, abs=0.4)  # 40 coins: sd 0.08
    seen = [variation(half[(half >= i * 600) & (half < i * 600 + 600)]) for i in range(0, 120, 3)]
    assert np.mean(seen) == pytest.approx(3.0, rel=0.1)


def test_counts_that_are_drawn_without_requests_are_as_variable_as_counted_ones() -> None:
    trace = clients([[400.0] * 200], cv=4.0)
    edges_s = np.arange(0.0, 200 * 600 + 1, 15)
    counted = np.bincount((all_requests(trace).arrival_s / 15).astype(int), minlength=8000)
    drawn = trace.clients[0].observed_sums(np.random.default_rng(0), edges_s)[:, 0]
    assert drawn.mean() == pytest.approx(10.0)
    assert drawn.std() == pytest.approx(counted.std(), rel=0.15)


def test_extreme_burstiness_is_one_clump_and_no_failure() -> None:
    got = all_requests(clients([[50.0, 1.0, 2.0]], cv=1e4))
    assert len(got) == 53
    assert np.isfinite(got.arrival_s).all()


# The file.


def test_a_client_file_is_read_whatever_its_order(tmp_path: Path) -> None:
    rows = ("600,b,2,1,Gamma", "0,a,1,3,Weibull", "0,b,2,1,Gamma", "600,a,0,0,")
    trace = open_trace(write_text(tmp_path / "c.csv", HEADER, *rows))
    assert "2 clients, 2 windows of 600 s" in trace.describe()
    got = all_requests(trace).arrival_s
    assert np.bincount((got / 600).astype(int)).tolist() == [1800, 1200]
    only = all_requests(open_trace(tmp_path / "c.csv", model="a")).arrival_s
    assert len(only) == 600


def test_windows_in_which_nobody_sent_anything_are_gaps(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "c.parquet", t=[0, 600, 1800] * 2, client=[1] * 3 + [2] * 3,
                         rate=[1.0, 0.0, 1.0, 2.0, 0.0, 0.0], cv=[1.0] * 6)  # fmt: skip
    rates = load_series(open_trace(path), 600.0).values[:, 0]
    assert np.isnan(rates).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("rows", "place", "what"),
    [
        (("0,a,1,1,", "0,a,2,1,", "600,a,1,1,"), ":3 column t", "second window"),
        (("0,a,1,1,", "600,a,2,1,", "1200,a,1,1,", "1500,a,1,1,"), ":5 column t", "overlaps"),
        (("0,a,1,1,", "600,a,-2,1,"), ":3 column rate", "-2"),
        (("0,a,1,1,", "600,a,nan,1,"), ":3 column rate", "missing"),
        (("0,a,1,1,", "600,a,inf,1,"), ":3 column rate", "inf"),
        (("0,a,1,1,", "600,a,1,0,"), ":3 column cv", "coefficient"),
        (("0,a,1,1,", "600,a,1,,"), ":3 column cv", "missing"),
        (("0,a,1,1,", "600,,1,1,"), ":3 column client", "missing"),
        (("0,a,1,1,", "600,a,1,1,Pareto"), ":3 column pattern", "Pareto"),
        (("0,a,1,1,", ",a,1,1,"), ":3 column t", "missing"),
        (("0,a,1,1,", "0,b,1,1,"), "column t", "length of a window"),
        (("0,a,0,1,", "600,a,0,1,"), "column rate", "no client"),
        (("0,a,1,1,", "1,a,1,1,", "1e12,a,1,1,"), "", "too many"),
    ],
)
def test_a_wrong_client_file_is_refused_with_the_row(
    tmp_path: Path, rows: tuple[str, ...], place: str, what: str
) -> None:
    path = write_text(tmp_path / "c.csv", HEADER, *rows)
    with pytest.raises(BadInput, match=what) as caught:
        open_trace(path)
    assert caught.value.where.startswith(str(path))
    assert place in caught.value.where


def test_an_unknown_client_is_refused_with_those_there_are(tmp_path: Path) -> None:
    path = write_text(tmp_path / "c.csv", HEADER, *(f"{t},{c},1,1," for c in (10, 9, 2) for t in (0, 600)))
    with pytest.raises(BadInput, match="'7'") as caught:
        open_trace(path, model="7")
    assert "2, 9, 10" in caught.value.remedy


# The recording.


def test_the_recorded_clients_add_up_to_the_recorded_sum(recorded_traces: Path) -> None:
    both = [
        load_series(sliced(open_trace(recorded_traces / name), 0.0, 86_400.0), 600.0).values[:, 0]
        for name in (RECORDED, "servegen_m-large_10min_14d.parquet")
    ]
    # The sum is a mean rate about which Poisson counts are drawn: 100,000 per window are good to 0.3 %.
    assert both[0] == pytest.approx(both[1], rel=0.02)


@pytest.mark.parametrize("client", ["142", "61", "143", "20", "104"])
def test_drawn_clients_are_as_bursty_as_recorded(recorded_traces: Path, client: str) -> None:
    """Rate-weighted over a day, for clients from nearly Poisson to very bursty; docs/validation.md has the figures."""
    trace = open_trace(recorded_traces / RECORDED, model=client)
    assert isinstance(trace, DrawnTrace)
    (source,) = trace.clients
    assert isinstance(source, RecordedClients)
    arrival_s = all_requests(sliced(trace, 0.0, 86_400.0)).arrival_s
    drawn, recorded, weight = [], [], []
    for window in range(144):
        first, last = np.searchsorted(arrival_s, (window * 600.0, window * 600.0 + 600.0))
        if last - first >= 20:
            drawn.append(variation(arrival_s[first:last]))
            recorded.append(source.cv[0, window])
            weight.append(last - first)
    both = [float(np.average(cv, weights=weight)) for cv in (recorded, drawn)]
    counts = [np.bincount((arrival_s / 600).astype(int), minlength=144), np.rint(source.rates[0, :144] * 600)]
    spread = [float(each.var() / each.mean()) for each in counts]
    line = f"client {client}: CV of gaps recorded {both[0]:.2f}, drawn {both[1]:.2f}; "
    line += f"dispersion per 600 s recorded {spread[1]:.0f}, drawn {spread[0]:.0f}"
    print(line)  # noqa: T201 - for docs/validation.md
    assert both[1] == pytest.approx(both[0], rel=0.1)
    assert spread[0] == pytest.approx(spread[1], rel=1e-6)


def test_history_before_a_start_is_what_was_recorded(recorded_traces: Path) -> None:
    trace = open_trace(recorded_traces / RECORDED)
    before = load_before(trace, 86_400.0, 15.0, 86_400.0).values
    assert before.shape == (5760, 3)
    assert before[:, 0].reshape(144, 40).mean(axis=1) == pytest.approx(
        load_series(sliced(trace, 0.0, 86_400.0), 600.0).values[:, 0], rel=0.01
    )
