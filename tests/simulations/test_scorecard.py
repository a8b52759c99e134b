"""Is every figure of a scorecard what a hand count gives?"""

from __future__ import annotations

import json
import math

import pytest

from controller.ports import ActResult, TickRecord
from policies.decisions import Decision, RestartReplica, ScalingPlan, TrafficPlan
from policies.fleet import FleetState, Phase, PoolKey, PoolState, ReplicaState
from policies.memory import PolicyMemory
from policies.slo import ServiceObjective
from simulations.outcomes import Outcomes, RequestStatus
from simulations.scorecard import Bill, Tally, curves, score
from simulations.tallies import Exact

KEY = PoolKey("m", "p")
OBJECTIVE = ServiceObjective(ttft_s=2.0, tpot_s=0.1)
BILL = Bill(gpu_s=7200.0, replica_s=1800.0, usd=4.0)


def four_requests() -> Outcomes:
    """One good, one late to its first token, one refused, one lost with its replica."""
    outcomes = Outcomes()
    for at in (0.0, 10.0, 70.0, 80.0):
        outcomes.arrived(at, 100, 11)
    outcomes.ended(0, RequestStatus.COMPLETED, 0, 1.0, 1.5)  # TTFT 1 s, TPOT 0.05 s
    outcomes.ended(1, RequestStatus.COMPLETED, 0, 15.0, 15.5)  # TTFT 5 s
    outcomes.ended(2, RequestStatus.FAILED, -1, math.nan, 130.0)
    outcomes.ended(3, RequestStatus.DROPPED_IN_FLIGHT, 0, 81.0, 82.0)
    return outcomes


def record(at: float, plans: tuple[ScalingPlan, ...] = (), outcome: str = "done", **decided: object) -> TickRecord:
    replicas = tuple(
        ReplicaState(name, phase, 0.0, 0.0)
        for name, phase in (("a", Phase.READY), ("b", Phase.LOADING), ("c", Phase.DRAINING))
    )
    fleet = FleetState(at, (PoolState(KEY, replicas, desired=2, gpus_per_replica=4),))
    parts = {"traffic": (), "remediations": (), **decided}
    decision = Decision(
        at=at,
        generation=1,
        input_digest="x",
        expires_at=at + 30,
        scaling=plans,
        anomalies=(),
        diagnoses=(),
        reasons=(),
        memory=PolicyMemory(),
        **parts,  # type: ignore[arg-type]
    )
    results = tuple(ActResult("scale", str(plan.pool), outcome) for plan in plans)
    return TickRecord(at, fleet, {"m": "ets"}, decision, results)


def plan(current: int, desired: int) -> ScalingPlan:
    return ScalingPlan(KEY, current, desired, version=1)


def test_failed_and_dropped_requests_count_against_attainment() -> None:
    card = score("x", Exact(four_requests(), OBJECTIVE), BILL, Tally(), 100.0, ())
    assert (card.requests, card.completed, card.failed, card.dropped_in_flight) == (4, 2, 1, 1)
    assert card.slo_attainment_ratio == 0.25
    assert card.goodput_requests_per_s == 0.01
    assert card.goodput_tokens_per_s == 0.11


def test_latencies_are_over_requests_that_have_them() -> None:
    card = score("x", Exact(four_requests(), OBJECTIVE), BILL, Tally(), 100.0, ())
    assert card.ttft_p50_s == 1.0  # of 1, 5 and 1 s: the dropped one had a first token
    assert card.ttft_p99_s == pytest.approx(4.92)  # numpy's linear quantile: 1 + 0.98 * 4
    assert card.tpot_p50_s == pytest.approx(0.05)


def test_a_request_that_never_ended_is_a_failed_one() -> None:
    outcomes = Outcomes()
    outcomes.arrived(0.0, 10, 10)
    card = score("x", Exact(outcomes, OBJECTIVE), BILL, Tally(), 100.0, ())
    assert (card.failed, card.slo_attainment_ratio) == (1, 0.0)
    assert math.isnan(card.ttft_p95_s)


def test_gpus_are_counted_in_hours_and_replicas_on_average() -> None:
    card = score("x", Exact(four_requests(), OBJECTIVE), BILL, Tally(), 100.0, ())
    assert (card.gpu_hours, card.cost_usd, card.mean_replicas) == (2.0, 4.0, 18.0)


