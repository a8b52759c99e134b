"""Is the failure named that the evidence shows, and none where it does not?"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from policies.decisions import Anomaly
from policies.diagnosis import answers_with_errors, compared, confirmed, diagnose
from policies.fleet import Phase, PoolKey, ReplicaState
from tests.builders import AT, KEY, fleet, pool, replica


def evidence(*families: str, name: str = "r", since_s: float = 60.0) -> list[Anomaly]:
    return [Anomaly(family, name, KEY, 1.0, AT - since_s, f"{family} says so") for family in families]


def cause(state: ReplicaState, *families: str) -> str:
    return diagnose(fleet(pool([state])), evidence(*families))[0].cause


GATEWAY, NO_GATEWAY = replica("r"), replica("r", in_flight_requests=math.nan)
COUNTED = replica("r", failed_answers_total=9.0)


@pytest.mark.parametrize(
    ("state", "families", "expected"),
    [
        (GATEWAY, ("progress", "gateway"), "F1"),
        (GATEWAY, ("progress", "peers", "gateway"), "F1"),
        (GATEWAY, ("progress", "peers"), "unknown"),  # the gateway sees requests end: a frozen exporter
        (NO_GATEWAY, ("progress", "peers"), "F1"),
        (NO_GATEWAY, ("progress",), "unknown"),
        (GATEWAY, ("exporter",), "F13"),
        (GATEWAY, ("exporter", "peers", "latency"), "F13"),
        (GATEWAY, ("progress",), "unknown"),
        (GATEWAY, ("peers", "latency"), "F8"),
        (COUNTED, ("answers", "cohort"), "F2"),
        (COUNTED, ("answers", "errors", "cohort"), "F2"),
        (COUNTED, ("answers",), "unknown"),
        (COUNTED, ("answers", "record"), "F2"),
        (COUNTED, ("errors", "record"), "unknown"),
        (GATEWAY, ("errors", "record"), "F2"),
        (COUNTED, ("answers", "errors"), "unknown"),
        (COUNTED, ("errors", "cohort"), "unknown"),  # the gateway sees it answer as it should
        (GATEWAY, ("errors", "cohort"), "F2"),
        (GATEWAY, ("errors",), "unknown"),
        (COUNTED, ("answers", "cohort", "exporter"), "F2"),
        (COUNTED, ("answers", "exporter"), "F13"),
        (COUNTED, ("progress", "gateway", "answers", "cohort"), "F1"),
        (COUNTED, ("answers", "peers"), "unknown"),  # slower than its peers is another matter
        (GATEWAY, ("peers",), "unknown"),
        (GATEWAY, ("latency",), "unknown"),
        (replica("r", Phase.FAILED), ("platform",), "F2"),
        (replica("r", Phase.LOADING), ("platform",), "F4"),
        (replica("r", Phase.PENDING), ("platform",), "F4"),
        (replica("r", Phase.FAILED), ("platform", "gpu"), "F9"),
        (replica("r", Phase.LOADING), ("exit", "gpu"), "F9"),
        (GATEWAY, ("progress", "gateway", "gpu"), "F9"),
        (GATEWAY, ("progress", "gpu"), "F9"),
        (GATEWAY, ("peers", "gpu"), "F9"),
        (COUNTED, ("answers", "cohort", "gpu"), "F9"),
        (GATEWAY, ("gpu",), "unknown"),  # it works on: what its GPU reported does it no harm so far
        (GATEWAY, ("exporter", "gpu"), "F13"),
        (GATEWAY, ("counters", "platform", "gpu"), "F14"),
        (replica("r", Phase.FAILED), ("platform", "application"), "F2"),
        (GATEWAY, ("peers", "clock"), "F8"),
        (GATEWAY, ("clock",), "unknown"),
    ],
)
def test_evidence_is_held_against_the_catalogue(state: ReplicaState, families: tuple[str, ...], expected: str) -> None:
    assert cause(state, *families) == expected


def test_a_hang_that_only_the_engines_own_metrics_tell_is_not_confirmed() -> None:
    alone, *_ = diagnose(fleet(pool([NO_GATEWAY])), evidence("progress", "peers"))
    both, *_ = diagnose(fleet(pool([GATEWAY])), evidence("progress", "gateway"))
    slow, *_ = diagnose(fleet(pool([GATEWAY])), evidence("peers", "latency"))
    assert [confirmed(d) for d in (alone, both, slow)] == [False, True, True]


def test_errors_without_a_peer_to_compare_with_are_told_and_neither_confirmed_nor_compared() -> None:
    alone, *_ = diagnose(fleet(pool([COUNTED])), evidence("answers", "record"))
    peers, *_ = diagnose(fleet(pool([COUNTED])), evidence("answers", "cohort"))
    assert [(d.name, compared(d), confirmed(d)) for d in (alone, peers)] == [
        ("errors", False, False), ("errors", True, True)
    ]  # fmt: skip


def test_errors_that_only_the_engine_tells_of_are_not_confirmed_and_an_exit_is_no_burst_of_errors() -> None:
    own, *_ = diagnose(fleet(pool([GATEWAY])), evidence("errors", "cohort"))
    both, *_ = diagnose(fleet(pool([COUNTED])), evidence("answers", "cohort"))
    gone, *_ = diagnose(fleet(pool([replica("r", Phase.FAILED)])), evidence("platform"))
    assert [(answers_with_errors(d), confirmed(d)) for d in (own, both, gone)] == [
        (True, False),
        (True, True),
        (False, True),
    ]


def test_evidence_against_one_of_two_replicas_with_one_id_is_not_held_against_the_other() -> None:
    twin = PoolKey("n", "z")
    state = fleet(pool([GATEWAY]), pool([replica("r", Phase.FAILED)], twin))
    found = diagnose(state, [*evidence("progress", "gateway"), replace(evidence("platform")[0], pool=twin)])
    assert [(d.pool, d.cause) for d in found] == [(KEY, "F1"), (twin, "F2")]


def test_a_hang_outweighs_slowness() -> None:
    assert cause(GATEWAY, "progress", "gateway", "peers", "latency") == "F1"


def test_diagnoses_come_oldest_first_and_tell_what_was_seen() -> None:
    state = fleet(pool([replica("a"), replica("b"), replica("c")]))
    found = diagnose(
        state,
        [
            *evidence("peers", "latency", name="b", since_s=30.0),
            *evidence("progress", "gateway", name="c", since_s=90.0),
            *evidence("peers", name="a", since_s=30.0),
        ],
    )
    assert [(d.subject, d.cause) for d in found] == [("c", "F1"), ("a", "unknown"), ("b", "F8")]
    assert found[0].families == ("gateway", "progress")
    assert found[0].sentence == "engine hangs, process alive: progress says so; gateway says so"
    assert found[0].since_at == AT - 90.0


def test_no_evidence_is_no_diagnosis() -> None:
    assert diagnose(fleet(), []) == ()
