"""Which replica has something to say next? A tournament over one instant per replica."""

from __future__ import annotations

from simulations.kernel.compiled import inlined
from simulations.kernel.layout import State


@inlined
def set_key(s: State, r: int, at: float) -> None:
    """Let ``at`` be the instant of replica ``r``. Among equal instants the replica with the lower number wins."""
    keys, winners = s.keys, s.winners
    keys[r] = at
    node = (r + keys.shape[0]) >> 1
    while node >= 1:
        left, right = winners[2 * node], winners[2 * node + 1]
        winners[node] = left if keys[left] <= keys[right] else right
        node >>= 1
