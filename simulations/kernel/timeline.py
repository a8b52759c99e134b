"""Which replica has something to say next? One instant per replica, in groups, the least of each group kept.

Two passes over a few neighbouring numbers beat a tree: there is nothing for the processor to guess, and it compares
eight at once. Instants are kept as the bits of the float, which order like the numbers as none is negative.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simulations.kernel.compiled import inlined
from simulations.kernel.layout import GROUP_BITS, LINE_BYTES, State
from simulations.kernel.prefetching import prefetch


@inlined
def set_key(s: State, r: int, at: float) -> None:
    """Let ``at`` be the instant of replica ``r``, and fetch what its successor in the group will need."""
    w = s.world[0]
    group = r >> GROUP_BITS
    s.keys[group, r & ((1 << GROUP_BITS) - 1)] = np.float64(at).view(np.int64)
    first = _first(s.keys[group])
    s.group_keys[group] = s.keys[group, first]
    winner = (group << GROUP_BITS) + first
    s.group_winners[group] = winner
    for line in range(3):
        prefetch(s.replicas, winner, line * LINE_BYTES)
    prefetch(s.ends, winner, 0)
    prefetch(s.requests, s.first_ends[winner], 0)
    earliest = _first(s.group_keys)
    w.next_end_at = np.int64(s.group_keys[earliest]).view(np.float64)
    w.next_end_of = s.group_winners[earliest]


@inlined
def plan(s: State, r: int, at: float) -> None:
    """Let the instant of replica ``r`` be ``at``, or that at which its next transfer ends, whichever comes first."""
    if s.world[0].apart:
        at = min(at, s.replicas[r].transfer_at)
    set_key(s, r, at)


@inlined
def _first(numbers: Any) -> Any:
    """Return where the least of a few numbers is, the first of equal ones.

    Bounds that are not known beforehand and indices without a sign: so both loops are compiled into wide comparisons.
    """
    count = numbers.shape[0]
    least = numbers[0]
    for place in range(count):
        number = numbers[np.uintp(place)]
        least = min(least, number)
    first = count
    for place in range(count):
        candidate = place if numbers[np.uintp(place)] == least else count
        first = min(first, candidate)
    return first
