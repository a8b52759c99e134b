"""Do columns and single replicas say the same, whichever of them a pool was made of?"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest

from policies.fleet import Phase, PoolState, ReplicaState
from policies.roster import Roster, joined, states, told_of
from policies.wire import canonical_json
from tests.builders import AT, metrics, pool, replica

EVERY_KIND = (
    *(replica(phase.value, phase, in_flight_requests=math.nan) for phase in Phase),
    replica("away", cordoned=True, in_flight_requests=math.nan),
    replica("placed", Phase.PENDING, node="n", in_flight_requests=math.nan),
    replica("silent", metrics=None),
    replica("old", metrics=metrics(AT - 100.0, queued_requests=math.nan), failed_answers_total=2.0),
)


def bare(replicas: Sequence[ReplicaState]) -> PoolState:
    """The pool as the platform tells it."""
    nothing = {"metrics": None, "in_flight_requests": math.nan, "failed_answers_total": math.nan}
    return pool([replace(r, **nothing) for r in replicas], weight=0.0)


def of_columns() -> PoolState:
    return bare(EVERY_KIND).with_told(told_of(EVERY_KIND), 0.25)


def of_objects() -> PoolState:
    return pool(EVERY_KIND, weight=0.25)


def test_a_pool_of_columns_is_the_pool_of_its_replicas() -> None:
    assert of_columns() == of_objects()
    assert of_columns().replicas == EVERY_KIND
    assert of_columns().serving == of_objects().serving
    assert repr(of_columns()) == repr(of_objects())
    assert canonical_json(of_columns()) == canonical_json(of_objects())


def test_it_is_copied_and_changed_like_any_value() -> None:
    assert copy.deepcopy(of_columns()) == of_objects()
    assert replace(of_columns(), desired=3) == replace(of_objects(), desired=3)
    with pytest.raises(FrozenInstanceError):
        of_columns().replicas = ()  # type: ignore[misc]
    with pytest.raises(AttributeError, match="no attribute 'replica'"):
        of_columns().replica  # type: ignore[attr-defined]  # noqa: B018


def test_replicas_read_back_from_columns_are_the_same() -> None:
    assert states(Roster(EVERY_KIND), told_of(EVERY_KIND)) == EVERY_KIND
    assert states(Roster(()), told_of(())) == ()


def test_a_roster_counts_as_one_would_by_hand() -> None:
    roster = Roster(EVERY_KIND)
    assert len(roster) == len(EVERY_KIND)
    assert roster.ids == tuple(r.id for r in EVERY_KIND)
    assert roster.names("m/a/unified")[0] == "m/a/unified/pending"
    assert roster.names("other")[0] == "other/pending"
    assert roster.lives == tuple(r.life for r in EVERY_KIND)
    assert roster.ready_lives == tuple(r.life for r in EVERY_KIND if r.phase is Phase.READY)
    assert roster.ready.tolist() == [r.phase is Phase.READY for r in EVERY_KIND]
    assert roster.ready_count == sum(r.phase is Phase.READY for r in EVERY_KIND)
    assert roster.serving.tolist() == [r.serving for r in EVERY_KIND]
    assert roster.serving_count == sum(r.serving for r in EVERY_KIND)
    assert roster.staying.tolist() == [r.phase in (Phase.LOADING, Phase.READY) for r in EVERY_KIND]
    assert (roster.pending_count, roster.draining_count) == (2, 1)
    assert roster.starting == tuple(r for r in EVERY_KIND if r.starting)
    assert roster.unplaced == tuple(r for r in EVERY_KIND if r.unplaced)
    assert {r.id for r in roster.unsettled} == {"pending", "loading", "failed", "placed"}
    assert {r.id for r in roster.troubled} == {"failed", "away"}
    assert [EVERY_KIND[place].id for place in roster.cordoned] == ["away"]
    assert roster.requested_at.tolist() == [r.requested_at for r in EVERY_KIND]
    assert roster.since_at.tolist() == [r.since_at for r in EVERY_KIND]


def test_what_was_said_of_several_pools_can_be_joined_and_cut() -> None:
    both = joined([told_of(EVERY_KIND[:3]), told_of(EVERY_KIND[3:])])
    np.testing.assert_array_equal(both.metrics, told_of(EVERY_KIND).metrics)
    assert states(Roster(EVERY_KIND[3:]), both.between(3, len(EVERY_KIND))) == EVERY_KIND[3:]
    assert len(joined([]).scraped) == 0


def test_only_scrapes_of_late_are_fresh() -> None:
    fresh = told_of(EVERY_KIND).fresh(AT, 60.0)
    assert [r.id for r, is_fresh in zip(EVERY_KIND, fresh, strict=True) if is_fresh] == ["ready", "away"]
