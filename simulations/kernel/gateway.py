"""What happens to a request between its arrival and its end: sent, held, answered, given up, lost."""

from __future__ import annotations

import math

from simulations.kernel.compiled import called, inlined
from simulations.kernel.counting import count_end
from simulations.kernel.engine import (
    begin,
    cut,
    end,
    look_again,
    next_end_at,
    steps_until,
)
from simulations.kernel.layout import (
    COMPLETED,
    DROPPED,
    FAILED,
    HELD,
    IDLE,
    JUMP,
    NOBODY,
    RUNNING,
    WAITING,
    State,
)
from simulations.kernel.queues import add_last, leave_queue
from simulations.kernel.routing import change_in_flight, least_outstanding, next_pool
from simulations.kernel.timeline import set_key

_ROUNDING_S = 1e-6
"""By how much two sums of the same step times may differ at most, and far less than any step takes."""


@inlined
def advance(s: State, r: int, at: float) -> None:
    """Let replica ``r`` do all steps that end by ``at``, and let the next begin."""
    q = s.replicas[r]
    while q.end_at <= at:
        ended_at = q.end_at
        end(s, r, ended_at)
        if q.done != NOBODY:
            _settle(s, r, ended_at)
        begin(s, r, ended_at)


@inlined
def _settle(s: State, r: int, at: float) -> None:
    """Take note of the requests that the engine is done with."""
    q = s.replicas[r]
    i = q.done
    while i != NOBODY:
        x = s.requests[i]
        following = x.next
        if x.ended:
            release(s, i)
        else:
            if at < s.world[0].now - _ROUNDING_S:
                s.world[0].too_early += 1
            close_request(s, i, COMPLETED, at)
            release(s, i)
            left(s, r)
        i = following


@inlined
def close_request(s: State, i: int, status: int, at: float) -> None:
    """Let the outcome of request ``i`` be known."""
    x = s.requests[i]
    x.ended = 1
    count_end(s, i, status, at)
    s.watched[x.row % s.watched.shape[0]] = NOBODY


@inlined
def release(s: State, i: int) -> None:
    """Let the record of request ``i`` be used again."""
    w = s.world[0]
    s.requests[i].next = w.free_head
    s.requests[i].place = 0
    w.free_head = i


@inlined
def left(s: State, r: int) -> None:
    """Take note that one request fewer is in flight at replica ``r``."""
    change_in_flight(s, r, -1)
    if s.traffic[r].draining and s.traffic[r].in_flight == 0:
        s.world[0].drained = r


@called
def catch_up(s: State, r: int, at: float) -> None:
    """Do what ``advance`` does, for those who seldom need it."""
    advance(s, r, at)


@called
def send_or_hold(s: State, i: int, at: float, anew: bool) -> None:
    """Send request ``i`` to a replica of its pool, chosen ``anew`` or not, or hold it while there is none."""
    x = s.requests[i]
    if anew:
        x.pool = next_pool(s)
    r = least_outstanding(s, x.pool)
    if r == NOBODY:
        hold(s, i, at)
    else:
        catch_up(s, r, at)
        send(s, i, r, at)


@called
def hold(s: State, i: int, at: float) -> None:
    """Keep request ``i`` at the gateway; its time runs from when it was first held without a break."""
    w = s.world[0]
    x = s.requests[i]
    x.replica = NOBODY
    if x.place == HELD:
        return
    x.place = HELD
    x.timed_at = at + w.hold_s
    x.next = NOBODY
    x.before = w.held_tail if w.held > 0 else NOBODY
    if w.held == 0:
        w.held_head = i
        w.next_other_at = min(w.next_other_at, x.timed_at)
    else:
        s.requests[w.held_tail].next = i
    w.held_tail = i
    w.held += 1


@called
def hold_no_more(s: State, i: int) -> None:
    """Take request ``i`` out of those held."""
    w = s.world[0]
    x = s.requests[i]
    if x.before == NOBODY:
        w.held_head = x.next
    else:
        s.requests[x.before].next = x.next
    if x.next == NOBODY:
        w.held_tail = x.before
    else:
        s.requests[x.next].before = x.before
    w.held -= 1
    x.place = 0


@inlined
def send(s: State, i: int, r: int, at: float) -> None:
    """Send request ``i`` to replica ``r``, which stands at ``at``."""
    x = s.requests[i]
    q = s.replicas[r]
    p = s.profiles[q.pool]
    if x.place == HELD:
        hold_no_more(s, i)
    x.replica = r
    if (x.prompt + x.output - 1 + p.block_tokens - 1) // p.block_tokens > p.blocks:  # a 4xx: the client's fault
        close_request(s, i, FAILED, at)
        release(s, i)
        return
    if at < q.failing_until and _fails(s, r):
        q.failed += 1
        change_in_flight(s, r, 0)  # another's turn among equals
        close_request(s, i, FAILED, at)
        release(s, i)
        return
    x.timed_at = at
    change_in_flight(s, r, 1)
    if q.hung:  # it only counts: nobody in its queue will ever be looked for there
        x.place = WAITING
        q.waiting += 1
        return
    add_last(s, r, i)
    if q.mode == IDLE:
        begin(s, r, at)
        set_key(s, r, next_end_at(s, r))
        return
    if q.mode == JUMP:
        if q.blocked:
            return
        if q.waiting == 1:
            cut(q, steps_until(q, at) + 1)
    if q.steps + q.m + x.output - x.generated < q.finish_step:
        set_key(s, r, next_end_at(s, r))


@called
def _fails(s: State, r: int) -> bool:
    """Return whether the request that comes now is answered with an error; the share is spread evenly."""
    q = s.replicas[r]
    q.failures_due += q.failing_share
    if q.failures_due >= 1.0 - 1e-9:
        q.failures_due -= 1.0
        return True
    return False


@called
def give_up(s: State, i: int, at: float) -> None:
    """Let the client of request ``i`` go; its replica, if it has one, stands at ``at``."""
    x = s.requests[i]
    r = x.replica
    close_request(s, i, FAILED, at)
    if x.place == HELD:
        hold_no_more(s, i)
        release(s, i)
        return
    q = s.replicas[r]
    if q.hung:  # it does not listen: what it shows stays as it is
        x.place = 0
        release(s, i)
    elif x.place == RUNNING:  # leaves when the step is over
        q.leaving += 1
        look_again(s, r, at)
        set_key(s, r, q.end_at)
    elif x.place == WAITING:
        leave_queue(s, r, i)
        release(s, i)
        look_again(s, r, at)
        set_key(s, r, q.end_at)
    left(s, r)


@inlined
def drop_or_retry(s: State, i: int, at: float, retry: bool) -> bool:
    """Take note that request ``i`` is gone with its replica; return whether it is to be sent elsewhere.

    It is, with ``retry``, once, when it had not begun to stream.
    """
    x = s.requests[i]
    if x.ended:  # it was about to leave
        release(s, i)
        return False
    if retry and math.isnan(x.first_token_at) and not x.retried:
        x.retried = 1
        x.generated = 0
        x.lead = 0
        x.place = 0
        return True
    close_request(s, i, DROPPED, at)
    release(s, i)
    return False
