"""What rivals do: the kubelet nothing, the naive rule what it says, and both scale as Foresail does."""

from __future__ import annotations

from dataclasses import replace

from policies.decide import Foresail, PolicySettings
from policies.decisions import RestartReplica
from policies.fleet import FleetState, Phase, PoolKey, PoolState, ReplicaMetrics, ReplicaState
from policies.memory import PolicyMemory
from simulations.healing.rivals import Kubelet, Naive, policy_for

KEY = PoolKey("m", "a100")


def fleet(at: float, *, running: float = 4.0, tokens: float = 100.0, phase: Phase = Phase.READY) -> FleetState:
    told = ReplicaMetrics(at - 1.0, running, 0.0, 0.1, 10.0, 10.0, tokens, 1.0)
    replica = ReplicaState("r0", phase, requested_at=0.0, since_at=0.0, metrics=told)
    return FleetState(at, (PoolState(KEY, (replica,), 1, 1, weight=1.0),), {}, {})


def restarted(policy: Naive | Kubelet, *seen: FleetState) -> list[bool]:
    """Return at which of the looks it restarts the replica."""
    decisions = [policy.decide(each, {}, PolicyMemory()) for each in seen]
    return [any(isinstance(r, RestartReplica) for r in decision.remediations) for decision in decisions]


def test_the_naive_rule_restarts_after_two_intervals_without_a_token() -> None:
    assert restarted(Naive(PolicySettings()), *(fleet(15.0 * n) for n in range(4))) == [False, False, True, True]


def test_the_eager_form_asks_for_one() -> None:
    eager = policy_for("naive-eager", PolicySettings())
    assert isinstance(eager, Naive)
    assert restarted(eager, fleet(0.0), fleet(15.0)) == [False, True]


def test_tokens_that_come_begin_the_count_anew() -> None:
    looks = [fleet(0.0), fleet(15.0), fleet(30.0, tokens=101.0), fleet(45.0, tokens=101.0)]
    assert not any(restarted(Naive(PolicySettings()), *looks))


def test_a_gauge_that_reads_zero_blinds_it() -> None:
    assert not any(restarted(Naive(PolicySettings()), *(fleet(15.0 * n, running=0.0) for n in range(4))))


def test_the_same_sample_read_twice_is_no_interval() -> None:
    again = [fleet(0.0), replace(fleet(0.0), at=15.0), replace(fleet(0.0), at=30.0)]
    assert not any(restarted(Naive(PolicySettings()), *again))


def test_what_does_not_serve_is_left_alone() -> None:
    assert not any(restarted(Naive(PolicySettings()), *(fleet(15.0 * n, phase=Phase.LOADING) for n in range(4))))


def test_the_kubelet_restarts_nothing_that_answers() -> None:
    assert not any(restarted(Kubelet(PolicySettings()), *(fleet(15.0 * n) for n in range(40))))


def test_rivals_want_as_many_replicas_as_foresail() -> None:
    seen = fleet(15.0)
    ours = Foresail(PolicySettings()).decide(seen, {}, PolicyMemory())
    assert Kubelet(PolicySettings()).decide(seen, {}, PolicyMemory()).scaling == ours.scaling
