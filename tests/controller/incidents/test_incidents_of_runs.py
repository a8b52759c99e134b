"""Does the record of a closed-loop run tell what really happened in it?"""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.incidents.incident import Incident
from controller.incidents.related import related_in
from controller.incidents.tables import dry_run_line, summary_line
from controller.incidents.verdict import verdicts_of
from controller.modes import Mode, ModeSettings
from policies.decisions import CordonReplica, RestartReplica
from policies.fleet import PoolKey
from tests.builders import AT
from tests.builders_incidents import WATCHED, Run, TriggerHappy, the_one

TICK_S = 15.0


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


def told(incident: Incident, *kinds: str) -> list[tuple[float, str]]:
    """Return ``(seconds since the first evidence, what it is about)`` of the events of some kinds."""
    return [(event.at - incident.began_at, event.name) for event in incident.events if event.what in kinds]


def verdicts(incident: Incident) -> dict[str, str]:
    return {held.verb: verdict.word for held, verdict in verdicts_of(incident)}


def test_a_hang_that_is_healed_is_one_incident_from_its_onset_to_working_tokens(db: Path) -> None:
    run = Run(db)
    sick = run.engine
    sick.hung, hung_at = True, run.world.clock.at
    run.run(900.0)
    incident = the_one(run.incidents())
    assert (incident.cause, incident.subject.name, incident.state, incident.over) == ("F1", sick.id, "recovered", True)
    assert abs(incident.began_at - hung_at) <= TICK_S  # no evidence comes between two looks
    acts = [(after, verb) for after, verb, subject in run.world.acts if subject == sick.id]
    began_s = incident.began_at - AT
    assert [(began_s + after, name) for after, name in told(incident, "done") if name != "scale"] == acts
    assert incident.first_act_s == incident.detect_s == told(incident, "done")[0][0]
    assert [name for _, name in told(incident, "checked")] == ["restart", "tokens flow"]
    assert incident.lost_inside is not None
    assert incident.lost_inside > 0
    restarted_s = next(after for after, name in told(incident, "done") if name == "restart")
    assert incident.recover_s is not None
    assert restarted_s < incident.recover_s <= restarted_s + run.world.lead_s + 2 * TICK_S


def test_the_spans_say_when_it_was_out_of_traffic_and_when_another_one_served(db: Path) -> None:
    run = Run(db)
    run.engine.hung = True
    run.run(900.0)
    incident = the_one(run.incidents())
    assert [span.condition for span in incident.spans if span.cause] == ["serving", "out"]
    assert incident.spans[1].cordon_is_ours
    assert incident.spans[-1].condition == "replaced"
    assert incident.spans[-1].well
    assert incident.spans[-1].from_at == incident.recovered_at
    for earlier, later in zip(incident.spans, incident.spans[1:], strict=False):
        assert earlier.until_at < later.from_at


def test_a_process_that_exits_recovers_when_it_serves_again_not_when_it_starts(db: Path) -> None:
    run = Run(db)
    sick = run.engine
    run.world.crash(sick.id)
    run.run(900.0)
    incident = the_one(run.incidents())
    assert (incident.cause, incident.state) == ("F2", "recovered")
    assert [span.condition for span in incident.spans] == ["failed", "starting", "serving"]
    assert incident.recovered_at is not None
    assert 0 <= incident.recovered_at - sick.since_at <= TICK_S
    assert ("left to the platform") in [name for _, name in told(incident, "rule")]


def test_failed_answers_are_counted_while_it_was_ill(db: Path) -> None:
    run = Run(db)
    sick = run.engine
    sick.error_ratio = 0.8
    run.run(900.0)
    incident = the_one(run.incidents())
    assert incident.causes == ("unknown", "F2")
    assert incident.failed_requests is not None
    assert 0.9 * sick.failed <= incident.failed_requests <= sick.failed  # whole answers are counted, tick by tick


def test_a_healthy_fleet_has_no_incident(db: Path) -> None:
    run = Run(db)
    run.run(600.0)
    assert run.incidents() == []
    assert summary_line([]) == "No incident."


def test_what_is_still_ill_at_the_end_of_the_log_is_told_as_that(db: Path) -> None:
    run = Run(db, WATCHED)
    run.engine.hung = True
    run.run(60.0)
    incident = the_one(run.incidents())
    assert (incident.state, incident.over, incident.recovered_at) == ("ill", False, None)
    assert verdicts(incident) == {"cordon": "open"}


def test_incidents_that_begin_together_in_one_place_are_related_and_others_are_not(db: Path) -> None:
    run = Run(db, WATCHED)
    first = run.engine
    first.hung = True
    run.run(30.0)
    second = next(engine for engine in run.world.of() if engine.serving and engine is not first)
    second.slowdown = 4.0
    run.run(400.0)
    first.hung, second.slowdown = False, 1.0
    run.run(600.0)
    run.engine.hung = True
    run.run(200.0)
    incidents = run.incidents()
    related = related_in(incidents)
    assert [incident.subject.name for incident in incidents] == [first.id, second.id, run.engine.id]
    assert related[incidents[0].id].ids == (incidents[1].id,)
    assert related[incidents[0].id].place == "revision 1 of m/a/unified"
    assert incidents[2].id not in related


