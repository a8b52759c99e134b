"""Which share of requests met the objective, when only histograms of TTFT and of TPOT are known?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np


def bounds_around(limit: float, bounds: Sequence[str]) -> tuple[str, ...]:
    """Return the bucket bounds that are needed to tell the share within ``limit``: its neighbours and the last.

    Args:
        limit: In the unit of the bounds.
        bounds: ``le`` as they are written, ascending.

    >>> bounds_around(2.0, ("0.5", "1.0", "2.5", "5.0", "+Inf"))
    ('1.0', '2.5', '+Inf')
    """
    if not bounds:
        return ()
    values = [float(bound) for bound in bounds]
    above = next((place for place, value in enumerate(values) if value >= limit), len(values) - 1)
    below = above if values[above] == limit else max(0, above - 1)
    return tuple(dict.fromkeys((bounds[below], bounds[above], bounds[-1])))


def share_within(limit: float, counts: Mapping[float, float]) -> float:
    """Return the share of observations up to ``limit``, NaN when there are none.

    Between two bounds observations are taken to be spread evenly, as ``histogram_quantile`` does; beyond the last
    finite bound nobody knows, and none is taken to be within.

    Args:
        limit: In the unit of the bounds.
        counts: Cumulative counts by upper bound, infinity included.

    >>> share_within(2.0, {1.0: 80.0, 2.5: 95.0, math.inf: 100.0})  # 80 and two thirds of the next 15
    0.9
    """
    total = counts.get(math.inf, math.nan)
    if not total > 0:
        return math.nan
    finite = sorted((bound, count) for bound, count in counts.items() if math.isfinite(bound))
    bounds = np.array([0.0, *(bound for bound, _ in finite)])
    # growth is extrapolated bucket by bucket, so that a lower one may come out a hair above a higher one
    cumulative = np.maximum.accumulate([0.0, *(count for _, count in finite)])
    return float(np.clip(np.interp(limit, bounds, cumulative) / total, 0.0, 1.0))


def joint_share(ttft_share: float, tpot_share: float) -> float:
    """Return the least share that met both objectives, given the shares that met each.

    That both were met by the same requests is in neither histogram. At worst the misses do not overlap:
    ``P(A and B) >= P(A) + P(B) - 1`` (Fréchet). With 99 % and 99 % the truth lies between 98 % and 99 %. Where one is
    not known, or no request had a second token, the other stands alone.
    """
    if math.isnan(ttft_share):
        return tpot_share
    if math.isnan(tpot_share):
        return ttft_share
    return max(0.0, ttft_share + tpot_share - 1.0)
