"""Does memory survive a restart whole, and refuse what is not a memory?"""

from __future__ import annotations

import json
import math

import pytest

from policies.healing_memory import ActionMemory, CanaryBooks, CanaryMemory, CordonMemory, XidMemory
from policies.memory import AnswerMemory, ModelMemory, PolicyMemory, PoolMemory, ReplicaMemory, UnknownVersion

FULL = PolicyMemory(
    generation=7,
    pools={
        "m/a/unified": PoolMemory(
            ((1.0, 2), (16.0, 3)),
            ((1.0, 2),),
            (80.5, 91.25),
            ("a0#0", "a1#2"),
            12.5,
            16.0,
            nodes={"n0": 2},
            lost={"n1": (15.0, 1)},
        )
    },
    models={"m": ModelMemory(0.04, 3.0)},
    replicas={
        "m/a/unified/a0": ReplicaMemory(
            "a0#0",
            10.0,
            None,
            20.0,
            None,
            5.0,
            4.0,
            True,
            None,
            3.5,
            (1.0, 2.0),
            9.0,
            3.0,
            2.5,
            AnswerMemory(40.0, 12.0, 5.0, 5.0, 3.5, 7.25, (2.0, 3.0)),
            AnswerMemory(40.0, 0.0, 4.0),
        )
    },
    actions=(ActionMemory("a0", "restart", "m", "m/a/unified", 1.0, 601.0, open=False, verified=True),),
    cordons={"m/a/unified/a0": CordonMemory(2.0, "F1", "a0#0", 10.0, None)},
    pages={"m breaker": 9.0},
    decided_at=16.0,
    xids={"n0": XidMemory(79, 3.0, 9.0)},
    canaries=CanaryBooks(
        {"m": (4.0, 5.0)}, {"m/a/unified": 4.0}, {"m/a/unified/a0": CanaryMemory("a0#0", 5.0, "late", "late", 2, 3.0)}
    ),
)


def test_a_memory_reads_back_equal() -> None:
    assert PolicyMemory.from_json(FULL.to_json()) == FULL
    assert PolicyMemory.from_json(PolicyMemory().to_json()) == PolicyMemory()


def test_the_text_is_strict_json() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(FULL.to_json(), parse_constant=refuse)["version"] == 1


def test_a_memory_of_an_older_version_fills_what_is_new() -> None:
    assert PolicyMemory.from_json('{"version": 1, "generation": 3}') == PolicyMemory(3)


@pytest.mark.parametrize("text", ["{}", '{"generation": 3}', '{"version": 2}', '{"version": "1"}', '{"version": null}'])
def test_a_memory_of_another_version_is_refused_by_name(text: str) -> None:
    with pytest.raises(UnknownVersion, match="this program reads version 1"):
        PolicyMemory.from_json(text)


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_what_is_no_memory_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="validation error"):
        PolicyMemory.from_json(text)


@pytest.mark.parametrize(
    "nonsense",
    [
        '"act1ons": []',
        '"generation": "7"',
        '"generation": -5',
        '"generation": 1.5',
        '"models": {"m": {"margin_ratio": NaN}}',
        '"models": {"m": {"margin_ratio": "NaN"}}',
        '"models": {"m": {"margin_ratio": -2}}',
        '"models": {"m": {"margin": 0.1}}',
        '"pools": {"m/a/unified": {"lead_times_s": [-5]}}',
        '"pools": {"m/a/unified": {"lead_times_s": [1e999]}}',
        '"pools": {"m/a/unified": {"targets": [[1, -2]]}}',
        '"pools": {"nonsense": {}}',
        '"pages": {"m F1": Infinity}',
        '"actions": [{"target": "a"}]',
    ],
)
def test_a_memory_that_cannot_be_is_refused(nonsense: str) -> None:
    with pytest.raises(ValueError, match="validation error"):
        PolicyMemory.from_json(f'{{"version": 1, {nonsense}}}')


@pytest.mark.parametrize("margin", [math.nan, math.inf, -3.0])
def test_what_could_not_be_read_back_is_not_written(margin: float) -> None:
    with pytest.raises(ValueError, match="margin_ratio"):
        PolicyMemory(models={"m": ModelMemory(margin)}).to_json()
