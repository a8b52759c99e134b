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

from simulations.kernel.compiled import called, inlined
from simulations.kernel.ends import pop_end, push_end, remove_end
from simulations.kernel.layout import (
    IDLE,
    JUMP,
    NEVER,
    NO_CACHE,
    NOBODY,
    PREFILLED,
    RUNNING,
    SINGLE,
    SLOT_BITS,
    SLOT_MASK,
    WAITING,
    State,
    as_int64,
)
from simulations.kernel.prefixes import cached_blocks, give_back, keep_units, shrink, take_units
from simulations.kernel.queues import take_first

_LONG = 2**31 - 1


@inlined
def spent_s(q: Any, steps: int) -> Any:
    """Return how long the first ``steps`` steps of the jump of ``q`` take, in seconds."""
    return steps * q.first_step_s + 0.5 * (steps * (steps - 1)) * q.growth_s


@called
def steps_until(q: Any, at: float) -> int:
    """Return how many steps of the jump of ``q`` have ended by ``at``, at most ``q.m``."""
    elapsed_s = at - q.began_at
    half = q.first_step_s - 0.5 * q.growth_s
    guess = 2.0 * elapsed_s / (half + math.sqrt(max(half * half + 2.0 * q.growth_s * elapsed_s, 0.0)))
    steps = min(int(guess), q.m)
    # Rounding may be off by one: the same closed form as everywhere decides.
    while steps > 0 and q.began_at + spent_s(q, steps) > at:
        steps -= 1
    while steps < q.m and q.began_at + spent_s(q, steps + 1) <= at:
        steps += 1
    return steps


