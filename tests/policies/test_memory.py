"""Does memory survive a restart whole, and refuse what is not a memory?"""

from __future__ import annotations

import json

import pytest

from policies.memory import (
    ActionMemory,
    CordonMemory,
    ModelMemory,
    PolicyMemory,
    PoolMemory,
    ReplicaMemory,
)

FULL = PolicyMemory(
    generation=7,
    pools={
        "m/a/unified": PoolMemory(((1.0, 2), (16.0, 3)), ((1.0, 2),), (80.5, 91.25), ("a0#0", "a1#2"), unsound_at=12.5)
    },
    models={"m": ModelMemory(0.04, 3.0, {"m/a/unified": 1.0})},
    replicas={"a0": ReplicaMemory("a0#0", 10.0, None, 20.0, None, 5.0, 4.0, True, None, 3.5, (1.0, 2.0))},
    actions=(ActionMemory("a0", "restart", "m", "m/a/unified", 1.0, 601.0, open=False, verified=True),),
    cordons={"a0": CordonMemory(2.0, "F1", "a0#0", 10.0, None)},
    pages={"m breaker": 9.0},
)


def test_a_memory_reads_back_equal() -> None:
    assert PolicyMemory.from_json(FULL.to_json()) == FULL
    assert PolicyMemory.from_json(PolicyMemory().to_json()) == PolicyMemory()


def test_the_text_is_strict_json() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(FULL.to_json(), parse_constant=refuse)


def test_a_memory_of_an_older_version_fills_what_is_new() -> None:
    assert PolicyMemory.from_json('{"generation": 3}') == PolicyMemory(3)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"generation": "many"}', '{"actions": [{"target": "a"}]}'])
def test_what_is_no_memory_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="validation error"):
        PolicyMemory.from_json(text)
