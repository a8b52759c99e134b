"""Is a number of replicas that somebody else sets left to them and told, and ours again when they are gone?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.adapters.kube.cluster import KubernetesView
from controller.adapters.kube.kinds import HORIZONTAL_POD_AUTOSCALERS
from controller.adapters.system_clock import SystemClock
from policies.decide import decide
from policies.decisions import Decision
from policies.fleet import FleetState, PoolKey, PoolState
from policies.memory import PolicyMemory
from simulations.kubernetes_api.access import Rule, Subject
from simulations.kubernetes_api.faults import Fault
from simulations.kubernetes_api.kinds import BUILT_IN
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders import FixedClock, demand, forecast, settings
from tests.builders_kube import T0
from tests.builders_kube_api import MERGE, Fleet, caught_up, settings_for

KEY = PoolKey("llama", "llama")
APPLY = "application/apply-patch+yaml"
ALL = ("HorizontalPodAutoscaler", "ScaledObject", "VerticalPodAutoscaler")
PLACES = {
    "HorizontalPodAutoscaler": ("autoscaling/v2", "horizontalpodautoscalers"),
    "ScaledObject": ("keda.sh/v1alpha1", "scaledobjects"),
    "VerticalPodAutoscaler": ("autoscaling.k8s.io/v1", "verticalpodautoscalers"),
}


class Place:
    """One Deployment in a cluster with a clock, and who else may have a hand in it."""

    def __init__(self, api: RunningApi, clock: FixedClock) -> None:
        self.api, self.clock = api, clock
        self.fleet = Fleet(api)
        self.fleet.deployment()
        clock.at += 3600.0

    def autoscaler(self, kind: str, metadata: dict[str, Any] | None = None, **spec: Any) -> None:
        """Let one scale the Deployment; its name is ``other``."""
        version, plural = PLACES[kind]
        ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "llama"}
        spec = {"targetRef" if kind == "VerticalPodAutoscaler" else "scaleTargetRef": ref, **spec}
        spec |= {"maxReplicas": 9} if kind == "HorizontalPodAutoscaler" else {}
        body = {"apiVersion": version, "kind": kind, "metadata": {"name": "other", **(metadata or {})}, "spec": spec}
        self.api.call("POST", f"/apis/{version}/namespaces/prod/{plural}", body)

    def annotate(self, kind: str, **annotations: str) -> None:
        version, plural = PLACES[kind]
        body = {"metadata": {"annotations": {name.replace("__", "/"): said for name, said in annotations.items()}}}
        self.api.call("PATCH", f"/apis/{version}/namespaces/prod/{plural}/other", body, MERGE)

    def delete(self, kind: str) -> None:
        version, plural = PLACES[kind]
        self.api.call("DELETE", f"/apis/{version}/namespaces/prod/{plural}/other")

    def replicas(self, count: int, by: str, sub: str = "") -> None:
        path = f"{self.fleet.path('deployments', 'llama', sub)}?fieldManager={by}"
        self.api.call("PATCH", path, {"spec": {"replicas": count}}, MERGE)

    def applied(self, count: int, by: str) -> None:
        path = f"{self.fleet.path('deployments', 'llama')}?fieldManager={by}&force=true"
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "llama"}}
        self.api.call("PATCH", path, {**body, "spec": {"replicas": count}}, APPLY)


@pytest.fixture(name="place")
def _place() -> Iterator[Place]:
    clock = FixedClock(T0)
    with running_api(bookmark_every_s=0.05, clock=clock) as api:
        yield Place(api, clock)


@contextmanager
def _viewing(place: Place, folder: Path, **more: Any) -> Iterator[KubernetesView]:
    read = settings_for(place.api, folder, **{"autoscalers": ALL, **more})
    view = KubernetesView(read, SystemClock().elapsed, np.random.default_rng(3), now=place.clock.now)
    view.start()
    try:
        yield view
    finally:
        view.close()


def _seen(place: Place, view: KubernetesView) -> PoolState:
    """Return the pool once the view shows all that has happened."""
    assert caught_up(place.api, chain.from_iterable(view.reflectors.values()))
    (pool,) = view.pools()
    return pool


def _said(view: KubernetesView) -> str:
    return " | ".join(str(note) for note in view.notes())


def _decided(pool: PoolState, at: float) -> Decision:
    """Return what is decided under a load that needs many more replicas."""
    fleet = FleetState(at, (pool.with_told(pool.told, 1.0),), {"llama": demand(requests_per_s=200.0)})
    return decide(fleet, {"llama": forecast(200.0, at)}, PolicyMemory(), settings(KEY))


def test_a_deployment_that_nobody_else_scales_is_ours(place: Place, tmp_path: Path) -> None:
    with _viewing(place, tmp_path) as view:
        pool = _seen(place, view)
        assert (pool.owner, view.owner(KEY)) == ("", None)
        assert [plan.pool for plan in _decided(pool, place.clock.at).scaling] == [KEY]


def test_what_an_autoscaler_scales_is_left_alone_with_a_reason_until_it_is_gone(place: Place, tmp_path: Path) -> None:
    with _viewing(place, tmp_path) as view:
        place.autoscaler("HorizontalPodAutoscaler")
        pool = _seen(place, view)
        assert pool.owner == "HorizontalPodAutoscaler prod/other"
        assert "delete or pause HorizontalPodAutoscaler prod/other" in _said(view)
        assert view.pools()[0] is pool
        decision = _decided(pool, place.clock.at)
        assert decision.scaling == ()
        (why,) = [reason for reason in decision.reasons if reason.rule == "other owner"]
        assert why.detail == "HorizontalPodAutoscaler prod/other owns the replica count: left alone"
        place.delete("HorizontalPodAutoscaler")
        assert _seen(place, view).owner == ""


def test_a_scaled_object_that_is_paused_owns_nothing(place: Place, tmp_path: Path) -> None:
    place.autoscaler("ScaledObject")
    with _viewing(place, tmp_path) as view:
        assert _seen(place, view).owner == "ScaledObject prod/other"
        place.annotate("ScaledObject", **{"autoscaling.keda.sh__paused": "true"})
        assert _seen(place, view).owner == ""


def test_an_autoscaler_that_takes_our_number_leaves_it_to_us_to_choose(place: Place, tmp_path: Path) -> None:
    with _viewing(place, tmp_path) as view:
        metric = {
            "metric": {"name": "foresail_desired_replicas"},
            "target": {"type": "AverageValue", "averageValue": 1},
        }
        place.autoscaler("HorizontalPodAutoscaler", metrics=[{"type": "External", "external": metric}])
        pool = _seen(place, view)
        owner = view.owner(KEY)
        assert pool.owner == ""
        assert owner is not None
        assert (owner.title, owner.follows) == ("HorizontalPodAutoscaler prod/other", True)
        assert "to what we publish" in _said(view)
        place.annotate("HorizontalPodAutoscaler", **{"foresail.dev__follows": "true"})
        place.autoscaler("ScaledObject")
        assert _seen(place, view).owner == "ScaledObject prod/other"  # that one chooses a number of its own


def test_what_ends_pods_to_resize_them_is_told_and_owns_no_number(place: Place, tmp_path: Path) -> None:
    place.autoscaler("VerticalPodAutoscaler")
    with _viewing(place, tmp_path) as view:
        assert _seen(place, view).owner == ""
        assert "VerticalPodAutoscaler prod/other ends its pods to resize them" in _said(view)


def test_a_number_that_a_person_has_set_is_theirs_for_an_hour(place: Place, tmp_path: Path) -> None:
    with _viewing(place, tmp_path) as view:
        place.replicas(7, by="kubectl-edit")
        pool = _seen(place, view)
        assert (pool.owner, pool.desired) == ("somebody by kubectl-edit", 7)
        assert _decided(pool, place.clock.at).scaling == ()
        place.clock.at += 3599.0
        assert view.pools()[0] is pool
        place.clock.at += 1.0
        (after,) = view.pools()  # though nothing has changed in the cluster
        assert after.owner == ""
        assert _decided(after, place.clock.at).scaling
        assert "kubectl-edit" not in _said(view)


def test_a_scale_by_hand_counts_and_our_own_does_not(place: Place, tmp_path: Path) -> None:
    with _viewing(place, tmp_path) as view:
        place.replicas(7, by="kubectl", sub="scale")
        assert _seen(place, view).owner == "somebody by kubectl"
        place.replicas(8, by="foresail", sub="scale")
        assert _seen(place, view).owner == ""
        place.replicas(9, by="foresail-blue", sub="scale")
        assert _seen(place, view).owner == "another Foresail (field manager foresail-blue)"


def test_a_number_that_a_tool_applies_is_its_own_unless_it_may_be_taken_over(place: Place, tmp_path: Path) -> None:
    place.applied(4, by="argocd-controller")
    place.clock.at += 86400.0
    with _viewing(place, tmp_path) as view:
        assert _seen(place, view).owner == "Argo CD (field manager argocd-controller)"
        assert "take replicas out of what Argo CD applies" in _said(view)
    with _viewing(place, tmp_path, ownership={"take_over": ["gitops"]}) as view:
        assert _seen(place, view).owner == ""


def test_a_kind_of_autoscaler_that_is_not_installed_owns_nothing(tmp_path: Path) -> None:
    clock = FixedClock(T0)
    with running_api(kinds=BUILT_IN, bookmark_every_s=0.05, clock=clock) as api:
        place = Place(api, clock)
        with _viewing(place, tmp_path) as view:
            (pool,) = view.pools()
            assert pool.owner == ""
            assert "scaledobjects.keda.sh in prod" in _said(view)
            place.autoscaler("HorizontalPodAutoscaler")
            assert caught_up(api, view.reflectors[HORIZONTAL_POD_AUTOSCALERS])
            assert view.pools()[0].owner == "HorizontalPodAutoscaler prod/other"


def test_where_autoscalers_may_not_be_read_numbers_are_held_and_pools_are_told(place: Place, tmp_path: Path) -> None:
    read = Rule(
        ("list", "watch"), ("pods", "deployments", "replicasets", "statefulsets", "controllerrevisions"), ("*",)
    )
    place.api.grant("some", Subject("foresail", (read,)))
    hpa = ("HorizontalPodAutoscaler",)
    with _viewing(place, tmp_path, known_as="some", timeout_s=0.5, autoscalers=hpa, longest_backoff_s=0.1) as view:
        (pool,) = view.pools()
        assert "horizontalpodautoscalers.autoscaling cannot be read" in pool.owner
        assert len(pool.replicas) == 2
        assert "a Role in namespace prod" in _said(view)
        assert _decided(pool, place.clock.at).scaling == ()
        allowed = Rule(("list", "watch"), ("horizontalpodautoscalers",), ("autoscaling",))
        place.api.grant("some", Subject("foresail", (read, allowed)))
        assert _seen(place, view).owner == ""


def test_an_owner_stays_the_owner_while_its_kind_cannot_be_asked_for(place: Place, tmp_path: Path) -> None:
    with _viewing(place, tmp_path, longest_backoff_s=0.1) as view:
        place.autoscaler("HorizontalPodAutoscaler")
        assert _seen(place, view).owner
        place.api.fault(Fault(code=500, verbs=("list", "watch"), resources=("horizontalpodautoscalers",)))
        place.api.drop_watches()
        assert view.pools()[0].owner == "HorizontalPodAutoscaler prod/other"
