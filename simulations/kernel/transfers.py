"""How do a request's keys and values get from the replica that prefilled it to one that decodes?

One transfer of a replica follows the other. A request that is on its way stays in flight at the replica that has its
blocks; when it is over, it is a request for the decode pools that comes with its first token.
"""

from __future__ import annotations

from simulations.kernel.compiled import called
from simulations.kernel.endings import release
from simulations.kernel.engine import begin
from simulations.kernel.gateway import left, send_or_hold
from simulations.kernel.layout import IDLE, NEVER, NOBODY, State, as_int64
from simulations.kernel.prefixes import give_back
from simulations.kernel.routing import next_pool


@called
def end_transfers(s: State, r: int, at: float) -> None:
    """Do what there is to do for the transfers of replica ``r``, which stands at ``at``, that end by then."""
    q = s.replicas[r]
    size = s.profiles[q.pool].block_tokens
    while q.transfer_at <= at:
        i = as_int64(q.moving_head)
        x = s.requests[i]
        q.moving_head = x.next
        q.transfer_at = NEVER if x.next == NOBODY else s.requests[x.next].timed_at
        q.free += (x.prompt + size - 1) // size
        if s.extras[i].looked_up > 0:
            give_back(s, r, i)
        if q.mode == IDLE and q.waiting > 0 and not q.hung:
            begin(s, r, at)
        if x.ended:
            release(s, i)
        else:
            left(s, r)
            x.output = s.extras[i].answer
            x.generated = 1
            x.lead = 0
            x.place = 0
            x.pool = next_pool(s, x.generated > 0)
            send_or_hold(s, i, at)
