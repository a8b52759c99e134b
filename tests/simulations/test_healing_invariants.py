"""Is an act of healing that breaks a rule noticed, whatever healing itself has in its books?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from controller.modes import Mode, ModeSettings
from controller.ports import ActResult, Outcome, TickRecord
from policies.causes import BAD_REVISION, EXITED, HANG, HARDWARE, STRAGGLER, Cause
from policies.decide import PolicySettings
from policies.decisions import CordonReplica, Decision, Diagnosis, Remediation, RestartReplica, RollBack
from policies.fleet import FleetState, Phase, PoolKey, PoolState, ReplicaState
from policies.healing_memory import ActionMemory
from policies.healing_settings import HealingSettings
from policies.memory import PolicyMemory, PoolMemory, RevisionMemory
from policies.placement import PoolSettings
from policies.profile_catalogue import profile_named
from simulations.invariants import InvariantChecks

KEY = PoolKey("m", "p")
SETTINGS = PolicySettings(
    pools={str(KEY): PoolSettings(profile=profile_named("llama-3.1-70b-a100-tp4"), min_replicas=2, max_replicas=9)},
    healing=HealingSettings(cooldown_s=300.0, max_attempts=3, attempt_window_s=3600.0, good_after_s=100.0),
)


def replica(name: str, since_at: float = 0.0, phase: Phase = Phase.READY, revision: str = "1") -> ReplicaState:
    return ReplicaState(name, phase, since_at, since_at, revision=revision)


class Run:
    """A run of ticks that decide what a test wants."""

    def __init__(self, modes: ModeSettings | None = None) -> None:
        self.checks = InvariantChecks(SETTINGS, seed=0, all_rules=True, modes=modes)
        self.generation = 0
        self.memory: PolicyMemory | None = None

    def tick(
        self,
        at: float,
        replicas: Sequence[ReplicaState] = tuple(map(replica, "abcd")),
        remedies: Sequence[Remediation] = (),
        diagnoses: Sequence[Diagnosis] = (),
        outcome: Outcome = "done",
        actions: Sequence[ActionMemory] | None = None,
    ) -> list[str]:
        """Return what this tick broke."""
        self.generation += 1
        pool = PoolState(KEY, tuple(replicas), 4, 1, weight=1.0, revision="2", revisions=("1", "2"))
        fleet = FleetState(at, (pool,))
        if actions is None:
            actions = [started(r.replica, at) for r in remedies if isinstance(r, RestartReplica)]
        decision = Decision(
            at, self.generation, "x", at + 30.0, (), (), (), tuple(diagnoses), tuple(remedies), (),
            PolicyMemory(actions=tuple(actions)),
        )  # fmt: skip
        results = [ActResult("restart", KEY.replica(r.replica), outcome) for r in remedies if type(r) is RestartReplica]
        results += [ActResult("roll back", str(KEY), outcome) for r in remedies if isinstance(r, RollBack)]
        results += [ActResult("cordon", r.replica, outcome) for r in remedies if isinstance(r, CordonReplica)]
        before = len(self.checks.violations)
        self.checks.check(TickRecord(at, fleet, {}, decision, tuple(results), memory=self.memory))
        return self.checks.violations[before:]


def believed(cause: Cause, subject: str = "") -> Diagnosis:
    scope = "replica" if subject else "pool"
    return Diagnosis(cause.code, subject, KEY, 0.0, ("x", "y"), "it is", scope, cause.name)


def started(target: str, at: float) -> ActionMemory:
    return ActionMemory(target, "restart", "m", str(KEY), at, at + 600.0)


def restart(name: str) -> RestartReplica:
    return RestartReplica(name, KEY, "F1")


def cordon(name: str) -> CordonReplica:
    return CordonReplica(name, KEY, "F8")


ROLL_BACK = RollBack(KEY, "1", "2", "F3")


def test_what_is_within_the_rules_breaks_none() -> None:
    run = Run()
    assert run.tick(0.0, remedies=[cordon("a")], diagnoses=[believed(STRAGGLER, "a")]) == []
    assert run.tick(15.0, remedies=[restart("a")], diagnoses=[believed(STRAGGLER, "a")]) == []


@pytest.mark.parametrize("act", [cordon, restart])
def test_too_few_are_left_serving(act: object) -> None:
    two = [act("a"), act("b"), act("c")]  # type: ignore[operator]
    assert any("1 of 4 left serving, 2 must (I1)" in v for v in Run().tick(0.0, remedies=two))


def test_what_hangs_served_nothing() -> None:
    hung = [believed(HANG, name) for name in "a"]
    assert Run().tick(0.0, list(map(replica, "abc")), [cordon("a")], hung) == []


def test_too_much_looks_sick_at_once() -> None:
    sick = [believed(HANG, "a"), believed(EXITED, "b")]
    found = Run().tick(0.0, remedies=[cordon("a")], diagnoses=sick)
    assert any("disturbed while 2 of 4 look sick (I3)" in v for v in found)


def test_a_node_with_a_gpu_at_fault_is_one_failure() -> None:
    there = [replace(replica(name), node="n1" if name in "ab" else "n2") for name in "abcd"]
    both = [believed(HARDWARE, "a"), believed(HARDWARE, "b")]
    assert Run().tick(0.0, there, [cordon("a")], both) == []
    apart = [believed(HARDWARE, "a"), believed(HARDWARE, "c")]
    assert any("disturbed while 2 of 4 look sick (I3)" in v for v in Run().tick(0.0, there, [cordon("a")], apart))


def test_what_is_accounted_for_by_the_revision_is_no_sick_replica() -> None:
    one = [replica("a", revision="2"), replica("b", revision="2"), *map(replica, "cd")]
    sick = [believed(HANG, "a"), believed(EXITED, "b"), believed(BAD_REVISION)]
    assert Run().tick(0.0, one, [cordon("c")], sick) == []


def test_more_restarts_than_attempts_in_the_window() -> None:
    run = Run()
    assert [run.tick(at, remedies=[restart("a")]) for at in (0.0, 1000.0, 2000.0)] == [[], [], []]
    assert any("restart 4 of its pool within 3600 s (I5)" in v for v in run.tick(3000.0, remedies=[restart("b")]))
    assert run.tick(4700.0, remedies=[restart("b")]) == []  # two are out of the window


def test_what_was_only_recorded_is_no_attempt() -> None:
    run = Run(ModeSettings())
    assert [run.tick(at, remedies=[restart("a")], outcome="held") for at in (0.0, 1.0, 2.0, 3.0)] == [[]] * 4


def test_a_restart_too_soon_after_one_in_vain() -> None:
    vain = replace(started("a", 0.0), open=False)
    found = Run().tick(200.0, remedies=[restart("b")], actions=[vain, started("b", 200.0)])
    assert any("restarted 200 s after the last of 1 in vain (I5)" in v for v in found)
    twice = [vain, replace(vain, started_at=1.0), started("b", 500.0)]
    assert any("I5" in v for v in Run().tick(500.0, remedies=[restart("b")], actions=twice))  # 600 s after two
    assert Run().tick(301.0, remedies=[restart("b")], actions=[vain, started("b", 301.0)]) == []


def test_a_restart_that_nobody_looks_after() -> None:
    assert any("I6" in v for v in Run().tick(0.0, remedies=[restart("a")], actions=[]))


def test_a_restart_within_the_load_time_that_was_seen() -> None:
    run = Run()
    loading = [replica(name, 0.0, Phase.LOADING) for name in "efghi"]
    run.tick(10.0, [*map(replica, "abcd"), *loading])
    ready = [replace(each, phase=Phase.READY, since_at=100.0) for each in loading]
    run.tick(100.0, [*map(replica, "abcd"), *ready])
    late = replica("j", 100.0, Phase.LOADING)
    assert run.tick(250.0, [*map(replica, "abcd"), late], [restart("j")]) == []
    assert any("while it loads, after 50 s (I8)" in v for v in run.tick(150.0, [replica("a"), late], [restart("j")]))


def test_a_roll_back_to_what_did_not_serve_for_long() -> None:
    run = Run()
    run.tick(0.0, diagnoses=[believed(BAD_REVISION)])
    assert any("served for 60 s of 100 (I9)" in v for v in run.tick(60.0, remedies=[ROLL_BACK]))


def test_a_roll_back_for_no_reason() -> None:
    run = Run()
    run.tick(0.0)
    assert any("nothing was ever wrong" in v for v in run.tick(200.0, remedies=[ROLL_BACK]))


def test_a_second_roll_back_from_the_same_revision() -> None:
    run = Run()
    run.tick(0.0, diagnoses=[believed(BAD_REVISION)])
    assert run.tick(200.0, remedies=[ROLL_BACK], outcome="held") == []
    assert run.tick(215.0, remedies=[ROLL_BACK]) == []
    assert any("a second time (I9)" in v for v in run.tick(900.0, remedies=[ROLL_BACK]))


def test_what_was_known_when_the_run_began_counts() -> None:
    run = Run()
    run.memory = PolicyMemory(pools={str(KEY): PoolMemory(revisions={"1": RevisionMemory(0.0, healthy_s=500.0)})})
    assert run.tick(5_000.0, remedies=[ROLL_BACK], diagnoses=[believed(BAD_REVISION)]) == []


def test_a_clock_that_is_set_back_takes_nothing_from_what_served() -> None:
    run = Run()
    run.tick(0.0)
    run.tick(120.0, diagnoses=[believed(BAD_REVISION)])
    run.tick(-9_000.0)
    assert run.tick(-8_985.0, remedies=[ROLL_BACK]) == []


def test_restarts_of_before_a_clock_was_set_back_are_as_long_ago_as_they_were() -> None:
    run = Run()
    for at in (0.0, 15.0, 30.0):
        run.tick(at, remedies=[restart("r0")], actions=[started("r0", at)])
    run.tick(3_700.0)
    run.tick(100.0)
    assert not any("(I5)" in v for v in run.tick(115.0, remedies=[restart("r0")], actions=[started("r0", 115.0)]))


def test_a_plan_that_is_no_newer_or_has_run_out() -> None:
    run = Run()
    run.tick(0.0)
    run.generation = 0
    assert any("plan 1 came after plan 1 (I7)" in v for v in run.tick(15.0))


def test_an_act_in_a_mode_that_only_looks() -> None:
    assert any("cordon done" in v for v in Run(ModeSettings()).tick(0.0, remedies=[cordon("a")]))
    asked = ModeSettings(healing=Mode.APPROVE)
    assert Run(asked).tick(0.0, remedies=[cordon("a")]) == []
