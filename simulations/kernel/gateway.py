"""What happens to a request between its arrival and its end: sent, held, answered, given up, lost."""

from __future__ import annotations

import math

from simulations.kernel.batch import steps_until
from simulations.kernel.compiled import called, inlined
from simulations.kernel.connecting import connect, connect_no_more
from simulations.kernel.endings import close_request, fail, release
from simulations.kernel.engine import (
    begin,
    cut,
    end,
    is_to_move,
    look_again,
    next_end_at,
)
from simulations.kernel.layout import (
    COMPLETED,
    CONNECTING,
    DECODE,
    DROPPED,
    FAILED,
    HELD,
    IDLE,
    JUMP,
    MOVING,
    NOBODY,
    PREFILLED,
    RUNNING,
    WAITING,
    State,
    as_int64,
)
from simulations.kernel.queues import add_last, leave_queue
from simulations.kernel.routing import change_in_flight, chosen_replica, note_response, note_route
from simulations.kernel.timeline import plan

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
    i = as_int64(q.done)
    while i != NOBODY:
        x = s.requests[i]
        following = as_int64(x.next)
        if x.ended:
            release(s, i)
        else:
            if at < s.world[0].now - _ROUNDING_S:
                s.world[0].too_early += 1
            note_response(s, r, at - x.timed_at)
            if is_to_move(s, i):
                _begin_transfer(s, r, i, at)
            else:
                close_request(s, i, COMPLETED, at)
                release(s, i)
                left(s, r)
        i = following


@called
def _begin_transfer(s: State, r: int, i: int, at: float) -> None:
    """Let the keys and values of request ``i`` be sent, after those that its replica sends already."""
    w = s.world[0]
    q = s.replicas[r]
    x = s.requests[i]
    takes_s = w.kv_latency_s + x.prompt * s.profiles[q.pool].kv_bytes_per_token / w.kv_bytes_per_s
    q.link_free_at = max(at, q.link_free_at) + takes_s
    q.finished += 1
    x.place = MOVING
    x.timed_at = q.link_free_at
    x.next = NOBODY
    if q.moving_head == NOBODY:
        q.moving_head = i
        q.transfer_at = x.timed_at
    else:
        s.requests[q.moving_tail].next = i
    q.moving_tail = i


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
def send_or_hold(s: State, i: int, at: float) -> None:
    """Send request ``i`` to a replica of its pool, or hold it while there is none."""
    r = chosen_replica(s, i)
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


@called
def not_reached(s: State, i: int, at: float) -> None:
    """Let request ``i`` fail, for which there was no connection in time."""
    r = as_int64(s.requests[i].replica)
    connect_no_more(s, i)
    s.replicas[r].unreached += 1
    fail(s, i, FAILED, at)
    release(s, i)
    left(s, r)


@inlined
def send(s: State, i: int, r: int, at: float) -> None:
    """Send request ``i`` to replica ``r``, which stands at ``at``."""
    x = s.requests[i]
    q = s.replicas[r]
    p = s.profiles[q.pool]
    if x.place == HELD:
        hold_no_more(s, i)
    x.replica = r
    too_long = (x.prompt + x.output - 1 + p.block_tokens - 1) // p.block_tokens > p.blocks - q.lost_blocks
    if (too_long or at < q.failing_until or at < q.unreached_until) and _is_kept_out(s, i, r, at, too_long):
        return
    x.timed_at = at
    change_in_flight(s, r, 1)
    note_route(s, i, r)
    add_last(s, r, i)
    if s.pools[q.pool].role == DECODE:
        x.place = PREFILLED
    if q.hung:
        return
    if q.mode == IDLE:
        begin(s, r, at)
        plan(s, r, next_end_at(s, r))
        return
    if q.mode == JUMP:
        if q.blocked:
            return
        if q.waiting == 1:
            cut(q, steps_until(q, at) + 1)
    if q.steps + q.m + x.output - x.generated < q.finish_step:
        plan(s, r, next_end_at(s, r))


@called
def _is_kept_out(s: State, i: int, r: int, at: float, too_long: bool) -> bool:
    """Return whether request ``i`` does not get into replica ``r``: out of reach, refused, answered with an error."""
    q = s.replicas[r]
    if at < q.unreached_until:
        connect(s, i, r, at)
        return True
    if too_long:
        close_request(s, i, FAILED, at)  # a 4xx: the client's fault
        release(s, i)
        return True
    if at < q.failing_until and _fails(s, r):
        fail(s, i, FAILED, at)
        release(s, i)
        return True
    return False


@called
def _fails(s: State, r: int) -> bool:
    """Return whether the request that comes now is answered with an error; the share is spread evenly."""
    q = s.replicas[r]
    q.failures_due += q.failing_share
    if q.failures_due < 1.0 - 1e-9:
        return False
    q.failures_due -= 1.0
    q.failed += 1
    change_in_flight(s, r, 0)  # another's turn among equals
    return True


@called
def give_up(s: State, i: int, at: float) -> None:
    """Let the client of request ``i`` go; its replica, if it has one, stands at ``at``."""
    x = s.requests[i]
    r = as_int64(x.replica)
    fail(s, i, FAILED, at)
    if x.place == HELD:
        hold_no_more(s, i)
        release(s, i)
        return
    q = s.replicas[r]
    if x.place == MOVING:  # on its way; who is told of its end sends it nowhere
        left(s, r)
        return
    if x.place == CONNECTING:
        connect_no_more(s, i)
        release(s, i)
    elif q.hung:  # it does not listen: what it shows stays as it is
        q.unheard += 1
        q.leaving += x.place == RUNNING
    elif x.place == RUNNING:  # leaves when the step is over
        q.aborted += 1
        q.leaving += 1
        look_again(s, r, at)
        plan(s, r, q.end_at)
    elif x.place in (WAITING, PREFILLED):
        q.aborted += 1
        leave_queue(s, r, i)
        release(s, i)
        look_again(s, r, at)
        plan(s, r, q.end_at)
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
    if x.place == CONNECTING:
        connect_no_more(s, i)
    if retry and math.isnan(x.first_token_at) and not x.retried:
        x.retried = 1
        x.generated = 0
        x.lead = 0
        x.place = 0
        s.extras[i].looked_up = 0
        return True
    fail(s, i, DROPPED, at)
    release(s, i)
    return False
