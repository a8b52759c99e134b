"""What happens between two instants: arrivals, ends of requests, time-outs and scrapes, one after the other."""

from __future__ import annotations

import math

from simulations.kernel.compiled import called, entry, inlined
from simulations.kernel.endings import fail, release
from simulations.kernel.engine import next_end_at
from simulations.kernel.gateway import (
    advance,
    give_up,
    hold,
    hold_no_more,
    not_reached,
    send,
)
from simulations.kernel.layout import (
    DONE,
    DRAINED,
    EMPTY,
    FAILED,
    LINE_BYTES,
    NEEDS_ARRIVALS,
    NEEDS_ROOM,
    NEVER,
    NOBODY,
    PAUSED,
    State,
    as_int64,
)
from simulations.kernel.prefetching import prefetch
from simulations.kernel.routing import chosen_replica, next_pool
from simulations.kernel.scraping import next_scraped, scrape
from simulations.kernel.timeline import plan
from simulations.kernel.transfers import end_transfers

_END, _OTHER, _ARRIVAL = range(3)


@entry
def run(  # noqa: C901, PLR0912  the loop: each case is in one place for the compiler to put everything into it
    s: State, until: float, arrivals_too: bool, until_empty: bool, most_events: int
) -> int:
    """Let everything happen up to and including ``until``; return why it came back, sooner perhaps.

    At one instant engines come first, then time-outs and scrapes, then arrivals; those at ``until`` itself only with
    ``arrivals_too``. ``until_empty`` comes back when no request is left, ``most_events`` bounds one call.
    """
    w = s.world[0]
    w.drained = NOBODY
    for _ in range(most_events):
        if until_empty and w.ended == w.arrivals and w.returning == 0:
            return EMPTY
        if w.cursor == w.batch and not w.exhausted:
            return NEEDS_ARRIVALS
        arrives_at = s.arrival_s[w.cursor] if w.cursor < w.batch else NEVER
        r = w.next_end_of
        at = w.next_end_at
        kind = _END
        if w.next_other_at < at:
            at = w.next_other_at
            kind = _OTHER
        again = w.returning > 0 and s.returns[w.return_first].at <= arrives_at
        if again:
            arrives_at = max(s.returns[w.return_first].at, w.now)
        if arrives_at < at:
            at = arrives_at
            kind = _ARRIVAL
        if at > until or (kind == _ARRIVAL and at == until and not arrivals_too):
            w.now = until
            return DONE
        i = NOBODY
        if kind == _ARRIVAL:
            if not _room_for_one_more(s, at):
                forget_ended(s)
                if not _room_for_one_more(s, at):
                    return NEEDS_ROOM
            i = _come_back(s, at) if again else _arrive_next(s, at)
            r = chosen_replica(s, i)
        elif kind == _OTHER:
            r = _other_replica(s, at)
        w.now = at
        if r != NOBODY:
            advance(s, r, at)
        if kind == _END:
            if w.apart and s.replicas[r].transfer_at <= at:
                end_transfers(s, r, at)
            plan(s, r, next_end_at(s, r))
        elif kind == _OTHER:
            _other(s, at)
        elif r == NOBODY:
            hold(s, i, at)
        else:
            send(s, i, r, at)
            _fetch_next(s, i)
        if w.drained != NOBODY:
            return DRAINED
        if w.recent_short:
            return NEEDS_ROOM
    return PAUSED


@inlined
def _fetch_next(s: State, i: int) -> None:
    """Bring near what the next arrival will need: most often it goes to the pool of request ``i``."""
    p = s.requests[i].pool
    if p != NOBODY and s.pools[p].members > 0:
        for line in range(3):
            prefetch(s.replicas, s.heads[p, s.pools[p].low], line * LINE_BYTES)


@inlined
def _room_for_one_more(s: State, at: float) -> bool:
    w = s.world[0]
    return (
        w.free_head != NOBODY
        and w.arrivals - w.oldest < s.watched.shape[0]
        and (not w.keep_rows or w.arrivals < s.rows.shape[0])
        and at < s.bins.shape[0] * w.bin_s
        and (not w.anyone_returns or w.returning + s.requests.shape[0] <= s.returns.shape[0])
    )