# ---- held acts


def test_what_stays_ill_would_rightly_have_been_cordoned_and_restarted(db: Path) -> None:
    run = Run(db, WATCHED)
    run.engine.hung = True
    run.run(600.0)
    incident = the_one(run.incidents())
    assert verdicts(incident) == {"cordon": "right", "restart": "right"}
    held = [name for _, name in told(incident, "held")]
    assert held.index("cordon") < held.index("restart")
    assert run.world.acts == []


def test_a_stall_that_ends_before_a_restart_would_have_helped_needed_none(db: Path) -> None:
    run = Run(db, WATCHED)
    sick = run.engine
    sick.hung = True
    run.run_until_wanted(RestartReplica)
    sick.hung = False
    run.run(600.0)
    incident = the_one(run.incidents())
    assert incident.state == "recovered"
    assert verdicts(incident) == {"cordon": "right", "restart": "needless"}
    assert dry_run_line([incident]) == "dry run: 2 acts would have been done, 1 right, 1 needless, 0 wrong"


def test_a_slow_replica_that_recovers_at_once_needed_no_cordon(db: Path) -> None:
    run = Run(db, WATCHED)
    sick = run.engine
    sick.slowdown = 4.0
    run.run_until_wanted(CordonReplica)
    sick.slowdown = 1.0
    run.run(600.0)
    incident = the_one(run.incidents())
    assert incident.cause == "F8"
    assert verdicts(incident) == {"cordon": "needless"}


def test_a_slow_replica_that_stays_slow_would_rightly_have_been_cordoned(db: Path) -> None:
    run = Run(db, WATCHED)
    run.engine.slowdown = 4.0
    run.run(600.0)
    assert verdicts(the_one(run.incidents())) == {"cordon": "right"}


def test_somebody_else_who_restarts_it_proves_the_restart_right(db: Path) -> None:
    run = Run(db, WATCHED)
    sick = run.engine
    sick.hung = True
    run.run_until_wanted(RestartReplica)
    run.world.restart(sick.key, sick.id)
    run.run(600.0)
    incident = the_one(run.incidents())
    ((_, cordon), (_, restart)) = verdicts_of(incident)
    assert (cordon.word, restart.word) == ("right", "right")
    assert "its life ended" in restart.why
    assert incident.state == "recovered"


@pytest.mark.parametrize("families", [("progress", "gateway"), ("latency", "peers"), ("answers", "cohort")])
def test_an_act_against_what_works_would_have_been_wrong(db: Path, families: tuple[str, ...]) -> None:
    run = Run(db, WATCHED, TriggerHappy("a1", AT + 400.0, AT + 480.0, families))
    run.run(900.0)
    incident = the_one(run.incidents())
    assert verdicts(incident) == {"cordon": "wrong", "restart": "wrong"}
    assert dry_run_line([incident]) == "dry run: 2 acts would have been done, 0 right, 0 needless, 2 wrong"


def test_an_open_verdict_says_when_it_will_be_known(db: Path) -> None:
    run = Run(db, WATCHED)
    run.engine.hung = True
    run.run_until_wanted(RestartReplica)
    incident = the_one(run.incidents())
    open_ones = {held.verb: (held, verdict) for held, verdict in verdicts_of(incident) if verdict.word == "open"}
    held, verdict = open_ones["restart"]
    assert verdict.known_at == held.first_at + held.remedy_s
    run.run(150.0)
    assert verdicts(the_one(run.incidents()))["restart"] == "right"


def test_what_the_kill_switch_held_is_judged_too_and_what_was_done_later_is_not(db: Path) -> None:
    killed = [True]
    run = Run(db, killed=lambda: killed[0])
    run.engine.hung = True
    run.run(75.0)
    killed[0] = False
    run.run(600.0)
    incident = the_one(run.incidents())
    assert ("cordon", "kill switch") in [(e.name, e.text) for e in incident.events if e.what == "held"]
    assert verdicts(incident) == {}
    assert incident.state == "recovered"


def test_a_mode_of_recommend_is_a_dry_run_too(db: Path) -> None:
    run = Run(db, ModeSettings(scaling=Mode.AUTO, traffic=Mode.AUTO, healing=Mode.RECOMMEND))
    run.engine.hung = True
    run.run(300.0)
    incident = the_one(run.incidents())
    assert {held.why for held, _ in verdicts_of(incident)} == {"mode recommend"}


def test_ids_and_incidents_do_not_depend_on_where_reading_begins(db: Path) -> None:
    run = Run(db)
    for _ in range(3):
        run.engine.hung = True
        run.run(900.0)
    whole = run.incidents()
    assert len(whole) == 3
    for incident in whole:
        for at in (incident.suspected_at, incident.recovered_at, incident.seen_until_at):
            assert at is not None
            assert incident in run.incidents(since_at=at)
            assert incident in run.incidents(until_at=at)
    assert run.incidents(until_at=whole[0].suspected_at) == whole[:1]
    assert run.incidents(since_at=whole[2].suspected_at) == whole[2:]


def test_another_pool_is_another_subject(db: Path) -> None:
    run = Run(db, WATCHED)
    run.world.add_pool(PoolKey("m", "b"), replicas=3)
    run.run(15.0)
    assert run.incidents() == []
