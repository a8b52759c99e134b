"""Verdicts on notes made by hand: a hang at 600 s in a pool of three, seen, called, put right, or made worse."""

from __future__ import annotations

import math

import pytest

from simulations.healing.truths import NO_FAULT, TRUTHS
from simulations.healing.verdict import Scene, Verdict, judge
from simulations.healing.witness import DOWN, Belief, Deed, Moment

POOL = "a100"
HANG = Scene(600.0, math.inf, POOL, frozenset({"a100-1"}))
NOWHERE = Scene(math.nan, math.inf, "", frozenset())


def moment(at_s: float, *deeds: Deed, beliefs: tuple[Belief, ...] = (), healthy: int = 3, **changes: object) -> Moment:
    usual = {"blind": False, "ailing": 3 - healthy, "desired": {POOL: 3}, "lost": 0}
    return Moment(at_s=at_s, beliefs=beliefs, deeds=deeds, healthy={POOL: healthy}, **{**usual, **changes})  # type: ignore[arg-type]


def restart(at_s: float, replica: str = "a100-1", ailment: str = "hung", *, struck: bool = True) -> Deed:
    return Deed(at_s, "restart", POOL, replica, ailment, struck)


def course(*after: Moment, lost: int = 0) -> list[Moment]:
    """Return what came before the strike, and ``after``."""
    return [moment(0.0), moment(585.0, lost=lost), *after]


def hang(*after: Moment, lost: int = 0, diagnoses: bool = True) -> Verdict:
    return judge(TRUTHS["F1"], HANG, course(*after), lost, diagnoses=diagnoses)


def test_a_hang_that_is_seen_named_and_restarted_is_put_right() -> None:
    seen = moment(660.0, Deed(660.0, "cordon", POOL, "a100-1", "hung", True), beliefs=(Belief("hang", POOL, "a100-1"),),
                  healthy=2)  # fmt: skip
    verdict = hang(moment(600.0, healthy=2), seen, moment(735.0, restart(735.0), healthy=2), moment(900.0))
    assert verdict.detected_s == 60.0
    assert verdict.diagnosed
    assert verdict.right
    assert verdict.recovered_s == 300.0


def test_a_name_for_the_wrong_replica_is_no_diagnosis() -> None:
    verdict = hang(moment(660.0, beliefs=(Belief("hang", POOL, "a100-2"),), healthy=2))
    assert math.isnan(verdict.detected_s)
    assert not verdict.diagnosed
    assert verdict.recovered_s == math.inf


def test_what_was_believed_before_the_strike_does_not_count() -> None:
    before = moment(590.0, beliefs=(Belief("hang", POOL, "a100-1"),))
    assert math.isnan(judge(TRUTHS["F1"], HANG, [before, moment(600.0)], 0).detected_s)


def test_unknown_is_no_diagnosis_and_no_wrong_one() -> None:
    verdict = hang(moment(660.0, beliefs=(Belief("unknown", POOL, "a100-1"),)))
    assert math.isnan(verdict.detected_s)
    assert verdict.called == ("unknown",)
    assert verdict.miscalled == ()


def test_the_restart_of_a_healthy_replica_is_wrong_whenever_it_comes() -> None:
    too = restart(300.0, "a100-2", "", struck=False)
    verdict = judge(TRUTHS["F1"], HANG, [moment(300.0, too), *course(moment(735.0, restart(735.0)))], 0)
    assert verdict.wrong == ("restart a100-2, which was healthy, at 300 s",)
    assert verdict.wronged == 1
    assert verdict.remedied
    assert not verdict.right


def test_a_restart_while_the_replacement_loads_is_wrong_but_hits_no_healthy_one() -> None:
    verdict = hang(moment(735.0, restart(735.0)), moment(750.0, restart(750.0, "a100-3", "starting", struck=False)))
    assert verdict.wrong == ("restart a100-3, which was starting, at 750 s",)
    assert verdict.wronged == 0


def test_of_a_rival_without_diagnoses_the_restart_of_what_was_hit_is_how_it_noticed() -> None:
    assert hang(moment(640.0, restart(640.0)), diagnoses=False).detected_s == 40.0
    assert math.isnan(hang(moment(640.0, restart(640.0, "a100-2", "", struck=False)), diagnoses=False).detected_s)


def test_an_exit_is_noticed_by_the_platform_at_once() -> None:
    crash = judge(TRUTHS["F2"], HANG, course(moment(600.0, healthy=2), moment(700.0)), 0, diagnoses=False)
    assert crash.detected_s == 0.0
    assert crash.right
    assert crash.recovered_s == 100.0


def test_recovery_is_when_it_stays_well_and_not_the_first_time() -> None:
    verdict = hang(moment(600.0), moment(615.0, healthy=2), moment(630.0), moment(645.0, healthy=2), moment(660.0))
    assert verdict.recovered_s == 60.0


def test_fewer_wanted_replicas_are_enough() -> None:
    assert hang(moment(600.0, healthy=2, desired={POOL: 2})).recovered_s == 0.0


def test_only_what_was_lost_from_the_strike_on_counts() -> None:
    assert judge(TRUTHS["F1"], HANG, course(moment(600.0), lost=7), 19).lost == 12


