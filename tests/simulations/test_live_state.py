"""What is shown of a run after each tick."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from controller.ports import ActResult, TickRecord
from policies.decisions import (
    CordonReplica,
    Diagnosis,
    FailOver,
    Page,
    PauseRollout,
    Reason,
    RestartReplica,
    RollBack,
    ScalingPlan,
    TrafficPlan,
    UncordonReplica,
)
from policies.fleet import Phase
from simulations.live_state import PoolRow, Tally, ViewState, advance
from tests.builders_live import A100, H100, MODEL, SOURCE, forecast_of, pool_of, record_of

R, L, D, F, P = Phase.READY, Phase.LOADING, Phase.DRAINING, Phase.FAILED, Phase.PENDING
VIEW = ViewState("demo", "foresail", "load v1", begins_at=0.0, ends_at=3600.0)
HANG = Diagnosis("F1", "a100-1", A100, 100.0, ("peers", "progress"), "engine hangs: no step for 60 s")
EXIT = Diagnosis("F2", "a100-1", A100, 100.0, ("platform",), "engine exited")


def after(*records: TickRecord, view: ViewState = VIEW) -> ViewState:
    for record in records:
        view = advance(view, record, {}, Tally())
    return view


def test_replicas_are_counted_by_what_they_are_worth() -> None:
    pool = pool_of(A100, [R, R, R, L, P, D, F], desired=6, weight=0.75, cordoned=["a100-2"])
    diagnosis = replace(HANG, subject="a100-1")
    view = after(record_of(150.0, [pool], diagnoses=[diagnosis]))
    assert view.pools == (PoolRow("a100", ready=1, starting=2, draining=1, sick=3, desired=6, weight=0.75),)


def test_evidence_of_one_kind_does_not_call_a_replica_sick() -> None:
    view = after(record_of(150.0, [pool_of(A100, [R, R])], diagnoses=[replace(HANG, cause="unknown")]))
    assert view.pools[0].ready == 2
    assert view.incidents == ()


def test_what_was_just_decided_is_shown_as_wanted() -> None:
    plan = ScalingPlan(A100, current=2, desired=5, version=1)
    assert after(record_of(15.0, [pool_of(A100, [R, R])], scaling=[plan])).pools[0].desired == 5


def test_load_that_was_not_observed_is_a_gap_and_not_zero() -> None:
    view = after(record_of(15.0, [pool_of(A100, [R])], 18.0), record_of(30.0, [pool_of(A100, [R])], None))
    assert view.load[0].requests_per_s == 18.0
    assert math.isnan(view.load[1].requests_per_s)


def test_a_tick_that_saw_nothing_keeps_the_replicas_and_says_why() -> None:
    seen = after(record_of(15.0, [pool_of(A100, [R])]))
    view = advance(seen, TickRecord(30.0, None, {}, None, error="metrics store is gone"), {}, Tally())
    assert view.pools == seen.pools
    assert view.unseen == "metrics store is gone"
    assert view.ahead == ()
    assert after(record_of(45.0, [pool_of(A100, [R])]), view=view).unseen == ""


def test_old_load_is_forgotten() -> None:
    view = after(*(record_of(15.0 * tick, [pool_of(A100, [R])]) for tick in range(1, 400)))
    assert view.load[0].at == view.at - view.look_back_s
    assert len(view.load) == 161  # 2400 s in steps of 15 s, both ends


def test_the_band_of_the_past_was_made_a_lead_time_before() -> None:
    view = VIEW
    for tick in range(1, 9):
        at = 15.0 * tick
        # The step that begins a minute ahead is the last one whose middle lies within the lead time of 120 s.
        forecast = forecast_of(at, [1.0, 100.0 + tick, 3.0])
        view = advance(view, record_of(at, [pool_of(A100, [R])]), {MODEL: forecast}, Tally())
    assert [p.at for p in view.foreseen] == [15.0 * tick + 90.0 for tick in range(1, 9)]
    assert [p.middle for p in view.foreseen] == [100.0 + tick for tick in range(1, 9)]
    assert (view.foreseen[0].low, view.foreseen[0].high) == (99.0, 103.0)
    assert [p.middle for p in view.ahead] == [1.0, 108.0, 3.0]


def test_models_add_up() -> None:
    forecasts = {"a": forecast_of(15.0, [10.0, 10.0]), "b": forecast_of(15.0, [5.0, 6.0, 7.0])}
    view = advance(VIEW, record_of(15.0, [pool_of(A100, [R])]), forecasts, Tally())
    assert [p.middle for p in view.ahead] == [15.0, 16.0]


def test_an_incident_is_told_once_from_diagnosis_to_the_replica_in_its_place() -> None:
    sick = pool_of(A100, [R, R])
    out = pool_of(A100, [R, R], cordoned=["a100-1"])
    # The platform starts another under a new name: here the third.
    gone = pool_of(A100, [R, L], requested_at={"a100-1": 240.0})
    gone = replace(gone, replicas=(gone.replicas[0], replace(gone.replicas[1], id="a100-9")))
    whole = replace(gone, replicas=(gone.replicas[0], replace(gone.replicas[1], phase=R)))
    cordon, restart = CordonReplica("a100-1", A100, "F1"), RestartReplica("a100-1", A100, "F1")
    records = [
        record_of(
            150.0, [sick], diagnoses=[HANG], remediations=[cordon], results=[ActResult("cordon", "a100-1", "done")]
        ),
        record_of(165.0, [out], diagnoses=[replace(HANG, sentence="still")]),
        record_of(
            240.0, [out], diagnoses=[HANG], remediations=[restart], results=[ActResult("restart", "a100-1", "done")]
        ),
        record_of(255.0, [gone]),
    ]
    (incident,) = after(*records).incidents
    assert (incident.at, incident.cause, incident.sentence) == (150.0, "F1", HANG.sentence)
    assert incident.steps == ((150.0, "taken out of traffic"), (240.0, "restarted"))
    assert incident.over_at is None
    (closed,) = after(*records, record_of(360.0, [whole])).incidents
    assert closed.over_at == 360.0
    assert after(*records, record_of(360.0, [whole]), record_of(375.0, [whole])).incidents == (closed,)


def test_a_crash_is_over_when_the_same_replica_serves_again() -> None:
    left = Reason("left to the platform", "a100-1", 0, 0, "F2 engine exited; it restarts what exits")
    records = [
        record_of(105.0, [pool_of(A100, [R, F])], diagnoses=[EXIT], reasons=[left]),
        record_of(120.0, [pool_of(A100, [R, L])]),
    ]
    (incident,) = after(*records).incidents
    assert incident.steps == ((105.0, "the platform restarts it"),)
    assert incident.over_at is None
    assert after(*records, record_of(240.0, [pool_of(A100, [R, R])])).incidents[0].over_at == 240.0


def test_a_second_failure_of_a_replica_is_a_second_incident() -> None:
    whole = record_of(240.0, [pool_of(A100, [R, R])])
    again = record_of(500.0, [pool_of(A100, [R, F])], diagnoses=[replace(EXIT, since_at=490.0)])
    view = after(record_of(105.0, [pool_of(A100, [R, F])], diagnoses=[EXIT]), whole, again)
    assert [(i.at, i.over_at) for i in view.incidents] == [(105.0, 240.0), (500.0, None)]


FAIL_OVER = FailOver(MODEL, A100, H100, "serves with 1 of 4 replicas")


@pytest.mark.parametrize(
    ("remedy", "told"),
    [
        (UncordonReplica("a100-1", A100, "recovered"), ("a100-1", "recovered", "back in traffic")),
        (FAIL_OVER, ("pool a100", "serves with 1 of 4 replicas", "traffic moves to h100")),
        (Page(MODEL, "breaker", "4 of 8 look sick"), (MODEL, "4 of 8 look sick", "a human is called")),
    ],
)
def test_every_remedy_is_told(remedy: UncordonReplica | FailOver | Page, told: tuple[str, str, str]) -> None:
    (incident,) = after(record_of(150.0, [pool_of(A100, [R, R])], remediations=[remedy])).incidents
    assert (incident.subject, incident.sentence, incident.steps[0][1]) == told


def test_what_is_believed_of_a_pool_and_what_is_done_to_it_are_one_incident() -> None:
    bad = Diagnosis("F3", "", A100, 100.0, ("cohort", "revision"), "a new revision fails", scope="pool")
    other = replace(bad, pool=H100, since_at=120.0)
    both = [pool_of(A100, [R, R]), pool_of(H100, [R])]
    acts = [PauseRollout(A100, "F3"), RollBack(A100, "1", "2", "F3"), Page(str(A100), "F3", "it was rolled back")]
    view = after(
        record_of(150.0, both, diagnoses=[bad, other], remediations=acts), record_of(165.0, both, diagnoses=[other])
    )
    assert [(i.subject, i.over_at) for i in view.incidents] == [("pool a100", 165.0), ("pool h100", None)]
    words = ["its rollout is paused", "rolled back from revision 2 to 1", "a human is called"]
    assert [told for _, told in view.incidents[0].steps] == words


def test_a_failover_lasts_as_long_as_it_is_decided() -> None:
    both = [pool_of(A100, [R, F]), pool_of(H100, [R])]
    view = after(record_of(150.0, both, remediations=[FAIL_OVER]), record_of(165.0, both, remediations=[FAIL_OVER]))
    assert [(i.at, i.over_at) for i in view.incidents] == [(150.0, None)]
    assert after(record_of(180.0, both), view=view).incidents[0].over_at == 180.0


def test_a_sick_replica_that_is_given_up_is_over_when_the_pool_does_without_it() -> None:
    sick = record_of(150.0, [pool_of(A100, [R, R])], diagnoses=[HANG])
    short = record_of(165.0, [pool_of(A100, [R], desired=2)])
    enough = record_of(180.0, [pool_of(A100, [R], desired=1)])
    assert after(sick, short).incidents[0].over_at is None
    assert after(sick, short, enough).incidents[0].over_at == 180.0


def test_a_remedy_that_was_held_is_not_told_as_done() -> None:
    cordon = CordonReplica("a100-1", A100, "F1")
    held = ActResult("cordon", A100.replica("a100-1"), "held", "mode observe")
    record = record_of(150.0, [pool_of(A100, [R, R])], diagnoses=[HANG], remediations=[cordon], results=[held])
    assert after(record).incidents[0].steps == ((150.0, "not taken out of traffic, held: mode observe"),)


@pytest.mark.parametrize(
    ("desired", "rules", "why"),
    [
        (5, ("predictive target",), "load to come: because"),
        (5, ("predictive target", "burn rate"), "the objective is being missed: because"),
        (5, ("reactive only",), "load there is: because"),
        (1, ("predictive target", "backlog"), "load to come: because"),
        (5, ("out of room",), "out of room: because"),
    ],
)
def test_a_change_of_size_names_its_most_urgent_reason(desired: int, rules: tuple[str, ...], why: str) -> None:
    reasons = [Reason(rule, MODEL, 3, desired, f"because ({SOURCE})") for rule in rules]
    plan = ScalingPlan(A100, current=3, desired=desired, version=1)
    (line,) = after(record_of(15.0, [pool_of(A100, [R, R, R])], scaling=[plan], reasons=reasons)).decisions
    assert line.what == f"a100 3 -> {desired} replicas"
    assert line.why == why if rules != ("out of room",) else line.why.startswith(why)


@pytest.mark.parametrize(
    "detail", ["20 requests/s ({}); 2 per replica", "20 requests/s ({}, level 0.90); 2 per replica"]
)
def test_who_forecast_is_said_in_the_header_alone(detail: str) -> None:
    why = Reason("predictive target", MODEL, 3, 5, detail.format(SOURCE))
    shown = after(record_of(15.0, [pool_of(A100, [R])], reasons=[why])).now
    assert shown.startswith("load to come: 20 requests/s")
    assert SOURCE not in shown


def test_only_larger_moves_of_traffic_are_told() -> None:
    pools = [pool_of(A100, [R], weight=0.6), pool_of(H100, [R], weight=0.4)]
    small = record_of(15.0, pools, traffic=[TrafficPlan(MODEL, {A100: 0.55, H100: 0.45})])
    why = Reason("traffic", str(H100), 0.4, 0.6, "ready headroom 9.00 requests/s")
    large = record_of(30.0, pools, traffic=[TrafficPlan(MODEL, {A100: 0.4, H100: 0.6})], reasons=[why])
    (line,) = after(small, large).decisions
    assert (line.at, line.what, line.why) == (30.0, "traffic to h100 40% -> 60%", "ready headroom 9.00 requests/s")
