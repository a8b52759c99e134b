"""What does a replica show when it is scraped, and who is scraped next?"""

from __future__ import annotations

import math
from typing import Any

from simulations.kernel.batch import blocks_due, steps_until
from simulations.kernel.compiled import called, inlined
from simulations.kernel.layout import (
    IDLE,
    JUMP,
    SINGLE,
    Floats,
    State,
    as_int64,
)

IDLE_POWER, HUNG_POWER, DECODE_POWER, PREFILL_POWER = 0.18, 0.22, 0.65, 0.9
"""Power of a GPU over its limit: between steps, spinning in a step that does not end, and in steps of either kind.
Assumptions after boards of 700 W, which take some 120 W with a loaded engine that has nothing to do."""


@inlined
def next_scraped(s: State) -> Any:
    """Return the replica that is scraped next."""
    return as_int64(s.scrape_order[s.world[0].scrape_first])


@called
def scrape(s: State, r: int, at: float) -> None:
    """Sample replica ``r``, which stands at ``at``, and let it be the last of those to be scraped."""
    w = s.world[0]
    q = s.replicas[r]
    order = s.scrape_order
    last = (w.scrape_first + w.scrape_count) % order.shape[0]
    order[last] = r
    w.scrape_first = (w.scrape_first + 1) % order.shape[0]
    q.scrape_at = at + w.scrape_interval_s
    w.next_scrape_at = s.replicas[next_scraped(s)].scrape_at
    if at < w.recording_from:
        return
    kept = s.samples.shape[1]
    sample = s.samples[r, q.samples % kept]
    before = s.samples[r, (q.samples + kept - 1) % kept]
    stuck = q.samples > 0 and before.there != 0 and at < q.exporter_stuck_until
    q.samples += 1
    sample.at = at
    sample.there = 0
    if at < q.scrape_lost_until:
        return
    if stuck:
        sample.there = 1
        sample.running = before.running
        sample.queued = before.queued
        sample.kv_cache_ratio = before.kv_cache_ratio
        sample.steps_total = before.steps_total
        sample.prompt_tokens_total = before.prompt_tokens_total
        sample.output_tokens_total = before.output_tokens_total
        sample.finished_total = before.finished_total
        sample.failed_total = before.failed_total
        sample.ttft_p95_s = before.ttft_p95_s
        sample.tpot_mean_s = before.tpot_mean_s
        sample.preemptions_total = before.preemptions_total
        sample.aborted_total = before.aborted_total
        _sample_gpus(q, sample)
        sample.looked_up_tokens_total = before.looked_up_tokens_total
        sample.cached_tokens_total = before.cached_tokens_total
    elif q.alive:
        _sample(s, r, at)


@called
def _sample(s: State, r: int, at: float) -> None:
    q = s.replicas[r]
    sample = s.samples[r, (q.samples - 1) % s.samples.shape[1]]
    steps = steps_of_jump(q, at)
    sample.there = 1
    sample.running = 0 if q.shows_zero else q.running
    sample.queued = q.waiting
    sample.kv_cache_ratio = kv_cache_ratio(s, r, steps)
    sample.steps_total = q.steps + steps - q.steps_hidden
    sample.prompt_tokens_total = q.prompt_total
    sample.output_tokens_total = q.output_total + steps * q.decoding
    sample.finished_total = q.finished - q.finished_hidden
    sample.failed_total = q.failed - q.failed_hidden
    sample.preemptions_total = q.preemptions
    sample.aborted_total = q.aborted
    _sample_gpus(q, sample)
    sample.ttft_p95_s = recent_ttft_p95_s(s, r)
    if 2 * q.recent > s.recent_ttft_s.shape[1] and s.recent_ttft_s.shape[1] < s.scratch.shape[0]:
        s.world[0].recent_short = 1
    sample.tpot_mean_s = q.recent_tpot_s / q.recent_done if q.recent_done > 0 else math.nan
    sample.looked_up_tokens_total = q.looked_up
    sample.cached_tokens_total = q.cached
    s.world[0].seen_looked_up += q.looked_up - q.seen_looked_up
    s.world[0].seen_cached += q.cached - q.seen_cached
    q.seen_looked_up = q.looked_up
    q.seen_cached = q.cached
    q.recent = q.recent_done = 0
    q.recent_tpot_s = 0.0


@called
def steps_of_jump(q: Any, at: float) -> int:
    """Return how many steps of the jump of ``q`` have ended by ``at``; none when it is in no jump."""
    if q.mode != JUMP:
        return 0
    # A hung engine stays in the step in which it hung.
    return as_int64(q.m) if q.hung else steps_until(q, at)


@called
def kv_cache_ratio(s: State, r: int, steps: int) -> float:
    """Return how full the KV cache of replica ``r`` is when so many steps of its jump have ended."""
    q = s.replicas[r]
    free = q.free - blocks_due(s, r, steps + 1) if q.mode == JUMP else as_int64(q.free)
    return min(1.0 - free / (s.profiles[q.pool].blocks - q.lost_blocks), 1.0)


@inlined
def _sample_gpus(q: Any, sample: Any) -> None:
    power = IDLE_POWER
    if q.mode != IDLE and q.hung:
        power = HUNG_POWER
    elif q.mode != IDLE:
        power = (PREFILL_POWER if q.mode == SINGLE else DECODE_POWER) * q.gpu_clock
    sample.gpu_xid = q.gpu_xid
    sample.gpu_power_ratio = power * q.gpu_scale
    sample.gpu_clock_ratio = q.gpu_clock


@called
def recent_ttft_p95_s(s: State, r: int) -> float:
    """Return the 95th percentile of the recent TTFT, between the two nearest ranks as numpy's default."""
    recent = s.recent_ttft_s[r]
    count = min(s.replicas[r].recent, recent.shape[0])
    if count == 0:
        return math.nan
    values = s.scratch[:count]
    for place in range(count):
        values[place] = recent[place]
    rank = 0.95 * (count - 1)
    low = int(rank)
    below = _select(values, low)
    if low + 1 == count:
        return below
    above = values[low + 1]
    for other in range(low + 2, count):
        above = min(above, values[other])
    return below + (above - below) * (rank - low)


@called
def _select(values: Floats, rank: int) -> float:
    """Return the number of that rank (from 0); what is larger lies behind it afterwards (Hoare's selection)."""
    low, high = 0, len(values) - 1
    while low < high:
        pivot = values[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if rank <= j:
            high = j
        elif rank >= i:
            low = i
        else:
            break
    return values[rank]
