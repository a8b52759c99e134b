"""What kubectl prints of objects: the table that a server makes of them."""

from __future__ import annotations

import json
from typing import Any

from kubernetes import config

from controller.adapters.kube.kinds import Resource
from tests.builders_any_cluster import Json, Place

ACCEPTS = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


def table_of(place: Place, resource: Resource) -> dict[str, dict[str, Any]]:
    """Return the cells of the namespace's objects by name and column, as kubectl asks for them."""
    connection = config.new_client_from_config(str(place.kubeconfig))
    headers, path = {"Accept": ACCEPTS}, resource.path(place.namespace)
    try:
        connection.update_params_for_auth(headers, [], ["BearerToken"], path, "GET", None)
        answer = connection.call_api("GET", connection.configuration.host + path, header_params=headers)
        told: Json = json.loads(answer.read())
    finally:
        connection.rest_client.pool_manager.clear()
    assert told["kind"] == "Table", told
    columns = [one["name"] for one in told["columnDefinitions"]]
    return {row["object"]["metadata"]["name"]: dict(zip(columns, row["cells"], strict=True)) for row in told["rows"]}
