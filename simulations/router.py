"""How does the control loop move traffic between the pools of a simulated fleet: the ``Router`` port."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from controller.errors import ActuationError, ObservationError
from controller.ports import Clock
from policies.fleet import PoolKey


class WeightedGateway(Protocol):
    """What the router port needs of a gateway."""

    def shares(self) -> Sequence[float]:
        """Return the share of each pool, in the order of the pools."""
        ...

    def set_shares(self, shares: Sequence[float], at: float) -> None:
        """Replace the shares from ``at`` on."""
        ...


class SimulatedRouter:
    """The ``Router`` port of a simulated fleet.

    As with an HTTPRoute, the share of a pool without a serving replica is not moved to others: its requests are held
    at the gateway until a replica is READY, the weights change or they time out.
    """

    def __init__(self, keys: Sequence[PoolKey], gateway: WeightedGateway, clock: Clock) -> None:
        self._keys = tuple(keys)
        self._gateway = gateway
        self._clock = clock

    def weights(self, model: str) -> Mapping[PoolKey, float]:
        """Return each pool's share of new requests.

        Raises:
            ObservationError: If the fleet does not serve ``model``.
        """
        if model not in {key.model for key in self._keys}:
            raise ObservationError(f"no route for model {model!r}", "simulated router")
        return dict(zip(self._keys, self._gateway.shares(), strict=True))

    def set_weights(self, model: str, weights: Mapping[PoolKey, float]) -> None:
        """Replace the shares; those of each stage are scaled to a sum of one, and pools left out get none.

        Raises:
            ActuationError: If a pool is unknown, a weight is negative or not finite, or all of a stage are zero.
        """
        unknown = [str(key) for key in weights if key not in self._keys or key.model != model]
        if unknown:
            raise ActuationError(f"no such pool of {model!r}: {', '.join(unknown)}", "simulated router")
        stages = {key.stage for key in self._keys}
        totals = {stage: math.fsum(w for key, w in weights.items() if key.stage == stage) for stage in stages}
        if not all(weight >= 0 for weight in weights.values()) or not all(0 < t < math.inf for t in totals.values()):
            raise ActuationError(
                f"weights must be finite, not negative, and not all zero: {list(weights.values())}", "simulated router"
            )
        shares = [weights.get(key, 0.0) / totals[key.stage] for key in self._keys]
        self._gateway.set_shares(shares, self._clock.now())
