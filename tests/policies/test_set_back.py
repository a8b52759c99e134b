"""Does everything that is remembered move with a clock that is set back, and nothing otherwise?"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from policies.memory import PolicyMemory
from policies.set_back import follow_clock
from tests.builders import AT
from tests.policies.test_memory import FULL

NOW = 1e9
BY_NAME = ("pages", "asked_at", "heard_at")  # instants by what they are of
SMALL = 1e6  # every figure of FULL that is no instant is smaller


def at_now(value: object, name: str = "") -> object:
    """Return a memory's JSON with every instant at ``NOW``; instants are what this test knows by name or place."""
    match value:
        case dict():
            return {key: at_now(item, name if name in BY_NAME else key) for key, item in value.items()}
        case [float(), int() as count]:
            return [NOW, count]
        case list():
            return [at_now(item, name) for item in value]
        case float() if name in ("at", "pages") or name.endswith("_at"):
            return NOW
    return value


LATE = PolicyMemory.from_json(json.dumps(at_now(json.loads(FULL.to_json()))))


def numbers(value: object) -> list[float]:
    match value:
        case dict():
            return [n for item in value.values() for n in numbers(item)]
        case list():
            return [n for item in value for n in numbers(item)]
        case int() | float():
            return [value]
    return []


def test_no_instant_stays_in_the_future() -> None:
    moved, (reason,) = follow_clock(LATE, NOW - 3600.0)
    assert max(numbers(json.loads(LATE.to_json()))) == NOW
    assert {n for n in numbers(json.loads(moved.to_json())) if n > SMALL} == {NOW - 3600.0}
    assert (reason.rule, reason.before, reason.after) == ("clock set back", NOW, NOW - 3600.0)


@pytest.mark.parametrize("later_s", [0.0, 15.0, 1e7])
def test_a_clock_that_goes_on_moves_nothing(later_s: float) -> None:
    assert follow_clock(LATE, NOW + later_s) == (LATE, ())


def test_before_the_first_decision_there_is_nothing_to_go_back_from() -> None:
    memory = replace(LATE, decided_at=None)
    assert follow_clock(memory, AT) == (memory, ())
