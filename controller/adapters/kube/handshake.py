"""Have the gateways of a route taken its newest change?

Until they have, what it says is not what happens, and the next step would be made of an effect that nobody saw.
"""

from __future__ import annotations

from controller.adapters.kube.json_reading import count, entries, text, under
from controller.adapters.kube.routes import Json, RouteKind


def taken(kind: RouteKind, route: Json) -> str:
    """Return why the newest change of the route is not known to be in effect yet; empty when it is. Never raises.

    Of an HTTPRoute, every gateway that it names must have accepted the generation that it has now, in the words of
    every controller that speaks of it. Istio tells of none: there the object is all that is known.
    """
    if kind == "VirtualService":
        return ""
    generation = count(route, "metadata", "generation")
    told = entries(route, "status", "parents")
    named = entries(route, "spec", "parentRefs")
    if not named:
        return "it names no gateway"
    for ref in named:
        gateway = text(ref, "name") or "?"
        parents = [one for one in told if _parent(route, under(one, "parentRef")) == _parent(route, ref)]
        if not parents:
            return f"gateway {gateway} has not taken it yet"
        for parent in parents:
            conditions = entries(parent, "conditions")
            accepted = next((one for one in conditions if text(one, "type") == "Accepted"), None)
            if accepted is None or generation is None or count(accepted, "observedGeneration") != generation:
                return f"gateway {gateway} has not looked at generation {generation} yet"
            if text(accepted, "status") != "True":
                return f"gateway {gateway} does not accept it: {text(accepted, 'reason')} {text(accepted, 'message')}"
    return ""


def _parent(route: Json, ref: object) -> tuple[object, ...]:
    """Return what tells parents of a route apart, with the API's defaults."""
    namespace = text(ref, "namespace") or text(route, "metadata", "namespace")
    kind = text(ref, "kind") or "Gateway"
    return kind, namespace, text(ref, "name"), text(ref, "sectionName"), count(ref, "port")
