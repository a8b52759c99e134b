"""How do requests stand in line at a replica: a list through their records, the first to come first."""

from __future__ import annotations

from simulations.kernel.compiled import called, inlined
from simulations.kernel.layout import NOBODY, WAITING, State

_LONG = 2**31 - 1


@inlined
def add_last(s: State, r: int, i: int) -> None:
    """Put request ``i`` at the end of the queue."""
    q = s.replicas[r]
    x = s.requests[i]
    x.place = WAITING
    x.next = NOBODY
    if q.waiting == 0:
        x.before = NOBODY
        q.wait_head = i
        q.least_waiting = _LONG
    else:
        x.before = q.wait_tail
        s.requests[q.wait_tail].next = i
    q.wait_tail = i
    q.waiting += 1
    q.least_waiting = min(q.least_waiting, x.output - x.generated)


@inlined
def take_first(s: State, r: int) -> None:
    """Take the first request out of the queue."""
    q = s.replicas[r]
    following = s.requests[q.wait_head].next
    q.wait_head = following
    q.waiting -= 1
    if q.waiting > 0:
        s.requests[following].before = NOBODY


@called
def leave_queue(s: State, r: int, i: int) -> None:
    """Take request ``i`` out of the queue, wherever it stands."""
    q = s.replicas[r]
    x = s.requests[i]
    if i == q.wait_head:
        take_first(s, r)
        return
    s.requests[x.before].next = x.next
    if i == q.wait_tail:
        q.wait_tail = x.before
    else:
        s.requests[x.next].before = x.before
    q.waiting -= 1
