"""What is counted of a request that has ended: totals, histograms of its latencies, its minute of arrival."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from simulations.kernel.bins import (
    COARSE_BITS,
    COARSE_FIRST,
    COARSE_OCTAVES,
    E2E,
    FINE_BITS,
    FINE_FIRST,
    FINE_OCTAVES,
    TPOT,
    TTFT,
)
from simulations.kernel.compiled import inlined
from simulations.kernel.layout import (
    COMPLETED,
    DROPPED,
    State,
)

_MANTISSA_BITS, _EXPONENT_BIAS = 52, 1023


@inlined
def bin_of(seconds: float, bits: int, first: int, octaves: int) -> Any:
    """Return the bin of a duration: octaves from two to the power of ``first`` on, each cut into ``2**bits`` pieces.

    The bits of a float are just that: its exponent, then how far it is through the octave.
    """
    place = (np.float64(seconds).view(np.int64) >> (_MANTISSA_BITS - bits)) - ((_EXPONENT_BIAS + first) << bits)
    return min(max(place, 0), (octaves << bits) - 1)


@inlined
def count_end(s: State, i: int, status: int, at: float) -> None:
    """Count that request ``i`` has ended at ``at``."""
    w = s.world[0]
    x = s.requests[i]
    w.ended += 1
    s.histograms[E2E, bin_of(at - x.arrived_at, FINE_BITS, FINE_FIRST, FINE_OCTAVES)] += 1
    place = min(int(x.arrived_at / w.bin_s), s.bins.shape[0] - 1)
    ttft_s = x.first_token_at - x.arrived_at
    if not math.isnan(ttft_s):
        s.histograms[TTFT, bin_of(ttft_s, FINE_BITS, FINE_FIRST, FINE_OCTAVES)] += 1
        s.bin_ttft[place, bin_of(ttft_s, COARSE_BITS, COARSE_FIRST, COARSE_OCTAVES)] += 1
    if status == COMPLETED:
        w.completed += 1
        w.output_tokens += x.output
        tpot_s = (at - x.first_token_at) / (x.output - 1) if x.output > 1 else 0.0
        s.histograms[TPOT, bin_of(tpot_s, FINE_BITS, FINE_FIRST, FINE_OCTAVES)] += 1
        q = s.replicas[x.replica]
        q.finished += 1
        q.recent_done += 1
        q.recent_tpot_s += tpot_s
        if ttft_s <= w.ttft_s and tpot_s <= w.tpot_s:
            w.within += 1
            w.good_tokens += x.output
            s.bins[place, 1] += 1
    elif status == DROPPED:
        w.dropped += 1
    if w.keep_rows:
        row = s.rows[x.row]
        row.status = status
        row.pool = x.pool
        row.first_token_at = x.first_token_at
        row.finished_at = at
