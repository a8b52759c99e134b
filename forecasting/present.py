"""What is the load now, when a single scrape is noise and a mean over a minute is late?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import numpy as np

from forecasting.series import REQUESTS, FloatArray

NOISE_STEPS = 40
SURE_SIGMAS = 3.0
"""Standard errors by which a newer, shorter mean has to be above the older one to count."""


def present_load(rows: FloatArray, step_s: float, window_s: float) -> FloatArray | None:
    """Return the present rate of each channel, or None when the newest step was not observed.

    It is the mean over ``window_s``, unless the load has jumped: then the newest steps alone say how far for certain,
    and what they say less ``SURE_SIGMAS`` standard errors is taken where that is more. The mean of a minute would
    need the whole minute to say that the load doubled, while replicas take minutes to start. A fall, of the tokens
    neither, is never taken from fewer steps: giving up late is cheap.

    The error of one step is that of its neighbours (median absolute difference over ``NOISE_STEPS``), and at least
    that of Poisson arrivals and the scatter of the newest steps themselves: a single wild scrape is no longer believed
    once another follows it.

    Args:
        rows: Rates per second, ``float64[T, C]``, the newest last; NaN where not observed.
        step_s: Seconds per row.
        window_s: Seconds over which noise is averaged.

    >>> calm = np.full((40, 3), 10.0)
    >>> present_load(calm, 15.0, 60.0)
    array([10., 10., 10.])
    >>> jumped = np.vstack([calm, np.full((1, 3), 40.0)])  # the mean of the minute: 17.5
    >>> present_load(jumped, 15.0, 60.0).round(1)  # 40 less 3 times sqrt(40 / 15)
    array([35.1, 35.1, 35.1])
    """
    window = max(1, round(window_s / step_s))
    # Plain numbers: of so few rows numpy takes ten times as long, and every workload is asked about at every tick.
    recent: list[list[float]] = rows[-max(window, NOISE_STEPS) :].tolist()
    if not recent or any(math.isnan(rate) for rate in recent[-1]):
        return None
    requests = [row[REQUESTS] for row in recent]
    mean = _means(recent[-window:])
    present, sure = mean, mean[REQUESTS]
    noise = _noise(requests[-NOISE_STEPS:])
    for steps in range(1, min(window, len(recent))):
        observed = [rate for rate in requests[-steps:] if not math.isnan(rate)]
        rate = _mean(observed)
        scatter = math.sqrt(_mean([(one - rate) * (one - rate) for one in observed]))
        error = max(noise, scatter, math.sqrt(rate / step_s)) / math.sqrt(len(observed))
        if rate - SURE_SIGMAS * error > sure:
            sure = rate - SURE_SIGMAS * error
            newest = _means(recent[-steps:])
            present = [max(one, other * (sure / rate)) for one, other in zip(mean, newest, strict=True)]
    return np.array(present)


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean of each column over what was observed of it, which is something."""
    return [_mean([rate for rate in column if not math.isnan(rate)]) for column in zip(*rows, strict=True)]


def _mean(rates: Sequence[float]) -> float:
    """Return the mean, added up in order: ``sum`` rounds otherwise in other versions of Python."""
    total = 0.0
    for rate in rates:
        total += rate
    return total / len(rates)


def _noise(rates: Sequence[float]) -> float:
    """Return the standard deviation of one step around its neighbours: of a normal one, 1.48 median / sqrt(2)."""
    seen = [rate for rate in rates if not math.isnan(rate)]
    changes = [abs(after - before) for before, after in pairwise(seen)]
    return 1.4826 * median(changes) / math.sqrt(2.0) if changes else 0.0
