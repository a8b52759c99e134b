"""ScalingPolicy objects for tests."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import Any

from controller.adapters.kube.policies import ScalingPolicies
from controller.adapters.kube.policy_objects import Policy, read_policy
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.system_clock import SystemClock
from controller.settings import Settings
from simulations.kubernetes_api.running import RunningApi
from tests.builders_kube_api import MERGE

PROFILE = "llama-3.1-8b-l40s-tp1"
Json = dict[str, Any]


def policy_json(name: str = "llama", model: str = "", **spec: Any) -> Json:
    """Return a policy as somebody writes it: one pool ``a`` of the model, unless ``spec`` says otherwise."""
    asked = {"model": model or name, "pools": [pool_json()], **spec}
    kind = {"apiVersion": "foresail.dev/v1alpha1", "kind": "ScalingPolicy"}
    return {**kind, "metadata": {"name": name, "namespace": "prod"}, "spec": asked}


def pool_json(pool: str = "a", **more: Any) -> Json:
    """Return a pool of a policy."""
    return {"pool": pool, "profile": PROFILE, "minReplicas": 2, "maxReplicas": 9, **more}


def policy(name: str = "llama", age: int = 0, generation: int = 1, **told: Any) -> Policy:
    """Return a policy as the API server has it; one of a larger ``age`` in seconds is older."""
    made = policy_json(name, **told)
    made["metadata"] |= {
        "uid": f"uid-{name}",
        "generation": generation,
        "resourceVersion": "7",
        "creationTimestamp": f"2026-01-01T00:00:{59 - age:02d}Z",
    }
    read = read_policy(made)
    assert read is not None
    return read


def settings_of(told: Json | None = None, **platform: Any) -> Settings:
    """Return what a settings file says, of a cluster."""
    settings = Settings.model_validate(told or {})
    return settings.model_copy(update={"platform": KubernetesSettings(**{"namespaces": ("prod",), **platform})})


class Policies:
    """Writes policies in ``prod`` as ``kubectl`` would, past every fault and rule."""

    PATH = "/apis/foresail.dev/v1alpha1/namespaces/prod/scalingpolicies"

    def __init__(self, api: RunningApi, *, in_new_namespace: bool = True) -> None:
        self.api = api
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "prod"}}
        if in_new_namespace:
            api.call("POST", "/api/v1/namespaces", body)

    def create(self, name: str = "llama", **spec: Any) -> Json:
        return self.api.call("POST", self.PATH, policy_json(name, **spec))

    def edit(self, name: str = "llama", **spec: Any) -> Json:
        return self.api.call("PATCH", f"{self.PATH}/{name}", {"spec": spec}, MERGE)

    def delete(self, name: str = "llama") -> None:
        self.api.call("DELETE", f"{self.PATH}/{name}")

    def get(self, name: str = "llama") -> Json:
        return self.api.call("GET", f"{self.PATH}/{name}")

    def status(self, name: str = "llama") -> Json:
        found: Json = self.get(name).get("status", {})
        return found


class InCluster:
    """A file's settings with this cluster for their platform, and the policies of that laid over them."""

    def __init__(self, policies: ScalingPolicies, cluster: KubernetesSettings) -> None:
        self._policies, self._cluster = policies, cluster

    def lay_over(self, settings: Settings) -> Settings:
        return self._policies.lay_over(settings.model_copy(update={"platform": self._cluster}))

    def changed(self) -> bool:
        return self._policies.changed()


def until(true: Callable[[], bool], meanwhile: Callable[[], None] = lambda: None) -> None:
    """Wait until something is true that other threads bring about, ten seconds at most."""
    end_s = SystemClock().elapsed() + 10.0
    while not true():
        assert SystemClock().elapsed() < end_s
        meanwhile()
        Event().wait(0.01)
