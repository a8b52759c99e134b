"""What becomes of playbooks and cordons whose pool, subject, cause or treatment is not what it was?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from policies.anomaly import Watch
from policies.decisions import CordonReplica, Diagnosis, Page, RestartReplica
from policies.fleet import FleetState, Phase
from policies.healing import Course, heal
from policies.healing_memory import ActionMemory, CordonMemory, RunMemory, StepMemory, XidMemory
from policies.healing_settings import HealingSettings
from policies.memory import PolicyMemory, PoolMemory, ReplicaMemory
from policies.playbook_catalogue import shipped_playbooks
from policies.undone import not_to_be_learned
from policies.wire import digest
from tests.builders import AT, KEY, MODEL, OTHER, fleet
from tests.builders_playbooks import A0, HANG, LEAD, playbook, remembered, some

EXITED = Diagnosis("F2", "a0", KEY, AT - 60.0, ("exit", "platform"), "it exited", name="exited")
EJECT = shipped_playbooks()["eject-and-restart"]


def a_run(name: str = "eject-and-restart", **changes: Any) -> RunMemory:
    known = shipped_playbooks().get(name)
    made = RunMemory(name, digest(known), "hang", "F1", str(KEY), "a0", "a0#0", AT - 600.0, AT + 1e5, "it stands still")
    return replace(made, **changes)


def healed(
    *diagnoses: Diagnosis,
    memory: PolicyMemory | None = None,
    settings: HealingSettings | None = None,
    state: FleetState | None = None,
    seen: Mapping[str, ReplicaMemory] | None = None,
) -> Course:
    state = state or fleet(some())
    known = remembered(state) if seen is None else seen
    watch = Watch((), known, frozenset(known))
    return heal(
        state,
        diagnoses,
        watch,
        memory or PolicyMemory(),
        {str(KEY): LEAD},
        {str(KEY): 0},
        settings or HealingSettings(),
    )


def pages(course: Course) -> list[str]:
    return [r.message for r in course.remediations if isinstance(r, Page)]


def test_the_run_of_a_pool_that_is_gone_for_good_is_over_and_holds_nothing() -> None:
    run = a_run("fail-over", pool=str(OTHER), subject="", holding=("learning", "shrinking"))
    runs = {str(OTHER): run}
    unlisted = PolicyMemory(pools={str(OTHER): PoolMemory(listed_at=AT - 15.0)}, runs=runs)
    assert healed(memory=unlisted).runs == runs
    forgotten = replace(unlisted, pools={str(KEY): PoolMemory()})
    assert not_to_be_learned(forgotten) == {MODEL}
    after = healed(memory=forgotten).runs
    assert (dict(after), not_to_be_learned(replace(forgotten, runs=after))) == ({}, frozenset())


def test_the_run_of_a_replica_that_somebody_else_deleted_is_over() -> None:
    asked = a_run(steps={"steps.0": StepMemory(AT - 600.0, AT - 600.0, 1, "done")})
    state = fleet(some())
    state = fleet(replace(state.pools[0], replicas=state.pools[0].replicas[1:]))
    course = healed(memory=PolicyMemory(runs={A0: asked}), state=state)
    assert (dict(course.runs), pages(course)) == ({}, [])


def test_what_is_left_of_a_replica_that_was_retired_as_it_got_its_traffic_back_asks_for_nothing() -> None:
    """It is remembered for as long as the replica is, which the platform may have left out by mistake."""
    steps = {"steps.0": StepMemory(AT - 600.0, AT - 600.0, 1, "done"), "after.0": StepMemory(AT - 15.0, AT - 15.0, 1)}
    memory = replace(cordoned(), runs={A0: a_run(steps=steps, state="closing")})
    whole = fleet(some())
    state = fleet(replace(whole.pools[0], replicas=whole.pools[0].replicas[1:]))
    lately = healed(memory=memory, state=state, seen=remembered(whole))
    assert (lately.remediations, dict(lately.runs), dict(lately.holding)) == ((), dict(memory.runs), {})
    later = healed(memory=memory, state=state)
    assert (later.remediations, dict(later.runs), dict(later.cordons)) == ((), {}, {})


def test_what_came_back_before_its_cordon_took_effect_stays_in_traffic() -> None:
    asked = a_run(steps={"steps.0": StepMemory(AT - 15.0, AT - 15.0, 1)})
    lost = CordonMemory(AT - 15.0, "F1", "a0#0", 1000.0, 2e4)
    course = healed(memory=PolicyMemory(runs={A0: asked}, cordons={A0: lost}))
    assert (course.remediations, dict(course.runs), dict(course.cordons)) == ((), {}, {})
    still = healed(HANG, memory=PolicyMemory(runs={A0: asked}, cordons={A0: lost}))
    assert [type(r) for r in still.remediations] == [CordonReplica]


def test_what_is_to_be_done_once_it_is_back_in_traffic_is_done() -> None:
    cordon, back = {"do": "cordon", "deadline": 60}, {"do": "uncordon", "deadline": 60}
    mine = playbook(cordon, {"wait_until": {"not": "sick"}, "deadline": 60}, back, after=[{"page": "it is back"}])
    settings = HealingSettings(playbooks={"mine": mine}, treatments={"hang": "mine"})
    begun = StepMemory(AT - 15.0)
    steps = {f"steps.{place}": replace(begun, asked_at=AT - 15.0 if place != 1 else None) for place in range(3)}
    steps["steps.0"] = replace(steps["steps.0"], outcome="done")
    run = a_run(playbook="mine", digest=digest(mine), steps=steps)
    course = healed(memory=PolicyMemory(runs={A0: run}), settings=settings)
    assert "it is back" in pages(course)[0]


def test_what_somebody_else_took_out_of_traffic_is_left_to_them_also_halfway() -> None:
    steps = {"steps.4": StepMemory(AT - 600.0, AT - 600.0, 1)}
    memory = PolicyMemory(runs={A0: a_run(steps=steps)})
    out = fleet(some(cordoned=True))
    course = healed(HANG, memory=memory, state=out)
    assert "left to them" in pages(course)[0]
    assert dict(course.runs) == {}
    closing = replace(memory, runs={A0: a_run(steps=steps, state="closing")})
    course = healed(memory=closing, state=out)
    assert (course.remediations, dict(course.runs)) == ((), {})
    assert "not by us as far as we remember" in pages(healed(memory=PolicyMemory(runs=course.runs), state=out))[0]


def test_what_was_never_scraped_is_not_cordoned() -> None:
    mine = playbook({"do": "cordon", "deadline": 60})
    settings = HealingSettings(playbooks={"mine": mine}, treatments={"exited": "mine"})
    course = healed(EXITED, settings=settings, seen={})
    assert (course.remediations, [r.rule for r in course.reasons]) == ((), ["never scraped"])


def test_a_run_for_a_cause_of_another_version_gives_way() -> None:
    strange = PolicyMemory(runs={A0: a_run(cause="of-tomorrow")})
    assert healed(HANG, memory=strange).runs[A0].cause == "hang"
    changed = replace(strange, runs={A0: a_run(cause="of-tomorrow", digest="other")})
    assert dict(healed(memory=changed).runs) == {}


def cordoned(cause: str = "F1") -> PolicyMemory:
    return PolicyMemory(cordons={A0: CordonMemory(AT - 600.0, cause, "a0#0", 1000.0, 2e4, confirmed=True)})


def test_what_no_playbook_puts_back_into_traffic_is_told() -> None:
    out = fleet(some(cordoned=True))
    for cause, treatments in (("F13", {}), ("F1", {"hang": ""})):
        course = healed(memory=cordoned(cause), state=out, settings=HealingSettings(treatments=treatments))
        assert "no playbook puts it back" in pages(course)[0]
    assert pages(healed(memory=cordoned(), state=out)) == []


def test_a_playbook_that_leaves_its_subject_out_of_traffic_is_told_and_rests() -> None:
    out = fleet(some(cordoned=True))
    mine = playbook({"do": "cordon", "deadline": 60})
    settings = HealingSettings(playbooks={"mine": mine}, treatments={"hang": "mine"})
    over = a_run(playbook="mine", digest=digest(mine), state="resolved", ended_at=AT - 15.0)
    course = healed(memory=replace(cordoned(), runs={A0: over}), state=out, settings=settings)
    assert "mine is over and left it out of traffic" in pages(course)[0]
    assert course.runs[A0] == over
    rested = replace(over, ended_at=AT - settings.again_after_s)
    again = healed(memory=replace(cordoned(), runs={A0: rested}), state=out, settings=settings)
    assert again.runs[A0].began_at == AT


def test_another_playbook_that_is_over_leaves_the_cordon_to_the_one_for_its_cause() -> None:
    out = fleet(some(cordoned=True))
    over = a_run("leave-to-the-platform", cause="exited", code="F2", state="resolved", ended_at=AT - 15.0)
    course = healed(memory=replace(cordoned(), runs={A0: over}), state=out)
    assert (course.runs[A0].playbook, pages(course)) == ("eject-and-restart", [])


def test_a_replica_that_was_restarted_and_does_not_end_is_told() -> None:
    stuck = fleet(some(phase=Phase.DRAINING, since_at=AT - 600.0))
    run = a_run(digest=digest(EJECT), steps={"steps.4": StepMemory(AT - 600.0, AT - 600.0, 1)})

    def with_restart(**changes: Any) -> Course:
        act = ActionMemory("a0", "restart", MODEL, str(KEY), AT - 600.0, AT - 400.0)
        memory = PolicyMemory(runs={A0: run}, actions=(replace(act, **changes),))
        return healed(memory=memory, state=stuck)

    assert "it does not end" in pages(with_restart())[0]
    assert pages(with_restart(deadline_at=AT + 100.0)) == []
    assert pages(healed(memory=PolicyMemory(runs={A0: run}), state=stuck)) == []


def test_what_is_not_healed_after_an_hour_is_told_though_its_playbook_only_waits() -> None:
    """Its metrics do not come, so that nobody knows how long it has been silent."""
    steps = {"steps.0": StepMemory(AT - 1e4, AT - 1e4, 1, "done"), "steps.1": StepMemory(AT - 1e4, outcome="done")}
    out = fleet(some(cordoned=True))

    def begun(ago_s: float) -> Course:
        run = a_run(began_at=AT - ago_s, steps=steps)
        return healed(memory=replace(cordoned(), runs={A0: run}), state=out, seen={})

    assert "eject-and-restart runs for 3615 s, and it is not healed" in pages(begun(3615.0))[0]
    assert pages(begun(3600.0)) == []


def test_nothing_is_restarted_a_day_later_that_nobody_confirmed() -> None:
    unconfirmed = replace(HANG, families=("peers", "progress"))
    run = a_run("replace-elsewhere", began_at=AT - 15.0)
    alone = {A0: replace(cordoned().cordons[A0], confirmed=False)}
    memory = PolicyMemory(runs={A0: run}, cordons=alone)
    out = fleet(some(cordoned=True))
    course = healed(unconfirmed, memory=memory, state=out)
    assert "so that it is not restarted" in pages(course)[0]
    sure = replace(memory, cordons=cordoned().cordons)
    assert pages(healed(HANG, memory=sure, state=out)) == []


def test_between_two_exits_on_a_gpu_at_fault_nobody_is_paged_for_want_of_a_witness() -> None:
    at_fault = {"cause": "hardware", "code": "F9", "began_at": AT - 105.0}
    steps = {"steps.0": StepMemory(AT - 105.0, None, 0, "done", "else"),
             "steps.1": StepMemory(AT - 105.0, None, 0, "done", "then"),
             "steps.1.then.0": StepMemory(AT - 105.0, AT - 105.0, 1, "done")}  # fmt: skip
    run = a_run("replace-elsewhere", **at_fault, steps=steps)
    memory = PolicyMemory(runs={A0: run}, xids={"n0": XidMemory(79, AT - 105.0, AT)})

    def between(node: str, begun_s: float, phase: Phase = Phase.LOADING) -> Course:
        again = {"node": node, "restarts": 2, "since_at": AT - 12.0, "requested_at": AT - begun_s}
        return healed(memory=memory, state=fleet(some(phase=phase, **again)))

    course = between("n0", 72.0)
    assert (pages(course), [r.rule for r in course.reasons]) == ([], ["inside its load time"])
    assert [type(r) for r in between("n0", 300.0).remediations] == [RestartReplica]
    assert "so that it is not restarted" in pages(between("n0", 300.0, Phase.READY))[0]
    assert "so that it is not restarted" in pages(between("n1", 300.0))[0]
