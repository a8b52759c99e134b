"""For which requests does the gateway try to reach a replica in vain? A list, the first to fail first."""

from __future__ import annotations

from simulations.kernel.compiled import called
from simulations.kernel.layout import CONNECTING, NOBODY, State
from simulations.kernel.routing import change_in_flight


@called
def connect(s: State, i: int, r: int, at: float) -> None:
    """Try to reach replica ``r`` for request ``i``, in vain."""
    w = s.world[0]
    x = s.requests[i]
    x.place = CONNECTING
    x.timed_at = at + w.connect_s
    x.next = NOBODY
    x.before = w.connecting_tail if w.connecting > 0 else NOBODY
    if w.connecting == 0:
        w.connecting_head = i
        w.next_other_at = min(w.next_other_at, x.timed_at)
    else:
        s.requests[w.connecting_tail].next = i
    w.connecting_tail = i
    w.connecting += 1
    change_in_flight(s, r, 1)


@called
def connect_no_more(s: State, i: int) -> None:
    """Take request ``i`` out of those whose replica is not reached."""
    w = s.world[0]
    x = s.requests[i]
    if x.before == NOBODY:
        w.connecting_head = x.next
    else:
        s.requests[x.before].next = x.next
    if x.next == NOBODY:
        w.connecting_tail = x.before
    else:
        s.requests[x.next].before = x.before
    w.connecting -= 1
    x.place = 0
