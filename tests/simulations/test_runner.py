"""Does a run hold together: the same loop for every policy, the same world, the same count?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from controller.errors import AuditError, BadInput
from controller.ports import TickRecord
from forecasting.forecaster import Forecaster
from forecasting.last_value import LastValueForecaster
from forecasting.series import LoadSeries
from policies.placement import PoolSettings
from policies.slo import ServiceObjective
from simulations.case import prepare
from simulations.outcomes import RequestStatus
from simulations.peers.catalogue import policy_of
from simulations.peers.names import POLICIES
from simulations.runner import SimulationResult, Tick, simulate
from simulations.sizing import FIRST_UTILISATION, covering, first_replicas, known_load, load_tested, replicas_for
from tests.builders_simulation import OUTPUT_TOKENS, POOL, PROMPT_TOKENS, SMALL, ListAudit, RateTrace, quick_settings

TRIED = ("foresail", "hpa", "knative", "skyserve", "static", "clairvoyant")
STEADY = RateTrace([12.0] * 6)
HILL = RateTrace([8, 8, 12, 16, 20, 24, 24, 20, 16, 12, 8, 8])


@pytest.fixture(scope="module")
def runs() -> dict[str, SimulationResult]:
    """Policies of all kinds and rhythms on the same hill, lead time a minute."""
    return {name: simulate(HILL, name, quick_settings(lead_time_s=60.0), keep_rows=True) for name in TRIED}


def test_all_policies_see_the_same_requests(runs: dict[str, SimulationResult]) -> None:
    arrivals = {result.fleet.outcomes.arrived_at.tobytes() for result in runs.values()}
    assert len(arrivals) == 1
    assert {result.scorecard.requests for result in runs.values()} == {len(runs["hpa"].fleet.outcomes)}
    assert len({result.scorecard.simulated_s for result in runs.values()}) == 1


def test_all_policies_but_static_begin_with_the_same_replicas(runs: dict[str, SimulationResult]) -> None:
    first = {name: result.timeline[0].ready for name, result in runs.items()}
    assert first["foresail"] == first["hpa"] == first["clairvoyant"]
    # five minutes at 8, 8, 12, 16, 20 requests/s
    assert first["hpa"] == np.ceil(12.8 / FIRST_UTILISATION / runs["hpa"].case.pools[0].requests_per_s)


def test_equal_replicas_start_equally_fast_under_every_policy(runs: dict[str, SimulationResult]) -> None:
    """Common random numbers: the k-th replica created waits for the same time whoever asked for it."""
    lead_times: dict[str, set[float]] = {}
    for result in runs.values():
        for pool in result.fleet.cluster.pools():
            for replica in pool.replicas:
                if replica.since_at > replica.requested_at and replica.phase == "ready":
                    took_s = round(replica.since_at - replica.requested_at, 6)
                    lead_times.setdefault(replica.id, set()).add(took_s)
    assert lead_times
    assert all(len(seconds) == 1 for seconds in lead_times.values())


def test_static_never_scales(runs: dict[str, SimulationResult]) -> None:
    card = runs["static"].scorecard
    assert (card.scale_ups, card.scale_downs) == (0, 0)
    assert len({point.ready for point in runs["static"].timeline}) == 1


def test_clairvoyant_serves_well_and_pays_least_of_those_that_do(runs: dict[str, SimulationResult]) -> None:
    bound = runs["clairvoyant"].scorecard
    assert bound.slo_attainment_ratio >= 0.99
    for result in runs.values():
        if result.scorecard.slo_attainment_ratio >= bound.slo_attainment_ratio:
            assert result.scorecard.gpu_hours >= bound.gpu_hours


def test_every_request_is_accounted_for(runs: dict[str, SimulationResult]) -> None:
    for result in runs.values():
        card = result.scorecard
        assert card.completed + card.failed + card.dropped_in_flight == card.requests
        assert result.fleet.outcomes.count(RequestStatus.IN_SYSTEM) == 0


def test_nothing_is_violated(runs: dict[str, SimulationResult]) -> None:
    assert {name: result.scorecard.violations for name, result in runs.items()} == dict.fromkeys(TRIED, ())


def test_gpu_hours_are_those_of_the_trace_whoever_drains_longer(runs: dict[str, SimulationResult]) -> None:
    card, fleet = runs["static"].scorecard, runs["static"].fleet
    assert card.gpu_hours == pytest.approx(card.mean_replicas * SMALL.gpus * card.simulated_s / 3600.0)
    assert fleet.clock.now() >= card.simulated_s  # the last requests ended later, unpaid


def test_equal_seeds_give_equal_runs_and_other_seeds_other_ones() -> None:
    settings = quick_settings(lead_time_s=60.0, seed=3)
    first, second = (simulate(HILL, "foresail", settings).scorecard for _ in range(2))
    assert first == second
    other = simulate(HILL, "foresail", settings.model_copy(update={"seed": 4})).scorecard
    assert other.decisions_digest != first.decisions_digest


def test_every_tick_is_recorded_and_watched() -> None:
    audit, ticks = ListAudit(), list[Tick]()
    result = simulate(STEADY, "foresail", quick_settings(), (LastValueForecaster(),), audit=audit, on_tick=ticks.append)
    assert [record.at for record in audit.records] == list(np.arange(0.0, result.scorecard.simulated_s, 15.0))
    assert [tick.record for tick in ticks] == audit.records
    shares = [tick.share for tick in ticks]
    assert shares == sorted(shares)
    assert shares[0] == 0.0
    assert shares[-1] > 0.9


@pytest.mark.parametrize("verb", ["append", "settle"])
def test_a_run_that_cannot_be_recorded_is_no_result(verb: str, caplog: pytest.LogCaptureFixture) -> None:
    audit = ListAudit()

    def refused(_: object) -> str:
        raise AuditError("no space left")

    setattr(audit, verb, refused)
    with pytest.raises(AuditError, match="no space left"):
        simulate(HILL, "foresail", quick_settings(lead_time_s=30.0), audit=audit)
    assert "no space left" in caplog.text


def test_whoever_watches_sees_the_forecast_that_was_used() -> None:
    ticks = list[Tick]()
    before = LoadSeries(-1800.0, 15.0, np.tile([12.0, 12.0 * PROMPT_TOKENS, 12.0 * OUTPUT_TOKENS], (120, 1)))
    simulate(STEADY, "foresail", quick_settings(), (LastValueForecaster(),), before=before, on_tick=ticks.append)
    forecast = ticks[-1].record.forecasts[SMALL.model]
    assert ticks[-1].record.forecast_sources == {SMALL.model: forecast.source}
    assert forecast.made_at == ticks[-1].record.at


def test_history_from_before_the_slice_lets_the_first_ticks_forecast() -> None:
    def sources(before: LoadSeries | None) -> list[str]:
        ticks = list[Tick]()
        chain: tuple[Forecaster, ...] = (LastValueForecaster(),)
        simulate(STEADY, "foresail", quick_settings(), chain, before=before, on_tick=ticks.append)
        return [tick.record.forecast_sources.get(SMALL.model, "") for tick in ticks[1:4]]

    before = LoadSeries(-3600.0, 15.0, np.tile([12.0, 12.0 * PROMPT_TOKENS, 12.0 * OUTPUT_TOKENS], (240, 1)))
    assert all(sources(before))
    assert not any(sources(None))


def test_rivals_are_never_shown_a_forecast() -> None:
    ticks = list[Tick]()
    simulate(STEADY, "hpa", quick_settings(), (LastValueForecaster(),), on_tick=ticks.append)
    assert all(tick.record.forecasts == {} for tick in ticks)


def test_a_crashed_replica_is_replaced_and_seen() -> None:
    records = list[TickRecord]()
    settings = quick_settings(faults=("crash@120",), lead_time_s=30.0)
    simulate(STEADY, "static", settings, on_tick=lambda tick: records.append(tick.record))
    restarts = [
        sum(r.restarts for pool in record.fleet.pools for r in pool.replicas) for record in records if record.fleet
    ]
    assert restarts[0] == 0
    assert restarts[-1] == 1


def test_while_metrics_are_lost_nothing_is_decided() -> None:
    records = list[TickRecord]()
    settings = quick_settings(faults=("metrics-loss@100:duration=60",))
    result = simulate(STEADY, "foresail", settings, on_tick=lambda tick: records.append(tick.record))
    blind = [record.at for record in records if record.decision is None]
    assert blind == [105.0, 120.0, 135.0, 150.0]
    assert result.scorecard.violations == ()


def test_unknown_policies_are_refused_with_the_known_ones() -> None:
    with pytest.raises(BadInput, match="no policy is called 'magic'") as error:
        simulate(STEADY, "magic", quick_settings())
    assert ", ".join(POLICIES) in error.value.remedy


def test_an_objective_that_no_replica_can_meet_is_refused() -> None:
    impossible = quick_settings()
    objective = ServiceObjective(ttft_s=0.001)
    impossible = impossible.model_copy(update={"policy": impossible.policy.model_copy(update={"objective": objective})})
    with pytest.raises(BadInput, match="cannot keep TTFT"):
        simulate(STEADY, "hpa", impossible)


def test_a_fault_in_an_unknown_pool_is_refused() -> None:
    with pytest.raises(BadInput, match="no pool 'nowhere'"):
        simulate(STEADY, "hpa", quick_settings(faults=("crash@60:pool=nowhere",)))


def test_the_given_first_replicas_are_those_of_the_run() -> None:
    result = simulate(RateTrace([2.0]), "hpa", quick_settings(initial_replicas=9))
    assert result.timeline[0].ready == 9


# ---- what everybody is told


def test_the_load_test_sets_efficiency_target_and_sizes() -> None:
    case = prepare(STEADY, quick_settings())
    (pool,) = case.pools
    policy, _ = policy_of("hpa", case)
    assert policy.targets == {POOL: pytest.approx(0.7 * pool.concurrency)}  # type: ignore[attr-defined]
    assert case.policy.pools[POOL].efficiency_ratio == pool.settings.efficiency_ratio
    assert case.policy.lead_time.default_s == pytest.approx(120.0 * 1.15)


def test_an_efficiency_or_a_lead_time_that_the_operator_gives_is_kept() -> None:
    settings = quick_settings()
    known = {POOL: settings.pools[POOL].model_copy(update={"efficiency_ratio": 0.4})}
    lead_time = type(settings.policy.lead_time)(default_s=77.0)
    policy = settings.policy.model_copy(update={"lead_time": lead_time})
    case = prepare(STEADY, settings.model_copy(update={"pools": known, "policy": policy}))
    assert case.policy.pools[POOL].efficiency_ratio == 0.4
    assert case.policy.lead_time.default_s == 77.0


def test_replicas_follow_the_load_and_its_token_shape() -> None:
    objective = ServiceObjective()
    pools = load_tested(quick_settings().pools, objective, STEADY)
    shape = np.array([1.0, PROMPT_TOKENS, OUTPUT_TOKENS])
    rates = np.array([[0.0], [5.0], [10.0]]) * shape
    (needed,) = replicas_for(LoadSeries(0.0, 60.0, rates), 60.0, 1.0, objective, pools).values()
    assert needed[0] == 1.0  # the minimum
    assert needed[2] == pytest.approx(10.0 / pools[0].requests_per_s, rel=0.01)  # the formula scaled to the load test
    longer = rates * np.array([1.0, 1.0, 2.0])
    (more,) = replicas_for(LoadSeries(0.0, 60.0, longer), 60.0, 1.0, objective, pools).values()
    assert more[2] > 1.3 * needed[2]


def test_the_cheapest_pool_is_filled_first_and_bounds_hold() -> None:
    objective = ServiceObjective()
    dear = SMALL.model_copy(update={"name": "dear", "usd_per_gpu_hour": 10.0})
    pools = {
        "m/cheap/unified": PoolSettings(profile=SMALL, min_replicas=1, max_replicas=3),
        "m/dear/unified": PoolSettings(profile=dear, min_replicas=1, max_replicas=2),
    }
    tested = load_tested(pools, objective, STEADY)
    one = tested[0].requests_per_s
    rates = np.array([[1.0], [3.5], [50.0]]) * one * np.array([1.0, PROMPT_TOKENS, OUTPUT_TOKENS])
    needed = replicas_for(LoadSeries(0.0, 60.0, rates), 60.0, 1.0, objective, tested)
    cheap, costly = (needed[pool.key] for pool in tested)
    assert cheap == pytest.approx([1.0, 2.5, 3.0], rel=0.01)
    assert costly == pytest.approx([1.0, 1.0, 2.0], rel=0.01)
    assert list(covering(needed).values()) == [3, 2]


def test_the_first_replicas_cover_the_mean_of_five_minutes_with_headroom() -> None:
    objective = ServiceObjective()
    pools = load_tested(quick_settings().pools, objective, STEADY)
    load = known_load(RateTrace([10.0, 30.0, 30.0, 30.0, 10.0, 200.0]))
    (first,) = first_replicas(load, objective, pools).values()
    assert first == np.ceil(22.0 / FIRST_UTILISATION / pools[0].requests_per_s)


def test_a_trace_shorter_than_a_step_has_a_load_all_the_same() -> None:
    load = known_load(replace(RateTrace([20.0]), step_s=5.0))
    assert len(load) == 1
    assert load.values[0, 0] > 0


def test_rivals_keep_to_the_bounds_whatever_they_know() -> None:
    pools = {POOL: PoolSettings(profile=SMALL, min_replicas=2, max_replicas=3)}
    for policy in ("hpa", "static", "clairvoyant"):
        result = simulate(RateTrace([1.0, 60.0, 60.0, 1.0]), policy, quick_settings(pools=pools, lead_time_s=30.0))
        assert result.scorecard.violations == ()
        assert {point.desired for point in result.timeline} <= {2, 3}
