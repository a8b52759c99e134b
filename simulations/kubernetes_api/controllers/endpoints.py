"""Which pods does a Service reach?

One EndpointSlice for every Service with a selector: pods that its selector matches, with their readiness. A pod that is
being deleted stays listed as terminating and is not ready.
"""

from __future__ import annotations

from simulations.kubernetes_api.controllers.hands import Hands
from simulations.kubernetes_api.controllers.owned import is_going, is_ready, owner_reference
from simulations.kubernetes_api.kinds import ENDPOINT_SLICE, POD, SERVICE
from simulations.kubernetes_api.refusals import Json

SERVICE_NAME = "kubernetes.io/service-name"


class Endpoints:
    """The EndpointSlice controller."""

    def __init__(self, hands: Hands) -> None:
        self._hands = hands

    def step(self) -> None:
        """Bring the slice of every Service up to date."""
        services = [one for one in self._hands.all(SERVICE) if one["spec"].get("selector") and not is_going(one)]
        if not services:
            return
        pods = self._hands.all(POD)
        slices = {
            (one["metadata"]["namespace"], (one["metadata"].get("labels") or {}).get(SERVICE_NAME, "")): one
            for one in self._hands.all(ENDPOINT_SLICE)
        }
        for service in services:
            namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
            endpoints = [_endpoint(pod) for pod in pods if _reached(service, pod)]
            held = slices.get((namespace, name))
            if held is None:
                self._create(service, endpoints)
            elif (held.get("endpoints") or []) != endpoints:
                self._hands.patch(ENDPOINT_SLICE, held, {"endpoints": endpoints})

    def _create(self, service: Json, endpoints: list[Json]) -> None:
        metadata = service["metadata"]
        wanted = {
            "metadata": {
                "generateName": f"{metadata['name']}-",
                "labels": {SERVICE_NAME: metadata["name"]},
                "ownerReferences": [owner_reference(SERVICE, service)],
            },
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [
                {
                    "name": port.get("name", ""),
                    "port": port.get("targetPort", port["port"]),
                    "protocol": port["protocol"],
                }
                for port in service["spec"].get("ports") or ()
            ],
        }
        self._hands.create(ENDPOINT_SLICE, metadata["namespace"], wanted)


def _reached(service: Json, pod: Json) -> bool:
    labels = pod["metadata"].get("labels") or {}
    return (
        pod["metadata"]["namespace"] == service["metadata"]["namespace"]
        and bool(pod["status"].get("podIP"))
        and pod["status"].get("phase") not in ("Succeeded", "Failed")
        and all(labels.get(key) == value for key, value in service["spec"]["selector"].items())
    )


def _endpoint(pod: Json) -> Json:
    ready, going, node = is_ready(pod), is_going(pod), pod["spec"].get("nodeName")
    return {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": ready and not going, "serving": ready, "terminating": going},
        **({"nodeName": node} if node else {}),
        "targetRef": {
            "kind": "Pod",
            "namespace": pod["metadata"]["namespace"],
            "name": pod["metadata"]["name"],
            "uid": pod["metadata"]["uid"],
        },
    }
