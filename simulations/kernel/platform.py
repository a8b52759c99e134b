"""What can happen to a replica: its engine starts, ends, hangs, slows down, loses memory; it gets and loses traffic."""

from __future__ import annotations

import math

from simulations.kernel.batch import blocks_due, spent_s, steps_until
from simulations.kernel.compiled import called, entry
from simulations.kernel.endings import release
from simulations.kernel.engine import begin, look_again, next_end_at
from simulations.kernel.gateway import catch_up, drop_or_retry, give_up, send_or_hold
from simulations.kernel.layout import IDLE, JUMP, NEVER, NO_CACHE, NOBODY, Int32s, State, as_int64
from simulations.kernel.prefixes import forget_units, shrink
from simulations.kernel.queues import leave_queue
from simulations.kernel.routing import enter_traffic, leave_traffic, next_pool
from simulations.kernel.run import forget_ended, plan_other
from simulations.kernel.scraping import kv_cache_ratio, steps_of_jump
from simulations.kernel.timeline import plan, set_key

(
    BEGIN_LIFE, END_LIFE, OPEN, CLOSE, ASSIGN, LOSE, LOSE_WITH_RETRY, HANG, HANG_SHOWING_ZERO, CHANGE_SPEED, PLAN,
    GO_ON, KEEP_BLOCKS, RESET_COUNTERS, LOOK,
) = range(15)  # fmt: skip
"""What ``act`` can do: start and end an engine; give traffic, to those held first, and take it; choose pools anew for
those held; take note that a replica is gone with all that it had, in the order in which it got them; hang; slow down;
no more than look when the next scrape or time-out is; go on after a hang; have only a share of the KV cache, which is
too small for those that are named; let counters begin again at zero; tell how full the KV cache is."""


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
    q.prompt_total = q.output_total = q.preemptions = q.aborted = q.unheard = 0
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
def act(s: State, verb: int, r: int, requests: Int32s, number: float) -> None:  # noqa: C901, PLR0912 - a table of verbs
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
    elif verb == GO_ON:
        _go_on(s, r)
    elif verb == KEEP_BLOCKS:
        _keep_blocks(s, r, number)
    elif verb == RESET_COUNTERS:
        _reset_counters(s, r)
    elif verb == LOOK:
        s.world[0].looked_at = kv_cache_ratio(s, r, steps_of_jump(s.replicas[r], now))
    lost = verb in (LOSE, LOSE_WITH_RETRY)
    for number_of in requests:
        i = as_int64(number_of)
        if verb == KEEP_BLOCKS:
            give_up(s, i, now)
        elif not lost or drop_or_retry(s, i, now, verb == LOSE_WITH_RETRY):
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
    q.free = s.profiles[q.pool].blocks - q.lost_blocks
    q.finished = q.failed = q.unreached = 0
    q.steps_hidden = q.finished_hidden = q.failed_hidden = 0


@called
def _hang(s: State, r: int, shows_zero: bool) -> None:
    """Let the engine stop in the middle of its step."""
    q = s.replicas[r]
    now = s.world[0].now
    q.shows_zero = shows_zero
    if q.hung:
        return
    q.hung = 1
    q.hung_at = now
    q.hung_left_s = q.end_at - now
    if q.mode == JUMP:
        q.m = steps_until(q, now)
    q.end_at = NEVER
    plan(s, r, NEVER)


@called
def _go_on(s: State, r: int) -> None:
    """Let a hung engine hear what clients have given up meanwhile, and go on with the step in which it stopped."""
    q = s.replicas[r]
    now = s.world[0].now
    if not q.hung:
        return
    q.hung = q.shows_zero = 0
    q.aborted += q.unheard
    q.unheard = 0
    i = as_int64(q.wait_head) if q.waiting > 0 else NOBODY
    while i != NOBODY:
        following = as_int64(s.requests[i].next)
        if s.requests[i].ended:
            leave_queue(s, r, i)
            release(s, i)
        i = following
    if q.mode == IDLE:
        begin(s, r, now)
    else:
        q.began_at += now - q.hung_at
        if q.mode == JUMP:
            q.m += 1
            q.end_at = q.began_at + spent_s(q, q.m)
        else:
            q.end_at = now + q.hung_left_s
        q.tight = 1
    plan(s, r, next_end_at(s, r))


@called
def _keep_blocks(s: State, r: int, kept_ratio: float) -> None:
    """Let the engine have only a share of its KV cache; what is in use beyond it is given up with the next step."""
    q = s.replicas[r]
    p = s.profiles[q.pool]
    now = s.world[0].now
    lost = p.blocks - max(1, int(p.blocks * kept_ratio))
    q.free -= lost - q.lost_blocks
    q.lost_blocks = lost
    if not q.alive:
        return
    steps = steps_of_jump(q, now)
    if p.cache != NO_CACHE:
        shrink(s, r, q.free - blocks_due(s, r, steps + 1) if q.mode == JUMP else as_int64(q.free))
    if q.hung:
        return
    if q.mode == IDLE:
        begin(s, r, now)
        plan(s, r, next_end_at(s, r))
    else:
        look_again(s, r, now)
        plan(s, r, q.end_at)


@called
def _reset_counters(s: State, r: int) -> None:
    """Let the counters that the engine shows begin again at zero."""
    q = s.replicas[r]
    steps = steps_of_jump(q, s.world[0].now)
    q.steps_hidden = q.steps + steps
    q.prompt_total = q.preemptions = q.aborted = 0
    q.output_total = -steps * q.decoding
    q.finished_hidden = q.finished
    q.failed_hidden = q.failed


@called
def _change_speed(s: State, r: int, slowdown: float) -> None:
    """Let steps that begin from now on take ``slowdown`` times as long."""
    q = s.replicas[r]
    q.slowdown = slowdown
    if q.alive and not q.hung and q.mode != IDLE:
        look_again(s, r, s.world[0].now)
        plan(s, r, q.end_at)
