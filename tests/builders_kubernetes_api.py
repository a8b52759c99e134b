"""Objects and clients for tests that talk to the API server of the project."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kubernetes import client, config

from simulations.kubernetes_api.running import RunningApi

NAMESPACE = "default"


def deployment(name: str = "engine", replicas: int = 3, image: str = "vllm:1", **spec: Any) -> dict[str, Any]:
    """Return a Deployment whose pods are labelled ``app=NAME``."""
    labels = {"app": name}
    template = {
        "metadata": {"labels": {**labels, "foresail.dev/serving": "true"}},
        "spec": {"containers": [{"name": "engine", "image": image}]},
    }
    body = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template, **spec}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": labels}, "spec": body}


def stateful_set(name: str = "engine", replicas: int = 3, image: str = "vllm:1", **spec: Any) -> dict[str, Any]:
    """Return a StatefulSet of the same pods."""
    body = deployment(name, replicas, image, **spec)
    return {**body, "kind": "StatefulSet", "spec": {**body["spec"], "serviceName": name}}


def budget(name: str = "engine", **spec: Any) -> dict[str, Any]:
    """Return a PodDisruptionBudget over ``app=engine``."""
    selector = {"matchLabels": {"app": "engine"}}
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name},
        "spec": {"selector": selector, **spec},
    }


class Clients:
    """The official client's APIs on one connection."""

    def __init__(self, connection: client.ApiClient) -> None:
        self.connection = connection
        self.core = client.CoreV1Api(connection)
        self.apps = client.AppsV1Api(connection)
        self.policy = client.PolicyV1Api(connection)
        self.leases = client.CoordinationV1Api(connection)
        self.custom = client.CustomObjectsApi(connection)
        self.reviews = client.AuthorizationV1Api(connection)

    def raw(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> dict[str, Any]:
        """Send a request as it is and return the JSON that comes back."""
        answer = self.connection.call_api(
            method,
            self.connection.configuration.host + path,
            header_params={"Content-Type": content_type, "Accept": "application/json", "User-Agent": "test/1"},
            body=body,
        )
        told: dict[str, Any] = json.loads(answer.read() or b"{}")
        if answer.status >= 400:
            raise client.ApiException.from_response(http_resp=answer, body=json.dumps(told), data=None)
        return told


@contextmanager
def clients(api: RunningApi, token: str = "") -> Iterator[Clients]:
    """Yield the official client, configured by a kubeconfig; its connections are closed in the end."""
    connection = config.new_client_from_config_dict(api.kubeconfig(token))
    connection.configuration.retries = False
    try:
        yield Clients(connection)
    finally:
        connection.rest_client.pool_manager.clear()


def status_of(error: client.ApiException) -> dict[str, Any]:
    """Return the ``Status`` object that an exception carries."""
    told: dict[str, Any] = json.loads(error.body)
    return told
