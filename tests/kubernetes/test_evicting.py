"""Is a pod evicted where budgets allow it, and refused as Foresail understands it where they do not?"""

from __future__ import annotations

import pytest

from controller.adapters.kube.changes import MERGE_PATCH
from controller.adapters.kube.kinds import PODS
from controller.adapters.kube.questions import ApiRefused
from tests.builders_any_cluster import BUDGETS, Hands


def names(hands: Hands, app: str) -> list[str]:
    return [pod["metadata"]["name"] for pod in hands.until_ready(app, 2)]


def test_an_evicted_pod_goes_and_is_replaced(hands: Hands) -> None:
    hands.deployment("evicted", 2)
    victim = names(hands, "evicted")[0]
    hands.evict(victim)
    assert victim not in names(hands, "evicted")


def test_a_budget_that_can_spare_none_answers_429_and_the_pod_stays(hands: Hands) -> None:
    hands.deployment("guarded", 2)
    victim = names(hands, "guarded")[0]
    hands.budget("guarded", "guarded", least=2, healthy=2)
    with pytest.raises(ApiRefused) as refused:
        hands.evict(victim)
    assert refused.value.status == 429
    assert "deletionTimestamp" not in hands.get(PODS, victim)["metadata"]
    hands.patch(BUDGETS, "guarded", {"spec": {"minAvailable": 1}}, MERGE_PATCH)
    hands.until_counted("guarded", 2)
    hands.evict(victim)
    assert victim not in names(hands, "guarded")


def test_two_budgets_over_one_pod_are_an_error_of_the_server(hands: Hands) -> None:
    hands.deployment("twice", 2)
    victim = names(hands, "twice")[0]
    for name in ("twice-a", "twice-b"):
        hands.budget(name, "twice", least=0, healthy=2)
    with pytest.raises(ApiRefused) as refused:
        hands.evict(victim)
    assert refused.value.status == 500
    assert "deletionTimestamp" not in hands.get(PODS, victim)["metadata"]


def test_another_pod_of_the_same_name_is_not_evicted(hands: Hands) -> None:
    hands.deployment("meant", 2)
    victim = names(hands, "meant")[0]
    with pytest.raises(ApiRefused) as refused:
        hands.evict(victim, uid="00000000-0000-0000-0000-000000000000")
    assert refused.value.status == 409
    assert "deletionTimestamp" not in hands.get(PODS, victim)["metadata"]