@called
def blocks_due(s: State, r: int, steps: int) -> int:
    """Return how many blocks the next ``steps`` steps of pure decoding take, as they begin."""
    q = s.replicas[r]
    size = s.profiles[q.pool].block_tokens
    blocks = (steps // size) * q.decoding
    phase = q.steps % size
    for _ in range(steps % size):
        blocks += s.due[r, phase]
        phase += 1
        if phase == size:
            phase = 0
    return blocks


@called
def steps_with_blocks(s: State, r: int, most: int) -> int:
    """Return for how many steps, up to ``most``, the free blocks will do."""
    q = s.replicas[r]
    size = s.profiles[q.pool].block_tokens
    turns = min(most // size, q.free // q.decoding)
    left = q.free - turns * q.decoding
    steps = turns * size
    phase = q.steps % size
    while steps < most and s.due[r, phase] <= left:
        left -= s.due[r, phase]
        steps += 1
        phase += 1
        if phase == size:
            phase = 0
    return steps


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
    if q.partial != NOBODY or (q.waiting > 0 and may_admit and _has_room(s, r, due)):
        q.free -= due
        seconds = _prefill(s, r, may_admit)
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
def _has_room(s: State, r: int, due: int) -> bool:
    """Return whether the first in the queue can be admitted, once decodes have taken the ``due`` blocks."""
    q = s.replicas[r]
    p = s.profiles[q.pool]
    if q.running >= p.max_running or q.decoding >= p.max_batched_tokens:
        return False
    return blocks_wanted(s, r, as_int64(q.wait_head)) <= q.free - due


@inlined
def blocks_wanted(s: State, r: int, i: int) -> Any:
    """Return how many free blocks replica ``r`` must have to admit request ``i``."""
    p = s.profiles[s.replicas[r].pool]
    x = s.requests[i]
    if x.place == PREFILLED:  # the token that it is fed now needs a place too
        return x.prompt // p.block_tokens + 1
    blocks = (x.prompt + x.generated + p.block_tokens - 1) // p.block_tokens
    if p.cache != NO_CACHE and s.extras[i].hashes > 0:
        blocks -= cached_blocks(s, r, i)
    return blocks


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
def _prefill(s: State, r: int, may_admit: bool) -> float:
    """Hand out the tokens of a step to prompts; return the time that takes, without its base, in seconds."""
    q = s.replicas[r]
    p = s.profiles[q.pool]
    size = p.block_tokens
    budget = p.max_batched_tokens - q.decoding
    tokens = 0
    squares = 0
    i = as_int64(q.partial)
    taken = False
    s.world[0].joined = s.world[0].gave_way = 0
    while True:
        if i == NOBODY:
            if not may_admit or q.waiting == 0 or tokens >= budget or q.running >= p.max_running:
                break
            i = as_int64(q.wait_head)
            x = s.requests[i]
            if blocks_wanted(s, r, i) > q.free:
                break
            if _admit_first(s, r):
                budget -= 1
                i = NOBODY
                continue
        x = s.requests[i]
        before = x.lead
        goal = x.prompt + x.generated
        after = min(goal, before + budget - tokens)
        blocks = (after + size - 1) // size - (before + size - 1) // size
        if blocks > q.free:  # decodes took them: it gives way to itself, being the last admitted
            preempt(s, r, i)
            s.world[0].gave_way = 1
            break
        q.free -= blocks
        x.lead = after
        if p.cache != NO_CACHE:
            keep_units(s, r, i)
        tokens += after - before
        squares += after * after - before * before
        taken = after > before
        if after == goal:
            q.partial = NOBODY
            _add_fresh(s, r, i)
        else:
            q.partial = i
        may_admit = may_admit and taken
        i = NOBODY
    q.prompt_total += tokens
    return tokens * p.prefill_per_token_s + squares * p.prefill_per_token2_s


@inlined
def _admit_first(s: State, r: int) -> Any:
    """Admit the first in the queue; return whether it came prefilled and decodes in the step that begins."""
    q = s.replicas[r]
    i = as_int64(q.wait_head)
    x = s.requests[i]
    take_first(s, r)
    came_prefilled = x.place == PREFILLED
    x.place = RUNNING
    x.before = q.admissions
    q.admissions += 1
    q.running += 1
    if came_prefilled:
        _join(s, r, i)
    elif s.profiles[q.pool].cache != NO_CACHE and s.extras[i].has_hashes != 0:
        take_units(s, r, i)
    return came_prefilled


@called
def _join(s: State, r: int, i: int) -> None:
    """Let request ``i``, prefilled elsewhere and just admitted, decode in the step that begins."""
    q = s.replicas[r]
    x = s.requests[i]
    size = s.profiles[q.pool].block_tokens
    q.free -= x.prompt // size + 1
    s.world[0].joined += x.prompt % size == 0
    q.kv_tokens += x.prompt
    x.lead = q.steps - x.prompt
    s.due[r, x.lead % size] += 1
    push_end(s.ends[r], as_int64(q.decoding), ((q.steps + x.output - x.generated) << SLOT_BITS) | i)
    q.decoding += 1


@inlined
def _add_fresh(s: State, r: int, i: int) -> None:
    """Take note that the prefill of request ``i`` ends with this step."""
    q = s.replicas[r]
    x = s.requests[i]
    x.next = NOBODY
    if q.fresh == 0:
        q.fresh_head = i
        q.soonest = _LONG
    else:
        s.requests[q.fresh_tail].next = i
    q.fresh_tail = i
    q.fresh += 1
    q.fresh_tokens += x.lead
    q.soonest = min(q.soonest, x.output - x.generated - 1)


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
        _withdraw_decoding(s, r, i)
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
            _withdraw_decoding(s, r, i)
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


@inlined
def _withdraw_decoding(s: State, r: int, i: int) -> None:
    """Take a request out of the batch that is not among ``ends`` any more; free its blocks."""
    q = s.replicas[r]
    x = s.requests[i]
    size = s.profiles[q.pool].block_tokens
    held = q.steps - x.lead
    q.decoding -= 1
    q.running -= 1
    q.kv_tokens -= held
    q.free += (held + size - 1) // size
    s.due[r, x.lead % size] -= 1
    x.generated = held - x.prompt + 1
    x.lead = 0


@called
def _let_leave(s: State, r: int) -> None:
    """Chain those that have left the gateway, and ended no sooner, to ``done``."""
    q = s.replicas[r]
    place = 0
    while place < q.decoding:
        i = s.ends[r, place] & SLOT_MASK
        if s.requests[i].ended:
            remove_end(s.ends[r], as_int64(q.decoding), place)
            _withdraw_decoding(s, r, i)
            s.requests[i].next = q.done
            q.done = i
            place = 0
        else:
            place += 1
    if q.partial != NOBODY and s.requests[q.partial].ended:
        i = as_int64(q.partial)
        _withdraw_partial(s, r)
        s.requests[i].next = q.done
        q.done = i
    q.leaving = 0


@called
def _withdraw_partial(s: State, r: int) -> None:
    q = s.replicas[r]
    x = s.requests[q.partial]
    size = s.profiles[q.pool].block_tokens
    q.free += (x.lead + size - 1) // size
    q.running -= 1
    x.lead = 0
    q.partial = NOBODY


@called
def make_room(s: State, r: int) -> None:
    """Preempt from the last admitted on until the blocks due in this step are free."""
    q = s.replicas[r]
    phase = q.steps % s.profiles[q.pool].block_tokens
    while s.due[r, phase] > q.free:
        last = as_int64(q.partial)
        for place in range(q.decoding):
            i = s.ends[r, place] & SLOT_MASK
            if last == NOBODY or s.requests[i].before > s.requests[last].before:
                last = i
        preempt(s, r, last)


@called
def preempt(s: State, r: int, i: int) -> None:
    """Let request ``i`` give up its blocks and go back to the head of the queue."""
    q = s.replicas[r]
    if i == q.partial:
        _withdraw_partial(s, r)
    else:
        for place in range(q.decoding):
            if s.ends[r, place] & SLOT_MASK == i:
                remove_end(s.ends[r], as_int64(q.decoding), place)
                break
        _withdraw_decoding(s, r, i)
    if s.world[0].hashed and s.extras[i].looked_up > 0:
        give_back(s, r, i)
    x = s.requests[i]
    x.place = WAITING
    x.before = NOBODY
    x.next = q.wait_head
    if q.waiting == 0:
        q.wait_tail = i
        q.least_waiting = _LONG
    else:
        s.requests[q.wait_head].before = i
    q.wait_head = i
    q.waiting += 1
    q.least_waiting = min(q.least_waiting, x.output - x.generated)
    q.preemptions += 1


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
