"""Is an idle engine that hangs found by asking, not found without, and is the world the same for all others?"""

from __future__ import annotations

import json

import numpy as np
import pytest

from controller.modes import ModeSettings
from controller.replay import decided_again
from policies.anomaly import AnomalySettings
from policies.canary_evidence import CanarySettings
from policies.decisions import RestartReplica
from policies.settings import PolicySettings
from policies.wire import canonical_json
from simulations.runner import SimulationResult, simulate
from tests.builders_simulation import ListAudit, RateTrace, quick_settings

IDLE_FROM_S, HANGS_AT_S = 120.0, 400.0
TRACE = RateTrace([2.0, 2.0, *[0.0] * 23, 2.0])
"""Two minutes of load, nothing for long, and somebody who comes back."""


def played(*, canaries: bool, faults: tuple[str, ...] = (), **changes: object) -> tuple[SimulationResult, ListAudit]:
    audit = ListAudit()
    anomaly = AnomalySettings(canary=CanarySettings(enabled=canaries))
    settings = quick_settings(
        least=4, initial_replicas=4, faults=faults, policy=PolicySettings(anomaly=anomaly), **changes
    )
    return simulate(TRACE, "foresail", settings, audit=audit, keep_rows=True), audit


def sent(audit: ListAudit) -> int:
    return sum(result.act == "canary" and result.outcome == "done" for r in audit.records for result in r.results)


def believed(audit: ListAudit) -> dict[str, float]:
    """When each cause was first believed of a replica, seconds after the start."""
    found: dict[str, float] = {}
    for record in audit.records:
        for diagnosis in record.decision.diagnoses if record.decision else ():
            found.setdefault(diagnosis.name, record.at - audit.records[0].at)
    return found


def restarted(audit: ListAudit) -> list[str]:
    decided = [r.decision for r in audit.records if r.decision]
    return [remedy.replica for d in decided for remedy in d.remediations if isinstance(remedy, RestartReplica)]


@pytest.mark.parametrize("running", ["stuck", "zero"])
def test_an_idle_engine_that_hangs_is_found_by_asking_and_made_good(running: str) -> None:
    hang = (f"hang@{HANGS_AT_S}:replica=1,running={running}",)
    asked, audit = played(canaries=True, faults=hang)
    assert believed(audit)["hang"] - HANGS_AT_S <= 240.0  # silent for two minutes, its turn, and two deadlines
    assert restarted(audit) == list(asked.fleet.struck)
    assert asked.scorecard.violations == ()
    assert asked.scorecard.dropped_in_flight == 0

    blind, audit = played(canaries=False, faults=hang)
    assert set(believed(audit)) <= {"unknown"} or believed(audit)["hang"] > TRACE.step_s * 25
    assert sent(audit) == 0
    assert blind.fleet.struck == asked.fleet.struck


def test_where_nothing_is_wrong_asking_changes_nothing_that_anybody_gets() -> None:
    asked, audit = played(canaries=True)
    plain, _ = played(canaries=False)
    assert sent(audit) > 10
    assert believed(audit) == {}
    assert restarted(audit) == []
    for column in ("first_token_at", "finished_at", "status", "pool_index"):
        with_them, without = getattr(asked.fleet.outcomes, column), getattr(plain.fleet.outcomes, column)
        np.testing.assert_array_equal(with_them, without)


def test_the_same_run_asks_the_same_and_its_decisions_can_be_made_again() -> None:
    hang = (f"hang@{HANGS_AT_S}:replica=2",)
    first, audit = played(canaries=True, faults=hang)
    _, again = played(canaries=True, faults=hang)
    assert [canonical_json(r.decision) for r in audit.records] == [canonical_json(r.decision) for r in again.records]
    asking = [r for r in audit.records if r.decision and r.decision.canaries]
    suspected = [r for r in audit.records if r.decision and r.decision.anomalies]
    assert asking
    assert suspected
    for record in (*asking[:5], *suspected[:5]):
        told = json.loads(canonical_json(record))
        assert json.loads(canonical_json(decided_again(told, first.case.policy))) == told["decision"]


def test_who_only_watches_sends_nothing_and_records_what_would_be_asked() -> None:
    _, audit = played(canaries=True, modes=ModeSettings())
    held = {r.outcome for record in audit.records for r in record.results if r.act == "canary"}
    assert held == {"held"}
    assert not any(record.fleet.canaries for record in audit.records if record.fleet)
    assert not any(record.memory.canaries.asked_at for record in audit.records if record.memory)
