"""Shares with their intervals, spreads with what never came, and targets with what is behind them."""

from __future__ import annotations

import math

import pytest

from simulations.healing.plans import HOURS
from simulations.healing.runs import WorldRun
from simulations.healing.summary import Share, Spread, Target, rows, spread, targets
from simulations.healing.verdict import Verdict


def run(kind: str, *, struck: bool = True, policy: str = "foresail", hours: float = 1.0, **changes: object) -> WorldRun:
    usual = {"detected_s": 50.0, "diagnosed": True, "called": (), "miscalled": (), "remedied": True, "wrong": (),
             "wronged": 0, "recovered_s": 200.0, "lost": 3, "pages": 0}  # fmt: skip
    verdict = Verdict(**{**usual, **changes})  # type: ignore[arg-type]
    return WorldRun(kind, 0, policy, struck, verdict, hours, 100, 0, "", "")


def target(name: str, *runs: WorldRun) -> Target:
    return next(each for each in targets(runs, "foresail") if each.name == name)


def test_the_interval_of_a_share_is_the_exact_one() -> None:
    low, high = Share(19, 20).interval  # Clopper and Pearson 1934, as tables give it
    assert (low, high) == pytest.approx((0.7513, 0.9987), abs=1e-4)
    assert Share(0, 20).interval[0] == 0.0
    assert Share(20, 20).interval[1] == 1.0


def test_what_never_came_counts_as_the_longest() -> None:
    assert spread([10.0, math.inf, math.inf]) == Spread(math.inf, math.inf, 3)
    assert spread([10.0, 20.0, math.inf]).p50_s == 20.0


def test_worlds_in_which_nothing_was_hit_are_left_out() -> None:
    (row,) = rows([run("F1"), run("F1", struck=False, detected_s=math.nan)])
    assert row.worlds == 1
    assert row.detected.ratio == 1.0


def test_recall_counts_both_forms_of_a_hang() -> None:
    recall = target("recall F1", run("F1"), run("F1-zero", detected_s=math.nan), run("F2", detected_s=math.nan))
    assert recall.told == "1/2"
    assert recall.met is False


def test_a_target_that_nothing_was_played_for_is_neither_met_nor_missed() -> None:
    assert target("recall F8", run("F1")).met is None


def test_hangs_that_were_not_noticed_do_not_make_the_others_slow() -> None:
    runs = [run("F1", detected_s=at_s) for at_s in (45.0, 60.0, 75.0)] + [run("F1", detected_s=math.nan)]
    assert target("hang seen, median", *runs).value == 60.0
    assert target("hang seen, P99", *runs).met is True


def test_a_wrong_act_spoils_the_right_remedy() -> None:
    runs = (run("F1"), run("F1", wrong=("restart of a healthy one",)))
    assert target("right remedy", *runs).value == 0.5
    assert target("wrong remedy", *runs, run("idle")).told == "1/3"


def test_the_long_run_says_how_sure_zero_is() -> None:
    long = target("healthy restarts", run(HOURS, hours=10_000.0), run(HOURS, hours=5_000.0))
    assert long.met is True
    assert long.sure == "< 2.0 in 10,000 h"  # rule of three: 3 / 15,000
    assert target("healthy restarts", run(HOURS, wronged=1)).met is False
