"""Does a digest name exactly what would be written, and does everything that can be decided have one?"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any, get_args

import pytest

from controller.maintenance import HeldClass
from controller.modes import ActionClass
from controller.plans import Part, digest_of, facts_of, plan_digest, said, target_of
from policies.decisions import (
    AvoidNode,
    FailOver,
    Page,
    PauseRollout,
    ResumeRollout,
    RollBack,
)
from policies.fleet import PoolKey
from policies.wire import plain
from tests.builders import KEY, MODEL, OTHER, pool, replica
from tests.builders_approvals import CORDON, GROW, RESTART, SHIFT, SHRINK, UNCORDON, fleet_of

PARTS: tuple[Any, ...] = (
    GROW,
    SHIFT,
    CORDON,
    UNCORDON,
    RESTART,
    FailOver(MODEL, KEY, OTHER, "F4"),
    Page(MODEL, "breaker", "look"),
    RollBack(KEY, "1", "2", "F3"),
    PauseRollout(KEY, "F3"),
    ResumeRollout(KEY, "F3"),
    AvoidNode("n1", "F1"),
)


def test_everything_that_can_be_decided_has_a_target_and_a_digest() -> None:
    assert {type(part) for part in PARTS} == set(get_args(Part))
    digests = {plan_digest(part, fleet_of()) for part in PARTS}
    assert len(digests) == len(PARTS)
    assert {target_of(part).action_class for part in PARTS} == set(ActionClass)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
def test_each_field_of_a_part_changes_its_digest(part: Any) -> None:
    changed = {
        str: lambda value: value + "x",
        int: lambda value: value + 1,
        tuple: lambda value: (*value, "a9"),
        dict: lambda value: {key: share / 2 for key, share in value.items()},
        PoolKey: lambda value: PoolKey(value.model, value.pool + "x", value.role),
    }
    for field in fields(part):
        value = getattr(part, field.name)
        other = replace(part, **{field.name: changed[type(value)](value)})
        assert plan_digest(other, fleet_of()) != plan_digest(part, fleet_of()), field.name


def test_a_digest_is_the_same_for_the_same_plan_whatever_else_changes() -> None:
    busy = fleet_of(pool([replica("a2", in_flight_requests=99.0, cordoned=True)], version=9, desired=5))
    assert plan_digest(RESTART, busy) == plan_digest(RESTART, fleet_of())


@pytest.mark.parametrize("change", [{"restarts": 1}, {"requested_at": 5.0}])
def test_another_life_of_the_replica_is_another_plan(change: dict[str, Any]) -> None:
    other = fleet_of(pool([replica("a2", **change)]))
    assert plan_digest(RESTART, other) != plan_digest(RESTART, fleet_of())
    gone = fleet_of(pool([replica("a0")]))
    assert plan_digest(RESTART, gone) != plan_digest(RESTART, fleet_of())


def test_a_digest_survives_the_way_through_a_file() -> None:
    for part in PARTS:
        facts = facts_of(part, fleet_of())
        again = json.loads(json.dumps(facts))
        assert digest_of(target_of(part).act, again) == plan_digest(part, fleet_of())


def test_every_fact_is_said_in_words() -> None:
    assert said(facts_of(SHRINK, fleet_of())) == "pool m/a/unified, current 3, desired 2, version 7, retire_first a1"
    assert said(facts_of(SHIFT, fleet_of())) == (
        "model m, before (m/a/unified 1, m/b/unified 0), after (m/a/unified 0.4, m/b/unified 0.6)"
    )
    words = said(facts_of(RESTART, fleet_of()))
    assert words == ("pool m/a/unified, replica a2, cause F1, life a2#0, requested_at 1970-01-12 11:00:00Z")


def test_weights_that_were_not_read_are_unknown() -> None:
    fleet = fleet_of(pool(weight=float("nan")))
    assert plain(facts_of(SHIFT, fleet)["before"]) == {"m/a/unified": None}
    assert "before (m/a/unified unknown)" in said(facts_of(SHIFT, fleet))


def test_more_and_fewer_replicas_are_held_apart() -> None:
    assert target_of(GROW).held_class is HeldClass.SCALE_UP
    assert target_of(SHRINK).held_class is HeldClass.SCALE_DOWN
    assert target_of(replace(GROW, desired=3)).held_class is HeldClass.SCALE_DOWN
