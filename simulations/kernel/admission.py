"""Who of those that wait is let into the batch of an engine, and which prompts get the tokens of a step?"""

from __future__ import annotations

from typing import Any

from simulations.kernel.batch import preempt
from simulations.kernel.compiled import called, inlined
from simulations.kernel.ends import push_end
from simulations.kernel.layout import NO_CACHE, NOBODY, PREFILLED, RUNNING, SLOT_BITS, State, as_int64
from simulations.kernel.prefixes import cached_blocks, keep_units, take_units
from simulations.kernel.queues import take_first

_LONG = 2**31 - 1


@inlined
def has_room(s: State, r: int, due: int) -> bool:
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
def prefill(s: State, r: int, may_admit: bool) -> float:
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