@pytest.mark.parametrize("act", ["roll back", "fail over", "avoid"])
def test_where_nothing_is_wrong_every_remedy_is(act: str) -> None:
    assert judge(NO_FAULT, NOWHERE, [moment(300.0, Deed(300.0, act, POOL))], 0).wrong


def test_where_nothing_is_wrong_scaling_and_pages_are_not() -> None:
    deeds = (Deed(300.0, "grow", POOL), Deed(300.0, "shrink", POOL), Deed(300.0, "page"))
    verdict = judge(NO_FAULT, NOWHERE, [moment(300.0, *deeds)], 0)
    assert verdict.right
    assert verdict.pages == 1
    assert math.isnan(verdict.detected_s)


def test_a_pool_of_which_most_is_down_may_be_given_up_unless_that_spreads_it() -> None:
    given_up = [moment(660.0, Deed(660.0, "fail over", POOL, ailment=DOWN))]
    assert not judge(TRUTHS["F2"], HANG, given_up, 0).wrong
    assert judge(TRUTHS["F2"], HANG, [moment(660.0, Deed(660.0, "fail over", POOL))], 0).wrong
    assert judge(TRUTHS["F20"], HANG, given_up, 0).wrong


def test_a_second_roll_back_is_wrong_and_one_before_the_rollout_too() -> None:
    def back(at_s: float) -> Moment:
        return moment(at_s, Deed(at_s, "roll back", POOL, detail="1"))

    assert judge(TRUTHS["F3"], HANG, course(back(700.0)), 0).right
    assert judge(TRUTHS["F3"], HANG, course(back(700.0), back(900.0)), 0).wrong
    assert judge(TRUTHS["F3"], HANG, [back(300.0), *course(back(700.0))], 0).wrong


def test_growth_into_a_failing_rollout_is_wrong_once_it_shows_until_it_is_rolled_back() -> None:
    def grows(at_s: float) -> Moment:
        return moment(at_s, Deed(at_s, "grow", POOL), healthy=2)

    back = moment(900.0, Deed(900.0, "roll back", POOL), healthy=2)
    assert not judge(TRUTHS["F3"], HANG, course(moment(600.0, healthy=2), grows(705.0), back), 0).wrong
    assert judge(TRUTHS["F3"], HANG, course(moment(600.0, healthy=2), grows(735.0), back), 0).wrong
    assert not judge(TRUTHS["F3"], HANG, course(moment(600.0, healthy=2), back, grows(915.0)), 0).wrong


def test_shrinking_is_wrong_only_while_metrics_are_missing() -> None:
    scene = Scene(600.0, 900.0, "", frozenset())

    def shrinks(at_s: float) -> Verdict:
        return judge(TRUTHS["F13-store"], scene, [moment(at_s, Deed(at_s, "shrink", POOL))], 0)

    assert [bool(shrinks(at_s).wrong) for at_s in (585.0, 615.0, 915.0)] == [False, True, False]


def test_not_being_able_to_look_is_how_a_lost_store_is_noticed() -> None:
    scene = Scene(600.0, 900.0, "", frozenset())
    verdict = judge(TRUTHS["F13-store"], scene, course(moment(615.0, blind=True)), 0, 0.0)
    assert verdict.detected_s == 15.0
    assert verdict.diagnosed
    assert verdict.recovered_s == 0.0


def test_one_restart_of_what_does_not_start_is_no_mass_restart_and_two_are() -> None:
    one, two = (moment(at_s, restart(at_s, f"a100-{at_s}", "starting", struck=False)) for at_s in (700.0, 900.0))
    page = moment(690.0, Deed(690.0, "page"))
    assert judge(TRUTHS["F4"], HANG, course(page, one), 0).right
    assert judge(TRUTHS["F4"], HANG, course(page, one, two), 0).wrong


def gpu_fault(kind: str, *deeds: Deed) -> Verdict:
    return judge(TRUTHS[kind], HANG, course(moment(630.0, *deeds, healthy=2)), 0)


def test_a_restart_on_the_same_node_is_no_remedy_for_a_gpu_at_fault() -> None:
    page, again = Deed(630.0, "page"), restart(630.0, ailment="exited")
    assert gpu_fault("F9", page).right
    assert gpu_fault("F9", page, again).wrong
    assert not gpu_fault("F9").remedied
    elsewhere = Deed(630.0, "avoid", detail="n0")
    assert gpu_fault("F9-avoid", elsewhere, again).right
    assert not gpu_fault("F9-avoid", again).remedied
    assert gpu_fault("F10", elsewhere).wrong
    assert gpu_fault("F2-xid", elsewhere).wrong


@pytest.mark.parametrize(("healthy", "named"), [(0, True), (1, False)])
def test_a_replica_that_is_alone_cannot_be_told_from_its_pool(healthy: int, named: bool) -> None:
    seen = moment(660.0, beliefs=(Belief("unreachable", POOL),), healthy=healthy)
    verdict = judge(TRUTHS["F12-one"], HANG, course(seen), 0)
    assert verdict.diagnosed is named
    assert math.isnan(verdict.detected_s) is not named