def test_json_has_no_nan() -> None:
    outcomes = Outcomes()
    text = json.dumps(
        score("x", Exact(outcomes, OBJECTIVE), BILL, Tally(), 100.0, ("broken",)).as_json(), allow_nan=False
    )
    back = json.loads(text)
    assert back["slo_attainment_ratio"] is None
    assert back["violations"] == ["broken"]


def test_json_has_the_promised_fields_in_their_order() -> None:
    card = score("x", Exact(four_requests(), OBJECTIVE), BILL, Tally(), 100.0, ())
    promised = """
    policy requests completed failed dropped_in_flight slo_attainment_ratio ttft_p50_s ttft_p95_s ttft_p99_s tpot_p50_s
    tpot_p95_s goodput_requests_per_s goodput_tokens_per_s gpu_hours cost_usd mean_replicas peak_replicas scale_ups
    scale_downs simulated_s wall_s decisions_digest violations
    """
    assert list(card.as_json()) == promised.split()


def test_the_tally_counts_scaling_that_was_carried_out() -> None:
    tally = Tally()
    tally.add(record(0.0, (plan(2, 5),)), 0.0)
    tally.add(record(15.0, (plan(5, 3),)), 15.0)
    tally.add(record(30.0, (plan(3, 9),), outcome="failed"), 30.0)
    assert (tally.scale_ups, tally.scale_downs) == (1, 1)
    assert [point.desired for point in tally.timeline] == [5, 3, 2]
    first = tally.timeline[0]
    assert (first.ready, first.starting, first.existing, first.source) == (1, 1, 3, "ets")
    assert first.ready_in == ((str(KEY), 1),)


def test_a_tick_that_could_not_observe_counts_for_the_digest_only() -> None:
    seen, blind = Tally(), Tally()
    for tally in (seen, blind):
        tally.add(record(0.0), 0.0)
    blind.add(TickRecord(15.0, None, {}, None, error="no metrics"), 15.0)
    assert len(blind.timeline) == 1
    assert seen.digest(()) != blind.digest(())


def test_equal_acts_and_totals_have_equal_digests() -> None:
    def digest_of(records: list[TickRecord], totals: tuple[float, ...] = (1, 2)) -> str:
        tally = Tally()
        for each in records:
            tally.add(each, each.at)
        return tally.digest(totals)

    base = [record(0.0, (plan(2, 5),)), record(15.0)]
    assert digest_of(base) == digest_of([record(0.0, (plan(2, 5),)), record(15.0)])
    others = [
        digest_of([record(0.0, (plan(2, 6),)), record(15.0)]),
        digest_of([record(0.0, (plan(2, 5),)), record(16.0)]),
        digest_of([record(0.0), record(15.0, (plan(2, 5),))]),
        digest_of([record(0.0, (plan(2, 5),)), record(15.0, traffic=(TrafficPlan("m", {KEY: 1.0}),))]),
        digest_of([record(0.0, (plan(2, 5),)), record(15.0, remediations=(RestartReplica("a", KEY, "F1"),))]),
        digest_of(base, totals=(1, 3)),
    ]
    assert len({digest_of(base), *others}) == len(others) + 1


def test_curves_are_per_minute_of_arrival() -> None:
    drawn = curves(Exact(four_requests(), OBJECTIVE), simulated_s=90.0)
    assert drawn.requests_per_s == (2 / 60, 2 / 30)  # the second step is only half a minute long
    assert drawn.within_ratio == (0.5, 0.0)
    assert drawn.ttft_p95_s[1] == 1.0


def test_a_minute_without_requests_has_no_latency() -> None:
    outcomes = Outcomes()
    outcomes.arrived(0.0, 1, 1)
    outcomes.ended(0, RequestStatus.COMPLETED, 0, 1.0, 1.0)
    drawn = curves(Exact(outcomes, OBJECTIVE), simulated_s=120.0)
    assert drawn.requests_per_s[1] == 0.0
    assert math.isnan(drawn.ttft_p95_s[1])
    assert math.isnan(drawn.within_ratio[1])
