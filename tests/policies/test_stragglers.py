"""Is one slow replica told from its peers: by enough of them, for long enough, and not for doing more or being new?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from policies.fleet import ReplicaState
from tests.builders import AT, demand
from tests.builders_evidence import Examiner, believed, said_of, working

LONG_S = 300.0
SLOW_S, USUAL_S = 0.25, 0.05


def with_one(
    after_s: float, count: int = 8, peers: dict[str, Any] | None = None, **one: Any
) -> list[ReplicaState]:  # fmt: skip
    """``a0`` that is as told, and peers at 50 ms with a little scatter."""
    others = [
        working(f"a{place}", after_s, **{"tpot_mean_s": USUAL_S * (1.0 + 0.02 * place / count), **(peers or {})})
        for place in range(1, count)
    ]
    return [working("a0", after_s, **one), *others]


def shown(**one: Any) -> Callable[[float], list[ReplicaState]]:
    return lambda after_s: with_one(after_s, **one)


def test_one_far_slower_than_its_peers_is_a_straggler() -> None:
    found = Examiner().over(LONG_S, shown(tpot_mean_s=SLOW_S))
    assert believed(found) == {("straggler", "a0")}
    assert {"peers", "latency"} <= set(said_of(found, "a0"))


@pytest.mark.parametrize("tpot_s", [USUAL_S, 1.2 * USUAL_S, 0.01, math.nan])
def test_one_as_fast_or_hardly_slower_or_silent_is_none(tpot_s: float) -> None:
    assert believed(Examiner().over(LONG_S, shown(tpot_mean_s=tpot_s))) == set()


def test_all_of_them_slow_is_no_straggler() -> None:
    found = Examiner().over(LONG_S, shown(tpot_mean_s=SLOW_S, peers={"tpot_mean_s": SLOW_S}))
    assert believed(found) == set()


@pytest.mark.parametrize("count", [2, 3, 4])
def test_too_few_peers_give_no_median_worth_comparing_with(count: int) -> None:
    assert believed(Examiner().over(LONG_S, shown(tpot_mean_s=SLOW_S, count=count))) == set()


def test_peers_that_tell_nothing_are_none() -> None:
    found = Examiner().over(LONG_S, shown(tpot_mean_s=SLOW_S, peers={"tpot_mean_s": math.nan}))
    assert believed(found) == set()


def test_slow_at_one_scrape_is_not_slow() -> None:
    examiner = Examiner()
    examiner.over(LONG_S, shown(tpot_mean_s=USUAL_S))
    assert believed(examiner.over(LONG_S + 15.0, shown(tpot_mean_s=SLOW_S))) == set()


def test_slow_now_and_then_is_forgiven() -> None:
    """Two scrapes on time for each slow one, for long: few requests beside a long prefill are slow too."""

    def now_and_then(after_s: float) -> list[ReplicaState]:
        return with_one(after_s, tpot_mean_s=SLOW_S if round(after_s / 15.0) % 3 == 0 else USUAL_S)

    examiner = Examiner()
    assert all(believed(examiner.over(15.0 * look, now_and_then)) == set() for look in range(60))


def test_a_straggler_that_keeps_up_again_is_one_no_more() -> None:
    examiner = Examiner()
    examiner.over(LONG_S, shown(tpot_mean_s=SLOW_S))
    assert believed(examiner.over(2 * LONG_S, shown(tpot_mean_s=USUAL_S))) == set()


def test_one_that_has_just_started_is_cold_and_not_slow() -> None:
    found = Examiner().over(LONG_S - 30.0, shown(tpot_mean_s=SLOW_S, since_at=AT))
    assert believed(found) == {("cold-start", "a0")}


def test_peers_that_have_just_started_are_no_measure() -> None:
    """Cold peers at a fifth of the TPOT of those that are warm make nobody a straggler."""

    def cold(after_s: float) -> list[ReplicaState]:
        warm = [working(f"a{i}", after_s, tpot_mean_s=SLOW_S) for i in range(6)]
        new = [working(f"b{i}", after_s, tpot_mean_s=USUAL_S, since_at=AT + after_s - 60.0) for i in range(8)]
        return [*warm, *new]

    assert believed(Examiner().over(LONG_S, cold)) == set()


def test_one_that_does_far_more_than_its_peers_may_be_slower() -> None:
    def busy(after_s: float) -> list[ReplicaState]:
        return with_one(
            after_s, tpot_mean_s=SLOW_S, output_tokens_total=2e4 + 600.0 * after_s,
            prompt_tokens_total=1e5 + 3000.0 * after_s,
        )  # fmt: skip

    assert ("straggler", "a0") not in believed(Examiner().over(LONG_S, busy))


def test_one_that_has_worked_off_a_backlog_is_slow_for_as_long_as_its_requests_last() -> None:
    """Ten times the work of its peers for four minutes, then the same as they, with the TPOT of the batches before."""
    backlog_s = 240.0

    def after_a_backlog(after_s: float) -> list[ReplicaState]:
        more_s = min(after_s, backlog_s)
        return with_one(
            after_s, tpot_mean_s=SLOW_S, output_tokens_total=2e4 + 60.0 * after_s + 540.0 * more_s,
            prompt_tokens_total=1e5 + 300.0 * after_s + 2700.0 * more_s,
        )  # fmt: skip

    examiner = Examiner()
    told = {after_s: believed(examiner.over(after_s, after_a_backlog)) for after_s in (240.0, 270.0, 285.0)}
    assert set().union(*told.values()) == {("unknown", "a0")}
    assert believed(examiner.over(360.0, after_a_backlog)) == {("straggler", "a0")}


@pytest.mark.parametrize(("prompt", "name"), [(1000.0, "straggler"), (60_000.0, "unknown")])
def test_what_one_prefill_beside_it_explains_convicts_nobody(prompt: float, name: str) -> None:
    """60,000 tokens take 6 s: shared by 200 output tokens, 30 ms each, which makes 80 ms of 50."""
    found = Examiner().over(LONG_S, shown(tpot_mean_s=0.09), demand={"m": demand(8.0, prompt)})
    assert believed(found) == {(name, "a0")}


def test_one_that_ends_a_request_a_minute_is_told_too() -> None:
    def rarely(after_s: float) -> list[ReplicaState]:
        return with_one(after_s, tpot_mean_s=SLOW_S if after_s % 60.0 == 0.0 else math.nan)

    assert believed(Examiner().over(120.0, rarely)) == set()
    assert believed(Examiner().over(240.0, rarely)) == {("straggler", "a0")}
