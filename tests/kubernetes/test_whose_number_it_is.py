"""Is it seen from the objects of the cluster who else sets a number of replicas, and is that one left alone?"""

from __future__ import annotations

import pytest

from controller.adapters.kube.changes import MERGE_PATCH
from controller.adapters.kube.kinds import AUTOSCALERS, DEPLOYMENTS
from controller.adapters.kube.ownership import MADE_WITHIN_S
from controller.adapters.kube.questions import ApiRefused
from controller.errors import ActuationError
from policies.fleet import PoolState
from tests.builders_acting import Acting, acting_on, key_of
from tests.builders_any_cluster import Hands, Place

HPA = AUTOSCALERS["HorizontalPodAutoscaler"]


def refused(foresail: Acting, hands: Hands, name: str, replicas: int, by: str) -> None:
    """Try to scale a pool whose number is somebody else's, and find it as it was."""
    before = hands.get(DEPLOYMENTS, name)["spec"]["replicas"]
    pool = foresail.seen(name, lambda pool: pool if by in pool.owner else None)
    assert isinstance(pool, PoolState)
    with pytest.raises(ActuationError, match=by):
        foresail.cluster.scale(key_of(name), replicas, pool.version)
    assert hands.get(DEPLOYMENTS, name)["spec"]["replicas"] == before


@pytest.fixture(name="old", scope="module")
def _old(place: Place) -> str:
    """A workload that is older than what counts as having been made with it."""
    made = place.hands.deployment("old", 1, {"foresail.dev/model": "old"})
    assert made["metadata"]["generation"] == 1
    place.hours.pass_by(MADE_WITHIN_S + 5.0)
    return "old"


def test_what_a_person_has_edited_is_theirs_for_a_while(place: Place, old: str) -> None:
    hands = place.hands
    edit = {"spec": {"replicas": 3}}
    hands.patch(DEPLOYMENTS, old, edit, MERGE_PATCH, by="kubectl-edit")
    with acting_on(place) as foresail:
        refused(foresail, hands, old, 2, "somebody by kubectl-edit")
    with acting_on(place, ownership={"person_holds_s": 1.0}) as foresail:
        place.hours.pass_by(2.0)
        foresail.at_rest(old, 3)
        foresail.scale(old, 2)
        foresail.at_rest(old, 2)


def test_a_number_that_is_applied_is_that_of_the_tool(foresail: Acting, hands: Hands, place: Place) -> None:
    foresail.labelled("declared", 1)
    declared = {"metadata": {"name": "declared", "namespace": hands.namespace}, "spec": {"replicas": 2}}
    hands.apply(DEPLOYMENTS, "declared", declared, by="kustomize-controller")
    refused(foresail, hands, "declared", 3, "Flux")
    with acting_on(place, ownership={"take_over": ["gitops"]}) as allowed:
        allowed.at_rest("declared", 2)
        allowed.scale("declared", 3)
    assert hands.get(DEPLOYMENTS, "declared")["spec"]["replicas"] == 3


def test_who_applies_without_force_is_told_that_the_number_is_ours(foresail: Acting, hands: Hands) -> None:
    foresail.labelled("ours", 1)
    foresail.scale("ours", 2)
    declared = {"metadata": {"name": "ours", "namespace": hands.namespace}, "spec": {"replicas": 1}}
    with pytest.raises(ApiRefused) as conflict:
        hands.apply(DEPLOYMENTS, "ours", declared, by="kustomize-controller", force=False)
    assert conflict.value.status == 409
    assert '"foresail"' in conflict.value.what
    assert hands.get(DEPLOYMENTS, "ours")["spec"]["replicas"] == 2


def test_another_foresail_is_not_fought(foresail: Acting, hands: Hands) -> None:
    foresail.labelled("shared", 1)
    hands.patch(DEPLOYMENTS, "shared", {"spec": {"replicas": 2}}, MERGE_PATCH, by="foresail-west")
    refused(foresail, hands, "shared", 3, "another Foresail")


def test_what_an_autoscaler_scales_is_its_own(foresail: Acting, hands: Hands) -> None:
    try:
        hands.list(HPA)
    except ApiRefused:
        pytest.skip(f"the cluster does not serve {HPA.title} in version {HPA.version}")
    foresail.labelled("automatic", 1)
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "automatic"}
    spec = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 3}
    hands.create(HPA, {"metadata": {"name": "automatic"}, "spec": spec})
    refused(foresail, hands, "automatic", 3, "HorizontalPodAutoscaler")
    hands.delete(HPA, "automatic")
    foresail.seen("automatic", lambda pool: not pool.owner)
    foresail.scale("automatic", 2)
    foresail.at_rest("automatic", 2)
