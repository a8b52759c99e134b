"""How do the steps of one engine follow each other, when no step need be done by itself?

The rules are those of ``simulations.replica``, in the same words. While nothing is prefilled, all decoding sequences
advance together: with n of them that hold k tokens, m steps take

    m (a + b n + c k) + c n m (m - 1) / 2        times what slows the replica

so that a jump goes to the next step that needs a look: one in which a request ends, blocks run out, somebody can be
admitted, or somebody leaves. What a scrape shows of a replica in a jump follows from the number of steps done.
"""

from __future__ import annotations

import math
from typing import Any

from simulations.kernel.admission import has_room, prefill
from simulations.kernel.batch import (
    blocks_due,
    make_room,
    spent_s,
    steps_until,
    steps_with_blocks,
    withdraw_decoding,
    withdraw_partial,
)
from simulations.kernel.compiled import called, inlined
from simulations.kernel.ends import pop_end, push_end, remove_end
from simulations.kernel.layout import IDLE, JUMP, NEVER, NO_CACHE, NOBODY, SINGLE, SLOT_BITS, SLOT_MASK, State, as_int64
from simulations.kernel.prefixes import give_back, shrink

_LONG = 2**31 - 1


@inlined
def begin(s: State, r: int, at: float) -> None:
    """Let the next step or jump of replica ``r`` begin at ``at``; everybody in its queue can be admitted."""
    q = s.replicas[r]
    p = s.profiles[q.pool]
    q.began_at = at
    q.blocked = q.tight = 0
    due = s.due[r, q.steps % p.block_tokens]
    may_admit = True
    if due > q.free:
        make_room(s, r)
        due = s.due[r, q.steps % p.block_tokens]
        may_admit = False
        q.tight = 1
    if p.cache != NO_CACHE and q.idle_units > 0:
        shrink(s, r, as_int64(q.free - due))
    if q.partial != NOBODY or (q.waiting > 0 and may_admit and has_room(s, r, due)):
        q.free -= due
        seconds = prefill(s, r, may_admit)
        if seconds > 0.0:
            base_s = p.prefill_base_s
            if q.decoding > 0:
                base_s = max(base_s, p.decode_base_s)
                seconds = (p.decode_per_sequence_s * q.decoding + p.decode_per_kv_token_s * q.kv_tokens) + seconds
            q.mode = SINGLE
            q.m = 1
            q.end_at = at + (base_s + seconds) * q.slowdown
            return
        # Those who came prefilled decode from this step on: the jump counts the blocks that they need in it.
        q.free += due + s.world[0].joined
        may_admit = s.world[0].gave_way == 0
    if q.decoding > 0:
        _jump(s, r, at, may_admit)
    else:
        q.mode = IDLE
        q.end_at = NEVER


