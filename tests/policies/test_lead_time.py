"""Is the lead time what was really measured, and nothing else?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policies.fleet import Phase, ReplicaState
from policies.lead_time import LeadTimeSettings, lead_time, observe_starts
from policies.memory import PoolMemory
from tests.builders import AT, pool, replica

SETTINGS = LeadTimeSettings()


def started(name: str, seconds: float, **changes: Any) -> ReplicaState:
    return replace(replica(name, requested_at=AT - seconds, since_at=AT), **changes)


def observed(memory: PoolMemory, *replicas: ReplicaState) -> PoolMemory:
    return observe_starts(pool(replicas), memory, SETTINGS)


def test_the_default_holds_until_enough_starts_were_seen() -> None:
    few = PoolMemory(lead_times_s=(50.0, 60.0))
    assert lead_time(few, SETTINGS).p90_s == 300.0
    assert not lead_time(few, SETTINGS).measured
    assert lead_time(few, SETTINGS).starts == 2
    enough = lead_time(PoolMemory(lead_times_s=(50.0, 60.0, 70.0)), SETTINGS)
    assert (enough.p50_s, enough.p90_s, enough.measured) == (60.0, 70.0, True)


def test_quantiles_are_the_nearest_rank_whatever_the_order() -> None:
    tens = tuple(10.0 * rank for rank in (3, 9, 1, 5, 7, 2, 10, 4, 6, 8))
    measured = lead_time(PoolMemory(lead_times_s=tens), SETTINGS)
    assert (measured.p50_s, measured.p90_s) == (50.0, 90.0)


def test_a_start_is_counted_once() -> None:
    memory = observed(PoolMemory(), started("r1", 80.0))
    assert memory.lead_times_s == (80.0,)
    assert observed(memory, started("r1", 80.0)).lead_times_s == (80.0,)


def test_a_restart_in_place_counts_again() -> None:
    memory = observed(PoolMemory(), started("r1", 80.0))
    assert observed(memory, started("r1", 40.0, restarts=1)).lead_times_s == (80.0, 40.0)


def test_a_replica_that_starts_is_not_counted_before_it_is_ready() -> None:
    loading = observed(PoolMemory(), started("r1", 80.0, phase=Phase.LOADING))
    assert loading.lead_times_s == ()
    assert observed(loading, started("r1", 90.0)).lead_times_s == (90.0,)


def test_losing_and_regaining_ready_within_a_life_is_no_start() -> None:
    memory = observed(PoolMemory(), started("r1", 80.0))
    memory = observed(memory, started("r1", 1000.0, phase=Phase.LOADING))
    assert observed(memory, started("r1", 1200.0)).lead_times_s == (80.0,)


def test_a_replica_that_came_back_before_we_looked_is_no_start() -> None:
    assert observed(PoolMemory(), started("r1", 86_400.0)).lead_times_s == ()


@pytest.mark.parametrize("seconds", [0.0, -5.0])
def test_an_instant_start_is_a_platform_that_does_not_tell(seconds: float) -> None:
    assert observed(PoolMemory(), started("r1", seconds)).lead_times_s == ()


def placed(name: str, wait_s: float, start_s: float, **changes: Any) -> ReplicaState:
    return started(name, wait_s + start_s, placed_at=AT - start_s, **changes)


def test_the_wait_for_a_place_and_the_start_are_measured_apart_and_planned_for_together() -> None:
    memory = observed(PoolMemory(), *(placed(f"r{n}", 180.0, 80.0 + n) for n in range(3)))
    assert memory.lead_times_s == (80.0, 81.0, 82.0)
    assert memory.placement_waits_s == (180.0,) * 3
    lead = lead_time(memory, SETTINGS)
    assert (lead.p50_s, lead.p90_s, lead.wait_p90_s, lead.measured) == (261.0, 262.0, 180.0, True)


@pytest.mark.parametrize("wait_s", [900.1, 3600.0, 100_000.0])
def test_a_wait_for_gpus_that_nobody_has_is_not_planned_for(wait_s: float) -> None:
    memory = observed(PoolMemory(), *(placed(f"r{n}", wait_s, 80.0) for n in range(20)))
    assert memory.placement_waits_s == ()
    lead = lead_time(memory, SETTINGS)
    assert (lead.p90_s, lead.wait_p90_s, lead.starts) == (80.0, 0.0, 20)


def test_a_shortage_does_not_hide_that_nodes_come_late_as_a_rule() -> None:
    memory = observed(PoolMemory(), *(placed(f"r{n}", 180.0, 80.0) for n in range(5)))
    memory = observed(memory, *(placed(f"s{n}", 3600.0, 80.0) for n in range(15)))
    assert lead_time(memory, SETTINGS).p90_s == 260.0


def test_where_placement_is_not_told_the_whole_time_counts() -> None:
    memory = observed(PoolMemory(), *(started(f"r{n}", 260.0) for n in range(3)))
    assert memory.placement_waits_s == ()
    assert lead_time(memory, SETTINGS).p90_s == 260.0


def test_a_restart_in_place_waits_for_no_place() -> None:
    memory = observed(PoolMemory(), started("r1", 40.0, placed_at=AT - 5_000.0, restarts=1))
    assert memory.lead_times_s == (40.0,)
    assert memory.placement_waits_s == ()


def test_only_the_latest_waits_are_kept() -> None:
    memory = PoolMemory()
    for number in range(30):
        memory = observed(memory, placed(f"r{number}", float(number), 10.0))
    assert memory.placement_waits_s == tuple(float(number) for number in range(10, 30))


def test_only_the_latest_starts_are_kept() -> None:
    memory = PoolMemory()
    for number in range(30):
        memory = observed(memory, started(f"r{number}", 10.0 + number))
    assert memory.lead_times_s == tuple(10.0 + number for number in range(10, 30))
    assert memory.seen_ready == ("r29#0",)
