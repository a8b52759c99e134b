"""Which pool and which replica gets a request: every rule by looking at all that could be chosen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from policies.fleet import Role
from simulations.serving import Serving
from tests.reference.plain_parties import Replica, Request

_MOST = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_PLACES = 1 << 16


def mixed(bits: int) -> int:
    """Return what splitmix64 makes of its state."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MOST
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MOST
    return bits ^ (bits >> 31)


class PlainShares:
    """Smooth weighted round robin among the pools of a stage: all gain their weight, the richest pays the sum."""

    def __init__(self, serving: Serving, pools: int) -> None:
        self._stages = [int(serving.role(pool) is Role.DECODE) for pool in range(pools)]
        self._weights = self._credit = [0.0] * pools

    def set_weights(self, weights: Sequence[float]) -> None:
        self._weights, self._credit = list(weights), [0.0] * len(weights)

    def next_pool(self, stage: int) -> int:
        """Return the pool; -1 when no weight of the stage is positive."""
        some = [p for p, weight in enumerate(self._weights) if weight > 0 and self._stages[p] == stage]
        if len(some) < 2:
            return some[0] if some else -1
        for pool in some:
            self._credit[pool] += self._weights[pool]
        best = max(some, key=lambda pool: self._credit[pool])
        self._credit[best] -= math.fsum(self._weights[pool] for pool in some)
        return best


class PlainRouting:
    """The choice of a replica among those of a pool that take traffic, ``members`` of it."""

    def __init__(self, serving: Serving, pools: int) -> None:
        self._serving = serving
        self.members: list[list[Replica]] = [[] for _ in range(pools)]
        self._touches = itertools.count(1)
        self._draws = serving.seed & _MOST
        self._pool_mean_s: list[float | None] = [None] * pools
        self._prefixes: dict[int, tuple[int, int, int, int]] = {}  # place: hash, pool, replica, life

    # What happens

    def enter(self, replica: Replica) -> None:
        replica.in_traffic = True
        self.members[replica.pool].append(replica)
        replica.touched = replica.turn = next(self._touches)

    def leave(self, replica: Replica) -> None:
        """Let the last member take its place."""
        replica.in_traffic = False
        members = self.members[replica.pool]
        members[members.index(replica)] = members[-1]
        members.pop()

    def sent(self, replica: Replica) -> None:
        """Take note that it was sent a request, which it may have answered with an error."""
        replica.touched = replica.turn = next(self._touches)

    def left(self, replica: Replica) -> None:
        """Take note that one is in flight there no more."""
        replica.touched = next(self._touches)

    def answered(self, replica: Replica, took_s: float) -> None:
        """Take note of a response time."""
        replica.mean_s = _moved(replica.mean_s, took_s)
        self._pool_mean_s[replica.pool] = _moved(self._pool_mean_s[replica.pool], took_s)

    def queued(self, request: Request, replica: Replica) -> None:
        """Remember where the prefixes of the request's prompt are."""
        for unit_hash in self._hashes(request):
            place = self._place(unit_hash, replica.pool)
            self._prefixes[place] = (unit_hash, replica.pool, replica.number, replica.life)

    # Choosing

    def choose(self, request: Request) -> Replica | None:
        """Return the replica for the request, whose pool is known; None when none is in traffic."""
        members = self.members[request.pool] if request.pool >= 0 else []
        if not members:
            return None
        match self._serving.routing:
            case "least_connections":
                return _least_connections(members)
            case "round_robin":
                return min(members, key=lambda r: r.turn)
            case "power_of_two":
                return self._less_busy_of_two(members)
            case "least_response_time":
                return min(members, key=lambda r: (len(r.in_flight) + 1) * self._mean_s(r))
            case "prefix_aware":
                return self._with_the_prefix(request, members) or _least_connections(members)

    def _less_busy_of_two(self, members: list[Replica]) -> Replica:
        if len(members) == 1:
            return members[0]
        a, b = self._draw() % len(members), self._draw() % (len(members) - 1)
        b += b >= a
        return members[b] if len(members[b].in_flight) < len(members[a].in_flight) else members[a]

    def _draw(self) -> int:
        self._draws = (self._draws + _GOLDEN) & _MOST
        return mixed(self._draws)

    def _mean_s(self, replica: Replica) -> float:
        pool_mean_s = self._pool_mean_s[replica.pool]
        return next(mean_s for mean_s in (replica.mean_s, pool_mean_s, 1.0) if mean_s is not None)

    def _with_the_prefix(self, request: Request, members: list[Replica]) -> Replica | None:
        """Return who has the longest prefix of the prompt, if that is long enough and it is not too busy."""
        hashes = self._hashes(request)
        for units in range(len(hashes), 0, -1):
            unit_hash = hashes[units - 1]
            kept = self._prefixes.get(self._place(unit_hash, request.pool))
            for replica in members:
                if kept == (unit_hash, request.pool, replica.number, replica.life):
                    follows = units / len(hashes) >= self._serving.prefix_match_ratio
                    return replica if follows and not self._too_busy(replica, members) else None
        return None

    def _too_busy(self, replica: Replica, members: list[Replica]) -> bool:
        least, has = min(len(r.in_flight) for r in members), len(replica.in_flight)
        return has - least > self._serving.prefix_most_ahead and has > self._serving.prefix_most_ratio * least

    def _hashes(self, request: Request) -> tuple[int, ...]:
        """Return the hashes of whole units of the prompt; none where no prefix cache is used."""
        if self._serving.role(request.pool) is Role.DECODE:
            return ()
        return request.hashes[: request.prompt // self._serving.unit_tokens]

    def _place(self, unit_hash: int, pool: int) -> int:
        return mixed(unit_hash ^ (((pool + 1) * _GOLDEN) & _MOST)) % _PLACES


def _least_connections(members: list[Replica]) -> Replica:
    return min(members, key=lambda r: (len(r.in_flight), r.touched))


def _moved(mean_s: float | None, took_s: float) -> float:
    return took_s if mean_s is None else mean_s + 0.1 * (took_s - mean_s)
