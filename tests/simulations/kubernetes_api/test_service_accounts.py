"""May a service account what the roles bound to it allow, for as long as they are bound and its token lasts?"""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes import client

from simulations.kubernetes_api.running import RunningApi
from tests.builders_kubernetes_api import NAMESPACE, clients, deployment

RBAC = "/apis/rbac.authorization.k8s.io/v1"
OWN = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
RULES = [
    {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list"]},
    {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["get", "patch"], "resourceNames": ["engine"]},
]


def account(api: RunningApi, rules: list[dict[str, Any]], *, everywhere: bool = False) -> str:
    """Make an account with these rules, and return a token of it."""
    wide = "Cluster" if everywhere else ""
    place = RBAC if everywhere else f"{RBAC}/namespaces/{NAMESPACE}"
    api.call("POST", OWN, {"metadata": {"name": "one"}})
    api.call("POST", f"{place}/{wide.lower()}roles", {"metadata": {"name": "r"}, "rules": rules})
    refers = {"apiGroup": "rbac.authorization.k8s.io", "kind": f"{wide}Role", "name": "r"}
    subjects = [{"kind": "ServiceAccount", "namespace": NAMESPACE, "name": "one"}]
    bound = {"metadata": {"name": "b"}, "roleRef": refers, "subjects": subjects}
    api.call("POST", f"{place}/{wide.lower()}rolebindings", bound)
    return str(api.call("POST", f"{OWN}/one/token", {"spec": {}})["status"]["token"])


def refusal(api: RunningApi, token: str, namespace: str = NAMESPACE) -> int:
    """Return the status with which listing Deployments is refused; 0 where it is not."""
    with clients(api, token) as asked:
        try:
            asked.apps.list_namespaced_deployment(namespace)
        except client.ApiException as error:
            return int(error.status or 0)
    return 0


def test_a_role_holds_in_its_namespace_and_for_what_it_names(api: RunningApi) -> None:
    for name in ("engine", "other"):
        api.call("POST", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments", deployment(name))
    token = account(api, RULES)
    assert refusal(api, token) == 0
    assert refusal(api, token, "kube-public") == 403
    with clients(api, token) as asked:
        asked.apps.patch_namespaced_deployment_scale("engine", NAMESPACE, {"spec": {"replicas": 5}})
        for act in (asked.apps.patch_namespaced_deployment, asked.apps.patch_namespaced_deployment_scale):
            with pytest.raises(client.ApiException) as refused:
                act("other", NAMESPACE, {"spec": {"replicas": 5}})
            assert refused.value.status == 403
        asked_for = {"namespace": NAMESPACE, "verb": "list", "group": "apps", "resource": "deployments"}
        for verb, allowed in (("list", True), ("delete", False)):
            review = {"spec": {"resourceAttributes": {**asked_for, "verb": verb}}}
            assert asked.reviews.create_self_subject_access_review(review).status.allowed is allowed


def test_a_cluster_role_that_is_bound_in_the_cluster_holds_everywhere(api: RunningApi) -> None:
    token = account(api, RULES, everywhere=True)
    assert refusal(api, token, "kube-public") == 0


def test_a_binding_that_is_taken_away_holds_no_longer(api: RunningApi) -> None:
    token = account(api, RULES)
    api.call("DELETE", f"{RBAC}/namespaces/{NAMESPACE}/rolebindings/b")
    assert refusal(api, token) == 403


def test_a_token_is_of_the_account_that_it_was_made_for(api: RunningApi) -> None:
    token = account(api, RULES)
    api.call("DELETE", f"{OWN}/one")
    assert refusal(api, token) == 401
    api.call("POST", OWN, {"metadata": {"name": "one"}})
    assert refusal(api, token) == 401
    assert refusal(api, "service-account.7.unknown") == 401


def test_whoever_has_no_token_of_an_account_may_what_they_could_before(api: RunningApi) -> None:
    account(api, [])
    assert refusal(api, "") == 0
