"""What does one engine make of a constant number of requests in flight?"""

from __future__ import annotations

import math

from simulations.kernel.batch import spent_s, steps_until
from simulations.kernel.compiled import called, entry
from simulations.kernel.endings import release
from simulations.kernel.engine import begin, cut, end
from simulations.kernel.layout import DECODE, IDLE, JUMP, NOBODY, PREFILLED, Floats, Int32s, State, as_int64
from simulations.kernel.queues import add_last


@entry
def hold_concurrency(
    s: State,
    r: int,
    lengths: Int32s,
    starts: Floats,
    skipped: int,
    served: Floats,
    limits_s: Floats,
    most_misses: int,
) -> float:
    """Let every client at replica ``r``, which is idle, send a request when its last has ended; return requests/s.

    NaN as soon as more than ``most_misses`` of the counted requests have missed a limit, and when nothing is sent.

    Args:
        s: A state with a living engine and a record for each client.
        r: Its replica: a variable, so that nothing is compiled once more for the constant.
        lengths: ``int32[N, 2]``, prompt and output tokens of the requests, which are sent round and round.
        starts: When each client begins, ascending.
        skipped: Ends that are not counted.
        served: ``float64[M, 2]``, where TTFT and TPOT of the M counted requests go.
        limits_s: ``float64[2]``, of TTFT and TPOT.
        most_misses: How many may be beyond them.
    """
    q = s.replicas[r]
    at = counting_since = 0.0
    begun = sent = ended = misses = 0
    while ended < skipped + len(served):
        while begun < len(starts) and starts[begun] <= at:
            _send(s, r, lengths, sent, starts[begun])
            sent += 1
            begun += 1
        begin(s, r, at)
        if q.mode == IDLE:
            if begun == len(starts):
                return math.nan
            at = starts[begun]
            continue
        if q.mode == JUMP and begun < len(starts):
            _cut_at_or_after(s, r, starts[begun])
        at = q.end_at
        end(s, r, at)
        while q.done != NOBODY:
            i = _take_first_admitted(s, r)
            x = s.requests[i]
            ended += 1
            if ended <= skipped:
                counting_since = at
            else:
                ttft_s = x.first_token_at - x.timed_at
                tpot_s = (at - x.first_token_at) / (x.output - 1) if x.output > 1 else 0.0
                misses += ttft_s > limits_s[0] or tpot_s > limits_s[1]
                if ended - skipped <= len(served):
                    served[ended - skipped - 1, 0] = ttft_s
                    served[ended - skipped - 1, 1] = tpot_s
            release(s, i)
            _send(s, r, lengths, sent, at)
            sent += 1
        if misses > most_misses:
            return math.nan
    return (ended - skipped) / (at - counting_since)


@called
def _send(s: State, r: int, lengths: Int32s, sent: int, at: float) -> None:
    w = s.world[0]
    q = s.replicas[r]
    i = w.free_head
    x = s.requests[i]
    w.free_head = x.next
    x.prompt = lengths[sent % len(lengths), 0]
    x.output = lengths[sent % len(lengths), 1]
    x.generated = x.lead = x.ended = 0
    x.timed_at = at
    x.first_token_at = math.nan
    add_last(s, r, i)
    if s.pools[q.pool].role == DECODE:  # it comes with its first token
        x.generated = 1
        x.first_token_at = at
        x.place = PREFILLED
        q.least_waiting = min(q.least_waiting, x.output - 1)


@called
def _cut_at_or_after(s: State, r: int, at: float) -> None:
    """Let the jump be over with the first step that ends at ``at`` or later."""
    q = s.replicas[r]
    steps = steps_until(q, at)
    if steps == 0 or q.began_at + spent_s(q, steps) < at:
        steps += 1
    cut(q, steps)


@called
def _take_first_admitted(s: State, r: int) -> int:
    """Unchain, of those that are done, the one that was admitted first."""
    q = s.replicas[r]
    first = before_first = NOBODY
    before, i = NOBODY, as_int64(q.done)
    while i != NOBODY:
        if first == NOBODY or s.requests[i].before < s.requests[first].before:
            first, before_first = i, before
        before, i = i, as_int64(s.requests[i].next)
    if before_first == NOBODY:
        q.done = s.requests[first].next
    else:
        s.requests[before_first].next = s.requests[first].next
    return first
