"""Are tokens and rules answered as RBAC does?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kubernetes import client

from simulations.kubernetes_api.access import Rule, Subject
from simulations.kubernetes_api.running import RunningApi
from tests.builders_kubernetes_api import NAMESPACE, Clients, clients, deployment, status_of

USER = "system:serviceaccount:default:foresail"
RULES = (
    Rule(("get", "list", "watch"), ("pods",), namespaces=(NAMESPACE,)),
    Rule(("get", "patch"), ("deployments/scale",), ("apps",), namespaces=(NAMESPACE,)),
    Rule(("get", "update"), ("leases",), ("coordination.k8s.io",), names=("foresail",), namespaces=(NAMESPACE,)),
)


@pytest.fixture
def bound(api: RunningApi) -> Iterator[Clients]:
    """The client with a token that may do little."""
    api.call("POST", "/apis/apps/v1/namespaces/default/deployments", deployment())
    api.grant("t0ken", Subject(USER, RULES))
    with clients(api, "t0ken") as official:
        yield official


def allowed(k8s: Clients, **wanted: str) -> bool:
    review = k8s.reviews.create_self_subject_access_review({"spec": {"resourceAttributes": wanted}})
    return bool(review.status.allowed)


def test_what_no_rule_allows_is_told_by_user_verb_and_resource(bound: Clients) -> None:
    bound.apps.patch_namespaced_deployment_scale("engine", NAMESPACE, {"spec": {"replicas": 2}})
    with pytest.raises(client.ApiException) as refused:
        bound.apps.patch_namespaced_deployment("engine", NAMESPACE, {"spec": {"replicas": 1}})
    assert refused.value.status == 403
    assert status_of(refused.value)["message"] == (
        f'deployments.apps "engine" is forbidden: User "{USER}" cannot patch resource "deployments" in API group '
        '"apps" in the namespace "default"'
    )
    with pytest.raises(client.ApiException) as everywhere:
        bound.core.list_pod_for_all_namespaces()
    assert status_of(everywhere.value)["message"] == (
        f'pods is forbidden: User "{USER}" cannot list resource "pods" in API group "" at the cluster scope'
    )


def test_a_review_says_what_a_request_would_get(bound: Clients) -> None:
    assert allowed(bound, verb="list", resource="pods", namespace=NAMESPACE)
    assert not allowed(bound, verb="list", resource="pods", namespace="other")
    assert not allowed(bound, verb="delete", resource="pods", namespace=NAMESPACE)
    scale = {"group": "apps", "resource": "deployments", "subresource": "scale", "namespace": NAMESPACE}
    assert allowed(bound, verb="patch", **scale)
    assert not allowed(bound, verb="update", **scale)
    lease = {"group": "coordination.k8s.io", "resource": "leases", "namespace": NAMESPACE}
    assert allowed(bound, verb="update", name="foresail", **lease)
    assert not allowed(bound, verb="update", name="another", **lease)


def test_a_token_that_expired_is_unauthorized(bound: Clients, api: RunningApi) -> None:
    bound.core.list_namespaced_pod(NAMESPACE)
    api.expire("t0ken")
    with pytest.raises(client.ApiException) as refused:
        bound.core.list_namespaced_pod(NAMESPACE)
    assert (refused.value.status, status_of(refused.value)["reason"]) == (401, "Unauthorized")
    api.grant("t0ken", Subject(USER, RULES))
    bound.core.list_namespaced_pod(NAMESPACE)


def test_without_any_token_everybody_may_do_everything(k8s: Clients) -> None:
    assert allowed(k8s, verb="delete", resource="nodes")
