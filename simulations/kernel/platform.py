"""What can the platform do to a replica: start and end its engine, give and take traffic, slow it down, hang it?"""

from __future__ import annotations

from simulations.kernel.compiled import called, entry
from simulations.kernel.engine import look_again, steps_until
from simulations.kernel.gateway import advance, assign, drop_or_retry, send_or_hold
from simulations.kernel.layout import IDLE, JUMP, NEVER, NOBODY, Int32s, State
from simulations.kernel.routing import enter_traffic, leave_traffic
from simulations.kernel.run import forget_ended, plan_other
from simulations.kernel.timeline import set_key


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
    for phase in range(s.due.shape[1]):
        s.due[r, phase] = 0
    set_key(s, r, NEVER)


@entry
def begin_life(s: State, r: int) -> None:
    """Let a fresh engine run at replica ``r``; its counters begin at zero."""
    _clear(s, r)
    q = s.replicas[r]
    q.alive = 1
    q.free = s.profiles[q.pool].blocks
    q.finished = q.failed = 0


@entry
def end_life(s: State, r: int) -> None:
    """Let the engine of replica ``r`` be gone, after what it has done by now."""
    advance(s, r, s.world[0].now)
    _clear(s, r)


@entry
def open_replica(s: State, r: int, held: Int32s) -> None:
    """Send replica ``r`` requests from now on; those ``held`` for its pool go first."""
    enter_traffic(s, r)
    for i in held:
        send_or_hold(s, i, s.world[0].now)
    plan_other(s)


@entry
def close_replica(s: State, r: int) -> None:
    """Send replica ``r`` no more requests."""
    leave_traffic(s, r)


@entry
def assign_anew(s: State, held: Int32s) -> None:
    """Choose a pool for each of the requests ``held``: the shares have changed."""
    for i in held:
        assign(s, i, s.world[0].now)
    plan_other(s)


@entry
def lose(s: State, r: int, had: Int32s, retry: bool) -> None:
    """Take note that replica ``r``, closed before, is gone with the requests that it ``had``, in order of sending."""
    s.replicas[r].in_flight = 0
    for i in had:
        drop_or_retry(s, i, s.world[0].now, retry)
    forget_ended(s)
    plan_other(s)


@entry
def hang(s: State, r: int, shows_zero: bool) -> None:
    """Let the engine of replica ``r`` stop, in the middle of its step, for good."""
    now = s.world[0].now
    advance(s, r, now)
    q = s.replicas[r]
    q.hung = 1
    q.shows_zero = shows_zero
    if q.mode == JUMP:
        q.m = steps_until(q, now)
    q.end_at = NEVER
    set_key(s, r, NEVER)


@entry
def change_speed(s: State, r: int, slowdown: float) -> None:
    """Let steps of replica ``r`` that begin from now on take ``slowdown`` times as long."""
    now = s.world[0].now
    q = s.replicas[r]
    advance(s, r, now)
    q.slowdown = slowdown
    if q.alive and not q.hung and q.mode != IDLE:
        look_again(s, r, now)
        set_key(s, r, q.end_at)


@entry
def plan(s: State) -> None:
    """Tell anew when the next scrape or time-out is."""
    plan_other(s)
