"""Which pool and which replica gets the next request: smooth weighted choice, then least outstanding requests.

The replicas of a pool that have equally many requests in flight form a list; who changes goes to the end of its new
list. So the head of the first list is the one with the fewest, and among those untouched for longest.
"""

from __future__ import annotations

from simulations.kernel.compiled import called, inlined
from simulations.kernel.layout import NOBODY, State


@inlined
def next_pool(s: State) -> int:
    """Return the pool that the next request belongs to; nobody when no weight is positive.

    Smooth weighted round robin (as in nginx since 1.3.1): every pool gains its weight, the richest is chosen and pays
    the sum. Among equally rich ones the first.
    """
    w = s.world[0]
    if w.only_pool != NOBODY or w.total_weight <= 0.0:
        return w.only_pool
    best = NOBODY
    most = 0.0
    for p in range(s.pools.shape[0]):
        pool = s.pools[p]
        if pool.weight > 0.0:
            pool.credit += pool.weight
            if best == NOBODY or pool.credit > most:
                best = p
                most = pool.credit
    s.pools[best].credit -= w.total_weight
    return best


@inlined
def least_outstanding(s: State, p: int) -> int:
    """Return the replica of pool ``p`` with the fewest requests in flight; nobody when none is in traffic."""
    if p == NOBODY or s.pools[p].members == 0:
        return NOBODY
    return s.heads[p, s.pools[p].low]


@inlined
def change_in_flight(s: State, r: int, change: int) -> None:
    """Let replica ``r`` have ``change`` more requests in flight (1, 0 or -1), and be untouched for least."""
    q = s.traffic[r]
    if not q.in_traffic:
        q.in_flight += change
        return
    pool = s.pools[q.pool]
    _unlink(s, r)
    q.in_flight += change
    _append(s, r)
    if q.in_flight < pool.low or s.heads[q.pool, pool.low] == NOBODY:
        pool.low = q.in_flight


@called
def enter_traffic(s: State, r: int) -> None:
    """Let replica ``r`` be chosen from now on."""
    q = s.traffic[r]
    if q.in_traffic:
        return
    pool = s.pools[q.pool]
    q.in_traffic = 1
    _append(s, r)
    pool.members += 1
    if pool.members == 1 or q.in_flight < pool.low:
        pool.low = q.in_flight


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
    while pool.members > 0 and s.heads[q.pool, pool.low] == NOBODY:
        pool.low += 1


@inlined
def _append(s: State, r: int) -> None:
    q = s.traffic[r]
    last = s.tails[q.pool, q.in_flight]
    q.before = last
    q.next = NOBODY
    if last == NOBODY:
        s.heads[q.pool, q.in_flight] = r
    else:
        s.traffic[last].next = r
    s.tails[q.pool, q.in_flight] = r


@inlined
def _unlink(s: State, r: int) -> None:
    q = s.traffic[r]
    if q.before == NOBODY:
        s.heads[q.pool, q.in_flight] = q.next
    else:
        s.traffic[q.before].next = q.next
    if q.next == NOBODY:
        s.tails[q.pool, q.in_flight] = q.before
    else:
        s.traffic[q.next].before = q.before
