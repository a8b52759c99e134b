"""Which prefixes does a replica still have in its KV cache, and which does it give up first?

The rules are those of ``simulations.prefix_cache``, in the same words. Per replica: records of units, a hash table over
them (linear probing; whoever leaves lets the following ones close up), and a binary heap of those that nobody uses,
the next to go first. A request notes the unit behind each of its hashes that it uses.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simulations.kernel.compiled import called, inlined
from simulations.kernel.layout import LFU, NOBODY, State, as_int64

_FIRST_FACTOR, _SECOND_FACTOR = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_FIRST_SHIFT, _SECOND_SHIFT, _LAST_SHIFT = np.uint64(30), np.uint64(27), np.uint64(31)


@inlined
def mixed(bits: Any) -> Any:
    """Return 64 bits that look random: the last steps of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    bits = (bits ^ (bits >> _FIRST_SHIFT)) * _FIRST_FACTOR
    bits = (bits ^ (bits >> _SECOND_SHIFT)) * _SECOND_FACTOR
    return bits ^ (bits >> _LAST_SHIFT)


@called
def cached_blocks(s: State, r: int, i: int) -> int:
    """Return how many blocks less than for all of its prompt must be free to admit request ``i``.

    Units in use are shared; idle ones count as free, so that using them takes them from the free blocks.
    """
    e = s.extras[i]
    in_use = 0
    for k in range(_most_units(s, i)):
        u = _unit_of(s, r, s.hashed[e.hash_from + k].hash)
        if u == NOBODY:
            break
        in_use += s.units[r, u].users > 0
    return in_use * s.profiles[s.replicas[r].pool].unit_blocks


@called
def take_units(s: State, r: int, i: int) -> None:
    """Let request ``i``, which is being admitted, have what there is of its prompt."""
    q = s.replicas[r]
    e = s.extras[i]
    x = s.requests[i]
    found = 0
    for k in range(_most_units(s, i)):
        u = _unit_of(s, r, s.hashed[e.hash_from + k].hash)
        if u == NOBODY:
            break
        unit = s.units[r, u]
        if unit.users == 0:
            _leave_idle(s, r, u)
            q.free -= s.profiles[q.pool].unit_blocks
        unit.users += 1
        unit.takes += 1
        s.hashed[e.hash_from + k].unit = u
        found += 1
    e.looked_up = found
    x.lead = found * s.world[0].unit_tokens
    q.looked_up += x.prompt + x.generated
    q.cached += x.lead