@inlined
def _arrive_next(s: State, at: float) -> int:
    """Take in the next request of the batch; return its record."""
    w = s.world[0]
    i = _arrive(s, at, as_int64(s.prompt_tokens[w.cursor]), as_int64(s.output_tokens[w.cursor]))
    if w.hashed or w.apart or w.anyone_returns:
        _note_extras(s, i)
        if w.batch_hashed:
            e = s.extras[i]
            e.hash_from = s.offsets[w.cursor]
            e.has_hashes = s.offsets[w.cursor + 1] > e.hash_from
            e.hashes = min(s.offsets[w.cursor + 1] - e.hash_from, s.requests[i].prompt // w.unit_tokens)
    w.cursor += 1
    return i


@called
def _come_back(s: State, at: float) -> int:
    """Take in the next request that is sent again, of whose prompt nothing is known to be cached; return its record."""
    w = s.world[0]
    back = s.returns[w.return_first]
    w.return_first = (w.return_first + 1) % s.returns.shape[0]
    w.returning -= 1
    w.returned += back.attempt > 0
    i = _arrive(s, at, as_int64(back.prompt), as_int64(back.output))
    _note_extras(s, i)
    s.extras[i].attempt = back.attempt
    s.extras[i].poison = back.poison
    if w.keep_rows:
        s.rows[s.requests[i].row].attempt = back.attempt
    return i


@inlined
def _arrive(s: State, at: float, prompt: int, output: int) -> int:
    """Take in a request; return its record."""
    w = s.world[0]
    i = as_int64(w.free_head)
    x = s.requests[i]
    w.free_head = x.next
    row = w.arrivals
    x.arrived_at = at
    x.first_token_at = math.nan
    x.prompt = prompt
    x.output = output
    x.generated = 0
    x.lead = 0
    x.replica = NOBODY
    x.pool = next_pool(s, x.generated > 0)
    x.place = 0
    x.ended = 0
    x.retried = 0
    x.row = row
    s.watched[row % s.watched.shape[0]] = i
    if w.next_patience_at == NEVER:
        w.next_patience_at = at + w.patience_s
        w.next_other_at = min(w.next_other_at, w.next_patience_at)
    w.arrivals = row + 1
    w.prompt_tokens += prompt
    s.bins[int(at / w.bin_s), 0] += 1
    if w.keep_rows:
        kept = s.rows[row]
        kept.arrived_at = at
        kept.first_token_at = math.nan
        kept.finished_at = math.nan
        kept.prompt = prompt
        kept.output = output
        kept.pool = NOBODY
        kept.status = kept.attempt = 0
    return i


@called
def _note_extras(s: State, i: int) -> None:
    """Take in what few worlds need of request ``i``, which has no hashes yet."""
    w = s.world[0]
    e = s.extras[i]
    x = s.requests[i]
    e.answer = x.output
    if w.apart:
        x.output = 1
    e.hashes = e.looked_up = e.has_hashes = 0
    e.attempt = e.poison = 0


@called
def forget_ended(s: State) -> None:
    """Move ``oldest`` past requests that have ended, and tell when the patience of the next one ends."""
    w = s.world[0]
    size = s.watched.shape[0]
    while w.oldest < w.arrivals and s.watched[w.oldest % size] == NOBODY:
        w.oldest += 1
    w.next_patience_at = NEVER
    if w.oldest < w.arrivals:
        w.next_patience_at = s.requests[s.watched[w.oldest % size]].arrived_at + w.patience_s


@called
def _other_replica(s: State, at: float) -> int:
    """Return the replica that the time-out or scrape at ``at`` is about; nobody when there is none."""
    w = s.world[0]
    if w.next_scrape_at <= at:
        return next_scraped(s)
    if w.next_patience_at <= at:
        forget_ended(s)
        if w.next_patience_at <= at:
            return as_int64(s.requests[s.watched[w.oldest % s.watched.shape[0]]].replica)
    return NOBODY


@called
def _other(s: State, at: float) -> None:
    """Do what ``_other_replica`` spoke of: at most one scrape or one time-out."""
    w = s.world[0]
    if w.next_scrape_at <= at:
        scrape(s, next_scraped(s), at)
    elif w.next_patience_at <= at:
        give_up(s, as_int64(s.watched[w.oldest % s.watched.shape[0]]), at)
        forget_ended(s)
    elif w.held > 0 and s.requests[w.held_head].timed_at <= at:
        i = as_int64(w.held_head)
        hold_no_more(s, i)
        fail(s, i, FAILED, at)
        release(s, i)
    elif w.connecting > 0 and s.requests[w.connecting_head].timed_at <= at:
        not_reached(s, as_int64(w.connecting_head), at)
    plan_other(s)


@called
def plan_other(s: State) -> None:
    """Tell when the next scrape or time-out is."""
    w = s.world[0]
    at = min(w.next_scrape_at, w.next_patience_at)
    if w.held > 0:
        at = min(at, s.requests[w.held_head].timed_at)
    if w.connecting > 0:
        at = min(at, s.requests[w.connecting_head].timed_at)
    w.next_other_at = at
