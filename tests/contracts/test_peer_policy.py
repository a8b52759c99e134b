"""Does every policy keep to what all must: bounds, determinism, no harm from what is not known?"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from forecasting.series import LoadSeries
from policies.decisions import Policy
from policies.fleet import Demand, FleetState, Phase, PoolKey, PoolState, ReplicaMetrics, ReplicaState
from policies.memory import PolicyMemory
from policies.placement import PoolSettings
from simulations.case import Case, prepare
from simulations.invariants import InvariantChecks
from simulations.peers.catalogue import CATALOGUE, policy_of, rhythm_of
from simulations.peers.names import POLICIES
from simulations.runner import SimulationResult, Tick, replay, simulate
from tests.builders_simulation import OUTPUT_TOKENS, POOL, PROMPT_TOKENS, SMALL, RateTrace, quick_settings

LEAST, MOST = 1, 6
TRACE = RateTrace([8.0, 20.0, 20.0, 6.0])
RIVALS = tuple(name for name in POLICIES if name != "foresail")


@lru_cache
def case(least: int = LEAST) -> Case:
    pools = {POOL: PoolSettings(profile=SMALL, min_replicas=least, max_replicas=MOST)}
    rows = np.tile([12.0, 12.0 * PROMPT_TOKENS, 12.0 * OUTPUT_TOKENS], (240, 1))
    before = LoadSeries(-3600.0, 15.0, rows)
    return prepare(TRACE, quick_settings(pools=pools, lead_time_s=30.0), before)


def replica(number: int, at: float, share: float, *, known: bool = True) -> ReplicaState:
    """A READY replica that is ``share`` busy; one that nothing is known of says NaN everywhere."""
    figure = share if known else math.nan
    seen = ReplicaMetrics(at, 24 * figure, 60 * figure, min(1.0, figure) if known else figure, at, at * 90, at * 9, at)
    return ReplicaState(f"r{number}", Phase.READY, 0.0, 0.0, in_flight_requests=84 * figure, metrics=seen)


def fleet(
    at: float, count: int, share: float, *, known: bool = True, starting: int = 0, held: float = 0.0
) -> FleetState:
    replicas = [replica(number, at, share, known=known) for number in range(count)]
    replicas += [ReplicaState(f"s{number}", Phase.LOADING, at, at) for number in range(starting)]
    state = PoolState(PoolKey.parse(POOL), tuple(replicas), desired=len(replicas), gpus_per_replica=1, weight=1.0)
    rate = 30.0 * share
    demand = {SMALL.model: Demand(rate, rate * PROMPT_TOKENS, rate * OUTPUT_TOKENS)} if known else {}
    return FleetState(at, (state,), demand=demand, gateway_queued={SMALL.model: held} if known else {})


def walk(policy: Policy, tick_s: float, shares: list[float], count: int = 3) -> list[tuple[int, tuple[str, ...]]]:
    """Return what is asked for, and what is violated, at each tick of a pool that follows at once."""
    memory, asked = PolicyMemory(), []
    checks = InvariantChecks(case().policy, 0, all_rules=False)
    for number, share in enumerate(shares):
        state = fleet(tick_s * number, count, share)
        decision = policy.decide(state, {}, memory)
        memory = decision.memory
        broken = tuple(checks._found(state, decision))
        count = decision.scaling[0].desired if decision.scaling else count
        asked.append((count, broken))
    return asked


SWINGS = [1.5] * 40 + [0.0] * 40 + [0.4, 1.5] * 20 + [0.05] * 80


@pytest.mark.parametrize("name", POLICIES)
def test_bounds_hold_whatever_comes_and_nothing_is_violated(name: str) -> None:
    policy, _ = policy_of(name, case())
    asked = walk(policy, rhythm_of(name, case().settings).tick_s, SWINGS)
    assert all(LEAST <= count <= MOST for count, _ in asked)
    assert [broken for _, broken in asked if broken] == []


@pytest.mark.parametrize("name", POLICIES)
def test_equal_inputs_give_equal_decisions(name: str) -> None:
    tick_s = rhythm_of(name, case().settings).tick_s
    first, second = (walk(policy_of(name, case())[0], tick_s, SWINGS) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", RIVALS)
def test_what_is_not_known_changes_nothing_at_once(name: str) -> None:
    """One look at which nobody says anything, after a while of steady load, moves no replica."""
    policy, _ = policy_of(name, case())
    tick_s, memory, count = rhythm_of(name, case().settings).tick_s, PolicyMemory(), 3
    for number in range(60):
        decision = policy.decide(fleet(tick_s * number, count, 0.2), {}, memory)
        memory = decision.memory
        count = decision.scaling[0].desired if decision.scaling else count
    blind = fleet(tick_s * 60, count, 0.2, known=False)
    if name == "clairvoyant":  # it does not look
        return
    assert policy.decide(blind, {}, memory).scaling == ()
    silent = replace(blind, pools=tuple(_unscraped(pool) for pool in blind.pools))
    assert policy.decide(silent, {}, memory).scaling == ()


def _unscraped(pool: PoolState) -> PoolState:
    return replace(pool, replicas=tuple(replace(r, metrics=None) for r in pool.replicas))


@pytest.mark.parametrize("name", POLICIES)
def test_a_pool_without_replicas_and_one_that_only_starts_are_survived(name: str) -> None:
    policy, _ = policy_of(name, case(0))
    memory = PolicyMemory()
    tick_s = rhythm_of(name, case(0).settings).tick_s
    for number, state in enumerate(
        (
            fleet(0.0, 0, 0.0),
            fleet(tick_s, 0, 0.5, held=40.0),
            fleet(2 * tick_s, 0, 0.5, held=40.0, starting=2),
            fleet(3 * tick_s, 0, 0.0, known=False),
            fleet(4 * tick_s, 1, 1.0),
        )
    ):
        decision = policy.decide(state, {}, memory)
        memory = decision.memory
        assert all(0 <= plan.desired <= MOST for plan in decision.scaling), number


@pytest.mark.parametrize("name", RIVALS)
def test_a_pool_that_is_not_listed_is_left_alone(name: str) -> None:
    policy, _ = policy_of(name, case())
    other = replace(fleet(0.0, 3, 1.5).pools[0], key=PoolKey(SMALL.model, "another"))
    decision = policy.decide(FleetState(0.0, (other,)), {}, PolicyMemory())
    assert decision.scaling == ()


# ---- in the loop


@pytest.mark.parametrize("name", POLICIES)
def test_a_short_run_holds_together_at_the_policys_own_rhythm(name: str) -> None:
    seen: list[float] = []

    def note(tick: Tick) -> None:
        seen.append(tick.record.at)

    result = ran(name, note)
    card = result.scorecard
    assert card.violations == ()
    assert card.completed + card.failed + card.dropped_in_flight == card.requests
    assert card.simulated_s == 240.0
    tick_s = rhythm_of(name, case().settings).tick_s
    assert seen == [tick_s * number for number in range(math.ceil(240.0 / tick_s))]
    assert all(LEAST <= point.desired <= MOST for point in result.timeline)
    assert len(result.timeline) <= 240.0 / min(15.0, tick_s) + card.scale_ups + card.scale_downs


def ran(name: str, note: object = None) -> SimulationResult:
    settings = case().settings
    return simulate(TRACE, name, settings, on_tick=note)  # type: ignore[arg-type]  # a function or None


def test_equal_seeds_give_equal_runs_of_rivals_that_keep_a_state_of_their_own() -> None:
    for name in ("knative", "dynamo-sla", "wva"):
        assert ran(name).scorecard == ran(name).scorecard


def test_every_policy_is_described_and_built_and_swept_in_few_points() -> None:
    assert tuple(CATALOGUE) == POLICIES
    assert all(4 <= len(entry.grid) <= 8 for entry in CATALOGUE.values())


DEAR = SMALL.model_copy(update={"name": "dear", "usd_per_gpu_hour": 10.0})


@lru_cache
def two_pools() -> Case:
    pools = {
        POOL: PoolSettings(profile=SMALL, min_replicas=1, max_replicas=4),
        f"{SMALL.model}/dear/unified": PoolSettings(profile=DEAR, min_replicas=1, max_replicas=3),
    }
    return prepare(RateTrace([8.0, 25.0, 4.0]), quick_settings(pools=pools, lead_time_s=30.0))


@pytest.mark.parametrize("name", POLICIES)
def test_two_pools_of_one_model_are_both_kept_within_their_bounds(name: str) -> None:
    result = replay(two_pools(), name)
    assert result.scorecard.violations == ()
    for point in result.timeline:
        assert 2 <= point.desired <= 7
