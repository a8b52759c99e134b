"""How does a request end, and does its client send it again?"""

from __future__ import annotations

from simulations.kernel.compiled import called, inlined
from simulations.kernel.counting import count_end
from simulations.kernel.layout import NOBODY, State, as_int64


@inlined
def close_request(s: State, i: int, status: int, at: float) -> None:
    """Let the outcome of request ``i`` be known."""
    x = s.requests[i]
    x.ended = 1
    count_end(s, i, as_int64(status), at)
    s.watched[x.row % s.watched.shape[0]] = NOBODY


@inlined
def release(s: State, i: int) -> None:
    """Let the record of request ``i`` be used again."""
    w = s.world[0]
    s.requests[i].next = w.free_head
    s.requests[i].place = 0
    w.free_head = i


@called
def fail(s: State, i: int, status: int, at: float) -> None:
    """Let request ``i`` end without an answer; its client may come again."""
    w = s.world[0]
    close_request(s, i, status, at)
    if at >= w.return_until or s.extras[i].attempt >= w.return_most or s.extras[i].poison > 0:
        return
    size = s.returns.shape[0]
    again_at = at + w.return_after_s
    place = w.returning
    while place > 0 and s.returns[(w.return_first + place - 1) % size].at > again_at:
        _copy_return(s, (w.return_first + place - 1) % size, (w.return_first + place) % size)
        place -= 1
    back = s.returns[(w.return_first + place) % size]
    x = s.requests[i]
    back.at = again_at
    back.prompt = x.prompt
    back.output = s.extras[i].answer if w.apart else x.output
    back.attempt = s.extras[i].attempt + 1
    back.poison = 0
    w.returning += 1


@called
def _copy_return(s: State, source: int, target: int) -> None:
    one, other = s.returns[target], s.returns[source]
    one.at = other.at
    one.prompt = other.prompt
    one.output = other.output
    one.attempt = other.attempt
    one.poison = other.poison
