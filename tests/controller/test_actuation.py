"""Is every write checked against mode, kill switch and age, and does one failure leave the others alone?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from controller.actuation import Actuator
from controller.errors import ActuationError
from controller.modes import Mode, ModeSettings
from controller.plan_expiry import unless_expired
from controller.ports import ActResult
from policies.decisions import (
    CordonReplica,
    Decision,
    FailOver,
    Page,
    RestartReplica,
    ScalingPlan,
    SendCanary,
    TrafficPlan,
    UncordonReplica,
)
from policies.fleet import PoolKey
from policies.memory import PolicyMemory
from policies.replica import CanaryAnswer
from tests.builders import AT, KEY, MODEL, OTHER, FakeCluster, FakeRouter, FixedClock, ListNotifier, pool, replica

EVERYTHING = Decision(
    at=AT,
    generation=1,
    input_digest="0",
    expires_at=AT + 30.0,
    scaling=(ScalingPlan(KEY, 3, 4, version=7),),
    traffic=(TrafficPlan(MODEL, {KEY: 0.4, OTHER: 0.6}),),
    anomalies=(),
    diagnoses=(),
    remediations=(
        CordonReplica("a0", KEY, "F1"),
        UncordonReplica("a1", KEY, "recovered"),
        RestartReplica("a2", KEY, "F1"),
        FailOver(MODEL, KEY, OTHER, "F4"),
        Page(MODEL, "breaker", "look"),
    ),
    reasons=(),
    memory=PolicyMemory(1),
)
NAMES = ["cordon", "uncordon", "restart", "page", "weights", "scale"]


class Stage:
    """An actuator over fakes."""

    def __init__(self, modes: ModeSettings | None = None, at: float = AT, **faults: Any) -> None:
        self.clock, self.killed = FixedClock(at), faults.pop("killed", False)
        replicas = [replica("a0"), replica("a1", cordoned=True), replica("a2")]
        self.cluster = FakeCluster(self.clock, {KEY: pool(replicas, version=7)}, refuses=faults.pop("refuses", set()))
        self.router, self.notifier = FakeRouter({KEY: 1.0}, **faults), ListNotifier()
        self.actuator = Actuator(
            self.clock, self.cluster, self.router, self.notifier, modes or ModeSettings.all_auto(), lambda: self.killed
        )

    def carry_out(self, decision: Decision = EVERYTHING) -> list[ActResult]:
        return list(self.actuator.carry_out(decision))

    @property
    def written(self) -> bool:
        return bool(self.cluster.writes or self.router.writes)


def outcomes(results: list[ActResult]) -> dict[str, str]:
    return {result.act: result.outcome for result in results}


def test_everything_is_carried_out_healing_first() -> None:
    stage = Stage()
    results = stage.carry_out()
    assert [result.act for result in results] == NAMES
    assert set(outcomes(results).values()) == {"done"}
    assert stage.cluster.writes == [("cordon", "a0"), ("uncordon", "a1"), ("restart", "a2"), ("scale", str(KEY))]
    assert stage.router.shares == {KEY: 0.4, OTHER: 0.6}
    assert stage.notifier.pages == [Page(MODEL, "breaker", "look")]


def test_the_default_mode_writes_nothing_and_tells_nobody() -> None:
    stage = Stage(ModeSettings())
    results = stage.carry_out()
    assert {(result.outcome, result.detail) for result in results} == {("held", "mode observe")}
    assert not stage.written
    assert stage.notifier.pages == []


@pytest.mark.parametrize("mode", [Mode.OBSERVE, Mode.RECOMMEND])
@pytest.mark.parametrize(
    ("action_class", "acts"),
    [("scaling", {"scale"}), ("traffic", {"weights"}), ("healing", {"cordon", "uncordon", "restart"})],
)
def test_each_action_class_has_its_own_mode(mode: Mode, action_class: str, acts: set[str]) -> None:
    modes = ModeSettings.all_auto().model_copy(update={action_class: mode})
    held = {act for act, outcome in outcomes(Stage(modes).carry_out()).items() if outcome == "held"}
    assert held - {"page"} == acts


@pytest.mark.parametrize(("mode", "told"), [(Mode.OBSERVE, 0), (Mode.RECOMMEND, 1), (Mode.AUTO, 1)])
def test_humans_are_told_from_recommend_on(mode: Mode, told: int) -> None:
    stage = Stage(ModeSettings(healing=mode))
    stage.carry_out()
    assert len(stage.notifier.pages) == told


def recommending(**classes: Mode) -> ModeSettings:
    return ModeSettings.all_auto().model_copy(update=classes)


@pytest.mark.parametrize(
    ("action_class", "told"),
    [
        ("scaling", [(str(KEY), "scale from 3 to 4 replicas")]),
        ("traffic", [(MODEL, "share traffic as a 40%, b 60%")]),
        (
            "healing",
            [(f"{KEY}/a0", "cordon a0: F1"), (f"{KEY}/a1", "uncordon a1: recovered"), (f"{KEY}/a2", "restart a2: F1")],
        ),
    ],
)
def test_what_is_only_recommended_is_told_and_not_done(action_class: str, told: list[tuple[str, str]]) -> None:
    stage = Stage(recommending(**{action_class: Mode.RECOMMEND}))
    stage.carry_out()
    assert stage.notifier.recommended == told
    assert len(stage.cluster.writes) + len(stage.router.writes) == 5 - len(told)


def test_a_recommendation_is_told_once_and_again_when_it_changes_or_comes_back() -> None:
    stage = Stage(recommending(scaling=Mode.RECOMMEND))
    five = replace(EVERYTHING, scaling=(ScalingPlan(KEY, 3, 5, version=7),))
    nothing = replace(EVERYTHING, scaling=())
    for decision in (EVERYTHING, EVERYTHING, five, five, nothing, five):
        stage.carry_out(decision)
    assert [what for _, what in stage.notifier.recommended] == [
        "scale from 3 to 4 replicas",
        "scale from 3 to 5 replicas",
        "scale from 3 to 5 replicas",
    ]


@pytest.mark.parametrize("how", ["observe", "killed", "stale", "withheld"])
def test_nobody_is_told_where_nothing_may_be_told(how: str) -> None:
    mode = Mode.OBSERVE if how == "observe" else Mode.RECOMMEND
    at = AT + 31.0 if how == "stale" else AT
    stage = Stage(ModeSettings(scaling=mode, traffic=mode, healing=mode), at, killed=how == "killed")
    list(stage.actuator.carry_out(EVERYTHING, "the disk is full" if how == "withheld" else ""))
    assert stage.notifier.recommended == []


def test_the_kill_switch_stops_every_write() -> None:
    stage = Stage(killed=True)
    results = stage.carry_out()
    assert {(result.outcome, result.detail) for result in results} == {("held", "kill switch")}
    assert not stage.written
    assert stage.notifier.pages == []


def test_the_kill_switch_is_asked_before_each_write_and_not_once() -> None:
    stage = Stage()
    answers = iter([False, False, True, True, True, True])
    stage.actuator = Actuator(
        stage.clock, stage.cluster, stage.router, stage.notifier, ModeSettings.all_auto(), lambda: next(answers)
    )
    assert [result.outcome for result in stage.carry_out()] == ["done", "done", "held", "held", "held", "held"]


@pytest.mark.parametrize(("age_s", "outcome"), [(0.0, "done"), (30.0, "done"), (30.1, "held")])
def test_a_plan_past_its_expiry_is_dropped(age_s: float, outcome: str) -> None:
    stage = Stage(at=AT + age_s)
    assert set(outcomes(stage.carry_out()).values()) == {outcome}
    assert stage.written is (outcome == "done")


def test_a_plan_that_expires_between_two_writes_is_dropped_from_there_on() -> None:
    stage = Stage(at=AT + 30.0)
    cordon = stage.cluster.cordon

    def slow_cordon(key: PoolKey, name: str) -> None:
        cordon(key, name)
        stage.clock.at += 5.0

    stage.cluster.cordon = slow_cordon  # type: ignore[method-assign]  # a slow API server
    results = stage.carry_out()
    assert outcomes(results) == dict.fromkeys(NAMES, "held") | {"cordon": "done"}
    assert {r.detail for r in results if r.outcome == "held"} == {"the plan is stale"}


def test_an_act_of_several_writes_learns_between_them_that_its_plan_has_expired() -> None:
    stage = Stage()
    fence = unless_expired(lambda _: "", stage.clock.now)
    asked: list[str] = []

    def marks_then_scales(*_: object) -> None:
        asked.append(fence(1.0))
        stage.clock.at += 31.0
        asked.append(fence(1.0))

    stage.cluster.scale = marks_then_scales  # type: ignore[method-assign]
    stage.carry_out()
    assert asked == ["", "the plan is stale"]
    assert fence(1.0) == "", "what is no part of a plan does not expire"


def test_a_plan_for_another_version_of_the_pool_fails_and_says_so() -> None:
    stage = Stage()
    late = replace(EVERYTHING, scaling=(ScalingPlan(KEY, 3, 9, version=6),))
    (scaled,) = [result for result in stage.carry_out(late) if result.act == "scale"]
    assert (scaled.subject, scaled.outcome) == (str(KEY), "failed")
    assert scaled.detail.startswith("the plan is stale: ")
    assert "version 6, the pool is at 7" in scaled.detail
    assert stage.cluster.states[KEY].desired == 3


@pytest.mark.parametrize("verb", ["cordon", "uncordon", "restart", "scale"])
def test_one_refused_write_does_not_stop_the_others(verb: str) -> None:
    results = outcomes(Stage(refuses={verb}).carry_out())
    assert results == dict.fromkeys(NAMES, "done") | {verb: "failed"}


def test_a_route_that_belongs_to_somebody_else_is_left_to_them() -> None:
    stage = Stage(refuses=set())
    stage.router.refuses = True
    (weights,) = [result for result in stage.carry_out() if result.act == "weights"]
    assert (weights.outcome, "belongs to somebody else" in weights.detail) == ("failed", True)


def test_an_error_that_nobody_foresaw_is_not_swallowed() -> None:
    stage = Stage()
    del stage.cluster.states[KEY]
    with pytest.raises(KeyError):
        stage.carry_out(replace(EVERYTHING, remediations=()))


def test_a_failover_is_no_write_of_its_own() -> None:
    only = replace(EVERYTHING, scaling=(), traffic=(), remediations=(FailOver(MODEL, KEY, OTHER, "F4"),))
    assert Stage().carry_out(only) == []


class Asked(list[SendCanary]):
    """Whom somebody sent a canary."""

    def send(self, canary: SendCanary) -> None:
        if canary.replica == "refused":
            raise ActuationError("too many are under way")
        self.append(canary)

    def answers(self, _at: float) -> Mapping[str, CanaryAnswer]:
        return {}


def asking(modes: ModeSettings, *names: str, at: float = AT, killed: bool = False) -> tuple[Asked, list[ActResult]]:
    stage, asked = Stage(modes, at), Asked()
    canaries = tuple(SendCanary(name, KEY, f"{name}:1", AT, 20.0) for name in names)
    decision = replace(EVERYTHING, remediations=(), scaling=(), traffic=(), canaries=canaries)
    actuator = Actuator(stage.clock, stage.cluster, stage.router, stage.notifier, modes, lambda: killed, canaries=asked)
    results = list(actuator.carry_out(decision))
    assert stage.notifier.recommended == []
    return asked, results


@pytest.mark.parametrize("mode", [Mode.RECOMMEND, Mode.APPROVE, Mode.AUTO])
def test_canaries_are_looks_and_are_sent_in_every_mode_but_observe(mode: Mode) -> None:
    asked, results = asking(ModeSettings(healing=mode), "a0", "refused", "a2")
    assert [canary.replica for canary in asked] == ["a0", "a2"]
    assert [(r.act, r.subject, r.outcome) for r in results] == [
        ("canary", KEY.replica("a0"), "done"),
        ("canary", KEY.replica("refused"), "failed"),
        ("canary", KEY.replica("a2"), "done"),
    ]


@pytest.mark.parametrize(
    ("modes", "told"),
    [
        (ModeSettings(), {}),
        (ModeSettings.all_auto(), {"killed": True}),
        (ModeSettings.all_auto(), {"at": EVERYTHING.expires_at + 1.0}),
    ],
    ids=["observe", "kill switch", "stale"],
)
def test_canaries_are_held_by_observe_the_kill_switch_and_age(modes: ModeSettings, told: dict[str, Any]) -> None:
    asked, results = asking(modes, "a0", **told)
    assert asked == []
    assert [result.outcome for result in results] == ["held"]


def test_where_nobody_asks_engines_a_canary_fails_and_harms_nothing() -> None:
    decision = replace(EVERYTHING, canaries=(SendCanary("a0", KEY, "a0:1", AT, 20.0),))
    results = Stage().carry_out(decision)
    assert [result.act for result in results] == [*NAMES, "canary"]
    assert results[-1].outcome == "failed"
