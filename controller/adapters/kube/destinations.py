"""Would anybody answer behind a backend of a route?

A gateway does not move the share of a backend that nobody stands behind: its requests fail. Behind a Service stand the
endpoints that its EndpointSlices tell of, which are watched from the first question on, so that whoever changes no
route needs no rights to read them. Behind an InferencePool stand the pods that it selects, which are asked for each
time. Which of them a DestinationRule of Istio counts to a subset is not looked at, nor what is no object of the
cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.random import Generator

from controller.adapters.kube.discovery import read_inference_pool
from controller.adapters.kube.json_reading import Refused, entries, text, under, word
from controller.adapters.kube.kinds import ENDPOINT_SLICES, INFERENCE_POOLS, PODS, SERVICES
from controller.adapters.kube.questions import Question
from controller.adapters.kube.reflector import Reflector, Surroundings
from controller.adapters.kube.watching import Watching
from controller.errors import ActuationError

_SERVICE_NAME = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True)
class Slice:
    """What is kept of an EndpointSlice: whose it is, and whether any of its endpoints is ready."""

    service: str
    ready: bool


class Destinations:
    """What stands behind the backends of routes. One thread asks."""

    def __init__(self, around: Surroundings, rng: Generator) -> None:
        """Watch nothing yet."""
        self._around, self._rng = around, rng
        self._watching = Watching(around.elapsed)
        self._slices: dict[str, Reflector[Slice]] = {}

    @property
    def reflectors(self) -> tuple[Reflector[Any], ...]:
        """What is watched by now."""
        return tuple(self._watching.reflectors)

    def close(self) -> None:
        """End the watches."""
        self._watching.close()

    def check(self, kind: str, namespace: str, name: str) -> None:
        """Return if somebody is ready to answer there, or nobody can tell.

        Raises:
            ActuationError: If nobody is.
            ObservationError: If that cannot be looked up.
        """
        where = f"{kind} {namespace}/{name}"
        if kind == "Service" and not self._has_endpoints(namespace, name) and not self._leads_out(namespace, name):
            remedy = "a share there would be answered with errors; it grows once a pod behind it is ready"
            raise ActuationError("none of its endpoints is ready", where, remedy)
        if kind == "InferencePool" and not self._has_pods(namespace, name):
            remedy = "a share there would be answered with errors; it grows once a pod that it selects is ready"
            raise ActuationError("no pod behind it is ready", where, remedy)

    def _has_endpoints(self, namespace: str, service: str) -> bool:
        settings = self._around.settings
        reflector = self._slices.get(namespace)
        if reflector is None:
            reflector = Reflector(self._around, ENDPOINT_SLICES, namespace, read_slice, self._rng.spawn(1)[0])
            self._slices[namespace] = reflector
            self._watching.start([reflector], settings.timeout_s)
        slices = reflector.store.snapshot(settings.stale_after_s).objects.values()
        return any(one.ready for one in slices if one.service == service)

    def _leads_out(self, namespace: str, service: str) -> bool:
        """Return whether a Service is the name of something else, of which no endpoints are told."""
        return text(self._around.api.get(SERVICES, namespace, service), "spec", "type") == "ExternalName"

    def _has_pods(self, namespace: str, name: str) -> bool:
        pool = read_inference_pool(self._around.api.get(INFERENCE_POOLS, namespace, name), "foresail.dev")
        if isinstance(pool, Refused):
            raise ActuationError(pool.why, pool.subject)
        labels = ",".join(f"{key}={said}" for key, said in sorted(pool.selector.items()))
        settings = self._around.settings
        query = {"labelSelector": labels, "limit": str(settings.page_size)}
        for _ in range(1 + settings.max_objects // settings.page_size):
            page = self._around.api.page(Question("list", PODS, namespace), query)
            if any(_is_ready(pod) for pod in entries(page, "items")):
                return True
            query["continue"] = text(page, "metadata", "continue")
            if not query["continue"]:
                break
        return False


def read_slice(told: object) -> Slice | None:
    """Return what is kept of an EndpointSlice; None where it is of no Service."""
    service = word(told, "metadata", "labels", _SERVICE_NAME)
    ready = any(under(one, "conditions", "ready") is not False for one in entries(told, "endpoints"))
    return Slice(service, ready) if service else None


def _is_ready(pod: object) -> bool:
    conditions = {text(one, "type"): text(one, "status") for one in entries(pod, "status", "conditions")}
    return conditions.get("Ready") == "True" and not text(pod, "metadata", "deletionTimestamp")
