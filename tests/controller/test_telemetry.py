"""Does what is published say what happened, in bounds, and no longer than it may be acted upon?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from controller.forecast_score import ForecastScores
from controller.modes import ModeSettings
from controller.plan_expiry import STALE
from controller.ports import ActResult, TickRecord
from controller.telemetry import MAX_RULES, PhaseClock, Telemetry
from controller.telemetry_settings import TelemetrySettings
from forecasting.forecast import LoadForecast
from policies.decisions import Reason
from policies.fleet import Demand, PoolKey
from policies.placement import PoolSettings
from policies.settings import PolicySettings
from tests.builders_records import MODEL, POOL, SPARE, blind_tick, quiet_tick, scaling_tick

PROFILE = "llama-3.1-70b-a100-tp4"
POLICY = PolicySettings(pools={str(POOL): PoolSettings(profile=PROFILE), str(SPARE): PoolSettings(profile=PROFILE)})  # type: ignore[arg-type]


class Stopwatch:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def stopwatch() -> Stopwatch:
    return Stopwatch()


def telemetry_of(stopwatch: Stopwatch, **changes: object) -> Telemetry:
    settings = TelemetrySettings.model_validate(changes)
    telemetry = Telemetry(settings, stopwatch, "1.2.3")
    telemetry.configure(settings, POLICY)
    return telemetry


@pytest.fixture
def telemetry(stopwatch: Stopwatch) -> Telemetry:
    return telemetry_of(stopwatch)


def samples(telemetry: Telemetry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample, parsed as Prometheus would; a series that comes twice is an error."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in text_string_to_metric_families(generate_latest(telemetry.registry).decode()):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def value(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    return samples(telemetry).get((name, tuple(sorted(labels.items()))))


def names(telemetry: Telemetry) -> set[str]:
    return {name for name, _ in samples(telemetry)}


def tick(telemetry: Telemetry, record: TickRecord | None, outcome: str = "acted") -> None:
    telemetry.tick_ended(record, outcome, 0.2, 0)


POOL_LABELS = {"model": POOL.model, "pool": POOL.pool, "role": "unified"}


def test_what_a_pool_should_have_is_published_under_both_names(telemetry: Telemetry) -> None:
    tick(telemetry, scaling_tick(60.0))
    assert value(telemetry, "foresail_desired_replicas", **POOL_LABELS) == 5
    assert value(telemetry, "foresail_requested_replicas", **POOL_LABELS) == 3
    variant = {"variant_name": "a100", "namespace": "", "accelerator_type": "A100"}
    assert value(telemetry, "wva_desired_replicas", **variant) == 5
    assert value(telemetry, "wva_current_replicas", **variant) == 3
    assert value(telemetry, "wva_desired_ratio", **variant) == pytest.approx(5 / 3)
    assert value(telemetry, "foresail_replicas", **POOL_LABELS, phase="ready") == 3
    assert value(telemetry, "foresail_replicas", **POOL_LABELS, phase="failed") == 0


def test_a_variant_goes_by_the_name_that_others_look_for(stopwatch: Stopwatch) -> None:
    telemetry = telemetry_of(stopwatch, namespace="serving", variants={str(POOL): "llama-decode"})
    tick(telemetry, scaling_tick(60.0))
    labels = {"variant_name": "llama-decode", "namespace": "serving", "accelerator_type": "A100"}
    assert value(telemetry, "wva_desired_replicas", **labels) == 5


def test_variants_of_one_name_are_told_apart_by_their_namespaces(stopwatch: Stopwatch) -> None:
    telemetry = telemetry_of(stopwatch, namespace="serving", variants={str(POOL): "engine", str(SPARE): "batch/engine"})
    tick(telemetry, scaling_tick(60.0))
    engine = {"variant_name": "engine", "accelerator_type": "A100"}
    assert value(telemetry, "wva_desired_replicas", **engine, namespace="serving") == 5
    assert value(telemetry, "wva_desired_replicas", **engine, namespace="batch") is not None


def test_two_pools_that_others_could_not_tell_apart_are_not_published_to_them(stopwatch: Stopwatch) -> None:
    telemetry = telemetry_of(stopwatch, variants={str(POOL): "same", str(SPARE): "same"})
    tick(telemetry, scaling_tick(60.0))
    assert "wva_desired_replicas" not in names(telemetry)
    assert "foresail_desired_replicas" in names(telemetry)


def test_a_pool_that_is_not_ours_has_no_desired_count(telemetry: Telemetry) -> None:
    record = quiet_tick(60.0)
    assert record.fleet is not None
    stranger = replace(record.fleet.pools[0], key=PoolKey("theirs", "x"))
    tick(telemetry, replace(record, fleet=replace(record.fleet, pools=(*record.fleet.pools, stranger))))
    theirs = {"model": "theirs", "pool": "x", "role": "unified"}
    assert value(telemetry, "foresail_desired_replicas", **theirs) is None
    assert value(telemetry, "foresail_requested_replicas", **theirs) == 3


def test_the_series_of_a_pool_that_is_gone_go_with_it(telemetry: Telemetry) -> None:
    record = scaling_tick(60.0)
    tick(telemetry, record)
    assert record.fleet is not None
    fleet = replace(record.fleet, pools=record.fleet.pools[1:])
    tick(telemetry, replace(record, fleet=fleet))
    assert value(telemetry, "foresail_desired_replicas", **POOL_LABELS) is None
    assert value(telemetry, "foresail_desired_replicas", model=MODEL, pool="h100", role="unified") is not None


def test_the_last_decision_holds_for_a_while_and_then_others_are_left_to_hold(
    telemetry: Telemetry, stopwatch: Stopwatch
) -> None:
    tick(telemetry, scaling_tick(60.0))
    stopwatch.now_s += 299.0
    tick(telemetry, blind_tick(75.0), "blind")
    assert value(telemetry, "foresail_desired_replicas", **POOL_LABELS) == 5
    stopwatch.now_s += 2.0
    assert not {"foresail_desired_replicas", "wva_desired_replicas", "foresail_demand_per_second"} & names(telemetry)
    assert value(telemetry, "foresail_decision_age_seconds") == 301


def test_ticks_acts_and_reasons_are_counted(telemetry: Telemetry) -> None:
    record = scaling_tick(60.0)
    held = ActResult("restart", "r0", "held", "mode observe")
    tick(telemetry, replace(record, results=(*record.results, held)))
    tick(telemetry, replace(blind_tick(75.0), unrecorded="disk full"), "blind")
    tick(telemetry, None, "broken")
    assert value(telemetry, "foresail_ticks_total", outcome="acted") == 1
    assert value(telemetry, "foresail_ticks_total", outcome="blind") == 1
    assert value(telemetry, "foresail_ticks_total", outcome="broken") == 1
    assert value(telemetry, "foresail_acts_total", act="scale", outcome="done") == 1
    assert value(telemetry, "foresail_acts_total", act="restart", outcome="held") == 1
    assert value(telemetry, "foresail_audit_gaps_total") == 1
    assert record.decision is not None
    for reason in record.decision.reasons:
        assert (value(telemetry, "foresail_decision_reasons_total", rule=reason.rule) or 0) >= 1
    assert value(telemetry, "foresail_build_info", version="1.2.3") == 1


def test_rules_without_end_become_one_series(telemetry: Telemetry) -> None:
    record = quiet_tick(60.0)
    assert record.decision is not None
    made_up = tuple(Reason(f"rule {i}", "m", 1, 2, "") for i in range(MAX_RULES + 50))
    tick(telemetry, replace(record, decision=replace(record.decision, reasons=made_up)))
    assert value(telemetry, "foresail_decision_reasons_total", rule="other") == 50


def test_series_are_bounded_and_what_is_left_out_is_counted(stopwatch: Stopwatch) -> None:
    telemetry = telemetry_of(stopwatch, max_series=100)
    record = quiet_tick(60.0)
    assert record.fleet is not None
    pool = record.fleet.pools[0]
    many = tuple(replace(pool, key=PoolKey(f"m{i:03}", "x")) for i in range(150))
    tick(telemetry, replace(record, fleet=replace(record.fleet, pools=many)))
    found = [key for key in samples(telemetry) if key[0] == "foresail_requested_replicas"]
    assert len(found) == 100
    assert (value(telemetry, "foresail_series_dropped") or 0) >= 50


def test_hostile_names_stay_one_label_value(telemetry: Telemetry) -> None:
    record = quiet_tick(60.0)
    assert record.fleet is not None
    name = 'm"} 1\nevil_metric 1 \\' + "x" * 500
    pool = replace(record.fleet.pools[0], key=PoolKey(name, "p"))
    tick(telemetry, replace(record, fleet=replace(record.fleet, pools=(pool,))))
    (labels,) = [key[1] for key in samples(telemetry) if key[0] == "foresail_requested_replicas"]
    assert dict(labels)["model"] == name[:200]
    assert "evil_metric" not in names(telemetry)


def test_what_was_not_observed_has_no_sample(telemetry: Telemetry) -> None:
    record = quiet_tick(60.0)
    assert record.fleet is not None
    pools = tuple(replace(pool, weight=float("nan")) for pool in record.fleet.pools)
    tick(telemetry, replace(record, fleet=replace(record.fleet, pools=pools, demand={})))
    assert not {"foresail_weight_ratio", "foresail_demand_per_second"} & names(telemetry)


def test_the_age_of_the_loop_grows_until_a_tick_ends(telemetry: Telemetry, stopwatch: Stopwatch) -> None:
    stopwatch.now_s += 40.0
    assert value(telemetry, "foresail_loop_age_seconds") == 40.0
    tick(telemetry, None, "waiting")
    assert value(telemetry, "foresail_loop_age_seconds") == 0.0


def test_phases_are_timed_with_the_stopwatch_also_when_they_fail(stopwatch: Stopwatch) -> None:
    clock = PhaseClock(stopwatch)
    with clock("observe"):
        stopwatch.now_s += 2.0

    def fails() -> None:
        with clock("record"):
            stopwatch.now_s += 1.0
            raise ValueError("bug")

    with pytest.raises(ValueError, match="bug"):
        fails()
    with clock("record"):
        stopwatch.now_s += 0.5
    assert clock.taken_s == {"observe": 2.0, "record": 1.5}


def flat(at: float, rate: float, steps: int = 15) -> LoadForecast:
    """Return a forecast of ``rate`` with quantiles at 0.5 and 0.9, the upper one 20 % higher."""
    values = np.stack([np.full((steps, 3), rate), np.full((steps, 3), 1.2 * rate)])
    return LoadForecast.ordered(at, 60.0, np.array([0.5, 0.9]), values, "flat 1")


def test_forecasts_are_published_by_model_channel_level_and_lead(telemetry: Telemetry) -> None:
    tick(telemetry, replace(quiet_tick(60.0), forecasts={MODEL: flat(60.0, 10.0, steps=5)}))
    labels = {"model": MODEL, "channel": "requests"}
    assert value(telemetry, "foresail_forecast_per_second", **labels, level="0.5", lead_s="300") == 10.0
    assert value(telemetry, "foresail_forecast_peak_per_second", **labels, level="0.9", lead_s="60") == 12.0
    assert value(telemetry, "foresail_forecast_per_second", **labels, level="0.5", lead_s="900") is None


def test_a_forecast_is_compared_with_what_came_at_its_time(telemetry: Telemetry) -> None:
    for at, rate in ((0.0, 8.0), (15.0, 8.0), (60.0, 11.0), (75.0, 4.0)):
        record = quiet_tick(at)
        assert record.fleet is not None
        fleet = replace(record.fleet, demand={MODEL: Demand(rate, 0.0, 0.0)})
        tick(telemetry, replace(record, fleet=fleet, forecasts={MODEL: flat(at, 10.0)}))
    labels = {"model": MODEL, "lead_s": "60"}
    assert value(telemetry, "foresail_forecasts_scored_total", **labels) == 2
    assert value(telemetry, "foresail_forecast_error_ratio", **labels) == pytest.approx((10 - 4) / 4)
    assert value(telemetry, "foresail_forecasts_within_total", **labels, level="0.5") == 1
    assert value(telemetry, "foresail_forecasts_within_total", **labels, level="0.9") == 2


def test_a_forecast_whose_time_passed_unobserved_is_dropped() -> None:
    scores = ForecastScores((60.0,), (0.5,), tolerance_s=7.5)
    assert scores.add(0.0, {"m": flat(0.0, 10.0)}, {}) == []
    assert scores.add(60.0, {}, {}) == []
    assert scores.add(120.0, {}, {"m": Demand(10.0, 0.0, 0.0)}) == []


def test_scores_forget_models_and_are_bounded() -> None:
    scores = ForecastScores((60.0,), (0.5,), tolerance_s=7.5)
    for i in range(5000):
        scores.add(0.0, {"m": flat(float(i) * 1e-3, 10.0), "n": flat(0.0, 1.0)}, {})
    assert scores.models == {"m", "n"}
    scores.forget({"n"})
    assert scores.models == {"m"}
    assert len(scores.add(60.0, {}, {"m": Demand(1.0, 0.0, 0.0)})) <= 4096


def test_skill_is_published_by_workload_until_that_is_gone(telemetry: Telemetry) -> None:
    tick(telemetry, quiet_tick(60.0))
    telemetry.skill_seen({}, {}, (), {(MODEL, "300", "champion"): 0.25, ("gone", "300", "champion"): 0.5})
    labels = {"lead_s": "300", "role": "champion"}
    assert value(telemetry, "foresail_workload_skill_ratio", model=MODEL, **labels) == 0.25
    assert value(telemetry, "foresail_workload_skill_ratio", model="gone", **labels) is None
    telemetry.skill_seen({}, {}, (), {})  # the others had their turn: this one keeps what it has
    assert value(telemetry, "foresail_workload_skill_ratio", model=MODEL, **labels) == 0.25
    telemetry.skill_seen({}, {}, (), {(MODEL, "600", "plain"): float("nan")})
    assert value(telemetry, "foresail_workload_skill_ratio", model=MODEL, **labels) is None
    assert "foresail_workload_skill_ratio" not in names(telemetry)


def test_pods_that_the_cluster_does_not_know_are_counted_at_each_tick(telemetry: Telemetry) -> None:
    tick = quiet_tick(1000.0)
    assert tick.fleet is not None
    told = replace(tick, fleet=replace(tick.fleet, missing=("unknown:3 pods (a, b, c)",)))
    for record in (tick, told, told):
        telemetry.tick_ended(record, "decided", 0.1, 0)
    assert samples(telemetry)["foresail_unknown_pods_total", ()] == 6.0


def test_what_is_recommended_is_what_is_published_and_no_longer(stopwatch: Stopwatch) -> None:
    telemetry = telemetry_of(stopwatch, namespace="serving", variants={str(POOL): "llama"}, publish_for_s=100.0)
    assert telemetry.recommended().desired == {}
    tick(telemetry, scaling_tick(60.0))
    found = telemetry.recommended()
    assert found.desired == {str(POOL): 5, str(SPARE): 0}
    assert found.targets == {("serving", "llama"): str(POOL), ("serving", SPARE.pool): str(SPARE)}
    tick(telemetry, blind_tick(120.0))
    stopwatch.now_s += 100.0
    assert telemetry.recommended().desired == found.desired
    stopwatch.now_s += 1.0
    assert telemetry.recommended().desired == {}
    assert set(telemetry.recommended().pools) == {str(POOL), str(SPARE)}


def test_a_target_that_two_pools_share_means_neither(stopwatch: Stopwatch) -> None:
    telemetry = telemetry_of(stopwatch, variants={str(POOL): "same", str(SPARE): "same"})
    assert telemetry.recommended().targets == {}


def test_who_else_sizes_a_pool_is_a_conflict_only_where_foresail_is_to_scale_it(telemetry: Telemetry) -> None:
    record = scaling_tick(60.0)
    assert record.fleet is not None
    owned = replace(record.fleet, pools=tuple(replace(pool, owner="HPA serving/llama") for pool in record.fleet.pools))

    def conflict(record: TickRecord, modes: ModeSettings) -> float | None:
        telemetry.configure(TelemetrySettings(), POLICY, modes)
        tick(telemetry, record)
        return value(telemetry, "foresail_ownership_conflict", **POOL_LABELS)

    assert conflict(record, ModeSettings.all_auto()) == 0
    assert conflict(replace(record, fleet=owned), ModeSettings()) == 0
    assert conflict(replace(record, fleet=owned), ModeSettings.all_auto()) == 1
    modes = ModeSettings.model_validate({"workloads": {MODEL: {"scaling": "approve"}}})
    assert conflict(replace(record, fleet=owned), modes) == 1


def test_acts_whose_plan_was_stale_are_counted_apart_from_those_that_failed(telemetry: Telemetry) -> None:
    results = (
        ActResult("scale", str(POOL), "failed", f"{STALE}: it is at generation 4, not 3"),
        ActResult("scale", str(SPARE), "held", STALE),
        ActResult("scale", str(SPARE), "failed", "403 forbidden"),
    )
    tick(telemetry, replace(scaling_tick(60.0), results=results))
    assert value(telemetry, "foresail_stale_plans_total", act="scale") == 2
    assert value(telemetry, "foresail_acts_total", act="scale", outcome="failed") == 2
