"""Does a pool get the replicas that were planned, give up who is to go first, and stay where the plan is old?"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from controller.adapters.kube.kinds import DEPLOYMENTS, PODS, Resource
from controller.adapters.kube.pods import DELETION_COST
from controller.adapters.kube.victims import FIRST_TO_GO
from controller.errors import ActuationError, StalePlan
from policies.replica import Phase
from tests.builders_acting import Acting, key_of
from tests.builders_any_cluster import Hands, Json, Place


def cost_of(pod: Json) -> str:
    return str(pod["metadata"].get("annotations", {}).get(DELETION_COST, ""))


def asked_for(hands: Hands, name: str) -> int:
    return int(hands.get(DEPLOYMENTS, name)["spec"]["replicas"])


def test_a_pool_grows_and_is_told_only_as_it_is_after_that(foresail: Acting, hands: Hands) -> None:
    foresail.labelled("grows", 1)
    foresail.scale("grows", 3)
    after = foresail.pool("grows")
    assert after is not None
    assert (after.desired, asked_for(hands, "grows")) == (3, 3)
    assert after.version == hands.get(DEPLOYMENTS, "grows")["metadata"]["generation"]
    assert foresail.at_rest("grows", 3).owner == ""


def test_who_is_to_go_first_goes_although_it_is_the_oldest(foresail: Acting, hands: Hands, place: Place) -> None:
    foresail.labelled("shrinks", 1)
    (oldest,) = hands.names("shrinks")
    place.hours.pass_by(2.0)  # of two that are Ready in the same second either may go
    hands.scaled("shrinks", 3)
    foresail.at_rest("shrinks", 3)
    others = hands.names("shrinks") - {oldest}
    foresail.scale("shrinks", 2, (oldest,))
    hands.until_ready("shrinks", 2)
    assert hands.names("shrinks") == others
    assert not any(DELETION_COST in pod["metadata"].get("annotations", {}) for pod in hands.pods("shrinks"))


def test_who_goes_first_is_written_before_the_number(foresail: Acting, hands: Hands) -> None:
    foresail.labelled("marked-first", 3)
    first = min(hands.names("marked-first"))
    pods, workloads = (hands.page(kind)["metadata"]["resourceVersion"] for kind in (PODS, DEPLOYMENTS))
    foresail.scale("marked-first", 2, (first,))

    def versions(kind: Resource, since: str, shows: Callable[[Json], bool]) -> list[int]:
        """Return when what is shown was first so, as the server counts changes of everything."""
        query = {"labelSelector": "app=marked-first", "resourceVersion": since, "timeoutSeconds": "2"}
        told = [one for change, one in hands.watch(kind, **query) if change == "MODIFIED" and shows(one)]
        return [int(one["metadata"]["resourceVersion"]) for one in told]

    costs = versions(PODS, pods, lambda pod: cost_of(pod) == FIRST_TO_GO and pod["metadata"]["name"] == first)
    others = versions(PODS, pods, lambda pod: bool(cost_of(pod)) and pod["metadata"]["name"] != first)
    numbers = versions(DEPLOYMENTS, workloads, lambda one: one["spec"]["replicas"] == 2)
    assert costs[0] < numbers[0]
    assert others == []


def test_who_is_cordoned_goes_first(foresail: Acting, hands: Hands, place: Place) -> None:
    foresail.labelled("apart", 1)
    (oldest,) = hands.names("apart")
    place.hours.pass_by(2.0)
    hands.scaled("apart", 3)
    foresail.at_rest("apart", 3)
    foresail.cluster.cordon(key_of("apart"), oldest)
    foresail.scale("apart", 2)
    hands.until_ready("apart", 2)
    assert oldest not in hands.names("apart")


def test_who_is_sick_goes_before_who_is_ready(foresail: Acting, hands: Hands) -> None:
    if hands.kubelets:
        pytest.skip("kubelets say themselves who is Ready")
    foresail.labelled("sick", 3)
    sick = min(hands.names("sick"))
    hands.fall_sick(sick)
    foresail.seen("sick", lambda pool: sum(one.phase is Phase.READY for one in pool.replicas) == 2)
    foresail.scale("sick", 2, (sick,))
    hands.until_ready("sick", 2)
    assert sick not in hands.names("sick")


def test_a_plan_of_an_older_generation_is_stale(foresail: Acting, hands: Hands) -> None:
    pool = foresail.labelled("older", 1)
    hands.scaled("older", 2)
    with pytest.raises(StalePlan, match="generation"):
        foresail.cluster.scale(key_of("older"), 5, pool.version)
    assert asked_for(hands, "older") == 2


def test_a_plan_for_one_that_was_deleted_and_made_again_is_stale(foresail: Acting, hands: Hands) -> None:
    pool = foresail.labelled("again", 1)
    hands.delete(DEPLOYMENTS, "again")
    hands.until(lambda: not hands.list(DEPLOYMENTS, fieldSelector="metadata.name=again"))
    hands.deployment("again", 1, {"foresail.dev/model": "again"})
    with pytest.raises(StalePlan, match="another one bears that name"):
        foresail.cluster.scale(key_of("again"), 5, pool.version)
    assert asked_for(hands, "again") == 1


def test_a_number_that_is_none_is_refused_before_anything_is_sent(foresail: Acting, hands: Hands) -> None:
    pool = foresail.labelled("no-number", 1)
    with pytest.raises(ActuationError, match="no number"):
        foresail.cluster.scale(key_of("no-number"), -1, pool.version)
    with pytest.raises(ActuationError, match="no such pool"):
        foresail.cluster.scale(key_of("nobody"), 1, 1)
    assert asked_for(hands, "no-number") == 1
