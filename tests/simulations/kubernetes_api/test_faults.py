"""Do faults strike before anything has changed, and end when told to?"""

from __future__ import annotations

import threading

import pytest
import urllib3
from kubernetes import client, watch

from simulations.kubernetes_api.faults import Fault
from simulations.kubernetes_api.running import RunningApi
from tests.builders_kubernetes_api import NAMESPACE, Clients, deployment

SCALE = {"spec": {"replicas": 9}}
CUT = (urllib3.exceptions.HTTPError, client.ApiException)


@pytest.fixture(autouse=True)
def held(k8s: Clients) -> None:
    """Every test finds a Deployment of three replicas."""
    k8s.apps.create_namespaced_deployment(NAMESPACE, deployment())


def replicas(api: RunningApi) -> int:
    told: int = api.call("GET", "/apis/apps/v1/namespaces/default/deployments/engine")["spec"]["replicas"]
    return told


@pytest.mark.parametrize("code", [401, 403, 409, 410, 429, 500, 503, 504])
def test_a_refused_patch_has_changed_nothing(k8s: Clients, api: RunningApi, code: int) -> None:
    api.fault(Fault(code=code, verbs=("patch",), resources=("deployments/scale",), times=1, retry_after_s=1))
    with pytest.raises(client.ApiException) as refused:
        k8s.apps.patch_namespaced_deployment_scale("engine", NAMESPACE, SCALE)
    assert refused.value.status == code
    assert refused.value.headers["Retry-After"] == "1"
    assert replicas(api) == 3
    k8s.apps.patch_namespaced_deployment_scale("engine", NAMESPACE, SCALE)
    assert replicas(api) == 9


def test_a_fault_strikes_what_it_names_and_no_more(k8s: Clients, api: RunningApi) -> None:
    fault = Fault(code=503, verbs=("list",), resources=("pods",))
    api.fault(fault)
    k8s.apps.list_namespaced_deployment(NAMESPACE)
    with pytest.raises(client.ApiException):
        k8s.core.list_namespaced_pod(NAMESPACE)
    api.faults.remove(fault)
    k8s.core.list_namespaced_pod(NAMESPACE)
    assert api.faults.struck == 1


def test_a_fraction_is_drawn_from_the_seed(k8s: Clients, api: RunningApi) -> None:
    api.fault(Fault(code=500, verbs=("get",), fraction=0.5))
    told = []
    for _ in range(40):
        try:
            k8s.apps.read_namespaced_deployment("engine", NAMESPACE)
            told.append(200)
        except client.ApiException as error:
            told.append(error.status)
    assert set(told) == {200, 500}
    assert 10 <= told.count(500) <= 30


def test_a_cut_request_was_not_carried_out_and_a_lost_answer_was(k8s: Clients, api: RunningApi) -> None:
    cut = Fault(reset=True, verbs=("patch",))
    api.fault(cut)
    with pytest.raises(CUT):
        k8s.apps.patch_namespaced_deployment_scale("engine", NAMESPACE, SCALE)
    assert replicas(api) == 3
    api.faults.clear()
    api.fault(Fault(answer_lost=True, verbs=("patch",)))
    with pytest.raises(CUT):
        k8s.apps.patch_namespaced_deployment_scale("engine", NAMESPACE, SCALE)
    assert replicas(api) == 9


@pytest.mark.parametrize("how", ["reset", "hang"])
def test_a_partition_answers_nothing_until_it_heals(k8s: Clients, api: RunningApi, how: str) -> None:
    api.partition("hang" if how == "hang" else "reset")
    with pytest.raises(CUT):
        k8s.apps.patch_namespaced_deployment_scale("engine", NAMESPACE, SCALE, _request_timeout=0.3)
    assert replicas(api) == 3
    api.heal()
    assert k8s.apps.read_namespaced_deployment("engine", NAMESPACE).spec.replicas == 3


def test_a_dropped_watch_ends_and_the_next_one_goes_on(k8s: Clients, api: RunningApi) -> None:
    version = str(api.version)
    dropping = threading.Timer(0.2, api.drop_watches)
    dropping.start()
    stream = k8s.connection.call_api(
        "GET",
        f"{api.url}/apis/apps/v1/namespaces/default/deployments?watch=1&resourceVersion={version}&timeoutSeconds=60",
    )
    assert stream.read() == b""
    dropping.join()
    k8s.apps.patch_namespaced_deployment_scale("engine", NAMESPACE, SCALE)
    events = watch.Watch().stream(
        k8s.apps.list_namespaced_deployment, NAMESPACE, resource_version=version, timeout_seconds=1
    )
    assert [event["object"].spec.replicas for event in events] == [9]
