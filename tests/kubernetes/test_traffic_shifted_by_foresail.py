"""Are weights of a route changed and nothing else, one step after the other, and only to where somebody answers?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from controller.adapters.kube.changes import MERGE_PATCH
from controller.adapters.kube.kinds import ENDPOINT_SLICES, HTTP_ROUTES, INFERENCE_POOLS, SERVICES
from controller.adapters.kube.questions import ApiRefused
from controller.adapters.kube.router import KubernetesRouter
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.system_clock import SystemClock
from controller.errors import ActuationError, ObservationError, StalePlan
from policies.fleet import PoolKey
from simulations.kubernetes_api.writing import rfc3339
from tests.builders_any_cluster import Hands, Json, Place
from tests.builders_definitions import a_definition, defined

HERE, THERE = PoolKey("llama", "here"), PoolKey("llama", "there")
GATEWAY = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "of-the-suite"}


@pytest.fixture(name="routes", scope="module", autouse=True)
def _routes(place: Place) -> Iterator[None]:
    with defined(place, a_definition(HTTP_ROUTES)):
        yield


def service(name: str, weight: int) -> Json:
    return {"group": "", "kind": "Service", "name": name, "port": 8000, "weight": weight}


def inference_pool(name: str, weight: int) -> Json:
    return {"group": INFERENCE_POOLS.group, "kind": "InferencePool", "name": name, "weight": weight}


def make_route(hands: Hands, name: str, *backends: Json) -> Json:
    """Create a route with one rule that is ours, and one of an administrator; no gateway has taken it."""
    header = {"name": "x-debug", "value": "no"}
    ours = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}],
        "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [header]}}],
        "backendRefs": list(backends),
        "timeouts": {"request": "600s"},
    }
    admin = {"matches": [{"path": {"type": "Exact", "value": "/admin"}}], "backendRefs": [service("admin", 1)]}
    spec = {"parentRefs": [GATEWAY], "hostnames": [f"{name}.example"], "rules": [ours, admin]}
    return hands.create(HTTP_ROUTES, {"metadata": {"name": name}, "spec": spec})


def accept(place: Place, name: str) -> None:
    """Say what a gateway says that has taken the newest generation of a route."""
    generation = place.hands.get(HTTP_ROUTES, name)["metadata"]["generation"]
    condition = {
        "type": "Accepted",
        "status": "True",
        "reason": "Accepted",
        "message": "",
        "observedGeneration": generation,
        "lastTransitionTime": rfc3339(place.hours.now()),
    }
    parent = {"parentRef": GATEWAY, "controllerName": "foresail.dev/suite", "conditions": [condition]}
    place.hands.patch(HTTP_ROUTES, name, {"status": {"parents": [parent]}}, MERGE_PATCH, "status", by="gateway")


def weights_of(hands: Hands, name: str) -> list[int]:
    return [one["weight"] for one in hands.get(HTTP_ROUTES, name)["spec"]["rules"][0]["backendRefs"]]


@contextmanager
def routing(place: Place, name: str, here: str = "here", there: str = "there") -> Iterator[KubernetesRouter]:
    backends = {"here": here, "there": there}
    route: dict[str, Any] = {"namespace": place.namespace, "name": name, "model": "llama", "backends": backends}
    settings = KubernetesSettings.model_validate({**place.hands.settings.model_dump(), "routes": [route]})
    router = KubernetesRouter(settings, SystemClock().elapsed, place.hours.now, np.random.default_rng(0))
    router.start()
    try:
        yield router
    finally:
        router.close()


def shared(router: KubernetesRouter, here: float) -> None:
    """Wait until the watch shows these shares."""
    assert router.weights("llama") == {HERE: pytest.approx(here), THERE: pytest.approx(1 - here)}


@pytest.fixture(name="pools", scope="module")
def _pools(place: Place) -> Iterator[tuple[str, str]]:
    """Two InferencePools: behind the first a pod is ready, behind the second none is there."""
    hands = place.hands
    with defined(place, a_definition(INFERENCE_POOLS)):
        for name in ("some", "none"):
            labels = {"matchLabels": {"app": f"behind-{name}"}}
            picker = {"name": f"picker-{name}", "port": {"number": 9002}}
            spec = {"selector": labels, "targetPorts": [{"number": 8000}], "endpointPickerRef": picker}
            hands.create(INFERENCE_POOLS, {"metadata": {"name": name}, "spec": spec})
        hands.deployment("behind-some", 1)
        hands.until_ready("behind-some", 1)
        yield "some", "none"


def test_a_step_changes_weights_alone_and_the_next_waits_for_the_gateway(place: Place, pools: tuple[str, str]) -> None:
    hands, (some, none) = place.hands, pools
    made = make_route(hands, "steps", inference_pool(some, 10), inference_pool(none, 90))
    with routing(place, "steps", some, none) as router:
        shared(router, 0.1)
        with pytest.raises(ActuationError, match="has not taken it yet"):
            router.set_weights("llama", {HERE: 0.5, THERE: 0.5})
        accept(place, "steps")
        router.set_weights("llama", {HERE: 0.5, THERE: 0.5})
        shared(router, 0.5)
        held = hands.get(HTTP_ROUTES, "steps")
        assert held["metadata"]["generation"] == made["metadata"]["generation"] + 1
        assert weights_of(hands, "steps") == [5000, 5000]
        for backend, before in zip(
            held["spec"]["rules"][0]["backendRefs"], made["spec"]["rules"][0]["backendRefs"], strict=True
        ):
            backend["weight"] = before["weight"]
        assert held["spec"] == made["spec"]
        with pytest.raises(ActuationError, match="has not looked at generation 2 yet"):
            router.set_weights("llama", {HERE: 0.8, THERE: 0.2})
        accept(place, "steps")
        router.set_weights("llama", {HERE: 0.8, THERE: 0.2})
        assert weights_of(hands, "steps") == [8000, 2000]


def test_a_share_does_not_grow_where_nobody_would_answer(place: Place, pools: tuple[str, str]) -> None:
    some, none = pools
    make_route(place.hands, "unanswered", inference_pool(some, 90), inference_pool(none, 10))
    accept(place, "unanswered")
    with routing(place, "unanswered", some, none) as router:
        shared(router, 0.9)
        with pytest.raises(ActuationError, match="no pod behind it is ready"):
            router.set_weights("llama", {HERE: 0.5, THERE: 0.5})
        assert weights_of(place.hands, "unanswered") == [90, 10]
        router.set_weights("llama", {HERE: 1.0, THERE: 0.0})
        assert weights_of(place.hands, "unanswered") == [10000, 0]


def test_a_plan_made_of_other_shares_is_stale_and_the_next_is_made_of_these(
    place: Place, pools: tuple[str, str]
) -> None:
    hands, (some, none) = place.hands, pools
    make_route(hands, "drifts", inference_pool(some, 10), inference_pool(none, 90))
    accept(place, "drifts")
    with routing(place, "drifts", some, none) as router:
        shared(router, 0.1)
        place_of = "/spec/rules/0/backendRefs/0/weight"
        hands.patch(HTTP_ROUTES, "drifts", [{"op": "replace", "path": place_of, "value": 60}], by="kubectl-edit")
        accept(place, "drifts")
        with pytest.raises(StalePlan, match="the plan was made of"):
            router.set_weights("llama", {HERE: 0.5, THERE: 0.5})
        assert weights_of(hands, "drifts") == [60, 90]
        hands.until(lambda: router.weights("llama")[HERE] == pytest.approx(0.4))
        router.set_weights("llama", {HERE: 0.5, THERE: 0.5})
        assert weights_of(hands, "drifts") == [5000, 5000]


def test_weights_that_a_rollout_shifts_are_left_to_it(place: Place, pools: tuple[str, str]) -> None:
    hands, (some, none) = place.hands, pools
    make_route(hands, "canary", inference_pool(some, 10), inference_pool(none, 90))
    place_of = "/spec/rules/0/backendRefs/0/weight"
    hands.patch(HTTP_ROUTES, "canary", [{"op": "replace", "path": place_of, "value": 20}], by="rollouts-controller")
    accept(place, "canary")
    with routing(place, "canary", some, none) as router:
        router.weights("llama")
        with pytest.raises(ActuationError, match="Argo Rollouts"):
            router.set_weights("llama", {HERE: 0.5, THERE: 0.5})
    assert weights_of(hands, "canary") == [20, 90]


def test_a_service_gets_more_once_one_of_its_endpoints_is_ready(place: Place) -> None:
    hands = place.hands
    try:
        hands.list(ENDPOINT_SLICES)
    except ApiRefused:
        pytest.skip(f"the cluster does not serve {ENDPOINT_SLICES.title} in version {ENDPOINT_SLICES.version}")
    for name in ("here", "there"):
        ports = [{"port": 8000}]
        hands.create(SERVICES, {"metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": ports}})
    make_route(hands, "services", service("here", 90), service("there", 10))
    accept(place, "services")
    with routing(place, "services") as router:
        shared(router, 0.9)
        with pytest.raises(ActuationError, match="none of its endpoints is ready"):
            router.set_weights("llama", {HERE: 0.5, THERE: 0.5})
        hands.deployment("there", 1)
        hands.until_ready("there", 1)

        def grows() -> bool:
            try:
                router.set_weights("llama", {HERE: 0.5, THERE: 0.5})
            except (ActuationError, ObservationError):
                return False
            return True

        hands.until(grows)
    assert weights_of(hands, "services") == [5000, 5000]
