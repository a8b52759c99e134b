"""Is there room elsewhere for what a pool carries?"""

from __future__ import annotations

import pytest

from policies.causes import BAD_REVISION, OVERLOAD, Cause
from policies.decisions import Diagnosis
from policies.examination import room_elsewhere
from policies.fleet import FleetState, Phase, PoolKey, PoolState, ReplicaState, Role

FIRST, SECOND, PREFILL = PoolKey("m", "a"), PoolKey("m", "b"), PoolKey("m", "c", Role.PREFILL)
OTHER = PoolKey("n", "a")


def pool(key: PoolKey, phase: Phase = Phase.READY) -> PoolState:
    return PoolState(key, (ReplicaState(f"{key}-0", phase, 0.0, 0.0),), 1, 1)


def about(key: PoolKey, cause: Cause) -> Diagnosis:
    return Diagnosis(cause.code, "", key, 0.0, ("x", "y"), "it is", "pool", cause.name)


def room(*pools: PoolState, wrong: tuple[Diagnosis, ...] = ()) -> dict[PoolKey, bool]:
    return dict(room_elsewhere(FleetState(1.0, pools), wrong))


def test_another_pool_of_the_stage_that_serves() -> None:
    assert room(pool(FIRST), pool(SECOND)) == {FIRST: True, SECOND: True}


def test_neither_another_model_nor_another_stage() -> None:
    assert room(pool(FIRST), pool(OTHER), pool(PREFILL)) == {FIRST: False, OTHER: False, PREFILL: False}


def test_not_one_in_which_nothing_serves_yet_this_one_may_go_there_itself() -> None:
    assert room(pool(FIRST), pool(SECOND, Phase.LOADING)) == {FIRST: False, SECOND: True}


@pytest.mark.parametrize(("cause", "takes"), [(BAD_REVISION, False), (OVERLOAD, True)])
def test_not_one_with_which_something_grave_is_wrong(cause: Cause, takes: bool) -> None:
    assert room(pool(FIRST), pool(SECOND), wrong=(about(SECOND, cause),)) == {FIRST: takes, SECOND: True}