@called
def keep_units(s: State, r: int, i: int) -> None:
    """Let others find the units that this step completes of request ``i``; give up idle ones for its blocks."""
    q = s.replicas[r]
    e = s.extras[i]
    x = s.requests[i]
    done = min(min(x.lead, x.prompt) // s.world[0].unit_tokens, e.hashes)
    while e.looked_up < done:
        entry = s.hashed[e.hash_from + e.looked_up]
        entry.unit = NOBODY
        if _unit_of(s, r, entry.hash) == NOBODY:
            entry.unit = _add(s, r, entry.hash)
        e.looked_up += 1
    shrink(s, r, as_int64(q.free))


@called
def give_back(s: State, r: int, i: int) -> None:
    """Let request ``i``, whose blocks have been freed, use its units no more; what others use is not free."""
    q = s.replicas[r]
    e = s.extras[i]
    unit_blocks = s.profiles[q.pool].unit_blocks
    for k in range(e.looked_up - 1, -1, -1):
        u = s.hashed[e.hash_from + k].unit
        if u != NOBODY:
            unit = s.units[r, u]
            unit.users -= 1
            if unit.users == 0:
                q.turns += 1
                unit.turn = q.turns
                _enter_idle(s, r, u)
            else:
                q.free -= unit_blocks
    e.looked_up = 0


@called
def shrink(s: State, r: int, blocks: int) -> None:
    """Give up idle units until those that are left fit ``blocks``."""
    q = s.replicas[r]
    unit_blocks = s.profiles[q.pool].unit_blocks
    while q.idle_units > 0 and q.idle_units * unit_blocks > blocks:
        u = as_int64(s.unit_index[r, s.world[0].table_size])
        _leave_idle(s, r, u)
        _remove(s, r, u)


@called
def forget_units(s: State, r: int) -> None:
    """Let the cache of replica ``r`` be empty."""
    q = s.replicas[r]
    q.idle_units = q.unit_top = q.turns = 0
    q.unit_free = NOBODY
    if s.unit_index.shape[1] > 0:
        for place in range(s.world[0].table_size):
            s.unit_index[r, place] = 0


@inlined
def _most_units(s: State, i: int) -> Any:
    """Return how many leading units of request ``i`` may be found: at least its last token is computed."""
    x = s.requests[i]
    tokens = min(x.prompt, x.prompt + x.generated - 1)
    return min(tokens // s.world[0].unit_tokens, s.extras[i].hashes)


@inlined
def _home(s: State, unit_hash: Any) -> Any:
    """Return where in a table the search for a hash begins."""
    return as_int64(mixed(unit_hash) & np.uint64(s.world[0].table_size - 1))


@called
def _unit_of(s: State, r: int, unit_hash: Any) -> int:
    """Return the unit of that hash; nobody when there is none."""
    last = s.world[0].table_size - 1
    place = _home(s, unit_hash)
    while s.unit_index[r, place] != 0:
        u = as_int64(s.unit_index[r, place]) - 1
        if s.units[r, u].hash == unit_hash:
            return as_int64(u)
        place = (place + 1) & last
    return NOBODY


@called
def _add(s: State, r: int, unit_hash: Any) -> int:
    """Return a new unit of that hash, used by one request."""
    q = s.replicas[r]
    u = as_int64(q.unit_free)
    if u == NOBODY:
        u = as_int64(q.unit_top)
        q.unit_top += 1
    else:
        q.unit_free = s.units[r, u].place
    unit = s.units[r, u]
    unit.hash = unit_hash
    unit.users = unit.takes = 1
    unit.place = NOBODY
    last = s.world[0].table_size - 1
    place = _home(s, unit_hash)
    while s.unit_index[r, place] != 0:
        place = (place + 1) & last
    s.unit_index[r, place] = u + 1
    return u


@called
def _remove(s: State, r: int, u: int) -> None:
    """Forget unit ``u``, which is not in the heap."""
    q = s.replicas[r]
    last = s.world[0].table_size - 1
    place = _home(s, s.units[r, u].hash)
    while s.unit_index[r, place] != u + 1:
        place = (place + 1) & last
    gap = place
    while True:
        place = (place + 1) & last
        other = s.unit_index[r, place]
        if other == 0:
            break
        home = _home(s, s.units[r, other - 1].hash)
        if ((place - home) & last) >= ((place - gap) & last):  # its search would come past the gap
            s.unit_index[r, gap] = other
            gap = place
    s.unit_index[r, gap] = 0
    s.units[r, u].place = q.unit_free
    q.unit_free = u


@inlined
def _goes_before(s: State, r: int, one: int, other: int) -> Any:
    """Return whether idle unit ``one`` is given up before ``other``."""
    a, b = s.units[r, one], s.units[r, other]
    if s.profiles[s.replicas[r].pool].cache == LFU and a.takes != b.takes:
        return a.takes < b.takes
    return a.turn < b.turn


@called
def _enter_idle(s: State, r: int, u: int) -> None:
    q = s.replicas[r]
    _rise(s, r, u, as_int64(q.idle_units))
    q.idle_units += 1


@called
def _leave_idle(s: State, r: int, u: int) -> None:
    q = s.replicas[r]
    heap = s.world[0].table_size
    q.idle_units -= 1
    place = as_int64(s.units[r, u].place)
    s.units[r, u].place = NOBODY
    moved = as_int64(s.unit_index[r, heap + q.idle_units])
    if moved != u:
        if place > 0 and _goes_before(s, r, moved, as_int64(s.unit_index[r, heap + (place - 1) // 2])):
            _rise(s, r, moved, place)
        else:
            _sink(s, r, moved, place)


@called
def _rise(s: State, r: int, u: int, place: int) -> None:
    """Put unit ``u`` at ``place`` of the heap or nearer to its top."""
    heap = s.world[0].table_size
    while place > 0:
        above = as_int64(s.unit_index[r, heap + (place - 1) // 2])
        if not _goes_before(s, r, u, above):
            break
        s.unit_index[r, heap + place] = above
        s.units[r, above].place = place
        place = (place - 1) // 2
    s.unit_index[r, heap + place] = u
    s.units[r, u].place = place


@called
def _sink(s: State, r: int, u: int, place: int) -> None:
    """Put unit ``u`` at ``place`` of the heap or further from its top."""
    heap = s.world[0].table_size
    count = s.replicas[r].idle_units
    child = 2 * place + 1
    while child < count:
        below = as_int64(s.unit_index[r, heap + child])
        if child + 1 < count:
            beside = as_int64(s.unit_index[r, heap + child + 1])
            if _goes_before(s, r, beside, below):
                below = beside
                child += 1
        if not _goes_before(s, r, below, u):
            break
        s.unit_index[r, heap + place] = below
        s.units[r, below].place = place
        place = child
        child = 2 * place + 1
    s.unit_index[r, heap + place] = u
    s.units[r, u].place = place
