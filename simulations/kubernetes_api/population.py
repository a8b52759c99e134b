"""How does a cluster come to hold a large fleet at once?

One workload is made by the controllers; the others are copies of what they left, written straight into the store with
names, uids, nodes and addresses of their own. What follows (a scale, a rollout, an eviction) is the controllers' again.
"""

from __future__ import annotations

import json

from simulations.kubernetes_api.api import Api
from simulations.kubernetes_api.controllers.owned import controller_uid
from simulations.kubernetes_api.controllers.settling import Controllers
from simulations.kubernetes_api.kinds import DEPLOYMENT, NODE, POD, REPLICA_SET
from simulations.kubernetes_api.refusals import Json
from simulations.kubernetes_api.selectors import field

_LABELS = ("metadata.labels", "spec.selector.matchLabels", "spec.template.metadata.labels")


def populate(api: Api, controllers: Controllers, deployment: Json, copies: int) -> None:
    """Create ``deployment`` and, from what becomes of it, so many workloads of the same size in all.

    The first keeps its name; the others are called NAME-1, NAME-2 and so on, and labels that have the name as their
    value follow. Pods go round all nodes, whatever room these have.

    Raises:
        Refusal: What creating the Deployment raises.
        ValueError: If it does not become fully available at once.
    """
    name, namespace = deployment["metadata"]["name"], deployment["metadata"].get("namespace", "default")
    api.call("POST", f"/apis/apps/v1/namespaces/{namespace}/deployments", deployment)
    controllers.settle()
    made = api.writer.held(DEPLOYMENT, (namespace, name))
    wanted = made.value["spec"]["replicas"]
    if made.value["status"].get("availableReplicas", 0) != wanted:
        raise ValueError(f"{name} has not become {wanted} Ready pods: are there nodes, and is start_s 0?")
    sets = [one for one in api.store.all(REPLICA_SET, namespace) if controller_uid(one.value) == _uid(made.value)]
    owners = {_uid(one.value) for one in sets}
    pods = [one for one in api.store.all(POD, namespace) if controller_uid(one.value) in owners]
    found = [(DEPLOYMENT, made.text), *((REPLICA_SET, one.text) for one in sets), *((POD, one.text) for one in pods)]
    nodes = [one.value["metadata"]["name"] for one in api.store.all(NODE)]
    for number in range(1, copies):
        for place, (kind, text) in enumerate(found):
            value = _copied(json.loads(text), name, number)
            if kind is POD:
                _moved(value, number * len(found) + place, nodes)
            api.store.put(kind, (namespace, value["metadata"]["name"]), value)


def _uid(value: Json) -> str:
    return str(value["metadata"]["uid"])


def _copied(value: Json, name: str, number: int) -> Json:
    new, metadata = f"{name}-{number}", value["metadata"]
    for holder in (metadata, *(metadata.get("ownerReferences") or ())):
        holder["uid"] = f"{number:08x}{holder['uid'][8:]}"
        holder["name"] = new + holder["name"][len(name) :]
    if "generateName" in metadata:
        metadata["generateName"] = new + metadata["generateName"][len(name) :]
    for place in _LABELS:
        labels = field(value, place) or {}
        for key, held in labels.items():
            if held == name:
                labels[key] = new
    for condition in field(value, "status.conditions") or ():
        if "message" in condition:
            condition["message"] = condition["message"].replace(f'"{name}-', f'"{new}-')
    return value


def _moved(pod: Json, number: int, nodes: list[str]) -> None:
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    pod["spec"]["nodeName"] = nodes[number % len(nodes)]
    pod["status"] |= {"podIP": address, "podIPs": [{"ip": address}]}
