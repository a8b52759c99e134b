"""Is a sick pod taken out of traffic, evicted and replaced, and left where a disruption budget says so?"""

from __future__ import annotations

import pytest

from controller.adapters.kube.changes import MERGE_PATCH
from controller.adapters.kube.kinds import PODS
from controller.errors import ActuationError
from tests.builders_acting import Acting, acting_on, key_of
from tests.builders_any_cluster import BUDGETS, Hands, Place

SERVING = "foresail.dev/serving"


def serves(hands: Hands, pod: str) -> str:
    return str(hands.get(PODS, pod)["metadata"]["labels"][SERVING])


def test_a_pod_is_evicted_and_another_takes_its_place(foresail: Acting, hands: Hands) -> None:
    foresail.labelled("ill", 2)
    victim, other = sorted(hands.names("ill"))
    foresail.cluster.restart(key_of("ill"), victim)
    hands.until_ready("ill", 2)
    assert victim not in hands.names("ill")
    assert other in hands.names("ill")
    foresail.at_rest("ill", 2)
    with pytest.raises(ActuationError, match="no replica"):
        foresail.cluster.restart(key_of("ill"), victim)


def test_a_budget_that_spares_none_is_obeyed_and_named(foresail: Acting, hands: Hands) -> None:
    foresail.labelled("spared", 2)
    victim = min(hands.names("spared"))
    hands.budget("spared", "spared", least=2, healthy=2)
    with pytest.raises(ActuationError, match="disruption budget says not now"):
        foresail.cluster.restart(key_of("spared"), victim)
    assert victim in hands.names("spared")
    hands.patch(BUDGETS, "spared", {"spec": {"minAvailable": 1}}, MERGE_PATCH)
    hands.until_counted("spared", 2)
    foresail.cluster.restart(key_of("spared"), victim)
    hands.until_ready("spared", 2)
    assert victim not in hands.names("spared")


def test_a_pod_of_several_budgets_is_deleted_only_where_that_is_allowed(
    foresail: Acting, hands: Hands, place: Place
) -> None:
    foresail.labelled("torn", 2)
    victim = min(hands.names("torn"))
    for name in ("torn-a", "torn-b"):
        hands.budget(name, "torn", least=0, healthy=2)
    with pytest.raises(ActuationError, match="several disruption budgets"):
        foresail.cluster.restart(key_of("torn"), victim)
    assert victim in hands.names("torn")
    with acting_on(place, delete_unevictable=True) as allowed:
        allowed.at_rest("torn", 2)
        allowed.cluster.restart(key_of("torn"), victim)
    hands.until_ready("torn", 2)
    assert victim not in hands.names("torn")


def test_a_pod_is_taken_out_of_traffic_and_back_and_its_workload_keeps_it(foresail: Acting, hands: Hands) -> None:
    foresail.labelled("shunned", 2)
    before = hands.names("shunned")
    pod, key = min(before), key_of("shunned")
    foresail.cluster.cordon(key, pod)
    assert serves(hands, pod) == "false"
    pool = foresail.pool("shunned")
    assert pool is not None
    assert [one.id for one in pool.replicas if one.cordoned] == [pod]
    foresail.cluster.uncordon(key, pod)
    assert serves(hands, pod) == "true"
    assert hands.names("shunned") == before
