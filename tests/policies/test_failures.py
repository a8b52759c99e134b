"""Is each failure of a replica noted once, with what the platform says of it, and forgotten in time?"""

from __future__ import annotations

from dataclasses import replace

from policies.decisions import Diagnosis
from policies.failures import KEPT_S, MOST_KEPT, since, with_beliefs, with_exits
from policies.memory import FailureMemory, PoolMemory, ReplicaMemory
from tests.builders import AT, KEY, OTHER, pool, replica

SERVED = {KEY.replica("a0"): ReplicaMemory("a0#0", 1000.0, 1e5, 2e4, 4.0, AT - 15.0, AT - 15.0)}
EXIT = {"restarts": 1, "exit_reason": "Error", "revision": "2", "node": "n1", "requested_at": AT}


def exits(known: PoolMemory, restarts: int = 1, at: float = AT, *, first: bool = False) -> PoolMemory:
    state = pool([replica("a0", **{**EXIT, "restarts": restarts, "requested_at": at}), replica("a1")])
    return with_exits(state, known, SERVED, at, first_look=first)


def test_an_exit_is_noted_with_what_is_known_of_the_life_that_ended() -> None:
    assert exits(PoolMemory()).failures == (FailureMemory(AT, "a0#0", "2", "n1", "exit", "Error", serving=True),)


def test_an_exit_is_noted_once() -> None:
    once = exits(PoolMemory())
    assert exits(once, at=AT + 15.0).failures == once.failures
    assert len(exits(once, restarts=2, at=AT + 15.0).failures) == 2


def test_what_exited_before_anybody_looked_is_not_counted_but_what_comes_after_is() -> None:
    first = exits(PoolMemory(), restarts=5, first=True)
    assert first.failures == ()
    assert len(exits(first, restarts=6, at=AT + 15.0).failures) == 1


def test_who_never_served_did_not_exit_while_serving() -> None:
    state = pool([replica("b", **EXIT)])
    assert [f.serving for f in with_exits(state, PoolMemory(), SERVED, AT, first_look=False).failures] == [False]


def test_failures_are_forgotten_in_time_and_bounded() -> None:
    once = exits(PoolMemory())
    assert exits(once, at=AT + KEPT_S).failures == once.failures
    assert exits(once, at=AT + KEPT_S + 1.0).failures == ()
    many = replace(once, failures=once.failures * 200)
    assert len(exits(many, restarts=2, at=AT + 1.0).failures) == MOST_KEPT


def test_a_pool_in_which_nothing_ever_happened_is_remembered_as_it_was() -> None:
    known = PoolMemory()
    assert with_exits(pool(3), known, {}, AT, first_look=False) is known


HANG = Diagnosis("F1", "a0", KEY, AT - 60.0, ("gateway", "progress"), "it hangs", name="hang")


def test_what_is_believed_of_a_replica_counts_once_per_life() -> None:
    once = with_beliefs(pool(2), PoolMemory(), [HANG], AT)
    assert [(f.life, f.kind, f.serving) for f in once.failures] == [("a0#0", "hang", True)]
    assert with_beliefs(pool(2), once, [HANG], AT + 15.0) is once
    anew = pool([replica("a0", restarts=1)])
    assert len(with_beliefs(anew, once, [HANG], AT + 15.0).failures) == 2


def test_beliefs_that_say_nothing_of_a_revision_are_not_noted() -> None:
    elsewhere = [
        replace(HANG, name="unknown"), replace(HANG, name="overload", subject=""), replace(HANG, subject="gone"),
        replace(HANG, pool=OTHER), replace(HANG, name="exporter-frozen"),
    ]  # fmt: skip
    known = PoolMemory()
    assert with_beliefs(pool(2), known, elsewhere, AT) is known


def test_failures_are_asked_for_by_time_and_kind() -> None:
    both = with_beliefs(pool(2), exits(PoolMemory(), at=AT - 100.0), [HANG], AT)
    assert [f.kind for f in since(both, AT - 200.0)] == ["exit", "hang"]
    assert [f.kind for f in since(both, AT - 50.0)] == ["hang"]
    assert [f.kind for f in since(both, AT - 200.0, ("exit",))] == ["exit"]
