"""Does the whole loop do its work: sizing ahead of load, healing what breaks, and breaking no rule of its own?

Each run is the daemon's own control loop against a simulated fleet. Thresholds leave room for honest changes of policy;
what they must never let through is a fleet that misses its objective, wastes more than HPA, or acts in the dark.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from policies.decisions import CordonReplica, Page, RestartReplica
from policies.fleet import Phase
from policies.placement import PoolSettings
from simulations.case import SimulationSettings
from simulations.job import Job, TraceChoice, forecaster_chain
from simulations.runner import SimulationResult, Tick, simulate
from tests.builders_simulation import SMALL, RateTrace, quick_settings

WAVE = RateTrace([round(14 + 8 * math.sin(2 * math.pi * minute / 20), 2) for minute in range(30)])
STEADY = RateTrace([16.0] * 15)
TARGET = 0.99


def run(
    trace: RateTrace, settings: SimulationSettings, policy: str = "foresail"
) -> tuple[SimulationResult, list[Tick]]:
    ticks: list[Tick] = []
    chain = forecaster_chain(None, settings) if policy == "foresail" else ()
    result = simulate(trace, policy, settings, chain, on_tick=ticks.append)
    assert result.scorecard.violations == ()
    return result, ticks


def replicas_at(ticks: list[Tick], at: float) -> dict[str, Phase]:
    tick = min(ticks, key=lambda tick: abs(tick.record.at - at))
    assert tick.record.fleet is not None
    return {replica.id: replica.phase for pool in tick.record.fleet.pools for replica in pool.replicas}


@pytest.fixture(scope="module")
def wave() -> tuple[SimulationResult, list[Tick]]:
    """The wave under Foresail, nothing going wrong."""
    return run(WAVE, quick_settings(lead_time_s=60.0))


def test_a_wave_is_served_within_the_objective_at_no_more_than_hpa_pays(
    wave: tuple[SimulationResult, list[Tick]],
) -> None:
    ours = wave[0]
    theirs, _ = run(WAVE, quick_settings(lead_time_s=60.0), "hpa")
    assert ours.scorecard.slo_attainment_ratio >= TARGET
    assert ours.scorecard.slo_attainment_ratio >= theirs.scorecard.slo_attainment_ratio
    # Two or three replicas: rounding to whole ones is worth more than a tenth. HPA pays less where it misses.
    assert ours.scorecard.gpu_hours <= 1.15 * theirs.scorecard.gpu_hours


def test_every_scaling_has_a_reason(wave: tuple[SimulationResult, list[Tick]]) -> None:
    scaled = [tick.record.decision for tick in wave[1] if tick.record.decision and tick.record.decision.scaling]
    assert scaled
    for decision in scaled:
        subjects = {reason.subject for reason in decision.reasons}
        assert all({str(plan.pool), plan.pool.model} & subjects for plan in decision.scaling)


def test_a_hung_replica_leaves_traffic_and_is_restarted_while_the_others_serve_on() -> None:
    hang_at = 300.0
    result, ticks = run(STEADY, quick_settings(least=4, lead_time_s=45.0, faults=("hang@300",)))
    remedies = [
        (tick.record.at, remedy)
        for tick in ticks
        if tick.record.decision
        for remedy in tick.record.decision.remediations
    ]
    cordons = [(at, r.replica) for at, r in remedies if isinstance(r, CordonReplica)]
    restarts = [(at, r.replica) for at, r in remedies if isinstance(r, RestartReplica)]
    assert [name for _, name in cordons] == [name for _, name in restarts]  # the one that hangs, and no other
    assert len(restarts) == 1
    assert hang_at < cordons[0][0] <= hang_at + 120.0
    assert restarts[0][0] <= hang_at + 300.0
    hung = restarts[0][1]
    assert hung not in replicas_at(ticks, result.scorecard.simulated_s)
    card = result.scorecard
    # Only what the hung replica held is lost: the batch that it had, not what came later.
    assert card.dropped_in_flight + card.failed <= 2 * SMALL.max_running


def test_a_replica_that_answers_with_errors_leaves_traffic_and_is_restarted() -> None:
    """Least-outstanding balancing favours what fails fast: without healing most requests would go there."""
    spec = "errors@300:share=0.8,replica=1"
    result, ticks = run(STEADY, quick_settings(least=2, lead_time_s=45.0, faults=(spec,)))
    remedies = [
        (tick.record.at - 300.0, type(remedy), remedy.cause)
        for tick in ticks
        if tick.record.decision
        for remedy in tick.record.decision.remediations
    ]
    assert [(kind, cause) for _, kind, cause in remedies] == [(CordonReplica, "F2"), (RestartReplica, "F2")]
    assert 0.0 < remedies[0][0] <= 90.0
    assert remedies[1][0] <= remedies[0][0] + 60.0
    card = result.scorecard
    untreated, _ = run(STEADY, quick_settings(least=2, lead_time_s=45.0, faults=(spec,)), "static")
    assert card.failed < 0.3 * untreated.scorecard.failed


def test_a_replica_whose_exporter_freezes_works_on_and_is_left_alone() -> None:
    _, ticks = run(STEADY, quick_settings(least=4, lead_time_s=45.0, faults=("exporter-freeze@300:replica=1",)))
    decisions = [tick.record.decision for tick in ticks if tick.record.decision]
    assert {(type(r), r.cause) for d in decisions for r in d.remediations} == {(Page, "F13")}
    assert {d.cause for decision in decisions for d in decision.diagnoses} == {"F13"}


def test_nothing_is_healed_where_nothing_is_sick(wave: tuple[SimulationResult, list[Tick]]) -> None:
    assert not [tick for tick in wave[1] if tick.record.decision and tick.record.decision.remediations]


def test_a_crash_is_left_to_the_platform_and_the_fleet_recovers() -> None:
    settings = quick_settings(least=4, lead_time_s=45.0, faults=("crash@300",))
    result, ticks = run(STEADY, settings)
    restarted = [
        remedy
        for tick in ticks
        if tick.record.decision
        for remedy in tick.record.decision.remediations
        if isinstance(remedy, RestartReplica)
    ]
    assert restarted == []
    fleets = [tick.record.fleet for tick in ticks if tick.record.fleet]
    lives = [r.phase for fleet in fleets for pool in fleet.pools for r in pool.replicas if r.restarts == 1]
    assert list(dict.fromkeys(lives)) == [Phase.FAILED, Phase.LOADING, Phase.READY]
    assert result.scorecard.completed >= result.scorecard.requests - SMALL.max_running


@pytest.mark.parametrize("fault", ["metrics-loss@300:duration=240", "metrics-freeze@300:duration=240"])
def test_nothing_shrinks_while_metrics_are_gone_although_the_load_falls(fault: str) -> None:
    falling = RateTrace([24.0] * 5 + [4.0] * 6)
    _, ticks = run(falling, quick_settings(lead_time_s=60.0, faults=(fault,)))
    blind = [tick for tick in ticks if 345.0 <= tick.record.at <= 540.0]
    assert all(
        plan.desired >= plan.current for tick in blind if tick.record.decision for plan in tick.record.decision.scaling
    )
    counts = {len(replicas_at(blind, tick.record.at)) for tick in blind if tick.record.fleet}
    assert len(counts) <= 1


def test_two_pools_share_a_load_that_neither_carries_alone_and_the_cheaper_one_has_more() -> None:
    dear = SMALL.model_copy(update={"name": "dear", "usd_per_gpu_hour": 4.0})
    pools = {
        "m/cheap/unified": PoolSettings(profile=SMALL, min_replicas=1, max_replicas=2),
        "m/dear/unified": PoolSettings(profile=dear, min_replicas=1, max_replicas=8),
    }
    result, ticks = run(RateTrace([22.0] * 12), SimulationSettings(pools=pools, lead_time_s=45.0))
    fleet = ticks[-1].record.fleet
    assert fleet is not None
    cheap, costly = fleet.pools_of("m")
    assert cheap.desired == 2
    assert costly.desired >= 1
    assert cheap.weight + costly.weight == pytest.approx(1.0)
    assert result.scorecard.slo_attainment_ratio >= 0.95  # both begin sized for the load; weights settle meanwhile


@pytest.mark.parametrize("seed", [1, 2])
def test_no_rule_is_broken_when_things_go_wrong_at_random(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = ("crash", "hang", "slow", "node-loss", "exporter-freeze", "metrics-loss", "metrics-freeze")
    faults = []
    for kind in rng.choice(kinds, 5):
        where = f"replica={rng.integers(4)}," if not kind.startswith("metrics") else ""
        lasting = "duration=120" if kind not in ("crash", "hang", "node-loss") else ""
        faults.append(f"{kind}@{rng.integers(60, 900)}:{where}{lasting}".rstrip(",:"))
    result, _ = run(WAVE, quick_settings(lead_time_s=60.0, seed=seed, faults=tuple(faults)))
    card = result.scorecard
    assert card.completed + card.failed + card.dropped_in_flight == card.requests
    assert card.completed > 0.5 * card.requests


def test_a_recorded_trace_is_served_at_least_as_well_as_by_hpa_for_about_as_many_gpu_hours(
    recorded_traces: Path,
) -> None:
    choice = TraceChoice(recorded_traces / "azure2023_conv.csv", "azure", start_s=600.0, duration_s=1200.0)
    cards = {name: Job(choice, name, SimulationSettings()).run().scorecard for name in ("foresail", "hpa")}
    assert cards["foresail"].slo_attainment_ratio >= cards["hpa"].slo_attainment_ratio
    # A fleet of 3 to 5 replicas: rounding to whole ones is worth a tenth. Larger fleets are measured in the README.
    assert cards["foresail"].gpu_hours <= 1.1 * cards["hpa"].gpu_hours
