"""For how long is a gateway taken to have seen no answer of a replica whose counters stand still?"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.anomaly import AnomalySettings, Watch, watch
from policies.lead_time import LeadTime
from tests.builders import AT, KEY, fleet, metrics, pool, replica

SETTINGS = AnomalySettings()
LEAD = {str(KEY): LeadTime(80.0, 100.0, 5, measured=True)}
TICK_S, WELL_S = 15.0, 300.0
BUSY, SLOW = 2.0, 0.1  # answers/s
HANG = {"progress", "peers", "gateway"}


def seen(
    until_s: float,
    answers_per_s: float,
    age_s: float = 0.0,
    *,
    heard_until_s: float = math.inf,
    oldest_s: float = 0.0,
) -> Watch:
    """Return what is found at the last tick up to ``until_s`` after the engine stood still, and all answers ended.

    Args:
        until_s: Of the last look; the engine was well for five minutes before.
        answers_per_s: What it answered until then.
        age_s: How old the gateway's newest sample is at each tick.
        heard_until_s: When the gateway was last sampled.
        oldest_s: How much older the sample of another process of the gateway is.
    """
    found, tick_s = Watch((), {}), -WELL_S
    while tick_s <= until_s:
        heard_s = min(tick_s - age_s, heard_until_s)
        worked_s = min(tick_s, 0.0) + WELL_S
        gateway = {
            "answered_requests_total": math.floor(answers_per_s * (min(heard_s, 0.0) + WELL_S)) * 1.0,
            "failed_answers_total": 0.0,
            "in_flight_requests": 4.0,
        }
        counts = {"steps_total": 1000.0 + worked_s, "output_tokens_total": 1000.0 + worked_s}
        sick = replace(replica("sick", metrics=metrics(AT + tick_s, **counts)), **gateway)
        others = [
            replica(f"p{i}", in_flight_requests=4.0, metrics=metrics(AT + tick_s, steps_total=9000.0 + tick_s))
            for i in range(2)
        ]
        state = replace(
            fleet(pool([sick, *others]), at=AT + tick_s),
            gateway_newest_at=AT + heard_s,
            gateway_oldest_at=AT + heard_s - oldest_s,
        )
        found = watch(state, found.memory, LEAD, SETTINGS)
        tick_s += TICK_S
    return found


def families(found: Watch) -> set[str]:
    return {a.family for a in found.anomalies if a.replica == "sick"}


def test_many_answers_that_are_due_make_two_samples_of_the_gateway_enough() -> None:
    """Its answers were last seen to grow by the sample of 3 s after the hang, 42 s before the tick at 45 s."""
    assert families(seen(30.0, BUSY, 12.0)) == set()
    assert families(seen(45.0, BUSY, 12.0)) == HANG


def test_few_answers_that_are_due_take_one_sample_more() -> None:
    assert families(seen(45.0, SLOW, 12.0)) == set()
    assert families(seen(60.0, SLOW, 12.0)) == HANG


def test_a_silence_is_never_shorter_than_what_settings_ask_for() -> None:
    """The newest answer was counted 35 s before: two samples since, and yet too early."""
    assert families(seen(45.0, BUSY, 5.0)) == set()
    assert families(seen(60.0, BUSY, 5.0)) == HANG


@pytest.mark.parametrize("answers_per_s", [BUSY, SLOW])
def test_a_gateway_that_is_sampled_no_more_says_no_more(answers_per_s: float) -> None:
    assert families(seen(600.0, answers_per_s, 2.0, heard_until_s=20.0)) == set()


def test_the_oldest_of_the_gateways_processes_says_until_when_nothing_was_answered() -> None:
    assert families(seen(45.0, BUSY, 12.0, oldest_s=0.0)) == HANG
    assert families(seen(45.0, BUSY, 12.0, oldest_s=20.0)) == set()


@given(st.floats(0.0, 14.9), st.floats(0.0, 4.0))
def test_nothing_that_stood_still_for_less_than_is_asked_for_looks_hung(age_s: float, answers_per_s: float) -> None:
    assert families(seen(30.0, answers_per_s, age_s)) == set()


@given(st.floats(0.0, 14.9), st.floats(0.05, 4.0))
def test_a_hang_is_seen_within_three_ticks_of_the_sample_that_has_its_last_answers(
    age_s: float, answers_per_s: float
) -> None:
    last_s = math.ceil(age_s / TICK_S) * TICK_S  # the tick at which what ended before the hang is known
    assert families(seen(last_s + 45.0, answers_per_s, age_s)) == HANG
