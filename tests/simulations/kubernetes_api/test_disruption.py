"""Does an eviction get the answers of the Eviction API?"""

from __future__ import annotations

import pytest
from kubernetes import client

from simulations.kubernetes_api.running import RunningApi
from tests.builders_kubernetes_api import NAMESPACE, Clients, budget, deployment, status_of


@pytest.fixture
def pods(k8s: Clients, api: RunningApi) -> list[str]:
    """Names of three Ready pods."""
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment())
    api.settle()
    return [pod.metadata.name for pod in k8s.core.list_namespaced_pod(NAMESPACE).items]


def evict(k8s: Clients, pod: str) -> None:
    k8s.core.create_namespaced_pod_eviction(pod, NAMESPACE, {"metadata": {"name": pod}})


def refusal(k8s: Clients, pod: str) -> client.ApiException:
    with pytest.raises(client.ApiException) as refused:
        evict(k8s, pod)
    return refused.value


def test_without_a_budget_an_evicted_pod_is_replaced(k8s: Clients, api: RunningApi, pods: list[str]) -> None:
    api.kubelet.paused.set()
    evict(k8s, pods[0])
    marked = k8s.core.read_namespaced_pod(pods[0], NAMESPACE)
    assert marked.metadata.deletion_timestamp is not None
    assert "EvictionByEvictionAPI" in [one.reason for one in marked.status.conditions]
    api.kubelet.paused.clear()
    api.settle()
    now = [pod.metadata.name for pod in k8s.core.list_namespaced_pod(NAMESPACE).items]
    assert len(now) == 3
    assert pods[0] not in now


def test_a_budget_lets_go_what_it_can_spare_and_then_answers_429(
    k8s: Clients, api: RunningApi, pods: list[str]
) -> None:
    k8s.policy.create_namespaced_pod_disruption_budget(NAMESPACE, budget(minAvailable=2))
    api.settle()
    evict(k8s, pods[0])
    error = refusal(k8s, pods[1])
    assert error.status == 429
    assert status_of(error)["details"]["causes"][0]["reason"] == "DisruptionBudget"
    assert k8s.core.read_namespaced_pod(pods[1], NAMESPACE).metadata.deletion_timestamp is None
    api.settle()
    evict(k8s, pods[1])


def test_a_budget_that_was_never_counted_is_429_with_a_time_to_wait(k8s: Clients, pods: list[str]) -> None:
    k8s.policy.create_namespaced_pod_disruption_budget(NAMESPACE, budget(maxUnavailable=1))
    error = refusal(k8s, pods[0])
    assert error.status == 429
    assert error.headers["Retry-After"] == "10"


def test_two_budgets_over_one_pod_are_an_internal_error(k8s: Clients, api: RunningApi, pods: list[str]) -> None:
    for name in ("a", "b"):
        k8s.policy.create_namespaced_pod_disruption_budget(NAMESPACE, budget(name, minAvailable=0))
    api.settle()
    assert refusal(k8s, pods[0]).status == 500


@pytest.mark.parametrize(("policy", "goes"), [("IfHealthyBudget", False), ("AlwaysAllow", True)])
def test_a_sick_pod_of_a_short_budget_goes_only_where_always_allowed(
    k8s: Clients, api: RunningApi, pods: list[str], policy: str, goes: bool
) -> None:
    body = budget(minAvailable=3, unhealthyPodEvictionPolicy=policy)
    k8s.policy.create_namespaced_pod_disruption_budget(NAMESPACE, body)
    api.kubelet.troubles.pods[f"{NAMESPACE}/{pods[0]}"] = "unready"
    api.settle()
    if goes:
        evict(k8s, pods[0])
    else:
        assert refusal(k8s, pods[0]).status == 429


def test_a_dry_run_evicts_nothing_and_counts_nothing_down(k8s: Clients, api: RunningApi, pods: list[str]) -> None:
    k8s.policy.create_namespaced_pod_disruption_budget(NAMESPACE, budget(maxUnavailable="34%"))
    api.settle()
    version = api.version
    k8s.core.create_namespaced_pod_eviction(pods[0], NAMESPACE, {"metadata": {"name": pods[0]}}, dry_run="All")
    assert api.version == version


def test_an_eviction_whose_precondition_fails_leaves_the_pod_as_it_was(
    k8s: Clients, api: RunningApi, pods: list[str]
) -> None:
    version = api.version
    options = {"preconditions": {"resourceVersion": "1"}}
    body = {"metadata": {"name": pods[0]}, "deleteOptions": options}
    with pytest.raises(client.ApiException) as refused:
        k8s.core.create_namespaced_pod_eviction(pods[0], NAMESPACE, body)
    assert refused.value.status == 409
    assert api.version == version
