"""Which revision is one to go back to: one that served healthy while it was watched, and can be restored?"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest

from policies.fleet import Phase, PoolState
from policies.memory import PoolMemory, RevisionMemory
from policies.revisions import (
    LONGEST_LOOK_S,
    MOST_REVISIONS,
    RevisionSettings,
    good_revision,
    left_by_roll_back,
    watch_revisions,
)
from tests.builders import AT, pool, replica

SETTINGS = RevisionSettings()


def of(*revisions: str, **changes: Any) -> PoolState:
    """A pool with one replica of each revision; the last is its own, and all can be restored."""
    replicas = [replica(f"a{place}", revision=name) for place, name in enumerate(revisions)]
    return replace(pool(replicas), **{"revision": revisions[-1], "revisions": tuple(revisions), **changes})


def watched(
    state: PoolState, lasting_s: float, every_s: float = 15.0, known: PoolMemory | None = None,
    sick: Collection[str] = (), at: float = AT,
) -> PoolMemory:  # fmt: skip
    found = watch_revisions(state, known or PoolMemory(), sick, at, SETTINGS)
    for look in range(1, round(lasting_s / every_s) + 1):
        found = watch_revisions(state, found, sick, at + look * every_s, SETTINGS)
    return found


def test_time_served_while_watched_adds_up() -> None:
    assert watched(of("1"), 600.0).revisions == {"1": RevisionMemory(AT, 600.0, AT + 600.0)}


def test_time_with_a_sick_replica_of_it_does_not_count() -> None:
    found = watched(of("1", "2"), 600.0, sick=["a1"])
    assert (found.revisions["1"].healthy_s, found.revisions["2"].healthy_s) == (600.0, 0.0)


@pytest.mark.parametrize("changes", [{"phase": Phase.LOADING, "metrics": None}, {"cordoned": True}])
def test_what_does_not_serve_is_not_healthy(changes: dict[str, Any]) -> None:
    state = pool([replica("a0", **{"in_flight_requests": 0.0, **changes})])
    assert watched(state, 600.0).revisions["1"].healthy_s == 0.0


def test_what_was_not_watched_does_not_count() -> None:
    assert watched(of("1"), 600.0, every_s=LONGEST_LOOK_S).revisions["1"].healthy_s == 600.0
    assert watched(of("1"), 2 * (LONGEST_LOOK_S + 1.0), every_s=LONGEST_LOOK_S + 1.0).revisions["1"].healthy_s == 0.0


def test_a_clock_that_goes_back_adds_nothing() -> None:
    known = watched(of("1"), 600.0)
    assert watch_revisions(of("1"), known, (), AT, SETTINGS).revisions["1"].healthy_s == 600.0


def test_so_many_revisions_are_kept_the_latest_seen() -> None:
    known = PoolMemory()
    for place in range(MOST_REVISIONS + 3):
        known = watch_revisions(of(str(place)), known, (), AT + place, SETTINGS)
    assert sorted(known.revisions, key=int) == [str(place) for place in range(3, MOST_REVISIONS + 3)]


def test_nothing_new_is_the_same_memory() -> None:
    known = watched(of("1"), 60.0)
    assert watch_revisions(of("1"), known, (), AT + 60.0, SETTINGS) is known


GOOD = RevisionMemory(AT - 9000.0, SETTINGS.good_after_s, AT - 100.0)


@pytest.mark.parametrize(
    ("revisions", "restorable", "found"),
    [
        ({"1": GOOD}, ("1", "2"), "1"),
        ({"1": GOOD}, ("2",), ""),
        ({"1": GOOD}, (), ""),
        ({"1": replace(GOOD, healthy_s=SETTINGS.good_after_s - 1.0)}, ("1", "2"), ""),
        ({"1": replace(GOOD, rolled_back_at=AT - 50.0)}, ("1", "2"), ""),
        ({"2": GOOD}, ("1", "2"), ""),
        ({"0": replace(GOOD, looked_at=AT - 500.0), "1": GOOD}, ("0", "1", "2"), "1"),
        ({"0": GOOD, "1": replace(GOOD, looked_at=AT - 500.0)}, ("0", "1", "2"), "0"),
        ({}, ("1", "2"), ""),
    ],
)
def test_the_last_seen_of_those_that_were_good_and_can_be_restored_is_gone_back_to(
    revisions: dict[str, RevisionMemory], restorable: tuple[str, ...], found: str
) -> None:
    state = of("2", revisions=restorable)
    assert good_revision(state, PoolMemory(revisions=revisions), SETTINGS) == found


def test_a_revision_that_was_rolled_back_is_never_gone_back_to() -> None:
    known = left_by_roll_back(watched(of("1"), 900.0), "1", AT + 900.0)
    assert known.revisions["1"].rolled_back_at == AT + 900.0
    later = watched(of("1"), 900.0, known=known, at=AT + 900.0)
    assert good_revision(of("2", revisions=("1", "2")), later, SETTINGS) == ""


def test_one_that_was_left_before_anybody_watched_it_is_noted_too() -> None:
    assert left_by_roll_back(PoolMemory(), "7", AT).revisions["7"].rolled_back_at == AT
