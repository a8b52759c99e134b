"""Does a shard decide with what other shards leave it of the budgets of the fleet?"""

from __future__ import annotations

import pytest

from controller.shard_budget import ShardPolicy, less
from controller.shard_settings import Rest, ShardSettings, Spent
from policies.decide import Foresail
from policies.guardrails import GuardrailSettings
from policies.memory import PolicyMemory
from policies.settings import PolicySettings
from tests.builders import KEY, fleet, pool, settings

SHARD = ShardSettings(index=0, of=2, pins={KEY.model: 0}).beside(Rest(gpus=40, cents=10_000))
BUSY = fleet(pool(3), requests_per_s=1000.0)
GPUS = pool(3).gpus_per_replica


def decided(policy: PolicySettings, spent: dict[int, Spent]) -> int:
    """Return how many replicas the pool of a busy model gets, which has three."""
    decision = ShardPolicy(policy, SHARD, lambda: spent).decide(BUSY, {}, PolicyMemory())
    (plan,) = decision.scaling or (None,)
    return plan.desired if plan is not None else 3


def of_budget(**budgets: float) -> PolicySettings:
    return settings(guardrails=GuardrailSettings.model_validate({"up_replicas": 50, **budgets}))


def test_while_others_keep_to_their_part_a_shard_has_its_own() -> None:
    policy = of_budget(gpu_budget=SHARD.share_of(40))
    assert decided(policy, {}) == decided(policy, {1: Spent(20)}) == 20 // GPUS


def test_what_another_shard_has_beyond_its_part_is_taken_off() -> None:
    policy = of_budget(gpu_budget=SHARD.share_of(40))
    assert decided(policy, {1: Spent(20 + 3 * GPUS)}) == 20 // GPUS - 3
    assert decided(policy, {1: Spent(400)}) == 3, "nothing that runs is taken away for a budget"
    assert decided(policy, {0: Spent(GPUS)}) == 20 // GPUS - 1, "workloads of ours that are no pools count as well"


def test_money_is_divided_alike() -> None:
    assert SHARD.overdrawn({1: Spent(0, 50.0)}) == Spent()
    assert SHARD.overdrawn({1: Spent(0, 62.5)}) == Spent(0, 12.5)
    left = less(GuardrailSettings(usd_per_hour_budget=50.0), Spent(7, 12.5))
    assert (left.usd_per_hour_budget, left.gpu_budget) == (37.5, None)


def test_without_a_budget_nobody_counts() -> None:
    free = ShardSettings(index=0, of=2).beside(Rest())
    assert free.overdrawn({1: Spent(400, 400.0)}) == Spent()


@pytest.mark.parametrize("spent", [{}, {1: Spent(100)}])
def test_with_nothing_taken_off_it_decides_as_foresail_does(spent: dict[int, Spent]) -> None:
    policy = of_budget()
    ours = ShardPolicy(policy, SHARD.beside(Rest()), lambda: spent).decide(BUSY, {}, PolicyMemory())
    assert ours == Foresail(policy).decide(BUSY, {}, PolicyMemory())
