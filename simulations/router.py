"""Which pool and which replica gets the next request: smooth weighted choice, then least outstanding requests."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from controller.errors import ActuationError, ObservationError
from controller.ports import Clock
from policies.fleet import PoolKey
from simulations.fleet_replica import FleetReplica


class WeightedChoice:
    """Choose positions in proportion to weights, spread as evenly as can be.

    Smooth weighted round robin (as in nginx since 1.3.1): every position gains its weight, the richest is chosen and
    pays the sum. Over any run of choices each position is within one choice of its share for two pools, and there is
    no randomness to seed.

    >>> choice = WeightedChoice([3.0, 1.0])
    >>> [choice.next() for _ in range(8)]
    [0, 0, 1, 0, 0, 0, 1, 0]
    """

    __slots__ = ("_credit", "_only", "_total", "_weights")

    def __init__(self, weights: Sequence[float]) -> None:
        self.set(weights)

    def set(self, weights: Sequence[float]) -> None:
        """Replace the weights; earlier choices are forgotten."""
        self._weights = [(position, weight) for position, weight in enumerate(weights) if weight > 0]
        self._total = math.fsum(weights)
        self._credit = [0.0] * len(weights)
        self._only = self._weights[0][0] if len(self._weights) == 1 else -1

    def next(self) -> int:
        """Return the next position; -1 when no weight is positive."""
        if self._only >= 0 or not self._weights:
            return self._only
        credit = self._credit
        best, most = -1, -math.inf
        for position, weight in self._weights:
            credit[position] += weight
            if credit[position] > most:
                best, most = position, credit[position]
        credit[best] -= self._total
        return best


class LeastOutstanding:
    """Choose the replica with the fewest requests in flight; among equals the one untouched for longest.

    A heap of ``(in flight, stamp, replica)`` in which only the entry with a replica's latest stamp counts.
    """

    __slots__ = ("_heap", "_members", "_stamps")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, FleetReplica]] = []
        self._members = 0
        self._stamps = 0

    def __len__(self) -> int:
        return self._members

    def add(self, replica: FleetReplica) -> None:
        """Let the replica be chosen from now on."""
        if not replica.in_traffic:
            replica.in_traffic = True
            self._members += 1
            self.touch(replica)

    def discard(self, replica: FleetReplica) -> None:
        """Choose the replica no more."""
        if replica.in_traffic:
            replica.in_traffic = False
            self._members -= 1

    def touch(self, replica: FleetReplica) -> None:
        """Take note that the number of requests in flight at the replica has changed."""
        self._stamps = replica.stamp = self._stamps + 1
        if replica.in_traffic:
            heapq.heappush(self._heap, (len(replica.in_flight), replica.stamp, replica))
            if len(self._heap) > 64 + 8 * self._members:
                self._heap = [entry for entry in self._heap if entry[2].in_traffic and entry[1] == entry[2].stamp]
                heapq.heapify(self._heap)

    def choose(self) -> FleetReplica | None:
        """Return the replica; None when there is none in traffic."""
        heap = self._heap
        while heap:
            _, stamp, replica = heap[0]
            if stamp == replica.stamp and replica.in_traffic:
                return replica
            heapq.heappop(heap)
        return None


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
        """Replace the shares; they are scaled to a sum of one and pools left out get none.

        Raises:
            ActuationError: If a pool is unknown, a weight is negative or not finite, or all are zero.
        """
        unknown = [str(key) for key in weights if key not in self._keys or key.model != model]
        if unknown:
            raise ActuationError(f"no such pool of {model!r}: {', '.join(unknown)}", "simulated router")
        total = math.fsum(weights.values())
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights.values()) or total <= 0:
            raise ActuationError(
                f"weights must be finite, not negative, and not all zero: {list(weights.values())}", "simulated router"
            )
        self._gateway.set_shares([weights.get(key, 0.0) / total for key in self._keys], self._clock.now())
