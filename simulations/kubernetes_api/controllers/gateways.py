"""Has the Gateway taken up a route, and does it find what the route sends to?

Writes ``status.parents`` of every HTTPRoute: ``Accepted`` and ``ResolvedRefs`` for each parent, with the generation of
the route that they are about. A backend that does not exist is ``BackendNotFound``; the route is accepted all the same.
"""

from __future__ import annotations

import threading

from controller.ports import Clock
from simulations.kubernetes_api.controllers.hands import Hands, retried
from simulations.kubernetes_api.controllers.owned import is_going, with_condition
from simulations.kubernetes_api.kinds import HTTP_ROUTE, INFERENCE_POOL, SERVICE
from simulations.kubernetes_api.refusals import Json
from simulations.kubernetes_api.writing import rfc3339

CONTROLLER = "foresail.dev/simulated-gateway"


class Gateways:
    """A Gateway controller; while ``paused`` routes keep the status of an older generation."""

    def __init__(self, hands: Hands, clock: Clock) -> None:
        self.paused = threading.Event()
        self._hands, self._clock = hands, clock

    def step(self) -> None:
        """Report on every route."""
        routes = [] if self.paused.is_set() else [one for one in self._hands.all(HTTP_ROUTE) if not is_going(one)]
        if not routes:
            return
        backends = {
            (kind.group, kind.kind, one["metadata"]["namespace"], one["metadata"]["name"])
            for kind in (SERVICE, INFERENCE_POOL)
            for one in self._hands.all(kind)
        }
        for route in routes:
            with retried():
                self._report(route, backends)

    def _report(self, route: Json, backends: set[tuple[str, str, str, str]]) -> None:
        namespace = route["metadata"]["namespace"]
        wanted = [
            (one["group"], one["kind"], one.get("namespace", namespace), one["name"])
            for rule in route["spec"].get("rules") or ()
            for one in rule.get("backendRefs") or ()
        ]
        missing = next((one for one in wanted if one not in backends), None)
        held = {str(one["parentRef"]): one for one in (route.get("status") or {}).get("parents") or ()}
        parents = [
            self._parent(route, parent, held.get(str(parent)) or {}, missing)
            for parent in route["spec"].get("parentRefs") or ()
        ]
        if parents != list(held.values()):
            self._hands.patch(HTTP_ROUTE, route, {"status": {"parents": parents}}, "status")

    def _parent(self, route: Json, parent: Json, held: Json, missing: tuple[str, str, str, str] | None) -> Json:
        now, told = rfc3339(self._clock.now()), {"status": held}
        resolved = (
            ("False", "BackendNotFound", f"backend {missing[3]} not found") if missing else ("True", "ResolvedRefs", "")
        )
        for sort, (status, reason, message) in (("Accepted", ("True", "Accepted", "")), ("ResolvedRefs", resolved)):
            conditions = with_condition(told, now, type=sort, status=status, reason=reason, message=message)
            for one in conditions:
                if one["type"] == sort:
                    one["observedGeneration"] = route["metadata"]["generation"]
            told = {"status": {"conditions": conditions}}
        return {"parentRef": parent, "controllerName": CONTROLLER, "conditions": told["status"]["conditions"]}