@inlined
def _jump(s: State, r: int, at: float, may_admit: bool) -> None:
    q = s.replicas[r]
    p = s.profiles[q.pool]
    q.mode = JUMP
    q.first_step_s = (
        p.decode_base_s + (p.decode_per_sequence_s * q.decoding + p.decode_per_kv_token_s * q.kv_tokens)
    ) * q.slowdown
    q.growth_s = p.decode_per_kv_token_s * q.decoding * q.slowdown
    steps = (s.ends[r, 0] >> SLOT_BITS) - q.steps
    if (steps // p.block_tokens + 1) * q.decoding > q.free:
        enough = steps_with_blocks(s, r, steps)
        if enough < steps:
            q.tight = 1
            steps = enough
    q.blocked = q.waiting > 0
    if not may_admit and (q.waiting > 0 or q.partial != NOBODY):
        q.tight = 1
        steps = 1
    q.m = steps
    q.end_at = at + spent_s(q, steps)


@inlined
def cut(q: Any, steps: int) -> None:
    """Let the jump of ``q`` be over after ``steps`` steps."""
    if steps < q.m:
        q.m = steps
        q.end_at = q.began_at + spent_s(q, steps)


@inlined
def end(s: State, r: int, at: float) -> None:
    """Account for the step or jump that is over at ``at``; those that ended are chained from ``done``."""
    q = s.replicas[r]
    p = s.profiles[q.pool]
    q.done = NOBODY
    if q.mode == JUMP:
        q.free -= blocks_due(s, r, as_int64(q.m))
        if p.cache != NO_CACHE and q.idle_units > 0:
            shrink(s, r, as_int64(q.free))
    q.steps += q.m
    q.kv_tokens += q.decoding * q.m
    q.output_total += q.decoding * q.m + q.fresh
    while q.decoding > 0 and (s.ends[r, 0] >> SLOT_BITS) == q.steps:
        i = s.ends[r, 0] & SLOT_MASK
        pop_end(s.ends[r], as_int64(q.decoding))
        withdraw_decoding(s, r, i)
        s.requests[i].next = q.done
        q.done = i
    i = as_int64(q.fresh_head) if q.fresh > 0 else NOBODY
    q.fresh = 0
    q.fresh_tokens = 0
    while i != NOBODY:
        x = s.requests[i]
        following = as_int64(x.next)
        x.generated += 1
        if math.isnan(x.first_token_at):
            x.first_token_at = at
            s.recent_ttft_s[r, q.recent % s.recent_ttft_s.shape[1]] = at - x.timed_at
            q.recent += 1
        q.kv_tokens += x.lead
        x.lead = q.steps - x.lead
        s.due[r, x.lead % p.block_tokens] += 1
        left = x.output - x.generated
        push_end(s.ends[r], as_int64(q.decoding), ((q.steps + left) << SLOT_BITS) | i)
        q.decoding += 1
        if left == 0:
            pop_end(s.ends[r], as_int64(q.decoding))
            withdraw_decoding(s, r, i)
            x.next = q.done
            q.done = i
        i = following
    if q.leaving > 0:
        _let_leave(s, r)
    if q.done != NOBODY and s.world[0].in_order:
        _settle_blocks(s, r)


@called
def _settle_blocks(s: State, r: int) -> None:
    """Bring those that are done in order of admission; take their units back, unless they still have to be sent."""
    q = s.replicas[r]
    p = s.profiles[q.pool]
    q.done = _by_admission(s, as_int64(q.done))
    i = as_int64(q.done)
    while i != NOBODY:
        if is_to_move(s, i):
            q.free -= (s.requests[i].prompt + p.block_tokens - 1) // p.block_tokens
        elif s.extras[i].looked_up > 0:
            give_back(s, r, i)
        i = as_int64(s.requests[i].next)


@called
def _by_admission(s: State, head: int) -> int:
    """Return the head of a chain, sorted by insertion: few end with one step."""
    first = NOBODY
    while head != NOBODY:
        following = as_int64(s.requests[head].next)
        number = s.requests[head].before
        if first == NOBODY or number < s.requests[first].before:
            s.requests[head].next = first
            first = head
        else:
            before = first
            while s.requests[before].next != NOBODY and s.requests[s.requests[before].next].before < number:
                before = as_int64(s.requests[before].next)
            s.requests[head].next = s.requests[before].next
            s.requests[before].next = head
        head = following
    return first


@inlined
def is_to_move(s: State, i: int) -> Any:
    """Return whether request ``i``, with which its engine is done, has to go on at a decode replica."""
    x = s.requests[i]
    return s.world[0].apart and not x.ended and x.output < s.extras[i].answer


@called
def _let_leave(s: State, r: int) -> None:
    """Chain those that have left the gateway, and ended no sooner, to ``done``."""
    q = s.replicas[r]
    place = 0
    while place < q.decoding:
        i = s.ends[r, place] & SLOT_MASK
        if s.requests[i].ended:
            remove_end(s.ends[r], as_int64(q.decoding), place)
            withdraw_decoding(s, r, i)
            s.requests[i].next = q.done
            q.done = i
            place = 0
        else:
            place += 1
    if q.partial != NOBODY and s.requests[q.partial].ended:
        i = as_int64(q.partial)
        withdraw_partial(s, r)
        s.requests[i].next = q.done
        q.done = i
    q.leaving = 0


@inlined
def look_again(s: State, r: int, at: float) -> None:
    """Let what replica ``r`` does at ``at`` be over with the step that is going on, and expect nothing beyond it."""
    q = s.replicas[r]
    if q.mode == JUMP:
        cut(q, steps_until(q, at) + 1)
    q.tight = 1


@inlined
def next_end_at(s: State, r: int) -> float:
    """Return an instant before which no request of replica ``r`` ends, unless others come.

    Exact while nothing is waiting. Prefills in between only make it later. Nobody decoding now gives way before it: the
    blocks up to there are counted, and whoever comes later would give way first.
    """
    q = s.replicas[r]
    after = q.steps + q.m
    q.finish_step = after
    if q.mode == IDLE or q.tight or q.hung:
        return q.end_at
    finish = _LONG + q.steps
    if q.decoding > 0:
        finish = s.ends[r, 0] >> SLOT_BITS
        s.first_ends[r] = s.ends[r, 0] & SLOT_MASK
    if q.fresh > 0:
        finish = min(finish, after + q.soonest)
    if q.waiting > 0 and not q.blocked:
        finish = min(finish, after + q.least_waiting)
    if q.partial != NOBODY:
        x = s.requests[q.partial]
        finish = min(finish, after + x.output - x.generated)
    q.finish_step = finish
    if finish <= after:
        return q.end_at
    if q.mode == JUMP:
        return q.began_at + spent_s(q, finish - q.steps)
    return _decoded_at(s, r, finish - after)


@inlined
def _decoded_at(s: State, r: int, steps: int) -> float:
    """Return when ``steps`` steps of pure decoding after this one would be over.

    Its own end if steps may get shorter: when blocks may run out, and when nobody decodes, as a step that only
    prefills has another base.
    """
    q = s.replicas[r]
    p = s.profiles[q.pool]
    n = q.decoding + q.fresh
    if n == 0 or (steps // p.block_tokens + 1) * n > q.free:
        return q.end_at
    kv_tokens = q.kv_tokens + q.decoding + q.fresh_tokens
    # In the very order of ``_jump``: then this is the end of the jump to the last digit, when nobody comes.
    step_s = (p.decode_base_s + (p.decode_per_sequence_s * n + p.decode_per_kv_token_s * kv_tokens)) * q.slowdown
    growth_s = p.decode_per_kv_token_s * n * q.slowdown
    return q.end_at + (steps * step_s + 0.5 * (steps * (steps - 1)) * growth_s)
