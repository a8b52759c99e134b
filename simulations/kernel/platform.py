"""What can the platform do to a replica: start and end its engine, give and take traffic, slow it down, hang it?"""

from __future__ import annotations

import math

from simulations.kernel.batch import steps_until
from simulations.kernel.compiled import called, entry
from simulations.kernel.engine import look_again
from simulations.kernel.gateway import catch_up, drop_or_retry, send_or_hold
from simulations.kernel.layout import IDLE, JUMP, NEVER, NOBODY, Int32s, State, as_int64
from simulations.kernel.prefixes import forget_units
from simulations.kernel.routing import enter_traffic, leave_traffic, next_pool
from simulations.kernel.run import forget_ended, plan_other
from simulations.kernel.timeline import plan, set_key

BEGIN_LIFE, END_LIFE, OPEN, CLOSE, ASSIGN, LOSE, LOSE_WITH_RETRY, HANG, HANG_SHOWING_ZERO, CHANGE_SPEED, PLAN = range(
    11
)
"""What ``act`` can do: start and end an engine; give traffic, to those held first, and take it; choose pools anew for
those held; take note that a replica is gone with all that it had, in the order in which it got them; hang; slow down;
no more than look when the next scrape or time-out is."""


@called
def _clear(s: State, r: int) -> None:
    """Let replica ``r`` have no engine."""
    q = s.replicas[r]
    q.mode = IDLE
    q.end_at = NEVER
    q.alive = q.hung = q.shows_zero = q.blocked = q.tight = 0
    q.steps = q.kv_tokens = q.finish_step = q.m = 0
    q.decoding = q.running = q.waiting = q.leaving = q.fresh = 0
    q.fresh_tokens = q.admissions = 0
    q.partial = q.done = NOBODY
    q.prompt_total = q.output_total = q.preemptions = 0
    q.recent = q.recent_done = 0
    q.recent_tpot_s = 0.0
    q.failing_until = q.exporter_stuck_until = -NEVER
    q.transfer_at = NEVER
    q.link_free_at = 0.0
    q.moving_head = NOBODY
    q.looked_up = q.cached = q.seen_looked_up = q.seen_cached = 0
    q.response_s = math.nan
    forget_units(s, r)
    for phase in range(s.due.shape[1]):
        s.due[r, phase] = 0
    set_key(s, r, NEVER)


@entry
def act(s: State, verb: int, r: int, requests: Int32s, number: float) -> None:  # noqa: C901 - a table of verbs
    """Do what ``verb`` says to replica ``r``, now. One entry for all of them: each entry is compiled apart."""
    now = s.world[0].now
    if r != NOBODY:
        catch_up(s, r, now)
    if verb == BEGIN_LIFE:
        _begin_life(s, r)
    elif verb == END_LIFE:
        _clear(s, r)
    elif verb == OPEN:
        enter_traffic(s, r)
    elif verb == CLOSE:
        leave_traffic(s, r)
    elif verb in (LOSE, LOSE_WITH_RETRY):
        s.traffic[r].in_flight = 0
    elif verb in (HANG, HANG_SHOWING_ZERO):
        _hang(s, r, verb == HANG_SHOWING_ZERO)
    elif verb == CHANGE_SPEED:
        _change_speed(s, r, number)
    lost = verb in (LOSE, LOSE_WITH_RETRY)
    for number_of in requests:
        i = as_int64(number_of)
        if not lost or drop_or_retry(s, i, now, verb == LOSE_WITH_RETRY):
            if verb != OPEN:
                s.requests[i].pool = next_pool(s, s.requests[i].generated > 0)
            send_or_hold(s, i, now)
    forget_ended(s)
    plan_other(s)


@called
def _begin_life(s: State, r: int) -> None:
    """Let a fresh engine run; its counters begin at zero."""
    _clear(s, r)
    q = s.replicas[r]
    q.alive = 1
    q.life += 1
    q.free = s.profiles[q.pool].blocks
    q.finished = q.failed = 0


@called
def _hang(s: State, r: int, shows_zero: bool) -> None:
    """Let the engine stop in the middle of its step, for good."""
    q = s.replicas[r]
    q.hung = 1
    q.shows_zero = shows_zero
    if q.mode == JUMP:
        q.m = steps_until(q, s.world[0].now)
    q.end_at = NEVER
    plan(s, r, NEVER)


@called
def _change_speed(s: State, r: int, slowdown: float) -> None:
    """Let steps that begin from now on take ``slowdown`` times as long."""
    q = s.replicas[r]
    q.slowdown = slowdown
    if q.alive and not q.hung and q.mode != IDLE:
        look_again(s, r, s.world[0].now)
        plan(s, r, q.end_at)
