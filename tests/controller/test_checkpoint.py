"""Does a controller that was killed go on where it stopped, with what the platform says became of its last acts?"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from controller.adapters.sql_audit import SqlAudit
from controller.checkpoint import Resumption, resume
from controller.errors import ObservationError
from controller.loop import memory_after
from controller.modes import Mode, ModeSettings
from controller.ports import ActResult, ActsRecord, TickRecord
from policies.decisions import (
    CordonReplica,
    Decision,
    Page,
    Remediation,
    RestartReplica,
    ScalingPlan,
    TrafficPlan,
    UncordonReplica,
)
from policies.fleet import FleetState, Phase, PoolKey, PoolState, ReplicaState
from policies.healing_memory import ActionMemory, CordonMemory
from policies.memory import PolicyMemory
from tests.builders_records import blind_tick, decision_of

KEY = PoolKey("m", "a")
OTHER = PoolKey("m", "b")
NAME = KEY.replica("r0")
GRACE_S = 5.0
ACTING = ModeSettings.all_auto()


def pool(desired: int = 3, version: int = 7, **changes: object) -> PoolState:
    first = replace(ReplicaState("r0", Phase.READY, 10.0, 20.0), **changes)  # type: ignore[arg-type]
    others = tuple(ReplicaState(f"r{i}", Phase.READY, 10.0, 20.0) for i in (1, 2))
    return PoolState(KEY, (first, *others), desired=desired, gpus_per_replica=1, version=version)


MEMORY = PolicyMemory(
    generation=4,
    actions=(ActionMemory("r0", "restart", "m", str(KEY), 100.0, 400.0),),
    cordons={NAME: CordonMemory(100.0, "F1", "r0#0")},
    pages={"m breaker": 100.0},
    decided_at=100.0,
)


def intent(*remedies: Remediation, plan: ScalingPlan | None = None, traffic: TrafficPlan | None = None) -> TickRecord:
    decision = replace(
        decision_of(100.0, 4),
        remediations=remedies,
        scaling=(plan,) if plan else (),
        traffic=(traffic,) if traffic else (),
        memory=MEMORY,
    )
    return TickRecord(100.0, FleetState(100.0, (pool(),)), {}, decision, memory=PolicyMemory(3))


@dataclass
class Platform:
    """A platform that shows one pool, and another after somebody has waited."""

    first: PoolState = field(default_factory=pool)
    later: PoolState | None = None
    shares: Mapping[PoolKey, float] = field(default_factory=dict)
    waited_s: list[float] = field(default_factory=list)

    def pools(self) -> tuple[PoolState, ...]:
        return (self.later if self.waited_s and self.later else self.first,)

    def weights(self, model: str) -> Mapping[PoolKey, float]:
        if not self.shares:
            raise ObservationError("no route")
        return self.shares


@pytest.fixture
def log(tmp_path: Path) -> SqlAudit:
    return SqlAudit.open(f"sqlite:///{tmp_path / 'audit.db'}")


def resumed(log: SqlAudit, platform: Platform | None = None, modes: ModeSettings = ACTING) -> Resumption:
    there = platform or Platform()
    return resume(log, there, there, modes, lambda: 120.0, there.waited_s.append, GRACE_S)  # type: ignore[arg-type]


def outcomes(found: Resumption) -> dict[str, str]:
    return {result.act: result.outcome for result in found.found_out}


def test_without_a_record_it_begins_from_nothing(log: SqlAudit) -> None:
    log.append(blind_tick(0.0))
    found = resumed(log)
    assert (found.memory, found.entry_id, found.refused) == (PolicyMemory(), "", "")


def test_after_a_quiet_tick_memory_is_that_of_its_decision(log: SqlAudit) -> None:
    log.append(intent())
    log.append(blind_tick(115.0))
    found = resumed(log)
    assert (found.memory, found.entry_id, found.found_out) == (MEMORY, "1", ())


def test_after_an_outcome_memory_is_what_the_loop_had_made_of_it(log: SqlAudit) -> None:
    record = intent(RestartReplica("r0", KEY, "F1"))
    results = (ActResult("restart", NAME, "held", "mode observe"),)
    log.settle(ActsRecord(100.0, log.append(record), results))
    assert record.decision is not None
    found = resumed(log)
    assert found.memory == memory_after(record.decision, results)
    assert found.memory.actions == ()
    assert len(log) == 2


PLAN = ScalingPlan(KEY, 3, 5, version=7)


@pytest.mark.parametrize(
    ("shown", "outcome"),
    [
        (pool(desired=5, version=8), "done"),
        (pool(desired=3, version=7), "held"),
        (pool(desired=9, version=8), "failed"),
        (pool(desired=3, version=9), "held"),
    ],
    ids=["written", "not written", "somebody else's", "a version that moved for another reason"],
)
def test_a_scale_whose_outcome_is_not_on_record_is_told_by_the_platform(
    log: SqlAudit, shown: PoolState, outcome: str
) -> None:
    entry_id = log.append(intent(plan=PLAN))
    found = resumed(log, Platform(shown))
    assert outcomes(found) == {"scale": outcome}
    entry = log.read(entry_id)
    assert entry is not None
    settled = log.outcome_of(entry)
    assert settled is not None
    assert "died" in settled.record["error"]
    assert log.without_outcome(9) == []
    assert resumed(log, Platform(shown)).found_out == ()  # once is enough
    assert log.verify().intact


def test_a_request_that_was_still_on_its_way_is_waited_for(log: SqlAudit) -> None:
    log.append(intent(plan=PLAN))
    platform = Platform(pool(), later=pool(desired=5, version=8))
    assert outcomes(resumed(log, platform)) == {"scale": "done"}
    assert platform.waited_s == [GRACE_S]


def test_nothing_is_waited_for_where_all_is_shown(log: SqlAudit) -> None:
    log.append(intent(plan=PLAN))
    platform = Platform(pool(desired=5, version=8))
    resumed(log, platform)
    assert platform.waited_s == []


@pytest.mark.parametrize(
    ("shown", "outcome", "remembered"),
    [
        (pool(), "held", False),
        (pool(restarts=1), "done", True),
        (pool(requested_at=101.0), "done", True),
        (replace(pool(), replicas=()), "done", True),
    ],
    ids=["as before", "another life", "asked for again", "gone"],
)
def test_a_restart_that_happened_stays_in_memory_and_one_that_did_not_goes(
    log: SqlAudit, shown: PoolState, outcome: str, remembered: bool
) -> None:
    log.append(intent(RestartReplica("r0", KEY, "F1")))
    found = resumed(log, Platform(shown))
    assert outcomes(found) == {"restart": outcome}
    assert bool(found.memory.actions) is remembered


@pytest.mark.parametrize("phase", [Phase.FAILED, Phase.LOADING])
@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"restarts": 1, "requested_at": 110.0}, "held"),
        ({"requested_at": 110.0}, "done"),
        ({"incarnation": "b.", "requested_at": 110.0}, "done"),
    ],
    ids=["by the platform", "by us", "by us, under its name"],
)
def test_what_the_platform_starts_again_and_again_was_not_restarted_by_us(
    log: SqlAudit, phase: Phase, changes: dict[str, Any], outcome: str
) -> None:
    down = pool(phase=phase)
    record = intent(RestartReplica("r0", KEY, "F9"))
    log.append(replace(record, fleet=replace(record.fleet, pools=(down,))))
    again = replace(down.replicas[0], phase=Phase.LOADING, **changes)
    found = resumed(log, Platform(replace(down, replicas=(again, *down.replicas[1:]))))
    assert outcomes(found) == {"restart": outcome}
    assert bool(found.memory.actions) is (outcome == "done")


@pytest.mark.parametrize(("cordoned", "cordon", "uncordon"), [(True, "done", "held"), (False, "held", "done")])
def test_cordons_are_as_the_platform_shows_them(log: SqlAudit, cordoned: bool, cordon: str, uncordon: str) -> None:
    log.append(intent(CordonReplica("r0", KEY, "F1"), UncordonReplica("r1", KEY, "F8")))
    shown = pool(cordoned=cordoned)
    both = replace(shown, replicas=tuple(replace(r, cordoned=cordoned) for r in shown.replicas))
    found = resumed(log, Platform(both))
    assert outcomes(found) == {"cordon": cordon, "uncordon": uncordon}
    assert (NAME in found.memory.cordons) is cordoned


@pytest.mark.parametrize(
    ("shares", "outcome"),
    [({KEY: 0.333, OTHER: 0.667}, "done"), ({KEY: 1.0}, "held"), ({}, "failed")],
    ids=["as asked, in whole numbers", "others", "not readable"],
)
def test_weights_are_compared_with_what_was_asked(log: SqlAudit, shares: Mapping[PoolKey, float], outcome: str) -> None:
    log.append(intent(traffic=TrafficPlan("m", {KEY: 1 / 3, OTHER: 2 / 3})))
    assert outcomes(resumed(log, Platform(shares=shares))) == {"weights": outcome}


def test_a_page_is_not_sent_twice_and_is_named(log: SqlAudit) -> None:
    page = Page("m", "breaker", "too much is sick")
    log.append(intent(page))
    found = resumed(log)
    assert (outcomes(found), found.unsure_pages) == ({"page": "failed"}, (page,))
    assert found.memory.pages == MEMORY.pages


def test_a_page_that_no_mode_allowed_was_not_sent(log: SqlAudit) -> None:
    log.append(intent(Page("m", "breaker", "too much is sick")))
    found = resumed(log, modes=ModeSettings(healing=Mode.OBSERVE))
    assert (outcomes(found), found.unsure_pages, dict(found.memory.pages)) == ({"page": "held"}, (), {})


def test_a_platform_that_does_not_answer_leaves_the_intent_open(log: SqlAudit) -> None:
    class Down(Platform):
        def pools(self) -> tuple[PoolState, ...]:
            raise ObservationError("down")

    log.append(intent(plan=PLAN))
    with pytest.raises(ObservationError):
        resumed(log, Down())
    assert len(log.without_outcome(9)) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["decision"]["memory"].update(version=2),
        lambda record: record["decision"].pop("memory"),
        lambda record: record["decision"].update(remediations=[{"type": "Reboot"}]),
        lambda record: record.update(fleet=None),
    ],
    ids=["another version", "no memory", "an act of another program", "no fleet"],
)
def test_a_record_that_this_program_does_not_understand_is_told_and_left(
    tmp_path: Path, change: Callable[[dict[str, object]], object]
) -> None:
    file = tmp_path / "audit.db"
    log = SqlAudit.open(f"sqlite:///{file}")
    log.append(intent(plan=PLAN))
    entry = log.newest_decision()
    assert entry is not None
    record = json.loads(json.dumps(entry.record))
    change(record)

    class Odd:
        def newest_decision(self) -> object:
            return replace(entry, record=record)

    found = resume(Odd(), Platform(), Platform(), ACTING, lambda: 0.0, lambda _: None, 0.0)  # type: ignore[arg-type]
    assert found.memory == PolicyMemory()
    assert "cannot be resumed" in found.refused


def test_what_is_read_back_is_the_decision_that_was_written(log: SqlAudit) -> None:
    record = intent(CordonReplica("r0", KEY, "F1"), Page("m", "breaker", "x"), plan=PLAN)
    log.append(record)
    entry = log.newest_decision()
    assert entry is not None
    from policies.wire_reader import read_back

    assert read_back(Decision, entry.record["decision"]) == record.decision
