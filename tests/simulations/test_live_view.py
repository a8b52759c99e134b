"""How a run is drawn on a terminal."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.decisions import Diagnosis, Reason, ScalingPlan
from policies.fleet import Phase
from simulations.live_state import BandPoint, LoadPoint, PoolRow, Staged, Tally, ViewState, advance
from simulations.live_story import Incident
from simulations.live_view import Paper, clock, plain_line, screen
from simulations.load_plot import load_plot
from tests.builders_live import A100, H100, MODEL, forecast_of, pool_of, record_of

R, L, D, F = Phase.READY, Phase.LOADING, Phase.DRAINING, Phase.FAILED
EMPTY = ViewState("foresail demo", "foresail", "demo-load v1 (champion)", 0.0, 3600.0, compression=24.0, speed=60.0)


@cache
def busy(until: int = 140) -> ViewState:
    """Return a view with something of everything, after ``until`` ticks."""
    view = replace(EMPTY, staged=(Staged(1195.0, "an engine of a100 crashes"),))
    exited = Diagnosis("F2", "a100-2", A100, 1195.0, ("platform",), "engine exited: 5 s ago, 0 restarts so far")
    why = Reason("predictive target", MODEL, 3, 7, "23.1 requests/s at the 0.90 level of the peak")
    left = Reason("left to the platform", "a100-2", 0, 0, "it restarts what exits")
    for tick in range(1, until + 1):
        at = 15.0 * tick
        load = 20.0 + 10.0 * math.sin(at / 600.0)
        crashed = 1195.0 <= at < 1320.0
        pools = [
            pool_of(A100, [R, R, F if crashed else R, L], desired=5, weight=0.62),
            pool_of(H100, [R, D], desired=1, weight=0.38),
        ]
        record = record_of(
            at,
            pools,
            load,
            scaling=[ScalingPlan(A100, 4, 5, 1)] if tick % 20 == 0 else [],
            diagnoses=[exited] if crashed else [],
            reasons=[why, left],
        )
        tally = Tally(int(20 * at), 3, 0.9931, at / 100.0)
        view = advance(view, record, {MODEL: forecast_of(at, [load, load + 1, load + 2], 3.0)}, tally)
    return view


def text(view: ViewState, paper: Paper | None = None) -> str:
    return screen(view, paper or Paper()).plain


@pytest.mark.parametrize("paper", [Paper(100, 30), Paper(80, 24), Paper(200, 60), Paper(100, 30, ascii_only=True)])
def test_the_screen_says_everything_that_it_is_for(paper: Paper) -> None:
    shown = text(busy(), paper)
    for words in (
        "0:35:00 of 1:00:00",
        "= 14:00",
        "60",
        "policy foresail",
        "demo-load v1",
        "a100",
        "h100",
        "want  5",
        "62%",
        "38%",
        "99.31%",
        "GPU hours 21.0",
        "F2 a100-2: engine exited",
        "now      load to come: 23.1 requests/s",
        "a100 4 -> 5 replicas",
    ):
        assert words in shown


@pytest.mark.parametrize("tick", [1, 30, 80, 140])
@pytest.mark.parametrize(("width", "height"), [(100, 30), (80, 24), (61, 17), (40, 10), (250, 80)])
def test_the_screen_never_leaves_the_paper(width: int, height: int, tick: int) -> None:
    drawn = screen(busy(tick), Paper(width, height)).split()
    assert len(drawn) <= height
    assert max(line.cell_len for line in drawn) <= width


def test_the_screen_before_the_first_tick_is_drawn() -> None:
    shown = text(EMPTY)
    assert "-:--:-- of 1:00:00" in shown
    assert "no replicas seen yet" in shown
    assert "none so far" in shown


@pytest.mark.parametrize("tick", [1, 82, 140])
def test_ascii_paper_gets_ascii_only(tick: int) -> None:
    assert text(busy(tick), Paper(100, 30, ascii_only=True)).isascii()
    assert plain_line(busy(tick)).isascii()


def test_replicas_can_be_told_apart_without_colours() -> None:
    row = PoolRow("a100", ready=3, starting=2, draining=1, sick=1, desired=8, weight=1.0)
    assert "●●●◐◐○✖··" in text(replace(busy(), pools=(row,)))
    assert "###++oX.." in text(replace(busy(), pools=(row,)), Paper(ascii_only=True))


def test_more_replicas_than_room_are_cut_and_still_counted() -> None:
    row = PoolRow("a100", ready=120, starting=0, draining=0, sick=0, desired=120, weight=1.0)
    line = next(line for line in text(replace(busy(), pools=(row,))).splitlines() if " a100 " in line)
    assert "●…" in line
    assert "● 120" in line


def test_a_staged_fault_is_shown_when_it_happens_and_not_before() -> None:
    assert "staged" not in text(busy(79))
    assert "0:19:55 staged for you, unknown to the controller: an engine of a100 crashes" in text(busy(80))


def test_an_incident_shows_what_was_done_and_when_it_was_over() -> None:
    shown = text(busy())
    assert "0:20:00 the platform restarts it, 0:22:00 the pool is whole again" in shown


def test_the_newest_incidents_win_the_room() -> None:
    many = tuple(Incident(60.0 * i, 60.0 * i, "F2", f"a100-{i}", "a100", "engine exited") for i in range(20))
    shown = text(replace(busy(), incidents=many, staged=()))
    assert "a100-19: engine exited" in shown
    assert "a100-3: engine exited" not in shown


def test_a_blind_tick_is_said_in_place_of_the_tally() -> None:
    assert "blind: metrics store does not answer" in text(
        replace(busy(), unseen="metrics store does not answer\n -> x")
    )


def test_one_line_tells_a_tick_where_there_is_no_terminal() -> None:
    line = plain_line(busy())
    assert "\n" not in line
    assert line.startswith("0:35:00  load 1")
    assert "a100 3/5 ready 62%, h100 1/1 ready 38%" in line
    assert line.endswith("attainment 99.31%  GPU hours 21.0")
    assert plain_line(busy(82)).endswith("incidents: F2 a100-2")


def test_nothing_counted_yet_is_a_dash_and_not_a_number() -> None:
    line = plain_line(replace(busy(1), tally=Tally(), load=()))
    assert "load -/s" in line
    assert "attainment -  GPU hours -" in line


def plot(view: ViewState, *, ascii_only: bool = True) -> list[str]:
    return [line.plain for line in load_plot(view, 67, 10, ahead_s=600.0, ascii_only=ascii_only)]


def test_the_plot_puts_load_at_its_height_and_instant() -> None:
    # 60 columns for 3000 s: one column is 50 s; 10 rows for 0 to 20 requests/s: one row is 2.
    flat = replace(EMPTY, at=2400.0, load=tuple(LoadPoint(15.0 * i, 15.0) for i in range(161)))
    rows = plot(replace(flat, load=(*flat.load[:80], LoadPoint(1200.0, 19.9), LoadPoint(1230.0, 19.9))))
    assert rows[2] == "      |" + "*" * 24 + " " * 24 + "|" + " " * 11  # 15 lies in the row from 14 to 16
    assert rows[0] == "    20|" + " " * 24 + "*" + " " * 23 + "|" + " " * 11


def test_the_plot_leaves_a_hole_where_nothing_was_observed() -> None:
    load = [LoadPoint(15.0 * i, math.nan if 60 <= i <= 100 else 15.0) for i in range(161)]
    row = next(row for row in plot(replace(EMPTY, at=2400.0, load=tuple(load))) if "*" in row)
    assert row[7 + 18 : 7 + 30].strip() == ""


def test_the_plot_draws_the_band_up_to_now_and_the_forecast_beyond() -> None:
    past = tuple(BandPoint(60.0 * i, 8.2, 10.0, 11.8) for i in range(43))
    ahead = tuple(BandPoint(2430.0 + 60.0 * i, 4.2, 5.9, 7.8) for i in range(5))
    rows = plot(replace(EMPTY, at=2400.0, foreseen=past, ahead=ahead))
    now = 7 + 48
    # 15 is the upper edge: 8 to 12 lie in rows 2 to 4, 4 to 8 in rows 4 to 7.
    assert [row[10] for row in rows[:-1]] == list("  :::     ")
    assert [row[now + 2] for row in rows[:-1]] == list("    ::-:  ")
    assert all("-" not in row[:now] for row in rows[:-1])
    assert any("-" in row[now:] for row in rows[:-1])
    assert all(row[now + 6 :].strip() == "" for row in rows[:-1])  # the forecast ends 270 s ahead


def test_a_steep_rise_is_drawn_without_holes() -> None:
    load = tuple(LoadPoint(15.0 * i, 2.0 if i < 80 else 18.0) for i in range(161))
    rows = plot(replace(EMPTY, at=2400.0, load=load), ascii_only=False)
    assert all(any(0x2801 <= ord(c) <= 0x28FF for c in row) for row in rows[2:8])


@settings(max_examples=30, deadline=None)
@given(
    rates=st.lists(st.one_of(st.floats(0, 1e6), st.just(math.nan)), max_size=40),
    width=st.integers(20, 200),
    rows=st.integers(1, 30),
    ascii_only=st.booleans(),
)
def test_any_load_fits_the_plot(rates: list[float], width: int, rows: int, ascii_only: bool) -> None:
    load = tuple(LoadPoint(15.0 * i, rate) for i, rate in enumerate(rates))
    view = replace(EMPTY, at=15.0 * len(rates), load=load)
    lines = load_plot(view, width, rows, 300.0, ascii_only)
    assert len(lines) == rows + 1
    assert max(line.cell_len for line in lines) <= width


def test_durations_read_like_a_clock() -> None:
    assert [clock(s) for s in (0.0, 59.6, 3725.0, math.nan)] == ["0:00:00", "0:01:00", "1:02:05", "-:--:--"]
