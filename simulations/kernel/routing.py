"""Which pool and which replica gets the next request?

The replicas of a pool that have equally many requests in flight form a list; who changes goes to the end of its new
list. So the head of the first list is the one with the fewest, and among those untouched for longest. Routing in turn
has one list, in which only who is sent a request changes places.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from simulations.kernel.compiled import called, inlined
from simulations.kernel.layout import (
    DECODE,
    LEAST_RESPONSE_TIME,
    NOBODY,
    POWER_OF_TWO,
    PREFIX_AWARE,
    ROUND_ROBIN,
    ROUTES,
    State,
    as_int64,
)
from simulations.kernel.prefixes import mixed

_NEXT_DRAW = np.uint64(0x9E3779B97F4A7C15)
_NEWEST_SHARE = 0.1
"""Weight of the newest response time in a replica's mean."""


@inlined
def next_pool(s: State, decode: Any) -> Any:
    """Return the pool that the next request belongs to, one that decodes or not; nobody when no weight is positive.

    Smooth weighted round robin (as in nginx since 1.3.1): every pool gains its weight, the richest is chosen and pays
    the sum. Among equally rich ones the first.
    """
    w = s.world[0]
    only = w.only_decode_pool if decode else w.only_pool
    total = w.total_decode_weight if decode else w.total_weight
    if only != NOBODY or total <= 0.0:
        return only
    best = NOBODY
    most = 0.0
    for p in range(s.pools.shape[0]):
        pool = s.pools[p]
        if pool.weight > 0.0 and (pool.role == DECODE) == decode:
            pool.credit += pool.weight
            if best == NOBODY or pool.credit > most:
                best = p
                most = pool.credit
    s.pools[best].credit -= total
    return best


@inlined
def chosen_replica(s: State, i: int) -> Any:
    """Return the replica of its pool that request ``i`` is to go to; nobody when none is in traffic."""
    p = as_int64(s.requests[i].pool)
    if p == NOBODY or s.pools[p].members == 0:
        return NOBODY
    if s.world[0].routing > ROUND_ROBIN:
        return _chosen_otherwise(s, i, p)
    return as_int64(s.heads[p, s.pools[p].low])


@called
def _chosen_otherwise(s: State, i: int, p: int) -> int:
    routing = s.world[0].routing
    if routing == POWER_OF_TWO:
        return _less_busy_of_two(s, p)
    if routing == LEAST_RESPONSE_TIME:
        return _soonest(s, p)
    followed = NOBODY
    if s.pools[p].role != DECODE and s.extras[i].hashes > 0:
        followed = _where_prefix_went(s, i, p)
    return as_int64(s.heads[p, s.pools[p].low]) if followed == NOBODY else followed


@called
def _less_busy_of_two(s: State, p: int) -> int:
    """Draw two replicas (Mitzenmacher, IEEE TPDS 12(10), 2001)."""
    count = s.pools[p].members
    if count == 1:
        return as_int64(s.members[p, 0])
    first = _drawn(s, count)
    second = _drawn(s, count - 1)
    second += second >= first
    one, other = as_int64(s.members[p, first]), as_int64(s.members[p, second])
    return other if s.traffic[other].in_flight < s.traffic[one].in_flight else one


@inlined
def _drawn(s: State, count: int) -> Any:
    """Return a random number below ``count``: splitmix64."""
    w = s.world[0]
    w.draws += _NEXT_DRAW
    return as_int64(mixed(w.draws) % np.uint64(count))


@called
def _soonest(s: State, p: int) -> int:
    """Return the replica with the least product of mean response time and requests in flight, the new one included."""
    pool = s.pools[p]
    pool_s = 1.0 if math.isnan(pool.response_s) else pool.response_s
    best = NOBODY
    least = math.inf
    for place in range(pool.members):
        r = as_int64(s.members[p, place])
        mean_s = s.replicas[r].response_s
        cost = (s.traffic[r].in_flight + 1) * (pool_s if math.isnan(mean_s) else mean_s)
        if best == NOBODY or cost < least:
            best = r
            least = cost
    return best


@inlined
def note_response(s: State, r: int, seconds: float) -> None:
    """Let a request that replica ``r`` has served count in mean response times, where these are looked at."""
    if s.world[0].routing == LEAST_RESPONSE_TIME:
        q = s.replicas[r]
        q.response_s = _mean_with(q.response_s, seconds)
        pool = s.pools[q.pool]
        pool.response_s = _mean_with(pool.response_s, seconds)


@inlined
def _mean_with(mean_s: Any, seconds: Any) -> Any:
    return seconds if math.isnan(mean_s) else mean_s + _NEWEST_SHARE * (seconds - mean_s)


