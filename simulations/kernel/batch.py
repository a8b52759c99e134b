"""What does the batch of one engine hold, how long do its steps take, and who leaves it before the end?"""

from __future__ import annotations

import math
from typing import Any

from simulations.kernel.compiled import called, inlined
from simulations.kernel.ends import remove_end
from simulations.kernel.layout import NOBODY, SLOT_MASK, WAITING, State, as_int64
from simulations.kernel.prefixes import give_back

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
def withdraw_decoding(s: State, r: int, i: int) -> None:
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
def withdraw_partial(s: State, r: int) -> None:
    """Take the request out of the batch whose prompt is prefilled in part; free its blocks."""
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
        if q.running == 0:  # what has blocks is on its way to others
            return
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
        withdraw_partial(s, r)
    else:
        for place in range(q.decoding):
            if s.ends[r, place] & SLOT_MASK == i:
                remove_end(s.ends[r], as_int64(q.decoding), place)
                break
        withdraw_decoding(s, r, i)
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
