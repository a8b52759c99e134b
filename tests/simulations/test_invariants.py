"""Is a broken rule noticed, and only a broken one?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.ports import ActResult, TickRecord
from policies.decide import PolicySettings
from policies.decisions import Decision, RestartReplica, ScalingPlan, TrafficPlan
from policies.fleet import Demand, FleetState, Phase, PoolKey, PoolState, ReplicaMetrics, ReplicaState
from policies.guardrails import GuardrailSettings
from policies.healing_memory import ActionMemory
from policies.memory import PolicyMemory
from policies.placement import PoolSettings
from policies.profile_catalogue import profile_named
from simulations.invariants import MOST_KEPT, InvariantChecks

FIRST, SECOND = PoolKey("m", "p"), PoolKey("m", "q")
BOUNDS = PoolSettings(profile=profile_named("llama-3.1-70b-a100-tp4"), min_replicas=2, max_replicas=6)
SETTINGS = PolicySettings(
    pools={str(FIRST): BOUNDS, str(SECOND): BOUNDS},
    guardrails=GuardrailSettings(gpu_budget=40, usd_per_hour_budget=100.0),
)


def replica(name: str, phase: Phase = Phase.READY) -> ReplicaState:
    return ReplicaState(name, phase, 0.0, 0.0, metrics=ReplicaMetrics(95.0, 1, 0, 0.1, 1, 1, 1, 1))


def pool(key: PoolKey, weight: float, *replicas: ReplicaState) -> PoolState:
    return PoolState(key, replicas, desired=4, gpus_per_replica=4, usd_per_replica_hour=8.0, weight=weight)


FLEET = FleetState(
    100.0,
    (pool(FIRST, 0.5, replica("a"), replica("b")), pool(SECOND, 0.5, replica("c"), replica("d"))),
    demand={"m": Demand(1.0, 1.0, 1.0)},
)


def decision(**changes: object) -> Decision:
    plain = Decision(100.0, 1, "x", 130.0, (), (), (), (), (), (), PolicyMemory())
    return replace(plain, **changes)  # type: ignore[arg-type]


def violations(fleet: FleetState = FLEET, *, all_rules: bool = True, **decided: object) -> list[str]:
    checks = InvariantChecks(SETTINGS, seed=7, all_rules=all_rules)
    checks.check(TickRecord(100.0, fleet, {}, decision(**decided)))
    return checks.violations


def plan(desired: int, key: PoolKey = FIRST) -> ScalingPlan:
    return ScalingPlan(key, 4, desired, 1)


def traffic(first: float, second: float) -> tuple[TrafficPlan, ...]:
    return (TrafficPlan("m", {FIRST: first, SECOND: second}),)


def test_an_ordinary_decision_breaks_nothing() -> None:
    assert violations(scaling=(plan(5), plan(3, SECOND)), traffic=traffic(0.6, 0.4)) == []


@pytest.mark.parametrize("desired", [1, 7])
def test_replicas_outside_the_bounds(desired: int) -> None:
    assert f"{desired} replicas outside 2 to 6" in violations(scaling=(plan(desired),))[0]


def test_the_instant_and_the_seed_are_told() -> None:
    assert violations(scaling=(plan(1),))[0].startswith("at 100 s, seed 7: m/p/unified")


def test_a_pool_of_another_owner_or_that_nobody_tells_of_or_not_in_the_settings() -> None:
    for left_alone in ({"owner": "keda"}, {"last_told_at": 40.0}):
        owned = replace(FLEET, pools=(replace(FLEET.pools[0], **left_alone), FLEET.pools[1]))
        assert "I11" in violations(owned, scaling=(plan(5),))[0]
    assert "I11" in violations(scaling=(plan(5, PoolKey("m", "z")),))[0]


def test_weights_that_do_not_share_out_one() -> None:
    assert "I10" in violations(traffic=traffic(0.6, 0.6))[0]
    assert "I10" in violations(traffic=traffic(1.5, -0.5))[0]


def test_a_weight_on_a_pool_where_nothing_serves() -> None:
    dead = replace(FLEET, pools=(FLEET.pools[0], pool(SECOND, 0.5, replica("c", Phase.LOADING))))
    assert "m/q/unified" in violations(dead)[0]
    assert violations(dead, traffic=traffic(1.0, 0.0)) == []


def test_no_place_is_better_when_nothing_serves_at_all() -> None:
    loading = tuple(pool(key, 0.5, replica(str(key), Phase.LOADING)) for key in (FIRST, SECOND))
    assert violations(replace(FLEET, pools=loading)) == []


def test_growth_over_a_budget() -> None:
    assert "GPUs" in violations(scaling=(plan(6), plan(6, SECOND)))[0]  # 12 replicas of 4 GPUs
    poor = SETTINGS.model_copy(update={"guardrails": GuardrailSettings(usd_per_hour_budget=70.0)})
    checks = InvariantChecks(poor, 0, all_rules=True)
    checks.check(TickRecord(100.0, FLEET, {}, decision(scaling=(plan(5),))))
    assert "US dollars" in checks.violations[0]


def test_rivals_know_no_budget() -> None:
    assert violations(all_rules=False, scaling=(plan(6), plan(6, SECOND))) == []


def test_shrinking_without_observed_load() -> None:
    assert "I4" in violations(replace(FLEET, demand={}), scaling=(plan(3),))[0]
    assert violations(replace(FLEET, demand={}), scaling=(plan(5),)) == []


def test_shrinking_while_too_few_replicas_report() -> None:
    stale = replace(FLEET, at=400.0)
    assert "I4" in violations(stale, scaling=(plan(3),))[0]


def test_more_repairs_in_flight_than_the_budget() -> None:
    acts = tuple(ActionMemory(name, "restart", "m", str(FIRST), 0.0, 500.0) for name in ("a", "b"))
    assert "2 repairs in flight" in violations(memory=PolicyMemory(actions=acts))[0]
    closed = (acts[0], replace(acts[1], open=False))
    assert violations(memory=PolicyMemory(actions=closed)) == []


def test_a_replica_restarted_twice_in_one_tick() -> None:
    twice = (RestartReplica("a", FIRST, "F1"), RestartReplica("a", FIRST, "F2"))
    assert any("twice" in v for v in violations(remediations=twice))


def test_acting_without_having_observed() -> None:
    checks = InvariantChecks(SETTINGS, 0, all_rules=True)
    checks.check(TickRecord(100.0, None, {}, None, error="no metrics"))
    assert checks.violations == []
    checks.check(TickRecord(100.0, None, {}, None, (ActResult("scale", "p", "done"),), "no metrics"))
    assert len(checks.violations) == 1


def test_what_is_kept_is_bounded() -> None:
    checks = InvariantChecks(SETTINGS, 0, all_rules=True)
    for _ in range(3 * MOST_KEPT):
        checks.check(TickRecord(100.0, FLEET, {}, decision(scaling=(plan(1),))))
    assert len(checks.violations) == MOST_KEPT