@called
def _where_prefix_went(s: State, i: int, p: int) -> int:
    """Return the replica that got the longest known prefix of request ``i`` last, unless it is short or that is busy.

    As SGLang's router does with its defaults, but for its tree of texts, which here is a table of hashes.
    """
    w = s.world[0]
    e = s.extras[i]
    for k in range(e.hashes - 1, -1, -1):
        unit_hash = s.hashed[e.hash_from + k].hash
        route = s.routes[_route_place(unit_hash, p)]
        r = as_int64(route.replica)
        known = route.life > 0 and route.hash == unit_hash and route.pool == p and s.traffic[r].in_traffic != 0
        if known and s.traffic[r].pool == p and s.replicas[r].life == route.life:
            least = s.pools[p].low
            ahead = s.traffic[r].in_flight
            busy = ahead - least > w.most_ahead and ahead > w.most_ratio * least
            return NOBODY if (k + 1) / e.hashes < w.match_ratio or busy else r
    return NOBODY


@inlined
def note_route(s: State, i: int, r: int) -> None:
    """Take note that the prefix of request ``i`` went to replica ``r``, where that is looked at."""
    if s.world[0].routing == PREFIX_AWARE:
        _note_route(s, i, r)


@called
def _note_route(s: State, i: int, r: int) -> None:
    p = as_int64(s.replicas[r].pool)
    if s.pools[p].role == DECODE:
        return
    e = s.extras[i]
    for k in range(e.hashes):
        unit_hash = s.hashed[e.hash_from + k].hash
        route = s.routes[_route_place(unit_hash, p)]
        route.hash = unit_hash
        route.replica = r
        route.pool = p
        route.life = s.replicas[r].life


@inlined
def _route_place(unit_hash: Any, p: int) -> Any:
    return as_int64(mixed(unit_hash ^ (np.uint64(p + 1) * _NEXT_DRAW)) & np.uint64(ROUTES - 1))


@inlined
def change_in_flight(s: State, r: int, change: int) -> None:
    """Let replica ``r`` have ``change`` more requests in flight (1, 0 or -1), and be untouched for least."""
    q = s.traffic[r]
    in_turn = s.world[0].routing == ROUND_ROBIN
    if not q.in_traffic or (in_turn and change < 0):
        q.in_flight += change
        return
    pool = s.pools[q.pool]
    _unlink(s, r)
    q.in_flight += change
    _append(s, r)
    level = 0 if in_turn else q.in_flight
    if level < pool.low or s.heads[q.pool, pool.low] == NOBODY:
        pool.low = level


@called
def enter_traffic(s: State, r: int) -> None:
    """Let replica ``r`` be chosen from now on."""
    q = s.traffic[r]
    if q.in_traffic:
        return
    pool = s.pools[q.pool]
    q.in_traffic = 1
    _append(s, r)
    s.members[q.pool, pool.members] = r
    s.members[s.pools.shape[0], r] = pool.members
    pool.members += 1
    level = _level(s, r)
    if pool.members == 1 or level < pool.low:
        pool.low = level


@called
def leave_traffic(s: State, r: int) -> None:
    """Choose replica ``r`` no more."""
    q = s.traffic[r]
    if not q.in_traffic:
        return
    pool = s.pools[q.pool]
    q.in_traffic = 0
    _unlink(s, r)
    pool.members -= 1
    place, last = s.members[s.pools.shape[0], r], s.members[q.pool, pool.members]
    s.members[q.pool, place] = last
    s.members[s.pools.shape[0], last] = place
    while pool.members > 0 and s.heads[q.pool, pool.low] == NOBODY:
        pool.low += 1


@inlined
def _level(s: State, r: int) -> Any:
    """Return which list of its pool replica ``r`` stands in."""
    return 0 if s.world[0].routing == ROUND_ROBIN else s.traffic[r].in_flight


@inlined
def _append(s: State, r: int) -> None:
    q = s.traffic[r]
    level = _level(s, r)
    last = s.tails[q.pool, level]
    q.before = last
    q.next = NOBODY
    if last == NOBODY:
        s.heads[q.pool, level] = r
    else:
        s.traffic[last].next = r
    s.tails[q.pool, level] = r


@inlined
def _unlink(s: State, r: int) -> None:
    q = s.traffic[r]
    level = _level(s, r)
    if q.before == NOBODY:
        s.heads[q.pool, level] = q.next
    else:
        s.traffic[q.before].next = q.next
    if q.next == NOBODY:
        s.tails[q.pool, level] = q.before
    else:
        s.traffic[q.next].before = q.before
