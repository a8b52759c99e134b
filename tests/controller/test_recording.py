"""Is everything on record before it is done, and is nothing done that cannot be recorded?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pytest

from controller.adapters.sql_audit import kind_of
from controller.errors import AuditError
from controller.ports import ActsRecord, TickRecord
from policies.decisions import CordonReplica, Decision
from policies.fleet import FleetState
from policies.memory import PolicyMemory
from tests.builders import AT, KEY, MODEL, Bench, ListAudit, a_bench, demand, pool


@dataclass
class FullDisk(ListAudit):
    """An audit log whose disk fills up and gets room bench."""

    full: bool = False
    full_after_append: bool = False

    def append(self, record: TickRecord) -> str:
        self._room()
        entry_id = super().append(record)
        self.full = self.full_after_append
        return entry_id

    def settle(self, outcome: ActsRecord) -> None:
        self._room()
        super().settle(outcome)

    def _room(self) -> None:
        if self.full:
            raise AuditError("no space left on the disk")


def growing(audit: ListAudit | None = None, killed: Callable[[], bool] = lambda: False) -> Bench:
    """A loop that wants two more replicas than the three it has."""
    bench = a_bench(pool(3), audit=audit, killed=killed)
    bench.metrics.answer = replace(bench.metrics.answer, demand={MODEL: demand(19.0)})  # type: ignore[type-var]
    return bench


def test_what_is_to_be_done_is_on_record_before_it_is_done() -> None:
    bench = growing()
    before: list[list[TickRecord]] = []
    scale = bench.cluster.scale

    def watched(*arguments: object) -> None:
        before.append(list(bench.audit.records))
        scale(*arguments)  # type: ignore[arg-type]

    bench.cluster.scale = watched  # type: ignore[method-assign]
    bench.tick()
    ((announced,),) = before
    assert announced.decision is not None
    assert (len(announced.decision.scaling), announced.results) == (1, ())
    assert [r.outcome for r in bench.audit.records[0].results] == ["done"]


def test_what_cannot_be_recorded_is_not_done_and_is_told_later(caplog: pytest.LogCaptureFixture) -> None:
    audit = FullDisk(full=True)
    bench = growing(audit)
    for _ in range(3):
        record = bench.tick()
        assert [(r.act, r.outcome) for r in record.results] == [("scale", "held")]
        assert "no space left" in record.results[0].detail
        assert "no space left" in record.unrecorded
        bench.clock.at += 15.0
    assert bench.cluster.writes == []
    assert caplog.record_tuples[0][1] == logging.ERROR
    assert "no space left" in caplog.text
    audit.full = False
    record = bench.tick()
    assert (bench.cluster.states[KEY].desired, record.unrecorded) == (5, "")
    assert f"from {AT:.0f} to {AT + 30.0:.0f}" in audit.records[0].gap
    assert "no space left" in audit.records[0].gap
    bench.clock.at += 15.0
    assert bench.tick().gap == ""


def test_results_that_could_not_be_recorded_are_owed_and_nothing_is_done_before_they_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    audit = FullDisk(full_after_append=True)
    bench = growing(audit)
    record = bench.tick()
    assert ([r.outcome for r in record.results], "no space left" in record.unrecorded) == (["done"], True)
    assert audit.records[0].results == ()
    bench.metrics.answer = replace(bench.metrics.answer, demand={MODEL: demand(39.0)})  # type: ignore[type-var]
    bench.clock.at += 15.0
    assert [r.outcome for r in bench.tick().results] == ["held"]
    audit.full = audit.full_after_append = False
    bench.clock.at += 15.0
    bench.tick()
    assert [[r.outcome for r in kept.results] for kept in audit.records] == [["done"], ["done"]]
    assert "no space left" in caplog.text


def test_an_error_that_nobody_foresaw_is_recorded_with_what_was_done_and_then_raised() -> None:
    bench = growing()
    scale = bench.cluster.scale

    def half_done(*arguments: object) -> None:
        scale(*arguments)  # type: ignore[arg-type]
        raise KeyError("after the write")

    bench.cluster.scale = half_done  # type: ignore[method-assign]
    with pytest.raises(KeyError):
        bench.tick()
    (record,) = bench.audit.records
    assert [(r.act, r.outcome, "after the write" in r.detail) for r in record.results] == [("scale", "failed", True)]
    assert "KeyError" in record.error
    assert bench.loop.memory.generation == 1


def test_after_an_error_that_nobody_foresaw_the_rest_of_the_decision_is_held() -> None:
    decision = growing().tick().decision
    assert decision is not None

    class Cordons:
        name = "cordons"

        def decide(self, fleet: FleetState, forecasts: Mapping[str, object], memory: PolicyMemory) -> Decision:
            both = (CordonReplica("a0", KEY, "F1"), CordonReplica("a1", KEY, "F1"))
            return replace(decision, at=fleet.at, expires_at=fleet.at + 30.0, remediations=both, scaling=())

    bench = a_bench(pool(3), policy=Cordons())

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    bench.cluster.cordon = broken  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        bench.tick()
    assert [r.outcome for r in bench.audit.records[0].results] == ["failed", "held"]


def test_a_kill_switch_that_cannot_be_read_lets_nothing_through() -> None:
    def unreadable() -> bool:
        raise OSError("stale file handle")

    bench = growing(killed=unreadable)
    record = bench.tick()
    assert [(r.outcome, "stale file handle" in r.detail) for r in record.results] == [("held", True)]
    assert (bench.cluster.writes, bench.audit.records) == ([], [record])


def test_a_tick_that_breaks_before_it_decides_is_on_record_too() -> None:
    class Broken:
        name = "broken"

        def decide(self, fleet: FleetState, forecasts: Mapping[str, object], memory: PolicyMemory) -> Decision:
            raise ZeroDivisionError("a bug")

    bench = a_bench(policy=Broken())
    with pytest.raises(ZeroDivisionError):
        bench.tick()
    (record,) = bench.audit.records
    assert (record.decision, record.error, kind_of(record)) == (None, "ZeroDivisionError: a bug", "broken")
    assert record.fleet is not None


def test_a_world_that_cannot_be_seen_while_the_log_is_full_is_no_crash(caplog: pytest.LogCaptureFixture) -> None:
    bench = growing(FullDisk(full=True))
    bench.cluster.blind = True
    record = bench.tick()
    assert "API server" in record.error
    assert "no space left" in record.unrecorded
    assert "no space left" in caplog.text
