"""Which replica has something to say next? A tournament over one instant per replica."""

from __future__ import annotations

from simulations.kernel.compiled import inlined
from simulations.kernel.layout import State


@inlined
def set_key(s: State, r: int, at: float) -> None:
    """Let ``at`` be the instant of replica ``r``. Among equal instants the replica with the lower number wins."""
    earliest, winners = s.earliest, s.winners
    node = r + (earliest.shape[0] >> 1)
    earliest[node] = at
    winner = r
    while node > 1:
        # Without a branch: which of two replicas comes first is anybody's guess, and a wrong guess costs more.
        other = earliest[node ^ 1]
        beaten = (other < at) | ((other == at) & ((node & 1) == 1))
        winner = winners[node ^ 1] if beaten else winner
        at = min(at, other)
        node >>= 1
        earliest[node] = at
        winners[node] = winner


@inlined
def key_of(s: State, r: int) -> float:
    """Return the instant of replica ``r``."""
    return s.earliest[r + (s.earliest.shape[0] >> 1)]
