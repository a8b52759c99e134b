"""Whatever a fleet looks like and whatever is answered: never a busy replica, never more than the caps, never alone."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from policies.anomaly import AnomalySettings
from policies.canary_evidence import CanarySettings
from policies.decide import decide
from policies.decisions import Decision
from policies.fleet import FleetState, Phase, PoolKey, ReplicaState
from policies.memory import PolicyMemory
from policies.replica import CanaryAnswer, CanaryOutcome
from policies.settings import PolicySettings
from tests.builders import AT, KEY, OTHER, fleet, metrics, pool, pool_settings, replica

KEYS = (KEY, OTHER, PoolKey("n", "c"))
TICK_S = 15.0
TICKS = 14

counts = st.sampled_from([0.0, 0.0, 0.0, 1.0, math.nan])


@st.composite
def looks(draw: st.DrawFn) -> list[list[dict[str, Any]]]:
    """What is told of nine replicas at each of several ticks: most are idle most of the time."""
    usual = [draw(st.sampled_from(["idle", "idle", "idle", "wild"])) for _ in range(9)]
    return [[_told(draw, how) for how in usual] for _ in range(TICKS)]


def _told(draw: st.DrawFn, how: str) -> dict[str, Any]:
    if how == "idle":
        return {
            "running": 0.0,
            "queued": 0.0,
            "in_flight": 0.0,
            "outcome": draw(st.sampled_from([*CanaryOutcome, None])),
        }
    return {
        "running": draw(counts),
        "queued": draw(counts),
        "in_flight": draw(counts),
        "tokens": draw(st.sampled_from([0.0, 0.0, 5.0])),
        "cordoned": draw(st.sampled_from([False, False, True])),
        "phase": draw(st.sampled_from([Phase.READY, Phase.READY, *Phase])),
        "address": draw(st.sampled_from(["here:1", "here:1", ""])),
        "age_s": draw(st.sampled_from([0.0, 0.0, 90.0])),
        "outcome": draw(st.sampled_from([*CanaryOutcome, None])),
    }


def shown(name: str, after_s: float, told: dict[str, Any]) -> ReplicaState:
    phase = told.get("phase", Phase.READY)
    seen = metrics(
        AT + after_s - told.get("age_s", 0.0),
        running_requests=told["running"],
        queued_requests=told["queued"],
        output_tokens_total=2e4 + told.get("tokens", 0.0),
    )
    return replica(
        name,
        phase,
        cordoned=told.get("cordoned", False),
        in_flight_requests=told["in_flight"],
        address=told.get("address", f"{name}:1"),
        metrics=seen if phase in (Phase.READY, Phase.DRAINING) else None,
    )


def state_at(tick: int, told: list[dict[str, Any]], answers: dict[str, CanaryAnswer]) -> FleetState:
    after_s = TICK_S * tick
    pools = [
        pool([shown(f"{key.pool}{place}", after_s, told[3 * index + place]) for place in range(3)], key, weight=0.5)
        for index, key in enumerate(KEYS)
    ]
    return fleet(*pools, at=AT + after_s, canaries=dict(answers))


def never_busy(state: FleetState, memory: PolicyMemory, decision: Decision) -> None:
    there = {p.key.replica(r.id): r for p in state.pools for r in p.replicas}
    for canary in decision.canaries:
        name = canary.pool.replica(canary.replica)
        asked, known = there[name], memory.canaries.replicas.get(name)
        own = known.failed if known is not None else 0
        # One that has just failed is counted as of this tick.
        answer = state.canaries.get(name)
        if known is not None and answer is not None and answer.asked_at == known.asked_at and not known.outcome:
            own += 1
        assert asked.phase is Phase.READY
        assert canary.address == asked.address != ""
        assert not asked.in_flight_requests > 0
        assert asked.metrics is not None
        assert asked.metrics.running_requests + asked.metrics.queued_requests <= own
        assert state.at - asked.metrics.observed_at <= 60.0
        assert not asked.cordoned or name in memory.cordons


@settings(max_examples=60, deadline=None)
@given(looks(), st.integers(1, 12), st.integers(1, 4))
def test_whoever_is_asked_is_idle_and_the_caps_hold(
    told: list[list[dict[str, Any]]], most_per_hour: int, most_per_tick: int
) -> None:
    canary = CanarySettings(
        enabled=True, silent_s=30.0, back_off_s=20.0, most_per_hour=most_per_hour, most_per_tick=most_per_tick
    )
    policy = PolicySettings(pools={str(key): pool_settings() for key in KEYS}, anomaly=AnomalySettings(canary=canary))
    memory, answers, asked = PolicyMemory(), dict[str, CanaryAnswer](), dict[str, int]()
    for tick, of_each in enumerate(told):
        state = state_at(tick, of_each, answers)
        decision = decide(state, {}, memory, policy)
        never_busy(state, memory, decision)
        assert len(decision.canaries) <= most_per_tick
        assert len({c.pool.replica(c.replica) for c in decision.canaries}) == len(decision.canaries)
        for found in decision.diagnoses:
            # A canary convicts nobody without another kind of witness.
            canaries = {f for f in found.families if f.startswith("canary")}
            assert found.name == "unknown" or not canaries or set(found.families) - canaries
        memory = PolicyMemory.from_json(decision.memory.to_json())
        for one in decision.canaries:
            asked[one.pool.model] = asked.get(one.pool.model, 0) + 1
            index = KEYS.index(one.pool) * 3 + int(one.replica[-1])
            outcome = of_each[index]["outcome"]
            if outcome is not None:
                answers[one.pool.replica(one.replica)] = CanaryAnswer(one.asked_at, outcome)
    assert all(count <= most_per_hour for count in asked.values())


@settings(max_examples=40, deadline=None)
@given(looks())
def test_switched_off_nothing_is_asked_remembered_or_believed(told: list[list[dict[str, Any]]]) -> None:
    policy = PolicySettings(pools={str(key): pool_settings() for key in KEYS})
    memory = PolicyMemory()
    for tick, of_each in enumerate(told):
        names = [key.replica(f"{key.pool}0") for key in KEYS]
        state = state_at(tick, of_each, {name: CanaryAnswer(AT, CanaryOutcome.LATE) for name in names})
        decision = decide(state, {}, memory, policy)
        assert decision.canaries == ()
        assert not any(a.family.startswith("canary") for a in decision.anomalies)
        memory = decision.memory
    assert memory.canaries.replicas == {}
