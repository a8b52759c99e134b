"""Which of several clusters has the route of a model? A ``Router`` over those of members."""

from __future__ import annotations

from collections.abc import Mapping

from controller.errors import ActuationError, ObservationError
from controller.ports import Router
from policies.fleet import PoolKey


class MemberRouters:
    """``Router`` over those of several members: the route of each model is in exactly one."""

    def __init__(self, routers: Mapping[str, Router], router_of: Mapping[str, str]) -> None:
        """Take routers by member, and which member has the route of each model."""
        self._routers = {model: routers[member] for model, member in router_of.items()}

    def weights(self, model: str) -> Mapping[PoolKey, float]:
        """Return each pool's share of new requests; raises ObservationError."""
        router = self._routers.get(model)
        if router is None:
            raise ObservationError(f"no member has a route of {model}", model, "name it under routes of one member")
        return router.weights(model)

    def set_weights(self, model: str, weights: Mapping[PoolKey, float]) -> None:
        """Replace the shares; raises ActuationError."""
        router = self._routers.get(model)
        if router is None:
            raise ActuationError(f"no member has a route of {model}", model, "name it under routes of one member")
        router.set_weights(model, weights)
